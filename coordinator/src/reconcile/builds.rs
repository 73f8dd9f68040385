//! Removes what is older than the configuration keeps: logs, outputs, builds, sources; then objects and blobs that nobody needs.
//!
//! In small transactions, each of which says its premise again; what a pass leaves the next one finds.

use std::sync::Arc;
use std::time::Duration;

use farm_store::StoreError;
use farm_store::machines::leader::Epoch;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::sources::{BATCH, GRACE, bury, sweep};
use super::{Lead, turn};
use crate::context::Context;

/// How often a pass begins.
const TICK: Duration = Duration::from_secs(10);
/// Objects are swept so often, and soon after sources were removed.
const SWEEP: Duration = Duration::from_secs(24 * 3600);

/// Removes while leading, until `shutdown`.
pub async fn run(
    context: Arc<Context>,
    mut lead: watch::Receiver<Option<Lead>>,
    shutdown: CancellationToken,
) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut swept: Option<Instant> = None;
    while let Some(lead) = turn(&mut tick, &mut lead, &shutdown).await {
        let pass = async {
            match remove_old(&context, lead.epoch).await {
                Ok(true) => swept = None,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "old rows could not be removed; trying again"),
            }
            if swept.is_none_or(|at| at.elapsed() >= SWEEP) {
                match sweep(&context, lead.epoch).await {
                    Ok(()) => swept = Some(Instant::now()),
                    Err(error) => tracing::warn!(%error, "the sweep of sources broke off; trying again"),
                }
            }
            if let Err(error) = bury(&context).await {
                tracing::warn!(%error, "blobs could not be removed; trying again");
            }
        };
        tokio::select! {
            () = pass => {}
            () = shutdown.cancelled() => break,
        }
    }
}

/// Removes rows; true when objects may have become free.
async fn remove_old(context: &Context, epoch: Epoch) -> farm_store::Result<bool> {
    let (store, kept) = (&context.store, &context.config.retention);
    if let Some(logs) = kept.logs() {
        while store.remove_logs(epoch, logs, BATCH).await? > 0 {}
    }
    while store.remove_outputs(epoch, kept.outputs(), BATCH).await? > 0 {}
    if let Some(builds) = kept.builds() {
        // Chains of retries go from their end.
        loop {
            let mut removed = 0;
            for (project, execution) in store.removable_executions(builds, BATCH).await? {
                match store.remove_execution(epoch, project, execution, builds).await {
                    Ok(count) => removed += count,
                    Err(StoreError::Stale(why)) => tracing::debug!(%execution, why, "not removed"),
                    Err(error) => return Err(error),
                }
            }
            if removed == 0 {
                break;
            }
            tracing::info!(builds = removed, "old builds removed");
        }
    }
    let mut freed = store.forget_uploads(epoch, GRACE).await? > 0;
    if let Some(snapshots) = kept.snapshots() {
        while store.remove_snapshots(epoch, snapshots, BATCH).await? > 0 {
            freed = true;
        }
    }
    Ok(freed)
}
