//! Removes what is older than the configuration keeps: logs, outputs, builds, sources, what was delivered, the audit; then objects and blobs that nobody needs.
//!
//! In small transactions, each of which says its premise again; what a pass leaves the next one finds.

use std::sync::Arc;
use std::time::Duration;

use farm_store::StoreError;
use farm_store::builds::retain::LOOKS;
use farm_store::machines::leader::Epoch;
use farm_types::{ExecutionId, ProjectId};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::put_off::PutOff;
use super::sources::{BATCH, GRACE, bury, doom, sweep};
use super::{Lead, turn};
use crate::shared::Shared;

/// How often a pass begins.
const TICK: Duration = Duration::from_secs(10);
/// Objects are swept so often, and sooner after sources were removed.
const SWEEP: Duration = Duration::from_secs(24 * 3600);
/// What upload sessions pinned goes in transactions of so many rows.
const PINS: i64 = 5_000;
/// A sweep reads all that is needed. One that takes longer than `QUICK` is followed by a rest of so many times the excess.
const REST: u32 = 50;
const QUICK: Duration = Duration::from_secs(2);
/// One that could not do all counts for at least as long, so that the next one comes after ten minutes.
const UNSWEPT: Duration = Duration::from_secs(14);

/// A sign-in counts for about so long without its token being used: a pass may come later. `farm login` uses it at once, and its first
/// use is written down before that is answered.
const UNUSED: Duration = Duration::from_secs(15 * 60);

/// When the last sweep began, and how long it took.
type Swept = Option<(Instant, Duration)>;

/// Removes while leading, until `shutdown`.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut lead: watch::Receiver<Option<Lead>>,
    shutdown: CancellationToken,
) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut swept: Swept = None;
    let mut freed = false;
    let mut put_off = PutOff::default();
    while let Some(lead) = turn(&mut tick, &mut lead, &shutdown).await {
        let pass = async {
            freed |= remove_old(&shared, lead.epoch).await;
            if is_sweep_due(swept, freed, Instant::now()) {
                let begun = Instant::now();
                let whole = sweep(&shared, lead.epoch).await.unwrap_or_else(|error| {
                    tracing::warn!(%error, "the sweep of sources broke off; trying again");
                    false
                });
                // One that wasn't whole comes again, but not at once.
                swept = Some((begun, if whole { begun.elapsed() } else { begun.elapsed().max(UNSWEPT) }));
                freed = !whole;
            }
            told("blobs", doom(&shared, lead.epoch).await);
            if let Err(error) = bury(&shared, &mut put_off).await {
                tracing::warn!(%error, "blobs could not be removed; trying again");
            }
            match shared.loops.analyse_what_grew().await {
                Ok(tables) if tables.is_empty() => {}
                Ok(tables) => tracing::debug!(?tables, "analysed"),
                Err(error) => tracing::warn!(%error, "tables could not be analysed; trying again"),
            }
        };
        tokio::select! {
            () = pass => {}
            () = shutdown.cancelled() => break,
        }
    }
}

fn is_sweep_due(swept: Swept, freed: bool, now: Instant) -> bool {
    swept.is_none_or(|(begun, took)| {
        let since = now.duration_since(begun);
        since >= SWEEP || freed && since >= took.saturating_sub(QUICK) * REST
    })
}

/// Removes rows; true when a source went, and so objects may have become free.
///
/// What an upload session that came to nothing leaves behind isn't worth a sweep: the daily one finds it.
async fn remove_old(shared: &Shared, epoch: Epoch) -> bool {
    let (store, kept) = (&shared.loops, &shared.config.retention);
    let mut freed = false;
    // What one of them can't do must not keep the others from theirs.
    // First: the others may take long, and a token that is in nobody's hands must not count meanwhile.
    let unused = async {
        let ended = store.end_unused_sign_ins(epoch, UNUSED).await?;
        if ended > 0 {
            tracing::info!(
                ended,
                "sign-ins ended whose token nobody has used: it hasn't come to whom it was for"
            );
        }
        Ok(())
    };
    told("sign-ins", unused.await);
    told("browser sessions", store.remove_browser_sessions(epoch).await.map(drop));
    let logs = async {
        if let Some(logs) = kept.logs() {
            while store.remove_logs(epoch, logs, BATCH).await? > 0 {}
        }
        Ok(())
    };
    told("logs", logs.await);
    let outputs = async {
        while store.remove_outputs(epoch, kept.outputs(), BATCH).await? > 0 {}
        Ok(())
    };
    told("outputs", outputs.await);
    told("builds", remove_builds(shared, epoch).await);
    told("looks at repositories", remove_looks(shared, epoch).await);
    told("upload sessions", store.forget_uploads(epoch, GRACE, PINS).await.map(drop));
    let snapshots = async {
        if let Some(snapshots) = kept.snapshots() {
            while store.remove_snapshots(epoch, snapshots, BATCH).await? > 0 {
                freed = true;
            }
        }
        Ok(())
    };
    told("sources", snapshots.await);
    let workers = async {
        if let Some(gone) = kept.workers() {
            for name in store.forget_workers(epoch, gone, BATCH).await? {
                tracing::info!(worker = name, "removed: it was not there for retention.workers_days");
            }
        }
        Ok(())
    };
    told("workers", workers.await);
    let joins = async {
        for name in store.forget_joins(epoch, BATCH).await? {
            tracing::info!(
                worker = name,
                "its certificate can't be renewed any more; the name is free again"
            );
        }
        Ok(())
    };
    told("joins", joins.await);
    let seen = async {
        while store.forget_exchanged_tokens(epoch, BATCH).await? > 0 {}
        Ok(())
    };
    told("tokens of other systems", seen.await);
    let deliveries = async {
        if let Some(deliveries) = kept.deliveries() {
            while store.remove_deliveries(epoch, deliveries, BATCH).await? > 0 {}
        }
        Ok(())
    };
    told("deliveries", deliveries.await);
    let moves = async {
        if let Some(history) = kept.history() {
            while store.remove_moves(epoch, history, BATCH).await? > 0 {}
        }
        Ok(())
    };
    told("what tags have pointed to", moves.await);
    let hosts = async {
        while store.forget_login_hosts(epoch, BATCH).await? > 0 {}
        Ok(())
    };
    told("registries of logins that came with builds", hosts.await);
    let verdicts = async {
        while store.forget_layer_verdicts(epoch, BATCH).await? > 0 {}
        Ok(())
    };
    told("what layers hold", verdicts.await);
    let lines = async {
        while store.forget_notice_lines(epoch, BATCH).await? > 0 {}
        Ok(())
    };
    told("ends by which builds recover", lines.await);
    let audit = async {
        if let Some(audit) = kept.audit() {
            loop {
                let rows = store.remove_audit(epoch, audit, BATCH).await?;
                if rows == 0 {
                    break;
                }
                tracing::info!(rows, "old rows of the audit removed");
            }
        }
        Ok(())
    };
    told("rows of the audit", audit.await);
    freed
}

fn told(what: &str, done: farm_store::Result<()>) {
    if let Err(error) = done {
        tracing::warn!(%error, "old {what} could not be removed; trying again");
    }
}

/// Removes builds. Chains of retries go from their end.
async fn remove_builds(shared: &Shared, epoch: Epoch) -> farm_store::Result<()> {
    let Some(kept) = shared.config.retention.builds() else { return Ok(()) };
    loop {
        let old = shared.loops.removable_executions(kept, BATCH).await?;
        if remove(shared, epoch, old, kept).await? == 0 {
            return Ok(());
        }
    }
}

/// Removes looks at repositories, which are many.
async fn remove_looks(shared: &Shared, epoch: Epoch) -> farm_store::Result<()> {
    loop {
        let old = shared.loops.removable_looks(BATCH).await?;
        if remove(shared, epoch, old, LOOKS).await? == 0 {
            return Ok(());
        }
    }
}

/// Removes these, and says how many.
async fn remove(
    shared: &Shared,
    epoch: Epoch,
    executions: Vec<(ProjectId, ExecutionId)>,
    kept: Duration,
) -> farm_store::Result<u64> {
    let mut removed = 0;
    for (project, execution) in executions {
        match shared.loops.remove_execution(epoch, project, execution, kept).await {
            Ok(count) => removed += count,
            Err(StoreError::Stale(why)) => tracing::debug!(%execution, why, "not removed"),
            Err(StoreError::NotLeading) => return Err(StoreError::NotLeading),
            Err(error) => {
                let builds = shared.loops.execution_known_as(project, execution).await.unwrap_or_default();
                tracing::warn!(builds, %error, "old builds could not be removed; trying again")
            }
        }
    }
    if removed > 0 {
        tracing::info!(builds = removed, "old builds removed");
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_comes_once_a_day_and_after_sources_went_but_never_takes_much_of_the_time() {
        let begun = Instant::now();
        let after =
            |swept: Swept, freed, seconds| is_sweep_due(swept, freed, begun + Duration::from_secs(seconds));
        assert!(after(None, false, 0));
        let quick = Some((begun, Duration::from_millis(10)));
        assert!(!after(quick, false, 3600) && after(quick, true, 10) && after(quick, false, 24 * 3600));
        let slow = Some((begun, Duration::from_secs(60)));
        assert!(!after(slow, true, 1800) && after(slow, true, 3000));
    }
}
