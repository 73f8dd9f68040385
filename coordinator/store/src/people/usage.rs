//! What a project takes of the farm's store, and where in registries there is something of it.

use farm_types::{ProjectId, Repository};

use crate::{Result, Store, fit, state};

/// So many repositories are named.
const MOST_REPOSITORIES: usize = 100;

/// What a project takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Contents of sources.
    pub source_bytes: u64,
    /// Outputs that weren't released yet.
    pub output_bytes: u64,
    /// Sealed logs, as they lie there.
    pub log_bytes: u64,
    /// Where farm has moved tags for it.
    pub repositories: Vec<Repository>,
    /// In more than these.
    pub is_more: bool,
}

impl Store {
    /// What a project takes.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn usage(&self, project: ProjectId) -> Result<Usage> {
        let row = sqlx::query!(
            r#"SELECT (SELECT coalesce(sum(size), 0) FROM objects WHERE project_id = $1)::bigint AS "sources!",
                      (SELECT coalesce(sum(size), 0) FROM output_pieces WHERE project_id = $1)::bigint AS "outputs!",
                      (SELECT coalesce(sum(bytes), 0) FROM sealed_logs WHERE project_id = $1)::bigint AS "logs!""#,
            project.as_uuid()
        )
        .fetch_one(&self.pool)
        .await?;
        let names = sqlx::query!(
            "SELECT DISTINCT registry, repository FROM tag_moves WHERE project_id = $1 ORDER BY 1, 2 LIMIT $2",
            project.as_uuid(),
            fit::<_, i64>(MOST_REPOSITORIES + 1)?
        )
        .fetch_all(&self.pool)
        .await?;
        let is_more = names.len() > MOST_REPOSITORIES;
        let names = names.into_iter().take(MOST_REPOSITORIES);
        let repositories = names.map(|name| state(&format!("{}/{}", name.registry, name.repository)));
        Ok(Usage {
            source_bytes: fit(row.sources)?,
            output_bytes: fit(row.outputs)?,
            log_bytes: fit(row.logs)?,
            repositories: repositories.collect::<Result<_>>()?,
            is_more,
        })
    }
}
