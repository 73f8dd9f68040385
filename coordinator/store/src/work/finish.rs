//! The end of an attempt, and all that follows from it: the job, the execution, the builds.
//!
//! It happens in one transaction under the execution's lock, so an execution is decided in one serial
//! place, whoever ends the attempt: its worker, the reaper, a cancel.

use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_core::life;
use farm_core::life::attempt::{Ended, JobFate, Said, StopReason};
use farm_core::work::again::{self, Ending, History, Next};
use farm_types::{Failure, JobId, Repository, Runs, SnapshotRef, WorkerId};

use crate::builds::record::JobResult;
use crate::proof::LockedExecution;
use crate::sources::partial::{Missing, Remedy, remedy, wait_for_source};
use crate::work::attempts::{Lease, event, lock_leased};
use crate::work::decide::{PublishLimit, decide, end_job, hold_attempts};
use crate::work::lease::free_slots;
use crate::work::queue::{FETCH, queue_class, trust_of};
use crate::{Result, Store, StoreError, fit, state, to_json};

/// How an attempt ended, as its worker says.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It has a result, pushed to these repositories.
    Succeeded {
        /// What was pushed.
        result: JobResult,
        /// Where to.
        repositories: Vec<Repository>,
        /// Per step, for estimates.
        steps: Vec<Step>,
    },
    /// It failed.
    Failed(Failure),
    /// It was stopped because it was told to.
    Stopped,
    /// What was sent of its source isn't enough.
    SourceIncomplete(Missing),
    /// It was not begun.
    Released {
        /// Its worker didn't want it.
        declined: bool,
    },
}

impl Outcome {
    fn said(&self) -> Said {
        match self {
            Self::Succeeded { .. } => Said::Succeeded,
            Self::Failed(failure) => Said::Failed(failure.clone()),
            Self::Stopped => Said::Stopped,
            Self::SourceIncomplete(_) => Said::Released { declined: false },
            Self::Released { declined } => Said::Released { declined: *declined },
        }
    }
}

/// How long one step took.
#[derive(Debug, Clone)]
pub struct Step {
    /// The stage's name, or empty.
    pub stage: String,
    /// The instruction.
    pub instruction: String,
    /// It came from the cache.
    pub cached: bool,
    /// From.
    pub started: Option<DateTime<Utc>>,
    /// To.
    pub finished: Option<DateTime<Utc>>,
}

impl Store {
    /// Ends an attempt as its worker says, and settles what follows. The same end said again is no error.
    ///
    /// `self_check` is what the worker found when it looked at itself after a failure, in words: empty for nothing, none if
    /// it did not look. `jitter` in 0..1 spreads retries.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when the lease isn't live and didn't end so.
    pub async fn finish_attempt(
        &self,
        lease: Lease,
        outcome: Outcome,
        self_check: Option<&str>,
        publish: PublishLimit,
        jitter: f64,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        let (mut execution, job) = lock_leased(&mut tx, lease).await?;
        let before = sqlx::query!(
            "SELECT state, stop_reason FROM attempts WHERE id = $1 AND lease_token = $2",
            lease.attempt.as_uuid(),
            lease.token.as_uuid()
        )
        .fetch_one(&mut *execution)
        .await?;
        let stop = stop_reason(&before.stop_reason)?;
        let (outcome, remedy) = match outcome {
            Outcome::SourceIncomplete(missing) => match remedy(&mut execution).await? {
                Remedy::Fail => (Outcome::Failed(missing.failure()), None),
                remedy => (Outcome::SourceIncomplete(missing), Some(remedy)),
            },
            outcome => (outcome, None),
        };
        let Ended { transition, failure, job: fate } = life::attempt::end(stop, outcome.said());
        let word = transition.word();
        if before.state == word {
            return Ok(());
        }
        if transition.take(state(&before.state)?).is_err() {
            return Err(StoreError::Stale("the lease has ended"));
        }
        let result = match &outcome {
            Outcome::Succeeded { result, .. } => Some(to_json(result)?),
            _ => None,
        };
        hold_attempts(&mut execution).await?;
        let ended = sqlx::query!(
            "UPDATE attempts SET state = $3, finished_at = farm_now(), result = $4, failure = $5,
                    self_check = $7
             WHERE id = $1 AND lease_token = $2 AND state = ANY($6)
             RETURNING worker_id, engine_id, weight",
            lease.attempt.as_uuid(),
            lease.token.as_uuid(),
            word,
            result,
            failure.as_ref().map(to_json).transpose()?,
            &transition.premise(),
            self_check
        )
        .fetch_optional(&mut *execution)
        .await?
        .ok_or(StoreError::Stale("the lease has ended"))?;
        free_slots(&mut execution, ended.engine_id, ended.weight).await?;
        event(&mut execution, "attempt_ended", &lease.attempt.to_string(), word).await?;
        match (fate, outcome) {
            (_, Outcome::Succeeded { result, repositories, steps }) => {
                keep_result(&mut execution, job, lease, &result, &repositories, &steps).await?;
            }
            (fate, _) => end_as(&mut execution, job, fate, ended.worker_id.into(), jitter).await?,
        }
        if remedy == Some(Remedy::Wait) {
            wait_for_source(&mut execution, job).await?;
        }
        decide(&mut execution, publish).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Keeps what a job has come to.
async fn keep_result(
    execution: &mut LockedExecution<'_>,
    job: JobId,
    lease: Lease,
    result: &JobResult,
    repositories: &[Repository],
    steps: &[Step],
) -> Result<()> {
    let (project, _) = execution.ids();
    let updated = sqlx::query!(
        "UPDATE jobs SET state = $4, result = $3, decided_at = farm_now()
         WHERE project_id = $1 AND id = $2 AND state = ANY($5)",
        project,
        job.as_uuid(),
        to_json(result)?,
        life::job::SUCCEED.word(),
        &life::job::SUCCEED.premise()
    )
    .execute(&mut **execution)
    .await?;
    if updated.rows_affected() != 1 {
        return Err(StoreError::Stale("the job is decided"));
    }
    if let Some(fetched) = &result.fetched {
        take_source(execution, &fetched.snapshot).await?;
    }
    for repository in repositories.iter().filter(|_| result.digest.is_some()) {
        let Some(digest) = result.digest else { continue };
        sqlx::query!(
            "INSERT INTO pushed_digests (project_id, registry, repository, digest, attempt_id, media_type)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
            project,
            repository.registry(),
            repository.name(),
            &digest.as_bytes()[..],
            lease.attempt.as_uuid(),
            result.media_type
        )
        .execute(&mut **execution)
        .await?;
    }
    for (position, step) in (0_i32..).zip(steps) {
        sqlx::query!(
            "INSERT INTO step_timings (project_id, attempt_id, position, stage, instruction, cached,
                                       started_at, finished_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            project,
            lease.attempt.as_uuid(),
            position,
            step.stage,
            step.instruction,
            step.cached,
            step.started,
            step.finished
        )
        .execute(&mut **execution)
        .await?;
    }
    Ok(())
}

/// Makes what a fetch has brought the source of its build.
async fn take_source(execution: &mut LockedExecution<'_>, snapshot: &SnapshotRef) -> Result<()> {
    let (project, id) = execution.ids();
    let tree = &snapshot.tree_id.as_bytes()[..];
    let there = sqlx::query!(
        "UPDATE snapshots SET last_used_at = farm_now()
         WHERE project_id = $1 AND tree_id = $2 AND content_key = $3",
        project,
        tree,
        &snapshot.content_key.as_bytes()[..]
    )
    .execute(&mut **execution)
    .await?;
    if there.rows_affected() != 1 {
        return Err(StoreError::Stale("what was fetched is not there"));
    }
    let reference = to_json(snapshot)?;
    sqlx::query!(
        "UPDATE executions SET tree_id = $3, spec = jsonb_set(spec, '{snapshot}', $4)
         WHERE project_id = $1 AND id = $2 AND state = 'open'",
        project,
        id,
        tree,
        reference
    )
    .execute(&mut **execution)
    .await?;
    sqlx::query!(
        "UPDATE builds SET spec = jsonb_set(spec, '{snapshot}', $3)
         WHERE project_id = $1 AND execution_id = $2 AND finished_at IS NULL",
        project,
        id,
        reference
    )
    .execute(&mut **execution)
    .await?;
    Ok(())
}

/// Why an attempt was told to stop, from its row.
pub(crate) fn stop_reason(word: &str) -> Result<Option<StopReason>> {
    if word.is_empty() { Ok(None) } else { state(word).map(Some) }
}

/// Does to a job what the end of its attempt without a result means for it.
pub(crate) async fn end_as(
    execution: &mut LockedExecution<'_>,
    job: JobId,
    fate: JobFate,
    worker: WorkerId,
    jitter: f64,
) -> Result<()> {
    match fate {
        JobFate::Result => Err(StoreError::Stale("there is no result")),
        JobFate::Cancelled => end_job(execution, job, life::job::STOPPED, None).await,
        JobFate::Ending(ending) => settle_job(execution, job, ending, worker, jitter).await,
    }
}

/// Makes a job whose attempt ended without a result ready again, or fails it.
async fn settle_job(
    execution: &mut LockedExecution<'_>,
    job: JobId,
    ending: Ending,
    worker: WorkerId,
    jitter: f64,
) -> Result<()> {
    let (project, _) = execution.ids();
    let lost = ending == Ending::Lost;
    let row = sqlx::query!(
        r#"SELECT attempt_count, lost_count, platform, emulation, runs, entitlements, queue_class, kind,
                  (SELECT count(*) FROM attempts a WHERE a.project_id = j.project_id AND a.job_id = j.id
                   AND a.failure ->> 'cause' = 'killed') AS "killed!",
                  (SELECT count(*) FROM attempts a WHERE a.project_id = j.project_id AND a.job_id = j.id
                   AND a.failure ->> 'code' = ANY($4)) AS "full!",
                  (SELECT count(*) FROM attempts a WHERE a.project_id = j.project_id AND a.job_id = j.id
                   AND a.started_at IS NOT NULL
                   AND (a.state = 'released' OR a.state = 'lost' AND a.stop_reason = $5)) AS "given_back!"
           FROM jobs j WHERE project_id = $1 AND id = $2 AND state = ANY($3) FOR UPDATE"#,
        project,
        job.as_uuid(),
        &life::job::AGAIN.premise(),
        &again::FULL_CODES.map(String::from),
        StopReason::Released.as_str()
    )
    .fetch_optional(&mut **execution)
    .await?
    .ok_or(StoreError::Stale("the job is decided"))?;
    let history = History {
        attempts: fit(row.attempt_count)?,
        lost: fit(row.lost_count + i32::from(lost))?,
        killed: fit(row.killed)?,
        full: fit(row.full)?,
        given_back: fit(row.given_back)?,
    };
    let mut runs: Runs = state(&row.runs)?;
    let next = if again::runs_after_all(&ending, &runs) {
        runs = Runs::Target;
        Next::Again { after: Duration::ZERO, avoid: None, refund: true }
    } else {
        again::after(ending, history, worker, jitter)
    };
    match next {
        Next::GiveUp(failure) => {
            if lost {
                sqlx::query!(
                    "UPDATE jobs SET lost_count = lost_count + 1 WHERE project_id = $1 AND id = $2",
                    project,
                    job.as_uuid()
                )
                .execute(&mut **execution)
                .await?;
            }
            end_job(execution, job, life::job::FAIL, Some(&failure)).await
        }
        Next::Again { after, avoid, refund } => {
            let updated = sqlx::query!(
                "UPDATE jobs SET state = $7, ready_at = farm_now(),
                        not_before = farm_now() + make_interval(secs => $3),
                        attempt_count = attempt_count - $4::int, lost_count = lost_count + $5::int,
                        runs = $9, queue_class = $10,
                        excluded_workers = CASE WHEN $6::uuid IS NULL OR $6 = ANY(excluded_workers)
                                           THEN excluded_workers ELSE excluded_workers || $6 END
                 WHERE project_id = $1 AND id = $2 AND state = ANY($8)",
                project,
                job.as_uuid(),
                after.as_secs_f64(),
                i32::from(refund),
                i32::from(lost),
                avoid.map(WorkerId::as_uuid),
                life::job::AGAIN.word(),
                &life::job::AGAIN.premise(),
                runs.to_string(),
                match row.kind.as_str() {
                    FETCH => row.queue_class,
                    _ => {
                        let trust = trust_of(&row.queue_class);
                        queue_class(&row.platform, &row.emulation, &runs, &row.entitlements, trust)
                    }
                }
            )
            .execute(&mut **execution)
            .await?;
            if updated.rows_affected() == 1 { Ok(()) } else { Err(StoreError::Stale("the job is decided")) }
        }
    }
}
