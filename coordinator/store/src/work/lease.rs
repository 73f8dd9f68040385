//! Leases: from a proposal of the scheduler to a worker that runs.

use std::time::Duration;

use farm_core::life;
use farm_core::machines::engine::{EngineVersion, Unfit};
use farm_types::state::WorkerState;
use farm_types::{
    AttemptId, BuildSpec, EngineId, FEATURE_ARCHIVES, FEATURE_GATES, FEATURE_GIT, FEATURE_MOUNTS, JobId,
    LeaseToken, Platform, ProjectId, RunMode, Runs, ShortId, TrustClass, WorkerId,
};
use uuid::Uuid;

use crate::machines::leader::Epoch;
use crate::machines::workers::engine_name;
use crate::proof::LockedExecution;
use crate::publish::garbage::hold_off_cleanings;
use crate::schema::shut_out;
use crate::unreadable::readable;
use crate::work::queue::FETCH;
use crate::{Result, Store, StoreError, fit, from_json, state};

/// The schema from which on coordinators know of staging registries.
const STAGING_SCHEMA: i32 = 44;

/// A proposal of the scheduler.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The job.
    pub job: JobId,
    /// Who runs it.
    pub worker: WorkerId,
    /// On whose slots.
    pub engine: EngineId,
    /// How.
    pub support: RunMode,
    /// Why it isn't native, in words; empty when it is.
    pub reason: String,
}

/// An attempt that its worker has to be told of.
#[derive(Debug, Clone)]
pub struct OfferedAttempt {
    /// Who is to be told.
    pub worker: WorkerId,
    /// Whose.
    pub project: ProjectId,
    /// The project's name.
    pub project_name: String,
    /// The attempt.
    pub attempt: AttemptId,
    /// Its lease.
    pub token: LeaseToken,
    /// Which try of the job, from 1.
    pub number: u32,
    /// A build that wants it, for people.
    pub build: ShortId,
    /// What it is built for.
    pub platform: Platform,
    /// How.
    pub support: RunMode,
    /// Whose programs run.
    pub runs: Runs,
    /// What is asked for.
    pub spec: BuildSpec,
    /// The names of the snapshot's roots.
    pub roots: Vec<String>,
    /// How far the worker's machine is trusted.
    pub trust: TrustClass,
    /// It pushes to the staging registry, and nowhere else.
    pub staged: bool,
    /// What isn't trusted may run on the worker's engine.
    pub engine_is_fit: bool,
    /// A fork proposes it: whose caches it has.
    pub fork: Option<String>,
}

impl Store {
    /// Leases a ready job to a worker: the attempt, the job's state and the engine's slots in one
    /// transaction.
    ///
    /// # Errors
    /// [`StoreError::Stale`] when the job isn't ready, the worker takes no jobs, or none that push, or may not grant what it asks
    /// for, or has no means for a fetch, or runs no gates, or is trusted and a fork proposes the job, or isn't trusted and has an engine that is too old for that, or its project may not ask for that any more, no slot is
    /// free any more, the repository that it would be pushed to is being cleaned, or another coordinator leads;
    /// [`StoreError::Older`] when it would go to the staging registry and older coordinators run.
    pub async fn lease(&self, epoch: Epoch, assignment: Assignment, lease: Duration) -> Result<AttemptId> {
        let mut tx = self.begin_leading(epoch).await?;
        let job = sqlx::query!(
            "SELECT project_id, execution_id FROM jobs WHERE id = $1 AND state = 'ready'",
            assignment.job.as_uuid()
        )
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::Stale("the job is not ready"))?;
        let mut execution = tx.lock_execution(job.project_id.into(), job.execution_id.into()).await?;
        let (project, id) = execution.ids();
        let work = sqlx::query!(
            r#"SELECT repositories, protected, spec ? 'mounts' AS "mounts!", fork IS NOT NULL AS "proposed!" FROM executions WHERE project_id = $1 AND id = $2"#,
            project,
            id
        )
        .fetch_one(&mut *execution)
        .await?;
        hold_off_cleanings(execution.tx(), &work.repositories).await?;
        let row = sqlx::query!(
            "UPDATE jobs SET state = $3, attempt_count = attempt_count + 1, waiting = ''
             WHERE project_id = $1 AND id = $2 AND state = ANY($4)
             RETURNING weight, kind, archive, gated, unit_key, entitlements,
                (SELECT coalesce(max(number), 0) + 1 FROM attempts WHERE project_id = $1 AND job_id = $2) AS number",
            project,
            assignment.job.as_uuid(),
            life::job::LEASE.word(),
            &life::job::LEASE.premise()
        )
        .fetch_optional(&mut *execution)
        .await?
        .ok_or(StoreError::Stale("the job is not ready"))?;
        let worker = sqlx::query!(
            r#"SELECT name, boot_id, features, farm_worker_trust(w) AS "trust!", farm_worker_trust(w) <> $5 AND $9 AS "staged!" FROM workers w
             WHERE id = $1 AND engine_id = $2 AND farm_worker_state(w) = ANY($3)
               AND (farm_worker_trust(w) = $5 OR NOT $4 AND (NOT $9 OR w.staged_via = w.coordinator_id AND NOT $10))
               AND (cardinality($6::text[]) = 0 OR farm_worker_trust(w) = $5 AND w.features @> $6
                    AND EXISTS (SELECT FROM projects p WHERE p.id = $7 AND p.entitlements @> $6))
               AND (NOT $4 OR $8 = ANY(w.features))
               AND (NOT $11 OR farm_worker_trust(w) = $5 AND $12 = ANY(w.features))
               AND (NOT $13 OR farm_worker_trust(w) <> $5)
               AND (NOT $14 OR $15 = ANY(w.features)) FOR SHARE OF w"#,
            assignment.worker.as_uuid(),
            assignment.engine.as_uuid(),
            &WorkerState::LEASABLE.iter().map(ToString::to_string).collect::<Vec<_>>(),
            work.mounts,
            TrustClass::Trusted.as_str(),
            &row.entitlements,
            project,
            FEATURE_MOUNTS,
            !work.repositories.is_empty(),
            work.protected,
            row.kind == FETCH,
            if row.archive { FEATURE_ARCHIVES } else { FEATURE_GIT },
            work.proposed,
            row.gated,
            FEATURE_GATES
        )
        .fetch_optional(&mut *execution)
        .await?
        .ok_or(StoreError::Stale("the worker takes no jobs now"))?;
        if worker.staged {
            // They would offer it with its destinations, and publish what they haven't copied.
            shut_out(execution.tx(), STAGING_SCHEMA, "staging registries").await?;
        }
        let attempt = AttemptId::generate();
        let number = row.number.unwrap_or(1);
        sqlx::query!(
            "INSERT INTO attempts (project_id, id, job_id, number, worker_id, engine_id, boot_id, lease_token,
                                   epoch, support, weight, lease_expires_at, support_reason, staged)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, farm_now() + make_interval(secs => $12), $13, $14)",
            project,
            attempt.as_uuid(),
            assignment.job.as_uuid(),
            number,
            assignment.worker.as_uuid(),
            assignment.engine.as_uuid(),
            worker.boot_id,
            LeaseToken::generate().as_uuid(),
            epoch.0,
            assignment.support.as_str(),
            row.weight,
            lease.as_secs_f64(),
            assignment.reason,
            worker.staged
        )
        .execute(&mut *execution)
        .await?;
        let engine = sqlx::query!(
            "UPDATE engines SET used = used + $2, leased_at = farm_now() WHERE id = $1 AND used + $2 <= slots
             RETURNING kind, version, buildkit, package",
            assignment.engine.as_uuid(),
            row.weight
        )
        .fetch_optional(&mut *execution)
        .await?
        .ok_or(StoreError::Stale("no slot is free"))?;
        // As it is now, whatever it was when this was proposed.
        let name = engine_name(&engine.kind, &engine.version);
        let engine = EngineVersion { name, buildkit: engine.buildkit, package: engine.package };
        if worker.trust != TrustClass::Trusted.as_str() {
            match self.patched.unfit(&engine, &worker.features) {
                Some(Unfit::TooOld(_)) => {
                    return Err(StoreError::Stale(
                        "the worker isn't trusted, and its engine is too old for that",
                    ));
                }
                Some(Unfit::Unfenced) => {
                    return Err(StoreError::Stale(
                        "the worker isn't trusted, and its engine isn't fenced off",
                    ));
                }
                None => {}
            }
        }
        sqlx::query!(
            "SELECT farm_execution_event($1, $2, 'attempt_offered',
                    jsonb_build_object('job', $3::text, 'attempt', $4::int, 'worker', $5::text, 'support', $6::text))",
            project,
            id,
            row.unit_key,
            number,
            worker.name,
            assignment.support.as_str()
        )
        .fetch_one(&mut *execution)
        .await?;
        tx.commit().await?;
        Ok(attempt)
    }

    /// The attempts that were given to the workers connected to this coordinator, and not yet answered.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn offered_via(&self, coordinator: Uuid) -> Result<Vec<OfferedAttempt>> {
        let rows = sqlx::query!(
            r#"SELECT a.worker_id, a.project_id, p.name AS project_name, a.id, a.lease_token, a.number, a.support, a.staged,
                      j.platform, j.runs, e.spec, e.fork,
                      coalesce((SELECT b.short_id FROM builds b WHERE b.project_id = e.project_id
                       AND b.execution_id = e.id ORDER BY b.order_key LIMIT 1), '') AS "short_id!",
                      ARRAY(SELECT r.name FROM snapshot_roots r WHERE r.project_id = e.project_id
                            AND r.tree_id = e.tree_id ORDER BY r.name) AS "roots!",
                      farm_worker_trust(w) AS "trust!", w.features, n.kind, n.version, n.buildkit, n.package
               FROM workers w
               JOIN engines n ON n.id = w.engine_id
               JOIN attempts a ON a.worker_id = w.id AND a.boot_id = w.boot_id
               JOIN jobs j ON j.project_id = a.project_id AND j.id = a.job_id
               JOIN executions e ON e.project_id = j.project_id AND e.id = j.execution_id
               JOIN projects p ON p.id = a.project_id
               WHERE w.coordinator_id = $1 AND a.state = 'offered' AND a.stop_reason = ''
               ORDER BY a.offered_at"#,
            coordinator
        )
        .fetch_all(&self.pool)
        .await?;
        let offered = rows.into_iter().filter_map(|row| {
            let id = format!("{} of build {}", row.id, row.short_id);
            let name = engine_name(&row.kind, &row.version);
            let engine = EngineVersion { name, buildkit: row.buildkit, package: row.package };
            let read = || {
                Ok(OfferedAttempt {
                    worker: row.worker_id.into(),
                    project: row.project_id.into(),
                    project_name: row.project_name,
                    attempt: row.id.into(),
                    token: row.lease_token.into(),
                    number: fit(row.number)?,
                    build: state(&row.short_id)?,
                    platform: state(&row.platform)?,
                    support: state(&row.support)?,
                    runs: state(&row.runs)?,
                    spec: from_json(row.spec)?,
                    roots: row.roots,
                    trust: state(&row.trust)?,
                    staged: row.staged,
                    engine_is_fit: self.patched.unfit(&engine, &row.features).is_none(),
                    fork: row.fork,
                })
            };
            readable("an attempt", id, read())
        });
        Ok(offered.collect())
    }

    /// The live attempts that the workers connected to this coordinator are to stop, and why.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn stops_via(&self, coordinator: Uuid) -> Result<Vec<(WorkerId, AttemptId, String)>> {
        let rows = sqlx::query!(
            "SELECT a.worker_id, a.id, a.stop_reason FROM workers w
             JOIN attempts a ON a.worker_id = w.id AND a.boot_id = w.boot_id
             WHERE w.coordinator_id = $1 AND a.state IN ('offered', 'running') AND a.stop_reason <> ''",
            coordinator
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| (row.worker_id.into(), row.id.into(), row.stop_reason)).collect())
    }
}

/// Gives the slots of an attempt that has ended back.
pub(crate) async fn free_slots(execution: &mut LockedExecution<'_>, engine: Uuid, weight: i32) -> Result<()> {
    sqlx::query!("UPDATE engines SET used = used - $2 WHERE id = $1", engine, weight)
        .execute(&mut **execution)
        .await?;
    Ok(())
}
