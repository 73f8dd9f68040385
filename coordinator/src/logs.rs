//! Streams of attempts, wherever they lie: in Postgres while a build lives, sealed in the object store after it.
//!
//! A reader gets the same chunks, numbers and bytes from either, also when the stream is sealed while it reads.

pub mod clip;
pub mod frames;

use chrono::{DateTime, Utc};
use farm_store::logs::events::{Chunk, Piece, StreamPart};
use farm_store::logs::seal::BlobKind;
use farm_types::{AttemptId, ProjectId};

use crate::shared::Shared;

/// Chunks that are read from Postgres at once: at most 8 MiB.
const CHUNKS: i64 = 32;
/// How often a piece that is not there is looked up anew: it may have been removed just then.
const TRIES: usize = 3;

/// What comes next of a stream.
#[derive(Debug)]
pub enum Next {
    /// Chunks; none: there is nothing more yet.
    Chunks(Vec<Chunk>),
    /// The stream was removed, at this time.
    Removed(DateTime<Utc>),
}

/// Why a stream can't be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The database doesn't answer, or holds what it must not.
    #[error(transparent)]
    Store(#[from] farm_store::StoreError),
    /// The blob store doesn't answer, or lacks the blob.
    #[error("the blob store: {0}")]
    Blobs(#[from] object_store::Error),
    /// What was sealed is not what it was.
    #[error("a sealed log: {0}")]
    Frame(#[from] frames::FrameError),
}

/// What comes after chunk `after` of an attempt's stream; about 8 MiB at most.
///
/// # Errors
/// There is no such attempt, or what is stored can't be read.
pub(crate) async fn read(
    shared: &Shared,
    project: ProjectId,
    attempt: AttemptId,
    after: u64,
) -> Result<Next, LogError> {
    for _ in 1..TRIES {
        match read_once(shared, project, attempt, after).await {
            Err(LogError::Blobs(object_store::Error::NotFound { .. })) => {}
            other => return other,
        }
    }
    read_once(shared, project, attempt, after).await
}

async fn read_once(
    shared: &Shared,
    project: ProjectId,
    attempt: AttemptId,
    after: u64,
) -> Result<Next, LogError> {
    match shared.store.stream_part(project, attempt, after, CHUNKS).await? {
        StreamPart::Chunks(chunks) => Ok(Next::Chunks(chunks)),
        StreamPart::Removed(at) => Ok(Next::Removed(at)),
        StreamPart::Sealed(piece) => Ok(Next::Chunks(read_frame(shared, project, &piece, after).await?)),
    }
}

/// The chunks after `after` of the frame that holds the next one.
async fn read_frame(
    shared: &Shared,
    project: ProjectId,
    piece: &Piece,
    after: u64,
) -> Result<Vec<Chunk>, LogError> {
    let behind = piece.frames.partition_point(|frame| frame.first_seq <= after + 1);
    let frame = behind.checked_sub(1).and_then(|i| piece.frames.get(i)).ok_or(frames::FrameError::Other)?;
    let end = piece.frames.get(behind).map_or(piece.bytes, |next| next.start);
    let range = frame.start..end;
    let bytes = shared.blobs.read_range(project, BlobKind::Log, piece.blob, range).await?;
    let mut chunks = frames::open(frame.first_seq, &bytes)?;
    chunks.retain(|chunk| chunk.seq > after);
    // A frame that hasn't what it is said to have would let its readers ask for ever.
    if chunks.is_empty() { Err(frames::FrameError::Other.into()) } else { Ok(chunks) }
}
