//! Reading what happened, for followers: how far a build has come, and its attempts' streams, open or sealed.

use chrono::{DateTime, Utc};
use farm_types::{AttemptId, BuildId, ProjectId};
use uuid::Uuid;

use crate::{Result, Store, StoreError, fit};

/// How far a build has come: changes with each event of the build or of its execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// Events of the build.
    pub build: i64,
    /// Events of its execution.
    pub execution: i64,
}

/// How far an attempt's stream has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamEnd {
    /// Which attempt.
    pub attempt: AttemptId,
    /// Its platform; empty: a fetch, which is for none.
    pub platform: String,
    /// Which try, from 1.
    pub number: u32,
    /// Its last stored chunk.
    pub acked_seq: u64,
    /// It has ended.
    pub ended: bool,
}

/// A stored chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Its number.
    pub seq: u64,
    /// An encoded `farm.v1.AttemptEventList`.
    pub payload: Vec<u8>,
}

/// A frame of a sealed piece: what can be read by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The number of its first chunk.
    pub first_seq: u64,
    /// Where it begins in the blob.
    pub start: u64,
}

/// A piece of a stream as it lies in the object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The blob's name.
    pub blob: Uuid,
    /// The number of its last chunk.
    pub last_seq: u64,
    /// Its frames, the first one from the first chunk.
    pub frames: Vec<Frame>,
    /// Bytes of the blob.
    pub bytes: u64,
    /// Bytes of the chunks in it.
    pub raw_bytes: u64,
}

/// What comes next of an attempt's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamPart {
    /// Chunks; none: there is nothing more yet.
    Chunks(Vec<Chunk>),
    /// They lie in this piece.
    Sealed(Piece),
    /// The stream was removed, then.
    Removed(DateTime<Utc>),
}

/// What was noted of a build that has no attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Its place among the build's events.
    pub seq: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// What.
    pub text: String,
}

impl Store {
    /// What was noted of a build after the event `after`, up to `last`: of a copy what it has done.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn notes(
        &self,
        project: ProjectId,
        build: BuildId,
        (after, last): (i64, i64),
    ) -> Result<Vec<Note>> {
        let rows = sqlx::query!(
            r#"SELECT seq, at, coalesce(data ->> 'text', '') AS "text!" FROM events
               WHERE project_id = $1 AND stream_id = $2 AND seq > $3 AND seq <= $4 AND kind = 'build_note' ORDER BY seq"#,
            project.as_uuid(),
            build.as_uuid(),
            after,
            last
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| Note { seq: row.seq, at: row.at, text: row.text }).collect())
    }

    /// How far a build has come, and its state.
    ///
    /// # Errors
    /// There is no such build.
    pub async fn version(
        &self,
        project: ProjectId,
        build: BuildId,
    ) -> Result<(Version, farm_types::state::BuildState)> {
        let row = sqlx::query!(
            "SELECT b.event_seq, e.event_seq AS execution_seq, b.state FROM builds b
             JOIN executions e ON e.project_id = b.project_id AND e.id = b.execution_id
             WHERE b.project_id = $1 AND b.id = $2",
            project.as_uuid(),
            build.as_uuid()
        )
        .fetch_optional(&self.pool)
        .await?
        .ok_or(StoreError::NotFound("build"))?;
        Ok((Version { build: row.event_seq, execution: row.execution_seq }, crate::state(&row.state)?))
    }

    /// The streams of all attempts of a build, in the order of their making.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn streams(&self, project: ProjectId, build: BuildId) -> Result<Vec<StreamEnd>> {
        let rows = sqlx::query!(
            r#"SELECT a.id, CASE WHEN j.kind = 'fetch' THEN '' ELSE j.platform END AS "platform!", a.number, a.acked_seq, a.finished_at IS NOT NULL AS "ended!"
               FROM builds b JOIN jobs j ON j.project_id = b.project_id AND j.execution_id = b.execution_id
               JOIN attempts a ON a.project_id = j.project_id AND a.job_id = j.id
               WHERE b.project_id = $1 AND b.id = $2 ORDER BY a.offered_at, a.id"#,
            project.as_uuid(),
            build.as_uuid()
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(StreamEnd {
                    attempt: row.id.into(),
                    platform: row.platform,
                    number: fit(row.number)?,
                    acked_seq: fit(row.acked_seq)?,
                    ended: row.ended,
                })
            })
            .collect()
    }

    /// What comes after chunk `after` of an attempt's stream: at most `limit` chunks, or where they lie. One look, so that
    /// sealing at the same moment is seen as a whole or not at all.
    ///
    /// # Errors
    /// There is no such attempt.
    pub async fn stream_part(
        &self,
        project: ProjectId,
        attempt: AttemptId,
        after: u64,
        limit: i64,
    ) -> Result<StreamPart> {
        let after: i64 = fit(after)?;
        let rows = sqlx::query!(
            r#"SELECT a.log_removed_at, s.blob_id AS "blob?", s.last_seq AS "last_seq?",
                      s.frame_seqs AS "frame_seqs?", s.frame_starts AS "frame_starts?", s.bytes AS "bytes?",
                      s.raw_bytes AS "raw_bytes?", c.seq AS "seq?", c.payload AS "payload?"
               FROM attempts a
               LEFT JOIN sealed_logs s ON s.project_id = a.project_id AND s.attempt_id = a.id
                    AND s.first_seq <= $3::bigint + 1 AND s.last_seq > $3
               LEFT JOIN LATERAL (
                   SELECT seq, payload FROM attempt_chunks
                   WHERE s.blob_id IS NULL AND log_day = a.log_day AND project_id = a.project_id
                     AND attempt_id = a.id AND seq > $3
                   ORDER BY seq LIMIT $4) c ON true
               WHERE a.project_id = $1 AND a.id = $2 ORDER BY c.seq"#,
            project.as_uuid(),
            attempt.as_uuid(),
            after,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        let first = rows.first().ok_or(StoreError::NotFound("attempt"))?;
        if let Some(at) = first.log_removed_at {
            return Ok(StreamPart::Removed(at));
        }
        if let (Some(blob), Some(last_seq), Some(seqs), Some(starts), Some(bytes), Some(raw_bytes)) =
            (first.blob, first.last_seq, &first.frame_seqs, &first.frame_starts, first.bytes, first.raw_bytes)
        {
            let frames = seqs
                .iter()
                .zip(starts)
                .map(|(seq, start)| Ok(Frame { first_seq: fit(*seq)?, start: fit(*start)? }))
                .collect::<Result<_>>()?;
            return Ok(StreamPart::Sealed(Piece {
                blob,
                last_seq: fit(last_seq)?,
                frames,
                bytes: fit(bytes)?,
                raw_bytes: fit(raw_bytes)?,
            }));
        }
        let chunks = rows.into_iter().filter_map(|row| Some((row.seq?, row.payload?)));
        Ok(StreamPart::Chunks(
            chunks.map(|(seq, payload)| Ok(Chunk { seq: fit(seq)?, payload })).collect::<Result<_>>()?,
        ))
    }
}
