//! What an execution's jobs come to, and what follows for its builds: all of it under the execution's lock.

use std::time::Duration;

use farm_core::builds::{JobOutcome, Verdict, verdict};
use farm_core::life::attempt::StopReason;
use farm_core::life::{self, Transition};
use farm_core::work::waiting::Waiting;
use farm_types::state::{BuildState, ExecutionState, JobState};
use farm_types::{Cause, Failure, FailureCode, JobId};
use uuid::Uuid;

use crate::pool::Session;
use crate::proof::LockedExecution;
use crate::work::attempts::event;
use crate::work::lease::free_slots;
use crate::{Result, StoreError, from_json_opt, state, to_json};

/// How long a publication may take from the last platform's end.
#[derive(Debug, Clone, Copy)]
pub struct PublishLimit(pub Duration);

/// Decides the execution if its jobs allow it, and moves its builds.
pub(crate) async fn decide(execution: &mut LockedExecution<'_>, publish: PublishLimit) -> Result<()> {
    let (project, id) = execution.ids();
    let jobs = sqlx::query!(
        "SELECT state, required, failure FROM jobs WHERE project_id = $1 AND execution_id = $2
         ORDER BY created_at, id",
        project,
        id
    )
    .fetch_all(&mut **execution)
    .await?;
    let jobs = jobs
        .into_iter()
        .map(|row| {
            Ok(JobOutcome {
                state: state(&row.state)?,
                required: row.required,
                failure: from_json_opt(row.failure)?,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    match verdict(&jobs) {
        Verdict::Open => Ok(()),
        Verdict::Built => built(execution, publish).await,
        Verdict::Failed(failure) => fail_execution(execution, &failure).await,
        Verdict::Cancelled => cancelled(execution).await,
    }
}

/// Ends an execution whose jobs have all come to their results, or that has none, and has its builds published.
pub(crate) async fn built(execution: &mut LockedExecution<'_>, publish: PublishLimit) -> Result<()> {
    if !end_execution(execution, life::execution::BUILT, None).await? {
        return Ok(());
    }
    cancel_builds(execution, life::build::CANCELLED).await?;
    let (project, id) = execution.ids();
    let builds = sqlx::query!(
        "UPDATE builds SET state = $4, started_at = coalesce(started_at, farm_now()),
            publish_due = farm_now(), publish_deadline = farm_now() + make_interval(secs => $3)
         WHERE project_id = $1 AND execution_id = $2 AND state = ANY($5)
         RETURNING id, state",
        project,
        id,
        publish.0.as_secs_f64(),
        life::build::PUBLISH.word(),
        &life::build::PUBLISH.premise()
    )
    .fetch_all(&mut **execution)
    .await?;
    for build in builds {
        build_event(execution, project, build.id, &build.state).await?;
    }
    Ok(())
}

/// Fails an execution and its builds: what has not begun is cancelled, what runs is told to stop.
pub(crate) async fn fail_execution(execution: &mut LockedExecution<'_>, failure: &Failure) -> Result<()> {
    if !end_execution(execution, life::execution::FAIL, Some(failure)).await? {
        return Ok(());
    }
    stop_jobs(execution, StopReason::FailedElsewhere).await?;
    cancel_builds(execution, life::build::CANCELLED).await?;
    let (project, id) = execution.ids();
    let builds = sqlx::query!(
        "UPDATE builds SET state = $4, failure = $3, finished_at = farm_now()
         WHERE project_id = $1 AND execution_id = $2 AND state = ANY($5)
         RETURNING id, state",
        project,
        id,
        to_json(failure)?,
        life::build::FAIL.word(),
        &life::build::FAIL.premise()
    )
    .fetch_all(&mut **execution)
    .await?;
    for build in builds {
        build_event(execution, project, build.id, &build.state).await?;
    }
    Ok(())
}

async fn cancelled(execution: &mut LockedExecution<'_>) -> Result<()> {
    let (project, id) = execution.ids();
    let live = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM jobs WHERE project_id = $1 AND execution_id = $2
                          AND state IN ('leased', 'running')) AS "live!""#,
        project,
        id
    )
    .fetch_one(&mut **execution)
    .await?;
    if live || !end_execution(execution, life::execution::CANCEL, None).await? {
        return Ok(());
    }
    cancel_builds(execution, life::build::CANCELLED).await?;
    cancel_builds(execution, life::build::CANCELLED_WITH).await
}

/// Takes the builds of an ended execution that this transition leads from to their end.
async fn cancel_builds(
    execution: &mut LockedExecution<'_>,
    transition: Transition<BuildState>,
) -> Result<()> {
    let (project, id) = execution.ids();
    let builds = sqlx::query_scalar!(
        "UPDATE builds SET state = $3, finished_at = farm_now()
         WHERE project_id = $1 AND execution_id = $2 AND state = ANY($4)
         RETURNING id",
        project,
        id,
        transition.word(),
        &transition.premise()
    )
    .fetch_all(&mut **execution)
    .await?;
    for build in builds {
        build_event(execution, project, build, transition.word()).await?;
    }
    Ok(())
}

/// Cancels the jobs that have not begun, and tells the attempts of the others to stop.
///
/// An attempt that its worker has not answered has not begun: when the answer comes, the worker is told
/// that it is too late.
pub(crate) async fn stop_jobs(execution: &mut LockedExecution<'_>, why: StopReason) -> Result<()> {
    let (project, id) = execution.ids();
    let withdraw = life::attempt::WITHDRAW;
    hold_attempts(execution).await?;
    let unanswered = sqlx::query!(
        "UPDATE attempts SET state = $4, stop_reason = $3, stop_since = farm_now(),
                finished_at = farm_now()
         FROM jobs WHERE jobs.project_id = $1 AND jobs.execution_id = $2 AND attempts.project_id = $1
           AND attempts.job_id = jobs.id AND attempts.state = ANY($5)
         RETURNING attempts.id, attempts.job_id, attempts.engine_id, attempts.weight",
        project,
        id,
        why.as_str(),
        withdraw.word(),
        &withdraw.premise()
    )
    .fetch_all(&mut **execution)
    .await?;
    for attempt in unanswered {
        end_job(execution, attempt.job_id.into(), life::job::STOPPED, None).await?;
        free_slots(execution, attempt.engine_id, attempt.weight).await?;
        event(execution, "attempt_ended", &attempt.id.to_string(), withdraw.word()).await?;
    }
    sqlx::query!(
        "UPDATE jobs SET state = $3, decided_at = farm_now(), waiting = ''
         WHERE project_id = $1 AND execution_id = $2 AND state = ANY($4)",
        project,
        id,
        life::job::CANCEL.word(),
        &life::job::CANCEL.premise()
    )
    .execute(&mut **execution)
    .await?;
    sqlx::query!(
        "UPDATE attempts SET stop_reason = $3, stop_since = farm_now()
         FROM jobs WHERE jobs.project_id = $1 AND jobs.execution_id = $2 AND attempts.project_id = $1
           AND attempts.job_id = jobs.id AND attempts.state IN ('offered', 'running')
           AND attempts.stop_reason = ''",
        project,
        id,
        why.as_str()
    )
    .execute(&mut **execution)
    .await?;
    Ok(())
}

/// Locks the live attempts of an execution, in the order in which all lock them: signs of life do, too, without the execution's
/// lock. Whoever ends one attempt calls this before, as the others may have to stop then.
pub(crate) async fn hold_attempts(execution: &mut LockedExecution<'_>) -> Result<()> {
    let (project, id) = execution.ids();
    sqlx::query!(
        "SELECT attempts.id FROM attempts JOIN jobs ON jobs.project_id = attempts.project_id AND jobs.id = attempts.job_id
         WHERE jobs.project_id = $1 AND jobs.execution_id = $2 AND attempts.state IN ('offered', 'running')
         ORDER BY attempts.id FOR UPDATE OF attempts",
        project,
        id
    )
    .fetch_all(&mut **execution)
    .await?;
    Ok(())
}

/// Decides a live job for good.
pub(crate) async fn end_job(
    execution: &mut LockedExecution<'_>,
    job: JobId,
    transition: Transition<JobState>,
    failure: Option<&Failure>,
) -> Result<()> {
    let (project, _) = execution.ids();
    let failure = failure.map(to_json).transpose()?;
    let updated = sqlx::query!(
        "UPDATE jobs SET state = $3, failure = $4, decided_at = farm_now(), waiting = ''
         WHERE project_id = $1 AND id = $2 AND state = ANY($5)",
        project,
        job.as_uuid(),
        transition.word(),
        failure,
        &transition.premise()
    )
    .execute(&mut **execution)
    .await?;
    if updated.rows_affected() == 1 { Ok(()) } else { Err(StoreError::Stale("the job is decided")) }
}

/// Ends an open execution; false when it was not open any more.
async fn end_execution(
    execution: &mut LockedExecution<'_>,
    transition: Transition<ExecutionState>,
    failure: Option<&Failure>,
) -> Result<bool> {
    let (project, id) = execution.ids();
    let failure = failure.map(to_json).transpose()?;
    let ended = sqlx::query!(
        "UPDATE executions SET state = $3, failure = $4, decided_at = farm_now()
         WHERE project_id = $1 AND id = $2 AND state = ANY($5)",
        project,
        id,
        transition.word(),
        failure,
        &transition.premise()
    )
    .execute(&mut **execution)
    .await?;
    Ok(ended.rows_affected() == 1)
}

/// Notes a build's new state.
pub(crate) async fn build_event(tx: &mut Session, project: Uuid, build: Uuid, word: &str) -> Result<()> {
    sqlx::query!("SELECT farm_build_event($1, $2, 'build_' || $3, '{}')", project, build, word)
        .fetch_one(&mut *tx)
        .await?;
    Ok(())
}

/// The failure of a build whose job waited too long.
pub(crate) fn queue_deadline(waiting: Option<Waiting>, platform: &str) -> Failure {
    let why = waiting.map_or_else(|| "it was not started in time".to_owned(), |waiting| waiting.words());
    Failure::new(
        Cause::Deadline,
        FailureCode::QueueDeadline,
        format!("{platform} waited until the queue deadline: {why}"),
    )
}
