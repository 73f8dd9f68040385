//! What registries say of how much may be read there by a login, and how much of that is left: as the coordinator that has asked last was
//! told, so that any can say it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Result, Store, from_json, to_json};

/// So many registries that say something of the farm's own login are kept; whoever names an image names whatever registry they like.
const MOST: i64 = 200;
/// What is older is forgotten.
const LONGEST: &str = "7 days";

/// How much may be read at a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadLimit {
    /// So much is left.
    pub remaining: u64,
    /// Of so much.
    pub of: u64,
    /// Within so many seconds; 0: it doesn't say.
    pub window_seconds: u64,
}

/// The same, as a registry has said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaidLimit {
    /// The registry.
    pub host: String,
    /// What it has said.
    pub limit: ReadLimit,
    /// When.
    pub at: DateTime<Utc>,
}

impl Store {
    /// Notes what a registry says to a login of a project's, known by its version, or to the farm.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn note_read_limit(&self, login: Option<Uuid>, host: &str, limit: ReadLimit) -> Result<()> {
        let limit = to_json(&limit)?;
        match login {
            Some(version) => sqlx::query!(
                "UPDATE registry_logins SET read_limit = $3, read_limit_at = farm_now() WHERE version = $1 AND host = $2 AND removed_at IS NULL",
                version,
                host,
                limit
            )
            .execute(&self.pool)
            .await?,
            None => {
                sqlx::query!(
                    "DELETE FROM read_limits WHERE read_limit_at < farm_now() - $1::text::interval",
                    LONGEST
                )
                .execute(&self.pool)
                .await?;
                sqlx::query!(
                    "INSERT INTO read_limits (host, read_limit) SELECT $1, $2
                     WHERE (SELECT count(*) FROM read_limits) < $3 OR EXISTS (SELECT FROM read_limits WHERE host = $1)
                     ON CONFLICT (host) DO UPDATE SET read_limit = EXCLUDED.read_limit, read_limit_at = farm_now()",
                    host,
                    limit,
                    MOST
                )
                .execute(&self.pool)
                .await?
            }
        };
        Ok(())
    }

    /// What registries have said to the farm itself, by their names.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn read_limits(&self) -> Result<Vec<SaidLimit>> {
        let rows = sqlx::query!("SELECT host, read_limit, read_limit_at FROM read_limits ORDER BY host")
            .fetch_all(&self.pool)
            .await?;
        let limits = rows.into_iter().map(|row| {
            Ok(SaidLimit { host: row.host, limit: from_json(row.read_limit)?, at: row.read_limit_at })
        });
        limits.collect()
    }
}
