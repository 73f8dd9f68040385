//! Bringing a source to the farm, sending only what it lacks.
//!
//! The farm is asked from above: the roots first, then only what missing folders name, so that an unchanged
//! tree costs one round trip. It is then sent from below: contents first, and every folder behind all that
//! it names, since the farm takes an object only when all below it is there.
//!
//! Invariant: the bytes that are sent are those that were hashed; a file that has changed since then ends
//! the upload and is named. A broken connection starts a new session, which is told of what already came.

mod sending;
mod stream;

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use farm_client::{Returns, is_connection};
use farm_proto::MAX_MESSAGE_BYTES;
use farm_proto::v1;
use farm_proto::v1::{
    FindMissingRequest, FindMissingResponse, FinishUploadRequest, FinishUploadResponse, OpenUploadRequest,
    OpenUploadResponse, SnapshotRoot, UploadObjectsRequest, UploadObjectsResponse,
};
use farm_types::{Backoff, Digest, SnapshotRef, Waits};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::{ContextError, Object, Source};
pub use sending::Sending;
use sending::{Broken, raw};
pub use stream::PACK_BYTES;
use stream::send;

/// The most digests that one question names.
const ASK_AT_ONCE: usize = 10_000;
/// Room for the fields around an object's bytes within a message.
const ENVELOPE_BYTES: usize = 1024;
/// When sessions have failed for so long, no other is begun.
const PATIENCE: Duration = Duration::from_secs(8);
/// How often a session is begun before a broken connection is given up.
pub const SESSIONS: u32 = 5;
/// The pauses between them.
const WAITS: Waits = Waits::new(Duration::from_millis(500), Duration::from_secs(5));

/// An upload that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    /// The session, which keeps all of it in place until the build has it.
    pub upload_id: String,
    /// The snapshot's name with times.
    pub tree_id: Digest,
    /// The snapshot's name without times.
    pub content_key: Digest,
    /// Files whose contents the farm hadn't got.
    pub new_files: usize,
    /// Bytes of all objects that were sent, over all sessions.
    pub sent_bytes: u64,
    /// From the first question to the end.
    pub took: Duration,
}

impl Uploaded {
    /// As a build names its source.
    pub fn snapshot(&self) -> SnapshotRef {
        SnapshotRef { tree_id: self.tree_id, content_key: self.content_key }
    }

    /// The same on the wire, with the session that keeps it in place.
    pub fn reference(&self) -> v1::SnapshotRef {
        v1::SnapshotRef {
            tree_id: self.tree_id.to_string(),
            content_key: self.content_key.to_string(),
            upload_id: self.upload_id.clone(),
        }
    }
}

/// The farm's side of an upload: a command's calls of its SnapshotService, or a worker's by the lease of its attempt.
pub trait Farm: Send + Sync {
    /// Opens a session.
    fn open_upload(&self, request: OpenUploadRequest) -> impl Answer<OpenUploadResponse>;
    /// Asks which objects aren't there.
    fn find_missing(&self, request: FindMissingRequest) -> impl Answer<FindMissingResponse>;
    /// Sends objects.
    fn upload_objects(
        &self,
        messages: ReceiverStream<UploadObjectsRequest>,
    ) -> impl Answer<UploadObjectsResponse>;
    /// Names the snapshot.
    fn finish_upload(&self, request: FinishUploadRequest) -> impl Answer<FinishUploadResponse>;
}

/// The answer to a call.
pub trait Answer<T>: Future<Output = Result<T, Status>> + Send {}

impl<T, F: Future<Output = Result<T, Status>> + Send> Answer<T> for F {}

/// Why a source didn't get to the farm.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// A file has changed since it was hashed, or can't be read any more; reading the source anew may help.
    #[error(transparent)]
    Source(#[from] ContextError),
    /// The farm takes no such source; the text has the cure.
    #[error("{0}")]
    Refused(String),
    /// The two sides don't agree on what was sent.
    #[error("{0}")]
    Failed(String),
    /// The farm's answer; or there is none, and it was waited for.
    #[error("{}", .0.message())]
    Status(Status),
}

/// Uploads what the farm lacks of `source`. `pause` waits before a further try after a broken connection; `sending` is
/// told how far it is.
///
/// # Errors
/// A file has changed since it was hashed, the farm refuses, or the connection broke too often.
pub async fn upload<Pause: Future<Output = ()>>(
    farm: &impl Farm,
    source: &Arc<Source>,
    pause: impl Fn(Duration) -> Pause,
    sending: &Arc<Sending>,
) -> Result<Uploaded, UploadError> {
    let (mut new_files, mut sent_bytes) = (0, 0);
    let mut backoff = Backoff::new(WAITS);
    let begun = Instant::now();
    let mut failing: Option<Instant> = None;
    let (mut session, mut returns) = (1, Returns::default());
    loop {
        let (before, mut since) = (sending.so_far(), Instant::now());
        let ended = one_session(farm, source, &mut new_files, &mut sent_bytes, sending).await;
        // It got on.
        if sending.so_far() > before {
            (failing, since) = (None, Instant::now());
            returns = Returns::default();
        }
        let status = match ended {
            Ok(upload_id) => {
                let (tree_id, content_key) = source.names();
                return Ok(Uploaded {
                    upload_id,
                    tree_id,
                    content_key,
                    new_files,
                    sent_bytes,
                    took: begun.elapsed(),
                });
            }
            Err(Broken::Local(error)) => return Err(error),
            Err(Broken::Status(status)) => status,
        };
        if let Some(wait) = returns.next_wait(&status) {
            // The farm has too many calls of us at the moment; nothing broke.
            pause(wait).await;
        } else if session < SESSIONS
            && failing.get_or_insert(since).elapsed() < PATIENCE
            // A session may also have expired on the way; another one goes on from there.
            && (is_connection(&status) || status.code() == Code::FailedPrecondition)
        {
            session += 1;
            pause(backoff.next_wait()).await;
        } else {
            return Err(UploadError::Status(status));
        }
    }
}

/// One session from its opening to its end; answers its id.
async fn one_session(
    farm: &impl Farm,
    source: &Arc<Source>,
    new_files: &mut usize,
    sent_bytes: &mut u64,
    sending: &Arc<Sending>,
) -> Result<String, Broken> {
    let roots: Vec<SnapshotRoot> = source
        .roots
        .iter()
        .map(|(name, (tree, _))| SnapshotRoot { name: name.clone(), tree: raw(tree) })
        .collect();
    let session = farm.open_upload(OpenUploadRequest { roots: roots.clone() }).await?;
    if let Some(named) = session.snapshot {
        check_names(source, &named)?;
        return Ok(session.upload_id);
    }
    let missing = find_missing(farm, source, &session.upload_id, session.missing).await?;
    check_sizes(source, &missing, session.max_file_bytes)?;
    let order = from_below(source, &missing);
    let is_file = |digest: &&Digest| matches!(source.objects.get(*digest), Some(Object::File { .. }));
    // A later session finds there what an earlier one sent.
    *new_files = (*new_files).max(order.iter().filter(is_file).count());
    if !order.is_empty() {
        sending.expect(order.iter().filter_map(|digest| source.objects.get(digest)).map(Object::size).sum());
        *sent_bytes += send(farm, source, order, &session.upload_id, sending).await?;
    }
    let finish = FinishUploadRequest { upload_id: session.upload_id.clone(), roots };
    let named = farm.finish_upload(finish).await?;
    check_names(source, &named)?;
    Ok(session.upload_id)
}

/// Farm and command must give the snapshot the same names.
fn check_names(source: &Source, named: &FinishUploadResponse) -> Result<(), UploadError> {
    let (tree_id, content_key) = source.names();
    if named.tree_id == tree_id.to_string() && named.content_key == content_key.to_string() {
        return Ok(());
    }
    Err(UploadError::Failed(format!(
        "the farm named the snapshot {} and this program {tree_id}: they are of versions that don't go together. \
         Use the program that came with the farm.",
        named.tree_id
    )))
}

/// Asks from the roots downwards; answers what has to be sent. `roots` are those that were said to be missing when the
/// session was opened; empty: they weren't asked for.
async fn find_missing(
    farm: &impl Farm,
    source: &Source,
    upload_id: &str,
    roots: Vec<Bytes>,
) -> Result<HashSet<Digest>, Broken> {
    let mut missing = HashSet::new();
    let mut asked: HashSet<Digest> = HashSet::new();
    let mut level: Vec<Digest> = source.roots.values().map(|(tree, _)| *tree).collect();
    let mut answered = Some(roots).filter(|roots| !roots.is_empty());
    while !level.is_empty() {
        level.retain(|digest| asked.insert(*digest));
        let mut found = answered.take().unwrap_or_default();
        if found.is_empty() {
            for part in level.chunks(ASK_AT_ONCE) {
                let digests = part.iter().map(raw).collect();
                let request = FindMissingRequest { upload_id: upload_id.to_owned(), digests };
                found.extend(farm.find_missing(request).await?.missing);
            }
        }
        let mut below = Vec::new();
        for digest in found {
            let digest =
                Digest::try_from(&digest[..]).map_err(|error| UploadError::Failed(error.to_string()))?;
            if let Some(object) = source.objects.get(&digest)
                && missing.insert(digest)
                && let Object::Folder { children, .. } = object
            {
                below.extend(children.iter().copied());
            }
        }
        level = below;
    }
    Ok(missing)
}

fn check_sizes(source: &Source, missing: &HashSet<Digest>, max_file_bytes: u64) -> Result<(), UploadError> {
    for object in missing.iter().filter_map(|digest| source.objects.get(digest)) {
        match object {
            Object::File { size, name, .. } if max_file_bytes > 0 && *size > max_file_bytes => {
                return Err(UploadError::Refused(format!(
                    "{name} has {size} bytes, and this farm takes files of at most {max_file_bytes}; leave it out with a \
                     line in .dockerignore, or fetch it in the Dockerfile"
                )));
            }
            Object::Folder { bytes, name, .. } if bytes.len() > MAX_MESSAGE_BYTES - ENVELOPE_BYTES => {
                return Err(UploadError::Refused(format!(
                    "the folder {name:?} has too many entries for a build's source (about 40,000 fit); leave some out with \
                     .dockerignore, spread them over sub-folders, or pack them into one archive"
                )));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The missing objects in an order in which each stands behind all that it names: contents first.
fn from_below(source: &Source, missing: &HashSet<Digest>) -> Vec<Digest> {
    let mut files = Vec::new();
    let mut folders = Vec::new();
    let mut seen = HashSet::new();
    for (root, _) in source.roots.values() {
        // Each folder comes twice: when it is met, and (true) when all below it is placed.
        let mut stack = vec![(*root, false)];
        while let Some((digest, placed_below)) = stack.pop() {
            if placed_below {
                folders.push(digest);
                continue;
            }
            if !missing.contains(&digest) || !seen.insert(digest) {
                continue;
            }
            match source.objects.get(&digest) {
                Some(Object::Folder { children, .. }) => {
                    stack.push((digest, true));
                    stack.extend(children.iter().map(|child| (*child, false)));
                }
                Some(Object::File { .. }) => files.push(digest),
                None => {}
            }
        }
    }
    files.append(&mut folders);
    files
}
