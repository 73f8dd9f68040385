//! Objects and blobs that nobody needs: finding them by a walk down from all that is needed, and removing their bytes.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use farm_store::StoreError;
use farm_store::machines::leader::Epoch;
use farm_store::sources::snapshots::ObjectKind;
use farm_store::sources::sweep::{Removal, Swept};
use farm_types::snapshot::{Folder, Node};
use farm_types::{Digest, ProjectId};
use uuid::Uuid;

use super::put_off::PutOff;
use crate::blobs::is_unanswered;
use crate::shared::Shared;

/// How many rows one transaction changes at most.
pub(super) const BATCH: i64 = 100;
/// How many objects one transaction removes at most.
const OBJECTS: usize = 500;
/// What an ended upload session pinned stays for so long, and a blob that nothing names (yet).
pub(super) const GRACE: Duration = Duration::from_secs(24 * 3600);

/// A file that could not be removed in time is tried again after so long, and each time so much later.
const HUNG: Duration = Duration::from_secs(3600);
/// After so many of them in one pass it ends.
const SILENT: usize = 2;

/// Why a sweep ends early.
#[derive(Debug, thiserror::Error)]
pub(super) enum SweepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the blob store: {0}")]
    Blobs(#[from] object_store::Error),
    #[error("the folder {0} can't be read: {1}")]
    Folder(Digest, String),
}

/// Removes the objects that no source needs, of all projects. False when those of some could not be swept.
pub(super) async fn sweep(shared: &Shared, epoch: Epoch) -> Result<bool, SweepError> {
    let mut whole = true;
    for project in shared.loops.projects_with_objects().await? {
        match sweep_project(shared, epoch, project).await {
            Ok(()) => {}
            Err(SweepError::Blobs(error)) if is_unanswered(&error) => return Err(error.into()),
            Err(SweepError::Store(error)) if error.is_superseded() || error.is_transient() => {
                return Err(error.into());
            }
            // Nor will it be before the next daily sweep.
            Err(error @ SweepError::Folder(..)) => {
                tracing::error!(%project, %error, "the sources of a project can't be swept; nothing of them is removed");
            }
            // It costs this project only. What is below a folder that can't be read isn't known, so nothing goes.
            Err(error) => {
                tracing::error!(%project, %error, "the sources of a project can't be swept; nothing of them is removed");
                whole = false;
            }
        }
    }
    Ok(whole)
}

/// Dooms the blobs that no row needs: what lay in packs, and what was written and never noted. It looks only at those of which
/// something has changed, so it needs no sweep before it.
pub(super) async fn doom(shared: &Shared, epoch: Epoch) -> Result<(), StoreError> {
    while shared.loops.doom_unneeded(epoch, GRACE, BATCH).await? > 0 {}
    Ok(())
}

async fn sweep_project(shared: &Shared, epoch: Epoch, project: ProjectId) -> Result<(), SweepError> {
    let mut walk = Walk { shared, project, met: HashSet::new() };
    walk.below(shared.loops.needed_roots(project).await?).await?;
    let mut removed = 0;
    // Those that unfold to most first: what names others goes before, or together with, what it names.
    let mut rest: Vec<Swept> = shared.loops.all_objects(project).await?;
    rest.retain(|object| !walk.met.contains(&object.digest));
    while !rest.is_empty() {
        let batch: Vec<Digest> = rest.iter().take(OBJECTS).map(|object| object.digest).collect();
        match shared.loops.remove_objects(epoch, project, &batch).await? {
            Removal::Done => {
                removed += batch.len();
                rest.drain(..batch.len());
            }
            // A build or an upload has come to need some of them meanwhile, and so all that is below these.
            Removal::Wanted(roots) => {
                walk.below(roots).await?;
                rest.retain(|object| !walk.met.contains(&object.digest));
            }
        }
    }
    tracing::debug!(%project, removed, kept = walk.met.len(), "sources swept");
    Ok(())
}

/// All objects that were met on the way down from some roots.
struct Walk<'a> {
    shared: &'a Shared,
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
            let places = self.shared.loops.locate(self.project, &some).await?;
            for digest in some {
                let place = places
                    .get(&digest)
                    .ok_or_else(|| SweepError::Folder(digest, "it has no row".to_owned()))?;
                let bytes = self.shared.blobs.read_all(self.project, digest, *place).await?;
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

/// Removes the bytes of the doomed. One that can't be removed keeps none of the others: it is put off.
pub(super) async fn bury(shared: &Shared, put_off: &mut PutOff<Uuid>) -> Result<(), SweepError> {
    let mut unanswered = 0;
    loop {
        let waits: Vec<Uuid> = put_off.waiting(Instant::now()).copied().collect();
        let mut gone = Vec::new();
        let mut trouble = None;
        for blob in shared.loops.doomed(&waits, BATCH).await? {
            let Err(error) = shared.blobs.bury(&blob).await else {
                put_off.forget(&blob.id);
                gone.push(blob);
                continue;
            };
            let (tries, _) = if is_unanswered(&error) {
                unanswered += 1;
                // Whoever removes it stands in the system, and keeps a place there, for as long as it hangs.
                put_off.failed_by(blob.id, Instant::now(), |tries| HUNG * tries)
            } else {
                put_off.failed(blob.id, Instant::now())
            };
            if tries == 1 {
                tracing::warn!(blob = %blob.id, %error, "the bytes of a blob that nobody needs can't be removed; trying again");
            }
            // After a few it isn't the file but the store.
            if unanswered >= SILENT {
                trouble = Some(error);
                break;
            }
        }
        shared.loops.buried(&gone).await?;
        match trouble {
            Some(error) => return Err(error.into()),
            None if gone.is_empty() => return Ok(()),
            None => {}
        }
    }
}
