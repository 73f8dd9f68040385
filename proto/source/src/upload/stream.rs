//! The stream of one upload session: objects in packs and pieces, each checked against its digest while it is read.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use farm_proto::PIECE_BYTES;
use farm_proto::v1::upload_objects_request::Part;
use farm_proto::v1::{FilePiece, ObjectKind, Pack, PackedObject, UploadObjectsRequest};
use farm_types::Digest;
use farm_types::digest::Hasher;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::sending::{Broken, Sending, raw};
use super::{Farm, UploadError};
use crate::{ContextError, Object, Source, open_file};

/// Objects up to this length travel in packs, bytes.
const SMALL_BYTES: u64 = 64 * 1024;
/// A pack is sent when it is that full, bytes.
pub const PACK_BYTES: usize = 1024 * 1024;

/// Sends these objects in this order; answers their bytes.
pub(super) async fn send(
    farm: &impl Farm,
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
            Ok::<u64, UploadError>(out.sent)
        }
    });
    let answer = farm.upload_objects(ReceiverStream::new(receiver)).await;
    let sent = reading.await.map_err(|e| UploadError::Failed(format!("reading the source failed: {e}")))?;
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
    fn object(&mut self, digest: Digest, object: &Object) -> Result<Receiver, UploadError> {
        match object {
            Object::Folder { bytes, .. } => Ok(self.packed(digest, ObjectKind::Folder, bytes.clone())),
            Object::File { path, size, name } => {
                let changed = || UploadError::Source(ContextError::Changed(name.clone()));
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
        changed: impl Fn() -> UploadError,
    ) -> Result<Receiver, UploadError> {
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
        self.sending.add(length);
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
