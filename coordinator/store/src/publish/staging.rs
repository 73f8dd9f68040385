//! What untrusted machines have pushed to the staging registry: on its way to its destinations, and out of there.
//!
//! Each attempt has a repository of its own there, `PROJECT_ID/ATTEMPT_ID`. A row of `pushed_digests` with that name says that something
//! is in the staging registry, one with a destination's that it was copied there. So a copy that is cut off begins again, and
//! what ended is not repeated.

use farm_types::{AttemptId, BuildId, Digest, ProjectId, Repository};
use uuid::Uuid;

use crate::machines::leader::Epoch;
use crate::proof::LeaderTx;
use crate::publish::garbage::hold_off_cleanings;
use crate::publish::publications::Pushed;
use crate::{Result, Store, StoreError, digest};

/// Something in the staging registry that nobody needs any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unneeded {
    /// Whose.
    pub project: ProjectId,
    /// By which attempt it was pushed.
    pub attempt: AttemptId,
    /// What.
    pub digest: Digest,
}

impl Store {
    /// Says whether a build's images may be copied to these repositories (now, and for a moment): it is being published, and none of
    /// them is being cleaned.
    ///
    /// # Errors
    /// [`StoreError::Stale`]: they may not; or another coordinator leads.
    pub async fn may_copy(
        &self,
        epoch: Epoch,
        project: ProjectId,
        build: BuildId,
        to: &[Repository],
    ) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        let to: Vec<String> = to.iter().map(ToString::to_string).collect();
        hold_off_cleanings(tx.tx(), &to).await?;
        is_publishing(&mut tx, project, build).await?;
        tx.commit().await
    }

    /// Notes that what a build's attempt has pushed is in that repository, too.
    ///
    /// # Errors
    /// [`StoreError::Stale`]: the build isn't publishing any more; or another coordinator leads.
    pub async fn copied(
        &self,
        epoch: Epoch,
        (project, build): (ProjectId, BuildId),
        pushed: &Pushed,
        to: &Repository,
    ) -> Result<()> {
        let Some(digest) = pushed.result.digest else { return Ok(()) };
        let mut tx = self.begin_leading(epoch).await?;
        is_publishing(&mut tx, project, build).await?;
        sqlx::query!(
            "INSERT INTO pushed_digests (project_id, registry, repository, digest, attempt_id, media_type)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (project_id, registry, repository, digest, attempt_id)
             DO UPDATE SET fate = NULL, pushed_at = farm_now()",
            project.as_uuid(),
            to.registry(),
            to.name(),
            &digest.as_bytes()[..],
            pushed.attempt.as_uuid(),
            pushed.result.media_type
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }

    /// What is in this staging registry of builds that have all ended; at most `limit`, and none of `except`.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn unneeded(&self, staging: &str, except: &[AttemptId], limit: i64) -> Result<Vec<Unneeded>> {
        let except: Vec<Uuid> = except.iter().map(|attempt| attempt.as_uuid()).collect();
        let rows = sqlx::query!(
            "SELECT p.project_id, p.attempt_id, p.digest FROM pushed_digests p
             WHERE p.registry = $1 AND p.fate IS NULL AND p.attempt_id <> ALL($2)
               AND p.repository = p.project_id::text || '/' || p.attempt_id::text
               AND NOT EXISTS (
                   SELECT FROM attempts a
                   JOIN jobs own ON own.project_id = a.project_id AND own.id = a.job_id
                   JOIN jobs j ON j.project_id = own.project_id AND (j.id = own.id OR j.taken_from = own.id)
                   JOIN builds b ON b.project_id = j.project_id AND b.execution_id = j.execution_id
                   WHERE a.project_id = p.project_id AND a.id = p.attempt_id AND b.finished_at IS NULL)
             ORDER BY p.pushed_at LIMIT $3",
            staging,
            &except,
            limit
        )
        .fetch_all(&self.pool)
        .await?;
        let read = rows.into_iter().map(|row| {
            Ok(Unneeded {
                project: row.project_id.into(),
                attempt: row.attempt_id.into(),
                digest: digest(&row.digest)?,
            })
        });
        read.collect()
    }

    /// Notes what became of something in the staging registry: it is gone, or it stays as the registry deletes nothing.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn unstaged(&self, epoch: Epoch, staging: &str, of: &Unneeded, is_gone: bool) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        sqlx::query!(
            "UPDATE pushed_digests SET fate = $4 WHERE project_id = $1 AND attempt_id = $2 AND digest = $3 AND fate IS NULL
               AND registry = $5 AND repository = project_id::text || '/' || attempt_id::text",
            of.project.as_uuid(),
            of.attempt.as_uuid(),
            &of.digest.as_bytes()[..],
            if is_gone { "removed" } else { "kept" },
            staging
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }
}

async fn is_publishing(tx: &mut LeaderTx, project: ProjectId, build: BuildId) -> Result<()> {
    let held = sqlx::query_scalar!(
        "SELECT id FROM builds WHERE project_id = $1 AND id = $2 AND state = 'publishing' FOR SHARE",
        project.as_uuid(),
        build.as_uuid()
    )
    .fetch_optional(&mut **tx)
    .await?;
    held.map(drop).ok_or(StoreError::Stale("the build is not publishing any more"))
}
