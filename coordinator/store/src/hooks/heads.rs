//! Where refs were, by the newest delivery about each: a late one, or one that is processed again, moves none back.

use farm_types::{Commit, RefName};

use super::deliveries::Waiting;
use crate::machines::leader::Epoch;
use crate::{Result, Store};

impl Store {
    /// Notes where a delivery has seen a ref; `None`: it was deleted. False: a later delivery was about the same ref.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn see_ref(
        &self,
        epoch: Epoch,
        of: &Waiting,
        git_ref: &RefName,
        commit: Option<&Commit>,
    ) -> Result<bool> {
        let mut tx = self.begin_leading(epoch).await?;
        let seen = sqlx::query!(
            "INSERT INTO ref_heads (project_id, hook_id, git_ref, sequence, commit_id) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (project_id, hook_id, git_ref) DO UPDATE SET sequence = EXCLUDED.sequence, commit_id = EXCLUDED.commit_id,
                seen_at = farm_now()
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
}
