//! What a submitted Dockerfile says of the machines that its build needs: whose programs run in it, per platform.
//!
//! It is read from the snapshot as the worker reads it. Invariant: what can't be read, or told, is left out, and such a
//! platform's job waits for a worker that runs the platform. The worker says what is wrong with the file.

use std::collections::BTreeMap;

use farm_dockerfile::{Build, Dockerfile, Programs};
use farm_store::StoreError;
use farm_types::snapshot::{Folder, Node, ROOT_DOCKERFILE, follow};
use farm_types::spec::Purpose;
use farm_types::{BuildSpec, Digest, Platform, ProjectId, Runs};

use crate::blobs::is_unanswered;
use crate::shared::Shared;

/// The longest Dockerfile that is read, bytes; a worker reads no more of one either.
const LONGEST: u64 = 16 << 20;
/// The longest folder that is read on the way to it, bytes.
const LONGEST_FOLDER: u64 = 64 << 20;
/// As many links as are followed to find it.
const MAX_LINKS: usize = 10;

/// Why a Dockerfile could not be read.
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
    fn may_pass(&self) -> bool {
        match self {
            Self::Store(error) => error.is_transient(),
            Self::Blobs(error) => is_unanswered(error),
        }
    }
}

/// Whose programs run, for each platform of the build of which that is known.
///
/// # Errors
/// The database or the blob store doesn't answer: then it isn't asked for more.
pub async fn runs(
    shared: &Shared,
    project: ProjectId,
    spec: &BuildSpec,
) -> Result<BTreeMap<Platform, Runs>, Unread> {
    match spec.purpose {
        // A program of the platform is what it is all about.
        Purpose::Run(_) => return Ok(BTreeMap::new()),
        // A frontend is asked, which is the engine's.
        Purpose::Call(_) => {
            return Ok(spec.platforms.iter().map(|platform| (platform.clone(), Runs::nothing())).collect());
        }
        Purpose::Image => {}
    }
    let bytes = match find(shared, project, spec).await {
        Ok(Some(bytes)) => bytes,
        Err(error) if error.may_pass() => return Err(error),
        Ok(None) | Err(_) => return Ok(BTreeMap::new()),
    };
    let spec = spec.clone();
    // A long one takes a while to read.
    let told = tokio::task::spawn_blocking(move || told(&Dockerfile::parse(&bytes), &spec)).await;
    Ok(told.unwrap_or_default())
}

fn told(file: &Dockerfile, spec: &BuildSpec) -> BTreeMap<Platform, Runs> {
    let told = spec.platforms.iter().filter_map(|platform| {
        let build = Build {
            target: spec.target.as_deref(),
            args: &spec.build_args,
            contexts: &spec.named_contexts,
            platform,
        };
        Some((platform.clone(), Programs::of(file, &build)?.into()))
    });
    told.collect()
}

async fn find(shared: &Shared, project: ProjectId, spec: &BuildSpec) -> Result<Option<Vec<u8>>, Unread> {
    let roots = shared.store.roots(project, spec.snapshot.tree_id).await?;
    let Some(root) = roots.into_iter().find(|root| root.name == ROOT_DOCKERFILE) else { return Ok(None) };
    let tree = Tree { shared, project, root: root.tree };
    let file = match tree.locate(&spec.dockerfile).await? {
        // BuildKit takes the lower-case name too when the usual one isn't there.
        None if spec.dockerfile == "Dockerfile" => tree.locate("dockerfile").await?,
        found => found,
    };
    match file {
        Some(file) => tree.read(file, LONGEST).await,
        None => Ok(None),
    }
}

/// A folder tree of a snapshot, read object by object.
struct Tree<'a> {
    shared: &'a Shared,
    project: ProjectId,
    root: Digest,
}

impl Tree<'_> {
    /// An object's bytes, if it is there and no longer than this.
    async fn read(&self, digest: Digest, longest: u64) -> Result<Option<Vec<u8>>, Unread> {
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
    async fn locate(&self, path: &str) -> Result<Option<Digest>, Unread> {
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
