//! What the leader does: loops that look at the database and bring it one step further.
//!
//! Each loop is a one-pass function inside look-and-wait; a pass that fails is tried again, and any pass
//! may be cut off anywhere: the next one finds what is left. A loop that panics ends the process.

pub mod clean;
pub mod publish;
pub mod retain;
pub mod schedule;
pub mod seal;

use std::sync::Arc;
use std::time::Duration;

use farm_core::plan::Settling;
use farm_store::Store;
use farm_store::leader::{Epoch, Leadership, Outage};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::context::Context;

/// How long leadership lasts without renewal.
const LEADER_TTL: Duration = Duration::from_secs(2);
/// How often it is renewed, or looked for.
const LEADER_TICK: Duration = Duration::from_millis(500);
/// A gap between leaders that is longer than this was an outage of all coordinators.
const OUTAGE: Duration = Duration::from_secs(3);
/// How long a worker may take, beyond the deadline, to say itself that an attempt makes no progress.
const PROGRESS_GRACE: Duration = Duration::from_secs(60);
/// A coordinator that was silent for so long holds no workers.
const COORDINATOR_SILENCE: Duration = Duration::from_secs(5);

/// What a leader works under.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lead {
    /// Fences its writes.
    pub epoch: Epoch,
    /// After an outage: until when silence doesn't count.
    pub settling: Option<Settling>,
}

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
        if let Err(error) =
            context.store.register_coordinator(context.id, &address, context.secret.digest()).await
        {
            tracing::warn!(%error, "the database does not answer");
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

/// Waits until this coordinator leads; `None` when nobody will tell any more.
pub(crate) async fn leading(lead: &mut watch::Receiver<Option<Lead>>) -> Option<Lead> {
    lead.wait_for(Option::is_some).await.ok().and_then(|lead| *lead)
}

/// Waits for the next tick and for the leadership; `None` at the shutdown, or when nobody will tell any more.
pub(crate) async fn turn(
    tick: &mut tokio::time::Interval,
    lead: &mut watch::Receiver<Option<Lead>>,
    shutdown: &CancellationToken,
) -> Option<Lead> {
    let next = async {
        tick.tick().await;
        leading(lead).await
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => None,
        lead = next => lead,
    }
}

/// What only time brings about, each second while leading, until `shutdown`.
pub async fn keep_house(
    context: Arc<Context>,
    mut lead: watch::Receiver<Option<Lead>>,
    shutdown: CancellationToken,
) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut partitions_made: Option<tokio::time::Instant> = None;
    while let Some(lead) = turn(&mut tick, &mut lead, &shutdown).await {
        if let Err(error) = keep_house_one(&context, lead).await {
            tracing::warn!(%error, "housekeeping failed; trying again");
        }
        if partitions_made.is_none_or(|at| at.elapsed() > Duration::from_secs(3600)) {
            match context.store.make_log_partitions().await {
                Ok(_) => partitions_made = Some(tokio::time::Instant::now()),
                Err(error) => tracing::warn!(%error, "log partitions could not be made; trying again"),
            }
            if let Err(error) = context.store.forget_coordinators().await {
                tracing::warn!(%error, "coordinators of former days could not be forgotten");
            }
        }
    }
}

async fn keep_house_one(context: &Context, lead: Lead) -> farm_store::Result<()> {
    let store = &context.store;
    let limits = &context.config.limits;
    let publish = farm_store::finish::PublishLimit(Duration::from_secs(limits.publish_deadline_seconds));
    let settled = match lead.settling {
        // After an outage of all coordinators nobody is reaped for one lease.
        Some(settling) => store.now().await? >= settling.until,
        None => true,
    };
    let progress = Duration::from_secs(limits.progress_deadline_seconds).saturating_add(PROGRESS_GRACE);
    let mut changed = 0;
    // What one of them can't do must not keep the others from theirs.
    for done in [
        store.disown_workers(COORDINATOR_SILENCE).await.map(|_| 0),
        if settled { quarantine(store, lead.epoch).await } else { Ok(0) },
        if settled { store.reap(lead.epoch, publish, rand::random::<f64>()).await } else { Ok(0) },
        store.stop_overdue_attempts(lead.epoch, Duration::from_secs(limits.attempt_deadline_seconds)).await,
        if settled { store.stop_stalled_attempts(lead.epoch, progress).await } else { Ok(0) },
        store.release_overdue_attempts(lead.epoch).await,
        if settled { judge(store, lead.epoch).await } else { Ok(0) },
        store.end_overdue_queues(lead.epoch).await,
        store.end_overdue_builds(lead.epoch).await,
        store.end_overdue_publications(lead.epoch).await,
    ] {
        match done {
            Ok(count) => changed += count,
            Err(error) => tracing::warn!(%error, "a part of housekeeping failed; trying again"),
        }
    }
    if changed > 0 {
        context.hints.changed();
    }
    Ok(())
}

async fn quarantine(store: &Store, epoch: Epoch) -> farm_store::Result<usize> {
    let names = store.quarantine_unheeding(epoch).await?;
    for name in &names {
        tracing::warn!(worker.name = name, "quarantined: it did not stop what it was told to");
    }
    Ok(names.len())
}

async fn judge(store: &Store, epoch: Epoch) -> farm_store::Result<usize> {
    let changed = store.judge_workers(epoch).await?;
    for change in &changed {
        tracing::warn!("worker {change}");
    }
    Ok(changed.len())
}
