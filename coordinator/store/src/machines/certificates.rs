//! Certificates: what shows a worker that joined. A certificate counts because its row is here, not because of who signed it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_types::{Digest, JoinId, MachineId, Platform, TrustClass};

use super::invitations::platforms;
use crate::{Result, Store, StoreError, Tx, fit};

/// So many certificates of one worker may count at once: it renews one a day, and again when an answer got lost.
const MANY: i64 = 50;

/// What a certificate shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownWorker {
    pub join: JoinId,
    /// The worker's name.
    pub name: String,
    pub machine: MachineId,
    /// The machine's name.
    pub machine_name: String,
    pub pool: String,
    pub trust: TrustClass,
    /// What it may offer; empty: whatever its engine runs.
    pub platforms: Vec<Platform>,
    /// The most that it may run at once.
    pub slots: Option<u32>,
    pub expires_at: DateTime<Utc>,
    /// Why no certificate of it counts any more; `None`: they do, each until its end.
    pub ended: Option<Ended>,
    /// The farm's time when this was read.
    pub now: DateTime<Utc>,
}

/// Why a worker that joined counts no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// An administrator has revoked it, then.
    Revoked(DateTime<Utc>),
    /// Its last certificate had ended, and could not be renewed any more.
    Expired,
}

impl Store {
    /// Whom the certificate of this digest shows, also one that counts no more; `None`: it is none of this farm's.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn shown_by_certificate(&self, digest: Digest) -> Result<Option<ShownWorker>> {
        let row = sqlx::query!(
            r#"SELECT j.id, j.name, j.machine_id, m.name AS machine_name, m.pool, m.trust, j.platforms, j.slots,
                      j.revoked_at, j.expired, c.expires_at, farm_now() AS "now!"
               FROM certificates c JOIN joins j ON j.id = c.join_id JOIN machines m ON m.id = j.machine_id
               WHERE c.digest = $1"#,
            digest.as_bytes().as_slice()
        )
        .fetch_optional(&self.pool)
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(ShownWorker {
            join: row.id.into(),
            name: row.name,
            machine: row.machine_id.into(),
            machine_name: row.machine_name,
            pool: row.pool,
            trust: row.trust.parse().map_err(StoreError::corrupt)?,
            platforms: platforms(&row.platforms)?,
            slots: row.slots.map(fit).transpose()?,
            expires_at: row.expires_at,
            ended: row.revoked_at.map(|at| if row.expired { Ended::Expired } else { Ended::Revoked(at) }),
            now: row.now,
        }))
    }

    /// Another certificate of a worker counts from now on, beside those that it has.
    ///
    /// # Errors
    /// `Stale`: it counts no more, with the reason; `Conflict`: it has too many; or the database can't be reached.
    pub async fn add_certificate(&self, join: JoinId, digest: Digest, lives: Duration) -> Result<()> {
        let mut tx = self.begin().await?;
        stays(&mut tx, join).await?;
        one_more(&mut tx, join, digest, lives).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Holds a worker's join until the end of the transaction: who revokes it comes after it.
///
/// # Errors
/// `Stale`: it counts no more, with the reason.
pub(super) async fn stays(tx: &mut Tx, join: JoinId) -> Result<()> {
    let held = sqlx::query!("SELECT revoked_at, expired FROM joins WHERE id = $1 FOR SHARE", join.as_uuid());
    match held.fetch_optional(&mut **tx).await? {
        Some(join) if join.revoked_at.is_none() => Ok(()),
        Some(join) if join.expired => Err(StoreError::Stale("its certificate can't be renewed any more")),
        _ => Err(StoreError::Stale("it was revoked")),
    }
}

/// Keeps a certificate of a worker whose join the transaction holds, unless it has too many.
///
/// # Errors
/// `Conflict`: it has.
pub(super) async fn one_more(tx: &mut Tx, join: JoinId, digest: Digest, lives: Duration) -> Result<()> {
    let others = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM certificates WHERE join_id = $1 AND expires_at > farm_now()"#,
        join.as_uuid()
    )
    .fetch_one(&mut **tx)
    .await?;
    if others >= MANY {
        return Err(StoreError::Conflict(format!(
            "this worker has {MANY} certificates that count already; something renews them without end: revoke it and \
             invite it again"
        )));
    }
    keep(tx, join, digest, lives).await
}

pub(super) async fn keep(tx: &mut Tx, join: JoinId, digest: Digest, lives: Duration) -> Result<()> {
    sqlx::query!(
        "INSERT INTO certificates (digest, join_id, expires_at) VALUES ($1, $2, farm_now() + make_interval(secs => $3))",
        digest.as_bytes().as_slice(),
        join.as_uuid(),
        lives.as_secs_f64()
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}
