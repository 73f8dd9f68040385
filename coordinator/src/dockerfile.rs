//! What a submitted Dockerfile says of the machines that its build needs: whose programs run in it, per platform.
//!
//! It is read from the snapshot as the worker reads it. Invariant: what can't be read, or told, is left out, and such a
//! platform's job waits for a worker that runs the platform. The worker says what is wrong with the file.

use std::collections::BTreeMap;

use farm_dockerfile::{Build, Dockerfile, Programs};
use farm_types::snapshot::{Folder, Node, ROOT_DOCKERFILE, follow};
use farm_types::spec::Purpose;
use farm_types::{BuildSpec, Digest, Platform, ProjectId, Runs};

use crate::context::Context;

/// The longest Dockerfile that is read, bytes; a worker reads no more of one either.
const LONGEST: u64 = 16 << 20;
/// The longest folder that is read on the way to it, bytes.
const LONGEST_FOLDER: u64 = 64 << 20;
/// As many links as are followed to find it.
const MAX_LINKS: usize = 10;

/// Whose programs run, for each platform of the build of which that is known.
pub async fn runs(context: &Context, project: ProjectId, spec: &BuildSpec) -> BTreeMap<Platform, Runs> {
    match spec.purpose {
        // A program of the platform is what it is all about.
        Purpose::Run(_) => return BTreeMap::new(),
        // A frontend is asked, which is the engine's.
        Purpose::Call(_) => {
            return spec.platforms.iter().map(|platform| (platform.clone(), Runs::nothing())).collect();
        }
        Purpose::Image => {}
    }
    let Some(bytes) = find(context, project, spec).await else { return BTreeMap::new() };
    let spec = spec.clone();
    // A long one takes a while to read.
    tokio::task::spawn_blocking(move || told(&Dockerfile::parse(&bytes), &spec)).await.unwrap_or_default()
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

async fn find(context: &Context, project: ProjectId, spec: &BuildSpec) -> Option<Vec<u8>> {
    let roots = context.store.roots(project, spec.snapshot.tree_id).await.ok()?;
    let root = roots.into_iter().find(|root| root.name == ROOT_DOCKERFILE)?.tree;
    let tree = Tree { context, project, root };
    let file = match tree.locate(&spec.dockerfile).await {
        // BuildKit takes the lower-case name too when the usual one isn't there.
        None if spec.dockerfile == "Dockerfile" => tree.locate("dockerfile").await?,
        found => found?,
    };
    tree.read(file, LONGEST).await
}

/// One root of a snapshot.
struct Tree<'a> {
    context: &'a Context,
    project: ProjectId,
    root: Digest,
}

impl Tree<'_> {
    /// An object's bytes, if it is there and no longer than this.
    async fn read(&self, digest: Digest, longest: u64) -> Option<Vec<u8>> {
        let found = self.context.store.locate(self.project, &[digest]).await.ok()?;
        let location = found.get(&digest).filter(|location| location.size <= longest)?;
        self.context.blobs.read_all(self.project, digest, *location).await.ok()
    }

    /// What lies at a path.
    async fn node(&self, path: &str) -> Option<Node> {
        let mut tree = self.root;
        let mut names = path.split('/').peekable();
        while let Some(name) = names.next() {
            let folder = Folder::decode(&self.read(tree, LONGEST_FOLDER).await?).ok()?;
            let node = folder.entries.into_iter().find(|entry| entry.name == name)?.node;
            match (node, names.peek()) {
                (node, None) => return Some(node),
                (Node::Folder { tree: below, .. }, Some(_)) => tree = below,
                _ => return None,
            }
        }
        None
    }

    /// The regular file that this path leads to, by links within the root.
    async fn locate(&self, path: &str) -> Option<Digest> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            match self.node(&path).await? {
                Node::File { digest, .. } => return Some(digest),
                Node::Symlink { target } => path = follow(&path, &target)?,
                Node::Folder { .. } | Node::Fifo => return None,
            }
        }
        None
    }
}
