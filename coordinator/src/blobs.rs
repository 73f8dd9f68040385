//! The bytes of snapshots, in an object store: a local folder today.
//!
//! Names: `PROJECT/files/ab/HEX` for a large file's content, `PROJECT/packs/UUID` for many small objects
//! laid end to end. Which object lies where is in the database; a blob that the database doesn't know is
//! garbage, never the other way round: bytes are written before rows.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use farm_store::snapshots::Location;
use farm_types::digest::Hasher;
use farm_types::{Digest, ProjectId};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayload};
use uuid::Uuid;

/// Parts of a large file are handed to the store in this size.
const PART_BYTES: usize = 8 * 1024 * 1024;

/// An error of the object store.
pub type Result<T> = std::result::Result<T, object_store::Error>;

/// Where the bytes are.
#[derive(Debug, Clone)]
pub struct Blobs {
    store: Arc<dyn ObjectStore>,
}

impl Blobs {
    /// Blobs in a local folder, which is made when it isn't there.
    ///
    /// # Errors
    /// The folder can't be made.
    pub fn local(folder: &Path) -> std::result::Result<Self, std::io::Error> {
        std::fs::create_dir_all(folder)?;
        let store =
            object_store::local::LocalFileSystem::new_with_prefix(folder).map_err(std::io::Error::other)?;
        // The database says that the bytes are there; so they are, also after a power cut.
        let store = store.with_fsync(true);
        Ok(Self { store: Arc::new(store) })
    }

    /// Writes a pack of small objects.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn put_pack(&self, project: ProjectId, pack: Uuid, bytes: Bytes) -> Result<()> {
        self.store.put(&pack_key(project, pack), PutPayload::from_bytes(bytes)).await?;
        Ok(())
    }

    /// Begins a large file.
    ///
    /// # Errors
    /// The store refuses.
    pub async fn begin_file(&self, project: ProjectId, digest: Digest, size: u64) -> Result<FileWriter> {
        let upload = self.store.put_multipart(&file_key(project, digest)).await?;
        Ok(FileWriter { upload, digest, size, written: 0, hasher: Hasher::new(), buffer: Vec::new() })
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
            Some((pack, offset)) => (pack_key(project, pack), Some(offset..offset + location.size)),
            None => (file_key(project, digest), None),
        };
        let options = GetOptions { range: range.map(GetRange::Bounded), ..Default::default() };
        Ok(self.store.get_opts(&key, options).await?.into_stream())
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
    upload: Box<dyn MultipartUpload>,
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
        /// The announced digest.
        digest: Digest,
        /// What differs.
        why: String,
    },
    /// The store refuses.
    #[error("the blob store: {0}")]
    Store(#[from] object_store::Error),
}

impl FileWriter {
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
            let part = std::mem::take(&mut self.buffer);
            self.upload.put_part(PutPayload::from(part)).await?;
        }
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
            self.upload.abort().await?;
            return Err(wrong);
        }
        if !self.buffer.is_empty() {
            let part = std::mem::take(&mut self.buffer);
            self.upload.put_part(PutPayload::from(part)).await?;
        }
        self.upload.complete().await?;
        Ok(())
    }

    fn wrong(&self, why: &str) -> FileError {
        FileError::Wrong { digest: self.digest, why: why.to_owned() }
    }
}

fn pack_key(project: ProjectId, pack: Uuid) -> Key {
    Key::from(format!("{project}/packs/{pack}"))
}

fn file_key(project: ProjectId, digest: Digest) -> Key {
    let hex = digest.hex();
    Key::from(format!("{project}/files/{}/{hex}", &hex[..2]))
}
