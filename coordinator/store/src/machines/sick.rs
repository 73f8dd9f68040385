//! Sick workers: quarantine for one that doesn't stop what it is told to, probation for one that fails several jobs for
//! reasons of its own, and attempts of which nothing is heard.
//!
//! The leader sets workers aside; what takes that back is the worker's own doing (a heartbeat without the attempt,
//! another life, a trial build that succeeds) or an administrator's (`drain.rs`). Whether a worker is to go on probation
//! decides [`farm_core::machines`].

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_core::life::attempt::StopReason;
use farm_core::machines::{Failed, Record, SEVERAL, SelfCheck, Verdict, WINDOW, judge, probe_wait};
use farm_types::WorkerId;
use farm_types::state::WorkerState;
use uuid::Uuid;

use crate::machines::leader::Epoch;
use crate::machines::workers::STOP_WITHIN_SECONDS;
use crate::unreadable::tell;
use crate::{Result, Store, StoreError, fit};

/// Why a worker is quarantined, for people.
pub const QUARANTINE_WORDS: &str = "it did not stop a job within 60 s that it was told to stop";
/// A trial build that was not answered for so long has failed.
const PROBE_WITHIN_SECONDS: f64 = 120.0;
/// As much of a probe's failure as is kept, characters.
const PROBE_FAILURE_CHARS: usize = 300;

impl Store {
    /// Tells the running attempts to stop of which nothing was heard for `limit`. Gives how many.
    ///
    /// Only those of workers that vouch for what is silent: of others, silence says nothing.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn stop_stalled_attempts(&self, epoch: Epoch, limit: Duration) -> Result<usize> {
        let mut tx = self.begin_leading(epoch).await?;
        let stopped = sqlx::query!(
            "UPDATE attempts SET stop_reason = $2, stop_since = farm_now() WHERE (project_id, id) IN (
                SELECT a.project_id, a.id FROM attempts a JOIN workers w ON w.id = a.worker_id
                WHERE a.state = 'running' AND a.stop_reason = '' AND w.features @> $3
                  AND greatest(a.started_at, a.progress_at) < farm_now() - make_interval(secs => $1)
                FOR UPDATE OF a SKIP LOCKED)",
            limit.as_secs_f64(),
            StopReason::NoProgress.as_str(),
            &[farm_types::FEATURE_PROGRESS.to_owned()]
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        fit(stopped.rows_affected())
    }

    /// Tells what drained workers still run to stop, so that it runs elsewhere, where their time is up. Gives how many.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn release_overdue_attempts(&self, epoch: Epoch) -> Result<usize> {
        let mut tx = self.begin_leading(epoch).await?;
        let stopped = sqlx::query!(
            "UPDATE attempts SET stop_reason = $1, stop_since = farm_now() WHERE (project_id, id) IN (
                SELECT a.project_id, a.id FROM attempts a JOIN workers w ON w.id = a.worker_id
                WHERE a.state IN ('offered', 'running') AND a.stop_reason = '' AND w.release_at <= farm_now()
                FOR UPDATE OF a SKIP LOCKED)",
            StopReason::Released.as_str()
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        fit(stopped.rows_affected())
    }

    /// Quarantines the connected workers that have not stopped within a minute what they were told to. Gives their names.
    ///
    /// [`Store::reap`] then ends what they run.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn quarantine_unheeding(&self, epoch: Epoch) -> Result<Vec<String>> {
        let mut tx = self.begin_leading(epoch).await?;
        let names = sqlx::query_scalar!(
            // In the order in which all lock them.
            "WITH unheeded AS (
                SELECT DISTINCT ON (worker_id) worker_id, boot_id, lease_token FROM attempts
                WHERE state IN ('offered', 'running') AND stop_since < farm_now() - make_interval(secs => $1)
                ORDER BY worker_id, stop_since),
             held AS (
                SELECT w.id, unheeded.lease_token FROM workers w
                JOIN unheeded ON w.id = unheeded.worker_id AND w.boot_id = unheeded.boot_id
                WHERE w.coordinator_id IS NOT NULL AND w.quarantined_at IS NULL
                ORDER BY w.id FOR UPDATE OF w)
             UPDATE workers w SET quarantined_at = farm_now(), quarantine_token = held.lease_token
             FROM held WHERE w.id = held.id RETURNING w.name",
            STOP_WITHIN_SECONDS
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(names)
    }

    /// Puts workers on probation that fail for reasons of their own, and takes those off that finished a job. Gives what
    /// was changed, in words.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn judge_workers(&self, epoch: Epoch) -> Result<Vec<String>> {
        let mut changed = Vec::new();
        for verdict in judge(&self.health_records().await?, self.now().await?) {
            let mut tx = self.begin_leading(epoch).await?;
            let done = match &verdict {
                Verdict::Probation { worker, why } => {
                    let before = sqlx::query_scalar!(
                        "SELECT probations FROM workers WHERE id = $1 AND probation_at IS NULL FOR UPDATE",
                        worker.as_uuid()
                    )
                    .fetch_optional(&mut *tx)
                    .await?;
                    let Some(before) = before else { continue };
                    sqlx::query_scalar!(
                        "UPDATE workers SET probation_at = farm_now(), probation_why = $2, probations = $3 + 1,
                                probe_failures = 0, probe_at = farm_now() + make_interval(secs => $4)
                         WHERE id = $1 AND probation_at IS NULL AND probations = $3 RETURNING name",
                        worker.as_uuid(),
                        why,
                        before,
                        probe_wait(fit(before)?).as_secs_f64()
                    )
                    .fetch_optional(&mut *tx)
                    .await?
                    .map(|name| format!("{name} is on probation: {why}"))
                }
                Verdict::Well { worker } => sqlx::query_scalar!(
                    "UPDATE workers SET probation_at = NULL, probation_why = '', probe_at = NULL, probe_id = NULL,
                            probe_asked_at = NULL, probe_failures = 0, probations = 0, trusted_at = farm_now()
                     WHERE id = $1 AND probation_at IS NOT NULL RETURNING name",
                    worker.as_uuid()
                )
                .fetch_optional(&mut *tx)
                .await?
                .map(|name| format!("{name} is no longer on probation: it finished a job")),
            };
            tx.commit().await?;
            changed.extend(done);
        }
        Ok(changed)
    }

    /// What ended lately on the workers that may be sick, and on their witnesses: nothing at all unless one has failed
    /// often enough, or is on probation.
    async fn health_records(&self) -> Result<Vec<Record>> {
        let window = WINDOW.as_seconds_f64();
        let failures = sqlx::query!(
            r#"SELECT worker_id, job_id, finished_at AS "finished_at!", coalesce(failure ->> 'code', '') AS "code!",
                      self_check
               FROM attempts WHERE state IN ('failed', 'lost') AND failure ->> 'cause' = 'infrastructure'
                 AND finished_at > farm_now() - make_interval(secs => $1)"#,
            window
        )
        .fetch_all(&self.pool)
        .await?;
        let mut failed: HashMap<Uuid, Vec<Failed>> = HashMap::new();
        for row in failures {
            let found = match row.self_check.as_deref() {
                None => SelfCheck::Missing,
                Some("") => SelfCheck::Passed,
                Some(_) => SelfCheck::Failed,
            };
            let (job, code) = (row.job_id.into(), row.code.into());
            let failure = Failed { job, at: row.finished_at, code, found };
            failed.entry(row.worker_id).or_default().push(failure);
        }
        let workers = sqlx::query!(
            r#"SELECT id, engine_id, trusted_at, probation_at, (SELECT max(a.finished_at) FROM attempts a
                      WHERE a.worker_id = w.id AND a.state = 'succeeded'
                        AND a.finished_at > farm_now() - make_interval(secs => $1)) AS succeeded_at
               FROM workers w WHERE removed_at IS NULL
                 AND ($2 OR EXISTS (SELECT FROM workers p WHERE p.probation_at IS NOT NULL))"#,
            window,
            failed.values().any(|failures| failures.len() >= SEVERAL)
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(workers
            .into_iter()
            .map(|row| Record {
                worker: row.id.into(),
                engine: row.engine_id.into(),
                trusted_at: row.trusted_at.unwrap_or(DateTime::<Utc>::MIN_UTC),
                probation_at: row.probation_at,
                succeeded_at: row.succeeded_at,
                failures: failed.remove(&row.id).unwrap_or_default(),
            })
            .collect())
    }

    /// The trial builds that the workers connected to this coordinator owe an answer; those that are due are asked for
    /// now, those that were not answered in time have failed.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn probes_via(&self, coordinator: Uuid) -> Result<Vec<(WorkerId, Uuid)>> {
        let on_probation = sqlx::query!(
            r#"SELECT id, probe_id, coalesce(probe_asked_at < farm_now() - make_interval(secs => $2), false) AS "overdue!"
               FROM workers WHERE coordinator_id = $1 AND probation_at IS NOT NULL"#,
            coordinator,
            PROBE_WITHIN_SECONDS
        )
        .fetch_all(&self.pool)
        .await?;
        if on_probation.is_empty() {
            return Ok(Vec::new());
        }
        for row in on_probation.into_iter().filter(|row| row.overdue) {
            let Some(probe) = row.probe_id else { continue };
            match self.probe_ended(row.id.into(), probe, Err("it did not answer".to_owned())).await {
                Ok(()) | Err(StoreError::Stale(_)) => {}
                Err(error) => tell("a trial build that is overdue", row.id, &error),
            }
        }
        sqlx::query!(
            // In the order in which all lock them.
            "WITH held AS (
                SELECT w.id FROM workers w
                WHERE w.coordinator_id = $1 AND w.probe_id IS NULL AND w.probe_at <= farm_now()
                  AND farm_worker_state(w) = $3 AND w.features @> $2
                ORDER BY w.id FOR UPDATE)
             UPDATE workers SET probe_id = gen_random_uuid(), probe_asked_at = farm_now()
             FROM held WHERE workers.id = held.id",
            coordinator,
            &[farm_types::FEATURE_PROBES.to_owned()],
            WorkerState::Probation.as_str()
        )
        .execute(&self.pool)
        .await?;
        let asked = sqlx::query!(
            r#"SELECT id, probe_id AS "probe_id!" FROM workers WHERE coordinator_id = $1 AND probe_id IS NOT NULL"#,
            coordinator
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(asked.into_iter().map(|row| (row.id.into(), row.probe_id)).collect())
    }

    /// A trial build has ended, or failed for a reason in words: the worker is trusted again, or asked again later.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when this probe isn't waited for any more.
    pub async fn probe_ended(
        &self,
        worker: WorkerId,
        probe: Uuid,
        end: std::result::Result<(), String>,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        let before = sqlx::query!(
            "SELECT probe_failures, probations FROM workers WHERE id = $1 AND probe_id = $2 FOR UPDATE",
            worker.as_uuid(),
            probe
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::Stale("nobody waits for this trial build"))?;
        let done = match end {
            Ok(()) => {
                sqlx::query!(
                    "UPDATE workers SET probation_at = NULL, probation_why = '', probe_at = NULL, probe_id = NULL,
                            probe_asked_at = NULL, probe_failures = 0, trusted_at = farm_now()
                     WHERE id = $1 AND probe_id = $2",
                    worker.as_uuid(),
                    probe
                )
                .execute(&mut *tx)
                .await?
            }
            Err(why) => {
                let failures = before.probe_failures.saturating_add(1);
                let wait = probe_wait(fit(failures.max(before.probations - 1))?);
                let why: String = why.chars().take(PROBE_FAILURE_CHARS).collect();
                sqlx::query!(
                    "UPDATE workers SET probe_id = NULL, probe_asked_at = NULL, probe_failures = $3,
                            probation_why = split_part(probation_why, '; ', 1) || '; its trial build failed: ' || $5,
                            probe_at = farm_now() + make_interval(secs => $4)
                     WHERE id = $1 AND probe_id = $2",
                    worker.as_uuid(),
                    probe,
                    failures,
                    wait.as_secs_f64(),
                    why
                )
                .execute(&mut *tx)
                .await?
            }
        };
        if done.rows_affected() != 1 {
            return Err(StoreError::Stale("nobody waits for this trial build"));
        }
        tx.commit().await?;
        Ok(())
    }
}
