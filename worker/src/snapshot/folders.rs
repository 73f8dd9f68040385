//! The folders of one root, checked.
//!
//! The coordinator sends them parents first. A folder is taken only when its parent names it by the digest
//! that its bytes have, so the whole root stands for one digest, and that one must go into the snapshot's
//! `tree_id`.

use std::collections::BTreeMap;

use farm_proto::v1::FolderAt;
use farm_types::snapshot::{Folder, Node};
use farm_types::{Digest, Invalid};

/// The most that the folders of one root may take, bytes as sent: some millions of entries.
const MOST_BYTES: usize = 512 * 1024 * 1024;

/// The folders of one root by their paths; the root itself is the empty path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folders {
    by_path: BTreeMap<String, Folder>,
    root: Option<Digest>,
}

impl Folders {
    /// The folder at this path from the root; the root's is empty.
    pub fn get(&self, path: &str) -> Option<&Folder> {
        self.by_path.get(path)
    }

    /// The tree digest and the content digest of the root.
    ///
    /// # Errors
    /// There is no root.
    pub fn digests(&self) -> Result<(Digest, Digest), Invalid> {
        match (self.root, self.by_path.get("")) {
            (Some(tree), Some(root)) => Ok((tree, root.content_digest())),
            _ => Err(Invalid::new("root", "", "it was not sent")),
        }
    }
}

/// Puts a root's folders together, as they come: parents first.
#[derive(Debug, Default)]
pub struct Collector {
    folders: Folders,
    /// Named by a parent and not here yet.
    awaited: BTreeMap<String, (Digest, Digest)>,
    bytes: usize,
}

impl Collector {
    /// Takes the next folder.
    ///
    /// # Errors
    /// It isn't the one that its parent names, its parent didn't come before, or it is too much.
    pub fn take(&mut self, sent: &FolderAt) -> Result<(), Invalid> {
        let path = sent.path.as_str();
        let invalid = |cure: &str| Invalid::new("folder", path, cure);
        self.bytes += sent.folder.len();
        if self.bytes > MOST_BYTES {
            return Err(invalid("the root has too many entries"));
        }
        let folder = Folder::decode(&sent.folder)?;
        let tree = Digest::of(&sent.folder);
        if path.is_empty() {
            if self.folders.root.replace(tree).is_some() {
                return Err(invalid("the root was sent twice"));
            }
        } else {
            let named = self.awaited.remove(path).ok_or_else(|| invalid("no folder above it names it"))?;
            if named != (tree, folder.content_digest()) {
                return Err(invalid("its digest is not the one that the folder above it names"));
            }
        }
        for entry in &folder.entries {
            if let Node::Folder { tree, content } = &entry.node {
                self.awaited.insert(join(path, &entry.name), (*tree, *content));
            }
        }
        self.folders.by_path.insert(path.to_owned(), folder);
        Ok(())
    }

    /// The whole tree, once all has come.
    ///
    /// # Errors
    /// One is lacking.
    pub fn finish(self) -> Result<Folders, Invalid> {
        match self.awaited.first_key_value() {
            Some((path, _)) => Err(Invalid::new("folder", path, "it was not sent")),
            None => self.folders.digests().map(|_| self.folders),
        }
    }
}

/// The path of an entry of the folder at `path`.
pub fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Source;

    fn collect(sent: &[FolderAt]) -> Result<Folders, Invalid> {
        let mut collector = Collector::default();
        sent.iter().try_for_each(|folder| collector.take(folder))?;
        collector.finish()
    }

    #[test]
    fn a_whole_root_is_taken() {
        let source = Source::new(&[("a/b/c.txt", "c"), ("a/d", "d"), ("z", "z")]);
        let folders = collect(&source.folders()).unwrap();
        assert_eq!(folders.get("a/b").unwrap().entries[0].name, "c.txt");
        assert_eq!(folders.digests().unwrap().0, source.root_digest());
    }

    #[test]
    fn a_folder_that_is_another_or_lacks_is_refused() {
        let source = Source::new(&[("a/b/c.txt", "c"), ("a/d", "d")]);
        let folders = source.folders();
        let error = |sent: &[FolderAt]| collect(sent).unwrap_err().to_string();
        assert!(error(&[]).contains("not sent"));
        assert!(error(&folders[..2]).contains("not sent"));
        assert!(error(&[&folders[..1], &folders[..1]].concat()).contains("twice"));
        assert!(error(&folders[1..]).contains("no folder above"));
        let other = Source::new(&[("a/b/c.txt", "changed"), ("a/d", "d")]).folders();
        assert!(error(&[&folders[..2], &other[2..]].concat()).contains("digest"));
        let mut spaced = folders.clone();
        spaced[0].folder = [&folders[0].folder[..], b" "].concat().into();
        assert!(error(&spaced).contains("canonical"));
    }
}
