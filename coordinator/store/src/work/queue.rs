//! The queues of waiting jobs: which one a job stands in, and what it waits behind.

use std::time::Duration;

use farm_core::work::estimate::Queue;
use farm_core::work::waiting::Waiting;
use farm_types::state::WorkerState;
use farm_types::{Platform, ProjectId, RunMode, Runs, TrustClass};

use crate::{Result, Store, fit};

/// Ends of which the usual time is the middle one, and how far back they are looked for.
const SAMPLES: i64 = 20;
const LOOK_BACK: i64 = 500;
/// With fewer nothing is usual.
const FEWEST_SAMPLES: i64 = 3;

/// The kind of a fetch's job, and the class of its queue.
pub(crate) const FETCH: &str = "fetch";

/// Jobs of one class can be run by the same workers. `trust`: of these that are trusted, which others may run as well, or none of these.
pub(crate) fn queue_class(
    platform: &str,
    emulation: &str,
    runs: &Runs,
    entitlements: &[String],
    trust: TrustClass,
) -> String {
    let runs = if *runs == Runs::Target { String::new() } else { format!(" runs={runs}") };
    let allow =
        if entitlements.is_empty() { String::new() } else { format!(" allow={}", entitlements.join(",")) };
    format!("{platform} {emulation}{runs}{allow} size=1 trust={trust}")
}

/// Whose workers run the jobs of a class.
pub(crate) fn trust_of(class: &str) -> TrustClass {
    if class.ends_with(" trust=untrusted") { TrustClass::Untrusted } else { TrustClass::Trusted }
}

/// What a job's row says that it waits for. A coordinator of another version may have left a value that isn't known here,
/// or none: then its words have to do.
pub(crate) fn waiting(waits: Option<serde_json::Value>, words: String) -> Option<Waiting> {
    let known = waits.and_then(|waits| serde_json::from_value(waits).ok());
    known.or_else(|| (!words.is_empty()).then_some(Waiting::Told(words)))
}

/// The slots that a job waits for.
pub(crate) struct Slots {
    /// What it is built for.
    platform: String,
    /// What must run there.
    needed: Vec<String>,
    /// How.
    support: RunMode,
    /// What has to be granted there.
    entitlements: Vec<String>,
}

impl Slots {
    /// Those that a job for this platform waits for, which run it so.
    pub(crate) fn of(platform: &Platform, support: RunMode, runs: &Runs, entitlements: Vec<String>) -> Self {
        let needed = match support {
            // Those of the platform's own machines, also when its programs may run elsewhere.
            RunMode::Native => vec![platform],
            RunMode::Emulated | RunMode::Unneeded => runs.needed(platform),
        };
        let needed = needed.iter().map(ToString::to_string).collect();
        Self { platform: platform.to_string(), needed, support, entitlements }
    }
}

impl Store {
    /// What the job at this place waits behind, of those that want these slots. Reckoned with the
    /// project's own history; other projects' jobs count while they run. Slots of workers on probation don't count, as they
    /// are given only when there are no others.
    ///
    /// # Errors
    /// The database can't be reached.
    pub(crate) async fn queue(&self, project: ProjectId, slots: &Slots, place: u64) -> Result<Queue> {
        let unfit = self.unfit_workers().await?;
        let row = sqlx::query!(
            r#"WITH able AS (
                   SELECT DISTINCT w.engine_id FROM workers w
                   WHERE NOT EXISTS (
                         SELECT FROM unnest($8::text[]) AS needed (platform) WHERE NOT EXISTS (
                             SELECT FROM worker_platforms p WHERE p.worker_id = w.id AND p.platform = needed.platform
                             AND ($3 = 'unneeded' OR p.support = $3)))
                     AND farm_worker_state(w) = $9
                     AND (cardinality($10::text[]) = 0 OR w.features @> $10 AND farm_worker_trust(w) = $11)
                     AND w.id <> ALL($12)
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
            slots.platform,
            slots.support.as_str(),
            SAMPLES,
            LOOK_BACK,
            FEWEST_SAMPLES,
            self.suspect_after.as_secs_f64(),
            &slots.needed,
            WorkerState::Online.as_str(),
            &slots.entitlements,
            TrustClass::Trusted.as_str(),
            &unfit
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
