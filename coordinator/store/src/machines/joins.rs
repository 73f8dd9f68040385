//! Workers that joined: by an invitation, until they are revoked.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_core::life::attempt::StopReason;
use farm_types::{Digest, JoinId, MachineId};
use serde_json::json;
use uuid::Uuid;

use crate::machines::certificates::{keep, one_more};
use crate::machines::leader::Epoch;
use crate::people::audit::{By, Deed};
use crate::{Result, Store, StoreError, Tx};

/// A worker that joins.
#[derive(Debug, Clone)]
pub struct Joining<'a> {
    /// Of its join token.
    pub token: Digest,
    /// Its name.
    pub name: &'a str,
    /// Of the public key that it wants certified.
    pub key: Digest,
    /// Of its first certificate.
    pub certificate: Digest,
    /// How long that one is good.
    pub lives: Duration,
    /// Where it called from; empty: that isn't known.
    pub address: &'a str,
}

impl Joining<'_> {
    /// Who it is for the audit; `hint`: of its join token.
    fn by(&self, hint: String) -> By {
        By { name: format!("worker {}", self.name), token_hint: hint, address: self.address.to_owned() }
    }
}

/// A worker that is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Let {
    /// Its machine's name.
    pub machine: String,
    /// It was in already, by the same invitation and key: what it was answered then got lost.
    pub again: bool,
}

/// A worker that has joined and not connected since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unconnected {
    pub name: String,
    /// Its machine's name.
    pub machine: String,
    pub pool: String,
    pub trust: String,
    pub joined_at: DateTime<Utc>,
    /// When the last of its certificates ends, or has ended.
    pub ends: DateTime<Utc>,
}

/// Why nobody was revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unrevoked {
    /// There is no such worker.
    Unknown(String),
    /// It never joined: it shows the farm's own token.
    NeverJoined(String),
    /// Its certificate can't be renewed any more, so it is out already.
    Expired(String),
}

impl Store {
    /// Uses an invitation up: the worker is one of the farm's from now on, known by its certificate. Whoever has used it may come
    /// again with the same name and key, and has another certificate then: until the worker has connected, the invitation's time
    /// is over, or the worker counts no more.
    ///
    /// # Errors
    /// `Stale`: the invitation counts no more; `Conflict`: the name or the machine is taken, or it came again too often; or the
    /// database can't be reached.
    pub async fn join(&self, joining: &Joining<'_>) -> Result<Let> {
        let mut tx = self.begin().await?;
        let name = joining.name;
        let id = JoinId::generate();
        let invitation = sqlx::query!(
            "UPDATE invitations SET ended_at = farm_now(), join_id = $3, key_digest = $4
             WHERE digest = $1 AND ended_at IS NULL AND expires_at > farm_now() AND coalesce(name, $2) = $2
             RETURNING hint, name, machine_id, pool, trust, platforms, slots",
            joining.token.as_bytes().as_slice(),
            name,
            id.as_uuid(),
            joining.key.as_bytes().as_slice()
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(invitation) = invitation else {
            let machine = again(&mut tx, joining).await?;
            tx.commit().await?;
            return Ok(Let { machine, again: true });
        };
        free(&mut tx, name, invitation.name.is_some()).await?;
        let machine = match invitation.machine_id {
            Some(id) => same(&mut tx, id.into(), &invitation.pool, &invitation.trust).await?,
            None => machine(&mut tx, name, &invitation.pool, &invitation.trust).await?,
        };
        let join = sqlx::query_scalar!(
            "INSERT INTO joins (id, name, machine_id, platforms, slots) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (name) WHERE revoked_at IS NULL DO NOTHING RETURNING id",
            id.as_uuid(),
            name,
            machine.as_uuid(),
            &invitation.platforms,
            invitation.slots
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or_else(|| taken(name))?;
        keep(&mut tx, join.into(), joining.certificate, joining.lives).await?;
        let machine_name = sqlx::query_scalar!("SELECT name FROM machines WHERE id = $1", machine.as_uuid());
        let machine_name = machine_name.fetch_one(&mut *tx).await?;
        let by = joining.by(invitation.hint);
        let detail = json!({ "machine": machine_name, "pool": invitation.pool, "trust": invitation.trust });
        by.did(&mut tx, Deed { project: None, action: "worker.join", subject: name, detail }).await?;
        tx.commit().await?;
        Ok(Let { machine: machine_name, again: false })
    }

    /// Workers that joined, count, and never connected as what they joined, by name. (Of those that did the rest is in their own
    /// rows.) There may be a row of the name from before: of one that showed the farm's own token, or whose join counts no more.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn unconnected(&self) -> Result<Vec<Unconnected>> {
        Ok(sqlx::query_as!(
            Unconnected,
            r#"SELECT j.name, m.name AS machine, m.pool, m.trust, j.joined_at,
                      coalesce((SELECT max(c.expires_at) FROM certificates c WHERE c.join_id = j.id), j.joined_at) AS "ends!"
               FROM joins j JOIN machines m ON m.id = j.machine_id
               WHERE j.revoked_at IS NULL AND NOT EXISTS (SELECT FROM workers w WHERE w.join_id = j.id)
               ORDER BY j.name"#
        )
        .fetch_all(&self.pool)
        .await?)
    }

    /// Those that count no more since this time: they were revoked, or can't be renewed.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn revoked_lately(&self, within: Duration) -> Result<Vec<JoinId>> {
        let ids = sqlx::query_scalar!(
            "SELECT id FROM joins WHERE revoked_at > farm_now() - make_interval(secs => $1)",
            within.as_secs_f64()
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(ids.into_iter().map(JoinId::from).collect())
    }

    /// Forgets at most `limit` of each: joins whose last certificate can't be renewed any more, which count no more from now on, so
    /// that their names are free; and what was of use to nobody for 30 days (invitations that ended, certificates, joins that no
    /// worker's row names). Gives the names that became free.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn forget_joins(&self, epoch: Epoch, limit: i64) -> Result<Vec<String>> {
        let mut tx = self.begin_leading(epoch).await?;
        let names = sqlx::query_scalar!(
            "UPDATE joins SET revoked_at = farm_now(), expired = true WHERE revoked_at IS NULL AND id IN (
                SELECT j.id FROM joins j WHERE j.revoked_at IS NULL AND NOT EXISTS (
                    SELECT FROM certificates c WHERE c.join_id = j.id AND c.expires_at > farm_now() - interval '25 hours')
                ORDER BY j.id LIMIT $1)
             RETURNING name",
            limit
        )
        .fetch_all(&mut *tx)
        .await?;
        for statement in [
            sqlx::query!(
                "DELETE FROM invitations WHERE id IN (
                    SELECT id FROM invitations WHERE least(ended_at, expires_at) < farm_now() - interval '30 days' LIMIT $1)",
                limit
            ),
            sqlx::query!(
                "DELETE FROM certificates WHERE digest IN (
                    SELECT digest FROM certificates WHERE expires_at < farm_now() - interval '30 days' LIMIT $1)",
                limit
            ),
            sqlx::query!(
                "DELETE FROM joins WHERE id IN (
                    SELECT j.id FROM joins j WHERE j.revoked_at < farm_now() - interval '30 days'
                      AND NOT EXISTS (SELECT FROM certificates c WHERE c.join_id = j.id)
                      AND NOT EXISTS (SELECT FROM workers w WHERE w.join_id = j.id) LIMIT $1)",
                limit
            ),
        ] {
            statement.execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(names)
    }

    /// Revokes workers: no certificate of theirs counts any more, they are in no list, and what they run is given back at
    /// once. All or none.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn revoke_workers(
        &self,
        by: &By,
        names: &[String],
    ) -> Result<std::result::Result<(), Unrevoked>> {
        let mut tx = self.begin().await?;
        let revoked: BTreeSet<String> = sqlx::query_scalar!(
            "UPDATE joins SET revoked_at = farm_now() WHERE name = ANY($1) AND revoked_at IS NULL RETURNING name",
            names
        )
        .fetch_all(&mut *tx)
        .await?
        .into_iter()
        .collect();
        if let Some(name) = names.iter().find(|name| !revoked.contains(*name)) {
            let there = sqlx::query_scalar!(
                r#"SELECT join_id IS NOT NULL AS "joined!" FROM workers WHERE name = $1 AND removed_at IS NULL"#,
                name
            );
            let why = match there.fetch_optional(&mut *tx).await? {
                None => Unrevoked::Unknown,
                Some(false) => Unrevoked::NeverJoined,
                // One that is revoked is in no list.
                Some(true) => Unrevoked::Expired,
            };
            return Ok(Err(why(name.clone())));
        }
        sqlx::query!("SELECT id FROM workers WHERE name = ANY($1) ORDER BY id FOR UPDATE", names)
            .fetch_all(&mut *tx)
            .await?;
        let ids = sqlx::query_scalar!(
            "UPDATE workers SET removed_at = farm_now(), drained_at = NULL, release_at = NULL WHERE name = ANY($1)
             RETURNING id",
            names
        )
        .fetch_all(&mut *tx)
        .await?;
        cut(&mut tx, &ids).await?;
        for name in &revoked {
            let deed = Deed { project: None, action: "worker.revoke", subject: name, detail: json!({}) };
            by.did(&mut tx, deed).await?;
        }
        tx.commit().await?;
        Ok(Ok(()))
    }
}

/// Nothing that comes by these workers' streams counts any more, and what they run is given back by the next round.
pub(super) async fn cut(tx: &mut Tx, workers: &[Uuid]) -> Result<()> {
    // In the order in which all lock them.
    sqlx::query!("SELECT id FROM workers WHERE id = ANY($1) ORDER BY id FOR UPDATE", workers)
        .fetch_all(&mut **tx)
        .await?;
    sqlx::query!(
        "UPDATE workers SET coordinator_id = NULL, connection_id = gen_random_uuid() WHERE id = ANY($1)",
        workers
    )
    .execute(&mut **tx)
    .await?;
    sqlx::query!(
        "UPDATE attempts SET stop_reason = CASE stop_reason WHEN '' THEN $2 ELSE stop_reason END,
                stop_since = coalesce(stop_since, farm_now()), lease_expires_at = farm_now()
         WHERE (project_id, id) IN (
            SELECT project_id, id FROM attempts WHERE worker_id = ANY($1) AND state IN ('offered', 'running')
            ORDER BY id FOR UPDATE)",
        workers,
        StopReason::Released.as_str()
    )
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Another certificate for a worker that joined by this invitation with this key and never connected: one that did has its
/// certificate. Gives its machine's name.
async fn again(tx: &mut Tx, joining: &Joining<'_>) -> Result<String> {
    let join = sqlx::query!(
        "SELECT j.id, m.name, i.hint FROM invitations i JOIN joins j ON j.id = i.join_id
         JOIN machines m ON m.id = j.machine_id
         WHERE i.digest = $1 AND i.key_digest = $2 AND i.expires_at > farm_now() AND j.name = $3 AND j.revoked_at IS NULL
           AND NOT EXISTS (SELECT FROM workers w WHERE w.join_id = j.id)
         FOR SHARE OF j",
        joining.token.as_bytes().as_slice(),
        joining.key.as_bytes().as_slice(),
        joining.name
    )
    .fetch_optional(&mut **tx)
    .await?
    .ok_or(StoreError::Stale("the invitation counts no more"))?;
    one_more(tx, join.id.into(), joining.certificate, joining.lives).await?;
    let detail = json!({ "machine": join.name });
    let deed = Deed { project: None, action: "worker.rejoin", subject: joining.name, detail };
    joining.by(join.hint).did(tx, deed).await?;
    Ok(join.name)
}

/// Whether the name may be used by a worker that joins: by none that joined, and by none that shows the farm's own token unless
/// the invitation names it.
async fn free(tx: &mut Tx, name: &str, is_named: bool) -> Result<()> {
    let joined = sqlx::query_scalar!(
        r#"SELECT true AS "there!" FROM joins WHERE name = $1 AND revoked_at IS NULL"#,
        name
    );
    if joined.fetch_optional(&mut **tx).await?.is_some() {
        return Err(taken(name));
    }
    let there = sqlx::query_scalar!(
        r#"SELECT true AS "there!" FROM workers WHERE name = $1 AND removed_at IS NULL AND join_id IS NULL"#,
        name
    );
    if !is_named && there.fetch_optional(&mut **tx).await?.is_some() {
        return Err(StoreError::Conflict(format!(
            "the farm has a worker {name} that shows the farm's own token; join with another --name, or, if it is the same \
             worker, ask for an invitation of that name: farm workers invite --name {name}"
        )));
    }
    Ok(())
}

fn taken(name: &str) -> StoreError {
    StoreError::Conflict(format!(
        "the farm has a worker {name}; join with another --name, or, if that one is no more, an admin can make room: farm \
         workers revoke {name}"
    ))
}

/// The machine that an invitation names, as long as it is what it was then: one that nobody was on for a while may have become
/// another.
async fn same(tx: &mut Tx, id: MachineId, pool: &str, trust: &str) -> Result<MachineId> {
    let is_same = sqlx::query_scalar!(
        r#"SELECT true AS "same!" FROM machines WHERE id = $1 AND pool = $2 AND trust = $3 FOR SHARE"#,
        id.as_uuid(),
        pool,
        trust
    );
    is_same.fetch_optional(&mut **tx).await?.map(|_| id).ok_or_else(|| {
        StoreError::Conflict(
            "the machine of this invitation is another one now, with another pool or trust; ask for another invitation".to_owned(),
        )
    })
}

/// The machine of this name: a new one, or one on which no worker is any more.
async fn machine(tx: &mut Tx, name: &str, pool: &str, trust: &str) -> Result<MachineId> {
    let id = sqlx::query_scalar!(
        "INSERT INTO machines (id, name, pool, trust) VALUES ($1, $2, $3, $4)
         ON CONFLICT (name) DO UPDATE SET pool = EXCLUDED.pool, trust = EXCLUDED.trust
            WHERE NOT EXISTS (SELECT FROM joins j WHERE j.machine_id = machines.id AND j.revoked_at IS NULL)
         RETURNING id",
        MachineId::generate().as_uuid(),
        name,
        pool,
        trust
    )
    .fetch_optional(&mut **tx)
    .await?;
    id.map(MachineId::from).ok_or_else(|| {
        StoreError::Conflict(format!(
            "the farm has a machine {name} with workers on it; join with another --name, or, if it is this machine, ask for an \
             invitation to it: farm workers invite --machine {name}"
        ))
    })
}
