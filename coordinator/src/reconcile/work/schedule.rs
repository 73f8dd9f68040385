//! The scheduler's pass around the pure `plan`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use farm_core::work::plan::{Decision, Limits, State, plan};
use farm_core::work::waiting::Waiting;
use farm_store::work::lease::Assignment;
use farm_store::{Store, StoreError};
use farm_types::JobId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::hints::BACKSTOP;
use crate::reconcile::put_off::PutOff;
use crate::reconcile::{Lead, leading};
use crate::shared::Shared;

/// Jobs of each queue that one pass looks at.
const HEADS: i64 = 64;
/// After so many leases in a row to which the database gave no answer at all, the pass ends: it is the database then.
const SILENT: usize = 3;

/// Gives ready jobs to workers while leading, until `shutdown`.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut lead: watch::Receiver<Option<Lead>>,
    shutdown: CancellationToken,
) {
    let mut put_off = PutOff::default();
    while !shutdown.is_cancelled() {
        let current = tokio::select! {
            lead = leading(&mut lead) => lead,
            () = shutdown.cancelled() => break,
        };
        let Some(current) = current else { break };
        let wait = match schedule_one(&shared, current, &mut put_off).await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::warn!(%error, "a scheduling pass failed; trying again");
                BACKSTOP
            }
        };
        tokio::select! {
            () = shared.hints.schedule.notified() => {}
            () = tokio::time::sleep(wait) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// One pass. Gives how long nothing but a change can matter.
async fn schedule_one(
    shared: &Shared,
    lead: Lead,
    put_off: &mut PutOff<JobId>,
) -> farm_store::Result<Duration> {
    let store = &shared.loops;
    let waits: Vec<JobId> = put_off.waiting(Instant::now()).copied().collect();
    let mut state = store.schedule_state(HEADS, &waits).await?;
    if state.waiting.is_empty() && state.unreadable.is_empty() {
        return Ok(BACKSTOP);
    }
    state.settling = lead.settling;
    let now = store.now().await?;
    let mut next: Option<DateTime<Utc>> = None;
    let mut reasons = Vec::new();
    let mut assigned = false;
    let mut silent = 0;
    for job in &state.unreadable {
        put_off.failed(*job, Instant::now());
    }
    for decision in plan(&state, limits(shared), now) {
        match decision {
            Decision::Assign { job, worker, engine, support, reason } => {
                let assignment = Assignment { job, worker, engine, support, reason };
                match store.lease(lead.epoch, assignment, shared.config.limits.lease()).await {
                    Ok(attempt) => {
                        tracing::debug!(job.id = %job, worker.id = %worker, %attempt, %support, "leased");
                        put_off.forget(&job);
                        assigned = true;
                        silent = 0;
                    }
                    Err(StoreError::NotLeading) => return Err(StoreError::NotLeading),
                    // Somebody was first; the next pass sees what is left.
                    Err(StoreError::Stale(why)) => {
                        tracing::debug!(job.id = %job, why, "not leased");
                        put_off.forget(&job);
                        silent = 0;
                    }
                    // It costs this job only, whatever it is.
                    Err(error) => {
                        let (tries, wait) = put_off.failed(job, Instant::now());
                        silent = if error.is_answered() { 0 } else { silent + 1 };
                        let job_as =
                            if silent == 0 { known_as(store, &state, job).await } else { job.to_string() };
                        tracing::warn!(job = job_as, tries, ?wait, %error, "a job can't be leased; it is put off");
                        if silent >= SILENT {
                            return Err(error);
                        }
                        reasons.push((job, Waiting::Backoff));
                    }
                }
            }
            Decision::Hold { job, until, why } => {
                next = next.into_iter().chain(until).min();
                reasons.push((job, why));
            }
        }
    }
    let noted = store.note_waiting(lead.epoch, &reasons).await?;
    if assigned {
        shared.hints.leased();
    } else if noted > 0 {
        shared.hints.streamed();
    }
    let until_next = next.and_then(|at| (at - now).to_std().ok()).unwrap_or(BACKSTOP);
    Ok(until_next.clamp(Duration::from_millis(10), BACKSTOP))
}

/// A job as people know it, if that can be found out.
async fn known_as(store: &Store, state: &State, job: JobId) -> String {
    let project = state.waiting.iter().find(|waiting| waiting.job == job).map(|waiting| waiting.project);
    match project {
        Some(project) => store.job_known_as(project, job).await.unwrap_or_else(|_| job.to_string()),
        None => job.to_string(),
    }
}

fn limits(shared: &Shared) -> Limits {
    let limits = &shared.config.limits;
    // A year is for ever here, and keeps sums of times in their range.
    let seconds = |n: u64| TimeDelta::seconds(i64::try_from(n.min(31_536_000)).unwrap_or_default());
    Limits {
        suspect_after: seconds(limits.suspect_seconds),
        native_grace: seconds(limits.native_grace_seconds),
        ..Limits::default()
    }
}
