//! Who leads: one row with an epoch that rises with each change of the leader.

use std::time::Duration;

use farm_core::work::plan::Settling;
use farm_types::Digest;
use uuid::Uuid;

use crate::{Result, Store, schema};

/// The right to lead, as long as the row bears this epoch. Every write of a leader holds it ([`crate::proof`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch(pub i64);

/// Another coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its id, another one after each start.
    pub id: Uuid,
    /// Where the others call it.
    pub address: String,
    /// The digest of what it calls the others with.
    pub token_digest: Digest,
}

/// Where a coordinator is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// Where the others call it.
    pub address: &'a str,
    /// What tells its machine from all others; `None` where that can't be known.
    pub machine: Option<&'a str>,
}

/// When a time without a leader's sign was an outage of all coordinators, or of the database, and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outage {
    /// A time that is longer.
    pub longer_than: Duration,
    /// For so long this coordinator has been answered without a gap: a leader that fell silent within it did so alone.
    pub watched: Duration,
    /// For so long silence is held against nobody; the next leader inherits what is left of it.
    pub settles_within: Duration,
}

/// What [`Store::lead`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leadership {
    /// This coordinator leads, and led before.
    Kept {
        /// Its epoch.
        epoch: Epoch,
        /// After an outage, until it has settled.
        settling: Option<Settling>,
    },
    /// This coordinator leads from now on.
    Taken {
        /// Its epoch.
        epoch: Epoch,
        /// After an outage, until it has settled.
        settling: Option<Settling>,
    },
    /// Another one leads.
    Other,
}

impl Store {
    /// Renews this coordinator's leadership for `ttl`, or takes it when nobody has it.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn lead(&self, coordinator: Uuid, ttl: Duration, outage: Outage) -> Result<Leadership> {
        let (ttl, longer_than) = (ttl.as_secs_f64(), outage.longer_than.as_secs_f64());
        let settles_within = outage.settles_within.as_secs_f64();
        let longer_than_watched = outage.longer_than.max(outage.watched).as_secs_f64();
        let kept = sqlx::query!(
            r#"UPDATE leader SET expires_at = farm_now() + make_interval(secs => $2), renewed_at = farm_now(),
                    silent_since = CASE WHEN renewed_at < farm_now() - make_interval(secs => $3)
                        THEN renewed_at ELSE silent_since END,
                    settled_at = CASE WHEN renewed_at < farm_now() - make_interval(secs => $3)
                        THEN farm_now() + make_interval(secs => $4) ELSE settled_at END
             WHERE coordinator_id = $1 AND expires_at > farm_now()
             RETURNING epoch, coalesce(settled_at > farm_now(), false) AS "settles!""#,
            coordinator,
            ttl,
            longer_than,
            settles_within
        )
        .fetch_optional(&self.vital)
        .await?;
        if let Some(kept) = kept {
            let settling = if kept.settles { self.settling().await? } else { None };
            return Ok(Leadership::Kept { epoch: Epoch(kept.epoch), settling });
        }
        let taken = sqlx::query_scalar!(
            // One that still leads is not waited for. FOR UPDATE waits for all that hold its epoch. A coordinator of a
            // former version has left no renewed_at, or an old one.
            "WITH before AS (SELECT epoch, expires_at, greatest(renewed_at, expires_at - make_interval(secs => $2)) AS seen
                             FROM leader WHERE expires_at <= farm_now() FOR UPDATE)
             UPDATE leader SET epoch = leader.epoch + 1, coordinator_id = $1, taken_at = farm_now(),
                    expires_at = farm_now() + make_interval(secs => $2), renewed_at = farm_now(),
                    silent_since = CASE
                        WHEN NOT isfinite(before.expires_at) THEN NULL
                        WHEN before.seen < farm_now() - make_interval(secs => $3) THEN before.seen
                        ELSE leader.silent_since END,
                    settled_at = CASE
                        WHEN NOT isfinite(before.expires_at) THEN NULL
                        WHEN before.seen < farm_now() - make_interval(secs => $3)
                            THEN farm_now() + make_interval(secs => $4)
                        ELSE leader.settled_at END
             FROM before WHERE before.expires_at <= farm_now() AND leader.epoch = before.epoch
             RETURNING leader.epoch",
            coordinator,
            ttl,
            longer_than_watched,
            settles_within
        )
        .fetch_optional(&self.vital)
        .await?;
        Ok(match taken {
            Some(epoch) => Leadership::Taken { epoch: Epoch(epoch), settling: self.settling().await? },
            None => Leadership::Other,
        })
    }

    async fn settling(&self) -> Result<Option<Settling>> {
        let row = sqlx::query!("SELECT silent_since, settled_at FROM leader WHERE settled_at > farm_now()")
            .fetch_optional(&self.vital)
            .await?;
        Ok(row.and_then(|row| Some(Settling { silent_since: row.silent_since?, until: row.settled_at? })))
    }

    /// Gives the leadership up, if it is still this one's.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn resign(&self, coordinator: Uuid) -> Result<()> {
        sqlx::query!(
            "UPDATE leader SET expires_at = farm_now(), renewed_at = farm_now() WHERE coordinator_id = $1",
            coordinator
        )
        .execute(&self.vital)
        .await?;
        Ok(())
    }

    /// Ends the leadership of a coordinator that was at this address of this machine, where another one is now: it is gone, and
    /// nobody needs to wait until its time is over. An address is one of this machine's only, as others may have a
    /// coordinator at their `127.0.0.1:7070`, too; where one doesn't say its machine, the address has to do.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn succeed(&self, coordinator: Uuid) -> Result<bool> {
        let done = sqlx::query!(
            "UPDATE leader SET expires_at = least(expires_at, farm_now())
             WHERE coordinator_id IN (
                SELECT before.id FROM coordinators own JOIN coordinators before
                  ON before.address = own.address AND before.id <> own.id
                    AND coalesce(before.machine = own.machine, true)
                WHERE own.id = $1)
               AND expires_at > farm_now()",
            coordinator
        )
        .execute(&self.vital)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Notes that workers who were silent for `silence`, as their coordinators were, are connected to nobody. A
    /// sign of theirs connects them again.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn disown_workers(&self, silence: Duration) -> Result<u64> {
        let done = sqlx::query!(
            // In the order in which all lock them.
            "WITH held AS (
                SELECT w.id FROM workers w WHERE w.coordinator_id IS NOT NULL
                   AND w.last_seen < farm_now() - make_interval(secs => $1) AND NOT EXISTS (
                    SELECT FROM coordinators c WHERE c.id = w.coordinator_id
                    AND c.last_seen > farm_now() - make_interval(secs => $1))
                ORDER BY w.id FOR UPDATE OF w)
             UPDATE workers SET coordinator_id = NULL FROM held WHERE workers.id = held.id",
            silence.as_secs_f64()
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }

    /// The coordinators, except this one, that gave a sign within `silence`.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn peers(&self, but: Uuid, silence: Duration) -> Result<Vec<Peer>> {
        let rows = sqlx::query!(
            r#"SELECT id, address, token_digest AS "token_digest!" FROM coordinators
               WHERE id <> $1 AND token_digest IS NOT NULL
                 AND last_seen > farm_now() - make_interval(secs => $2) ORDER BY id"#,
            but,
            silence.as_secs_f64()
        )
        .fetch_all(&self.pool)
        .await?;
        let peer =
            |id, address, digest: Vec<u8>| Ok(Peer { id, address, token_digest: crate::digest(&digest)? });
        rows.into_iter().map(|row| peer(row.id, row.address, row.token_digest)).collect()
    }

    /// Forgets the coordinators that gave no sign for a day.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn forget_coordinators(&self) -> Result<u64> {
        let done = sqlx::query!(
            "DELETE FROM coordinators c WHERE last_seen < farm_now() - interval '1 day'
               AND NOT EXISTS (SELECT FROM workers w WHERE w.coordinator_id = c.id)"
        )
        .execute(&self.pool)
        .await?;
        Ok(done.rows_affected())
    }

    /// Notes that this coordinator is alive, where it is, by what the others know it, and its schema.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: the database was migrated meanwhile to what this farm may not run into. Else it can't be
    /// reached.
    pub async fn register_coordinator(
        &self,
        id: Uuid,
        place: &Place<'_>,
        token_digest: Digest,
    ) -> Result<()> {
        let oldest = sqlx::query_scalar!(
            r#"INSERT INTO coordinators (id, address, token_digest, runs_schema, machine) VALUES ($1, $2, $3, $4, $5)
               ON CONFLICT (id) DO UPDATE SET last_seen = farm_now(), address = EXCLUDED.address
               RETURNING (SELECT oldest FROM schema_compat) AS "oldest!""#,
            id,
            place.address,
            token_digest.as_bytes().as_slice(),
            crate::fit::<_, i32>(schema::own_schema())?,
            place.machine
        )
        .fetch_one(&self.vital)
        .await?;
        schema::may_run(oldest.into())
    }
}
