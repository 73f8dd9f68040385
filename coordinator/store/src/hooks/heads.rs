//! Where refs were, by the newest push about each: a late one, or one that is processed again, moves none back.

use farm_types::{Commit, RefName};

use super::deliveries::Waiting;
use crate::machines::leader::Epoch;
use crate::proof::LeaderTx;
use crate::{Result, Store};

impl Store {
    /// Notes where a delivery has seen a ref, and where that was before; `None`: it was deleted, and where it was is forgotten: should it be back there, that is news. False: a later delivery was about the same ref.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn see_ref(
        &self,
        epoch: Epoch,
        of: &Waiting,
        git_ref: &RefName,
        (commit, before): (Option<&Commit>, Option<&Commit>),
    ) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        if !of.is_read {
            read(&mut tx, of, (git_ref.as_str(), before, commit)).await?;
        }
        let seen = sqlx::query!(
            "INSERT INTO ref_heads (project_id, hook_id, git_ref, sequence, commit_id) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (project_id, hook_id, git_ref) DO UPDATE SET sequence = EXCLUDED.sequence, commit_id = EXCLUDED.commit_id,
                seen_at = farm_now(), gone_at = NULL, listed = CASE WHEN EXCLUDED.commit_id IS NULL THEN NULL ELSE ref_heads.listed END,
                placed = CASE WHEN EXCLUDED.commit_id IS NULL THEN NULL ELSE ref_heads.placed END
             WHERE ref_heads.sequence <= EXCLUDED.sequence",
            of.project.as_uuid(),
            of.hook.as_uuid(),
            git_ref.as_str(),
            of.sequence,
            commit.map(Commit::as_str)
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(seen.rows_affected() == 1)
    }

    /// Notes that a delivery says of no ref that it was moved.
    ///
    /// # Errors
    /// As of [`Self::see_ref`].
    pub async fn see_no_ref(&self, epoch: Epoch, of: &Waiting) -> Result<()> {
        if of.is_read {
            return Ok(());
        }
        let mut tx = self.begin_leading(epoch).await?;
        read(&mut tx, of, ("", None, None)).await?;
        tx.commit().await
    }
}

/// Notes what a delivery is about: it was read.
async fn read(
    tx: &mut LeaderTx,
    of: &Waiting,
    (pushes, before, commit): (&str, Option<&Commit>, Option<&Commit>),
) -> Result<()> {
    sqlx::query!(
        "UPDATE deliveries SET pushes = $4, moved_from = $5, moved_to = $6
         WHERE project_id = $1 AND hook_id = $2 AND id = $3 AND pushes IS DISTINCT FROM $4",
        of.project.as_uuid(),
        of.hook.as_uuid(),
        of.id,
        pushes,
        before.map(Commit::as_str),
        commit.map(Commit::as_str)
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
