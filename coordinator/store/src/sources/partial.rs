//! Builds whose source holds only what their Dockerfile names, and turns out not to be enough.
//!
//! The attempt that found out is given back: it counts for nobody's failure. Its job stays ready, but not before a day that
//! nobody lives to see, until whoever submitted the build has sent the whole source ([`Store::provide_source`]); if that
//! doesn't happen within [`WITHIN`], the queue deadline ends it. Where nobody is there to send it (a retry), it fails at
//! once. Invariant: an execution waits for its source only while its snapshot is a partial one.

use std::time::Duration;

use farm_core::work::waiting::Waiting;
use farm_types::{BuildId, Cause, Failure, FailureCode, JobId, ProjectId, SnapshotRef};
use serde_json::json;

use crate::people::audit::{By, Deed};
use crate::proof::LockedExecution;
use crate::work::attempts::event;
use crate::{Result, Store, StoreError, to_json};

/// How long a source is waited for: as much as it may take to send it all.
const WITHIN: Duration = Duration::from_secs(3600);

/// What an attempt found missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The root of the snapshot.
    pub root: String,
    /// What the engine asked for; empty: all.
    pub asked: String,
}

impl Missing {
    /// The failure of a build that nobody is there to send the rest of.
    pub(crate) fn failure(&self) -> Failure {
        let what = if self.asked.is_empty() { "all of it".to_owned() } else { format!("{:?}", self.asked) };
        let message = format!(
            "the engine asked for {what} of the {}, which was not sent, since the Dockerfile doesn't name it (a base \
             image's ONBUILD may); submit it again",
            self.root.replace(':', " ")
        );
        Failure::new(Cause::User, FailureCode::SourceIncomplete, message)
    }
}

/// What is done about a source that isn't enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Whoever submitted the build sends the rest.
    Wait,
    /// It was sent meanwhile: the job is tried again.
    Again,
    /// Nobody is there to send it.
    Fail,
}

/// Finds what is to be done about the source of an execution.
pub(crate) async fn remedy(execution: &mut LockedExecution<'_>) -> Result<Remedy> {
    let (project, id) = execution.ids();
    let row = sqlx::query!(
        r#"SELECT coalesce(e.spec -> 'partial', '{}') <> '{}' AS "is_partial!",
                  EXISTS (SELECT FROM builds b WHERE b.project_id = e.project_id AND b.execution_id = e.id
                          AND b.retry_of IS NULL AND b.finished_at IS NULL) AS "has_sender!"
           FROM executions e WHERE e.project_id = $1 AND e.id = $2"#,
        project,
        id
    )
    .fetch_one(&mut **execution)
    .await?;
    Ok(match (row.is_partial, row.has_sender) {
        (false, _) => Remedy::Again,
        (true, true) => Remedy::Wait,
        (true, false) => Remedy::Fail,
    })
}

/// Has a job that was just made ready wait for the whole source.
pub(crate) async fn wait_for_source(execution: &mut LockedExecution<'_>, job: JobId) -> Result<()> {
    let (project, id) = execution.ids();
    let held = sqlx::query!(
        "UPDATE jobs SET not_before = farm_now() + interval '100 years', waits = $3, waiting = $4
         WHERE project_id = $1 AND id = $2 AND state = 'ready'",
        project,
        job.as_uuid(),
        to_json(&Waiting::Source)?,
        Waiting::Source.words()
    )
    .execute(&mut **execution)
    .await?;
    if held.rows_affected() != 1 {
        // It was tried too often.
        return Ok(());
    }
    sqlx::query!(
        "UPDATE executions SET source_wanted_at = coalesce(source_wanted_at, farm_now())
         WHERE project_id = $1 AND id = $2",
        project,
        id
    )
    .execute(&mut **execution)
    .await?;
    sqlx::query!(
        "UPDATE builds SET queue_deadline = least(queue_deadline, farm_now() + make_interval(secs => $3))
         WHERE project_id = $1 AND execution_id = $2 AND finished_at IS NULL",
        project,
        id,
        WITHIN.as_secs_f64()
    )
    .execute(&mut **execution)
    .await?;
    event(execution, "source_wanted", &job.to_string(), "ready").await
}

impl Store {
    /// Gives a build the whole of its source, if it waits for that, and lets its jobs go on: they may wait for a worker for
    /// `queue_limit` from now. False: it waits for none.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the snapshot isn't there.
    pub async fn provide_source(
        &self,
        by: &By,
        project: ProjectId,
        build: BuildId,
        snapshot: &SnapshotRef,
        queue_limit: Duration,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        let known = sqlx::query!(
            "SELECT execution_id, short_id FROM builds WHERE project_id = $1 AND id = $2",
            project.as_uuid(),
            build.as_uuid()
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::NotFound("build"))?;
        let deed = Deed {
            project: Some(project),
            action: "build.source",
            subject: &known.short_id,
            detail: json!({ "tree": snapshot.tree_id.to_string() }),
        };
        let mut execution = tx.lock_execution(project, known.execution_id.into()).await?;
        let (project, id) = execution.ids();
        let tree = &snapshot.tree_id.as_bytes()[..];
        let there = sqlx::query!(
            "UPDATE snapshots SET last_used_at = farm_now()
             WHERE project_id = $1 AND tree_id = $2 AND content_key = $3",
            project,
            tree,
            &snapshot.content_key.as_bytes()[..]
        )
        .execute(&mut *execution)
        .await?;
        if there.rows_affected() != 1 {
            return Err(StoreError::Conflict(format!(
                "the snapshot {} is not on the farm; upload the source again",
                snapshot.tree_id.short()
            )));
        }
        let reference = crate::to_json(snapshot)?;
        let taken = sqlx::query!(
            "UPDATE executions SET source_wanted_at = NULL, tree_id = $3,
                    spec = jsonb_set(spec, '{snapshot}', $4) - 'partial'
             WHERE project_id = $1 AND id = $2 AND state = 'open' AND source_wanted_at IS NOT NULL",
            project,
            id,
            tree,
            reference
        )
        .execute(&mut *execution)
        .await?;
        if taken.rows_affected() != 1 {
            return Ok(false);
        }
        sqlx::query!(
            "UPDATE builds SET spec = jsonb_set(spec, '{snapshot}', $3) - 'partial',
                    queue_deadline = farm_now() + make_interval(secs => $4)
             WHERE project_id = $1 AND execution_id = $2 AND finished_at IS NULL",
            project,
            id,
            reference,
            queue_limit.as_secs_f64()
        )
        .execute(&mut *execution)
        .await?;
        sqlx::query!(
            "UPDATE jobs SET not_before = farm_now(), ready_at = farm_now(), waiting = ''
             WHERE project_id = $1 AND execution_id = $2 AND state = 'ready'
               AND (waits ->> 'for' = 'source' OR waits IS NULL AND waiting = $3)",
            project,
            id,
            // As a coordinator of the version before says it.
            Waiting::Source.words()
        )
        .execute(&mut *execution)
        .await?;
        sqlx::query!(
            "SELECT farm_execution_event($1, $2, 'source_provided', jsonb_build_object('tree', $3::text))",
            project,
            id,
            snapshot.tree_id.to_string()
        )
        .fetch_one(&mut *execution)
        .await?;
        by.did(execution.tx(), deed).await?;
        tx.commit().await?;
        Ok(true)
    }
}
