//! Tokens that were taken: each is, once. A row stays until its token would be refused for its age.

use chrono::{DateTime, Utc};
use farm_types::ProjectId;
use uuid::Uuid;

use crate::machines::leader::Epoch;
use crate::{Result, Store};

/// What became of a token that was to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is taken, and its trust was used.
    First,
    /// It was taken before.
    Again,
    /// The trust was revoked meanwhile; the token was not taken.
    Revoked,
}

impl Store {
    /// Takes a token by a trust. Of several at once with the same token one is the first. `identity` tells the token from all
    /// others of its issuer; `until` it could come again.
    ///
    /// # Errors
    /// The database can't be reached; then the token was not taken, unless the answer was lost.
    pub async fn use_token(
        &self,
        issuer: &str,
        identity: &str,
        until: DateTime<Utc>,
        project: ProjectId,
        trust: Uuid,
    ) -> Result<Use> {
        let mut tx = self.begin().await?;
        // Whoever takes the same one waits here until this transaction has ended.
        let first = sqlx::query!(
            "INSERT INTO seen_tokens (issuer, jti, expires_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            issuer,
            identity,
            until
        )
        .execute(&mut *tx)
        .await?;
        if first.rows_affected() != 1 {
            return Ok(Use::Again);
        }
        let used = sqlx::query!(
            "UPDATE trusts SET last_used_at = farm_now()
             WHERE project_id = $1 AND id = $2 AND issuer = $3 AND revoked_at IS NULL",
            project.as_uuid(),
            trust,
            issuer
        )
        .execute(&mut *tx)
        .await?;
        if used.rows_affected() != 1 {
            return Ok(Use::Revoked);
        }
        tx.commit().await?;
        Ok(Use::First)
    }

    /// Forgets at most `limit` tokens that are refused for their age. Answers how many.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn forget_seen_tokens(&self, epoch: Epoch, limit: i64) -> Result<u64> {
        let mut tx = self.begin_leading(epoch).await?;
        let forgotten = sqlx::query!(
            "DELETE FROM seen_tokens WHERE (issuer, jti) IN (
                SELECT issuer, jti FROM seen_tokens WHERE expires_at < farm_now() ORDER BY expires_at LIMIT $1)",
            limit
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(forgotten.rows_affected())
    }
}
