//! Small files of snapshots: a Dockerfile, the rules of a repository.
//!
//! Read object by object, by their place in the snapshot. Links are followed within the root.

use farm_store::StoreError;
use farm_types::snapshot::{Folder, Node, follow};
use farm_types::{Digest, ProjectId};

use crate::blobs::is_unanswered;
use crate::shared::Shared;

/// The longest folder that is read, bytes.
const LONGEST_FOLDER: u64 = 64 << 20;
/// So many links are followed.
const MAX_LINKS: usize = 10;

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The blob store.
    #[error("the blob store: {0}")]
    Blobs(#[from] object_store::Error),
}

impl Unread {
    /// Nothing is known of the file; it may be there.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Store(error) => error.is_transient(),
            Self::Blobs(error) => is_unanswered(error),
        }
    }
}

/// What became of reading a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// Its content.
    File(Vec<u8>),
    /// There is no such snapshot, root or file.
    Missing,
    /// It is longer than was asked for.
    TooLong,
}

/// The file at this path of a snapshot's root, if it has at most `longest` bytes.
///
/// # Errors
/// The database or the blob store doesn't answer.
pub(crate) async fn read_file(
    shared: &Shared,
    project: ProjectId,
    tree_id: Digest,
    (root, path): (&str, &str),
    longest: u64,
) -> Result<Read, Unread> {
    let Some(tree) = Tree::open(shared, project, tree_id, root).await? else { return Ok(Read::Missing) };
    let Some(file) = tree.locate(path).await? else { return Ok(Read::Missing) };
    Ok(tree.read(file, longest).await?.map_or(Read::TooLong, Read::File))
}

/// A folder tree of a snapshot, read object by object.
pub struct Tree<'a> {
    shared: &'a Shared,
    project: ProjectId,
    root: Digest,
}

impl<'a> Tree<'a> {
    /// A root of a snapshot, if that is there and has it.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn open(
        shared: &'a Shared,
        project: ProjectId,
        tree_id: Digest,
        root: &str,
    ) -> Result<Option<Self>, Unread> {
        let roots = match shared.store.roots(project, tree_id).await {
            Err(StoreError::NotFound(_)) => return Ok(None),
            roots => roots?,
        };
        let found = roots.into_iter().find(|known| known.name == root);
        Ok(found.map(|root| Self { shared, project, root: root.tree }))
    }

    /// An object's bytes, if it is there and no longer than this.
    ///
    /// # Errors
    /// The database or the blob store doesn't answer.
    pub async fn read(&self, digest: Digest, longest: u64) -> Result<Option<Vec<u8>>, Unread> {
        let found = self.shared.store.locate(self.project, &[digest]).await?;
        Ok(match found.get(&digest).filter(|location| location.size <= longest) {
            Some(location) => Some(self.shared.blobs.read_all(self.project, digest, *location).await?),
            None => None,
        })
    }

    /// The entry at a path from the root, if there is one.
    async fn node(&self, path: &str) -> Result<Option<Node>, Unread> {
        let mut tree = self.root;
        let mut names = path.split('/').peekable();
        while let Some(name) = names.next() {
            let folder = self.read(tree, LONGEST_FOLDER).await?.and_then(|bytes| Folder::decode(&bytes).ok());
            let entries = folder.into_iter().flat_map(|folder| folder.entries);
            let node = entries.into_iter().find(|entry| entry.name == name).map(|entry| entry.node);
            match (node, names.peek()) {
                (node, None) => return Ok(node),
                (Some(Node::Folder { tree: below, .. }), Some(_)) => tree = below,
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    /// The regular file that this path leads to, by links within the root.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn locate(&self, path: &str) -> Result<Option<Digest>, Unread> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            match self.node(&path).await? {
                Some(Node::File { digest, .. }) => return Ok(Some(digest)),
                Some(Node::Symlink { target }) => match follow(&path, &target) {
                    Some(followed) => path = followed,
                    None => return Ok(None),
                },
                Some(Node::Folder { .. } | Node::Fifo) | None => return Ok(None),
            }
        }
        Ok(None)
    }
}
