//! Copies that were asked for: an image with all that belongs to it, from where it is to where its new tags are to be.
//!
//! What the source is, is looked at once and kept, so that each try copies the same. What is at a destination already is left alone; within
//! a registry blobs are mounted, else they are streamed, some at once. Then the exact bytes of the source's index, or manifest, or an index
//! of some of its platforms, are kept as the build's publication: from there on it is published as all builds are ([`put`](super::put)). A
//! coordinator that dies in between leaves blobs and manifests that the next one finds there.

mod companions;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use farm_core::publish::cut::{Uncut, cut};
use farm_core::publish::{
    DOCKER_LIST, DOCKER_MANIFEST, Index, IndexDocument, OCI_INDEX, OCI_MANIFEST, is_index,
};
use farm_core::work::again::backoff;
use farm_store::machines::leader::Epoch;
use farm_store::publish::publications::DueMerge;
use farm_store::{Result, StoreError};
use farm_types::text::{bytes, count, short_digest};
use farm_types::{Cause, CopySpec, Digest, Failure, FailureCode, Repository};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::Semaphore;

use super::LOOKS;
use super::locks::TagLocks;
use super::put::by_login;
use crate::registry::copy::Mounted;
use crate::registry::image::{ChildError, in_json};
use crate::registry::referrers::Companion;
use crate::registry::tree::{self, MOST_MANIFESTS, Tree};
use crate::registry::{By, Manifest, RegistryError};
use crate::shared::Shared;

/// Blobs of one copy that are sent at once.
const AT_ONCE: usize = 4;
/// So many are under way at once where their registry has them, and they need not be sent.
const MOUNTED_AT_ONCE: usize = 16;

/// So long it counts that a copy may go on.
const GOES_ON_FOR: Duration = Duration::from_secs(1);

/// Each blob that is so long has a line of its own when it is there, bytes.
const LARGE: u64 = 8 << 20;

/// While a blob is sent, it is asked so often whether it is still wanted.
const LOOK: Duration = Duration::from_secs(10);

/// Why it isn't there yet.
enum Untransferred {
    Store(StoreError),
    Child(ChildError),
}

impl From<StoreError> for Untransferred {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<RegistryError> for Untransferred {
    fn from(error: RegistryError) -> Self {
        Self::Child(ChildError::Registry(error))
    }
}

impl From<ChildError> for Untransferred {
    fn from(error: ChildError) -> Self {
        Self::Child(error)
    }
}

fn impossible(code: FailureCode, message: String) -> Untransferred {
    Untransferred::Child(ChildError::Wrong(Box::new(Failure::new(Cause::User, code, message))))
}

/// Brings a copy as far as it goes.
pub(super) async fn transfer_one(
    shared: &Shared,
    epoch: Epoch,
    due: &DueMerge,
    copy: &CopySpec,
    locks: &TagLocks,
) -> Result<()> {
    let later = async |why: &str| {
        tracing::warn!(why, "not copied yet; trying again");
        let after = backoff(due.tries + 1, rand::random::<f64>());
        shared.loops.retry_merge(epoch, due.project, due.build, why, after).await
    };
    let failed =
        async |failure: &Failure| shared.loops.fail_merge(epoch, due.project, due.build, failure).await;
    match transfer(shared, epoch, due, copy, locks).await {
        Ok(index) => {
            tracing::info!(index = %index.digest, from = %copy.from, "copied");
            shared.loops.keep_publication(epoch, due, &index, &[]).await
        }
        // A cleaning of one of its repositories, or an end of the build: then this is refused as well.
        Err(Untransferred::Store(StoreError::Stale(why))) => later(why).await,
        Err(Untransferred::Store(error)) => Err(error),
        Err(Untransferred::Child(ChildError::Registry(error))) if error.is_transient() => {
            later(&error.message).await
        }
        // What a manifest needs may have been cleaned away since it was seen there.
        Err(Untransferred::Child(ChildError::Registry(error)))
            if error.code == FailureCode::RegistryRejected && due.tries < LOOKS =>
        {
            later(&error.message).await
        }
        Err(Untransferred::Child(ChildError::Registry(error))) => failed(&error.failure()).await,
        Err(Untransferred::Child(ChildError::Missing(failure) | ChildError::Wrong(failure))) => {
            failed(&failure).await
        }
    }
}

async fn transfer(
    shared: &Shared,
    epoch: Epoch,
    due: &DueMerge,
    copy: &CopySpec,
    locks: &TagLocks,
) -> std::result::Result<Index, Untransferred> {
    let from = &copy.from.repository;
    let all: Vec<Repository> = due.spec.repositories().into_iter().chain([from.clone()]).collect();
    // Before anything is read: what is just being cleaned there may be what is wanted.
    shared.loops.may_copy(epoch, due.project, due.build, &all).await?;
    let reader = reader(shared, due, from).await?;
    let digest = match due.copied {
        Some(digest) => digest,
        None => {
            let digest = source(&reader, copy).await?;
            shared.loops.pin_copy(epoch, (due.project, due.build), digest).await?
        }
    };
    let index = index(&reader, copy, digest).await?;
    let mut tree: Option<Tree> = None;
    let mut brought: Vec<Repository> = vec![from.clone()];
    let mut companions: Option<Vec<Companion>> = None;
    for to in due.spec.repositories().into_iter().filter(|to| to != from) {
        let by = by_login(shared, due.project, &to).await??;
        let transfer = Transfer {
            shared,
            epoch,
            due,
            reader: &reader,
            from,
            by: &by,
            to: &to,
            brought: &brought,
            mounts_none: AtomicBool::new(false),
            sends: Semaphore::new(AT_ONCE),
            went_on: Mutex::default(),
            locks,
        };
        transfer.run(&index, &mut tree).await?;
        let companions = match companions.take() {
            Some(known) => companions.insert(known),
            None => companions.insert(transfer.look_for_companions(&index).await?),
        };
        transfer.bring_companions(companions).await?;
        brought.push(to);
    }
    Ok(index)
}

/// The registry of the source, as it answers the project, if that may still pull from there.
async fn reader<'a>(
    shared: &'a Shared,
    due: &DueMerge,
    from: &Repository,
) -> std::result::Result<By<'a>, Untransferred> {
    let allowed = shared.accesses.of(due.project).await?;
    let is_own = allowed.own(from.host()).is_some();
    if !is_own && shared.registries.is_known(from.registry()) && !allowed.access.may_pull(from) {
        let why = format!("the project may not pull from {from} with the farm's credentials any more");
        return Err(impossible(FailureCode::RegistryAuth, why));
    }
    let by = shared.registries.to_read(&allowed, from)?;
    if let Some(login) = by.own() {
        shared.accesses.used(login).await;
    }
    Ok(by)
}

/// What the source is now.
async fn source(reader: &By<'_>, copy: &CopySpec) -> std::result::Result<Digest, Untransferred> {
    let repository = &copy.from.repository;
    if let Some(there) = reader.head(repository, &copy.from.at()).await? {
        // What was named counts, and not what the registry says that it is.
        return Ok(copy.from.digest.unwrap_or(there));
    }
    let instead = match (&copy.from.tag, copy.from.digest) {
        (Some(tag), None) => reader.instead_of(repository, tag).await,
        _ => String::new(),
    };
    Err(impossible(FailureCode::CopiedImageMissing, format!("there is no {}{instead}", copy.from)))
}

/// What is published: the source's bytes, or an index of some of its platforms.
async fn index(
    reader: &By<'_>,
    copy: &CopySpec,
    digest: Digest,
) -> std::result::Result<Index, Untransferred> {
    let from = &copy.from.repository;
    let Some(root) = reader.manifest(from, &digest.to_string()).await? else {
        let why = format!("{from}@{digest} is to be copied, and isn't there any more");
        return Err(impossible(FailureCode::CopiedImageMissing, why));
    };
    let unfit = |why: &str| {
        impossible(FailureCode::CopiedImageUnfit, format!("{from}@{digest} can't be copied: {why}"))
    };
    let known = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST];
    let Some(media_type) = known.into_iter().find(|known| *known == root.media_type) else {
        return Err(unfit(&tree::of_other_type("it", &root.media_type)));
    };
    let mut manifests = Vec::new();
    if is_index(media_type) {
        // As whoever puts it will read it.
        let document: IndexDocument =
            serde_json::from_slice(&root.bytes).map_err(|error| unfit(&in_json(&error)))?;
        // Also where all of them are at the destination, so that nothing else of the source is read.
        if document.manifests.len() > MOST_MANIFESTS {
            return Err(unfit(&format!("it has more than {MOST_MANIFESTS} manifests")));
        }
        manifests.extend(document.manifests.iter().map(|entry| entry.digest));
    }
    let whole = Index { bytes: root.bytes, digest, media_type, manifests, referrers: Vec::new() };
    cut(whole, &copy.platforms).map_err(|why| match why {
        Uncut::Missing { .. } => {
            let why = format!("{} can't be copied so: {why}", copy.from);
            impossible(FailureCode::CopiedPlatformMissing, why)
        }
        Uncut::NoIndex | Uncut::Unreadable(..) => unfit(&why.to_string()),
    })
}

/// The manifests of an image beside its root, where that tells them all: those of indexes that it lists it doesn't.
fn others(index: &Index) -> Option<Vec<Digest>> {
    if !is_index(index.media_type) {
        return Some(Vec::new());
    }
    let document: IndexDocument = serde_json::from_slice(&index.bytes).ok()?;
    let has_indexes = document.manifests.iter().any(|entry| is_index(&entry.media_type));
    (!has_indexes).then(|| index.manifests.clone())
}

/// An image on its way to one repository.
struct Transfer<'a> {
    shared: &'a Shared,
    epoch: Epoch,
    due: &'a DueMerge,
    reader: &'a By<'a>,
    from: &'a Repository,
    by: &'a By<'a>,
    to: &'a Repository,
    /// Where all of it is.
    brought: &'a [Repository],
    /// The registry has refused to take a blob over.
    mounts_none: AtomicBool,
    /// Blobs that are sent at once.
    sends: Semaphore,
    /// When it was last found that this may go on.
    went_on: Mutex<Option<Instant>>,
    locks: &'a TagLocks,
}

/// How a blob came to a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    WasThere,
    Mounted,
    Sent(u64),
}

impl Transfer<'_> {
    /// Brings all of it there. What it consists of is read at the source once a destination lacks some of it, and then for all.
    async fn run(&self, index: &Index, known: &mut Option<Tree>) -> std::result::Result<(), Untransferred> {
        self.goes_on().await?;
        let others = match known.as_ref().map(Tree::others).or_else(|| others(index)) {
            Some(others) => others,
            None => self.read(index, known).await?.others(),
        };
        if self.is_there(index.digest, &others).await? {
            tracing::info!(repository = %self.to, "all of it is there");
            return Ok(self.note(&format!("{}: all of it is there", self.to)).await?);
        }
        let tree = self.read(index, known).await?;
        let what = format!(
            "{}: {} and {}, {}",
            self.to,
            count(tree.manifests.len() + 1, "manifest"),
            count(tree.blobs.len(), "blob"),
            bytes(tree.bytes())
        );
        self.note(&what).await?;
        let blobs: Vec<(Digest, u64)> = tree.blobs.iter().map(|(digest, size)| (*digest, *size)).collect();
        let mut blobs = blobs.into_iter();
        // Whether its registry mounts at all the first one finds out.
        let first = match blobs.next() {
            Some((digest, size)) if self.near().is_some() => Some(self.blob(digest, size).await?),
            first => {
                blobs = first.into_iter().chain(blobs).collect::<Vec<_>>().into_iter();
                None
            }
        };
        let blobs = futures::stream::iter(blobs).map(|(digest, size)| self.blob(digest, size));
        let at_once = if self.near().is_some() { MOUNTED_AT_ONCE } else { AT_ONCE };
        let mut came: Vec<Came> = blobs.buffer_unordered(at_once).try_collect().await?;
        came.extend(first);
        self.goes_on().await?;
        // An index is put with its tags; an image alone is what they need.
        let alone = (!is_index(&tree.root.media_type)).then_some((tree.digest, &tree.root));
        let manifests = tree.manifests.iter().map(|(digest, manifest)| (*digest, manifest)).chain(alone);
        for (digest, manifest) in manifests {
            let at = digest.to_string();
            if self.by.head(self.to, &at).await? != Some(digest) {
                self.by.put(self.to, &at, &manifest.bytes, &manifest.media_type).await?;
            }
        }
        let of = |wanted: fn(&Came) -> bool| came.iter().filter(|came| wanted(came)).count();
        let (mounted, sent) = (of(|came| *came == Came::Mounted), of(|came| matches!(came, Came::Sent(_))));
        let moved: u64 = came.iter().map(|came| if let Came::Sent(size) = came { *size } else { 0 }).sum();
        tracing::info!(
            repository = %self.to, manifests = tree.manifests.len() + 1, blobs = came.len(),
            mounted, sent, bytes = moved, "copied to a repository"
        );
        let there = came.len() - mounted - sent;
        let text = format!(
            "{}: {sent} sent ({}), {mounted} mounted from its registry, {there} were there",
            self.to,
            bytes(moved)
        );
        Ok(self.note(&text).await?)
    }

    async fn read<'t>(
        &self,
        index: &Index,
        known: &'t mut Option<Tree>,
    ) -> std::result::Result<&'t Tree, Untransferred> {
        let root = || Manifest { bytes: index.bytes.clone(), media_type: index.media_type.to_owned() };
        let tree = match known.take() {
            Some(tree) => tree,
            None => self.reader.tree(self.from, index.digest, root()).await?,
        };
        Ok(known.insert(tree))
    }

    /// Says it to whoever watches.
    async fn note(&self, text: &str) -> Result<()> {
        self.shared.loops.note_copy(self.epoch, (self.due.project, self.due.build), text).await?;
        self.shared.hints.streamed();
        Ok(())
    }

    /// Whether it was copied there before. What is there by its digest is there whole, but somebody may have removed parts of it since.
    async fn is_there(&self, root: Digest, others: &[Digest]) -> std::result::Result<bool, Untransferred> {
        for digest in std::iter::once(&root).chain(others) {
            if self.by.head(self.to, &digest.to_string()).await? != Some(*digest) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A repository of the same registry where all of it is.
    fn near(&self) -> Option<&Repository> {
        self.brought.iter().find(|other| other.registry() == self.to.registry())
    }

    /// Brings a blob there, unless it is.
    async fn blob(&self, digest: Digest, size: u64) -> std::result::Result<Came, Untransferred> {
        self.still_goes_on().await?;
        if let Some(near) = self.near().filter(|_| !self.mounts_none.load(Ordering::Relaxed)) {
            match self.by.mount_blob(near, digest, self.to).await? {
                Mounted::Yes => return Ok(Came::Mounted),
                Mounted::No => {}
                Mounted::Refused => self.mounts_none.store(true, Ordering::Relaxed),
            }
        }
        if self.by.has_blob(self.to, digest).await? {
            return Ok(Came::WasThere);
        }
        // It is never closed.
        let _turn = self.sends.acquire().await.ok();
        self.still_goes_on().await?;
        let copying = self.reader.copy_blob(self.from, (digest, size), self.by, self.to);
        tokio::select! {
            copied = copying => copied?,
            over = self.over() => return Err(over.into()),
        }
        if size >= LARGE {
            self.note(&format!("{}: sent {}, {}", self.to, short_digest(&digest.to_string()), bytes(size)))
                .await?;
        }
        Ok(Came::Sent(size))
    }

    /// Comes back when the copy is not to go on any more.
    async fn over(&self) -> StoreError {
        loop {
            tokio::time::sleep(LOOK).await;
            // Whether something is to be cleaned there is asked before the next blob; and a database that doesn't answer says nothing.
            let (project, build) = (self.due.project, self.due.build);
            if let Err(over @ (StoreError::Stale(_) | StoreError::NotLeading)) =
                self.shared.loops.may_copy(self.epoch, project, build, &[]).await
            {
                return over;
            }
        }
    }

    /// Whether this coordinator still leads, and the build wasn't cancelled meanwhile.
    async fn goes_on(&self) -> Result<()> {
        let to = std::slice::from_ref(self.to);
        self.shared.loops.may_copy(self.epoch, self.due.project, self.due.build, to).await?;
        *self.went_on.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Ok(())
    }

    /// The same for one blob among many, of which each takes a moment: the database is asked once in a while.
    async fn still_goes_on(&self) -> Result<()> {
        let went_on = *self.went_on.lock().unwrap_or_else(PoisonError::into_inner);
        if went_on.is_some_and(|at| at.elapsed() < GOES_ON_FOR) {
            return Ok(());
        }
        self.goes_on().await
    }
}
