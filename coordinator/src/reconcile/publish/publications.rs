//! The publish pass: merge what the workers pushed into one index, put it by digest, then move the tags.
//!
//! Every step is written down and can be repeated ([`merge`](super::merge), [`put`](super::put)): are the children there? is
//! the index? is it signed? what does the tag point to? put, look, record. A put of an older intention that the registry finishes late is
//! found by looking at the tag once more.
//!
//! Each merge and each destination is a task of its own: a registry that hangs holds up its own images only.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use farm_core::work::again::backoff;
use farm_store::machines::leader::Epoch;
use farm_store::{Result, StoreError};
use farm_types::{BuildId, Cause, Failure, FailureCode, PublicationId, Repository};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use super::copy::copy_one;
use super::locks::TagLocks;
use super::merge::merge_one;
use super::put::{longest_put, put_one, recheck_one};
use super::transfer::transfer_one;
use crate::hints::BACKSTOP;
use crate::reconcile::put_off::PutOff;
use crate::reconcile::{Lead, leading};
use crate::shared::Shared;

/// What one look at the database takes of each kind and registry: more than may be under way, so that there is always one
/// to begin with.
const BATCH: i64 = 32;
/// Tasks that work on one registry at once.
const PER_REGISTRY: usize = 8;
/// Copies that are carried out at once, whoever's: each holds an image's manifests.
const TRANSFERS: usize = 64;
/// What is said where farm can't write down what a registry said.
const TROUBLE: &str = "what came of it can't be written down; the coordinator's log has the details";

/// What a task works on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Work {
    Copy(BuildId),
    Transfer(BuildId),
    Merge(BuildId),
    Put(PublicationId, Repository),
    Recheck(Repository, String),
}

/// What a task worked on, in which registry, and what came of it.
type Ended = (Work, String, Span, Result<()>);

/// The tasks under way.
#[derive(Default)]
struct UnderWay {
    tasks: JoinSet<Ended>,
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
        let is_transfer = |work: &Work| matches!(work, Work::Transfer(_));
        if is_transfer(&work) && self.works.iter().filter(|work| is_transfer(work)).count() >= TRANSFERS {
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

    /// Waits for the end of one, and takes those that have ended by then with it: one look at what is due serves them all. Waits
    /// for ever when there is none.
    async fn ended(&mut self) {
        let Some(first) = self.tasks.join_next().await else { return std::future::pending().await };
        self.note(first);
        while let Some(next) = self.tasks.try_join_next() {
            self.note(next);
        }
    }

    fn note(&mut self, ended: std::result::Result<Ended, tokio::task::JoinError>) {
        match ended {
            Ok((work, registry, span, result)) => {
                self.works.remove(&work);
                if let Some(busy) = self.registries.get_mut(&registry) {
                    *busy = busy.saturating_sub(1);
                }
                match result {
                    Ok(()) => self.put_off.forget(&work),
                    // Somebody else has done it, or does it now.
                    Err(error) if error.is_superseded() => self.put_off.forget(&work),
                    // Whatever it is: what could not be written down is remembered here, or it would begin anew at once.
                    Err(error) => {
                        let (tries, wait) = self.put_off.failed(work, Instant::now());
                        let _inside = span.enter();
                        tracing::warn!(tries, ?wait, %error, "not published yet; trying again");
                    }
                }
            }
            Err(error) => {
                // A panic lost its key: all are looked at anew.
                tracing::error!(%error, "a publishing task died");
                *self = Self { put_off: std::mem::take(&mut self.put_off), ..Self::default() };
            }
        }
    }
}

/// Publishes while leading, until `shutdown`.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut lead: watch::Receiver<Option<Lead>>,
    shutdown: CancellationToken,
) {
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
    for due in shared.loops.due_merges(BATCH).await? {
        let (shared, locks) = (Arc::clone(shared), Arc::clone(locks));
        if due.uncopied().next().is_some() {
            let staging = shared.config.staging.registry.as_deref().unwrap_or_default();
            let registry = way_of_copies(staging, &due.spec.repositories());
            let span = tracing::error_span!("copy", build = %due.short_id);
            under_way.start(Work::Copy(due.build), &registry, span, async move {
                let copied = copy_one(&shared, epoch, &due).await;
                if let Some(after) = put_off_for(&copied, due.tries) {
                    shared.loops.retry_merge(epoch, due.project, due.build, TROUBLE, after).await?;
                }
                copied
            });
            continue;
        }
        if let Some(copy) = due.spec.purpose.copy().cloned() {
            // Each project has its own places: whoever copies from a registry that drips holds up nobody else.
            let way = way_of_copies(copy.from.repository.registry(), &due.spec.repositories());
            let registry = format!("{} {way}", due.project);
            let span = tracing::error_span!("copy", build = %due.short_id);
            under_way.start(Work::Transfer(due.build), &registry, span, async move {
                let copied = transfer_one(&shared, epoch, &due, &copy, &locks).await;
                if let Some(after) = put_off_for(&copied, due.tries) {
                    shared.loops.retry_merge(epoch, due.project, due.build, TROUBLE, after).await?;
                }
                copied
            });
            continue;
        }
        let work = Work::Merge(due.build);
        let registry =
            due.spec.tags.first().map(|tag| tag.repository.registry().to_owned()).unwrap_or_default();
        let span = tracing::error_span!("merge", build = %due.short_id);
        under_way.start(work, &registry, span, async move {
            let merged = merge_one(&shared, epoch, &due).await;
            if let Some(after) = put_off_for(&merged, due.tries) {
                shared.loops.retry_merge(epoch, due.project, due.build, TROUBLE, after).await?;
            }
            merged
        });
    }
    for due in shared.loops.due_destinations(BATCH).await? {
        let (shared, locks) = (Arc::clone(shared), Arc::clone(locks));
        let (work, registry) =
            (Work::Put(due.publication, due.repository.clone()), due.repository.registry().to_owned());
        let span = tracing::error_span!("put", build = %due.build, repository = %due.repository);
        under_way.start(work, &registry, span, async move {
            let put = put_one(&shared, epoch, &due, &locks).await;
            if let Some(after) = put_off_for(&put, due.tries) {
                let failure = Failure::new(Cause::Infrastructure, FailureCode::RegistryUnavailable, TROUBLE);
                shared.loops.destination_failed(epoch, &due, &failure, Some(after)).await?;
            }
            put
        });
    }
    for due in shared.loops.due_rechecks(BATCH).await? {
        let (shared, locks) = (Arc::clone(shared), Arc::clone(locks));
        let (work, registry) =
            (Work::Recheck(due.repository.clone(), due.tag.clone()), due.repository.registry().to_owned());
        let span = tracing::error_span!("look", repository = %due.repository, tag = due.tag);
        under_way.start(work, &registry, span, async move {
            let looked = recheck_one(&shared, epoch, &due, &locks).await;
            if put_off_for(&looked, 0).is_some() {
                let after = longest_put(&shared);
                shared.loops.rechecked(epoch, &due, false, Some(after), after).await?;
            }
            looked
        });
    }
    Ok(())
}

/// From where copies go to where, by which they are counted: apart from what these destinations get else, as they take long, and apart
/// from copies to others, whom a slow destination is not to hold up.
fn way_of_copies(from: &str, to: &[Repository]) -> String {
    let registries: BTreeSet<&str> = to.iter().map(Repository::registry).collect();
    let registries: Vec<&str> = registries.into_iter().collect();
    format!("{from} to {}", registries.join(" and "))
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

    #[tokio::test]
    async fn copies_to_a_destination_that_hangs_hold_up_none_to_another() {
        let mut under_way = UnderWay::default();
        let way = |to: &str| way_of_copies("staging.example", &[to.parse().unwrap()]);
        for _ in 0..2 * PER_REGISTRY {
            let hangs = Work::Copy(BuildId::generate());
            under_way.start(hangs, &way("slow.example/app"), Span::none(), std::future::pending());
        }
        assert_eq!(under_way.tasks.len(), PER_REGISTRY);
        let good = Work::Copy(BuildId::generate());
        under_way.start(good.clone(), &way("good.example/app"), Span::none(), async { Ok(()) });
        assert!(under_way.works.contains(&good));
        under_way.ended().await;
        assert!(!under_way.works.contains(&good));
        // One that goes to both waits for the slow one alone.
        let both = ["slow.example/app", "good.example/b"].map(|to| to.parse().unwrap());
        assert_eq!(way_of_copies("s", &both), "s to good.example and slow.example");
    }
}
