//! What an execution's jobs come to, and what follows for its builds. The caller holds the execution's lock.

use std::time::Duration;

use farm_core::builds::{JobOutcome, Verdict, verdict};
use farm_core::life::attempt::StopReason;
use farm_core::life::{self, Transition};
use farm_core::work::waiting::Waiting;
use farm_types::state::{BuildState, ExecutionState, JobState};
use farm_types::{Cause, ExecutionId, Failure, FailureCode, ProjectId};

use crate::work::attempts::{Place, event};
use crate::work::lease::free_slots;
use crate::{Result, StoreError, Tx, from_json_opt, state, to_json};

/// How long a publication may take from the last platform's end.
#[derive(Debug, Clone, Copy)]
pub struct PublishLimit(pub Duration);

/// Decides the execution if its jobs allow it, and moves its builds. The caller holds its lock.
pub(crate) async fn decide(
    tx: &mut Tx,
    project: ProjectId,
    execution: ExecutionId,
    publish: PublishLimit,
) -> Result<()> {
    let jobs = sqlx::query!(
        "SELECT state, required, failure FROM jobs WHERE project_id = $1 AND execution_id = $2
         ORDER BY created_at, id",
        project.as_uuid(),
        execution.as_uuid()
    )
    .fetch_all(&mut **tx)
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
        Verdict::Built => built(tx, project, execution, publish).await,
        Verdict::Failed(failure) => fail_execution(tx, project, execution, &failure).await,
        Verdict::Cancelled => cancelled(tx, project, execution).await,
    }
}

async fn built(tx: &mut Tx, project: ProjectId, execution: ExecutionId, publish: PublishLimit) -> Result<()> {
    if !end_execution(tx, project, execution, life::execution::BUILT, None).await? {
        return Ok(());
    }
    cancel_builds(tx, project, execution, life::build::CANCELLED).await?;
    let builds = sqlx::query!(
        "UPDATE builds SET state = $4, started_at = coalesce(started_at, farm_now()),
            publish_due = farm_now(), publish_deadline = farm_now() + make_interval(secs => $3)
         WHERE project_id = $1 AND execution_id = $2 AND state = ANY($5)
         RETURNING id, state",
        project.as_uuid(),
        execution.as_uuid(),
        publish.0.as_secs_f64(),
        life::build::PUBLISH.word(),
        &life::build::PUBLISH.premise()
    )
    .fetch_all(&mut **tx)
    .await?;
    for build in builds {
        build_event(tx, project, build.id, &build.state).await?;
    }
    Ok(())
}

/// Fails an execution and its builds: what has not begun is cancelled, what runs is told to stop.
pub(crate) async fn fail_execution(
    tx: &mut Tx,
    project: ProjectId,
    execution: ExecutionId,
    failure: &Failure,
) -> Result<()> {
    if !end_execution(tx, project, execution, life::execution::FAIL, Some(failure)).await? {
        return Ok(());
    }
    stop_jobs(tx, project, execution, StopReason::FailedElsewhere).await?;
    cancel_builds(tx, project, execution, life::build::CANCELLED).await?;
    let builds = sqlx::query!(
        "UPDATE builds SET state = $4, failure = $3, finished_at = farm_now()
         WHERE project_id = $1 AND execution_id = $2 AND state = ANY($5)
         RETURNING id, state",
        project.as_uuid(),
        execution.as_uuid(),
        to_json(failure)?,
        life::build::FAIL.word(),
        &life::build::FAIL.premise()
    )
    .fetch_all(&mut **tx)
    .await?;
    for build in builds {
        build_event(tx, project, build.id, &build.state).await?;
    }
    Ok(())
}

async fn cancelled(tx: &mut Tx, project: ProjectId, execution: ExecutionId) -> Result<()> {
    let live = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM jobs WHERE project_id = $1 AND execution_id = $2
                          AND state IN ('leased', 'running')) AS "live!""#,
        project.as_uuid(),
        execution.as_uuid()
    )
    .fetch_one(&mut **tx)
    .await?;
    if live || !end_execution(tx, project, execution, life::execution::CANCEL, None).await? {
        return Ok(());
    }
    cancel_builds(tx, project, execution, life::build::CANCELLED).await?;
    cancel_builds(tx, project, execution, life::build::CANCELLED_WITH).await
}

/// Takes the builds of an ended execution that this transition leads from to their end.
async fn cancel_builds(
    tx: &mut Tx,
    project: ProjectId,
    execution: ExecutionId,
    transition: Transition<BuildState>,
) -> Result<()> {
    let builds = sqlx::query_scalar!(
        "UPDATE builds SET state = $3, finished_at = farm_now()
         WHERE project_id = $1 AND execution_id = $2 AND state = ANY($4)
         RETURNING id",
        project.as_uuid(),
        execution.as_uuid(),
        transition.word(),
        &transition.premise()
    )
    .fetch_all(&mut **tx)
    .await?;
    for build in builds {
        build_event(tx, project, build, transition.word()).await?;
    }
    Ok(())
}

/// Cancels the jobs that have not begun, and tells the attempts of the others to stop.
///
/// An attempt that its worker has not answered has not begun: when the answer comes, the worker is told
/// that it is too late.
pub(crate) async fn stop_jobs(
    tx: &mut Tx,
    project: ProjectId,
    execution: ExecutionId,
    why: StopReason,
) -> Result<()> {
    let withdraw = life::attempt::WITHDRAW;
    let unanswered = sqlx::query!(
        "UPDATE attempts SET state = $4, stop_reason = $3, stop_since = farm_now(),
                finished_at = farm_now()
         FROM jobs WHERE jobs.project_id = $1 AND jobs.execution_id = $2 AND attempts.project_id = $1
           AND attempts.job_id = jobs.id AND attempts.state = ANY($5)
         RETURNING attempts.id, attempts.job_id, attempts.engine_id, attempts.weight",
        project.as_uuid(),
        execution.as_uuid(),
        why.as_str(),
        withdraw.word(),
        &withdraw.premise()
    )
    .fetch_all(&mut **tx)
    .await?;
    for attempt in unanswered {
        let place = Place { project, job: attempt.job_id, execution };
        end_job(tx, &place, life::job::STOPPED, None).await?;
        free_slots(tx, attempt.engine_id, attempt.weight).await?;
        event(tx, &place, "attempt_ended", &attempt.id.to_string(), withdraw.word()).await?;
    }
    sqlx::query!(
        "UPDATE jobs SET state = $3, decided_at = farm_now(), waiting = ''
         WHERE project_id = $1 AND execution_id = $2 AND state = ANY($4)",
        project.as_uuid(),
        execution.as_uuid(),
        life::job::CANCEL.word(),
        &life::job::CANCEL.premise()
    )
    .execute(&mut **tx)
    .await?;
    sqlx::query!(
        "UPDATE attempts SET stop_reason = $3, stop_since = farm_now()
         FROM jobs WHERE jobs.project_id = $1 AND jobs.execution_id = $2 AND attempts.project_id = $1
           AND attempts.job_id = jobs.id AND attempts.state IN ('offered', 'running')
           AND attempts.stop_reason = ''",
        project.as_uuid(),
        execution.as_uuid(),
        why.as_str()
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Decides a live job for good.
pub(crate) async fn end_job(
    tx: &mut Tx,
    place: &Place,
    transition: Transition<JobState>,
    failure: Option<&Failure>,
) -> Result<()> {
    let failure = failure.map(to_json).transpose()?;
    let updated = sqlx::query!(
        "UPDATE jobs SET state = $3, failure = $4, decided_at = farm_now(), waiting = ''
         WHERE project_id = $1 AND id = $2 AND state = ANY($5)",
        place.project.as_uuid(),
        place.job,
        transition.word(),
        failure,
        &transition.premise()
    )
    .execute(&mut **tx)
    .await?;
    if updated.rows_affected() == 1 { Ok(()) } else { Err(StoreError::Stale("the job is decided")) }
}

/// Ends an open execution; false when it was not open any more.
async fn end_execution(
    tx: &mut Tx,
    project: ProjectId,
    execution: ExecutionId,
    transition: Transition<ExecutionState>,
    failure: Option<&Failure>,
) -> Result<bool> {
    let failure = failure.map(to_json).transpose()?;
    let ended = sqlx::query!(
        "UPDATE executions SET state = $3, failure = $4, decided_at = farm_now()
         WHERE project_id = $1 AND id = $2 AND state = ANY($5)",
        project.as_uuid(),
        execution.as_uuid(),
        transition.word(),
        failure,
        &transition.premise()
    )
    .execute(&mut **tx)
    .await?;
    Ok(ended.rows_affected() == 1)
}

/// Notes a build's new state.
pub(crate) async fn build_event(
    tx: &mut Tx,
    project: ProjectId,
    build: uuid::Uuid,
    word: &str,
) -> Result<()> {
    sqlx::query!("SELECT farm_build_event($1, $2, 'build_' || $3, '{}')", project.as_uuid(), build, word)
        .fetch_one(&mut **tx)
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
