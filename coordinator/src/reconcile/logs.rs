//! Seals the streams of attempts whose builds have ended, and drops the log partitions that are empty then.
//!
//! Each step may be cut off anywhere: a blob that nothing names yet is swept, the chunks stay until the blob is noted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use farm_store::StoreError;
use farm_store::logs::events::{Chunk, Piece};
use farm_store::logs::seal::{BlobKind, Unsealed};
use farm_store::machines::leader::Epoch;
use farm_types::AttemptId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::put_off::PutOff;
use super::{Lead, turn};
use crate::logs::LogError;
use crate::logs::frames::{FrameError, Packer};
use crate::shared::Shared;

/// How often a pass begins.
const TICK: Duration = Duration::from_secs(5);
/// At most so many attempts are sealed in one pass.
const BATCH: i64 = 100;
/// After so many in a row that the database or the blob store had no answer to, the pass ends.
const SILENT: usize = 3;
/// Chunks that are read at once.
const CHUNKS: i64 = 16;
/// A piece is closed when it holds so much, bytes: it lies in memory while it is made. A longer stream becomes several.
const PIECE_BYTES: u64 = 16 * 1024 * 1024;

/// Seals while leading, until `shutdown`.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut lead: watch::Receiver<Option<Lead>>,
    shutdown: CancellationToken,
) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut put_off = PutOff::default();
    while let Some(lead) = turn(&mut tick, &mut lead, &shutdown).await {
        if let Err(error) = seal_some(&shared, lead.epoch, &mut put_off, &shutdown).await {
            tracing::warn!(%error, "logs could not be sealed; trying again");
        }
        if let Err(error) = drop_partitions(&shared, lead.epoch).await {
            tracing::warn!(%error, "old log partitions could not be dropped; trying again");
        }
    }
}

async fn seal_some(
    shared: &Shared,
    epoch: Epoch,
    put_off: &mut PutOff<AttemptId>,
    shutdown: &CancellationToken,
) -> Result<(), LogError> {
    let settled = Duration::from_secs(shared.config.retention.seal_after_seconds);
    let mut in_trouble = 0;
    let waits: Vec<AttemptId> = put_off.waiting(Instant::now()).copied().collect();
    for attempt in shared.loops.unsealed(settled, &waits, BATCH).await? {
        if shutdown.is_cancelled() {
            break;
        }
        match seal_one(shared, epoch, attempt).await {
            Ok(()) => {
                in_trouble = 0;
                put_off.forget(&attempt.attempt);
            }
            Err(LogError::Store(StoreError::NotLeading)) => return Err(StoreError::NotLeading.into()),
            // A chunk more, or it was removed; the next pass sees it as it is.
            Err(LogError::Store(StoreError::Stale(why))) => {
                tracing::debug!(attempt = %attempt.attempt, why, "not sealed");
            }
            // It may be this one's own; after a few in a row it is the database, or the blob store.
            Err(error @ (LogError::Blobs(_) | LogError::Store(StoreError::Unavailable(_)))) => {
                in_trouble += 1;
                if in_trouble >= SILENT {
                    return Err(error);
                }
                let job = known_as(shared, &attempt).await;
                tracing::warn!(job, %error, "a log could not be sealed; trying again");
            }
            // One that can't be sealed must not keep the others from it.
            Err(error) => {
                let (tries, wait) = put_off.failed(attempt.attempt, Instant::now());
                let job = known_as(shared, &attempt).await;
                tracing::error!(job, tries, ?wait, %error, "a log can't be sealed; it is put off");
            }
        }
    }
    Ok(())
}

/// An attempt as people know it, if that can be found out.
async fn known_as(shared: &Shared, attempt: &Unsealed) -> String {
    let known_as = shared.loops.attempt_known_as(attempt.project, attempt.attempt).await;
    known_as.unwrap_or_else(|_| attempt.attempt.to_string())
}

async fn seal_one(shared: &Shared, epoch: Epoch, mut attempt: Unsealed) -> Result<(), LogError> {
    loop {
        let mut packer = Packer::after(attempt.sealed_seq);
        let mut after = attempt.sealed_seq;
        while packer.raw_bytes() < PIECE_BYTES {
            let chunks = shared.loops.open_chunks(attempt.project, attempt.attempt, after, CHUNKS).await?;
            if chunks.is_empty() {
                break;
            }
            packer = pack(packer, chunks).await?;
            after = packer.last_seq();
        }
        if after == attempt.sealed_seq {
            shared.loops.close_stream(epoch, &attempt).await?;
            return Ok(());
        }
        let packed = packer.finish()?;
        let bytes = u64::try_from(packed.bytes.len()).unwrap_or(u64::MAX);
        let blob = shared.loops.name_blob(attempt.project, BlobKind::Log).await?;
        shared.blobs.put(attempt.project, BlobKind::Log, blob, packed.bytes.into()).await?;
        let (last_seq, raw_bytes) = (packed.last_seq, packed.raw_bytes);
        let piece = Piece { blob, last_seq, frames: packed.frames, bytes, raw_bytes };
        let whole = shared.loops.seal(epoch, &attempt, &piece).await?;
        tracing::debug!(attempt = %attempt.attempt, chunks = last_seq, raw_bytes, bytes, "log sealed");
        if whole {
            return Ok(());
        }
        attempt.sealed_seq = last_seq;
    }
}

/// Packs off the threads that serve calls.
async fn pack(mut packer: Packer, chunks: Vec<Chunk>) -> Result<Packer, FrameError> {
    let packing = tokio::task::spawn_blocking(move || packer.add(chunks).map(|()| packer));
    packing.await.map_err(std::io::Error::other)?
}

async fn drop_partitions(shared: &Shared, epoch: Epoch) -> farm_store::Result<()> {
    for day in shared.loops.past_log_partitions().await? {
        if shared.loops.drop_log_partition(epoch, day).await? {
            tracing::info!(%day, "log partition dropped");
        }
    }
    Ok(())
}
