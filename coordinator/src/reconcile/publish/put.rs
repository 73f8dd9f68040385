//! An index on its way to a repository and its tags, step by step; and the later look at a tag that may have been overtaken.
//!
//! A tag is claimed in the database before it is put, so that an older intention never follows a newer one; within this
//! process one tag is worked on by one task at a time.

use std::time::{Duration, Instant};

use farm_core::publish::referrer::fallback_tag;
use farm_core::publish::{IndexDocument, is_index};
use farm_core::work::again::backoff;
use farm_store::machines::leader::Epoch;
use farm_store::publish::destinations::{Claim, DueDestination};
use farm_store::publish::rechecks::{Recheck, Wanted};
use farm_store::{Result, StoreError};
use farm_types::{Digest, ExpectedTag, FailureCode, ProjectId, Repository};

use super::LOOKS;
use super::locks::TagLocks;
use super::sign::{Unsigned, sign};
use crate::registry::image::LATELY;
use crate::registry::{By, RegistryError};
use crate::shared::Shared;

/// A claim is good for that long: later the tag is claimed anew before it is put.
const CLAIM_HOLDS: Duration = Duration::from_secs(10);

/// How long a put that was begun may still have its effect.
pub(super) fn longest_put(shared: &Shared) -> Duration {
    // As long as farm waits for the answer, and as long again for the registry to finish what farm gave up.
    Duration::from_secs(shared.config.limits.registry_timeout_seconds) * 2
}

/// Brings one destination as far as it goes.
pub(super) async fn put_one(
    shared: &Shared,
    epoch: Epoch,
    due: &DueDestination,
    locks: &TagLocks,
) -> Result<()> {
    let ended = put_and_note(shared, epoch, due, locks).await;
    if ended.as_ref().is_err_and(StoreError::is_superseded) {
        // This process may have been stopped for long and put something only now: who leads looks at those tags.
        let (repository, tags) = (&due.repository, &due.tags);
        shared.loops.ask_recheck(due.project, repository, tags, due.order_key, due.index_digest).await?;
    }
    ended
}

async fn put_and_note(shared: &Shared, epoch: Epoch, due: &DueDestination, locks: &TagLocks) -> Result<()> {
    let Err(error) = put_steps(shared, epoch, due, locks).await else { return Ok(()) };
    let error = match error {
        PutError::Store(error) => return Err(error),
        PutError::Registry(error) => error,
    };
    tracing::warn!(tries = due.tries, %error, "not published yet");
    let again = error.is_transient().then(|| backoff(due.tries + 1, rand::random::<f64>()));
    shared.loops.destination_failed(epoch, due, &error.failure(), again).await
}

enum PutError {
    Store(StoreError),
    Registry(RegistryError),
}

impl From<StoreError> for PutError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<RegistryError> for PutError {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

impl From<Unsigned> for PutError {
    fn from(why: Unsigned) -> Self {
        match why {
            Unsigned::Store(error) => Self::Store(error),
            Unsigned::Registry(error) => Self::Registry(error),
        }
    }
}

async fn put_steps(
    shared: &Shared,
    epoch: Epoch,
    due: &DueDestination,
    locks: &TagLocks,
) -> std::result::Result<(), PutError> {
    let repository = &due.repository;
    let registries = &by_login(shared, due.project, repository).await??;
    let by_digest = due.index_digest.to_string();
    unmoved(registries, due).await?;
    let mut first = at_index(registries, due).await?;
    if first.is_none() && registries.head(repository, &by_digest).await? != Some(due.index_digest) {
        for image in needed(due)? {
            // The merge has read it a moment ago, or another index that was put.
            let is_there = registries.saw(repository, image, LATELY)
                || registries.head(repository, &image.to_string()).await?.is_some();
            if !is_there {
                let why = format!("the image {image} that the tags need is not there");
                let mut error = RegistryError::rejected(repository, why);
                if due.tries < LOOKS {
                    error.code = FailureCode::RegistryUnavailable;
                }
                return Err(error.into());
            }
        }
        registries.put(repository, &by_digest, &due.bytes, &due.media_type).await?;
    }
    // Also that this coordinator still leads: lists of referrers and of signatures are read and written over.
    shared.loops.destination_pushed(epoch, due).await?;
    for attached in &due.referrers {
        let lock = locks.of(format!("{repository}:{}", fallback_tag(attached.subject.digest)));
        let _turn = lock.lock().await;
        registries.attach(repository, attached).await?;
    }
    Box::pin(sign(shared, due, registries, locks)).await?;
    for tag in &due.tags {
        let lock = locks.of(format!("{repository}:{tag}"));
        let _turn = lock.lock().await;
        // Whoever has moved it since that look, comes to light when it is verified.
        let before = match first.take().filter(|first| first == tag) {
            Some(_) => Some(due.index_digest),
            None => registries.head(repository, tag).await?,
        };
        if let Some(moved) = moved(due, tag, before) {
            return Err(moved.into());
        }
        let asked = Instant::now();
        let claim = shared.loops.claim_tag(epoch, due, tag, before, longest_put(shared)).await?;
        if claim == Claim::Superseded {
            tracing::info!(tag, "a newer build has the tag");
            continue;
        }
        // Counts on while the process is stopped. What was claimed too long ago may be another's by now.
        if asked.elapsed() > CLAIM_HOLDS {
            return Err(PutError::Registry(RegistryError {
                code: FailureCode::RegistryUnavailable,
                message: format!(
                    "{repository}:{tag} was not put in time after it was claimed; it is claimed anew"
                ),
            }));
        }
        if before != Some(due.index_digest) {
            registries.put(repository, tag, &due.bytes, &due.media_type).await?;
        }
        shared.loops.tag_put(epoch, due, tag).await?;
        if registries.head(repository, tag).await? != Some(due.index_digest) {
            return Err(PutError::Registry(RegistryError {
                code: FailureCode::RegistryUnavailable,
                message: format!("{repository}:{tag} was put, but points elsewhere; it is put again"),
            }));
        }
        shared.loops.tag_verified(epoch, due, tag).await?;
        tracing::info!(tag, index = %due.index_digest, "published");
    }
    Ok(())
}

/// The first tag, if it points to the index already: then that is there, and needs no look of its own. It is looked at only where this
/// process has seen the index in the repository before, as else it hardly does.
async fn at_index(
    registries: &By<'_>,
    due: &DueDestination,
) -> std::result::Result<Option<String>, PutError> {
    let Some(tag) =
        due.tags.first().filter(|_| registries.saw(&due.repository, due.index_digest, Duration::MAX))
    else {
        return Ok(None);
    };
    let found = registries.head(&due.repository, tag).await?;
    Ok((found == Some(due.index_digest)).then(|| tag.clone()))
}

/// Sees of all tags that are expected to point somewhere whether they do, before the first of them is moved.
async fn unmoved(registries: &By<'_>, due: &DueDestination) -> std::result::Result<(), PutError> {
    for tag in due.tags.iter().filter(|tag| expected(due, tag).is_some()) {
        let found = registries.head(&due.repository, tag).await?;
        if let Some(moved) = moved(due, tag, found) {
            return Err(moved.into());
        }
    }
    Ok(())
}

fn expected<'a>(due: &'a DueDestination, tag: &str) -> Option<&'a ExpectedTag> {
    due.expected.iter().find(|expected| expected.tag.repository == due.repository && expected.tag.tag == tag)
}

/// What is to be said of a tag that points elsewhere than it has to, and not to what it is moved to.
fn moved(due: &DueDestination, tag: &str, found: Option<Digest>) -> Option<RegistryError> {
    let expected = expected(due, tag)?;
    let own = [Some(due.index_digest), due.retried];
    if found == expected.digest || found.is_some() && own.contains(&found) {
        return None;
    }
    let told =
        |digest: Option<Digest>| digest.map_or_else(|| "not there".to_owned(), |digest| digest.to_string());
    let message = format!(
        "{}:{tag} was moved by somebody else since this was asked for, and stays: it was {}, and is {}; look at it, and submit again (a retry \
         expects what this has)",
        due.repository,
        told(expected.digest),
        told(found)
    );
    Some(RegistryError { code: FailureCode::TagChanged, message })
}

/// The registries by the login by which a project's results are published.
pub(super) async fn by_login<'a>(
    shared: &'a Shared,
    project: ProjectId,
    repository: &Repository,
) -> Result<std::result::Result<By<'a>, RegistryError>> {
    let allowed = shared.accesses.of(project).await?;
    let by = shared.registries.to_publish(&allowed, repository);
    if let Ok(by) = &by
        && let Some(login) = by.own()
    {
        shared.accesses.used(login).await;
    }
    Ok(by)
}

/// What a worker has to have pushed before the index, or the manifest in its place, can be put.
fn needed(due: &DueDestination) -> Result<Vec<Digest>> {
    if !is_index(&due.media_type) {
        return Ok(vec![due.index_digest]);
    }
    let document: IndexDocument = serde_json::from_slice(&due.bytes).map_err(StoreError::corrupt)?;
    Ok(document.manifests.into_iter().map(|child| child.digest).collect())
}

/// Looks at a tag once more, and mends it if an older intention of farm's overtook the newest one. What somebody
/// else put there stays.
pub(super) async fn recheck_one(
    shared: &Shared,
    epoch: Epoch,
    due: &Recheck,
    locks: &TagLocks,
) -> Result<()> {
    let (repository, tag) = (&due.repository, due.tag.as_str());
    let lock = locks.of(format!("{repository}:{tag}"));
    let _turn = lock.lock().await;
    let after = longest_put(shared);
    let registries = match by_login(shared, due.project, repository).await? {
        Ok(registries) => registries,
        Err(error) => {
            tracing::warn!(%error, "the tag can't be looked at");
            let again = error.is_transient().then_some(after);
            return shared.loops.rechecked(epoch, due, false, again, after).await;
        }
    };
    let noted = match (registries.head(repository, tag).await, &due.wanted) {
        (Ok(Some(found)), Some(wanted)) if found != wanted.digest && due.older.contains(&found) => {
            tracing::warn!(%found, "an older put came late; the tag is put back");
            put_back(shared, &registries, epoch, due, wanted, after).await
        }
        (Ok(_), _) => shared.loops.rechecked(epoch, due, false, None, after).await,
        (Err(error), _) => {
            tracing::warn!(%error, "the tag can't be looked at; trying again");
            shared.loops.rechecked(epoch, due, false, Some(after), after).await
        }
    };
    if noted.as_ref().is_err_and(StoreError::is_superseded) {
        // What was put back may have become the older one meanwhile.
        let tags = [due.tag.clone()];
        shared.loops.ask_recheck(due.project, repository, &tags, due.order_key, due.digest).await?;
    }
    noted
}

/// Puts a tag back. It is claimed before, as for every other put: this one may come late as well.
async fn put_back(
    shared: &Shared,
    registries: &By<'_>,
    epoch: Epoch,
    due: &Recheck,
    wanted: &Wanted,
    after: Duration,
) -> Result<()> {
    let (repository, tag) = (&due.repository, due.tag.as_str());
    let asked = Instant::now();
    shared.loops.claim_back(epoch, due, after).await?;
    if asked.elapsed() > CLAIM_HOLDS {
        tracing::warn!("the tag was not put back in time after it was claimed; trying again");
        return shared.loops.rechecked(epoch, due, false, Some(after), after).await;
    }
    let put = registries.put(repository, tag, &wanted.bytes, &wanted.media_type).await;
    if let Err(error) = &put {
        tracing::warn!(%error, "the tag could not be put back; trying again");
    }
    shared.loops.rechecked(epoch, due, put.is_ok(), Some(after), after).await
}
