//! Reading what happened: for followers.

use farm_types::{AttemptId, BuildId, ProjectId};

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
    /// Its platform.
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

impl Store {
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
            r#"SELECT a.id, j.platform, a.number, a.acked_seq, a.finished_at IS NOT NULL AS "ended!"
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

    /// At most `limit` chunks of an attempt's stream after the given one.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn chunks(
        &self,
        project: ProjectId,
        attempt: AttemptId,
        after: u64,
        limit: i64,
    ) -> Result<Vec<Chunk>> {
        let after: i64 = fit(after)?;
        let rows = sqlx::query!(
            "SELECT c.seq, c.payload FROM attempts a
             JOIN attempt_chunks c ON c.log_day = a.log_day AND c.project_id = a.project_id AND c.attempt_id = a.id
             WHERE a.project_id = $1 AND a.id = $2 AND c.seq > $3 ORDER BY c.seq LIMIT $4",
            project.as_uuid(),
            attempt.as_uuid(),
            after,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(|row| Ok(Chunk { seq: fit(row.seq)?, payload: row.payload })).collect()
    }
}
