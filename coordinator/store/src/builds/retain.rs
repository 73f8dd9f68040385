//! What is old goes: logs first, then builds with all that hangs on them, and sources that nobody uses.
//!
//! Rows go first, and the bytes that they named after them ([`crate::sources::sweep`]). What another row still needs stays: see each
//! function's premise. What was pushed to registries stays known (`pushed_digests`, `put_indexes`, `tag_heads`).

use std::time::Duration;

use farm_types::{ExecutionId, ProjectId};
use uuid::Uuid;

use crate::builds::outputs;
use crate::machines::leader::Epoch;
use crate::pool::Session;
use crate::proof::LockedExecution;
use crate::sources::sweep::doom;
use crate::{Result, Store, StoreError};

/// A look at a repository is kept for so long after its end.
pub const LOOKS: Duration = Duration::from_secs(24 * 3600);

impl Store {
    /// Removes the logs of at most `limit` attempts whose builds are all final for longer than `kept`. Answers how many.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn remove_logs(&self, epoch: Epoch, kept: Duration, limit: i64) -> Result<u64> {
        let mut tx = self.begin_leading(epoch).await?;
        let old = sqlx::query_scalar!(
            "SELECT a.id FROM attempts a JOIN jobs j ON j.project_id = a.project_id AND j.id = a.job_id
             WHERE a.log_removed_at IS NULL AND a.finished_at < farm_now() - make_interval(secs => $1)
               AND NOT EXISTS (
                SELECT FROM builds b WHERE b.project_id = j.project_id AND b.execution_id = j.execution_id
                AND (b.finished_at IS NULL OR b.finished_at >= farm_now() - make_interval(secs => $1)))
             ORDER BY a.finished_at, a.id LIMIT $2 FOR UPDATE OF a",
            kept.as_secs_f64(),
            limit
        )
        .fetch_all(&mut *tx)
        .await?;
        if old.is_empty() {
            return Ok(0);
        }
        let removed = sqlx::query!(
            "UPDATE attempts SET log_removed_at = farm_now(), log_open = false
             WHERE id = ANY($1) AND log_removed_at IS NULL AND finished_at IS NOT NULL",
            &old
        )
        .execute(&mut *tx)
        .await?;
        remove_streams(&mut tx, &old).await?;
        tx.commit().await?;
        Ok(removed.rows_affected())
    }

    /// Executions of at most `limit` builds that may be removed ([`Store::remove_execution`]), the oldest first.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn removable_executions(
        &self,
        kept: Duration,
        limit: i64,
    ) -> Result<Vec<(ProjectId, ExecutionId)>> {
        let rows = sqlx::query!(
            // In the order of the index, so that no more is looked at than is taken.
            "SELECT b.project_id, b.execution_id FROM builds b
             WHERE b.finished_at < farm_now() - make_interval(secs => $1) AND NOT farm_build_needed(
                  b.project_id, b.execution_id, farm_now() - make_interval(secs => $1))
             ORDER BY b.finished_at LIMIT $2",
            kept.as_secs_f64(),
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        let mut executions: Vec<(ProjectId, ExecutionId)> = Vec::with_capacity(rows.len());
        for row in rows {
            let execution = (row.project_id.into(), row.execution_id.into());
            if !executions.contains(&execution) {
                executions.push(execution);
            }
        }
        Ok(executions)
    }

    /// Looks at repositories that were over a day ago: what they have found was taken then.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn removable_looks(&self, limit: i64) -> Result<Vec<(ProjectId, ExecutionId)>> {
        let rows = sqlx::query!(
            "SELECT b.project_id, b.execution_id FROM builds b
             WHERE b.look AND b.finished_at < farm_now() - make_interval(secs => $1) AND NOT farm_build_needed(
                  b.project_id, b.execution_id, farm_now() - make_interval(secs => $1))
             ORDER BY b.finished_at LIMIT $2",
            LOOKS.as_secs_f64(),
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| (row.project_id.into(), row.execution_id.into())).collect())
    }

    /// Removes an execution and its builds with all that hangs on them, if all of them are final for longer than `kept`, no
    /// attempt lives, no other build retries one of them or took a result from them, and no tag of theirs has still to be
    /// looked at. Answers how many builds.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when it may not be removed (any more); [`StoreError::NotLeading`].
    pub async fn remove_execution(
        &self,
        epoch: Epoch,
        project: ProjectId,
        execution: ExecutionId,
        kept: Duration,
    ) -> Result<u64> {
        let mut tx = self.begin_leading(epoch).await?;
        let mut execution = tx.lock_execution(project, execution).await?;
        let (project_id, execution_id) = execution.ids();
        // Against a retry at the same moment, which holds the build that it retries.
        let builds = sqlx::query_scalar!(
            "SELECT id FROM builds WHERE project_id = $1 AND execution_id = $2 ORDER BY id FOR UPDATE",
            project_id,
            execution_id
        )
        .fetch_all(&mut *execution)
        .await?;
        let jobs = sqlx::query_scalar!(
            "SELECT id FROM jobs WHERE project_id = $1 AND execution_id = $2 ORDER BY id FOR UPDATE",
            project_id,
            execution_id
        )
        .fetch_all(&mut *execution)
        .await?;
        let attempts = sqlx::query_scalar!(
            "SELECT id FROM attempts WHERE project_id = $1 AND job_id = ANY($2) ORDER BY id FOR UPDATE",
            project_id,
            &jobs
        )
        .fetch_all(&mut *execution)
        .await?;
        // A look of its own, after all locks.
        let needed = sqlx::query_scalar!(
            r#"SELECT farm_build_needed($1, $2, farm_now() - make_interval(secs => $3)) AS "needed!""#,
            project_id,
            execution_id,
            kept.as_secs_f64()
        )
        .fetch_one(&mut *execution)
        .await?;
        if needed {
            return Err(StoreError::Stale("the build is still needed"));
        }
        remove_streams(&mut execution, &attempts).await?;
        outputs::remove(&mut execution, project_id, &attempts).await?;
        remove_publications(&mut execution, &builds).await?;
        sqlx::query!(
            "DELETE FROM step_timings WHERE project_id = $1 AND attempt_id = ANY($2)",
            project_id,
            &attempts
        )
        .execute(&mut *execution)
        .await?;
        sqlx::query!("DELETE FROM attempts WHERE project_id = $1 AND id = ANY($2)", project_id, &attempts)
            .execute(&mut *execution)
            .await?;
        sqlx::query!(
            "DELETE FROM job_dependencies WHERE project_id = $1 AND job_id = ANY($2)",
            project_id,
            &jobs
        )
        .execute(&mut *execution)
        .await?;
        sqlx::query!("DELETE FROM jobs WHERE project_id = $1 AND id = ANY($2)", project_id, &jobs)
            .execute(&mut *execution)
            .await?;
        sqlx::query!(
            "DELETE FROM events WHERE project_id = $1 AND (stream_id = $2 OR stream_id = ANY($3))",
            project_id,
            execution_id,
            &builds
        )
        .execute(&mut *execution)
        .await?;
        let removed =
            sqlx::query!("DELETE FROM builds WHERE project_id = $1 AND id = ANY($2)", project_id, &builds)
                .execute(&mut *execution)
                .await?;
        sqlx::query!("DELETE FROM executions WHERE project_id = $1 AND id = $2", project_id, execution_id)
            .execute(&mut *execution)
            .await?;
        tx.commit().await?;
        Ok(removed.rows_affected())
    }

    /// Removes at most `limit` snapshots that were not used for `kept`, that no build wants that isn't final, and that no
    /// living upload session was told of. Their objects go by [`Store::remove_objects`]. Answers how many.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn remove_snapshots(&self, epoch: Epoch, kept: Duration, limit: i64) -> Result<u64> {
        let mut tx = self.begin_leading(epoch).await?;
        // Whoever submits, retries or finishes an upload holds the row first, too. One that is held is used just now.
        let old = sqlx::query!(
            "SELECT project_id, tree_id FROM snapshots WHERE last_used_at < farm_now() - make_interval(secs => $1)
               AND NOT farm_snapshot_needed(project_id, tree_id)
             ORDER BY last_used_at LIMIT $2 FOR UPDATE SKIP LOCKED",
            kept.as_secs_f64(),
            limit
        )
        .fetch_all(&mut *tx)
        .await?;
        let (projects, trees): (Vec<Uuid>, Vec<Vec<u8>>) =
            old.into_iter().map(|row| (row.project_id, row.tree_id)).unzip();
        let removed = sqlx::query!(
            "DELETE FROM snapshots s USING unnest($1::uuid[], $2::bytea[]) AS old (project_id, tree_id)
             WHERE s.project_id = old.project_id AND s.tree_id = old.tree_id
               AND s.last_used_at < farm_now() - make_interval(secs => $3)
               AND NOT farm_snapshot_needed(s.project_id, s.tree_id)",
            &projects,
            &trees,
            kept.as_secs_f64()
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(removed.rows_affected())
    }
}

/// Removes what these attempts have said, sealed or not.
async fn remove_streams(tx: &mut Session, attempts: &[Uuid]) -> Result<()> {
    sqlx::query!(
        "DELETE FROM attempt_chunks c USING attempts a
         WHERE a.id = ANY($1) AND c.log_day = a.log_day AND c.project_id = a.project_id AND c.attempt_id = a.id",
        attempts
    )
    .execute(&mut *tx)
    .await?;
    let sealed = sqlx::query!(
        "DELETE FROM sealed_logs s USING attempts a
         WHERE a.id = ANY($1) AND s.project_id = a.project_id AND s.attempt_id = a.id
         RETURNING s.project_id, s.blob_id",
        attempts
    )
    .fetch_all(&mut *tx)
    .await?;
    let (projects, blobs): (Vec<Uuid>, Vec<Uuid>) =
        sealed.into_iter().map(|row| (row.project_id, row.blob_id)).unzip();
    let doomed = doom(tx, &projects, &blobs).await?;
    if doomed == blobs.len() { Ok(()) } else { Err(StoreError::corrupt("a sealed piece without a blob")) }
}

/// Removes the publications of these builds of the execution, which have ended; what was put stays known.
async fn remove_publications(execution: &mut LockedExecution<'_>, builds: &[Uuid]) -> Result<()> {
    let (project, _) = execution.ids();
    sqlx::query!(
        "INSERT INTO put_indexes (project_id, registry, repository, digest, media_type, manifests, put_at)
         SELECT DISTINCT ON (d.registry, d.repository, p.index_digest)
                d.project_id, d.registry, d.repository, p.index_digest, p.index_media_type, p.manifests,
                coalesce(d.settled_at, p.created_at)
         FROM publications p JOIN destinations d ON d.project_id = p.project_id AND d.publication_id = p.id
         WHERE p.project_id = $1 AND p.build_id = ANY($2)
         ORDER BY d.registry, d.repository, p.index_digest, p.created_at DESC
         ON CONFLICT (project_id, registry, repository, digest)
         DO UPDATE SET put_at = greatest(put_indexes.put_at, EXCLUDED.put_at)",
        project,
        builds
    )
    .execute(&mut **execution)
    .await?;
    let publications = sqlx::query_scalar!(
        "SELECT id FROM publications WHERE project_id = $1 AND build_id = ANY($2)",
        project,
        builds
    )
    .fetch_all(&mut **execution)
    .await?;
    sqlx::query!(
        "DELETE FROM tags WHERE project_id = $1 AND publication_id = ANY($2)",
        project,
        &publications
    )
    .execute(&mut **execution)
    .await?;
    sqlx::query!(
        "DELETE FROM destinations WHERE project_id = $1 AND publication_id = ANY($2)",
        project,
        &publications
    )
    .execute(&mut **execution)
    .await?;
    sqlx::query!("DELETE FROM publications WHERE project_id = $1 AND id = ANY($2)", project, &publications)
        .execute(&mut **execution)
        .await?;
    Ok(())
}
