//! Attempts while they run: their start, their words, and why they are to stop.

use farm_core::life;
use farm_types::{AttemptId, BootId, BuildSpec, JobId, JoinId, LeaseToken, Platform, ProjectId, WorkerId};
use uuid::Uuid;

use crate::proof::LockedExecution;
use crate::{Result, Store, StoreError, Tx, digest, fit, from_json};

/// Names an attempt and proves the right to speak for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The attempt.
    pub attempt: AttemptId,
    /// Its fencing token.
    pub token: LeaseToken,
    /// Who calls by it; `None`: one who shows no certificate. By a lease of another worker's nobody may do anything.
    pub holder: Option<JoinId>,
}

impl Lease {
    /// The caller as a parameter of a statement.
    pub(crate) fn holder(&self) -> Option<Uuid> {
        self.holder.map(JoinId::as_uuid)
    }
}

/// What a live lease gives access to.
#[derive(Debug, Clone)]
pub struct LeasedSnapshot {
    /// Whose.
    pub project: ProjectId,
    /// The snapshot.
    pub tree_id: farm_types::Digest,
    /// What is built.
    pub spec: BuildSpec,
    /// For which platform.
    pub platform: Platform,
    /// It pushes to the staging registry, and nowhere else.
    pub staged: bool,
    /// A fork proposes it.
    pub proposed: bool,
}

/// A live attempt, as far as its worker's heartbeat asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveAttempt {
    /// The attempt.
    pub attempt: AttemptId,
    /// Its lease.
    pub token: LeaseToken,
    /// Why it is to stop; empty while it may go on.
    pub stop_reason: String,
}

/// What a worker runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Which worker.
    pub worker: WorkerId,
    /// Whose build it is.
    pub project: ProjectId,
    /// Its short id.
    pub build: String,
    /// The platform; empty: a fetch, which is for none.
    pub platform: String,
}

impl Store {
    /// The worker says that it runs the attempt. Saying it twice is no error.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when the lease isn't live any more.
    pub async fn attempt_started(&self, lease: Lease) -> Result<()> {
        let mut tx = self.begin().await?;
        let (mut execution, job) = lock_leased(&mut tx, lease).await?;
        let (project, id) = execution.ids();
        let updated = sqlx::query!(
            "UPDATE attempts SET state = $3, started_at = farm_now()
             WHERE id = $1 AND lease_token = $2 AND state = ANY($4)",
            lease.attempt.as_uuid(),
            lease.token.as_uuid(),
            life::attempt::START.word(),
            &life::attempt::START.premise()
        )
        .execute(&mut *execution)
        .await?;
        if updated.rows_affected() == 0 {
            let running = sqlx::query_scalar!(
                "SELECT state FROM attempts WHERE id = $1 AND lease_token = $2 AND state = 'running'",
                lease.attempt.as_uuid(),
                lease.token.as_uuid()
            )
            .fetch_optional(&mut *execution)
            .await?;
            return running.map(drop).ok_or(StoreError::Stale("the lease has ended"));
        }
        sqlx::query!(
            "UPDATE jobs SET state = $3 WHERE project_id = $1 AND id = $2 AND state = ANY($4)",
            project,
            job.as_uuid(),
            life::job::START.word(),
            &life::job::START.premise()
        )
        .execute(&mut *execution)
        .await?;
        sqlx::query!(
            "UPDATE builds SET state = $3, started_at = farm_now()
             WHERE project_id = $1 AND execution_id = $2 AND state = ANY($4)",
            project,
            id,
            life::build::START.word(),
            &life::build::START.premise()
        )
        .execute(&mut *execution)
        .await?;
        sqlx::query!(
            "SELECT farm_execution_event($1, $2, 'attempt_started', jsonb_build_object('attempt', $3::text))",
            project,
            id,
            lease.attempt.to_string()
        )
        .fetch_one(&mut *execution)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Stores a chunk of an attempt's stream. Gives the last sequence number that is stored without a gap.
    ///
    /// A repeated chunk is not stored twice; one after a gap is not stored at all. What comes after the
    /// attempt's end is still taken, as long as the token is the attempt's own.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when the token isn't the attempt's, or its log was removed.
    pub async fn append_chunk(&self, lease: Lease, seq: u64, payload: &[u8]) -> Result<u64> {
        let seq: i64 = fit(seq)?;
        let stored = sqlx::query_scalar!(
            "WITH next AS (
                UPDATE attempts SET acked_seq = acked_seq + 1, log_open = true, log_bytes = log_bytes + length($4::bytea),
                       progress_at = farm_now()
                WHERE id = $1 AND lease_token = $2 AND acked_seq = $3::bigint - 1 AND log_removed_at IS NULL
                  AND farm_is_holder(worker_id, $5)
                RETURNING project_id, log_day, acked_seq)
             INSERT INTO attempt_chunks (log_day, project_id, attempt_id, seq, payload)
             SELECT log_day, project_id, $1, acked_seq, $4 FROM next RETURNING seq",
            lease.attempt.as_uuid(),
            lease.token.as_uuid(),
            seq,
            payload,
            lease.holder()
        )
        .fetch_optional(&self.pool)
        .await?;
        if let Some(stored) = stored {
            return fit(stored);
        }
        // A statement of its own: one that waited for the same chunk on another stream would still see the
        // number from before.
        let acked = sqlx::query_scalar!(
            "SELECT acked_seq FROM attempts WHERE id = $1 AND lease_token = $2 AND log_removed_at IS NULL
               AND farm_is_holder(worker_id, $3)",
            lease.attempt.as_uuid(),
            lease.token.as_uuid(),
            lease.holder()
        )
        .fetch_optional(&self.pool)
        .await?;
        fit(acked.ok_or(StoreError::Stale("the lease is not this one"))?)
    }

    /// Bytes of all chunks that were stored of an attempt's stream.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when the token isn't the attempt's.
    pub async fn log_bytes(&self, lease: Lease) -> Result<u64> {
        let bytes = sqlx::query_scalar!(
            "SELECT log_bytes FROM attempts WHERE id = $1 AND lease_token = $2",
            lease.attempt.as_uuid(),
            lease.token.as_uuid()
        )
        .fetch_optional(&self.pool)
        .await?;
        fit(bytes.ok_or(StoreError::Stale("the lease is not this one"))?)
    }

    /// What a live lease may read.
    ///
    /// # Errors
    /// [`StoreError::Stale`]: the lease has ended, by a word or by its time, or is another's.
    pub async fn leased_snapshot(&self, lease: Lease) -> Result<LeasedSnapshot> {
        self.snapshot_of(lease, false).await
    }

    /// The same, also of an attempt that is to stop.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when the attempt has ended; or the database can't be reached.
    pub async fn ending_snapshot(&self, lease: Lease) -> Result<LeasedSnapshot> {
        self.snapshot_of(lease, true).await
    }

    async fn snapshot_of(&self, lease: Lease, is_ending: bool) -> Result<LeasedSnapshot> {
        let row = sqlx::query!(
            r#"SELECT a.project_id, a.staged, j.platform, e.tree_id, e.spec, e.fork IS NOT NULL AS "proposed!" FROM attempts a
             JOIN jobs j ON j.project_id = a.project_id AND j.id = a.job_id
             JOIN executions e ON e.project_id = j.project_id AND e.id = j.execution_id
             WHERE a.id = $1 AND a.lease_token = $2 AND a.state IN ('offered', 'running') AND (a.stop_reason = '' OR $4)
               AND a.lease_expires_at > farm_now() AND farm_is_holder(a.worker_id, $3)"#,
            lease.attempt.as_uuid(),
            lease.token.as_uuid(),
            lease.holder(),
            is_ending
        )
        .fetch_optional(&self.pool)
        .await?
        .ok_or(StoreError::Stale("the lease has ended"))?;
        Ok(LeasedSnapshot {
            project: row.project_id.into(),
            tree_id: digest(&row.tree_id)?,
            spec: from_json(row.spec)?,
            platform: row.platform.parse().map_err(StoreError::corrupt)?,
            staged: row.staged,
            proposed: row.proposed,
        })
    }

    /// The live attempts of this life of a worker.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn live_attempts(&self, worker: WorkerId, boot: BootId) -> Result<Vec<LiveAttempt>> {
        let rows = sqlx::query!(
            "SELECT id, lease_token, stop_reason FROM attempts
             WHERE worker_id = $1 AND boot_id = $2 AND state IN ('offered', 'running')",
            worker.as_uuid(),
            boot.as_uuid()
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| LiveAttempt {
                attempt: row.id.into(),
                token: row.lease_token.into(),
                stop_reason: row.stop_reason,
            })
            .collect())
    }

    /// What all workers run now.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn running_now(&self) -> Result<Vec<Running>> {
        let rows = sqlx::query!(
            r#"SELECT a.worker_id, a.project_id, CASE WHEN j.kind = 'fetch' THEN '' ELSE j.platform END AS "platform!",
                      (SELECT b.short_id FROM builds b WHERE b.project_id = j.project_id
                       AND b.execution_id = j.execution_id ORDER BY b.order_key LIMIT 1) AS "short_id!"
               FROM attempts a JOIN jobs j ON j.project_id = a.project_id AND j.id = a.job_id
               WHERE a.state IN ('offered', 'running') ORDER BY a.offered_at"#
        )
        .fetch_all(&self.pool)
        .await?;
        let running = rows.into_iter().map(|row| Running {
            worker: row.worker_id.into(),
            project: row.project_id.into(),
            build: row.short_id,
            platform: row.platform,
        });
        Ok(running.collect())
    }
}

/// Locks the execution of the attempt that this lease is, or was, for; gives the attempt's job as well. They are looked up without
/// a lock, as an attempt's place never changes.
pub(crate) async fn lock_leased(tx: &mut Tx, lease: Lease) -> Result<(LockedExecution<'_>, JobId)> {
    let row = sqlx::query!(
        "SELECT a.project_id, a.job_id, j.execution_id FROM attempts a
         JOIN jobs j ON j.project_id = a.project_id AND j.id = a.job_id
         WHERE a.id = $1 AND a.lease_token = $2 AND farm_is_holder(a.worker_id, $3)",
        lease.attempt.as_uuid(),
        lease.token.as_uuid(),
        lease.holder()
    )
    .fetch_optional(&mut **tx)
    .await?
    .ok_or(StoreError::Stale("the lease is not this one"))?;
    let execution = tx.lock_execution(row.project_id.into(), row.execution_id.into()).await?;
    Ok((execution, row.job_id.into()))
}

/// Notes something that happened to an attempt or a job of the execution.
pub(crate) async fn event(
    execution: &mut LockedExecution<'_>,
    kind: &str,
    what: &str,
    state: &str,
) -> Result<()> {
    let (project, id) = execution.ids();
    sqlx::query!(
        "SELECT farm_execution_event($1, $2, $3, jsonb_build_object('id', $4::text, 'state', $5::text))",
        project,
        id,
        kind,
        what,
        state
    )
    .fetch_one(&mut **execution)
    .await?;
    Ok(())
}
