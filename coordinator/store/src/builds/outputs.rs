//! What attempts make for the client: rows that say where the pieces of an output lie.
//!
//! An output grows only while its attempt's lease lives, piece after piece without gaps, and is complete with the piece
//! that names its digest. A client is given outputs of succeeded attempts only. Pieces go when the client has released
//! them, a while after the end of all builds that wanted them or after somebody last fetched, or when their attempt came to
//! nothing; the row that tells how much there was stays as long as the attempt's.

use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_types::{BuildId, Digest, ExecutionId, JobId, Platform, ProjectId};
use uuid::Uuid;

use crate::machines::leader::Epoch;
use crate::pool::Session;
use crate::sources::sweep::doom;
use crate::work::attempts::Lease;
use crate::{Result, Store, StoreError, digest, fit};

/// How far an output has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growing {
    /// Whose.
    pub project: ProjectId,
    /// All pieces up to this one are stored.
    pub acked_seq: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// How many outputs its attempt is to make.
    pub exports: u64,
}

/// A piece whose bytes are stored and are to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewPiece {
    /// Which output of its attempt.
    pub export: u32,
    /// From 1.
    pub seq: u64,
    /// Bytes.
    pub size: u64,
    /// Where they lie.
    pub blob: Uuid,
    /// Of the whole output; in its last piece.
    pub digest: Option<Digest>,
}

/// An output, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputRecord {
    /// Which of the spec's exports, from 0.
    pub export: u32,
    /// How long it is.
    pub bytes: u64,
    /// Of all its bytes.
    pub digest: Digest,
    /// Since when its bytes are gone.
    pub removed_at: Option<DateTime<Utc>>,
}

/// A piece as it lies in the object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where in the output it begins.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// The blob's name.
    pub blob: Uuid,
}

impl Store {
    /// How far an output of a live attempt has come.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when the lease isn't live.
    pub async fn growing_output(&self, lease: Lease, export: u32) -> Result<Growing> {
        let row = sqlx::query!(
            r#"SELECT a.project_id, coalesce(o.acked_seq, 0) AS "acked_seq!", coalesce(o.bytes, 0) AS "bytes!",
                      jsonb_array_length(coalesce(e.spec -> 'exports', '[]')) AS "exports!"
               FROM attempts a
               JOIN jobs j ON j.project_id = a.project_id AND j.id = a.job_id
               JOIN executions e ON e.project_id = j.project_id AND e.id = j.execution_id
               LEFT JOIN outputs o
                 ON o.project_id = a.project_id AND o.attempt_id = a.id AND o.export = $3::bigint
               WHERE a.id = $1 AND a.lease_token = $2 AND a.state IN ('offered', 'running')
                 AND farm_is_holder(a.worker_id, $4)"#,
            lease.attempt.as_uuid(),
            lease.token.as_uuid(),
            i64::from(export),
            lease.holder()
        )
        .fetch_optional(&self.pool)
        .await?
        .ok_or(StoreError::Stale("the lease has ended"))?;
        Ok(Growing {
            project: row.project_id.into(),
            acked_seq: fit(row.acked_seq)?,
            bytes: fit(row.bytes)?,
            exports: fit(row.exports)?,
        })
    }

    /// Makes a piece known whose bytes are stored. Answers the last one that is stored without a gap: a repeated piece is
    /// not known twice, and one after a gap, or after the end, not at all.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when the lease isn't live.
    pub async fn add_output_piece(&self, lease: Lease, piece: NewPiece) -> Result<u64> {
        let export: i32 = fit(piece.export)?;
        let mut tx = self.begin().await?;
        sqlx::query!(
            "INSERT INTO outputs (project_id, attempt_id, export)
             SELECT project_id, id, $3 FROM attempts
             WHERE id = $1 AND lease_token = $2 AND state IN ('offered', 'running')
               AND farm_is_holder(worker_id, $4) ON CONFLICT DO NOTHING",
            lease.attempt.as_uuid(),
            lease.token.as_uuid(),
            export,
            lease.holder()
        )
        .execute(&mut *tx)
        .await?;
        let stored = sqlx::query_scalar!(
            "WITH next AS (
                UPDATE outputs o SET acked_seq = o.acked_seq + 1, bytes = o.bytes + $5::integer, digest = $7,
                       completed_at = CASE WHEN $7::bytea IS NULL THEN NULL ELSE farm_now() END
                FROM attempts a
                WHERE a.id = $1 AND a.lease_token = $2 AND a.state IN ('offered', 'running')
                  AND farm_is_holder(a.worker_id, $8) AND o.project_id = a.project_id AND o.attempt_id = a.id AND o.export = $3
                  AND o.acked_seq = $4::bigint - 1 AND o.completed_at IS NULL AND o.removed_at IS NULL
                RETURNING o.project_id, o.acked_seq, o.bytes)
             INSERT INTO output_pieces (project_id, attempt_id, export, seq, start, size, blob_id)
             SELECT project_id, $1, $3, acked_seq, bytes - $5, $5, $6 FROM next RETURNING seq",
            lease.attempt.as_uuid(),
            lease.token.as_uuid(),
            export,
            fit::<_, i64>(piece.seq)?,
            fit::<_, i32>(piece.size)?,
            piece.blob,
            piece.digest.map(|digest| digest.as_bytes().to_vec()),
            lease.holder()
        )
        .fetch_optional(&mut *tx)
        .await?;
        tx.commit().await?;
        match stored {
            Some(seq) => fit(seq),
            // A statement of its own: see `append_chunk`.
            None => Ok(self.growing_output(lease, piece.export).await?.acked_seq),
        }
    }

    /// How many of the first `exports` outputs of a live attempt are complete.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn complete_outputs(&self, lease: Lease, exports: usize) -> Result<usize> {
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM outputs o
               JOIN attempts a ON a.project_id = o.project_id AND a.id = o.attempt_id
               WHERE a.id = $1 AND a.lease_token = $2 AND o.completed_at IS NOT NULL AND o.export < $3::bigint"#,
            lease.attempt.as_uuid(),
            lease.token.as_uuid(),
            fit::<_, i64>(exports)?
        )
        .fetch_one(&self.pool)
        .await?;
        fit(count)
    }

    /// The outputs of an execution's succeeded attempts, by job.
    pub(crate) async fn output_records(
        &self,
        project: ProjectId,
        execution: ExecutionId,
    ) -> Result<Vec<(JobId, OutputRecord)>> {
        let rows = sqlx::query!(
            r#"SELECT a.job_id, o.export, o.bytes, o.digest AS "digest!", o.removed_at FROM outputs o
               JOIN attempts a ON a.project_id = o.project_id AND a.id = o.attempt_id AND a.state = 'succeeded'
               JOIN jobs j ON j.project_id = a.project_id AND j.id = a.job_id
               WHERE o.project_id = $1 AND j.execution_id = $2 AND o.completed_at IS NOT NULL ORDER BY o.export"#,
            project.as_uuid(),
            execution.as_uuid()
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| {
                let record = OutputRecord {
                    export: fit(row.export)?,
                    bytes: fit(row.bytes)?,
                    digest: digest(&row.digest)?,
                    removed_at: row.removed_at,
                };
                Ok((row.job_id.into(), record))
            })
            .collect()
    }

    /// The pieces of a platform's output from this byte on, the first first; `None` when there is no such output, or its
    /// bytes are gone.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn output_pieces(
        &self,
        project: ProjectId,
        build: BuildId,
        platform: &Platform,
        export: u32,
        from: u64,
    ) -> Result<Option<Vec<Piece>>> {
        let Ok(export) = i32::try_from(export) else { return Ok(None) };
        let attempt = sqlx::query_scalar!(
            "SELECT o.attempt_id FROM builds b
             JOIN jobs j ON j.project_id = b.project_id AND j.execution_id = b.execution_id AND j.platform = $3
             JOIN attempts a ON a.project_id = j.project_id AND a.job_id = j.id AND a.state = 'succeeded'
             JOIN outputs o ON o.project_id = a.project_id AND o.attempt_id = a.id AND o.export = $4
             WHERE b.project_id = $1 AND b.id = $2 AND o.completed_at IS NOT NULL AND o.removed_at IS NULL",
            project.as_uuid(),
            build.as_uuid(),
            platform.to_string(),
            export
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(attempt) = attempt else { return Ok(None) };
        let rows = sqlx::query!(
            "SELECT start, size, blob_id FROM output_pieces
             WHERE project_id = $1 AND attempt_id = $2 AND export = $3 AND start + size > $4 ORDER BY seq",
            project.as_uuid(),
            attempt,
            export,
            i64::try_from(from).unwrap_or(i64::MAX)
        )
        .fetch_all(&self.pool)
        .await?;
        let pieces = rows
            .into_iter()
            .map(|row| Ok(Piece { start: fit(row.start)?, size: fit(row.size)?, blob: row.blob_id }));
        pieces.collect::<Result<_>>().map(Some)
    }

    /// A client fetches from a build's outputs: none of its execution counts as forgotten for a while more.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn note_fetch(&self, project: ProjectId, build: BuildId) -> Result<()> {
        sqlx::query!(
            "UPDATE builds SET fetched_at = farm_now() WHERE project_id = $1 AND id = $2",
            project.as_uuid(),
            build.as_uuid()
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The client of a build has what it wants of its outputs. Those of an execution that another build wants, too, stay.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn release_outputs(&self, project: ProjectId, build: BuildId) -> Result<()> {
        sqlx::query!(
            "UPDATE outputs o SET released_at = farm_now() FROM builds b
             JOIN jobs j ON j.project_id = b.project_id AND j.execution_id = b.execution_id
             JOIN attempts a ON a.project_id = j.project_id AND a.job_id = j.id
             WHERE b.project_id = $1 AND b.id = $2 AND o.project_id = a.project_id AND o.attempt_id = a.id
               AND o.released_at IS NULL AND NOT EXISTS (
                SELECT FROM builds other WHERE other.project_id = b.project_id
                AND other.execution_id = b.execution_id AND other.id <> b.id)",
            project.as_uuid(),
            build.as_uuid()
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Removes the pieces of at most `limit` outputs that nobody is to fetch any more: released, of an attempt that came to
    /// nothing, or of builds that are all final, and of which nothing was fetched, for longer than `kept` (`None`: these
    /// stay). Answers how many.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn remove_outputs(&self, epoch: Epoch, kept: Option<Duration>, limit: i64) -> Result<usize> {
        let mut tx = self.begin_leading(epoch).await?;
        let old = sqlx::query!(
            "SELECT o.project_id, o.attempt_id, o.export FROM outputs o
             JOIN attempts a ON a.project_id = o.project_id AND a.id = o.attempt_id
             JOIN jobs j ON j.project_id = a.project_id AND j.id = a.job_id
             WHERE o.removed_at IS NULL AND a.finished_at IS NOT NULL AND (
                a.state <> 'succeeded' OR o.released_at IS NOT NULL OR ($1::float8 IS NOT NULL AND NOT EXISTS (
                    SELECT FROM builds b WHERE b.project_id = j.project_id AND b.execution_id = j.execution_id
                    AND (b.finished_at IS NULL
                         OR greatest(b.finished_at, b.fetched_at) >= farm_now() - make_interval(secs => $1)))))
             ORDER BY o.created_at LIMIT $2 FOR UPDATE OF o SKIP LOCKED",
            kept.map(|kept| kept.as_secs_f64()),
            limit
        )
        .fetch_all(&mut *tx)
        .await?;
        for row in &old {
            sqlx::query!(
                "UPDATE outputs SET removed_at = farm_now()
                 WHERE project_id = $1 AND attempt_id = $2 AND export = $3 AND removed_at IS NULL",
                row.project_id,
                row.attempt_id,
                row.export
            )
            .execute(&mut *tx)
            .await?;
            remove_pieces(&mut tx, row.project_id, &[row.attempt_id], Some(row.export)).await?;
        }
        tx.commit().await?;
        Ok(old.len())
    }
}

/// Removes all that these attempts have put out, and that they did.
pub(crate) async fn remove(tx: &mut Session, project: Uuid, attempts: &[Uuid]) -> Result<()> {
    remove_pieces(tx, project, attempts, None).await?;
    sqlx::query!("DELETE FROM outputs WHERE project_id = $1 AND attempt_id = ANY($2)", project, attempts)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

async fn remove_pieces(
    tx: &mut Session,
    project: Uuid,
    attempts: &[Uuid],
    export: Option<i32>,
) -> Result<()> {
    let blobs = sqlx::query_scalar!(
        "DELETE FROM output_pieces WHERE project_id = $1 AND attempt_id = ANY($2) AND ($3::integer IS NULL OR export = $3)
         RETURNING blob_id",
        project,
        attempts,
        export
    )
    .fetch_all(&mut *tx)
    .await?;
    let projects = vec![project; blobs.len()];
    let doomed = doom(tx, &projects, &blobs).await?;
    if doomed == blobs.len() {
        Ok(())
    } else {
        Err(StoreError::corrupt("a piece of an output without a blob"))
    }
}
