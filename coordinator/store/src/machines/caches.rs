//! Engines' build caches: how much they keep, and having them drop some of it.
//!
//! What is asked is a row, and so is the answer. Whichever coordinator holds a worker's stream says it again until it is answered; so
//! nothing is lost with a coordinator, a stream or a worker. Of workers that share an engine one is asked.

use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_types::WorkerId;
use serde_json::json;
use uuid::Uuid;

use crate::machines::drain::{Done, Refusal};
use crate::people::audit::{By, Deed};
use crate::{Result, Store, StoreError, fit};

/// A worker that hasn't answered within this won't.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10 * 60);
/// What was measured within this isn't measured again.
const FRESH: Duration = Duration::from_secs(60);
/// So long asks are remembered.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// As much of a failure is kept, characters.
const FAILURE_CHARS: usize = 300;

/// What is to be dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// What was used within that stays.
    pub older_than: Duration,
    /// So many bytes are left.
    pub keep_bytes: u64,
    /// It is only asked what would be.
    pub dry_run: bool,
}

/// Something that a worker is to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Which.
    pub id: Uuid,
    /// Whom.
    pub worker: WorkerId,
    /// What.
    pub bounds: Bounds,
}

/// What a worker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// What its engine keeps.
    pub bytes: u64,
    /// What it dropped, or would.
    pub freed_bytes: u64,
    /// Why it could not; empty: it could.
    pub failure: String,
}

/// An ask with its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The worker's name.
    pub worker: String,
    /// Its engine, for people.
    pub engine: String,
    /// The answer; `None`: there is none yet.
    pub told: Option<(Told, DateTime<Utc>)>,
}

impl Store {
    /// Asks these workers, or all that are connected and can, to have their engines drop something. A key that is known asks nobody.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn prune_caches(&self, by: &By, key: &str, names: &[String], bounds: Bounds) -> Result<Done> {
        let mut tx = self.begin().await?;
        sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('cache ' || $1, 0))::text", key)
            .fetch_one(&mut *tx)
            .await?;
        let known =
            sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM cache_asks WHERE key = $1) AS "known!""#, key)
                .fetch_one(&mut *tx)
                .await?;
        if known {
            return Ok(Ok(()));
        }
        let found = sqlx::query!(
            r#"SELECT DISTINCT ON (w.engine_id) w.id, w.name, w.engine_id, w.coordinator_id IS NOT NULL AS "connected!",
                      w.features @> $2 AS "can!"
               FROM workers w WHERE w.removed_at IS NULL
                 AND CASE WHEN cardinality($1::text[]) > 0 THEN w.name = ANY($1)
                          ELSE w.coordinator_id IS NOT NULL AND w.features @> $2 END
               ORDER BY w.engine_id, w.coordinator_id IS NULL, w.name"#,
            names,
            &[farm_types::FEATURE_CACHES.to_owned()]
        )
        .fetch_all(&mut *tx)
        .await?;
        let there = sqlx::query_scalar!(
            "SELECT name FROM workers WHERE name = ANY($1) AND removed_at IS NULL",
            names
        )
        .fetch_all(&mut *tx)
        .await?;
        if let Some(unknown) = names.iter().find(|name| !there.contains(name)) {
            return Ok(Err(Refusal::Unknown(unknown.clone())));
        }
        let older_than_ms: i64 = fit(u64::try_from(bounds.older_than.as_millis()).unwrap_or(u64::MAX))?;
        let keep_bytes: i64 = fit(bounds.keep_bytes)?;
        for worker in found {
            let failure = match (worker.connected, worker.can) {
                (true, true) => "",
                (false, _) => "it isn't connected",
                (true, false) => "its farm-worker is of before this could be asked; update it",
            };
            sqlx::query!(
                "INSERT INTO cache_asks (id, key, worker_id, engine_id, older_than_ms, keep_bytes, dry_run, failure, told_at)
                 VALUES (gen_random_uuid(), $1, $2, $3, $4, $5, $6, $7, CASE WHEN $7 <> '' THEN farm_now() END)",
                key,
                worker.id,
                worker.engine_id,
                older_than_ms,
                keep_bytes,
                bounds.dry_run,
                failure
            )
            .execute(&mut *tx)
            .await?;
            if !bounds.dry_run && failure.is_empty() {
                let detail = json!({ "older_than_seconds": bounds.older_than.as_secs(), "keep_bytes": bounds.keep_bytes });
                by.did(
                    &mut tx,
                    Deed { project: None, action: "worker.prune", subject: &worker.name, detail },
                )
                .await?;
            }
        }
        sqlx::query!(
            "DELETE FROM cache_asks WHERE asked_at < farm_now() - make_interval(secs => $1)",
            KEPT.as_secs_f64()
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Ok(()))
    }

    /// Asks the connected workers that can how much their engines keep, unless they were asked a moment ago.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn measure_caches(&self) -> Result<()> {
        // Whoever may look at the farm may ask for one a minute of each engine.
        sqlx::query!(
            "DELETE FROM cache_asks WHERE key IS NULL AND asked_at < farm_now() - make_interval(secs => $1)",
            KEPT.as_secs_f64()
        )
        .execute(&self.pool)
        .await?;
        sqlx::query!(
            "INSERT INTO cache_asks (id, worker_id, engine_id, older_than_ms, keep_bytes, dry_run)
             SELECT DISTINCT ON (w.engine_id) gen_random_uuid(), w.id, w.engine_id, 0, 0, true
             FROM workers w WHERE w.removed_at IS NULL AND w.coordinator_id IS NOT NULL AND w.features @> $1
               AND NOT EXISTS (SELECT FROM cache_asks a WHERE a.engine_id = w.engine_id AND a.key IS NULL
                               AND a.asked_at > farm_now() - make_interval(secs => $2))
             ORDER BY w.engine_id, w.name",
            &[farm_types::FEATURE_CACHES.to_owned()],
            FRESH.as_secs_f64()
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// What is to be asked of the workers that are connected to this coordinator. What wasn't answered for long has failed.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn cache_asks_via(&self, coordinator: Uuid) -> Result<Vec<Ask>> {
        let open = sqlx::query!(
            "SELECT a.id, a.worker_id, a.older_than_ms, a.keep_bytes, a.dry_run FROM cache_asks a
             JOIN workers w ON w.id = a.worker_id
             WHERE a.told_at IS NULL AND w.coordinator_id = $1 AND a.asked_at > farm_now() - make_interval(secs => $2)",
            coordinator,
            ANSWERED_WITHIN.as_secs_f64()
        )
        .fetch_all(&self.pool)
        .await?;
        let asks = open.into_iter().map(|row| {
            let older_than = Duration::from_millis(fit(row.older_than_ms)?);
            let bounds = Bounds { older_than, keep_bytes: fit(row.keep_bytes)?, dry_run: row.dry_run };
            Ok(Ask { id: row.id, worker: row.worker_id.into(), bounds })
        });
        asks.collect()
    }

    /// A worker has answered.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when nobody waits for that, or it isn't this worker's.
    pub async fn cache_told(&self, worker: WorkerId, ask: Uuid, told: &Told) -> Result<()> {
        // Whatever a worker says.
        let [bytes, freed] =
            [told.bytes, told.freed_bytes].map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        let failure: String = told.failure.chars().take(FAILURE_CHARS).collect();
        let done = sqlx::query!(
            "UPDATE cache_asks SET told_at = farm_now(), bytes = $3, freed_bytes = $4, failure = $5
             WHERE id = $1 AND worker_id = $2 AND told_at IS NULL",
            ask,
            worker.as_uuid(),
            bytes,
            freed,
            failure
        )
        .execute(&self.pool)
        .await?;
        if done.rows_affected() == 1 {
            Ok(())
        } else {
            Err(StoreError::Stale("nobody waits for this answer"))
        }
    }

    /// How far it is: of each engine the ask of this key, or without one its newest measurement, with an answer if any has.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn asked_caches(&self, key: Option<&str>) -> Result<Vec<Asked>> {
        let rows = sqlx::query!(
            r#"SELECT DISTINCT ON (a.engine_id) w.name, e.kind, e.version, a.bytes, a.freed_bytes,
                      CASE WHEN a.told_at IS NULL AND a.asked_at <= farm_now() - make_interval(secs => $2)
                           THEN 'it did not answer' ELSE a.failure END AS "failure!",
                      CASE WHEN a.told_at IS NULL AND a.asked_at <= farm_now() - make_interval(secs => $2)
                           THEN a.asked_at ELSE a.told_at END AS told_at
               FROM cache_asks a JOIN workers w ON w.id = a.worker_id JOIN engines e ON e.id = a.engine_id
               WHERE a.key IS NOT DISTINCT FROM $1 AND w.removed_at IS NULL
               ORDER BY a.engine_id, a.told_at IS NULL, a.asked_at DESC"#,
            key,
            ANSWERED_WITHIN.as_secs_f64()
        )
        .fetch_all(&self.pool)
        .await?;
        let asked = rows.into_iter().map(|row| {
            let told = Told {
                bytes: fit(row.bytes.unwrap_or(0))?,
                freed_bytes: fit(row.freed_bytes.unwrap_or(0))?,
                failure: row.failure,
            };
            Ok(Asked {
                worker: row.name,
                engine: crate::machines::workers::engine_name(&row.kind, &row.version),
                told: row.told_at.map(|at| (told, at)),
            })
        });
        let mut asked = asked.collect::<Result<Vec<_>>>()?;
        asked.sort_by(|a: &Asked, b| a.worker.cmp(&b.worker));
        Ok(asked)
    }

    /// Whether each engine that was measured has an answer that isn't old.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn are_measured(&self) -> Result<bool> {
        let open = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM cache_asks WHERE key IS NULL AND told_at IS NULL
                              AND asked_at > farm_now() - make_interval(secs => $1)) AS "open!""#,
            FRESH.as_secs_f64()
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(!open)
    }
}
