//! What farm knows of all tags of one repository.

use std::collections::BTreeMap;

use farm_types::{ProjectId, Repository};

use super::history::TagMove;
use crate::{Result, Store, digest, fit, from_json_opt};

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
        let rows = sqlx::query!(
            "SELECT DISTINCT ON (tag) tag, number, digest, media_type, previous_digest, platforms, short_id, created_by, verb,
                    copied_from, origin, moved_at,
                    (SELECT max(t.settled_at) FROM tags t
                     WHERE t.project_id = $1 AND t.registry = $2 AND t.repository = $3 AND t.tag = tag_moves.tag
                       AND t.state = 'verified') AS put_at
             FROM tag_moves WHERE project_id = $1 AND registry = $2 AND repository = $3 AND tag = ANY($4)
             ORDER BY tag, number DESC",
            project.as_uuid(),
            repository.registry(),
            repository.name(),
            tags
        )
        .fetch_all(&self.pool)
        .await?;
        let moves = rows.into_iter().map(|row| {
            let moved = TagMove {
                number: fit(row.number)?,
                digest: digest(&row.digest)?,
                media_type: row.media_type,
                previous: row.previous_digest.as_deref().map(digest).transpose()?,
                platforms: row.platforms,
                build: row.short_id,
                created_by: row.created_by,
                verb: row.verb,
                copied_from: row.copied_from,
                origin: from_json_opt(row.origin)?,
                // What was put once more without a change was put then.
                moved_at: row.put_at.map_or(row.moved_at, |put_at| put_at.max(row.moved_at)),
            };
            Ok((row.tag, moved))
        });
        moves.collect()
    }
}
