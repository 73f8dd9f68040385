//! Who leads: one row with an epoch that rises with each change of the leader.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{Result, Store, StoreError};

/// The right to lead, as long as the row bears this epoch. Every write of a leader repeats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch(pub i64);

/// What [`Store::lead`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leadership {
    /// This coordinator leads, and led before.
    Kept(Epoch),
    /// This coordinator leads from now on.
    Taken {
        /// Its epoch.
        epoch: Epoch,
        /// Until when the one before it led; `None` when this is the first.
        silent_since: Option<DateTime<Utc>>,
        /// The farm's time.
        now: DateTime<Utc>,
    },
    /// Another one leads.
    Other,
}

impl Store {
    /// Renews this coordinator's leadership for `ttl`, or takes it when nobody has it.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn lead(&self, coordinator: Uuid, ttl: Duration) -> Result<Leadership> {
        let ttl = ttl.as_secs_f64();
        let kept = sqlx::query_scalar!(
            "UPDATE leader SET expires_at = farm_now() + make_interval(secs => $2)
             WHERE coordinator_id = $1 AND expires_at > farm_now() RETURNING epoch",
            coordinator,
            ttl
        )
        .fetch_optional(&self.pool)
        .await?;
        if let Some(epoch) = kept {
            return Ok(Leadership::Kept(Epoch(epoch)));
        }
        let taken = sqlx::query!(
            r#"WITH before AS (SELECT epoch, expires_at FROM leader FOR UPDATE)
             UPDATE leader SET epoch = leader.epoch + 1, coordinator_id = $1, taken_at = farm_now(),
                    expires_at = farm_now() + make_interval(secs => $2)
             FROM before WHERE before.expires_at <= farm_now() AND leader.epoch = before.epoch
             RETURNING leader.epoch, farm_now() AS "now!",
                       CASE WHEN isfinite(before.expires_at) THEN before.expires_at END AS silent_since"#,
            coordinator,
            ttl
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(match taken {
            Some(row) => {
                Leadership::Taken { epoch: Epoch(row.epoch), silent_since: row.silent_since, now: row.now }
            }
            None => Leadership::Other,
        })
    }

    /// Gives the leadership up, if it is still this one's.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn resign(&self, coordinator: Uuid) -> Result<()> {
        sqlx::query!("UPDATE leader SET expires_at = farm_now() WHERE coordinator_id = $1", coordinator)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Notes that the workers of coordinators that were silent for `silence` are connected to nobody.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn disown_workers(&self, silence: Duration) -> Result<u64> {
        let done = sqlx::query!(
            "UPDATE workers SET coordinator_id = NULL WHERE coordinator_id IS NOT NULL AND NOT EXISTS (
                SELECT FROM coordinators c WHERE c.id = workers.coordinator_id
                AND c.last_seen > farm_now() - make_interval(secs => $1))",
            silence.as_secs_f64()
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }

    /// Notes that this coordinator is alive.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn register_coordinator(&self, id: Uuid, address: &str) -> Result<()> {
        sqlx::query!(
            "INSERT INTO coordinators (id, address) VALUES ($1, $2)
             ON CONFLICT (id) DO UPDATE SET last_seen = farm_now(), address = EXCLUDED.address",
            id,
            address
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

/// Checks within a transaction that the epoch still leads, and keeps it so until the transaction's end.
pub(crate) async fn hold_epoch(tx: &mut crate::Tx, epoch: Epoch) -> Result<()> {
    let held = sqlx::query_scalar!("SELECT epoch FROM leader WHERE epoch = $1 FOR SHARE", epoch.0)
        .fetch_optional(&mut **tx)
        .await?;
    held.map(drop).ok_or(StoreError::Stale("another coordinator leads now"))
}
