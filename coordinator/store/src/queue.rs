//! What a waiting job waits behind.

use std::time::Duration;

use farm_core::estimate::Queue;
use farm_types::{Platform, ProjectId, Support};

use crate::{Result, Store, fit};

/// Ends of which the usual time is the middle one, and how far back they are looked for.
const SAMPLES: i64 = 20;
const LOOK_BACK: i64 = 500;
/// With fewer nothing is usual.
const FEWEST_SAMPLES: i64 = 3;
/// Workers that were silent for longer take no jobs.
const SILENT: Duration = Duration::from_secs(12);

impl Store {
    /// What the job at this place waits behind, of those that want slots of this kind for this platform. Reckoned with the
    /// project's own history; other projects' jobs count while they run.
    ///
    /// # Errors
    /// The database can't be reached.
    pub(crate) async fn queue(
        &self,
        project: ProjectId,
        platform: &Platform,
        support: Support,
        place: u64,
    ) -> Result<Queue> {
        let row = sqlx::query!(
            r#"WITH able AS (
                   SELECT DISTINCT w.engine_id FROM workers w JOIN worker_platforms p ON p.worker_id = w.id
                   WHERE p.platform = $2 AND p.support = $3 AND NOT w.draining AND w.withdrawn_at IS NULL
                     AND w.drained_at IS NULL AND w.removed_at IS NULL
                     AND w.last_seen > farm_now() - make_interval(secs => $7)),
               recent AS (
                   SELECT id, job_id, state, support, started_at, finished_at FROM attempts
                   WHERE project_id = $1 ORDER BY id DESC LIMIT $5),
               ended AS (
                   SELECT extract(epoch FROM a.finished_at - a.started_at)::float8 AS took
                   FROM recent a JOIN jobs j ON j.project_id = $1 AND j.id = a.job_id
                   WHERE a.state = 'succeeded' AND a.support = $3 AND j.platform = $2 AND j.kind = 'build'
                   ORDER BY a.id DESC LIMIT $4)
               SELECT (SELECT coalesce(sum(e.slots), 0) FROM engines e JOIN able ON able.engine_id = e.id) AS "slots!: i64",
                      ARRAY(SELECT extract(epoch FROM farm_now() - coalesce(a.started_at, a.offered_at))::float8
                            FROM attempts a JOIN able ON able.engine_id = a.engine_id
                            WHERE a.state IN ('offered', 'running')) AS "running!",
                      (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY took) FROM ended
                       HAVING count(*) >= $6) AS usual"#,
            project.as_uuid(),
            platform.to_string(),
            support.as_str(),
            SAMPLES,
            LOOK_BACK,
            FEWEST_SAMPLES,
            SILENT.as_secs_f64()
        )
        .fetch_one(&self.pool)
        .await?;
        let span = |seconds: f64| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default();
        Ok(Queue {
            place,
            slots: fit(row.slots)?,
            running: row.running.into_iter().map(span).collect(),
            usual: row.usual.map(span),
        })
    }
}
