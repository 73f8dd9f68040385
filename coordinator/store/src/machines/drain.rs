//! What an administrator says of workers: drain them, resume them, remove them.
//!
//! All of the named workers or none: a name that is mistyped must not leave half of a wish behind. The wish is a
//! column of its own beside the worker's word `draining`, so that no `Hello` takes it back.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::people::audit::{By, Deed};
use crate::{Result, Store, StoreError, Tx};

/// Why nothing was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such worker.
    Unknown(String),
    /// It can't be removed while it is connected.
    Connected(String),
    /// It can't be removed while it may come back to what it runs.
    Leased(String),
}

/// All were done, or none.
pub type Done = std::result::Result<(), Refusal>;

/// A named worker under its row's lock.
struct Named {
    id: Uuid,
    name: String,
    connected: bool,
    leased: bool,
}

impl Store {
    /// Drains workers: they get nothing new until they are resumed. What they still run after `within`, if that is
    /// said, is given back. Draining again changes nothing but this limit.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn drain_workers(&self, by: &By, names: &[String], within: Option<Duration>) -> Result<Done> {
        let mut tx = self.begin().await?;
        let named = match named(&mut tx, names).await? {
            Ok(named) => named,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let ids: Vec<Uuid> = named.iter().map(|worker| worker.id).collect();
        let drained = sqlx::query!(
            "UPDATE workers SET drained_at = coalesce(drained_at, farm_now()),
                    release_at = coalesce(farm_now() + make_interval(secs => $2), release_at)
             WHERE id = ANY($1) AND removed_at IS NULL",
            &ids,
            within.map(|within| within.as_secs_f64())
        )
        .execute(&mut *tx)
        .await?;
        all(drained.rows_affected(), &ids)?;
        each(
            &mut tx,
            by,
            "worker.drain",
            &named,
            &json!({ "within_seconds": within.map(|within| within.as_secs()) }),
        )
        .await?;
        tx.commit().await?;
        Ok(Ok(()))
    }

    /// Takes a drain, a quarantine and a probation back. One that had none stays as it is.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn resume_workers(&self, by: &By, names: &[String]) -> Result<Done> {
        let mut tx = self.begin().await?;
        let named = match named(&mut tx, names).await? {
            Ok(named) => named,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let ids: Vec<Uuid> = named.iter().map(|worker| worker.id).collect();
        let resumed = sqlx::query!(
            "UPDATE workers SET drained_at = NULL, release_at = NULL, quarantined_at = NULL,
                    quarantine_token = NULL, probation_at = NULL, probation_why = '', probe_at = NULL,
                    probe_id = NULL, probe_asked_at = NULL, probe_failures = 0, probations = 0,
                    trusted_at = farm_now()
             WHERE id = ANY($1) AND removed_at IS NULL",
            &ids
        )
        .execute(&mut *tx)
        .await?;
        all(resumed.rows_affected(), &ids)?;
        each(&mut tx, by, "worker.resume", &named, &json!({})).await?;
        tx.commit().await?;
        Ok(Ok(()))
    }

    /// Removes workers that are gone: not connected, and without a lease to which they could come back. Their rows
    /// stay for the builds that name them.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn remove_workers(&self, by: &By, names: &[String]) -> Result<Done> {
        let mut tx = self.begin().await?;
        let named = match named(&mut tx, names).await? {
            Ok(named) => named,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Some(worker) = named.iter().find(|worker| worker.connected) {
            return Ok(Err(Refusal::Connected(worker.name.clone())));
        }
        if let Some(worker) = named.iter().find(|worker| worker.leased) {
            return Ok(Err(Refusal::Leased(worker.name.clone())));
        }
        let ids: Vec<Uuid> = named.iter().map(|worker| worker.id).collect();
        let removed = sqlx::query!(
            "UPDATE workers SET removed_at = farm_now(), drained_at = NULL, release_at = NULL
             WHERE id = ANY($1) AND removed_at IS NULL AND coordinator_id IS NULL
               AND NOT EXISTS (SELECT FROM attempts a WHERE a.worker_id = workers.id
                               AND a.state IN ('offered', 'running'))",
            &ids
        )
        .execute(&mut *tx)
        .await?;
        all(removed.rows_affected(), &ids)?;
        each(&mut tx, by, "worker.remove", &named, &json!({})).await?;
        tx.commit().await?;
        Ok(Ok(()))
    }
}

/// The workers of these names, locked; or the name that there is none of.
async fn named(tx: &mut Tx, names: &[String]) -> Result<std::result::Result<Vec<Named>, Refusal>> {
    let wanted: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let found = sqlx::query_as!(
        Named,
        r#"SELECT id, name, coordinator_id IS NOT NULL AS "connected!",
                  EXISTS (SELECT FROM attempts a WHERE a.worker_id = workers.id
                          AND a.state IN ('offered', 'running')) AS "leased!"
           FROM workers WHERE name = ANY($1) AND removed_at IS NULL ORDER BY id FOR UPDATE"#,
        names
    )
    .fetch_all(&mut **tx)
    .await?;
    let missing = wanted.into_iter().find(|name| found.iter().all(|worker| worker.name != *name));
    Ok(match missing {
        Some(name) => Err(Refusal::Unknown(name.to_owned())),
        None => Ok(found),
    })
}

/// A row of the audit for each of them.
async fn each(tx: &mut Tx, by: &By, action: &'static str, named: &[Named], detail: &Value) -> Result<()> {
    for worker in named {
        by.did(tx, Deed { project: None, action, subject: &worker.name, detail: detail.clone() }).await?;
    }
    Ok(())
}

/// The premise held for every one of them.
fn all(changed: u64, ids: &[Uuid]) -> Result<()> {
    if usize::try_from(changed).is_ok_and(|changed| changed == ids.len()) {
        Ok(())
    } else {
        Err(StoreError::Stale("a worker has come or gone in this moment"))
    }
}
