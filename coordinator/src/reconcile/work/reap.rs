//! What only time brings about: leases that end, deadlines that pass, silence that is too long.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::reconcile::machines::{judge, quarantine};
use crate::reconcile::{Lead, turn};
use crate::shared::Shared;

/// How long a worker may take, beyond the deadline, to say itself that an attempt makes no progress.
const PROGRESS_GRACE: Duration = Duration::from_secs(60);

/// What only time brings about, each second while leading, until `shutdown`.
pub(crate) async fn keep_house(
    shared: Arc<Shared>,
    mut lead: watch::Receiver<Option<Lead>>,
    shutdown: CancellationToken,
) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut partitions_made: Option<tokio::time::Instant> = None;
    while let Some(lead) = turn(&mut tick, &mut lead, &shutdown).await {
        if let Err(error) = keep_house_one(&shared, lead).await {
            tracing::warn!(%error, "housekeeping failed; trying again");
        }
        if partitions_made.is_none_or(|at| at.elapsed() > Duration::from_secs(3600)) {
            match shared.loops.make_log_partitions().await {
                Ok(_) => partitions_made = Some(tokio::time::Instant::now()),
                Err(error) => tracing::warn!(%error, "log partitions could not be made; trying again"),
            }
            if let Err(error) = shared.loops.forget_coordinators().await {
                tracing::warn!(%error, "coordinators of former days could not be forgotten");
            }
        }
    }
}

async fn keep_house_one(shared: &Shared, lead: Lead) -> farm_store::Result<()> {
    let store = &shared.loops;
    let limits = &shared.config.limits;
    let publish =
        farm_store::work::decide::PublishLimit(Duration::from_secs(limits.publish_deadline_seconds));
    let settled = match lead.settling {
        // After an outage of all coordinators nobody is reaped for one lease.
        Some(settling) => store.now().await? >= settling.until,
        None => true,
    };
    let progress = Duration::from_secs(limits.progress_deadline_seconds).saturating_add(PROGRESS_GRACE);
    let attempt_deadline = Duration::from_secs(limits.attempt_deadline_seconds);
    let mut changed = 0;
    // What one of them can't do must not keep the others from theirs.
    let mut note = |done: farm_store::Result<usize>| match done {
        Ok(count) => changed += count,
        Err(error) => tracing::warn!(%error, "a part of housekeeping failed; trying again"),
    };
    note(store.disown_workers(shared.config.leadership.silence()).await.map(|_| 0));
    let concerns = store.concerns().await?;
    if concerns.attempts {
        if settled {
            note(quarantine(store, lead.epoch).await);
            note(store.reap(lead.epoch, publish, rand::random::<f64>()).await);
        }
        note(store.stop_overdue_attempts(lead.epoch, attempt_deadline).await);
        if settled {
            note(store.stop_stalled_attempts(lead.epoch, progress).await);
        }
        note(store.release_overdue_attempts(lead.epoch).await);
    }
    if concerns.health && settled {
        note(judge(store, lead.epoch).await);
    }
    if concerns.builds {
        note(store.end_overdue_queues(lead.epoch, publish).await);
        note(store.end_overdue_builds(lead.epoch).await);
        note(store.end_overdue_publications(lead.epoch).await);
    }
    if changed > 0 {
        shared.hints.changed();
    }
    Ok(())
}
