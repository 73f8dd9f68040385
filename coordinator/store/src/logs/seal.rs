//! Streams of attempts that have ended: out of Postgres into the object store.
//!
//! A piece of a stream is read, written as a blob, and noted; in the transaction that notes it its chunks go. Until then the
//! chunks count, from then on the blob: no reader sees both or neither. A chunk that comes after that is taken as ever and
//! becomes a piece of its own.

use std::time::Duration;

use chrono::NaiveDate;
use farm_types::{AttemptId, ProjectId};
use uuid::Uuid;

use crate::logs::events::{Chunk, Piece};
use crate::machines::leader::Epoch;
use crate::unreadable::readable;
use crate::{Result, Store, StoreError, fit};

/// A writer of chunks waits so long at most while a partition is dropped.
const PATIENCE: Duration = Duration::from_millis(200);

/// What the bytes of a blob are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlobKind {
    /// Objects of snapshots, end to end.
    Pack,
    /// A piece of an attempt's stream.
    Log,
    /// A piece of what an attempt made for the client.
    Output,
}

impl BlobKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Pack => "pack",
            Self::Log => "log",
            Self::Output => "output",
        }
    }
}

/// An attempt whose stream is to be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsealed {
    /// Whose.
    pub project: ProjectId,
    /// Which.
    pub attempt: AttemptId,
    /// The last chunk that is sealed; 0: none.
    pub sealed_seq: u64,
}

impl Store {
    /// Notes a name for bytes that are about to be written.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn name_blob(&self, project: ProjectId, kind: BlobKind) -> Result<Uuid> {
        let id = Uuid::now_v7();
        sqlx::query!(
            "INSERT INTO blobs (project_id, id, kind) VALUES ($1, $2, $3)",
            project.as_uuid(),
            id,
            kind.as_str()
        )
        .execute(&self.pool)
        .await?;
        Ok(id)
    }

    /// Attempts with chunks that are to be sealed: they have ended, and all builds that wanted them are final for
    /// `settled`; without those that are put off. The oldest first.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn unsealed(
        &self,
        settled: Duration,
        put_off: &[AttemptId],
        limit: i64,
    ) -> Result<Vec<Unsealed>> {
        let rows = sqlx::query!(
            "SELECT a.project_id, a.id, a.sealed_seq FROM attempts a
             JOIN jobs j ON j.project_id = a.project_id AND j.id = a.job_id
             WHERE a.log_open AND a.finished_at <= farm_now() - make_interval(secs => $1) AND a.id <> ALL($3)
               AND NOT EXISTS (
                SELECT FROM builds b WHERE b.project_id = j.project_id AND b.execution_id = j.execution_id
                AND (b.finished_at IS NULL OR b.finished_at > farm_now() - make_interval(secs => $1)))
             ORDER BY a.finished_at, a.id LIMIT $2",
            settled.as_secs_f64(),
            limit,
            &put_off.iter().map(|id| id.as_uuid()).collect::<Vec<_>>()
        )
        .fetch_all(&self.pool)
        .await?;
        let unsealed = rows.into_iter().filter_map(|row| {
            let read = fit(row.sealed_seq).map(|sealed_seq| Unsealed {
                project: row.project_id.into(),
                attempt: row.id.into(),
                sealed_seq,
            });
            readable("an attempt's log", row.id, read)
        });
        Ok(unsealed.collect())
    }

    /// At most `limit` chunks of an attempt's stream that lie in Postgres, after the given one.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn open_chunks(
        &self,
        project: ProjectId,
        attempt: AttemptId,
        after: u64,
        limit: i64,
    ) -> Result<Vec<Chunk>> {
        let rows = sqlx::query!(
            "SELECT c.seq, c.payload FROM attempts a
             JOIN attempt_chunks c ON c.log_day = a.log_day AND c.project_id = a.project_id AND c.attempt_id = a.id
             WHERE a.project_id = $1 AND a.id = $2 AND c.seq > $3 ORDER BY c.seq LIMIT $4",
            project.as_uuid(),
            attempt.as_uuid(),
            fit::<u64, i64>(after)?,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(|row| Ok(Chunk { seq: fit(row.seq)?, payload: row.payload })).collect()
    }

    /// Notes a piece whose bytes are written, and removes its chunks. False when there may be more to seal.
    ///
    /// # Errors
    /// [`StoreError::NotLeading`] when another coordinator leads; [`StoreError::Stale`] when the piece is not the next one, or the
    /// log was removed.
    pub async fn seal(&self, epoch: Epoch, attempt: &Unsealed, piece: &Piece) -> Result<bool> {
        let Some(first) = piece.frames.first() else {
            return Err(StoreError::corrupt("a sealed piece without a frame"));
        };
        let (first_seq, last_seq): (i64, i64) = (fit(first.first_seq)?, fit(piece.last_seq)?);
        let mut tx = self.begin_leading(epoch).await?;
        let sealed = sqlx::query!(
            r#"UPDATE attempts SET sealed_seq = $4, log_open = acked_seq > $4
               WHERE project_id = $1 AND id = $2 AND sealed_seq = $3::bigint - 1 AND acked_seq >= $4
                 AND finished_at IS NOT NULL AND log_removed_at IS NULL
               RETURNING log_day, log_open"#,
            attempt.project.as_uuid(),
            attempt.attempt.as_uuid(),
            first_seq,
            last_seq
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::Stale("the stream is not what it was"))?;
        let seqs: Vec<i64> = piece.frames.iter().map(|frame| fit(frame.first_seq)).collect::<Result<_>>()?;
        let starts: Vec<i64> = piece.frames.iter().map(|frame| fit(frame.start)).collect::<Result<_>>()?;
        sqlx::query!(
            "INSERT INTO sealed_logs (project_id, attempt_id, first_seq, last_seq, blob_id, frame_seqs, frame_starts,
                                      bytes, raw_bytes)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            attempt.project.as_uuid(),
            attempt.attempt.as_uuid(),
            first_seq,
            last_seq,
            piece.blob,
            &seqs,
            &starts,
            fit::<u64, i64>(piece.bytes)?,
            fit::<u64, i64>(piece.raw_bytes)?
        )
        .execute(&mut *tx)
        .await?;
        let removed = sqlx::query!(
            "DELETE FROM attempt_chunks
             WHERE log_day = $1 AND project_id = $2 AND attempt_id = $3 AND seq BETWEEN $4 AND $5",
            sealed.log_day,
            attempt.project.as_uuid(),
            attempt.attempt.as_uuid(),
            first_seq,
            last_seq
        )
        .execute(&mut *tx)
        .await?;
        if removed.rows_affected() != piece.last_seq - first.first_seq + 1 {
            return Err(StoreError::corrupt("a sealed piece has other chunks than the stream"));
        }
        tx.commit().await?;
        Ok(!sealed.log_open)
    }

    /// Notes that all chunks of an attempt are sealed, also where there was none. False when one has come since.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn close_stream(&self, epoch: Epoch, attempt: &Unsealed) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        let closed = sqlx::query!(
            "UPDATE attempts SET log_open = false
             WHERE project_id = $1 AND id = $2 AND log_open AND sealed_seq = acked_seq AND finished_at IS NOT NULL",
            attempt.project.as_uuid(),
            attempt.attempt.as_uuid()
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(closed.rows_affected() == 1)
    }

    /// Days with a log partition that lie behind: before yesterday.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn past_log_partitions(&self) -> Result<Vec<NaiveDate>> {
        let days = sqlx::query_scalar!(
            r#"SELECT to_date(right(child.relname::text, 8), 'YYYYMMDD') AS "day!"
               FROM pg_inherits i JOIN pg_class child ON child.oid = i.inhrelid
               WHERE i.inhparent = 'attempt_chunks'::regclass AND child.relname ~ '^attempt_chunks_[0-9]{8}$'
                 AND to_date(right(child.relname::text, 8), 'YYYYMMDD')
                     < (farm_now() AT TIME ZONE 'UTC')::date - 1
               ORDER BY 1"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(days)
    }

    /// Drops the log partition of a day if all that lay in it is sealed or gone; false when it isn't, or when there was no
    /// moment for it: writers of chunks are not kept waiting.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn drop_log_partition(&self, epoch: Epoch, day: NaiveDate) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        let dropped = sqlx::query_scalar!(
            r#"SELECT farm_drop_log_partition($1, make_interval(secs => $2)) AS "dropped!""#,
            day,
            PATIENCE.as_secs_f64()
        )
        .fetch_one(&mut *tx)
        .await;
        match dropped {
            Ok(dropped) => {
                tx.commit().await?;
                Ok(dropped)
            }
            // SQLSTATE 55P03: no lock in time.
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("55P03") => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
