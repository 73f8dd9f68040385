//! Workers and their engines.

use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_core::machines::engine::{EngineVersion, Unfit};
use farm_types::state::WorkerState;
use farm_types::{BootId, EngineId, JoinId, MachineId, Offer, TrustClass, WorkerId};
use uuid::Uuid;

use crate::Tx;
use crate::machines::certificates::stays;
use crate::machines::joins::cut;
use crate::machines::leader::Epoch;
use crate::unreadable::readable;
use crate::{Result, Store, StoreError, fit};

/// A worker that has not stopped within this what it was told to is quarantined; the lease is renewed no more.
pub(crate) const STOP_WITHIN_SECONDS: f64 = 60.0;

/// Why a control stream isn't taken any more: what it says came after what a later one said.
pub const OVERTAKEN: &str = "the worker has dialled anew since";

/// A worker's sign of life.
#[derive(Debug, Clone)]
pub struct Sign {
    /// Whose.
    pub worker: WorkerId,
    /// The control stream that it came by.
    pub connection: Uuid,
    /// The lease tokens of what the worker runs.
    pub tokens: Vec<Uuid>,
}

/// What a worker says of itself when it connects.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Its name, unique in the farm.
    pub name: String,
    /// This life of its process.
    pub boot_id: BootId,
    /// The folder that it has claimed, which only one process at a time can; empty: it doesn't say.
    pub home: String,
    /// The coordinator that holds its control stream.
    pub coordinator: Uuid,
    /// This control stream: another one for each connection.
    pub connection: Uuid,
    /// Which of this life's streams it is, from 1; 0: it doesn't say.
    pub dial: u64,
    /// The negotiated protocol version.
    pub protocol: u32,
    /// What it can do beyond the version.
    pub features: Vec<String>,
    /// It ends when what it runs is done.
    pub draining: bool,
    /// Its farm version.
    pub software_version: String,
    /// Its engine's identity: workers with the same one share its slots.
    pub engine_key: String,
    /// `docker` or `buildkitd`.
    pub engine_kind: String,
    /// The engine's version.
    pub engine_version: String,
    /// Which BuildKit it has, in its words; empty: it doesn't say.
    pub engine_buildkit: String,
    /// The package that it is from, with its version; empty: it isn't known.
    pub engine_package: String,
    /// What it runs.
    pub offers: Vec<Offer>,
    /// How many jobs at once.
    pub slots: u32,
    /// Why it offers no platform, in its words; empty when it doesn't say.
    pub withdrawn_why: String,
    /// As what it joined; `None`: it shows the farm's own token.
    pub joined: Option<Joined>,
    /// What it pushes can go to a staging registry, by this coordinator.
    pub stages: bool,
}

/// As what a worker joined, which its certificate shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    pub join: JoinId,
    pub machine: MachineId,
    pub trust: TrustClass,
}

impl Registration {
    /// By what its engine is told from all others. What an engine says of itself is believed within its machine: no machine
    /// that joined can name another's.
    fn engine(&self) -> String {
        match self.joined {
            Some(joined) => format!("{}/{}", joined.machine, self.engine_key),
            None => self.engine_key.clone(),
        }
    }
}

/// A worker as it stands in the list.
#[derive(Debug, Clone)]
pub struct WorkerRecord {
    /// Which worker.
    pub id: WorkerId,
    /// Its name.
    pub name: String,
    /// Its engine.
    pub engine_id: EngineId,
    /// Its engine's version, as it says.
    pub engine: EngineVersion,
    /// Slots of the engine.
    pub slots: u32,
    /// Taken slots of the engine.
    pub slots_used: u32,
    /// When some of them were last taken.
    pub engine_leased_at: Option<DateTime<Utc>>,
    /// Whether it takes jobs, or what keeps it from them; silence, which hangs on time, isn't in it.
    pub state: WorkerState,
    /// Since when an administrator lets it take no new job.
    pub drained_at: Option<DateTime<Utc>>,
    /// Since when it offers nothing: its engine is away, or it is about to leave.
    pub withdrawn_at: Option<DateTime<Utc>>,
    /// Why, in its words; may be empty.
    pub withdrawn_why: String,
    /// When what it still runs is given back, if it was drained with a limit.
    pub release_at: Option<DateTime<Utc>>,
    /// Since when it is set aside, since it did not stop what it was told to.
    pub quarantined_at: Option<DateTime<Utc>>,
    /// Since when it is on probation, and gets no ordinary jobs.
    pub probation_at: Option<DateTime<Utc>>,
    /// Why, in words; may be empty.
    pub probation_why: String,
    /// When its next trial build is due.
    pub probe_at: Option<DateTime<Utc>>,
    /// Its last sign.
    pub last_seen: DateTime<Utc>,
    /// Its farm version.
    pub software_version: String,
    /// What it can beyond the protocol's version.
    pub features: Vec<String>,
    /// What it runs.
    pub offers: Vec<Offer>,
    /// How far its machine is trusted.
    pub trust: TrustClass,
    /// What it pushes can go to a staging registry.
    pub stages: bool,
}

/// As what a worker joined, as the list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub worker: WorkerId,
    pub machine: String,
    pub pool: String,
    pub trust: String,
    /// When the last of its certificates ends; of one that has none any more, since when it counts no more.
    pub ends: DateTime<Utc>,
    /// That one can't be renewed any more: the worker has to be invited again.
    pub expired: bool,
}

impl Store {
    /// Registers a worker that has connected, or finds it again by its name.
    ///
    /// A worker of that name that is connected elsewhere with another boot id, and gave a sign within
    /// `suspect_after`, is in the way; unless it had the same home: then it is dead.
    ///
    /// The name of one that joined is for its certificate only. A stream that comes after a later one of the same life changes
    /// nothing.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the name is in use, or the engine is a trusted machine's and this one isn't trusted;
    /// [`StoreError::Stale`] with [`OVERTAKEN`] when it has a later stream; or with the reason when it counts no more as what it
    /// joined.
    pub async fn register_worker(&self, worker: &Registration, suspect_after: Duration) -> Result<WorkerId> {
        let mut tx = self.begin().await?;
        if let Some(joined) = worker.joined {
            stays(&mut tx, joined.join).await?;
        }
        one_trust(&mut tx, worker).await?;
        let machine = worker.joined.map(|joined| joined.machine.as_uuid());
        let join = worker.joined.map(|joined| joined.join.as_uuid());
        let slots: i32 = fit(worker.slots)?;
        let engine = sqlx::query_scalar!(
            "INSERT INTO engines (id, key, kind, version, slots, machine_id, told_key, buildkit, package)
             VALUES ($1, $2, $3, $4, $5, $7, $8, $9, $10)
             ON CONFLICT (key) DO UPDATE SET kind = EXCLUDED.kind, version = EXCLUDED.version,
                buildkit = EXCLUDED.buildkit, package = EXCLUDED.package,
                slots = greatest(EXCLUDED.slots, (SELECT coalesce(max(w.slots), 0) FROM workers w
                                 WHERE w.engine_id = engines.id AND w.name <> $6
                                   AND w.coordinator_id IS NOT NULL))
             RETURNING id",
            EngineId::generate().as_uuid(),
            worker.engine(),
            worker.engine_kind,
            worker.engine_version,
            slots,
            worker.name,
            machine,
            worker.engine_key,
            worker.engine_buildkit,
            worker.engine_package,
        )
        .fetch_one(&mut *tx)
        .await?;
        let protocol: i32 = fit(worker.protocol)?;
        let dial: i64 = fit(worker.dial)?;
        let id = sqlx::query_scalar!(
            "INSERT INTO workers (id, name, engine_id, boot_id, coordinator_id, protocol, features,
                                  software_version, slots, connection_id, withdrawn_at, home, draining,
                                  withdrawn_why, join_id, dial, dial_boot, staged_via)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $11, CASE WHEN $12 THEN farm_now() END, $13, $14, $15, $16, $17, $4, $18)
             ON CONFLICT (name) DO UPDATE SET engine_id = EXCLUDED.engine_id, boot_id = EXCLUDED.boot_id,
                coordinator_id = EXCLUDED.coordinator_id, protocol = EXCLUDED.protocol,
                features = EXCLUDED.features, software_version = EXCLUDED.software_version,
                slots = EXCLUDED.slots, connection_id = EXCLUDED.connection_id, home = EXCLUDED.home,
                last_seen = farm_now(), draining = EXCLUDED.draining, removed_at = NULL,
                withdrawn_at = CASE WHEN $12 THEN coalesce(workers.withdrawn_at, farm_now()) END,
                withdrawn_why = EXCLUDED.withdrawn_why, join_id = EXCLUDED.join_id,
                dial = EXCLUDED.dial, dial_boot = EXCLUDED.dial_boot, staged_via = EXCLUDED.staged_via,
                -- Another life runs nothing of the former one's. It shows at once whether it is well, and so does one
                -- whose engine is back.
                quarantined_at = CASE WHEN workers.boot_id = EXCLUDED.boot_id THEN workers.quarantined_at END,
                quarantine_token = CASE WHEN workers.boot_id = EXCLUDED.boot_id
                                   THEN workers.quarantine_token END,
                probe_id = CASE WHEN workers.boot_id = EXCLUDED.boot_id THEN workers.probe_id END,
                probe_asked_at = CASE WHEN workers.boot_id = EXCLUDED.boot_id THEN workers.probe_asked_at END,
                probe_at = CASE WHEN workers.probation_at IS NOT NULL
                                  AND (workers.boot_id <> EXCLUDED.boot_id
                                       OR (workers.withdrawn_at IS NOT NULL AND NOT $12))
                           THEN farm_now() ELSE workers.probe_at END,
                booted_at = CASE WHEN workers.boot_id = EXCLUDED.boot_id THEN workers.booted_at
                            ELSE farm_now() END
             WHERE (workers.boot_id = EXCLUDED.boot_id OR workers.coordinator_id IS NULL
                OR (workers.home = EXCLUDED.home AND EXCLUDED.home <> '')
                OR workers.last_seen < farm_now() - make_interval(secs => $10))
                AND ($16::uuid IS NOT NULL OR NOT EXISTS (
                    SELECT FROM joins j WHERE j.name = EXCLUDED.name AND j.revoked_at IS NULL))
                AND NOT (EXCLUDED.dial > 0 AND workers.dial > EXCLUDED.dial
                    AND workers.dial_boot IS NOT DISTINCT FROM EXCLUDED.dial_boot)
             RETURNING id",
            WorkerId::generate().as_uuid(),
            worker.name,
            engine,
            worker.boot_id.as_uuid(),
            worker.coordinator,
            protocol,
            &worker.features,
            worker.software_version,
            slots,
            suspect_after.as_secs_f64(),
            worker.connection,
            worker.offers.is_empty(),
            worker.home,
            worker.draining,
            worker.withdrawn_why,
            join,
            dial,
            worker.stages.then_some(worker.coordinator),
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(id) = id else { return Err(in_the_way(&mut tx, worker).await?) };
        if !worker.offers.is_empty() {
            sqlx::query!("DELETE FROM worker_platforms WHERE worker_id = $1", id).execute(&mut *tx).await?;
        }
        for offer in &worker.offers {
            sqlx::query!(
                "INSERT INTO worker_platforms (worker_id, platform, support, told) VALUES ($1, $2, $3, $4)
                 ON CONFLICT DO NOTHING",
                id,
                offer.platform.to_string(),
                offer.support.as_str(),
                offer.told
            )
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(id.into())
    }

    /// Notes that this control stream of a worker has ended, unless it has another one by now. Its leases go
    /// on until they end.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn worker_disconnected(&self, worker: WorkerId, connection: Uuid) -> Result<()> {
        sqlx::query!(
            // A sign that came by it and is written late must not connect it again.
            "UPDATE workers SET coordinator_id = NULL, connection_id = gen_random_uuid()
             WHERE id = $1 AND connection_id = $2",
            worker.as_uuid(),
            connection
        )
        .execute(&self.pool)
        .await?;
        // The slots of an engine are those of its largest worker that is there.
        sqlx::query!(
            "UPDATE engines SET slots = there.slots FROM (
                SELECT w.engine_id, max(w.slots) AS slots FROM workers w
                WHERE w.coordinator_id IS NOT NULL
                  AND w.engine_id = (SELECT gone.engine_id FROM workers gone WHERE gone.id = $1)
                GROUP BY w.engine_id) AS there
             WHERE engines.id = there.engine_id AND engines.slots <> there.slots",
            worker.as_uuid()
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Notes signs of life, and renews for `lease` what the workers said that they run: all in one write.
    ///
    /// A lease is renewed only by the life of the worker that holds it, only while it is live, and not for long
    /// once it was told to stop. A worker that gives a sign is connected to the coordinator that heard it. One that was
    /// quarantined for what it doesn't name any more is so no longer. Answers which connections count no more, as their worker
    /// has another one or was cut off: by these nothing is heard. (Whoever asks who calls tells those that were revoked.)
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn heartbeats(&self, coordinator: Uuid, signs: &[Sign], lease: Duration) -> Result<Vec<Uuid>> {
        let workers: Vec<Uuid> = signs.iter().map(|sign| sign.worker.as_uuid()).collect();
        let connections: Vec<Uuid> = signs.iter().map(|sign| sign.connection).collect();
        let tokens: Vec<Uuid> = signs.iter().flat_map(|sign| sign.tokens.iter().copied()).collect();
        Ok(sqlx::query_scalar!(
            r#"WITH held AS (
                SELECT w.id FROM unnest($1::uuid[], $2::uuid[]) AS sign (worker, connection)
                JOIN workers w ON w.id = sign.worker AND w.connection_id = sign.connection
                -- In the order in which all lock them.
                ORDER BY w.id FOR UPDATE OF w),
             seen AS (
                UPDATE workers SET last_seen = farm_now(), coordinator_id = $5, removed_at = NULL,
                    quarantined_at = CASE WHEN quarantine_token = ANY($3) THEN quarantined_at END,
                    quarantine_token = CASE WHEN quarantine_token = ANY($3) THEN quarantine_token END
                FROM held WHERE workers.id = held.id
                RETURNING workers.id, workers.boot_id),
             renewed AS (
                SELECT attempts.project_id, attempts.id FROM attempts
                JOIN seen ON attempts.worker_id = seen.id AND attempts.boot_id = seen.boot_id
                WHERE attempts.lease_token = ANY($3) AND attempts.state IN ('offered', 'running')
                  AND (attempts.stop_since IS NULL
                       OR attempts.stop_since > farm_now() - make_interval(secs => $6))
                ORDER BY attempts.id FOR UPDATE OF attempts),
             extended AS (
                UPDATE attempts SET lease_expires_at = farm_now() + make_interval(secs => $4)
                FROM renewed WHERE attempts.project_id = renewed.project_id AND attempts.id = renewed.id)
             SELECT sign.connection AS "connection!" FROM unnest($1::uuid[], $2::uuid[]) AS sign (worker, connection)
             JOIN workers w ON w.id = sign.worker WHERE w.connection_id <> sign.connection AND w.removed_at IS NULL"#,
            &workers,
            &connections,
            &tokens,
            lease.as_secs_f64(),
            coordinator,
            STOP_WITHIN_SECONDS
        )
        .fetch_all(&self.vital)
        .await?)
    }

    /// All workers that were not removed, by name.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn workers(&self) -> Result<Vec<WorkerRecord>> {
        let rows = sqlx::query!(
            r#"SELECT w.id, w.name, w.engine_id, e.kind, e.version, e.buildkit, e.package, e.slots, e.used, e.leased_at, w.drained_at,
                      w.withdrawn_at, w.withdrawn_why, w.release_at, w.quarantined_at, w.probation_at,
                      w.probation_why, w.probe_at, w.last_seen, w.features,
                      farm_worker_state(w) AS "state!", w.software_version,
                      farm_worker_trust(w) AS "trust!",
                      coalesce(w.staged_via = w.coordinator_id, false) AS "stages!",
                      coalesce((SELECT json_agg(json_build_object('platform', p.platform,
                                'support', p.support, 'told', p.told) ORDER BY p.platform)
                                FROM worker_platforms p WHERE p.worker_id = w.id), '[]'::json) AS "offers!"
               FROM workers w JOIN engines e ON e.id = w.engine_id WHERE w.removed_at IS NULL ORDER BY w.name"#
        )
        .fetch_all(&self.pool)
        .await?;
        let records = rows.into_iter().filter_map(|row| {
            let name = row.name.clone();
            let read = || {
                Ok(WorkerRecord {
                    id: row.id.into(),
                    name: row.name,
                    engine_id: row.engine_id.into(),
                    engine: EngineVersion {
                        name: engine_name(&row.kind, &row.version),
                        buildkit: row.buildkit,
                        package: row.package,
                    },
                    slots: fit(row.slots)?,
                    slots_used: fit(row.used)?,
                    engine_leased_at: row.leased_at,
                    state: crate::state(&row.state)?,
                    drained_at: row.drained_at,
                    withdrawn_at: row.withdrawn_at,
                    withdrawn_why: row.withdrawn_why,
                    release_at: row.release_at,
                    quarantined_at: row.quarantined_at,
                    probation_at: row.probation_at,
                    probation_why: row.probation_why,
                    probe_at: row.probe_at,
                    last_seen: row.last_seen,
                    software_version: row.software_version,
                    features: row.features,
                    offers: crate::from_json(row.offers)?,
                    trust: crate::state(&row.trust)?,
                    stages: row.stages,
                })
            };
            readable("a worker", name, read())
        });
        Ok(records.collect())
    }

    /// As what workers joined, of those that did.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn standings(&self) -> Result<Vec<Standing>> {
        let rows = sqlx::query!(
            r#"SELECT w.id, m.name, m.pool, m.trust, j.expired,
                      -- Its certificates go 30 days after their end.
                      coalesce((SELECT max(c.expires_at) FROM certificates c WHERE c.join_id = j.id), j.revoked_at, j.joined_at)
                        AS "ends!"
               FROM workers w JOIN joins j ON j.id = w.join_id JOIN machines m ON m.id = j.machine_id
               WHERE w.removed_at IS NULL"#
        )
        .fetch_all(&self.pool)
        .await?;
        let standings = rows.into_iter().map(|row| Standing {
            worker: row.id.into(),
            machine: row.name,
            pool: row.pool,
            trust: row.trust,
            ends: row.ends,
            expired: row.expired,
        });
        Ok(standings.collect())
    }

    /// Takes at most `limit` workers out of the farm that were not there for `kept`, as an administrator would who removes
    /// them. A drained one stays, as that wish is not the worker's. Gives their names.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn forget_workers(&self, epoch: Epoch, kept: Duration, limit: i64) -> Result<Vec<String>> {
        let mut tx = self.begin_leading(epoch).await?;
        let names = sqlx::query_scalar!(
            "UPDATE workers SET removed_at = farm_now() WHERE removed_at IS NULL AND id IN (
                SELECT w.id FROM workers w
                WHERE w.removed_at IS NULL AND w.coordinator_id IS NULL AND w.drained_at IS NULL
                  AND w.last_seen < farm_now() - make_interval(secs => $1)
                  AND NOT EXISTS (SELECT FROM attempts a WHERE a.worker_id = w.id
                                  AND a.state IN ('offered', 'running'))
                ORDER BY w.last_seen LIMIT $2 FOR UPDATE SKIP LOCKED)
             RETURNING name",
            kept.as_secs_f64(),
            limit
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(names)
    }
}

impl Store {
    /// What keeps what isn't trusted from this worker's engine; `None`: nothing does.
    pub fn unfit(&self, worker: &WorkerRecord) -> Option<Unfit> {
        self.patched.unfit(&worker.engine, &worker.features)
    }

    /// The workers on machines that aren't trusted on whose engines nothing may run.
    pub(crate) async fn unfit_workers(&self) -> Result<Vec<Uuid>> {
        let rows = sqlx::query!(
            "SELECT w.id, w.features, e.kind, e.version, e.buildkit, e.package
             FROM workers w JOIN engines e ON e.id = w.engine_id
             WHERE w.removed_at IS NULL AND farm_worker_trust(w) <> $1",
            TrustClass::Trusted.as_str()
        )
        .fetch_all(&self.pool)
        .await?;
        let unfit = rows.into_iter().filter(|row| {
            let (buildkit, package) = (row.buildkit.clone(), row.package.clone());
            let name = engine_name(&row.kind, &row.version);
            self.patched.unfit(&EngineVersion { name, buildkit, package }, &row.features).is_some()
        });
        Ok(unfit.map(|row| row.id).collect())
    }
}

/// An engine as people name it: `docker 28.5.2`.
pub(crate) fn engine_name(kind: &str, version: &str) -> String {
    format!("{kind} {version}")
}

/// Why a worker isn't registered.
async fn in_the_way(tx: &mut Tx, worker: &Registration) -> Result<StoreError> {
    let later = sqlx::query_scalar!(
        r#"SELECT true AS "there!" FROM workers WHERE name = $1 AND dial_boot = $2 AND dial > $3 AND $3 > 0"#,
        worker.name,
        worker.boot_id.as_uuid(),
        fit::<_, i64>(worker.dial)?
    );
    if later.fetch_optional(&mut **tx).await?.is_some() {
        return Ok(StoreError::Stale(OVERTAKEN));
    }
    let joined = sqlx::query_scalar!(
        r#"SELECT true AS "there!" FROM joins WHERE name = $1 AND revoked_at IS NULL"#,
        worker.name
    );
    let is_joined = worker.joined.is_none() && joined.fetch_optional(&mut **tx).await?.is_some();
    Ok(StoreError::Conflict(if is_joined {
        format!(
            "worker {} has a certificate of its own, so nobody is it who shows the farm's token; give this one another --name",
            worker.name
        )
    } else {
        format!("a worker named {:?} is connected already; give this one another --name", worker.name)
    }))
}

/// An engine is of one trust: what runs untrusted on it could reach what is trusted. The trusted machine has it, and so has one
/// that shows the farm's own token, which is trusted with everything. Locks the worker's row, if there is one.
async fn one_trust(tx: &mut Tx, worker: &Registration) -> Result<()> {
    let trust = worker.joined.map_or(TrustClass::Trusted, |joined| joined.trust);
    // Of two that come at once for the first time one sees the other.
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('engine ' || $1, 0))", worker.engine_key)
        .execute(&mut **tx)
        .await?;
    let others = sqlx::query!(
        "SELECT w.id, w.name FROM engines e JOIN workers w ON w.engine_id = e.id
         WHERE coalesce(e.told_key, e.key) = $1 AND w.removed_at IS NULL AND w.name <> $3
           AND farm_worker_trust(w) <> $2
         ORDER BY w.id",
        worker.engine_key,
        trust.as_str(),
        worker.name
    )
    .fetch_all(&mut **tx)
    .await?;
    // Before the engine's row, as whoever gives a job to the worker does; all workers in the order in which all lock them.
    let ids: Vec<Uuid> = others.iter().map(|other| other.id).collect();
    sqlx::query!(
        "SELECT id FROM workers WHERE name = $1 OR id = ANY($2) ORDER BY id FOR UPDATE",
        worker.name,
        &ids
    )
    .fetch_all(&mut **tx)
    .await?;
    match (trust, others.first()) {
        (_, None) => Ok(()),
        (TrustClass::Untrusted, Some(other)) => Err(StoreError::Conflict(format!(
            "this worker's machine isn't trusted, and its engine is that of worker {}, whose machine is: an engine is one or \
             the other; give this worker an engine of its own",
            other.name
        ))),
        (TrustClass::Trusted, Some(_)) => cut(tx, &ids).await,
    }
}
