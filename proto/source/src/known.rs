//! Files of a folder that need not be on this machine: all that a snapshot says of them is known, and the farm had them before.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::io;

use farm_types::Digest;

/// What is known of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownFile {
    /// Its permission bits.
    pub mode: u32,
    /// Its length, bytes.
    pub size: u64,
    /// Of its bytes.
    pub digest: Digest,
}

/// Something in a folder.
#[derive(Debug, Clone, Copy)]
pub(super) enum KnownEntry {
    /// A file.
    File(KnownFile),
    /// A folder that has some of these files below it.
    Folder,
}

/// Those files of a folder, which are read as if they were in it. None of them is there.
#[derive(Debug, Clone, Default)]
pub struct Known {
    folders: BTreeMap<String, BTreeMap<String, KnownEntry>>,
    /// When all of them, and folders with nothing else in them, changed last, nanoseconds since 1970.
    mtime: i64,
}

impl Known {
    /// None yet; all have this time, nanoseconds since 1970.
    pub fn at(mtime: i64) -> Self {
        Self { folders: BTreeMap::new(), mtime }
    }

    /// Adds a file by its path, with `/` between its parts.
    pub fn add(&mut self, path: &str, file: KnownFile) {
        let (mut folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut is_new = !self.folders.contains_key(folder);
        let below = self.folders.entry(folder.to_owned()).or_default();
        below.insert(name.to_owned(), KnownEntry::File(file));
        while is_new && !folder.is_empty() {
            let (above, name) = folder.rsplit_once('/').unwrap_or(("", folder));
            is_new = !self.folders.contains_key(above);
            self.folders.entry(above.to_owned()).or_default().insert(name.to_owned(), KnownEntry::Folder);
            folder = above;
        }
    }

    /// The digests of all of them.
    pub fn digests(&self) -> HashSet<Digest> {
        let entries = self.folders.values().flat_map(BTreeMap::values);
        let files = entries.filter_map(|entry| match entry {
            KnownEntry::File(file) => Some(file.digest),
            KnownEntry::Folder => None,
        });
        files.collect()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.folders.is_empty()
    }

    pub(super) fn mtime(&self) -> i64 {
        self.mtime
    }

    /// What is known of one entry of a folder.
    pub(super) fn entry(&self, folder: &str, name: &str) -> Option<KnownEntry> {
        self.folders.get(folder)?.get(name).copied()
    }

    /// Adds to the names that a folder has on the disk.
    pub(super) fn complete(
        &self,
        folder: &str,
        on_disk: io::Result<Vec<OsString>>,
    ) -> io::Result<Vec<OsString>> {
        let Some(known) = self.folders.get(folder) else { return on_disk };
        let mut names = match on_disk {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            on_disk => on_disk.unwrap_or_default(),
        };
        let there: HashSet<&OsString> = names.iter().collect();
        let more: Vec<OsString> =
            known.keys().map(OsString::from).filter(|name| !there.contains(name)).collect();
        names.extend(more);
        Ok(names)
    }
}
