//! What untrusted machines have pushed, from the staging registry to where it belongs: before its build is merged.
//!
//! Each image is checked first: that it is there, is one of its job's platform, and no longer than may be. Then what isn't at a
//! destination yet is copied there, by the login by which the project's results are published, and noted once all of it is there
//! ([`farm_store::publish::staging`]). A coordinator that dies in between leaves blobs that the next one finds there.

use farm_core::work::again::backoff;
use farm_store::machines::leader::Epoch;
use farm_store::publish::publications::{DueMerge, Pushed};
use farm_store::{Result, StoreError};
use farm_types::{Digest, Failure, FailureCode, Repository};
use futures::{StreamExt as _, TryStreamExt as _};

use super::put::by_login;
use crate::registry::copy::Staged;
use crate::registry::image::ChildError;
use crate::registry::{By, RegistryError};
use crate::shared::Shared;

/// What isn't in the staging registry, or is refused for what was, is tried so often again: its worker is believed nothing.
const LOOKS: u32 = 3;
/// Blobs of one image that are under way at once.
const AT_ONCE: usize = 2;

/// Why not all is copied.
enum Uncopied {
    Store(StoreError),
    Child(ChildError),
}

impl From<StoreError> for Uncopied {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<RegistryError> for Uncopied {
    fn from(error: RegistryError) -> Self {
        Self::Child(ChildError::Registry(error))
    }
}

/// Copies what is in the staging registry of one build.
pub(super) async fn copy_one(shared: &Shared, epoch: Epoch, due: &DueMerge) -> Result<()> {
    let later = async |why: &str| {
        tracing::warn!(why, "not copied from the staging registry yet; trying again");
        let after = backoff(due.tries + 1, rand::random::<f64>());
        shared.loops.retry_merge(epoch, due.project, due.build, why, after).await
    };
    let failed =
        async |failure: &Failure| shared.loops.fail_merge(epoch, due.project, due.build, failure).await;
    match copy_all(shared, epoch, due).await {
        Ok(()) => Ok(()),
        Err(Uncopied::Store(error)) => Err(error),
        Err(Uncopied::Child(ChildError::Registry(error))) if error.is_transient() => {
            later(&error.message).await
        }
        // What a manifest needs may have been cleaned away since it was seen there.
        Err(Uncopied::Child(ChildError::Registry(error)))
            if error.code == FailureCode::RegistryRejected && due.tries < LOOKS =>
        {
            later(&error.message).await
        }
        Err(Uncopied::Child(ChildError::Missing(failure))) if due.tries < LOOKS => {
            later(&failure.message).await
        }
        Err(Uncopied::Child(ChildError::Registry(error))) => failed(&error.failure()).await,
        Err(Uncopied::Child(ChildError::Missing(failure) | ChildError::Wrong(failure))) => {
            failed(&failure).await
        }
    }
}

async fn copy_all(shared: &Shared, epoch: Epoch, due: &DueMerge) -> std::result::Result<(), Uncopied> {
    let most = shared.config.limits.staged_bytes;
    for (pushed, to) in due.uncopied() {
        let Some(digest) = pushed.result.digest else { continue };
        let (Some(staging), Some(from)) =
            (shared.registries.staging(), shared.registries.staged(due.project, pushed.attempt))
        else {
            let message = "what an untrusted machine has pushed is in a staging registry, and the coordinator that leads has none (--staging)";
            let code = FailureCode::RegistryUnavailable;
            return Err(RegistryError { code, message: message.to_owned() }.into());
        };
        shared.loops.may_copy(epoch, due.project, due.build, &to).await?;
        let image = staging.staged(&from, digest, &pushed.platform, most).await;
        let image = image.map_err(|error| Uncopied::Child(in_own_words(error, pushed, digest)))?;
        for repository in &to {
            let by = by_login(shared, due.project, repository).await??;
            let copying =
                Copying { shared, epoch, due, staging: &staging, from: &from, by: &by, to: repository };
            copying.run(pushed, &image).await?;
        }
    }
    Ok(())
}

/// What is to be said where nothing is there.
fn in_own_words(error: ChildError, pushed: &Pushed, digest: Digest) -> ChildError {
    let ChildError::Missing(missing) = error else { return error };
    let message = format!(
        "the worker that built {} isn't on a trusted machine, and what it says that it has pushed ({digest}) is not in the staging \
         registry; submit the build again",
        pushed.platform
    );
    ChildError::Missing(Box::new(Failure { message, ..*missing }))
}

/// One image on its way to one repository.
struct Copying<'a> {
    shared: &'a Shared,
    epoch: Epoch,
    due: &'a DueMerge,
    staging: &'a By<'a>,
    from: &'a Repository,
    by: &'a By<'a>,
    to: &'a Repository,
}

impl Copying<'_> {
    async fn run(&self, pushed: &Pushed, image: &Staged) -> std::result::Result<(), Uncopied> {
        let blobs: Vec<(Digest, u64)> = image.blobs.iter().map(|(digest, size)| (*digest, *size)).collect();
        let blobs = futures::stream::iter(blobs).map(|(digest, size)| self.blob(digest, size));
        let copied: Vec<bool> = blobs.buffer_unordered(AT_ONCE).try_collect().await?;
        self.goes_on().await?;
        for (digest, manifest) in &image.manifests {
            let at = digest.to_string();
            if self.by.head(self.to, &at).await? != Some(*digest) {
                self.by.put(self.to, &at, &manifest.bytes, &manifest.media_type).await?;
            }
        }
        let (project, build) = (self.due.project, self.due.build);
        self.shared.loops.copied(self.epoch, (project, build), pushed, self.to).await?;
        let sent = copied.iter().filter(|sent| **sent).count();
        tracing::info!(
            platform = %pushed.platform, repository = %self.to, blobs = image.blobs.len(), sent, bytes = image.bytes(),
            "copied from the staging registry"
        );
        Ok(())
    }

    /// Copies a blob unless it is there; says whether.
    async fn blob(&self, digest: Digest, size: u64) -> std::result::Result<bool, Uncopied> {
        self.goes_on().await?;
        if self.by.has_blob(self.to, digest).await? {
            return Ok(false);
        }
        self.staging.copy_blob(self.from, (digest, size), self.by, self.to).await?;
        Ok(true)
    }

    /// Whether this coordinator still leads, and the build wasn't cancelled meanwhile.
    async fn goes_on(&self) -> Result<()> {
        let to = std::slice::from_ref(self.to);
        self.shared.loops.may_copy(self.epoch, self.due.project, self.due.build, to).await
    }
}
