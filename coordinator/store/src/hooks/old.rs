//! What was delivered, and what is known by it, goes when it is old.

use std::time::Duration;

use super::deliveries::HELD;
use crate::machines::leader::Epoch;
use crate::{Result, Store};

/// Where a ref was that is gone for so long nobody needs any more.
const GONE_REFS: Duration = Duration::from_secs(30 * 24 * 3600);

impl Store {
    /// Removes at most `limit` deliveries that were over so long ago and as many statuses, as many refs that are gone for 30 days, and then hooks that were removed and have no
    /// deliveries any more. Answers how many deliveries.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn remove_deliveries(&self, epoch: Epoch, kept: Duration, limit: i64) -> Result<u64> {
        let mut tx = self.begin_leading(epoch).await?;
        let removed = sqlx::query!(
            "DELETE FROM deliveries WHERE (project_id, hook_id, id) IN (
                SELECT project_id, hook_id, id FROM deliveries
                WHERE state <> 'received' AND finished_at < farm_now() - make_interval(secs => $1) ORDER BY finished_at LIMIT $2)",
            kept.as_secs_f64(),
            limit
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "DELETE FROM statuses WHERE (project_id, hook_id, commit_id, context) IN (
                SELECT project_id, hook_id, commit_id, context FROM statuses
                WHERE wanted_at < farm_now() - make_interval(secs => $1) ORDER BY wanted_at LIMIT $2)",
            kept.as_secs_f64(),
            limit
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "DELETE FROM commit_readings WHERE (project_id, hook_id, commit_id, git_ref, kind) IN (
                SELECT project_id, hook_id, commit_id, git_ref, kind FROM commit_readings
                WHERE asked_at < farm_now() - make_interval(secs => $1) ORDER BY asked_at LIMIT $2)",
            kept.as_secs_f64(),
            limit
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "DELETE FROM ref_heads WHERE (project_id, hook_id, git_ref) IN (
                SELECT project_id, hook_id, git_ref FROM ref_heads
                WHERE gone_at < farm_now() - make_interval(secs => $1)
                   OR commit_id IS NULL AND seen_at < farm_now() - make_interval(secs => $1) LIMIT $2)",
            GONE_REFS.as_secs_f64(),
            limit
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "DELETE FROM hook_roots WHERE (project_id, hook_id, root, base) IN (
                SELECT project_id, hook_id, root, base FROM hook_roots
                WHERE made_at < farm_now() - make_interval(secs => $1) ORDER BY made_at LIMIT $2)",
            kept.as_secs_f64(),
            limit
        )
        .execute(&mut *tx)
        .await?;
        // What waits for an approval may do so for longer than what is over is kept.
        sqlx::query!(
            "WITH requests AS (DELETE FROM pull_requests WHERE (project_id, hook_id, number) IN (
                SELECT project_id, hook_id, number FROM pull_requests
                WHERE seen_at < farm_now() - make_interval(secs => $1) ORDER BY seen_at LIMIT $2))
             DELETE FROM fork_approvals WHERE (project_id, hook_id, number, commit_id, base, head_repository) IN (
                SELECT project_id, hook_id, number, commit_id, base, head_repository FROM fork_approvals
                WHERE approved_at < farm_now() - make_interval(secs => $1) ORDER BY approved_at LIMIT $2)",
            (kept + HELD * 2).as_secs_f64(),
            limit
        )
        .execute(&mut *tx)
        .await?;
        if removed.rows_affected() == 0 {
            sqlx::query!(
                "DELETE FROM hooks h WHERE h.removed_at < farm_now() - make_interval(secs => $1)
                   AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.project_id = h.project_id AND d.hook_id = h.id)",
                kept.as_secs_f64()
            )
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(removed.rows_affected())
    }
}
