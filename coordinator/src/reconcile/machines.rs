//! Who leads among the coordinators, and which workers the leader sets aside.

use std::sync::Arc;
use std::time::Duration;

use farm_store::machines::leader::{Epoch, Leadership, Outage};
use farm_store::{Store, StoreError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Lead;
use crate::context::Context;

/// How long leadership lasts without renewal.
const LEADER_TTL: Duration = Duration::from_secs(2);
/// How often it is renewed, or looked for.
const LEADER_TICK: Duration = Duration::from_millis(500);
/// A gap between leaders that is longer than this was an outage of all coordinators.
const OUTAGE: Duration = Duration::from_secs(3);

/// Holds the leader row while it can, and tells the loops, until `shutdown`.
pub async fn campaign(context: Arc<Context>, lead: watch::Sender<Option<Lead>>, shutdown: CancellationToken) {
    let outage = Outage { longer_than: OUTAGE, settles_within: context.config.limits.lease() };
    let mut tick = tokio::time::interval(LEADER_TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut renewed = tokio::time::Instant::now();
    let address = context.config.advertised();
    while !shutdown.is_cancelled() {
        tokio::select! {
            _ = tick.tick() => {}
            () = shutdown.cancelled() => break,
        }
        // First of all, so that nobody takes this coordinator's workers for orphans.
        match context.store.register_coordinator(context.id, &address, context.secret.digest()).await {
            Ok(()) => {}
            Err(error @ StoreError::Conflict(_)) => {
                tracing::error!(%error, "this coordinator ends");
                break;
            }
            Err(error) => tracing::warn!(%error, "the database does not answer"),
        }
        let asked = tokio::time::Instant::now();
        match context.store.lead(context.id, LEADER_TTL, outage).await {
            Ok(Leadership::Kept { epoch, settling }) => {
                renewed = asked;
                let now = Some(Lead { epoch, settling });
                lead.send_if_modified(|current| std::mem::replace(current, now) != now);
            }
            Ok(Leadership::Taken { epoch, settling }) => {
                renewed = asked;
                tracing::info!(epoch = epoch.0, outage = settling.is_some(), "this coordinator leads");
                lead.send_replace(Some(Lead { epoch, settling }));
            }
            Ok(Leadership::Other) => {
                if lead.send_replace(None).is_some() {
                    tracing::warn!("another coordinator leads now");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "leadership could not be renewed");
                if renewed.elapsed() > LEADER_TTL {
                    lead.send_replace(None);
                }
            }
        }
    }
    if lead.send_replace(None).is_some()
        && let Err(error) = context.store.resign(context.id).await
    {
        tracing::warn!(%error, "leadership could not be given up; it ends by itself");
    }
}

/// Sets workers aside that do not stop what they are told to.
pub(super) async fn quarantine(store: &Store, epoch: Epoch) -> farm_store::Result<usize> {
    let names = store.quarantine_unheeding(epoch).await?;
    for name in &names {
        tracing::warn!(worker.name = name, "quarantined: it did not stop what it was told to");
    }
    Ok(names.len())
}

/// Sets workers aside that are found sick.
pub(super) async fn judge(store: &Store, epoch: Epoch) -> farm_store::Result<usize> {
    let changed = store.judge_workers(epoch).await?;
    for change in &changed {
        tracing::warn!("worker {change}");
    }
    Ok(changed.len())
}
