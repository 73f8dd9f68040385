//! Retrying a build that has ended: a new build of the same source and spec.
//!
//! It inherits the old one's `order_key`: the intent is the same, so it never passes a newer one. Results that are
//! taken over stay those of the job that made them (`jobs.taken_from`); no job is moved back, none runs twice.

use std::time::Duration;

use farm_types::{BuildId, Digest, JobId, Platform, ProjectId, ShortId};
use serde_json::json;

use crate::builds::mounts::{NewMounts, keep, with_secrets};
use crate::builds::submit::Submitted;
use crate::builds::submitter::Submitter;
use crate::hooks::statuses::retried;
use crate::people::audit::{By, Deed};
use crate::people::quotas::{admits, room_for_copies};
use crate::people::signing_keys::{UsedSigningKey, take_signing_key};
use crate::proof::LockedExecution;
use crate::publish::garbage::hold_off_cleanings;
use crate::sources::snapshots::name_nothing;
use crate::work::decide::{PublishLimit, build_event, built, decide};
use crate::{Result, Store, StoreError, to_json};

/// A build to make in the place of another.
#[derive(Debug, Clone)]
pub struct Retry {
    /// Whose.
    pub project: ProjectId,
    /// What the new one is to be, if it isn't there yet.
    pub id: BuildId,
    /// The one that has ended.
    pub of: BuildId,
    /// The client's key: one per intention.
    pub idempotency_key: String,
    /// Results of platforms that succeeded are taken over.
    pub failed_only: bool,
    /// Platforms whose results are not: they aren't where they were pushed any more.
    pub gone: Vec<Platform>,
    /// It moves a tag that is protected now.
    pub protected: bool,
    /// What it may mount, sealed for it.
    pub mounts: Option<NewMounts>,
    /// By which key what it publishes is signed, as its spec names it.
    pub signing: Option<UsedSigningKey>,
    /// Who asks.
    pub by: By,
    /// The same, exactly.
    pub submitter: Submitter,
    /// How long its jobs may wait for a worker.
    pub queue_limit: Duration,
}

impl Retry {
    /// What the client's key is for.
    fn request(&self) -> Digest {
        let body = json!({ "retry_of": self.of, "failed_only": self.failed_only }).to_string();
        Digest::of(body.as_bytes())
    }
}

impl Store {
    /// Whether a retry was accepted by this key already.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the key is known with another body; or the database can't be reached.
    pub async fn is_known_retry(&self, retry: &Retry) -> Result<bool> {
        Ok(self.known_build(retry.project, &retry.idempotency_key, retry.request()).await?.is_some())
    }

    /// Accepts a retry: the build, its execution, its jobs and the first events, in one transaction. If there is
    /// nothing left to run, it goes on to be published.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when the old build has not ended or a secret or signing key of the project was changed, [`StoreError::Conflict`] when the key is known with
    /// another body or the source is gone, [`StoreError::Exhausted`] when the project has too many.
    pub async fn retry(&self, retry: &Retry, publish: PublishLimit) -> Result<Submitted> {
        let request = retry.request();
        let (project, of) = (retry.project.as_uuid(), retry.of.as_uuid());
        if let Some(known) = self.known_build(retry.project, &retry.idempotency_key, request).await? {
            return Ok(known);
        }
        let mut tx = self.begin().await?;
        // A spec never changes; that the build is there is asked below.
        let gives = sqlx::query_scalar!(
            r#"SELECT jsonb_array_length(coalesce(spec -> 'exports', '[]')) > 0 AS "gives!"
               FROM builds WHERE project_id = $1 AND id = $2"#,
            project,
            of
        );
        let gives = gives.fetch_optional(&mut *tx).await?.unwrap_or_default();
        admits(&mut tx, retry.project, gives || retry.mounts.is_some()).await?;
        // Held, so that it isn't removed for its age meanwhile.
        let old = sqlx::query!(
            r#"SELECT b.execution_id, b.short_id, e.repositories, b.spec #> '{purpose,copy}' IS NOT NULL AS "is_copy!" FROM builds b
             JOIN executions e ON e.project_id = b.project_id AND e.id = b.execution_id
             WHERE b.project_id = $1 AND b.id = $2 AND b.state IN ('succeeded', 'failed', 'cancelled')
             FOR KEY SHARE OF b"#,
            project,
            of
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::Stale("the build has not ended"))?;
        if old.is_copy {
            room_for_copies(&mut tx, retry.project).await?;
            name_nothing(&mut tx, retry.project).await?;
        }
        let snapshot = sqlx::query!(
            "UPDATE snapshots SET last_used_at = farm_now() FROM executions e
             WHERE e.project_id = $1 AND e.id = $2
               AND snapshots.project_id = e.project_id AND snapshots.tree_id = e.tree_id",
            project,
            old.execution_id
        )
        .execute(&mut *tx)
        .await?;
        if snapshot.rows_affected() != 1 {
            return Err(StoreError::Conflict(format!(
                "the source of build {} is not on the farm any more; submit it again from where it is",
                old.short_id
            )));
        }
        // What is just being taken out of its repository is built again.
        let takes = retry.failed_only
            && match hold_off_cleanings(&mut tx, &old.repositories).await {
                Ok(()) => true,
                Err(StoreError::Stale(_)) => false,
                Err(error) => return Err(error),
            };
        let mut execution = LockedExecution::newborn(&mut tx, retry.project);
        let (_, execution_id) = execution.ids();
        let inserted = sqlx::query!(
            "INSERT INTO executions (project_id, id, spec, tree_id, repositories, protected, fork)
             SELECT project_id, $3, spec, tree_id, repositories, $4, fork FROM executions WHERE project_id = $1 AND id = $2",
            project,
            old.execution_id,
            execution_id,
            retry.protected
        )
        .execute(&mut *execution)
        .await?;
        one(inserted.rows_affected())?;
        let jobs = sqlx::query!(
            r#"SELECT j.id, j.platform, j.state, EXISTS (
                   SELECT FROM attempts a WHERE a.project_id = j.project_id AND a.job_id = coalesce(j.taken_from, j.id)
                   AND a.state = 'succeeded' AND a.staged) AS "staged!"
               FROM jobs j WHERE j.project_id = $1 AND j.execution_id = $2 ORDER BY j.created_at, j.id"#,
            project,
            old.execution_id
        )
        .fetch_all(&mut *execution)
        .await?;
        for job in jobs {
            let platform: Platform = crate::state(&job.platform)?;
            // What a machine that isn't trusted has built moves no tag that has become protected meanwhile.
            let must_go = retry.gone.contains(&platform) || retry.protected && job.staged;
            let taken = takes && job.state == "succeeded" && !must_go;
            let inserted = sqlx::query!(
                "INSERT INTO jobs (project_id, id, execution_id, kind, unit_key, platform, required, state,
                                   queue_class, virtual_time, emulation, runs, weight, ready_at, result, decided_at,
                                   taken_from, entitlements, gated, archive)
                 SELECT project_id, $3, $4, kind, unit_key, platform, required,
                        CASE WHEN $5 THEN 'succeeded' ELSE 'ready' END, queue_class, farm_now(), emulation, runs, weight,
                        farm_now(), CASE WHEN $5 THEN result END, CASE WHEN $5 THEN farm_now() END,
                        CASE WHEN $5 THEN coalesce(taken_from, id) END, entitlements, gated, archive
                 FROM jobs WHERE project_id = $1 AND id = $2 AND (state = 'succeeded' OR NOT $5)",
                project,
                job.id,
                JobId::generate().as_uuid(),
                execution_id,
                taken
            )
            .execute(&mut *execution)
            .await?;
            one(inserted.rows_affected())?;
        }
        let (id, short_id) = (retry.id, ShortId::generate());
        let inserted = sqlx::query!(
            "INSERT INTO builds (project_id, id, short_id, idempotency_key, request_digest, execution_id, spec,
                                 order_key, retry_of, created_by, queue_deadline, deadline, submitter, copied_digest)
             SELECT project_id, $3, $4, $5, $6, $7, spec, order_key, id, $8,
                    farm_now() + make_interval(secs => $9),
                    farm_now() + make_interval(secs => (spec ->> 'timeout_ms')::float8 / 1000), $10, copied_digest
             FROM builds WHERE project_id = $1 AND id = $2 AND state IN ('succeeded', 'failed', 'cancelled')
             ON CONFLICT DO NOTHING",
            project,
            of,
            id.as_uuid(),
            short_id.as_str(),
            retry.idempotency_key,
            &request.as_bytes()[..],
            execution_id,
            retry.by.name,
            retry.queue_limit.as_secs_f64(),
            to_json(&retry.submitter)?
        )
        .execute(&mut *execution)
        .await?;
        if inserted.rows_affected() != 1 {
            // The same key came at the same moment, or the short id is taken: the caller's next call finds
            // the one, or draws another.
            tx.rollback().await?;
            return match self.known_build(retry.project, &retry.idempotency_key, request).await? {
                Some(known) => Ok(known),
                None => Box::pin(self.retry(retry, publish)).await,
            };
        }
        retried(execution.tx(), project, of, (id.as_uuid(), &short_id)).await?;
        keep(&mut execution, (id, &short_id), &retry.by.name, retry.mounts.as_ref()).await?;
        take_signing_key(&mut execution, (id, &short_id), &retry.by.name, retry.signing.as_ref()).await?;
        build_event(&mut execution, project, id.as_uuid(), "queued").await?;
        let deed = Deed {
            project: Some(retry.project),
            action: "build.retry",
            subject: short_id.as_str(),
            detail: with_secrets(
                json!({ "retry_of": old.short_id, "failed_only": retry.failed_only }),
                retry.mounts.as_ref(),
            ),
        };
        retry.by.did(execution.tx(), deed).await?;
        if old.is_copy {
            built(&mut execution, publish).await?;
        } else {
            decide(&mut execution, publish).await?;
        }
        tx.commit().await?;
        Ok(Submitted { id, replayed: false })
    }
}

fn one(rows: u64) -> Result<()> {
    if rows == 1 { Ok(()) } else { Err(StoreError::Stale("the build's jobs are not what they were")) }
}
