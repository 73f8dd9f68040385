//! Removes what is older than the configuration keeps: logs, outputs, builds, sources; then objects and blobs that nobody needs.
//!
//! In small transactions, each of which says its premise again; what a pass leaves the next one finds.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use farm_store::StoreError;
use farm_store::leader::Epoch;
use farm_store::snapshots::ObjectKind;
use farm_store::sweep::{Removal, Swept};
use farm_types::snapshot::{Folder, Node};
use farm_types::{Digest, ProjectId};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Lead, turn};
use crate::context::Context;

/// How often a pass begins.
const TICK: Duration = Duration::from_secs(10);
/// Rows of one transaction.
const BATCH: i64 = 100;
/// Objects of one transaction.
const OBJECTS: usize = 500;
/// Objects are swept so often, and soon after sources were removed.
const SWEEP: Duration = Duration::from_secs(24 * 3600);
/// What an ended upload session pinned stays for so long, and a blob that nothing names (yet).
const GRACE: Duration = Duration::from_secs(24 * 3600);

/// Why a sweep ends early.
#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the blob store: {0}")]
    Blobs(#[from] object_store::Error),
    #[error("the folder {0} can't be read: {1}")]
    Folder(Digest, String),
}

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

/// Removes the objects that no source needs, of all projects, and dooms the blobs that no row needs.
async fn sweep(context: &Context, epoch: Epoch) -> Result<(), SweepError> {
    for project in context.store.projects_with_objects().await? {
        let mut walk = Walk { context, project, met: HashSet::new() };
        walk.below(context.store.needed_roots(project).await?).await?;
        let mut removed = 0;
        // Those that unfold to most first: what names others goes before, or together with, what it names.
        let mut rest: Vec<Swept> = context.store.all_objects(project).await?;
        rest.retain(|object| !walk.met.contains(&object.digest));
        while !rest.is_empty() {
            let batch: Vec<Digest> = rest.iter().take(OBJECTS).map(|object| object.digest).collect();
            match context.store.remove_objects(epoch, project, &batch).await? {
                Removal::Done => {
                    removed += batch.len();
                    rest.drain(..batch.len());
                }
                // Somebody has it again, with all that is below it.
                Removal::Wanted(roots) => {
                    walk.below(roots).await?;
                    rest.retain(|object| !walk.met.contains(&object.digest));
                }
            }
        }
        tracing::debug!(%project, removed, kept = walk.met.len(), "sources swept");
    }
    // What lay in packs, and what was written and never noted. All old names are looked at, so not on every pass.
    while context.store.doom_unneeded(epoch, GRACE, BATCH).await? > 0 {}
    Ok(())
}

/// All objects that were met on the way down from some roots.
struct Walk<'a> {
    context: &'a Context,
    project: ProjectId,
    /// In memory: 32 bytes for each object that is needed.
    met: HashSet<Digest>,
}

impl Walk<'_> {
    /// Meets these and all below them. Ends at the first that can't be read: what is below it isn't known then.
    async fn below(&mut self, roots: Vec<(Digest, ObjectKind)>) -> Result<(), SweepError> {
        let mut folders = Vec::new();
        for (digest, kind) in roots {
            if self.met.insert(digest) && kind == ObjectKind::Folder {
                folders.push(digest);
            }
        }
        while !folders.is_empty() {
            let some = folders.split_off(folders.len().saturating_sub(OBJECTS));
            let places = self.context.store.locate(self.project, &some).await?;
            for digest in some {
                let place = places
                    .get(&digest)
                    .ok_or_else(|| SweepError::Folder(digest, "it has no row".to_owned()))?;
                let bytes = self.context.blobs.read_all(self.project, digest, *place).await?;
                let folder =
                    Folder::decode(&bytes).map_err(|error| SweepError::Folder(digest, error.to_string()))?;
                for entry in &folder.entries {
                    match &entry.node {
                        Node::Folder { tree, .. } if self.met.insert(*tree) => folders.push(*tree),
                        Node::File { digest, .. } => drop(self.met.insert(*digest)),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }
}

/// Removes the bytes of the doomed.
async fn bury(context: &Context) -> Result<(), SweepError> {
    loop {
        let doomed = context.store.doomed(BATCH).await?;
        if doomed.is_empty() {
            return Ok(());
        }
        for blob in &doomed {
            context.blobs.bury(blob).await?;
        }
        context.store.buried(&doomed).await?;
    }
}
