//! What is known of files that were read before: a file whose stat is as it was need not be read again.
//!
//! One index per context folder (and per what is meant of it), in the user's cache folder, replaced as a whole by a rename. It is a cache
//! and never more: one that is missing, damaged or of another version is as good as empty, and one that
//! can't be written costs time only.
//!
//! Invariant: an entry is kept only if the file had last changed at least [`RACY_NS`] before the scan that
//! read it. Otherwise a second change within one tick of the file system's clock could leave the same stat
//! with other contents (git calls such entries racy).

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use farm_dockerfile::Selection;
use farm_types::Digest;
use serde::{Deserialize, Serialize};

use super::files::Stat;

/// How long before a scan a file must have been left alone to be trusted, nanoseconds.
const RACY_NS: i64 = 2_000_000_000;

/// Counts when what is written changes its meaning.
const VERSION: u32 = 1;

/// The index of one context folder.
#[derive(Debug, Default)]
pub struct Index {
    file: Option<PathBuf>,
    known: HashMap<String, (Stat, Digest)>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    root: PathBuf,
    entries: Vec<(String, Stat, Digest)>,
}

impl Index {
    /// Reads the index of what is meant of the context at `root` (absolute, without links) from the folder `cache`; an
    /// empty one when there is none to be read.
    pub fn load(cache: Option<&Path>, root: &Path, selection: &Selection) -> Self {
        let Some(cache) = cache else { return Self::default() };
        let mut key = root.as_os_str().as_encoded_bytes().to_vec();
        for pattern in selection.texts().into_iter().flatten() {
            key.push(0);
            key.extend_from_slice(pattern.as_bytes());
        }
        let name = Digest::of(&key).hex();
        let file = cache.join(format!("{}.json", &name[..32]));
        let known = std::fs::read(&file)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Stored>(&bytes).ok())
            .filter(|stored| stored.version == VERSION && stored.root == root)
            .map(|stored| {
                stored.entries.into_iter().map(|(path, stat, digest)| (path, (stat, digest))).collect()
            })
            .unwrap_or_default();
        Self { file: Some(file), known }
    }

    /// The digest of the file at `path` (within the context) if its stat is as it was when it was read.
    pub fn get(&self, path: &str, stat: &Stat) -> Option<Digest> {
        self.known.get(path).filter(|(known, _)| known == stat).map(|(_, digest)| *digest)
    }

    /// Replaces the stored index by these files, without those that changed too shortly before
    /// `scanned_ns`, when the scan began (nanoseconds since 1970).
    pub fn replace<'a>(
        &self,
        root: &Path,
        scanned_ns: i64,
        files: impl Iterator<Item = (&'a str, Stat, Digest)>,
    ) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let entries: Vec<_> = files
            .filter(|(_, stat, _)| stat.mtime.max(stat.ctime) <= scanned_ns.saturating_sub(RACY_NS))
            .map(|(path, stat, digest)| (path.to_owned(), stat, digest))
            .collect();
        let unchanged = entries.len() == self.known.len()
            && entries.iter().all(|(path, stat, digest)| self.get(path, stat) == Some(*digest));
        if unchanged {
            return Ok(());
        }
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // The process id keeps two commands on one context from writing into one file.
        let fresh = file.with_extension(format!("{}.new", std::process::id()));
        let bytes = serde_json::to_vec(&Stored { version: VERSION, root: root.to_owned(), entries })?;
        let written = std::fs::File::create(&fresh).and_then(|mut f| f.write_all(&bytes));
        let replaced = written.and_then(|()| std::fs::rename(&fresh, file));
        if replaced.is_err() {
            let _ = std::fs::remove_file(&fresh);
        }
        replaced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: Stat = Stat { size: 3, mtime: 10, ctime: 20, inode: 1, device: 2 };

    fn write(index: &Index, scanned_ns: i64) {
        index.replace(Path::new("/c"), scanned_ns, [("a", STAT, Digest::of(b"abc"))].into_iter()).unwrap();
    }

    #[test]
    fn a_file_is_known_as_long_as_nothing_of_its_stat_changes() {
        let cache = tempfile::tempdir().unwrap();
        let load = || Index::load(Some(cache.path()), Path::new("/c"), &Selection::All);
        write(&load(), RACY_NS + 20);
        assert_eq!(load().get("a", &STAT), Some(Digest::of(b"abc")));
        assert_eq!(load().get("b", &STAT), None);
        for changed in [
            Stat { size: 4, ..STAT },
            Stat { mtime: 11, ..STAT },
            Stat { ctime: 21, ..STAT },
            Stat { inode: 3, ..STAT },
            Stat { device: 3, ..STAT },
        ] {
            assert_eq!(load().get("a", &changed), None);
        }
        assert_eq!(Index::load(Some(cache.path()), Path::new("/d"), &Selection::All).get("a", &STAT), None);
    }

    #[test]
    fn a_file_that_changed_just_before_the_scan_is_not_trusted() {
        let cache = tempfile::tempdir().unwrap();
        write(&Index::load(Some(cache.path()), Path::new("/c"), &Selection::All), RACY_NS + 19);
        assert_eq!(Index::load(Some(cache.path()), Path::new("/c"), &Selection::All).get("a", &STAT), None);
    }

    #[test]
    fn a_damaged_index_is_an_empty_one_and_is_mended() {
        let cache = tempfile::tempdir().unwrap();
        let load = || Index::load(Some(cache.path()), Path::new("/c"), &Selection::All);
        let file = load().file.unwrap();
        for damage in ["", "{", "{\"version\":1}", "{\"version\":99,\"root\":\"/c\",\"entries\":[]}"] {
            std::fs::write(&file, damage).unwrap();
            let index = load();
            assert_eq!(index.get("a", &STAT), None);
            write(&index, RACY_NS + 20);
            assert!(load().get("a", &STAT).is_some());
        }
        assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 1);
    }
}
