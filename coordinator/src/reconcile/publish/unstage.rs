//! Takes out of the staging registry what no build needs any more: all that a build's machines pushed there, once it has ended.
//!
//! No attempt pushes where another one did, so nothing has to wait for it. What an attempt has pushed that came to no end is no row of
//! anybody's; the registry's own garbage collection finds that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use farm_core::publish::IndexDocument;
use farm_store::StoreError;
use farm_store::publish::staging::Unneeded;
use farm_types::{AttemptId, Repository};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::reconcile::put_off::PutOff;
use crate::reconcile::{Lead, turn};
use crate::registry::{By, Deleted, RegistryError};
use crate::shared::Shared;

/// How often it is looked whether there is something.
const TICK: Duration = Duration::from_secs(5);
/// So much is taken out in one look.
const BATCH: i64 = 64;

/// Cleans while leading, until `shutdown`.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut lead: watch::Receiver<Option<Lead>>,
    shutdown: CancellationToken,
) {
    if shared.registries.staging().is_none() {
        return shutdown.cancelled().await;
    }
    let mut put_off = PutOff::default();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while let Some(lead) = turn(&mut tick, &mut lead, &shutdown).await {
        tokio::select! {
            done = unstage(&shared, lead, &mut put_off) => match done {
                Ok(()) | Err(StoreError::NotLeading) => {}
                Err(error) => tracing::warn!(%error, "the staging registry could not be cleaned; trying again"),
            },
            // What was begun is over by itself, or begins again.
            () = shutdown.cancelled() => break,
        }
    }
}

async fn unstage(shared: &Shared, lead: Lead, put_off: &mut PutOff<AttemptId>) -> farm_store::Result<()> {
    let (Some(staging), Some(host)) = (shared.registries.staging(), shared.registries.staging_host()) else {
        return Ok(());
    };
    let waits: Vec<AttemptId> = put_off.waiting(Instant::now()).copied().collect();
    for unneeded in shared.loops.unneeded(host.as_str(), &waits, BATCH).await? {
        let Some(at) = shared.registries.staged(unneeded.project, unneeded.attempt) else { continue };
        match remove(&staging, &at, &unneeded).await {
            Ok(deleted) => {
                put_off.forget(&unneeded.attempt);
                if deleted == Deleted::NotAllowed {
                    tracing::warn!(
                        repository = %at,
                        "the staging registry deletes nothing, so it fills up; where it is the distribution registry, \
                         storage.delete.enabled allows it"
                    );
                }
                let is_gone = deleted == Deleted::Gone;
                shared.loops.unstaged(lead.epoch, host.as_str(), &unneeded, is_gone).await?;
            }
            Err(error) => {
                let (tries, wait) = put_off.failed(unneeded.attempt, Instant::now());
                tracing::warn!(repository = %at, tries, ?wait, %error, "it could not be removed from the staging registry");
            }
        }
    }
    Ok(())
}

/// Deletes a manifest with all that it lists; that one last, as it says what these are.
async fn remove(staging: &By<'_>, at: &Repository, unneeded: &Unneeded) -> Result<Deleted, RegistryError> {
    if let Some(manifest) = staging.manifest(at, &unneeded.digest.to_string()).await? {
        let document: Option<IndexDocument> = serde_json::from_slice(&manifest.bytes).ok();
        for child in document.into_iter().flat_map(|document| document.manifests) {
            if staging.delete(at, child.digest).await? == Deleted::NotAllowed {
                return Ok(Deleted::NotAllowed);
            }
        }
    }
    staging.delete(at, unneeded.digest).await
}
