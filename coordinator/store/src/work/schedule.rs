//! What the scheduler looks at, and the reasons that it leaves behind.

use std::collections::HashMap;

use chrono::DateTime;
use farm_core::machines::engine::Unfit;
use farm_core::work::aside::Aside;
use farm_core::work::plan::{Share, Slots, State, WaitingJob, WorkerView};
use farm_core::work::waiting::{Reason, Waiting};
use farm_types::state::WorkerState;
use farm_types::{
    EngineId, Entitlement, Entitlements, FEATURE_ARCHIVES, FEATURE_GATES, FEATURE_GIT, FEATURE_MOUNTS,
    FEATURE_UNNEEDED, JobId, ProjectId, TrustClass, WorkerId,
};
use uuid::Uuid;

use crate::machines::leader::Epoch;
use crate::machines::sick::QUARANTINE_WORDS;
use crate::machines::workers::WorkerRecord;
use crate::unreadable::tell;
use crate::work::queue::FETCH;
use crate::{Result, Store, StoreError, fit, state, to_json};

impl Store {
    /// The heads of all queues (at most `heads` jobs of each class and project), all workers and engines.
    ///
    /// The classes are found by skipping through the index, so the cost follows their number, not the
    /// length of the queues. Jobs whose repository is being cleaned come beside the heads, not in their place; those of
    /// `except` don't come at all. Without any of them nothing else is looked at.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn schedule_state(&self, heads: i64, except: &[JobId]) -> Result<State> {
        let except: Vec<Uuid> = except.iter().map(|job| job.as_uuid()).collect();
        let cleanings = sqlx::query!(
            r#"SELECT registry || '/' || repository AS "name!", until FROM cleanings WHERE until > farm_now()"#
        )
        .fetch_all(&self.pool)
        .await?;
        let (cleaned, until): (Vec<String>, Vec<_>) =
            cleanings.into_iter().map(|cleaning| (cleaning.name, cleaning.until)).unzip();
        let rows = sqlx::query!(
            r#"WITH RECURSIVE queues AS (
                (SELECT queue_class, project_id FROM jobs WHERE state = 'ready'
                 ORDER BY queue_class, project_id LIMIT 1)
                UNION ALL
                SELECT next.queue_class, next.project_id FROM queues,
                LATERAL (SELECT j.queue_class, j.project_id FROM jobs j WHERE j.state = 'ready'
                         AND (j.queue_class, j.project_id) > (queues.queue_class, queues.project_id)
                         ORDER BY j.queue_class, j.project_id LIMIT 1) AS next)
               SELECT head.id AS "id!", head.project_id AS "project_id!", head.platform AS "platform!",
                      head.emulation AS "emulation!", head.weight AS "weight!", head.runs AS "runs!", head.kind AS "kind!", head.archive AS "archive!", head.gated AS "gated!",
                      head.entitlements AS "entitlements!",
                      head.virtual_time AS "virtual_time!", head.ready_at AS "ready_at!",
                      head.not_before AS "not_before!", head.excluded_workers AS "excluded_workers!",
                      head.cleaned_until,
                      EXISTS (SELECT FROM executions e WHERE e.project_id = head.project_id
                              AND e.id = head.execution_id AND cardinality(e.repositories) > 0) AS "pushes!",
                      EXISTS (SELECT FROM executions e WHERE e.project_id = head.project_id
                              AND e.id = head.execution_id AND e.protected) AS "protected!",
                      EXISTS (SELECT FROM executions e WHERE e.project_id = head.project_id
                              AND e.id = head.execution_id AND e.fork IS NOT NULL) AS "proposed!",
                      EXISTS (SELECT FROM executions e WHERE e.project_id = head.project_id
                              AND e.id = head.execution_id AND e.spec ? 'mounts') AS "mounts!"
               FROM queues, LATERAL (
                   (SELECT j.*, NULL::timestamptz AS cleaned_until FROM jobs j
                    WHERE j.state = 'ready' AND j.queue_class = queues.queue_class
                      AND j.project_id = queues.project_id AND j.not_before <= farm_now() AND j.id <> ALL($2)
                      AND (cardinality($3::text[]) = 0 OR NOT EXISTS (
                            SELECT FROM executions e WHERE e.project_id = j.project_id AND e.id = j.execution_id
                            AND e.repositories && $3))
                    ORDER BY j.virtual_time, j.id LIMIT $1)
                   UNION ALL
                   (SELECT j.*, (SELECT max(c.until) FROM unnest($3, $4::timestamptz[]) AS c (name, until)
                                 WHERE c.name = ANY(e.repositories))
                    FROM jobs j JOIN executions e ON e.project_id = j.project_id AND e.id = j.execution_id
                    WHERE cardinality($3) > 0 AND j.state = 'ready' AND j.queue_class = queues.queue_class
                      AND j.project_id = queues.project_id AND j.not_before <= farm_now() AND j.id <> ALL($2)
                      AND e.repositories && $3
                    ORDER BY j.virtual_time, j.id LIMIT $1)) AS head"#,
            heads,
            &except,
            &cleaned,
            &until
        )
        .fetch_all(&self.pool)
        .await?;
        let (mut waiting, mut odd) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in rows {
            let read = || {
                Ok(WaitingJob {
                    job: row.id.into(),
                    project: row.project_id.into(),
                    platform: state(&row.platform)?,
                    runs: state(&row.runs)?,
                    emulation: state(&row.emulation)?,
                    weight: fit(row.weight)?,
                    virtual_time: row.virtual_time,
                    ready_at: row.ready_at,
                    not_before: row.not_before,
                    excluded: row.excluded_workers.iter().copied().map(WorkerId::from).collect(),
                    cleaned_until: row.cleaned_until,
                    pushes: row.pushes,
                    protected: row.protected,
                    proposed: row.proposed,
                    mounts: row.mounts,
                    entitlements: row.entitlements.iter().map(|one| state(one)).collect::<Result<_>>()?,
                    fetches: row.kind == FETCH,
                    archive: row.archive,
                    gated: row.gated,
                })
            };
            match read() {
                Ok(job) => waiting.push(job),
                Err(error) => odd.push((row.id, error)),
            }
        }
        if waiting.is_empty() && odd.is_empty() {
            return Ok(State::default());
        }
        self.tell_unreadable(&odd).await?;
        let unreadable = odd.into_iter().map(|(id, _)| JobId::from(id)).collect();
        let fetching = match waiting.iter().any(|job: &WaitingJob| job.fetches) {
            true => self.fetching().await?,
            false => HashMap::new(),
        };
        let records = self.workers().await?;
        let engines: HashMap<EngineId, Slots> = records.iter().map(|r| (r.engine_id, slots(r))).collect();
        let aside = records.iter().filter_map(|record| aside(record, self.unfit(record))).collect();
        let workers = records
            .into_iter()
            .map(|record| WorkerView {
                engine_is_fit: self.unfit(&record).is_none(),
                id: record.id,
                engine: record.engine_id,
                offers: record.offers,
                // One that offers nothing, or gets nothing, is as good as silent since then.
                last_seen: [record.withdrawn_at, record.drained_at, record.quarantined_at]
                    .into_iter()
                    .flatten()
                    .fold(record.last_seen, DateTime::min),
                state: record.state,
                takes_unneeded: record.features.iter().any(|feature| feature == FEATURE_UNNEEDED),
                takes_mounts: record.features.iter().any(|feature| feature == FEATURE_MOUNTS),
                trust: record.trust,
                stages: record.stages,
                grants: grants(&record.features, record.trust),
                has_git: record.features.iter().any(|feature| feature == FEATURE_GIT),
                takes_archives: record.features.iter().any(|feature| feature == FEATURE_ARCHIVES),
                runs_gates: record.features.iter().any(|feature| feature == FEATURE_GATES),
                fetching: fetching.get(&record.id).copied().unwrap_or_default(),
            })
            .collect();
        let mut projects: Vec<Uuid> = waiting.iter().map(|job| job.project.as_uuid()).collect();
        projects.sort_unstable();
        projects.dedup();
        let shares = sqlx::query!(
            r#"SELECT p.id, p.weight, p.max_running_slots, p.entitlements, coalesce(a.held, 0) AS "held!"
               FROM projects p LEFT JOIN (
                   SELECT project_id, sum(weight) AS held FROM attempts
                   WHERE state IN ('offered', 'running') GROUP BY project_id) AS a ON a.project_id = p.id
               WHERE p.id = ANY($1)"#,
            &projects
        )
        .fetch_all(&self.pool)
        .await?;
        let shares = shares.into_iter().map(|row| {
            let most = row.max_running_slots.map(fit).transpose()?;
            let allowed = row.entitlements.iter().map(|one| state(one)).collect::<Result<_>>()?;
            let share = Share { held: fit(row.held)?, weight: fit(row.weight)?, most, allowed };
            Ok((ProjectId::from(row.id), share))
        });
        let shares = shares.collect::<Result<HashMap<_, _>>>()?;
        Ok(State { waiting, unreadable, workers, engines, shares, aside, settling: None })
    }

    /// How many fetches workers run.
    async fn fetching(&self) -> Result<HashMap<WorkerId, u32>> {
        let rows = sqlx::query!(
            r#"SELECT worker_id, count(*) AS "count!" FROM attempts
               WHERE state IN ('offered', 'running') AND weight = 0 GROUP BY worker_id"#
        )
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(|row| Ok((row.worker_id.into(), fit(row.count)?))).collect()
    }

    /// Logs, once, which jobs can't be read, with the builds that people know them by.
    async fn tell_unreadable(&self, odd: &[(Uuid, StoreError)]) -> Result<()> {
        if odd.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = odd.iter().map(|(id, _)| *id).collect();
        let builds = sqlx::query!(
            "SELECT DISTINCT ON (j.id) j.id, b.short_id FROM jobs j
             JOIN builds b ON b.project_id = j.project_id AND b.execution_id = j.execution_id
             WHERE j.id = ANY($1) ORDER BY j.id, b.order_key",
            &ids
        )
        .fetch_all(&self.pool)
        .await?;
        for (id, error) in odd {
            let build = builds.iter().find(|build| build.id == *id).map_or("?", |build| &build.short_id);
            tell("a job", format!("{id} of build {build}"), error);
        }
        Ok(())
    }

    /// Writes down what ready jobs wait for, where it changed; also in words, which is what a coordinator of the version before
    /// reads. Gives how many changed.
    ///
    /// # Errors
    /// Another coordinator leads, or the database can't be reached.
    pub async fn note_waiting(&self, epoch: Epoch, reasons: &[(JobId, Waiting)]) -> Result<usize> {
        if reasons.is_empty() {
            return Ok(0);
        }
        let mut tx = self.begin_leading(epoch).await?;
        let jobs: Vec<Uuid> = reasons.iter().map(|r| r.0.as_uuid()).collect();
        let waits = reasons.iter().map(|r| to_json(&r.1)).collect::<Result<Vec<_>>>()?;
        let words: Vec<String> = reasons.iter().map(|r| r.1.words()).collect();
        // Executions are locked before jobs, here as everywhere; one that is busy hears of it the next time.
        let noted = sqlx::query!(
            "WITH free AS (
                SELECT e.project_id, e.id FROM executions e
                WHERE (e.project_id, e.id) IN (
                    SELECT j.project_id, j.execution_id FROM unnest($1::uuid[], $2::jsonb[]) AS r (job, waits)
                    JOIN jobs j ON j.id = r.job AND j.state = 'ready' AND j.waits IS DISTINCT FROM r.waits)
                ORDER BY e.id FOR UPDATE SKIP LOCKED),
             changed AS (
                UPDATE jobs SET waits = reason.waits, waiting = reason.words
                FROM unnest($1::uuid[], $2::jsonb[], $3::text[]) AS reason (job, waits, words), free
                WHERE jobs.id = reason.job AND jobs.project_id = free.project_id AND jobs.execution_id = free.id
                  AND jobs.state = 'ready' AND jobs.waits IS DISTINCT FROM reason.waits
                RETURNING jobs.project_id, jobs.execution_id, jobs.unit_key, jobs.waiting)
             SELECT farm_execution_event(project_id, execution_id, 'job_waits',
                    jsonb_build_object('job', unit_key, 'waiting', waiting)) FROM changed",
            &jobs,
            &waits,
            &words
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(noted.len())
    }
}

/// What a worker may grant that says so by its features. A machine that isn't trusted is believed nothing of that kind.
pub fn grants(features: &[String], trust: TrustClass) -> Entitlements {
    match trust {
        TrustClass::Trusted => Entitlement::among(features),
        TrustClass::Untrusted => Entitlements::new(),
    }
}

fn slots(record: &WorkerRecord) -> Slots {
    Slots { total: record.slots, used: record.slots_used, leased_at: record.engine_leased_at }
}

/// What keeps a connected worker from ordinary jobs, if anything does that a cure can be told for. (One that is about to
/// end is none of those.) `unfit`: what keeps what isn't trusted from its engine.
fn aside(record: &WorkerRecord, unfit: Option<Unfit>) -> Option<Aside> {
    let reason = match record.state {
        WorkerState::Quarantined => Reason::Quarantined(QUARANTINE_WORDS.to_owned()),
        WorkerState::Drained => Reason::Drained,
        WorkerState::Withdrawn if !record.withdrawn_why.is_empty() => {
            Reason::Withdrawn(record.withdrawn_why.clone())
        }
        WorkerState::Probation => Reason::Probation(record.probation_why.clone()),
        WorkerState::Online if record.trust == TrustClass::Untrusted => match unfit {
            Some(Unfit::TooOld(words)) => Reason::EngineTooOld(words),
            Some(Unfit::Unfenced) => Reason::Unfenced,
            // Of those who wait for somebody, only what pushes or mounts secrets waits past this one.
            None => Reason::Untrusted,
        },
        WorkerState::Withdrawn
        | WorkerState::Online
        | WorkerState::Draining
        | WorkerState::Suspect
        | WorkerState::Offline
        | WorkerState::Joined
        | WorkerState::Expired
        | WorkerState::Removed => return None,
    };
    let grants = grants(&record.features, record.trust);
    Some(Aside { name: record.name.clone(), offers: record.offers.clone(), grants, reason })
}
