//! The bytes of snapshots, of sealed logs and of outputs, in an object store: a local folder today.
//!
//! Names: `PROJECT/packs/UUID` for objects of snapshots (one large file, or many small objects laid end to end),
//! `PROJECT/logs/UUID` for a piece of an attempt's stream, `PROJECT/outputs/UUID` for a piece of what it made for the
//! client, `PROJECT/files/ab/HEX` for large files of older farms. A name is noted in the database before its bytes are written, and never used again; what lies where is noted after. So a row without
//! its bytes doesn't occur, and bytes that no row needs are found (`farm_store::sources::sweep`). Every step is bounded in time
//! (`patience`).

mod patience;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farm_store::logs::seal::BlobKind;
use farm_store::sources::snapshots::Location;
use farm_store::sources::sweep::{Doomed, DoomedPlace};
use farm_types::digest::Hasher;
use farm_types::{Digest, ProjectId};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayload};
use tokio::sync::watch;
use uuid::Uuid;

use patience::Patience;
pub use patience::{Unanswered, is_unanswered};

/// Parts of a large file are handed to the store in this size.
const PART_BYTES: usize = 8 * 1024 * 1024;

/// An error of the object store.
pub type Result<T> = std::result::Result<T, object_store::Error>;

/// The store of all bytes that aren't kept in Postgres: a folder, for now.
#[derive(Debug, Clone)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
    /// Where the store keeps what is being written, if that is a folder.
    folder: Option<PathBuf>,
    patience: Patience,
}

impl Blobs {
    /// Blobs in a local folder, which is made when it isn't there. A step may take `limit`.
    ///
    /// # Errors
    /// The folder can't be made.
    pub fn local(folder: &Path, limit: Duration) -> std::result::Result<Self, std::io::Error> {
        std::fs::create_dir_all(folder)?;
        let store =
            object_store::local::LocalFileSystem::new_with_prefix(folder).map_err(std::io::Error::other)?;
        // The database says that the bytes are there; so they are, also after a power cut.
        let store = store.with_fsync(true);
        Ok(Self { store: Arc::new(store), folder: Some(folder.to_owned()), patience: Patience::new(limit) })
    }

    /// Whether the store answers, and each change of that.
    pub fn answers(&self) -> watch::Receiver<bool> {
        self.patience.answers()
    }

    /// Writes a blob whole.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn put(&self, project: ProjectId, kind: BlobKind, blob: Uuid, bytes: Bytes) -> Result<()> {
        let (store, key) = (Arc::clone(&self.store), key(project, kind, blob));
        let put = async move { store.put(&key, PutPayload::from_bytes(bytes)).await };
        self.patience.step(put).await.map(drop)
    }

    /// Begins a large file, which becomes a pack of its own.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn begin_file(
        &self,
        project: ProjectId,
        blob: Uuid,
        digest: Digest,
        size: u64,
    ) -> Result<FileWriter> {
        let (store, key) = (Arc::clone(&self.store), key(project, BlobKind::Pack, blob));
        let upload = self.patience.step(async move { store.put_multipart(&key).await }).await?;
        let patience = self.patience.clone();
        Ok(FileWriter {
            upload: Some(upload),
            patience,
            blob,
            digest,
            size,
            written: 0,
            hasher: Hasher::new(),
            buffer: Vec::new(),
        })
    }

    /// Some bytes of a blob.
    ///
    /// # Errors
    /// The blob is missing or can't be read.
    pub async fn read_range(
        &self,
        project: ProjectId,
        kind: BlobKind,
        blob: Uuid,
        range: std::ops::Range<u64>,
    ) -> Result<Bytes> {
        let (store, key) = (Arc::clone(&self.store), key(project, kind, blob));
        self.patience.step(async move { store.get_range(&key, range).await }).await
    }

    /// Removes a doomed blob's bytes, also those of one that was never finished. That they are gone already is no error.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn bury(&self, doomed: &Doomed) -> Result<()> {
        let key = match doomed.place {
            DoomedPlace::Named(kind) => key(doomed.project, kind, doomed.id),
            DoomedPlace::File(digest) => file_key(doomed.project, digest),
        };
        let beside = self.folder.as_ref().map(|folder| folder.join(format!("{key}#1")));
        let store = Arc::clone(&self.store);
        let removed = async move {
            if let Some(beside) = beside {
                // The local store writes beside the place, and a process that is killed leaves that. As a name is used once,
                // there is one such file at most, with the first of its suffixes.
                match tokio::fs::remove_file(beside).await {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(object_store::Error::Generic { store: "local", source: Box::new(error) });
                    }
                    _ => {}
                }
            }
            match store.delete(&key).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(error),
            }
        };
        self.patience.step(removed).await
    }

    /// An object's bytes, piece by piece.
    ///
    /// # Errors
    /// The blob is missing or can't be read.
    pub async fn read(
        &self,
        project: ProjectId,
        digest: Digest,
        location: Location,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        if location.size == 0 {
            return Ok(futures::stream::empty().boxed());
        }
        let (key, range) = match location.place {
            Some((pack, offset)) => {
                (key(project, BlobKind::Pack, pack), Some(offset..offset + location.size))
            }
            None => (file_key(project, digest), None),
        };
        let options = GetOptions { range: range.map(GetRange::Bounded), ..Default::default() };
        let store = Arc::clone(&self.store);
        let found = self.patience.step(async move { store.get_opts(&key, options).await }).await?;
        Ok(self.patience.clone().pieces(found.into_stream()))
    }

    /// A small object's bytes, whole.
    ///
    /// # Errors
    /// The blob is missing or can't be read.
    pub async fn read_all(&self, project: ProjectId, digest: Digest, location: Location) -> Result<Vec<u8>> {
        let mut stream = self.read(project, digest, location).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece?);
        }
        Ok(bytes)
    }
}

/// A large file on its way into the store. Dropped without [`FileWriter::finish`] it leaves nothing.
#[derive(Debug)]
pub struct FileWriter {
    /// None once the store did not take something in time.
    upload: Option<Box<dyn MultipartUpload>>,
    patience: Patience,
    blob: Uuid,
    digest: Digest,
    size: u64,
    written: u64,
    hasher: Hasher,
    buffer: Vec<u8>,
}

/// Why a file was not kept.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Its bytes are not what was announced.
    #[error("the content of {digest} is not what was announced: {why}")]
    Wrong {
        /// The digest that the client had announced.
        digest: Digest,
        /// What differs.
        why: String,
    },
    /// The store refuses.
    #[error("the blob store: {0}")]
    Store(#[from] object_store::Error),
}

impl FileWriter {
    /// The name of the blob that the file becomes.
    pub fn blob(&self) -> Uuid {
        self.blob
    }

    /// The digest that was announced.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The length that was announced, bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// They are more than was announced, or the store refuses.
    pub async fn write(&mut self, piece: &[u8]) -> std::result::Result<(), FileError> {
        self.written += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        if self.written > self.size {
            return Err(self.wrong("it is longer"));
        }
        self.hasher.update(piece);
        self.buffer.extend_from_slice(piece);
        if self.buffer.len() >= PART_BYTES {
            self.put_part().await?;
        }
        Ok(())
    }

    /// Hands the store what has gathered. What it doesn't take in time can't be gone on with.
    async fn put_part(&mut self) -> Result<()> {
        let part = std::mem::take(&mut self.buffer);
        let mut upload = self.upload.take().ok_or_else(broken_off)?;
        let put = async move { upload.put_part(PutPayload::from(part)).await.map(|()| upload) };
        self.upload = Some(self.patience.step(put).await?);
        Ok(())
    }

    /// Keeps the file, if it is what was announced.
    ///
    /// # Errors
    /// It isn't, or the store refuses; nothing is kept then.
    pub async fn finish(mut self) -> std::result::Result<(), FileError> {
        let digest = std::mem::take(&mut self.hasher).finish();
        if self.written != self.size || digest != self.digest {
            let wrong = self.wrong("its length or its digest differs");
            let mut upload = self.upload.take().ok_or_else(broken_off)?;
            self.patience.step(async move { upload.abort().await }).await?;
            return Err(wrong);
        }
        if !self.buffer.is_empty() {
            self.put_part().await?;
        }
        let mut upload = self.upload.take().ok_or_else(broken_off)?;
        self.patience.step(async move { upload.complete().await }).await?;
        Ok(())
    }

    fn wrong(&self, why: &str) -> FileError {
        FileError::Wrong { digest: self.digest, why: why.to_owned() }
    }
}

fn broken_off() -> object_store::Error {
    object_store::Error::Generic { store: "blobs", source: "it was broken off before".into() }
}

fn key(project: ProjectId, kind: BlobKind, blob: Uuid) -> Key {
    match kind {
        BlobKind::Pack => Key::from(format!("{project}/packs/{blob}")),
        BlobKind::Log => Key::from(format!("{project}/logs/{blob}")),
        BlobKind::Output => Key::from(format!("{project}/outputs/{blob}")),
    }
}

fn file_key(project: ProjectId, digest: Digest) -> Key {
    let hex = digest.hex();
    Key::from(format!("{project}/files/{}/{hex}", &hex[..2]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_killed_coordinator_was_writing_goes_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::local(folder.path(), Duration::from_secs(60)).unwrap();
        let (project, blob) = (farm_store::default_project(), Uuid::now_v7());
        let place = DoomedPlace::Named(BlobKind::Pack);
        let doomed = Doomed { project, id: blob, place };
        let packs = folder.path().join(format!("{project}/packs"));
        let count = || std::fs::read_dir(&packs).unwrap().count();
        let mut writer = blobs.begin_file(project, blob, Digest::of(b"x"), 20_000_000).await.unwrap();
        writer.write(&vec![0; PART_BYTES]).await.unwrap();
        // Nothing is tidied up after a kill.
        std::mem::forget(writer);
        assert_eq!(count(), 1);
        blobs.bury(&doomed).await.unwrap();
        assert_eq!(count(), 0);
        blobs.put(project, BlobKind::Pack, blob, Bytes::from_static(b"bytes")).await.unwrap();
        assert_eq!(blobs.read_range(project, BlobKind::Pack, blob, 1..3).await.unwrap(), "yt");
        blobs.bury(&doomed).await.unwrap();
        blobs.bury(&doomed).await.unwrap();
        assert_eq!(count(), 0);
    }

    #[tokio::test]
    async fn a_read_that_hangs_ends_in_time_and_keeps_none_of_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::local(folder.path(), Duration::from_millis(200)).unwrap();
        let (project, stuck, fine) = (farm_store::default_project(), Uuid::now_v7(), Uuid::now_v7());
        blobs.put(project, BlobKind::Log, fine, Bytes::from_static(b"bytes")).await.unwrap();
        // Whoever opens a pipe that nobody writes to stands in the system, as on a disk that hangs.
        let pipe = folder.path().join(format!("{project}/logs/{stuck}"));
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let error = blobs.read_range(project, BlobKind::Log, stuck, 0..1).await.unwrap_err();
        assert!(is_unanswered(&error), "{error:?}");
        assert_eq!(blobs.read_range(project, BlobKind::Log, fine, 1..3).await.unwrap(), "yt");
        // Lets the one that stands there go on, or this test would never end.
        drop(std::fs::OpenOptions::new().write(true).open(&pipe).unwrap());
    }
}
