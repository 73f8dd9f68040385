//! Source trees as the engine is shown them: an ordered list of entries and a way to read the files.
//!
//! Invariant: entries are depth-first, by the bytes of their names within each folder, parents before
//! children (`a`, `a/z`, `a-b`). The engine refuses any other order. [`path_order`] is that order, and
//! [`find`] relies on it.

use std::cmp::Ordering;
use std::io::{self, Read};

use farm_types::Digest;

/// A tree of files that stays as it is for as long as it is served.
pub trait SourceTree: Send + Sync {
    /// Everything below the root, in the order that the module names. The root itself is not listed.
    fn entries(&self) -> &[TreeEntry];

    /// Opens the file at this path, one of [`SourceTree::entries`]. It must give exactly the bytes that
    /// its entry's size promises. Called on threads that may block.
    ///
    /// # Errors
    /// The file can't be opened; the build is then abandoned and tried again.
    fn open(&self, path: &str) -> io::Result<Box<dyn Read + Send>>;
}

/// A file, folder, link or pipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// From the root, separated by `/`, without a leading `/` or `./`.
    pub path: String,
    /// Permissions with setuid, setgid and sticky: the bits of 0o7777.
    pub mode: u32,
    /// Modification time, nanoseconds since 1970.
    pub mtime: i64,
    pub kind: TreeKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeKind {
    /// A regular file.
    File {
        /// The length of its content, bytes.
        size: u64,
        /// The digest of its content. An engine asks only for files that changed since it last saw the tree,
        /// and it knows them by their metadata; so this is made part of what it sees.
        digest: Digest,
    },
    /// A folder; its content follows it.
    Folder,
    /// A symbolic link.
    Symlink {
        /// What it points to, as it is written.
        target: String,
    },
    /// A named pipe.
    Fifo,
}

/// The order of entries: by the bytes of each name, a folder's content right after the folder.
pub fn path_order(a: &str, b: &str) -> Ordering {
    // A separator sorts before every byte that a name can hold.
    let key = |byte: u8| if byte == b'/' { 0 } else { byte };
    a.bytes().map(key).cmp(b.bytes().map(key))
}

/// The place of this path among the entries.
pub fn find(entries: &[TreeEntry], path: &str) -> Option<usize> {
    entries.binary_search_by(|entry| path_order(&entry.path, path)).ok()
}

/// The entries from `place` on that are below the entry at `place`, itself included.
pub fn subtree(entries: &[TreeEntry], place: usize) -> std::ops::Range<usize> {
    let Some(top) = entries.get(place) else { return place..place };
    let below = entries[place + 1..]
        .iter()
        .take_while(|entry| entry.path.strip_prefix(&top.path).is_some_and(|rest| rest.starts_with('/')))
        .count();
    place..place + 1 + below
}

/// A small tree that is held in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryTree {
    entries: Vec<TreeEntry>,
    contents: std::collections::BTreeMap<String, Vec<u8>>,
}

impl MemoryTree {
    /// A tree of these files: (path, mode, content). Folders on the way are made with mode 0755.
    pub fn new<'a>(files: impl IntoIterator<Item = (&'a str, u32, Vec<u8>)>) -> Self {
        let mut tree = Self::default();
        for (path, mode, content) in files {
            for (slash, _) in path.match_indices('/') {
                tree.add(TreeEntry {
                    path: path[..slash].to_owned(),
                    mode: 0o755,
                    mtime: 0,
                    kind: TreeKind::Folder,
                });
            }
            let size = u64::try_from(content.len()).unwrap_or(u64::MAX);
            let kind = TreeKind::File { size, digest: Digest::of(&content) };
            tree.add(TreeEntry { path: path.to_owned(), mode, mtime: 0, kind });
            tree.contents.insert(path.to_owned(), content);
        }
        tree
    }

    /// Adds one entry, or replaces the one of the same path.
    pub fn add(&mut self, entry: TreeEntry) {
        match self.entries.binary_search_by(|other| path_order(&other.path, &entry.path)) {
            Ok(place) => self.entries[place] = entry,
            Err(place) => self.entries.insert(place, entry),
        }
    }
}

impl SourceTree for MemoryTree {
    fn entries(&self) -> &[TreeEntry] {
        &self.entries
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn Read + Send>> {
        match self.contents.get(path) {
            Some(content) => Ok(Box::new(io::Cursor::new(content.clone()))),
            None => Err(io::Error::new(io::ErrorKind::NotFound, format!("{path} is not in this tree"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_followed_by_its_content() {
        let tree = MemoryTree::new([
            ("a-b", 0o644, vec![]),
            ("a/z", 0o644, vec![1]),
            ("a/b/c", 0o644, vec![]),
            ("B", 0o644, vec![]),
        ]);
        let paths: Vec<_> = tree.entries().iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["B", "a", "a/b", "a/b/c", "a/z", "a-b"]);
        assert_eq!(find(tree.entries(), "a/z"), Some(4));
        assert_eq!(find(tree.entries(), "a/y"), None);
        assert_eq!(subtree(tree.entries(), 1), 1..5);
        assert_eq!(subtree(tree.entries(), 4), 4..5);
    }

    #[test]
    fn a_tree_in_memory_gives_its_bytes() {
        let tree = MemoryTree::new([("x", 0o644, b"hello".to_vec())]);
        let mut text = String::new();
        tree.open("x").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert!(tree.open("y").is_err());
    }
}
