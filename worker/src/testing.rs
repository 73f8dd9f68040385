//! For tests of the protocol only: offers, a small source, a FAKE coordinator ([`Fake`]), and a CA ([`Authority`]).

mod authority;
mod fake;
mod machines;

use std::collections::BTreeMap;
use std::time::Duration;

use farm_client::Bearer;
use farm_proto::v1;
use farm_types::snapshot::{self, Entry, Folder, Node};
use farm_types::{AttemptId, Digest, LeaseToken, Offer, Support};

pub use self::authority::Authority;
pub use self::fake::Fake;
use crate::attempts::{Identity, Lease};

/// What a worker offers in tests.
pub fn offers() -> Vec<Offer> {
    vec![Offer { platform: "linux/amd64".parse().unwrap(), support: Support::Native, told: true }]
}

/// What a worker is in tests.
pub fn identity() -> Identity {
    Identity { offers: offers(), ..Identity::default() }
}

/// A new lease.
pub fn lease() -> Lease {
    Lease { attempt: AttemptId::generate(), token: LeaseToken::generate() }
}

/// An offer of a new attempt, without a spec.
pub fn offered() -> v1::Offered {
    v1::Offered {
        lease: Some(lease().into()),
        project: "web".to_owned(),
        platform: "linux/amd64".to_owned(),
        support: "native".to_owned(),
        ..Default::default()
    }
}

/// A token.
pub fn token() -> Bearer {
    "farm_test".parse().unwrap()
}

/// Waits until the condition holds; fails after ten seconds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(10), waiting).await.is_err() {
        panic!("in vain: {what}");
    }
}

/// A source tree of a few files.
#[derive(Debug, Clone)]
pub struct Source {
    files: BTreeMap<String, String>,
    folders: Vec<v1::FolderAt>,
}

impl Source {
    /// A tree of these files: (path, content).
    pub fn new(files: &[(&str, &str)]) -> Self {
        let files: BTreeMap<String, String> =
            files.iter().map(|(path, content)| ((*path).to_owned(), (*content).to_owned())).collect();
        let mut folders: BTreeMap<String, Vec<Entry>> = BTreeMap::from([(String::new(), Vec::new())]);
        let split = |path: &str| match path.rsplit_once('/') {
            Some((folder, name)) => (folder.to_owned(), name.to_owned()),
            None => (String::new(), path.to_owned()),
        };
        for (path, content) in &files {
            for (slash, _) in path.match_indices('/') {
                folders.entry(path[..slash].to_owned()).or_default();
            }
            let (folder, name) = split(path);
            let size = u64::try_from(content.len()).unwrap();
            let node = Node::File { size, digest: Digest::of(content.as_bytes()) };
            folders.entry(folder).or_default().push(Entry { name, mode: 0o644, mtime: 1, node });
        }
        // Children sort after their parents: from the last to the first, each is done before it is named.
        let mut sent = Vec::new();
        while let Some((path, entries)) = folders.pop_last() {
            let folder = Folder::new(entries).unwrap();
            if !path.is_empty() {
                let (above, name) = split(&path);
                let node = Node::Folder { tree: folder.tree_digest(), content: folder.content_digest() };
                folders.entry(above).or_default().push(Entry { name, mode: 0o755, mtime: 1, node });
            }
            sent.push(v1::FolderAt { path, folder: folder.encode().into() });
        }
        sent.reverse();
        Self { files, folders: sent }
    }

    /// The folders as they are sent.
    pub fn folders(&self) -> Vec<v1::FolderAt> {
        self.folders.clone()
    }

    /// Paths and contents.
    pub fn files(&self) -> &BTreeMap<String, String> {
        &self.files
    }

    /// The root's tree digest.
    pub fn root_digest(&self) -> Digest {
        Digest::of(&self.folders[0].folder)
    }

    /// The snapshot that has this tree as its only root, `context`.
    pub fn tree_id(&self) -> Digest {
        self.tree_id_as(&["context"])
    }

    /// The snapshot that has this tree as each of these roots.
    pub fn tree_id_as(&self, roots: &[&str]) -> Digest {
        let root = Folder::decode(&self.folders[0].folder).unwrap();
        let digests = (self.root_digest(), root.content_digest());
        snapshot::names(&roots.iter().map(|root| ((*root).to_owned(), digests)).collect()).0
    }
}
