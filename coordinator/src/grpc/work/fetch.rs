//! What a live lease may read of its snapshot: folders by root, files by their place in it. A bare digest
//! gives access to nothing.

use std::collections::HashMap;
use std::sync::Arc;

use farm_proto::v1;
use farm_store::work::attempts::Lease;
use farm_types::snapshot::{Folder, Node};
use farm_types::{Digest, ProjectId};
use futures::{Stream, StreamExt as _};
use tonic::Status;

use crate::grpc::status;
use crate::shared::Shared;

/// Folders are sent in messages of about this many bytes.
const BATCH_BYTES: usize = 256 * 1024;

/// One root of a leased snapshot.
pub struct Tree {
    shared: Arc<Shared>,
    project: ProjectId,
    root: Digest,
    known: HashMap<Digest, Arc<(Folder, Vec<u8>)>>,
}

impl Tree {
    /// Opens a root for a live lease.
    ///
    /// # Errors
    /// The lease has ended, or its snapshot has no such root.
    pub async fn open(shared: Arc<Shared>, lease: Lease, root: &str) -> Result<Self, Status> {
        let leased = shared.store.leased_snapshot(lease).await.map_err(status::store)?;
        let roots = shared.store.roots(leased.project, leased.tree_id).await.map_err(status::store)?;
        let tree = roots
            .into_iter()
            .find(|r| r.name == root)
            .ok_or_else(|| Status::not_found(format!("the snapshot has no root {root:?}")))?
            .tree;
        Ok(Self { shared, project: leased.project, root: tree, known: HashMap::new() })
    }

    async fn folder(&mut self, tree: Digest) -> Result<Arc<(Folder, Vec<u8>)>, Status> {
        if let Some(folder) = self.known.get(&tree) {
            return Ok(Arc::clone(folder));
        }
        let found = self.shared.store.locate(self.project, &[tree]).await.map_err(status::store)?;
        let location = found.get(&tree).ok_or_else(|| gone(tree))?;
        let bytes = self.shared.blobs.read_all(self.project, tree, *location).await.map_err(status::blobs)?;
        let folder = Folder::decode(&bytes).map_err(|_| gone(tree))?;
        let folder = Arc::new((folder, bytes));
        self.known.insert(tree, Arc::clone(&folder));
        Ok(folder)
    }

    /// All folders, parents first.
    pub fn folders(mut self) -> impl Stream<Item = Result<v1::FetchFoldersResponse, Status>> {
        async_stream::try_stream! {
            let mut todo = vec![(String::new(), self.root)];
            let mut batch = Vec::new();
            let mut bytes = 0;
            while let Some((path, tree)) = todo.pop() {
                let folder = self.folder(tree).await?;
                for entry in &folder.0.entries {
                    if let Node::Folder { tree, .. } = &entry.node {
                        let below = if path.is_empty() { entry.name.clone() } else { format!("{path}/{}", entry.name) };
                        todo.push((below, *tree));
                    }
                }
                bytes += folder.1.len();
                batch.push(v1::FolderAt { path, folder: folder.1.clone().into() });
                if bytes >= BATCH_BYTES {
                    bytes = 0;
                    yield v1::FetchFoldersResponse { folders: std::mem::take(&mut batch) };
                }
            }
            if !batch.is_empty() {
                yield v1::FetchFoldersResponse { folders: batch };
            }
        }
    }

    /// The contents of the files at these paths, in this order.
    pub fn files(mut self, paths: Vec<String>) -> impl Stream<Item = Result<v1::FetchFilesResponse, Status>> {
        async_stream::try_stream! {
            let mut digests = Vec::with_capacity(paths.len());
            for path in &paths {
                digests.push(self.file(path).await?);
            }
            let locations = self.shared.store.locate(self.project, &digests).await.map_err(status::store)?;
            for (index, digest) in (0_u32..).zip(digests) {
                let location = *locations.get(&digest).ok_or_else(|| gone(digest))?;
                let mut pieces =
                    self.shared.blobs.read(self.project, digest, location).await.map_err(status::blobs)?;
                while let Some(piece) = pieces.next().await {
                    let mut piece = piece.map_err(status::blobs)?;
                    while !piece.is_empty() {
                        let data = piece.split_to(piece.len().min(farm_proto::PIECE_BYTES));
                        yield v1::FetchFilesResponse { index, data, last: false };
                    }
                }
                yield v1::FetchFilesResponse { index, data: bytes::Bytes::new(), last: true };
            }
        }
    }

    /// The digest of the file at this path.
    async fn file(&mut self, path: &str) -> Result<Digest, Status> {
        let missing = || Status::not_found(format!("the snapshot has no file {path:?}"));
        let mut tree = self.root;
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            let folder = self.folder(tree).await?;
            let entry = folder
                .0
                .entries
                .binary_search_by(|entry| entry.name.as_bytes().cmp(part.as_bytes()))
                .map(|i| &folder.0.entries[i])
                .map_err(|_| missing())?;
            match (&entry.node, parts.peek()) {
                (Node::Folder { tree: below, .. }, Some(_)) => tree = *below,
                (Node::File { digest, .. }, None) => return Ok(*digest),
                _ => return Err(missing()),
            }
        }
        Err(missing())
    }
}

fn gone(digest: Digest) -> Status {
    tracing::error!(%digest, "an object of a snapshot is gone");
    Status::data_loss("a part of the snapshot is gone; submit the build again")
}
