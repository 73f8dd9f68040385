//! The publish pass: merge what the workers pushed into one index, put it by digest, then move the tags.
//!
//! Every step is written down and can be repeated: are the children there? is the index? what does the tag
//! point to? put, look, record. A tag is claimed in the database before it is put, so that an older
//! intention never follows a newer one; within this process one tag is worked on by one task at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use farm_core::index::{Index, IndexDocument, merge};
use farm_core::retry::backoff;
use farm_store::destinations::{Claim, DueDestination};
use farm_store::leader::Epoch;
use farm_store::publish::DueMerge;
use farm_store::{Result, StoreError};
use farm_types::{Cause, Failure};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Lead, leading};
use crate::context::Context;
use crate::hints::BACKSTOP;
use crate::registry::RegistryError;
use crate::registry::image::ChildError;

/// Builds and destinations that one pass takes.
const BATCH: i64 = 32;

/// Publishes while leading, until `shutdown`.
pub async fn run(
    context: Arc<Context>,
    mut lead: watch::Receiver<Option<Lead>>,
    shutdown: CancellationToken,
) {
    let locks = Arc::new(TagLocks::default());
    while !shutdown.is_cancelled() {
        let current = tokio::select! {
            lead = leading(&mut lead) => lead,
            () = shutdown.cancelled() => break,
        };
        let Some(current) = current else { break };
        let more = match publish_one(&context, current.epoch, &locks).await {
            Ok(more) => more,
            Err(error) => {
                tracing::warn!(%error, "a publish pass failed; trying again");
                false
            }
        };
        if more {
            continue;
        }
        tokio::select! {
            () = context.hints.publish.notified() => {}
            () = tokio::time::sleep(BACKSTOP) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// One pass; true when there was something to do.
async fn publish_one(context: &Arc<Context>, epoch: Epoch, locks: &Arc<TagLocks>) -> Result<bool> {
    let mut tasks = JoinSet::new();
    for due in context.store.due_merges(BATCH).await? {
        let context = Arc::clone(context);
        tasks.spawn(async move { merge_one(&context, epoch, due).await });
    }
    let mut done = join(&mut tasks).await?;
    for due in context.store.due_destinations(BATCH).await? {
        let (context, locks) = (Arc::clone(context), Arc::clone(locks));
        tasks.spawn(async move { put_one(&context, epoch, due, &locks).await });
    }
    done += join(&mut tasks).await?;
    if done > 0 {
        context.hints.streamed();
    }
    Ok(done > 0)
}

async fn join(tasks: &mut JoinSet<Result<()>>) -> Result<usize> {
    let mut done = 0;
    while let Some(ended) = tasks.join_next().await {
        match ended.map_err(StoreError::corrupt)? {
            // What was superseded is somebody else's now.
            Ok(()) | Err(StoreError::Stale(_)) => done += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Reads the children of one build back, and keeps the index that they make.
async fn merge_one(context: &Context, epoch: Epoch, due: DueMerge) -> Result<()> {
    let Some(repository) = due.spec.repositories().into_iter().next() else {
        return context.store.finish_unpublished(epoch, due.project, due.build).await;
    };
    let mut children = Vec::with_capacity(due.results.len());
    let mut sizes = Vec::with_capacity(due.results.len());
    for (platform, _, result) in &due.results {
        let Some(digest) = result.digest else {
            let why = format!("the worker pushed nothing for {platform}");
            let failure = Failure::new(Cause::Bug, "nothing_pushed", why);
            return context.store.fail_merge(epoch, due.project, due.build, &failure).await;
        };
        match context.registries.child(&repository, digest, platform).await {
            Ok((child, bytes)) => {
                children.push(child);
                sizes.push((platform.clone(), bytes));
            }
            Err(ChildError::Registry(error)) if error.is_transient() => {
                tracing::warn!(build.id = %due.short_id, %error, "children can't be read; trying again");
                let after = backoff(due.tries + 1, rand::random::<f64>());
                return context.store.retry_merge(epoch, due.project, due.build, after).await;
            }
            Err(ChildError::Registry(error)) => {
                return context.store.fail_merge(epoch, due.project, due.build, &error.failure()).await;
            }
            Err(ChildError::Wrong(failure)) => {
                return context.store.fail_merge(epoch, due.project, due.build, &failure).await;
            }
        }
    }
    let index: Index = match merge(&children) {
        Ok(index) => index,
        Err(error) => {
            let failure = Failure::new(Cause::User, "index_impossible", error.to_string());
            return context.store.fail_merge(epoch, due.project, due.build, &failure).await;
        }
    };
    tracing::info!(build.id = %due.short_id, index = %index.digest, "merged");
    context.store.keep_publication(epoch, &due, &index, &sizes).await
}

/// Brings one destination as far as it goes.
async fn put_one(context: &Context, epoch: Epoch, due: DueDestination, locks: &TagLocks) -> Result<()> {
    let Err(error) = put_steps(context, epoch, &due, locks).await else { return Ok(()) };
    let error = match error {
        PutError::Store(error) => return Err(error),
        PutError::Registry(error) => error,
    };
    tracing::warn!(repository = %due.repository, tries = due.tries, %error, "not published yet");
    let again = error.is_transient().then(|| backoff(due.tries + 1, rand::random::<f64>()));
    context.store.destination_failed(epoch, &due, &error.failure(), again).await
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
    context: &Context,
    epoch: Epoch,
    due: &DueDestination,
    locks: &TagLocks,
) -> std::result::Result<(), PutError> {
    let (registries, repository) = (&context.registries, &due.repository);
    let by_digest = due.index_digest.to_string();
    if registries.head(repository, &by_digest).await? != Some(due.index_digest) {
        let document: IndexDocument = serde_json::from_slice(&due.bytes).map_err(StoreError::corrupt)?;
        for child in document.manifests {
            if registries.head(repository, &child.digest.to_string()).await?.is_none() {
                return Err(RegistryError::rejected(
                    repository,
                    format!("the image {} that the index needs is not there any more", child.digest),
                )
                .into());
            }
        }
        registries.put(repository, &by_digest, &due.bytes, &due.media_type).await?;
    }
    context.store.destination_pushed(epoch, due).await?;
    for tag in &due.tags {
        let lock = locks.of(format!("{repository}:{tag}"));
        let _turn = lock.lock().await;
        if context.store.claim_tag(epoch, due, tag).await? == Claim::Superseded {
            tracing::info!(%repository, tag, "a newer build has the tag");
            continue;
        }
        let before = registries.head(repository, tag).await?;
        if before != Some(due.index_digest) {
            registries.put(repository, tag, &due.bytes, &due.media_type).await?;
        }
        context.store.tag_put(epoch, due, tag, before).await?;
        if registries.head(repository, tag).await? != Some(due.index_digest) {
            return Err(PutError::Registry(RegistryError {
                code: "registry_unavailable",
                message: format!("{repository}:{tag} was put, but points elsewhere; it is put again"),
            }));
        }
        context.store.tag_verified(epoch, due, tag).await?;
        tracing::info!(%repository, tag, index = %due.index_digest, "published");
    }
    Ok(())
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
