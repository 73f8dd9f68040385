//! An image's layout as a folder (`tar=false`), in which other images may be already.
//!
//! Invariant: the folder's `index.json` is replaced last, when all that it names is there, by one that names what was there
//! too. Who joins it has a lock, as BuildKit's tools do it. Whatever the archive says, only folders and regular files come into
//! the folder.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, fstat, openat, renameat, statat, unlinkat};
use tar::EntryType;

use super::archive::{each, joined, senseless};
use super::layout::{INDEX_FILE, LONGEST_DOCUMENT, joined_index};
use super::unpack::Unpacking;

const LOCK_FILE: &str = "index.json.lock";
const MARK_FILE: &[u8] = b"oci-layout";
/// In the archive nobody may write these files; in a folder of buildx's their owner may.
const MODE: u32 = 0o644;

impl Unpacking {
    /// Puts all of an image into the folder but its `index.json`, which is given back.
    ///
    /// # Errors
    /// It can't be written, or has what is no part of an image.
    pub fn take_layout(&mut self, input: impl Read) -> io::Result<Vec<u8>> {
        let mut index = None;
        each(input, |mut entry, content| {
            let parts = entry.parts()?;
            let strange = |what: &str| senseless(&format!("{:?} in an image {what}", entry.shown()));
            let name = match entry.header.entry_type() {
                EntryType::Directory => entry.path.strip_suffix(b"/").unwrap_or(&entry.path),
                EntryType::Regular | EntryType::Continuous => &entry.path,
                kind => return Err(strange(&format!("is of the kind {kind:?}"))),
            };
            // What has one name only can't be taken for something else.
            if joined(&parts).as_os_str().as_bytes() != name {
                return Err(strange("has a name that isn't plain"));
            }
            if name == INDEX_FILE.as_bytes() {
                if entry.size > LONGEST_DOCUMENT {
                    return Err(strange("is too long"));
                }
                let mut bytes = Vec::new();
                content.read_to_end(&mut bytes)?;
                index = Some(bytes);
                return Ok(());
            }
            if name == MARK_FILE {
                entry.header.set_mode(MODE);
            }
            self.entry(&entry, parts, None, content)
        })?;
        index.ok_or_else(|| senseless("there is no index.json"))
    }

    /// Makes this the folder's `index.json`, together with what that names already.
    ///
    /// # Errors
    /// What is there is no index, or it can't be written.
    pub fn join_index(&mut self, new: &[u8]) -> io::Result<()> {
        let _lock = self.lock()?;
        let joined = self.with_old(new).and_then(|(index, mode)| {
            let part = self.part_name();
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(openat(self.root(), &part, flags, Mode::from_raw_mode(0o600))?);
            let written = file
                .write_all(&index)
                .and_then(|()| file.set_permissions(std::fs::Permissions::from_mode(mode)))
                .and_then(|()| Ok(renameat(self.root(), &part, self.root(), INDEX_FILE)?));
            written.inspect_err(|_| {
                let _ = unlinkat(self.root(), &part, AtFlags::empty());
            })
        });
        let _ = unlinkat(self.root(), LOCK_FILE, AtFlags::empty());
        self.count(u64::try_from(new.len()).unwrap_or(u64::MAX));
        joined
    }

    /// The new index and the one that is there in one, and its mode.
    fn with_old(&self, new: &[u8]) -> io::Result<(Vec<u8>, u32)> {
        let wrong = |why: &str| io::Error::other(format!("its {INDEX_FILE} {why}; name another folder"));
        // Of a pipe nobody waits for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(self.root(), INDEX_FILE, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok((new.to_vec(), MODE)),
            Err(rustix::io::Errno::LOOP) => return Err(wrong("is a link")),
            Err(error) => return Err(error.into()),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(wrong("is no file"));
        }
        let mut old = Vec::new();
        file.take(LONGEST_DOCUMENT).read_to_end(&mut old)?;
        let index = joined_index(&old, new)
            .map_err(|error| wrong(&format!("can't be understood ({error}), and would be lost")))?;
        Ok((index, metadata.mode() & 0o7777))
    }

    fn lock(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        loop {
            let file = openat(self.root(), LOCK_FILE, flags, Mode::from_raw_mode(MODE))?;
            flock(&file, FlockOperation::LockExclusive)?;
            // Whoever had it before has removed it.
            let own = fstat(file.as_fd())?;
            let there = statat(self.root(), LOCK_FILE, AtFlags::SYMLINK_NOFOLLOW);
            if there.is_ok_and(|there| (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)) {
                return Ok(file);
            }
        }
    }
}

#[cfg(test)]
#[path = "layout_folder_tests.rs"]
mod tests;
