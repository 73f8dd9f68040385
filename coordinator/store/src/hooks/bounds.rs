//! What forks' pull requests have of a project, so that what is left of its limits stays its own.

use farm_types::ProjectId;

use crate::{Result, Store, fit};

/// What deliveries of a project about forks have begun, and the project's own limits; `None`: it has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Begun {
    /// Fetches and builds within the last minute.
    pub lately: u64,
    /// The same within the last two.
    pub before: u64,
    /// Builds that haven't ended.
    pub running: u64,
    /// The slots that these have, or wait for.
    pub slots: u64,
    /// How many builds and fetches the project may begin within a minute.
    pub most_lately: Option<u32>,
    /// How many of its builds may wait.
    pub most_queued: Option<u32>,
    /// How many slots it may have.
    pub most_slots: Option<u32>,
}

impl Store {
    /// What deliveries of a project about forks have begun, by whichever of its hooks.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn begun_for_forks(&self, project: ProjectId) -> Result<Begun> {
        let row = sqlx::query!(
            r#"SELECT p.builds_per_minute, p.max_queued_builds, p.max_running_slots, l.lately AS "lately!", l.before AS "before!",
                      r.running AS "running!", r.slots AS "slots!"
               FROM projects p,
                 (SELECT count(*) FILTER (WHERE b.created_at > farm_now() - interval '1 minute') AS lately, count(*) AS before
                  FROM (SELECT id, created_at FROM builds WHERE project_id = $1 ORDER BY id DESC LIMIT 1000) b
                  JOIN hook_builds h ON h.project_id = $1 AND h.build_id = b.id
                  JOIN fork_deliveries f ON f.project_id = $1 AND f.hook_id = h.hook_id AND f.delivery_id = h.delivery_id
                  WHERE b.created_at > farm_now() - interval '2 minutes') l,
                 (SELECT count(DISTINCT b.id) AS running,
                    coalesce(sum(j.weight) FILTER (WHERE j.state NOT IN ('succeeded', 'failed', 'cancelled')), 0)::bigint AS slots
                  FROM builds b JOIN executions e ON e.project_id = b.project_id AND e.id = b.execution_id
                  JOIN jobs j ON j.project_id = e.project_id AND j.execution_id = e.id
                  WHERE b.project_id = $1 AND b.state IN ('queued', 'running') AND b.finished_at IS NULL AND e.fork IS NOT NULL) r
               WHERE p.id = $1"#,
            project.as_uuid()
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(Begun {
            lately: fit(row.lately)?,
            before: fit(row.before)?,
            running: fit(row.running)?,
            slots: fit(row.slots)?,
            most_lately: row.builds_per_minute.map(fit).transpose()?,
            most_queued: row.max_queued_builds.map(fit).transpose()?,
            most_slots: row.max_running_slots.map(fit).transpose()?,
        })
    }
}
