//! Who leads among the coordinators, and which workers the leader sets aside.

use std::sync::Arc;

use farm_store::machines::leader::{Epoch, Leadership, Outage, Place};
use farm_store::{Store, StoreError};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Lead;
use crate::shared::Shared;

/// Holds the leader row while it can, and tells the loops, until `shutdown`. In passing it says for all whether the
/// database answers.
pub(crate) async fn campaign(
    shared: Arc<Shared>,
    lead: watch::Sender<Option<Lead>>,
    shutdown: CancellationToken,
) {
    let times = shared.config.leadership;
    let mut tick = tokio::time::interval(times.renew());
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut renewed, mut answered, mut watches) = (Instant::now(), Instant::now(), Instant::now());
    let (mut has_come, mut leads) = (false, false);
    while !shutdown.is_cancelled() {
        tokio::select! {
            _ = tick.tick() => {}
            () = shutdown.cancelled() => break,
        }
        let asked = Instant::now();
        if answered.elapsed() > times.silence() {
            watches = asked;
        }
        let outage = Outage {
            longer_than: times.silence(),
            watched: watches.elapsed(),
            settles_within: shared.config.limits.lease(),
        };
        let found = look(&shared, &mut has_come, outage).await;
        shared.is_answered.send_if_modified(|was| std::mem::replace(was, found.is_ok()) != found.is_ok());
        if let Ok(found) = &found {
            answered = Instant::now();
            leads = !matches!(found, Leadership::Other);
        }
        match found {
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
            Err(error @ StoreError::Conflict(_)) => {
                tracing::error!(%error, "this coordinator ends");
                break;
            }
            Err(error) => {
                tracing::warn!(%error, "the database does not answer");
                // The loops rest until it does.
                if renewed.elapsed() > times.fresh() {
                    lead.send_replace(None);
                }
            }
        }
    }
    lead.send_replace(None);
    if leads && let Err(error) = shared.store.resign(shared.id).await {
        tracing::warn!(%error, "leadership could not be given up; it ends by itself");
    }
}

/// Gives a sign of life, and looks who leads.
async fn look(shared: &Shared, has_come: &mut bool, outage: Outage) -> farm_store::Result<Leadership> {
    let (store, address) = (&shared.store, shared.config.advertised());
    let place = Place { address: &address, machine: shared.machine.as_deref() };
    // First of all, so that nobody takes this coordinator's workers for orphans.
    store.register_coordinator(shared.id, &place, shared.secret.digest()).await?;
    if !*has_come {
        if store.succeed(shared.id).await? {
            tracing::info!("the coordinator that led was here; nobody waits for it");
        }
        *has_come = true;
    }
    store.lead(shared.id, shared.config.leadership.lease(), outage).await
}

/// Sets workers aside that do not stop what they are told to.
pub(super) async fn quarantine(store: &Store, epoch: Epoch) -> farm_store::Result<usize> {
    let names = store.quarantine_unheeding(epoch).await?;
    for name in &names {
        tracing::warn!(worker = name, "quarantined: it did not stop what it was told to");
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
