//! What only time brings about: leases that end, deadlines that pass.

use std::time::Duration;

use farm_core::life;
use farm_core::life::attempt::{Said, StopReason};
use farm_core::life::publication;
use farm_core::work::waiting::Waiting;
use farm_types::{BuildId, Cause, ExecutionId, Failure, FailureCode, JobId, ProjectId};
use uuid::Uuid;

use crate::machines::leader::Epoch;
use crate::proof::{LeaderTx, LockedPublication};
use crate::publish::publications::{end_build, end_publication};
use crate::unreadable::tell;
use crate::work::attempts::event;
use crate::work::decide::{PublishLimit, decide, end_job, fail_execution, hold_attempts, queue_deadline};
use crate::work::finish::{end_as, stop_reason};
use crate::work::lease::free_slots;
use crate::work::queue::waiting;
use crate::{Result, Store, StoreError, fit, from_json_opt, to_json};

/// How many are taken at once: the rest comes with the next pass.
const BATCH: i64 = 100;
/// A worker that was restarted may still tell the results that its former life left on disk: so long.
const REBOOT_GRACE_SECONDS: f64 = 3.0;

impl Store {
    /// Ends the attempts whose lease has ended, or whose worker lives another life by now and so doesn't
    /// run them, or is quarantined. Gives how many.
    ///
    /// This transaction is the cut: until it commits, the worker's result still counts.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn reap(&self, epoch: Epoch, publish: PublishLimit, jitter: f64) -> Result<usize> {
        let due = sqlx::query!(
            r#"SELECT a.id, a.project_id, a.job_id, j.execution_id, a.number,
                    CASE WHEN j.kind = 'fetch' THEN 'the fetch' ELSE j.platform END AS "platform!", w.name AS worker,
                    coalesce((SELECT b.short_id FROM builds b WHERE b.project_id = j.project_id
                     AND b.execution_id = j.execution_id ORDER BY b.order_key LIMIT 1), '') AS "build!"
             FROM attempts a
             JOIN jobs j ON j.project_id = a.project_id AND j.id = a.job_id
             JOIN workers w ON w.id = a.worker_id
             WHERE a.state IN ('offered', 'running')
               AND (a.lease_expires_at < farm_now() OR w.quarantined_at IS NOT NULL
                    OR (w.boot_id <> a.boot_id AND w.booted_at < farm_now() - make_interval(secs => $2)))
             ORDER BY a.lease_expires_at LIMIT $1"#,
            BATCH,
            REBOOT_GRACE_SECONDS
        )
        .fetch_all(&self.pool)
        .await?;
        let mut reaped = 0;
        for row in due {
            let place = Place {
                project: row.project_id.into(),
                execution: row.execution_id.into(),
                job: row.job_id.into(),
            };
            match self.reap_one(epoch, place, row.id, publish, jitter).await {
                Ok(true) => {
                    reaped += 1;
                    let (build, platform, worker) = (row.build, row.platform, row.worker);
                    tracing::warn!(
                        build,
                        platform,
                        "try" = row.number,
                        worker,
                        "lost: its worker is silent or set aside"
                    );
                }
                Ok(false) => {}
                Err(StoreError::NotLeading) => return Err(StoreError::NotLeading),
                // One that can't be ended must not keep the others alive.
                Err(error) => {
                    let known_as = format!("{} {} try {}", row.build, row.platform, row.number);
                    tell("an attempt that is over", known_as, &error);
                }
            }
        }
        Ok(reaped)
    }

    async fn reap_one(
        &self,
        epoch: Epoch,
        place: Place,
        attempt: Uuid,
        publish: PublishLimit,
        jitter: f64,
    ) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        let mut execution = tx.lock_execution(place.project, place.execution).await?;
        let unanswered = sqlx::query_scalar!(
            r#"SELECT state = 'offered' AS "unanswered!" FROM attempts WHERE id = $1 AND state IN ('offered', 'running')"#,
            attempt
        )
        .fetch_optional(&mut *execution)
        .await?;
        let Some(unanswered) = unanswered else { return Ok(false) };
        hold_attempts(&mut execution).await?;
        let ended = sqlx::query!(
            r#"UPDATE attempts a SET state = $3, finished_at = farm_now(),
                    failure = jsonb_build_object('cause', 'infrastructure', 'code',
                        CASE WHEN w.boot_id = a.boot_id AND w.quarantined_at IS NOT NULL
                             THEN 'worker_quarantined' ELSE 'worker_lost' END, 'message',
                        CASE WHEN w.removed_at IS NOT NULL THEN 'it was revoked'
                             WHEN w.boot_id <> a.boot_id THEN 'it was restarted'
                             WHEN w.quarantined_at IS NOT NULL
                             THEN 'it did not stop a job that it was told to stop, and was quarantined'
                             WHEN a.state = 'offered' THEN 'it did not answer'
                             ELSE 'no heartbeat for '
                                  || extract(epoch FROM farm_now() - w.last_seen)::int || ' s' END)
               FROM workers w
               WHERE a.id = $1 AND w.id = a.worker_id AND a.state = ANY($4)
                 AND (a.lease_expires_at < farm_now() OR w.quarantined_at IS NOT NULL
                      OR (w.boot_id <> a.boot_id AND w.booted_at < farm_now() - make_interval(secs => $2)))
               RETURNING a.worker_id, a.engine_id, a.weight, a.stop_reason"#,
            attempt,
            REBOOT_GRACE_SECONDS,
            life::attempt::LOSE.word(),
            &life::attempt::LOSE.premise()
        )
        .fetch_optional(&mut *execution)
        .await?;
        let Some(ended) = ended else { return Ok(false) };
        free_slots(&mut execution, ended.engine_id, ended.weight).await?;
        event(&mut execution, "attempt_ended", &attempt.to_string(), life::attempt::LOSE.word()).await?;
        let said = life::attempt::end(stop_reason(&ended.stop_reason)?, Said::Silence { unanswered });
        end_as(&mut execution, place.job, said.job, ended.worker_id.into(), jitter).await?;
        decide(&mut execution, publish).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Tells the attempts to stop that go on for longer than `limit`.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn stop_overdue_attempts(&self, epoch: Epoch, limit: Duration) -> Result<usize> {
        let mut tx = self.begin_leading(epoch).await?;
        let stopped = sqlx::query!(
            "UPDATE attempts SET stop_reason = $2, stop_since = farm_now() WHERE (project_id, id) IN (
                SELECT project_id, id FROM attempts WHERE state IN ('offered', 'running') AND stop_reason = ''
                AND offered_at < farm_now() - make_interval(secs => $1) FOR UPDATE SKIP LOCKED)",
            limit.as_secs_f64(),
            StopReason::Deadline.as_str()
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        fit(stopped.rows_affected())
    }

    /// Fails the executions of which a job still waits after the queue deadline of all their builds.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn end_overdue_queues(&self, epoch: Epoch, publish: PublishLimit) -> Result<usize> {
        let due = sqlx::query!(
            r#"SELECT DISTINCT ON (j.project_id, j.execution_id) j.project_id, j.execution_id, j.id, j.waits,
                      j.waiting, CASE WHEN j.kind = 'fetch' THEN 'the fetch' ELSE j.platform END AS "platform!"
               FROM builds due
               JOIN jobs j ON j.project_id = due.project_id AND j.execution_id = due.execution_id
                          AND j.state = 'ready'
               WHERE due.finished_at IS NULL AND due.queue_deadline <= farm_now() AND NOT EXISTS (
                    SELECT FROM builds b WHERE b.project_id = j.project_id AND b.execution_id = j.execution_id
                    AND b.queue_deadline > farm_now())
               ORDER BY j.project_id, j.execution_id, j.id LIMIT $1"#,
            BATCH
        )
        .fetch_all(&self.pool)
        .await?;
        let mut ended = 0;
        for row in due {
            let place = Place {
                project: row.project_id.into(),
                execution: row.execution_id.into(),
                job: row.id.into(),
            };
            let waits = waiting(row.waits, row.waiting);
            match self.end_overdue_queue(epoch, place, waits, (&row.platform, publish)).await {
                Ok(done) => ended += usize::from(done),
                Err(StoreError::NotLeading) => return Err(StoreError::NotLeading),
                // It goes on waiting; the others must not.
                Err(error) => tell("a job that waited too long", row.id, &error),
            }
        }
        Ok(ended)
    }

    async fn end_overdue_queue(
        &self,
        epoch: Epoch,
        place: Place,
        waiting: Option<Waiting>,
        (platform, publish): (&str, PublishLimit),
    ) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        let mut execution = tx.lock_execution(place.project, place.execution).await?;
        let (project, id) = execution.ids();
        let still = sqlx::query_scalar!(
            "SELECT id FROM jobs WHERE project_id = $1 AND id = $2 AND state = 'ready' AND NOT EXISTS (
                SELECT FROM builds b WHERE b.project_id = $1 AND b.execution_id = $3
                AND b.queue_deadline > farm_now()) FOR UPDATE",
            project,
            place.job.as_uuid(),
            id
        )
        .fetch_optional(&mut *execution)
        .await?;
        if still.is_none() {
            return Ok(false);
        }
        let failure = queue_deadline(waiting, platform);
        end_job(&mut execution, place.job, life::job::EXPIRE, Some(&failure)).await?;
        // Without an optional one the others are published.
        decide(&mut execution, publish).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Fails the builds that aren't built within their own timeout. What they alone wanted is stopped.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn end_overdue_builds(&self, epoch: Epoch) -> Result<usize> {
        let due = sqlx::query!(
            "SELECT DISTINCT project_id, execution_id FROM builds
             WHERE deadline <= farm_now() AND finished_at IS NULL AND state = ANY($1) LIMIT $2",
            &life::build::FAIL.premise(),
            BATCH
        )
        .fetch_all(&self.pool)
        .await?;
        let mut ended = 0;
        for row in due {
            match self.end_overdue_build(epoch, row.project_id.into(), row.execution_id.into()).await {
                Ok(done) => ended += usize::from(done),
                Err(StoreError::NotLeading) => return Err(StoreError::NotLeading),
                Err(error) => tell("an execution whose time is up", row.execution_id, &error),
            }
        }
        Ok(ended)
    }

    async fn end_overdue_build(
        &self,
        epoch: Epoch,
        project: ProjectId,
        execution: ExecutionId,
    ) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        let mut execution = tx.lock_execution(project, execution).await?;
        let (project, id) = execution.ids();
        // Only now is it certain that none of them goes on to be published.
        let builds = sqlx::query!(
            r#"SELECT deadline <= farm_now() AS overdue, (spec ->> 'timeout_ms')::bigint AS timeout_ms FROM builds
               WHERE project_id = $1 AND execution_id = $2 AND state = ANY($3)"#,
            project,
            id,
            &life::build::FAIL.premise()
        )
        .fetch_all(&mut *execution)
        .await?;
        let Some(first) = builds.first().filter(|_| builds.iter().all(|b| b.overdue == Some(true))) else {
            return Ok(false);
        };
        let limit = u64::try_from(first.timeout_ms.unwrap_or_default()).unwrap_or_default() / 1000;
        let why = format!("it was not built within the {limit} s that --timeout gave it");
        let failure = Failure::new(Cause::Deadline, FailureCode::BuildTimeout, why);
        fail_execution(&mut execution, &failure).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Fails the builds whose publication is not done by its deadline.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn end_overdue_publications(&self, epoch: Epoch) -> Result<usize> {
        let due = sqlx::query!(
            "SELECT project_id, id FROM builds WHERE state = ANY($1) AND publish_deadline < farm_now()
             ORDER BY publish_deadline, id LIMIT $2",
            &life::build::UNPUBLISHED.premise(),
            BATCH
        )
        .fetch_all(&self.pool)
        .await?;
        let mut ended = 0;
        for row in due {
            match self.end_overdue_publication(epoch, row.project_id.into(), row.id.into()).await {
                Ok(true) => ended += 1,
                Ok(false) => {}
                Err(StoreError::NotLeading) => return Err(StoreError::NotLeading),
                // One that can't be ended must not keep the others alive.
                Err(error) => tracing::warn!(build = %row.id, %error, "a publication could not be ended"),
            }
        }
        Ok(ended)
    }

    /// One of them; false when it isn't overdue any more. The publication's lock comes before the build's, as where its
    /// tags are settled.
    async fn end_overdue_publication(
        &self,
        epoch: Epoch,
        project: ProjectId,
        build: BuildId,
    ) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        let failure = if let Some(mut publication) = tx.lock_publication_of(project, build).await? {
            let failure = publish_deadline(publication.leader(), project, build).await?;
            let Some(failure) = failure else { return Ok(false) };
            fail_publication(&mut publication, &failure).await?;
            failure
        } else {
            let failure = publish_deadline(&mut tx, project, build).await?;
            let Some(failure) = failure else { return Ok(false) };
            let is_merged = sqlx::query_scalar!(
                r#"SELECT EXISTS (SELECT FROM publications WHERE project_id = $1 AND build_id = $2) AS "is_merged!""#,
                project.as_uuid(),
                build.as_uuid()
            )
            .fetch_one(&mut *tx)
            .await?;
            // While this waited for the build: the next pass ends both.
            if is_merged {
                return Ok(false);
            }
            failure
        };
        end_build(&mut tx, project, build, Some(&failure)).await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// A job that something is due for, as it was found. None of that ever changes, so it needs no lock.
#[derive(Debug, Clone, Copy)]
struct Place {
    project: ProjectId,
    execution: ExecutionId,
    job: JobId,
}

/// The failure of a build that is publishing for too long; the build is held until the transaction's end. `None`: it isn't.
async fn publish_deadline(tx: &mut LeaderTx, project: ProjectId, build: BuildId) -> Result<Option<Failure>> {
    let failure = sqlx::query_scalar!(
        r#"SELECT jsonb_build_object('cause', 'deadline', 'code', 'publish_deadline', 'message',
                    'the index could not be published in time: ' || coalesce(
                        (SELECT d.failure ->> 'message' FROM publications p
                         JOIN destinations d ON d.project_id = p.project_id AND d.publication_id = p.id
                         WHERE p.project_id = b.project_id AND p.build_id = b.id AND d.failure IS NOT NULL
                         ORDER BY d.registry, d.repository LIMIT 1),
                        nullif(b.publish_trouble, ''), 'the coordinator did not come to it')) AS "failure!"
           FROM builds b WHERE project_id = $1 AND id = $2 AND state = ANY($3) AND publish_deadline < farm_now()
           FOR UPDATE"#,
        project.as_uuid(),
        build.as_uuid(),
        &life::build::UNPUBLISHED.premise()
    )
    .fetch_optional(&mut **tx)
    .await?;
    from_json_opt(failure)
}

/// Fails a publication with all of it that isn't settled.
async fn fail_publication(publication: &mut LockedPublication<'_>, failure: &Failure) -> Result<()> {
    let (project, id) = publication.ids();
    let failure = to_json(failure)?;
    end_publication(publication, publication::FAIL).await?;
    sqlx::query!(
        "UPDATE destinations SET state = $4, settled_at = farm_now(), failure = coalesce(failure, $3)
         WHERE project_id = $1 AND publication_id = $2 AND state = ANY($5)",
        project,
        id,
        failure,
        publication::destination::FAIL.word(),
        &publication::destination::FAIL.premise()
    )
    .execute(&mut **publication)
    .await?;
    sqlx::query!(
        "UPDATE tags SET state = $4, settled_at = farm_now(), failure = coalesce(failure, $3)
         WHERE project_id = $1 AND publication_id = $2 AND state = ANY($5)",
        project,
        id,
        failure,
        publication::tag::FAIL.word(),
        &publication::tag::FAIL.premise()
    )
    .execute(&mut **publication)
    .await?;
    Ok(())
}
