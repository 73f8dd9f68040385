//! What farm knows of all tags of one repository.

use std::collections::BTreeMap;

use farm_types::{ProjectId, Repository};

use super::history::TagMove;
use crate::{Result, Store, digest, fit, from_json_opt};

impl Store {
    /// The last move of each of these tags that farm has moved for the project.
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
                    copied_from, origin, moved_at
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
                moved_at: row.moved_at,
            };
            Ok((row.tag, moved))
        });
        moves.collect()
    }
}
