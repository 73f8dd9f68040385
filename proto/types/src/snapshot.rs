//! Snapshots: content-addressed source trees.
//!
//! A **folder** is stored as the canonical JSON of [`Folder`]; its digest is its *tree digest*. A folder's
//! entry for a sub-folder names that one's tree digest, so an unchanged tree is known by one digest. A
//! file's contents are stored under their own digest. A **snapshot** has several named roots
//! ([`ROOT_CONTEXT`], [`ROOT_DOCKERFILE`], `context:NAME`) and two names: `tree_id` covers all, with times
//! and modes; `content_key` leaves the times out, so that equal content has equal keys.
//!
//! Invariant: entries are sorted by the bytes of their names, no name stands twice, and every name is one
//! path component of valid UTF-8 (BuildKit's file transfer takes no other).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Invalid;

/// The name of the root that `COPY` and `ADD` read from.
pub const ROOT_CONTEXT: &str = "context";
/// The name of the root that holds the Dockerfile (and its own `.dockerignore`).
pub const ROOT_DOCKERFILE: &str = "dockerfile";

/// A snapshot and what its roots are called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRef {
    /// The digest of the roots with times and modes: what is served to an engine.
    pub tree_id: Digest,
    /// The digest of the roots without times: equal for equal content.
    pub content_key: Digest,
}

impl SnapshotRef {
    /// The snapshot of no roots, of which there is nothing to store.
    pub fn none() -> Self {
        let (tree_id, content_key) = names(&BTreeMap::new());
        Self { tree_id, content_key }
    }
}

/// The name of the root of a `--build-context NAME=FOLDER`.
pub fn named_root(name: &str) -> String {
    format!("context:{name}")
}

/// One folder: its entries, without those of its sub-folders.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folder {
    /// Sorted by the bytes of their names.
    pub entries: Vec<Entry>,
}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// One path component.
    pub name: String,
    /// Permission bits with setuid, setgid and sticky (0o7777).
    pub mode: u32,
    /// Modification time, nanoseconds since 1970 (UTC).
    pub mtime: i64,
    /// What it is.
    #[serde(flatten)]
    pub node: Node,
}

/// What an entry is. Sockets and devices are left out of snapshots, as Docker leaves sockets out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Node {
    /// A regular file.
    File {
        /// Length in bytes.
        size: u64,
        /// The digest of its contents.
        digest: Digest,
    },
    /// A sub-folder.
    Folder {
        /// Its tree digest.
        tree: Digest,
        /// Its content digest.
        content: Digest,
    },
    /// A symbolic link; it may point anywhere, nothing follows it.
    Symlink {
        /// The target as it stands in the link.
        target: String,
    },
    /// A named pipe.
    Fifo,
}

/// The path that a symbolic link at `path` leads to within its root; `None` for an absolute one.
pub fn follow(path: &str, target: &str) -> Option<String> {
    if target.starts_with('/') {
        return None;
    }
    let mut names: Vec<&str> = path.split('/').collect();
    names.pop();
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            _ => names.push(name),
        }
    }
    Some(names.join("/"))
}

impl Folder {
    /// Makes a folder of entries in any order.
    ///
    /// # Errors
    /// A name that is no path component, or that stands twice.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, Invalid> {
        entries.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        let folder = Self { entries };
        folder.check()?;
        Ok(folder)
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// The bytes are not the canonical form of a folder.
    pub fn decode(bytes: &[u8]) -> Result<Self, Invalid> {
        let invalid = |cure: String| Invalid::new("folder", format!("{} bytes", bytes.len()), cure);
        let folder: Self = serde_json::from_slice(bytes).map_err(|e| invalid(e.to_string()))?;
        folder.check()?;
        if folder.encode() != bytes {
            return Err(invalid("it isn't in canonical form".to_owned()));
        }
        Ok(folder)
    }

    /// The stored form: compact JSON with the fields in the order of their declaration.
    pub fn encode(&self) -> Vec<u8> {
        // Only a map with keys that aren't strings can fail, and there is none.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The digest under which the folder is stored.
    pub fn tree_digest(&self) -> Digest {
        Digest::of(&self.encode())
    }

    /// The digest of the same without modification times, here and below.
    pub fn content_digest(&self) -> Digest {
        let entries = self
            .entries
            .iter()
            .map(|entry| Entry {
                mtime: 0,
                node: match &entry.node {
                    Node::Folder { content, .. } => Node::Folder { tree: *content, content: *content },
                    node => node.clone(),
                },
                ..entry.clone()
            })
            .collect();
        Digest::of(&Self { entries }.encode())
    }

    /// The digests that must be stored before this folder may be: its sub-folders' and its files'.
    pub fn children(&self) -> impl Iterator<Item = Digest> + '_ {
        self.entries.iter().filter_map(|entry| match &entry.node {
            Node::File { digest, .. } => Some(*digest),
            Node::Folder { tree, .. } => Some(*tree),
            Node::Symlink { .. } | Node::Fifo => None,
        })
    }

    fn check(&self) -> Result<(), Invalid> {
        for entry in &self.entries {
            let name = &entry.name;
            if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
                return Err(Invalid::new("file name", name, "it isn't one path component"));
            }
        }
        match self.entries.windows(2).find(|pair| pair[0].name.as_bytes() >= pair[1].name.as_bytes()) {
            Some(pair) => Err(Invalid::new("file name", &pair[1].name, "it stands twice or out of order")),
            None => Ok(()),
        }
    }
}

/// The two names of a snapshot with these roots: (`tree_id`, `content_key`).
///
/// `roots` maps a root's name to the tree digest and the content digest of its folder.
pub fn names(roots: &BTreeMap<String, (Digest, Digest)>) -> (Digest, Digest) {
    let of = |which: fn(&(Digest, Digest)) -> Digest| {
        name(roots.iter().map(|(root, digests)| (root.as_str(), which(digests))))
    };
    (of(|d| d.0), of(|d| d.1))
}

/// The first of [`names`], which follows from the roots' tree digests alone.
pub fn tree_id(roots: &BTreeMap<String, Digest>) -> Digest {
    name(roots.iter().map(|(root, tree)| (root.as_str(), *tree)))
}

fn name<'a>(roots: impl Iterator<Item = (&'a str, Digest)>) -> Digest {
    let lines: String = roots.map(|(root, digest)| format!("{digest} {root}\n")).collect();
    Digest::of(lines.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, mtime: i64) -> Entry {
        let node = Node::File { size: 1, digest: Digest::of(b"x") };
        Entry { name: name.to_owned(), mode: 0o644, mtime, node }
    }

    #[test]
    fn the_stored_form_is_canonical_and_reads_back() {
        let folder = Folder::new(vec![file("b", 2), file("a", 1)]).unwrap();
        assert_eq!(folder.entries[0].name, "a");
        assert_eq!(Folder::decode(&folder.encode()).unwrap(), folder);
        let spaced = String::from_utf8(folder.encode()).unwrap().replace(",", ", ");
        assert!(Folder::decode(spaced.as_bytes()).is_err());
    }

    #[test]
    fn times_change_the_tree_digest_only() {
        let one = Folder::new(vec![file("a", 1)]).unwrap();
        let two = Folder::new(vec![file("a", 2)]).unwrap();
        assert_ne!(one.tree_digest(), two.tree_digest());
        assert_eq!(one.content_digest(), two.content_digest());
        let above = |below: &Folder| {
            let node = Node::Folder { tree: below.tree_digest(), content: below.content_digest() };
            Folder::new(vec![Entry { name: "d".to_owned(), mode: 0o755, mtime: 0, node }]).unwrap()
        };
        assert_ne!(above(&one).tree_digest(), above(&two).tree_digest());
        assert_eq!(above(&one).content_digest(), above(&two).content_digest());
    }

    #[test]
    fn names_that_climb_or_stand_twice_are_refused() {
        for name in ["", ".", "..", "a/b", "a\0"] {
            assert!(Folder::new(vec![file(name, 0)]).is_err(), "{name:?}");
        }
        assert!(Folder::new(vec![file("a", 0), file("a", 1)]).is_err());
    }
}
