//! How a delivery's pass ends: it is over, goes on, or is tried again.

use std::time::Duration;

use super::deliveries::{DeliveryState, End, Waiting};
use crate::machines::leader::Epoch;
use crate::proof::LeaderTx;
use crate::{Result, Store, StoreError};

/// A push is made up for so often.
const MADE_UP: i32 = 3;

impl Store {
    /// Ends a delivery that waits. What was done for it and isn't in the same transaction has to stand being done again.
    ///
    /// # Errors
    /// [`StoreError::Stale`]: it doesn't wait any more, or was begun anew. Or another coordinator leads.
    pub async fn end_delivery(&self, epoch: Epoch, of: &Waiting, end: &End) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        let done = sqlx::query!(
            "UPDATE deliveries SET state = $5, reason = $6, builds = $7, finished_at = farm_now()
             WHERE project_id = $1 AND hook_id = $2 AND id = $3 AND state = 'received' AND attempts = $4 AND runs = $8",
            of.project.as_uuid(),
            of.hook.as_uuid(),
            of.id,
            of.attempts,
            end.state.as_str(),
            end.reason,
            &end.builds,
            of.run
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() != 1 {
            return Err(StoreError::Stale("the delivery"));
        }
        let missed = of.own.as_deref().and_then(|own| own.strip_prefix("sweep "));
        match (missed, end.state) {
            (Some(missed), DeliveryState::Failed) => unmake(&mut tx, of, missed).await?,
            (Some(missed), DeliveryState::Ignored) => pass_over(&mut tx, of, missed).await?,
            _ => {}
        }
        tx.commit().await
    }

    /// Has a delivery that waits looked at again after so long: what was begun by it goes on.
    ///
    /// # Errors
    /// As of [`Self::end_delivery`].
    pub async fn go_on_with_delivery(
        &self,
        epoch: Epoch,
        of: &Waiting,
        wait: Duration,
        reason: &str,
    ) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        let done = sqlx::query!(
            "UPDATE deliveries SET due_at = farm_now() + make_interval(secs => $5), reason = $6
             WHERE project_id = $1 AND hook_id = $2 AND id = $3 AND state = 'received' AND attempts = $4 AND runs = $7",
            of.project.as_uuid(),
            of.hook.as_uuid(),
            of.id,
            of.attempts,
            wait.as_secs_f64(),
            reason,
            of.run
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() != 1 {
            return Err(StoreError::Stale("the delivery"));
        }
        tx.commit().await
    }

    /// Has a delivery that waits tried again after so long; `is_anew`: without what it has begun.
    ///
    /// # Errors
    /// As of [`Self::end_delivery`].
    pub async fn put_off_delivery(
        &self,
        epoch: Epoch,
        of: &Waiting,
        wait: Duration,
        reason: &str,
        is_anew: bool,
    ) -> Result<()> {
        let mut tx = self.begin_leading(epoch).await?;
        let done = sqlx::query!(
            "UPDATE deliveries SET attempts = attempts + 1, due_at = farm_now() + make_interval(secs => $5), reason = $6,
                looks = looks AND NOT $7, runs = runs + CASE WHEN $7 THEN 1 ELSE 0 END
             WHERE project_id = $1 AND hook_id = $2 AND id = $3 AND state = 'received' AND attempts = $4 AND runs = $8",
            of.project.as_uuid(),
            of.hook.as_uuid(),
            of.id,
            of.attempts,
            wait.as_secs_f64(),
            reason,
            is_anew,
            of.run
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() != 1 {
            return Err(StoreError::Stale("the delivery"));
        }
        tx.commit().await
    }
}

/// A push that was made up has failed: unless it has got its place, or this was the third time, the next look finds it again. If a look has
/// found its ref elsewhere since, that is none of its business.
async fn unmake(tx: &mut LeaderTx, of: &Waiting, git_ref: &str) -> Result<()> {
    sqlx::query!(
        "UPDATE ref_heads r SET failed = r.listed, failures = CASE WHEN r.failed = r.listed THEN r.failures + 1 ELSE 1 END,
            listed = CASE WHEN r.failed = r.listed AND r.failures >= $5 THEN r.listed END
         FROM deliveries d WHERE d.project_id = $1 AND d.hook_id = $2 AND d.id = $3 AND d.order_key IS NULL
           AND r.project_id = $1 AND r.hook_id = $2 AND r.git_ref = $4 AND r.listed = coalesce(d.found, r.listed)",
        of.project.as_uuid(),
        of.hook.as_uuid(),
        of.id,
        git_ref,
        MADE_UP - 1
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A push that was made up came to nothing, as its ref is elsewhere by now: should the ref go back there, that is news. Where a look has
/// found it since stays noted.
async fn pass_over(tx: &mut LeaderTx, of: &Waiting, git_ref: &str) -> Result<()> {
    sqlx::query!(
        "UPDATE ref_heads r SET listed = NULL
         FROM deliveries d WHERE d.project_id = $1 AND d.hook_id = $2 AND d.id = $3 AND d.order_key IS NULL
           AND r.project_id = $1 AND r.hook_id = $2 AND r.git_ref = $4 AND r.listed = coalesce(d.found, r.listed)",
        of.project.as_uuid(),
        of.hook.as_uuid(),
        of.id,
        git_ref
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
