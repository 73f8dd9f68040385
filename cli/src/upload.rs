//! Bringing a source to the farm, sending only what it lacks.
//!
//! The farm is asked from above: the roots first, then only what missing folders name, so that an unchanged
//! tree costs one round trip. It is then sent from below: contents first, and every folder behind all that
//! it names, since the farm takes an object only when all below it is there.
//!
//! Invariant: the bytes that are sent are those that were hashed; a file that has changed since then ends
//! the upload and is named. A broken connection starts a new session, which is told of what already came.

use std::collections::HashSet;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use farm_proto::v1;
use farm_proto::v1::upload_objects_request::Part;
use farm_proto::v1::{
    FilePiece, FindMissingRequest, FinishUploadRequest, FinishUploadResponse, ObjectKind, OpenUploadRequest,
    Pack, PackedObject, SnapshotRoot, UploadObjectsRequest,
};
use farm_proto::{MAX_MESSAGE_BYTES, PIECE_BYTES};
use farm_types::digest::Hasher;
use farm_types::{BuildSpec, Digest, SnapshotRef};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::connect::{Client, PATIENCE};
use crate::context::{ContextError, Object, Source, open_file};
use crate::error::{Error, Result, is_connection};

/// The most digests that one question names.
const ASK_AT_ONCE: usize = 10_000;
/// Objects up to this length travel in packs, bytes.
const SMALL_BYTES: u64 = 64 * 1024;
/// A pack is sent when it is that full, bytes.
const PACK_BYTES: usize = 1024 * 1024;
/// Room for the fields around an object's bytes within a message.
const ENVELOPE_BYTES: usize = 1024;
/// How often a session is begun before a broken connection is given up.
const SESSIONS: u32 = 5;

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

    /// What asks for this build, whose source this is.
    pub fn request(&self, idempotency_key: &str, spec: &BuildSpec) -> v1::SubmitBuildRequest {
        let mut spec = v1::BuildSpec::from(spec);
        if let Some(snapshot) = &mut spec.snapshot {
            snapshot.upload_id.clone_from(&self.upload_id);
        }
        v1::SubmitBuildRequest { idempotency_key: idempotency_key.to_owned(), spec: Some(spec) }
    }
}

/// How far an upload is, for whoever looks on.
#[derive(Debug, Default)]
pub struct Sending {
    sent: AtomicU64,
    total: AtomicU64,
}

impl Sending {
    /// Bytes that were sent, of so many; `None` while it isn't known how many there are.
    pub fn bytes(&self) -> Option<(u64, u64)> {
        let total = self.total.load(Ordering::Relaxed);
        (total > 0).then(|| (self.sent.load(Ordering::Relaxed).min(total), total))
    }

    /// So many more are to be sent.
    fn expect(&self, more: u64) {
        // What a broken session has sent was not for nothing, but is sent no more.
        self.total.store(self.sent.load(Ordering::Relaxed) + more, Ordering::Relaxed);
    }
}

/// Why a session ended.
enum Broken {
    Status(Status),
    Local(Error),
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self::Local(error)
    }
}

/// Uploads what the farm lacks of `source`. `pause` waits before a further try after a broken connection; `sending` is
/// told how far it is.
///
/// # Errors
/// A file has changed since it was hashed ([`Error::Usage`]), the farm refuses, or the connection broke
/// too often.
pub async fn upload(
    client: &Client,
    source: &Arc<Source>,
    pause: impl AsyncFn(Duration),
    sending: &Arc<Sending>,
) -> Result<Uploaded> {
    let (mut new_files, mut sent_bytes) = (0, 0);
    let mut wait = Duration::from_millis(500);
    let begun = Instant::now();
    let mut failing: Option<Instant> = None;
    for session in 1.. {
        let (before, mut since) = (sending.sent.load(Ordering::Relaxed), Instant::now());
        let ended = one_session(client, source, &mut new_files, &mut sent_bytes, sending).await;
        // It got on.
        if sending.sent.load(Ordering::Relaxed) > before {
            (failing, since) = (None, Instant::now());
        }
        match ended {
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
            // A session may also have expired on the way; another one goes on from there.
            Err(Broken::Status(status))
                if session < SESSIONS
                    && failing.get_or_insert(since).elapsed() < PATIENCE
                    && (is_connection(&status) || status.code() == Code::FailedPrecondition) =>
            {
                pause(wait).await;
                wait *= 2;
            }
            Err(Broken::Status(status)) => return Err(client.error(&status)),
        }
    }
    Err(Error::Farm("the upload did not end".to_owned()))
}

/// One session from its opening to its end; answers its id.
async fn one_session(
    client: &Client,
    source: &Arc<Source>,
    new_files: &mut usize,
    sent_bytes: &mut u64,
    sending: &Arc<Sending>,
) -> Result<String, Broken> {
    let mut snapshots = client.snapshots();
    let roots: Vec<SnapshotRoot> = source
        .roots
        .iter()
        .map(|(name, (tree, _))| SnapshotRoot { name: name.clone(), tree: raw(tree) })
        .collect();
    let session = snapshots.open_upload(OpenUploadRequest { roots: roots.clone() }).await?.into_inner();
    if let Some(named) = session.snapshot {
        check_names(source, &named)?;
        return Ok(session.upload_id);
    }
    let missing = find_missing(client, source, &session.upload_id, session.missing).await?;
    check_sizes(source, &missing, session.max_file_bytes)?;
    let order = from_below(source, &missing);
    let is_file = |digest: &&Digest| matches!(source.objects.get(*digest), Some(Object::File { .. }));
    // A later session finds there what an earlier one sent.
    *new_files = (*new_files).max(order.iter().filter(is_file).count());
    if !order.is_empty() {
        sending.expect(order.iter().filter_map(|digest| source.objects.get(digest)).map(Object::size).sum());
        *sent_bytes += send(client, source, order, &session.upload_id, sending).await?;
    }
    let finish = FinishUploadRequest { upload_id: session.upload_id.clone(), roots };
    let named = snapshots.finish_upload(finish).await?.into_inner();
    check_names(source, &named)?;
    Ok(session.upload_id)
}

/// Farm and command must give the snapshot the same names.
fn check_names(source: &Source, named: &FinishUploadResponse) -> Result<()> {
    let (tree_id, content_key) = source.names();
    if named.tree_id == tree_id.to_string() && named.content_key == content_key.to_string() {
        return Ok(());
    }
    Err(Error::Farm(format!(
        "the farm named the snapshot {} and this command {tree_id}: they are of versions that don't go together. \
         Use the farm command that came with the farm.",
        named.tree_id
    )))
}

fn raw(digest: &Digest) -> Bytes {
    Bytes::copy_from_slice(digest.as_bytes())
}

/// Asks from the roots downwards; answers what has to be sent. `roots` are those that were said to be missing when the
/// session was opened; empty: they weren't asked for.
async fn find_missing(
    client: &Client,
    source: &Source,
    upload_id: &str,
    roots: Vec<Bytes>,
) -> Result<HashSet<Digest>, Broken> {
    let mut snapshots = client.snapshots();
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
                found.extend(snapshots.find_missing(request).await?.into_inner().missing);
            }
        }
        let mut below = Vec::new();
        for digest in found {
            let digest = Digest::try_from(&digest[..]).map_err(Error::from)?;
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

fn check_sizes(source: &Source, missing: &HashSet<Digest>, max_file_bytes: u64) -> Result<()> {
    for object in missing.iter().filter_map(|digest| source.objects.get(digest)) {
        match object {
            Object::File { size, name, .. } if max_file_bytes > 0 && *size > max_file_bytes => {
                return Err(Error::Usage(format!(
                    "{name} has {size} bytes, and this farm takes files of at most {max_file_bytes}; leave it out with a \
                     line in .dockerignore, or fetch it in the Dockerfile"
                )));
            }
            Object::Folder { bytes, name, .. } if bytes.len() > MAX_MESSAGE_BYTES - ENVELOPE_BYTES => {
                return Err(Error::Usage(format!(
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

/// Sends these objects in this order; answers their bytes.
async fn send(
    client: &Client,
    source: &Arc<Source>,
    order: Vec<Digest>,
    upload_id: &str,
    sending: &Arc<Sending>,
) -> Result<u64, Broken> {
    // At most eight messages of about a mebibyte wait in memory.
    let (sender, receiver) = mpsc::channel(8);
    let reading = tokio::task::spawn_blocking({
        let (source, sending) = (Arc::clone(source), Arc::clone(sending));
        let mut out = Out {
            sender,
            upload_id: upload_id.to_owned(),
            pack: Vec::new(),
            pack_bytes: 0,
            sent: 0,
            sending,
        };
        move || {
            for digest in order {
                if let Some(object) = source.objects.get(&digest)
                    && out.object(digest, object)?.is_gone()
                {
                    break;
                }
            }
            out.flush();
            Ok::<u64, Error>(out.sent)
        }
    });
    let answer = client.snapshots().upload_objects(ReceiverStream::new(receiver)).await;
    let sent = reading.await.map_err(|e| Error::Farm(format!("reading the source failed: {e}")))?;
    // What went wrong here comes first: the farm then only saw a stream that ended early.
    let sent = sent?;
    answer?;
    Ok(sent)
}

/// Whether the receiver of the stream is still there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Receiver {
    There,
    Gone,
}

impl Receiver {
    fn is_gone(self) -> bool {
        self == Self::Gone
    }
}

/// The sending side of one upload stream.
struct Out {
    sender: mpsc::Sender<UploadObjectsRequest>,
    /// Goes out with the first message.
    upload_id: String,
    pack: Vec<PackedObject>,
    pack_bytes: usize,
    sent: u64,
    sending: Arc<Sending>,
}

impl Out {
    fn object(&mut self, digest: Digest, object: &Object) -> Result<Receiver> {
        match object {
            Object::Folder { bytes, .. } => Ok(self.packed(digest, ObjectKind::Folder, bytes.clone())),
            Object::File { path, size, name } => {
                let changed = || Error::from(ContextError::Changed(name.clone()));
                let mut file = open_file(path).map_err(|_| changed())?;
                if *size <= SMALL_BYTES {
                    let mut data = Vec::new();
                    // One byte more than there should be tells that it has grown.
                    (&mut file).take(SMALL_BYTES + 1).read_to_end(&mut data).map_err(|_| changed())?;
                    if Digest::of(&data) != digest {
                        return Err(changed());
                    }
                    return Ok(self.packed(digest, ObjectKind::File, data.into()));
                }
                self.pieces(digest, *size, file, changed)
            }
        }
    }

    fn packed(&mut self, digest: Digest, kind: ObjectKind, data: Bytes) -> Receiver {
        let length = data.len();
        if self.pack_bytes + length > PACK_BYTES && self.flush().is_gone() {
            return Receiver::Gone;
        }
        self.pack_bytes += length;
        self.count(length);
        self.pack.push(PackedObject { digest: raw(&digest), kind: kind.into(), data });
        Receiver::There
    }

    fn pieces(
        &mut self,
        digest: Digest,
        size: u64,
        mut file: impl Read,
        changed: impl Fn() -> Error,
    ) -> Result<Receiver> {
        if self.flush().is_gone() {
            return Ok(Receiver::Gone);
        }
        let mut hasher = Hasher::new();
        let mut left = size;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let mut data = vec![0; length];
            file.read_exact(&mut data).map_err(|_| changed())?;
            hasher.update(&data);
            left -= u64::try_from(length).unwrap_or(left);
            let last = left == 0;
            // The last piece goes out only when the whole is what was hashed.
            if last && std::mem::take(&mut hasher).finish() != digest {
                return Err(changed());
            }
            self.count(length);
            let piece = FilePiece { digest: raw(&digest), size, data: data.into(), last };
            if self.message(Part::Piece(piece)).is_gone() {
                return Ok(Receiver::Gone);
            }
        }
        Ok(Receiver::There)
    }

    fn count(&mut self, length: usize) {
        let length = u64::try_from(length).unwrap_or(0);
        self.sent += length;
        self.sending.sent.fetch_add(length, Ordering::Relaxed);
    }

    fn flush(&mut self) -> Receiver {
        if self.pack.is_empty() {
            return Receiver::There;
        }
        self.pack_bytes = 0;
        let objects = std::mem::take(&mut self.pack);
        self.message(Part::Pack(Pack { objects }))
    }

    fn message(&mut self, part: Part) -> Receiver {
        let upload_id = std::mem::take(&mut self.upload_id);
        match self.sender.blocking_send(UploadObjectsRequest { upload_id, part: Some(part) }) {
            Ok(()) => Receiver::There,
            Err(_) => Receiver::Gone,
        }
    }
}

#[cfg(test)]
mod tests;
