//! Tokens of issuers that were taken: each is, once, in the transaction that gives one of the farm's for it. A row stays until its
//! token would be refused for its age.

use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_types::{Digest, PrincipalKind, ProjectId, Role};
use serde_json::json;
use uuid::Uuid;

use super::audit::{By, Deed};
use super::principals::{JobClaims, made};
use crate::machines::leader::Epoch;
use crate::{Result, Store};

/// A token of an issuer's, and what is given for it.
#[derive(Debug, Clone)]
pub struct Taken<'a> {
    /// Whose token it is.
    pub issuer: &'a str,
    /// What tells it from all others of its issuer.
    pub identity: &'a str,
    /// Until when it could come again.
    pub until: DateTime<Utc>,
    /// By which trust it is taken.
    pub project: ProjectId,
    /// Its id.
    pub trust: Uuid,
    /// What the trust gives.
    pub role: Role,
    /// Who has shown it, by what never changes.
    pub principal: &'a str,
    /// The same, for records and logs.
    pub shown_as: &'a str,
    /// Of the farm's token.
    pub digest: Digest,
    /// Its first characters.
    pub hint: &'a str,
    /// How long it counts.
    pub lives: Duration,
    /// Where the call came from; empty: that isn't known.
    pub address: &'a str,
    /// What it says of its job.
    pub claims: &'a JobClaims,
}

/// What became of a token that was to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is taken; the farm's counts until then.
    First(DateTime<Utc>),
    /// It was taken before.
    Again,
    /// The trust was revoked meanwhile; the token was not taken.
    Revoked,
}

impl Store {
    /// Takes a token and keeps the one that is given for it. Of several at once with the same token one is the first.
    ///
    /// # Errors
    /// The database can't be reached; then the token was not taken, unless the answer was lost.
    pub async fn exchange_token(&self, taken: &Taken<'_>) -> Result<Use> {
        let mut tx = self.begin().await?;
        // Whoever takes the same one waits here until this transaction has ended.
        let first = sqlx::query!(
            "INSERT INTO seen_tokens (issuer, jti, expires_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            taken.issuer,
            taken.identity,
            taken.until
        )
        .execute(&mut *tx)
        .await?;
        if first.rows_affected() != 1 {
            return Ok(Use::Again);
        }
        // Held until the end: whoever revokes it afterwards finds the new token, too.
        let used = sqlx::query!(
            "UPDATE trusts SET last_used_at = farm_now()
             WHERE project_id = $1 AND id = $2 AND issuer = $3 AND revoked_at IS NULL",
            taken.project.as_uuid(),
            taken.trust,
            taken.issuer
        )
        .execute(&mut *tx)
        .await?;
        if used.rows_affected() != 1 {
            return Ok(Use::Revoked);
        }
        let by = By {
            name: taken.shown_as.to_owned(),
            token_hint: taken.hint.to_owned(),
            address: taken.address.to_owned(),
        };
        let principal = made(&mut tx, &by, taken.principal, PrincipalKind::Subject).await?;
        let id = Uuid::now_v7();
        let ends = sqlx::query_scalar!(
            r#"INSERT INTO tokens (id, principal_id, digest, hint, project_id, role, created_by, expires_at, trust_id, shown_as)
               VALUES ($1, $2, $3, $4, $5, $6, $7, farm_now() + make_interval(secs => $8), $9, $7)
               RETURNING expires_at AS "ends!""#,
            id,
            principal.as_uuid(),
            taken.digest.as_bytes().as_slice(),
            taken.hint,
            taken.project.as_uuid(),
            taken.role.as_str(),
            taken.shown_as,
            taken.lives.as_secs_f64(),
            taken.trust
        )
        .fetch_one(&mut *tx)
        .await?;
        sqlx::query!(
            "INSERT INTO token_claims (token_id, full_ref, event) VALUES ($1, $2, $3)",
            id,
            taken.claims.full_ref,
            taken.claims.event
        )
        .execute(&mut *tx)
        .await?;
        let detail = json!({
            "trust": taken.trust, "issuer": taken.issuer, "token": taken.identity, "role": taken.role.as_str()
        });
        let deed =
            Deed { project: Some(taken.project), action: "token.exchange", subject: taken.principal, detail };
        by.did(&mut tx, deed).await?;
        tx.commit().await?;
        Ok(Use::First(ends))
    }

    /// Forgets at most `limit` tokens of issuers that are refused for their age, of the farm's that were given for such and
    /// ended a day ago, and of sign-ins that ended 30 days ago, as long as lists show them. Answers how many.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn forget_exchanged_tokens(&self, epoch: Epoch, limit: i64) -> Result<u64> {
        let mut tx = self.begin_leading(epoch).await?;
        let seen = sqlx::query!(
            "DELETE FROM seen_tokens WHERE (issuer, jti) IN (
                SELECT issuer, jti FROM seen_tokens WHERE expires_at < farm_now() ORDER BY expires_at LIMIT $1)",
            limit
        )
        .execute(&mut *tx)
        .await?;
        let given = sqlx::query!(
            "DELETE FROM tokens WHERE id IN (
                SELECT id FROM tokens WHERE trust_id IS NOT NULL AND expires_at < farm_now() - interval '1 day'
                ORDER BY expires_at LIMIT $1)",
            limit
        )
        .execute(&mut *tx)
        .await?;
        let signed_in = sqlx::query!(
            "DELETE FROM tokens WHERE id IN (
                SELECT token_id FROM sign_ins WHERE expires_at < farm_now() - interval '30 days' ORDER BY expires_at LIMIT $1)",
            limit
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(seen.rows_affected() + given.rows_affected() + signed_in.rows_affected())
    }
}
