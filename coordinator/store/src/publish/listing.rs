//! What farm knows of all tags of one repository.

use std::collections::BTreeMap;

use farm_types::{ProjectId, Repository};

use super::history::{MoveRow, TagMove};
use crate::{Result, Store};

impl Store {
    /// The last move of each of these tags that farm has moved for the project, at the time at which it was last put there.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn last_moves(
        &self,
        project: ProjectId,
        repository: &Repository,
        tags: &[String],
    ) -> Result<BTreeMap<String, TagMove>> {
        // What was put once more without a change was put then.
        let rows = sqlx::query_as!(
            MoveRow,
            r#"SELECT DISTINCT ON (tag) tag, number, digest, media_type, previous_digest, platforms, short_id, created_by, verb,
                    copied_from, origin, greatest(moved_at, (
                        SELECT max(t.settled_at) FROM tags t
                        WHERE t.project_id = $1 AND t.registry = $2 AND t.repository = $3 AND t.tag = tag_moves.tag
                          AND t.state = 'verified')) AS "moved_at!"
             FROM tag_moves WHERE project_id = $1 AND registry = $2 AND repository = $3 AND tag = ANY($4)
             ORDER BY tag, number DESC"#,
            project.as_uuid(),
            repository.registry(),
            repository.name(),
            tags
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(|row| Ok((row.tag.clone(), row.try_into()?))).collect()
    }
}
