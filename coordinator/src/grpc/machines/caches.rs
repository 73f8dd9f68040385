//! Engines' build caches: what they keep, and having them drop some of it.
//!
//! The wish is a row, and the workers are asked whichever coordinator they are connected to. A call waits for answers for a moment; whoever
//! wants to know the rest calls again.

use std::time::Duration;

use farm_proto::v1;
use farm_store::machines::caches::{Asked, Bounds};
use tokio::time::{Instant, sleep};
use tonic::Status;

use super::workers;
use crate::grpc::status;
use crate::people::Caller;
use crate::shared::Shared;
use crate::shown::present;

/// So long a call waits for the workers.
const PATIENCE: Duration = Duration::from_secs(6);
/// How often is looked for their answers.
const LOOK: Duration = Duration::from_millis(250);

/// What the engines keep, as their workers said last.
pub(super) async fn measure(shared: &Shared) -> Result<Vec<v1::WorkerCache>, Status> {
    let store = &shared.store;
    store.measure_caches().await.map_err(status::store)?;
    shared.hints.changed();
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until && !store.are_measured().await.map_err(status::store)? {
        sleep(LOOK).await;
    }
    Ok(store.asked_caches(None).await.map_err(status::store)?.into_iter().map(shown).collect())
}

/// Has engines drop something, and says how far that is.
pub(super) async fn prune(
    shared: &Shared,
    caller: &Caller,
    request: v1::PruneCachesRequest,
) -> Result<Vec<v1::WorkerCache>, Status> {
    let v1::PruneCachesRequest { idempotency_key: key, names, older_than_ms, keep_bytes, dry_run } = request;
    if !(1..=128).contains(&key.len()) {
        return Err(Status::invalid_argument("idempotency key: write 1 to 128 bytes"));
    }
    if [older_than_ms, keep_bytes].into_iter().any(|bound| i64::try_from(bound).is_err()) {
        return Err(Status::invalid_argument("the age and the size are more than can be meant"));
    }
    let names = if names.is_empty() { names } else { workers::checked(names)? };
    let bounds = Bounds { older_than: Duration::from_millis(older_than_ms), keep_bytes, dry_run };
    let store = &shared.store;
    let done = store.prune_caches(&caller.by(), &key, &names, bounds).await.map_err(status::store)?;
    workers::refused(shared, done).await?;
    shared.hints.changed();
    let until = Instant::now() + PATIENCE;
    loop {
        let asked = store.asked_caches(Some(&key)).await.map_err(status::store)?;
        if asked.iter().all(|one| one.told.is_some()) || Instant::now() >= until {
            return Ok(asked.into_iter().map(shown).collect());
        }
        sleep(LOOK).await;
    }
}

fn shown(asked: Asked) -> v1::WorkerCache {
    let Asked { worker, engine, told } = asked;
    let cache = v1::WorkerCache { worker, engine, ..v1::WorkerCache::default() };
    let Some((told, at)) = told else { return v1::WorkerCache { state: "asked".to_owned(), ..cache } };
    let state = if told.failure.is_empty() { "done" } else { "failed" };
    v1::WorkerCache {
        state: state.to_owned(),
        bytes: told.bytes,
        freed_bytes: told.freed_bytes,
        failure: told.failure,
        told_ms: present::ms(at),
        ..cache
    }
}
