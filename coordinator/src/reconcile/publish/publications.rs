//! The publish pass: merge what the workers pushed into one index, put it by digest, then move the tags.
//!
//! Every step is written down and can be repeated: are the children there? is the index? what does the tag
//! point to? put, look, record. A tag is claimed in the database before it is put, so that an older
//! intention never follows a newer one; within this process one tag is worked on by one task at a time. A put
//! of an older intention that the registry finishes late is found by looking at the tag once more.
//!
//! Each merge and each destination is a task of its own: a registry that hangs holds up its own images only.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use farm_core::publish::{Index, IndexDocument, alone, is_index, merge};
use farm_core::work::again::backoff;
use farm_store::machines::leader::Epoch;
use farm_store::publish::destinations::{Claim, DueDestination};
use farm_store::publish::publications::DueMerge;
use farm_store::publish::rechecks::{Recheck, Wanted};
use farm_store::{Result, StoreError};
use farm_types::{BuildId, Cause, Digest, Failure, FailureCode, PublicationId, Repository, SinglePlatform};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use crate::hints::BACKSTOP;
use crate::reconcile::put_off::PutOff;
use crate::reconcile::{Lead, leading};
use crate::registry::RegistryError;
use crate::registry::image::ChildError;
use crate::shared::Shared;

/// A claim is good for that long: later the tag is claimed anew before it is put.
const CLAIM_HOLDS: Duration = Duration::from_secs(10);
/// What one look at the database takes of each kind and registry: more than may be under way, so that there is always one
/// to begin with.
const BATCH: i64 = 32;
/// Tasks that work on one registry at once.
const PER_REGISTRY: usize = 8;
/// What was just pushed may not be seen at once by a registry of many machines: so often it is looked for
/// again before it is missed.
const LOOKS: u32 = 5;
/// What is said where farm can't write down what a registry said.
const TROUBLE: &str = "what came of it can't be written down; the coordinator's log has the details";

/// What a task works on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Work {
    Merge(BuildId),
    Put(PublicationId, Repository),
    Recheck(Repository, String),
}

/// The tasks under way.
#[derive(Default)]
struct UnderWay {
    tasks: JoinSet<(Work, String, Span, Result<()>)>,
    works: HashSet<Work>,
    registries: HashMap<String, usize>,
    put_off: PutOff<Work>,
}

impl UnderWay {
    /// Starts a task unless it is under way or put off, or its registry has its share. What it logs is within `span`.
    fn start(
        &mut self,
        work: Work,
        registry: &str,
        span: Span,
        task: impl Future<Output = Result<()>> + Send + 'static,
    ) {
        if self.put_off.waits(&work, Instant::now()) {
            return;
        }
        let busy = self.registries.entry(registry.to_owned()).or_default();
        if *busy >= PER_REGISTRY || !self.works.insert(work.clone()) {
            return;
        }
        *busy += 1;
        let registry = registry.to_owned();
        self.tasks.spawn(async move {
            let ended = task.instrument(span.clone()).await;
            (work, registry, span, ended)
        });
    }

    /// Waits for the end of one; for ever when there is none.
    async fn ended(&mut self) {
        match self.tasks.join_next().await {
            Some(Ok((work, registry, span, result))) => {
                self.works.remove(&work);
                if let Some(busy) = self.registries.get_mut(&registry) {
                    *busy = busy.saturating_sub(1);
                }
                match result {
                    // Superseded: another leader works on it, or a newer build has its tag.
                    Ok(()) | Err(StoreError::Stale(_)) => self.put_off.forget(&work),
                    // Whatever it is: what could not be written down is remembered here, or it would begin anew at once.
                    Err(error) => {
                        let (tries, wait) = self.put_off.failed(work, Instant::now());
                        let _inside = span.enter();
                        tracing::warn!(tries, ?wait, %error, "not published yet; trying again");
                    }
                }
            }
            Some(Err(error)) => {
                // A panic lost its key: all are looked at anew.
                tracing::error!(%error, "a publishing task died");
                *self = Self { put_off: std::mem::take(&mut self.put_off), ..Self::default() };
            }
            None => std::future::pending().await,
        }
    }
}

/// Publishes while leading, until `shutdown`.
pub async fn run(shared: Arc<Shared>, mut lead: watch::Receiver<Option<Lead>>, shutdown: CancellationToken) {
    let locks = Arc::new(TagLocks::default());
    let mut under_way = UnderWay::default();
    while !shutdown.is_cancelled() {
        let current = tokio::select! {
            lead = leading(&mut lead) => lead,
            () = shutdown.cancelled() => break,
        };
        let Some(current) = current else { break };
        if let Err(error) = look(&shared, current.epoch, &locks, &mut under_way).await {
            tracing::warn!(%error, "a publish pass failed; trying again");
        }
        tokio::select! {
            () = under_way.ended() => shared.hints.streamed(),
            () = shared.hints.publish.notified() => {}
            () = tokio::time::sleep(BACKSTOP) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// Starts what is due.
///
/// What the database can't be told of one (a message that it doesn't take, say) is put off there as well, or its place among
/// the first would stay taken.
async fn look(
    shared: &Arc<Shared>,
    epoch: Epoch,
    locks: &Arc<TagLocks>,
    under_way: &mut UnderWay,
) -> Result<()> {
    for due in shared.store.due_merges(BATCH).await? {
        let (shared, work) = (Arc::clone(shared), Work::Merge(due.build));
        let registry =
            due.spec.tags.first().map(|tag| tag.repository.registry().to_owned()).unwrap_or_default();
        let span = tracing::error_span!("merge", build = %due.short_id);
        under_way.start(work, &registry, span, async move {
            let merged = merge_one(&shared, epoch, &due).await;
            if let Some(after) = put_off_for(&merged, due.tries) {
                shared.store.retry_merge(epoch, due.project, due.build, TROUBLE, after).await?;
            }
            merged
        });
    }
    for due in shared.store.due_destinations(BATCH).await? {
        let (shared, locks) = (Arc::clone(shared), Arc::clone(locks));
        let (work, registry) =
            (Work::Put(due.publication, due.repository.clone()), due.repository.registry().to_owned());
        let span = tracing::error_span!("put", build = %due.build, repository = %due.repository);
        under_way.start(work, &registry, span, async move {
            let put = put_one(&shared, epoch, &due, &locks).await;
            if let Some(after) = put_off_for(&put, due.tries) {
                let failure = Failure::new(Cause::Infrastructure, FailureCode::RegistryUnavailable, TROUBLE);
                shared.store.destination_failed(epoch, &due, &failure, Some(after)).await?;
            }
            put
        });
    }
    for due in shared.store.due_rechecks(BATCH).await? {
        let (shared, locks) = (Arc::clone(shared), Arc::clone(locks));
        let (work, registry) =
            (Work::Recheck(due.repository.clone(), due.tag.clone()), due.repository.registry().to_owned());
        let span = tracing::error_span!("look", repository = %due.repository, tag = due.tag);
        under_way.start(work, &registry, span, async move {
            let looked = recheck_one(&shared, epoch, &due, &locks).await;
            if put_off_for(&looked, 0).is_some() {
                let after = longest_put(&shared);
                shared.store.rechecked(epoch, &due, false, Some(after), after).await?;
            }
            looked
        });
    }
    Ok(())
}

/// For how long what the database did not take is put off there; nothing when all went well, or it is away: then it can be
/// told nothing, either.
fn put_off_for(result: &Result<()>, tries: u32) -> Option<Duration> {
    match result {
        Err(error @ StoreError::Corrupt(_)) => {
            tracing::error!(%error, "what came of publishing can't be written down");
            Some(backoff(tries + 1, rand::random::<f64>()))
        }
        _ => None,
    }
}

/// How long a put that was begun may still have its effect.
fn longest_put(shared: &Shared) -> Duration {
    // As long as farm waits for the answer, and as long again for the registry to finish what farm gave up.
    Duration::from_secs(shared.config.limits.registry_timeout_seconds) * 2
}

/// Looks at a tag once more, and mends it if an older intention of farm's overtook the newest one. What somebody
/// else put there stays.
async fn recheck_one(shared: &Shared, epoch: Epoch, due: &Recheck, locks: &TagLocks) -> Result<()> {
    let (repository, tag) = (&due.repository, due.tag.as_str());
    let lock = locks.of(format!("{repository}:{tag}"));
    let _turn = lock.lock().await;
    let after = longest_put(shared);
    let noted = match (shared.registries.head(repository, tag).await, &due.wanted) {
        (Ok(Some(found)), Some(wanted)) if found != wanted.digest && due.older.contains(&found) => {
            tracing::warn!(%found, "an older put came late; the tag is put back");
            put_back(shared, epoch, due, wanted, after).await
        }
        (Ok(_), _) => shared.store.rechecked(epoch, due, false, None, after).await,
        (Err(error), _) => {
            tracing::warn!(%error, "the tag can't be looked at; trying again");
            shared.store.rechecked(epoch, due, false, Some(after), after).await
        }
    };
    if matches!(noted, Err(StoreError::Stale(_))) {
        // What was put back may have become the older one meanwhile.
        let tags = [due.tag.clone()];
        shared.store.ask_recheck(due.project, repository, &tags, due.order_key, due.digest).await?;
    }
    noted
}

/// Puts a tag back. It is claimed before, as for every other put: this one may come late as well.
async fn put_back(
    shared: &Shared,
    epoch: Epoch,
    due: &Recheck,
    wanted: &Wanted,
    after: Duration,
) -> Result<()> {
    let (repository, tag) = (&due.repository, due.tag.as_str());
    let asked = Instant::now();
    shared.store.claim_back(epoch, due, after).await?;
    if asked.elapsed() > CLAIM_HOLDS {
        tracing::warn!("the tag was not put back in time after it was claimed; trying again");
        return shared.store.rechecked(epoch, due, false, Some(after), after).await;
    }
    let put = shared.registries.put(repository, tag, &wanted.bytes, &wanted.media_type).await;
    if let Err(error) = &put {
        tracing::warn!(%error, "the tag could not be put back; trying again");
    }
    shared.store.rechecked(epoch, due, put.is_ok(), Some(after), after).await
}

/// Reads the children of one build back, and keeps the index that they make.
async fn merge_one(shared: &Shared, epoch: Epoch, due: &DueMerge) -> Result<()> {
    let Some(repository) = due.spec.repositories().into_iter().next() else {
        return shared.store.finish_unpublished(epoch, due.project, due.build).await;
    };
    let mut children = Vec::with_capacity(due.results.len());
    let mut sizes = Vec::with_capacity(due.results.len());
    let mut images = Vec::with_capacity(due.results.len());
    for (platform, _, result) in &due.results {
        let Some(digest) = result.digest else {
            let why = format!("the worker pushed nothing for {platform}");
            let failure = Failure::new(Cause::Bug, FailureCode::NothingPushed, why);
            return shared.store.fail_merge(epoch, due.project, due.build, &failure).await;
        };
        match shared.registries.child(&repository, digest, platform).await {
            Ok(pushed) => {
                children.push(pushed.child);
                sizes.push((platform.clone(), pushed.bytes));
                images.push(pushed.image.bytes);
            }
            Err(ChildError::Registry(error)) if error.is_transient() => {
                tracing::warn!(%error, "children can't be read; trying again");
                let after = backoff(due.tries + 1, rand::random::<f64>());
                return shared.store.retry_merge(epoch, due.project, due.build, &error.message, after).await;
            }
            Err(ChildError::Missing(failure)) if due.tries < LOOKS => {
                let after = backoff(due.tries + 1, rand::random::<f64>());
                let why = &failure.message;
                return shared.store.retry_merge(epoch, due.project, due.build, why, after).await;
            }
            Err(ChildError::Registry(error)) => {
                return shared.store.fail_merge(epoch, due.project, due.build, &error.failure()).await;
            }
            Err(ChildError::Missing(failure) | ChildError::Wrong(failure)) => {
                return shared.store.fail_merge(epoch, due.project, due.build, &failure).await;
            }
        }
    }
    let merged = match (due.spec.single_platform, images.pop()) {
        (SinglePlatform::Manifest, Some(image)) => alone(&children, image),
        _ => merge(&children),
    };
    let index: Index = match merged {
        Ok(index) => index,
        Err(error) => {
            let failure = Failure::new(Cause::User, FailureCode::IndexImpossible, error.to_string());
            return shared.store.fail_merge(epoch, due.project, due.build, &failure).await;
        }
    };
    tracing::info!(index = %index.digest, "merged");
    shared.store.keep_publication(epoch, due, &index, &sizes).await
}

/// Brings one destination as far as it goes.
async fn put_one(shared: &Shared, epoch: Epoch, due: &DueDestination, locks: &TagLocks) -> Result<()> {
    let ended = put_and_note(shared, epoch, due, locks).await;
    if matches!(ended, Err(StoreError::Stale(_))) {
        // This process may have been stopped for long and put something only now: who leads looks at those tags.
        let (repository, tags) = (&due.repository, &due.tags);
        shared.store.ask_recheck(due.project, repository, tags, due.order_key, due.index_digest).await?;
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
    shared.store.destination_failed(epoch, due, &error.failure(), again).await
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

async fn put_steps(
    shared: &Shared,
    epoch: Epoch,
    due: &DueDestination,
    locks: &TagLocks,
) -> std::result::Result<(), PutError> {
    let (registries, repository) = (&shared.registries, &due.repository);
    let by_digest = due.index_digest.to_string();
    if registries.head(repository, &by_digest).await? != Some(due.index_digest) {
        for image in needed(due)? {
            if registries.head(repository, &image.to_string()).await?.is_none() {
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
    shared.store.destination_pushed(epoch, due).await?;
    for tag in &due.tags {
        let lock = locks.of(format!("{repository}:{tag}"));
        let _turn = lock.lock().await;
        let before = registries.head(repository, tag).await?;
        let asked = Instant::now();
        let claim = shared.store.claim_tag(epoch, due, tag, before, longest_put(shared)).await?;
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
        shared.store.tag_put(epoch, due, tag).await?;
        if registries.head(repository, tag).await? != Some(due.index_digest) {
            return Err(PutError::Registry(RegistryError {
                code: FailureCode::RegistryUnavailable,
                message: format!("{repository}:{tag} was put, but points elsewhere; it is put again"),
            }));
        }
        shared.store.tag_verified(epoch, due, tag).await?;
        tracing::info!(tag, index = %due.index_digest, "published");
    }
    Ok(())
}

/// What a worker has to have pushed before the index, or the manifest in its place, can be put.
fn needed(due: &DueDestination) -> Result<Vec<Digest>> {
    if !is_index(&due.media_type) {
        return Ok(vec![due.index_digest]);
    }
    let document: IndexDocument = serde_json::from_slice(&due.bytes).map_err(StoreError::corrupt)?;
    Ok(document.manifests.into_iter().map(|child| child.digest).collect())
}

/// One lock per tag that somebody works on.
#[derive(Debug, Default)]
struct TagLocks(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl TagLocks {
    fn of(&self, tag: String) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(&tag).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        locks.insert(tag, Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_the_database_did_not_take_is_not_begun_again_at_once_and_holds_up_nobody() {
        let (mut under_way, begun) = (UnderWay::default(), Arc::new(AtomicUsize::new(0)));
        let (bad, good) = (Work::Merge(BuildId::generate()), Work::Merge(BuildId::generate()));
        for _ in 0..5 {
            let counted = Arc::clone(&begun);
            under_way.start(bad.clone(), "r.example", Span::none(), async move {
                counted.fetch_add(1, Ordering::Relaxed);
                Err(StoreError::corrupt("unsupported Unicode escape sequence"))
            });
            if !under_way.tasks.is_empty() {
                under_way.ended().await;
            }
        }
        assert_eq!(begun.load(Ordering::Relaxed), 1);
        under_way.start(good, "r.example", Span::none(), async { Ok(()) });
        under_way.ended().await;
        assert!(under_way.works.is_empty() && under_way.registries["r.example"] == 0);
        // What is somebody else's now is no trouble.
        let stale = Work::Merge(BuildId::generate());
        for _ in 0..2 {
            under_way.start(stale.clone(), "r.example", Span::none(), async {
                Err(StoreError::Stale("superseded"))
            });
            assert_eq!(under_way.tasks.len(), 1);
            under_way.ended().await;
        }
    }
}
