//! Browsers that are signed in: what each shows, by its digest, and the token that it was begun with.
//!
//! Invariant: a session gives what its token gives, at most until its own end. Whether the token counts is asked of the token each
//! time, so that whatever ends that ends its sessions; a session that was ended has no row.

use std::time::Duration;

use farm_types::Digest;
use serde_json::json;

use super::audit::{By, Deed};
use crate::machines::leader::Epoch;
use crate::{Result, Store, digest};

/// So many sessions of one token there are at once; then the oldest ends.
const MANY: i64 = 50;

/// A session that is to be.
#[derive(Debug, Clone, Copy)]
pub struct NewSession {
    /// Of what the browser will show.
    pub digest: Digest,
    /// Of the token that it is begun with.
    pub token: Digest,
    /// The token was made for it, and ends with it.
    pub is_own_token: bool,
    /// How long it counts at most.
    pub lives: Duration,
}

impl Store {
    /// Begins a session, whose token was found to count.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn begin_browser_session(&self, by: &By, new: NewSession) -> Result<()> {
        let mut tx = self.begin().await?;
        let token = new.token.as_bytes().as_slice();
        sqlx::query!(
            "DELETE FROM browser_sessions WHERE token_digest = $1 AND digest NOT IN (
                 SELECT digest FROM browser_sessions WHERE token_digest = $1 ORDER BY created_at DESC LIMIT $2)",
            token,
            MANY - 1
        )
        .execute(&mut *tx)
        .await?;
        let until = sqlx::query_scalar!(
            "INSERT INTO browser_sessions (digest, token_digest, is_own_token, expires_at)
             VALUES ($1, $2, $3, farm_now() + make_interval(secs => $4)) RETURNING expires_at",
            new.digest.as_bytes().as_slice(),
            token,
            new.is_own_token,
            new.lives.as_secs_f64()
        )
        .fetch_one(&mut *tx)
        .await?;
        let detail = json!({ "expires_at": until });
        let deed = Deed { project: None, action: "session.begin", subject: &by.name, detail };
        by.did(&mut tx, deed).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The token of the session that this shows; `None`: there is none, or none any more.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn token_of_browser_session(&self, shown: Digest) -> Result<Option<Digest>> {
        let token = sqlx::query_scalar!(
            "SELECT token_digest FROM browser_sessions WHERE digest = $1 AND expires_at > farm_now()",
            shown.as_bytes().as_slice()
        )
        .fetch_optional(&self.pool)
        .await?;
        token.as_deref().map(digest).transpose()
    }

    /// Ends a session, and the token if that was made for it; whether there was one.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn end_browser_session(&self, by: &By, shown: Digest) -> Result<bool> {
        let mut tx = self.begin().await?;
        let gone = sqlx::query!(
            "DELETE FROM browser_sessions WHERE digest = $1 RETURNING token_digest, is_own_token",
            shown.as_bytes().as_slice()
        );
        let Some(gone) = gone.fetch_optional(&mut *tx).await? else { return Ok(false) };
        if gone.is_own_token {
            sqlx::query!(
                "UPDATE tokens SET revoked_at = farm_now() WHERE digest = $1 AND revoked_at IS NULL",
                gone.token_digest
            )
            .execute(&mut *tx)
            .await?;
        }
        let deed = Deed { project: None, action: "session.end", subject: &by.name, detail: json!({}) };
        by.did(&mut tx, deed).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Removes the sessions whose time is over.
    ///
    /// # Errors
    /// Another coordinator leads.
    pub async fn remove_browser_sessions(&self, epoch: Epoch) -> Result<u64> {
        let mut tx = self.begin_leading(epoch).await?;
        let gone = sqlx::query!("DELETE FROM browser_sessions WHERE expires_at <= farm_now()");
        let gone = gone.execute(&mut *tx).await?.rows_affected();
        tx.commit().await?;
        Ok(gone)
    }
}
