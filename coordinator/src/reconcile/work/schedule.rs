//! The scheduler's pass around the pure `plan`.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use farm_core::work::plan::{Decision, Limits, plan};
use farm_store::StoreError;
use farm_store::work::lease::Assignment;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::hints::BACKSTOP;
use crate::reconcile::{Lead, leading};

/// Jobs of each queue that one pass looks at.
const HEADS: i64 = 64;

/// Gives ready jobs to workers while leading, until `shutdown`.
pub async fn run(
    context: Arc<Context>,
    mut lead: watch::Receiver<Option<Lead>>,
    shutdown: CancellationToken,
) {
    while !shutdown.is_cancelled() {
        let current = tokio::select! {
            lead = leading(&mut lead) => lead,
            () = shutdown.cancelled() => break,
        };
        let Some(current) = current else { break };
        let wait = match schedule_one(&context, current).await {
            Ok(wait) => wait,
            Err(error) => {
                tracing::warn!(%error, "a scheduling pass failed; trying again");
                BACKSTOP
            }
        };
        tokio::select! {
            () = context.hints.schedule.notified() => {}
            () = tokio::time::sleep(wait) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// One pass. Gives how long nothing but a change can matter.
async fn schedule_one(context: &Context, lead: Lead) -> farm_store::Result<Duration> {
    let store = &context.store;
    let mut state = store.schedule_state(HEADS).await?;
    if state.waiting.is_empty() {
        return Ok(BACKSTOP);
    }
    state.settling = lead.settling;
    let now = store.now().await?;
    let mut next: Option<DateTime<Utc>> = None;
    let mut reasons = Vec::new();
    let mut assigned = false;
    for decision in plan(&state, limits(context), now) {
        match decision {
            Decision::Assign { job, worker, engine, support, reason } => {
                let assignment = Assignment { job, worker, engine, support, reason };
                match store.lease(lead.epoch, assignment, context.config.limits.lease()).await {
                    Ok(attempt) => {
                        tracing::info!(job.id = %job, worker.id = %worker, %attempt, %support, "leased");
                        assigned = true;
                    }
                    // Somebody was first; the next pass sees what is left.
                    Err(StoreError::Stale(why)) => tracing::debug!(job.id = %job, why, "not leased"),
                    Err(error) => return Err(error),
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
        context.hints.leased();
    } else if noted > 0 {
        context.hints.streamed();
    }
    let until_next = next.and_then(|at| (at - now).to_std().ok()).unwrap_or(BACKSTOP);
    Ok(until_next.clamp(Duration::from_millis(10), BACKSTOP))
}

fn limits(context: &Context) -> Limits {
    let limits = &context.config.limits;
    // A year is for ever here, and keeps sums of times in their range.
    let seconds = |n: u64| TimeDelta::seconds(i64::try_from(n.min(31_536_000)).unwrap_or_default());
    Limits {
        suspect_after: seconds(limits.suspect_seconds),
        native_grace: seconds(limits.native_grace_seconds),
        ..Limits::default()
    }
}
