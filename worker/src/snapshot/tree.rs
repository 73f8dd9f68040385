//! One root of a snapshot as the engine is shown it.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;

use farm_types::Digest;
use farm_types::snapshot::{Entry, Node};

use super::cache::Pins;
use super::folders::{Folders, join};
use crate::buildkit::{SourceTree, TreeEntry, TreeKind};

/// A file of a root: where it stands, and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileAt {
    /// The path from the root, without a leading `/`.
    pub path: String,
    pub digest: Digest,
    /// The length, bytes.
    pub size: u64,
}

/// The files of a root, in the order of the tree.
pub fn files(folders: &Folders) -> Vec<FileAt> {
    let mut files = Vec::new();
    walk(folders, |path, entry| {
        if let Node::File { size, digest } = entry.node {
            files.push(FileAt { path: path.to_owned(), digest, size });
        }
    });
    files
}

/// A root whose files are all in the cache, and stay there for as long as this lives.
pub struct SnapshotTree {
    entries: Vec<TreeEntry>,
    files: HashMap<String, Digest>,
    pins: Arc<Pins>,
}

impl SnapshotTree {
    /// The tree of these folders; `pins` hold the contents of all its files.
    pub fn new(folders: &Folders, pins: Arc<Pins>) -> Self {
        let mut entries = Vec::new();
        let mut files = HashMap::new();
        walk(folders, |path, entry| {
            let kind = match &entry.node {
                Node::File { size, digest } => {
                    files.insert(path.to_owned(), *digest);
                    TreeKind::File { size: *size, digest: *digest }
                }
                Node::Folder { .. } => TreeKind::Folder,
                Node::Symlink { target } => TreeKind::Symlink { target: target.clone() },
                Node::Fifo => TreeKind::Fifo,
            };
            let path = path.to_owned();
            entries.push(TreeEntry { path, mode: entry.mode & 0o7777, mtime: entry.mtime, kind });
        });
        Self { entries, files, pins }
    }
}

impl SourceTree for SnapshotTree {
    fn entries(&self) -> &[TreeEntry] {
        &self.entries
    }

    fn open(&self, path: &str) -> io::Result<Box<dyn Read + Send>> {
        match self.files.get(path) {
            Some(digest) => Ok(Box::new(self.pins.open(digest)?)),
            None => Err(io::Error::new(io::ErrorKind::NotFound, format!("{path} is no file of this source"))),
        }
    }
}

/// Visits everything below the root: depth-first, in the order of each folder (which is that of the names'
/// bytes), a folder before what it holds. Its depth costs no stack.
fn walk<'a>(folders: &'a Folders, mut visit: impl FnMut(&str, &'a Entry)) {
    let entries_at = |path: &str| folders.get(path).map(|folder| folder.entries.iter()).unwrap_or_default();
    let mut open = vec![(String::new(), entries_at(""))];
    while let Some((folder, entries)) = open.last_mut() {
        let Some(entry) = entries.next() else {
            open.pop();
            continue;
        };
        let path = join(folder, &entry.name);
        visit(&path, entry);
        if matches!(entry.node, Node::Folder { .. }) {
            let below = entries_at(&path);
            open.push((path, below));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buildkit::path_order;
    use crate::snapshot::cache::ContentCache;
    use crate::snapshot::folders::Collector;
    use crate::testing::Source;

    #[test]
    fn a_tree_is_depth_first_in_the_order_of_names_and_opens_its_files() {
        let source = Source::new(&[("a-b", "1"), ("a/z", "2"), ("a/b/c", "3"), ("B", "4"), ("a.txt", "5")]);
        let mut collector = Collector::default();
        source.folders().iter().for_each(|folder| collector.take(folder).unwrap());
        let folders = collector.finish().unwrap();

        let place = tempfile::tempdir().unwrap();
        let cache = Arc::new(ContentCache::open(place.path(), 1 << 20).unwrap());
        let files = files(&folders);
        let (pins, missing) = cache.pin(files.iter().map(|file| (file.digest, file.size)));
        assert_eq!(missing.len(), 5);
        for (path, content) in source.files() {
            let digest = Digest::of(content.as_bytes());
            assert!(missing.contains(&digest), "{path}");
            pins.put(digest, content.as_bytes()).unwrap();
        }

        let tree = SnapshotTree::new(&folders, Arc::new(pins));
        let paths: Vec<_> = tree.entries().iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["B", "a", "a/b", "a/b/c", "a/z", "a-b", "a.txt"]);
        assert!(paths.is_sorted_by(|a, b| path_order(a, b).is_lt()));
        let mut text = String::new();
        tree.open("a/b/c").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "3");
        assert!(tree.open("a").is_err() && tree.open("nope").is_err());
    }

    #[test]
    fn a_very_deep_tree_costs_no_stack() {
        let deep = format!("{}f", "d/".repeat(1_500));
        let source = Source::new(&[(&deep, "x")]);
        let mut collector = Collector::default();
        source.folders().iter().for_each(|folder| collector.take(folder).unwrap());
        assert_eq!(files(&collector.finish().unwrap()).len(), 1);
    }
}
