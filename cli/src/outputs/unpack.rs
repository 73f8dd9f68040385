//! Files of an output into a folder, whatever the archive says.
//!
//! As buildx's: what is there and not in the output stays; what has the same name is replaced, a folder by a file with all
//! that is in it; modes (setuid, too), times to the nanosecond and extended attributes are the image's, owner is whoever runs
//! this. Devices are left out, with a word.
//!
//! Invariant: nothing outside the folder is touched. Every step is relative to an open folder, by one name, and follows no link:
//! neither one that was there nor one that the archive brought. A file is written beside its place and then put there, so that
//! no link's target, and no second name of a file, is ever written through.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use farm_types::chain::io_in_short;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags, chmod, fchmod, fsetxattr, fstat,
    futimens, linkat, mkdirat, mknodat, openat, renameat, statat, symlinkat, unlinkat, utimensat,
};
use tar::EntryType;

use super::archive::{self, Entry, joined, senseless};

/// How much was written into a folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// How many files, folders and links.
    pub entries: u64,
    /// The length of the files together, bytes.
    pub bytes: u64,
    /// What was left out, for people.
    pub warnings: Vec<String>,
}

/// How a folder is to be in the end. Until then its owner may read and write it.
struct Folder {
    parts: Vec<OsString>,
    mode: u32,
    /// Time and records; `None`: it is none of the output's, and keeps its own.
    own: Option<((i64, u32), Records)>,
}

type Records = Vec<(String, Vec<u8>)>;

/// A folder that is being filled. However that ends, its folders get the modes that they are to have.
pub struct Unpacking {
    root: OwnedFd,
    /// The folder that was used last, by its parts below the root.
    last: Option<(Vec<OsString>, OwnedFd)>,
    /// What comes last: modes and times of the output's folders, and modes that others had.
    folders: Vec<Folder>,
    /// When outputs of several platforms go to one folder: what came from which.
    taken: Option<HashMap<PathBuf, String>>,
    next_part: u64,
    done: Unpacked,
}

impl Unpacking {
    /// Opens the folder, and makes it (0700, as buildx does) if need be.
    ///
    /// # Errors
    /// It can't be made or opened.
    pub fn open(dest: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dest)?;
        let root = File::options().read(true).open(dest)?;
        Ok(Self {
            root: root.into(),
            last: None,
            folders: Vec::new(),
            taken: None,
            next_part: 0,
            done: Unpacked::default(),
        })
    }

    /// Outputs of several platforms share the folder: a file that two of them have is an error.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.taken = Some(HashMap::new());
        self
    }

    /// Puts all entries into the folder, or into this sub-folder of it. `platform` is whose they are.
    ///
    /// # Errors
    /// An entry can't be written, leads out of the folder, or another platform has it.
    pub fn take(&mut self, input: impl Read, below: Option<&str>, platform: &str) -> io::Result<()> {
        if let Some(below) = below {
            self.folder(vec![below.into()], 0o755, (0, 0), Vec::new())?;
        }
        archive::each(input, |entry, content| {
            let mut parts: Vec<OsString> = below.map(OsString::from).into_iter().collect();
            parts.extend(entry.parts()?);
            if parts.len() == usize::from(below.is_some()) {
                // The root itself: it is the user's folder.
                return Ok(());
            }
            if let Some(taken) = &mut self.taken
                && entry.header.entry_type() != EntryType::Directory
                && let Some(other) = taken.insert(joined(&parts), platform.to_owned())
                && other != platform
            {
                return Err(io::Error::other(format!(
                    "{} is in the output for {other} and in that for {platform}; leave platform-split=false out",
                    entry.shown()
                )));
            }
            // What the system says names no file.
            self.entry(&entry, parts, below, content).map_err(|error| match error.raw_os_error() {
                Some(_) => {
                    io::Error::new(error.kind(), format!("{}: {}", entry.shown(), io_in_short(&error)))
                }
                None => error,
            })
        })
    }

    /// Gives folders their modes and times, which writing into them would have changed.
    ///
    /// # Errors
    /// The system doesn't let us.
    pub fn finish(mut self) -> io::Result<Unpacked> {
        self.settle()?;
        Ok(std::mem::take(&mut self.done))
    }

    fn settle(&mut self) -> io::Result<()> {
        let mut folders = std::mem::take(&mut self.folders);
        // What is below comes first, as it may not be reached later; of one that is there twice the last one counts.
        folders.sort_by_key(|folder| std::cmp::Reverse(folder.parts.len()));
        let mut first = Ok(());
        for Folder { parts, mode, own } in folders {
            // One that something else took the place of has no say any more.
            let Ok(folder) = self.existing(&parts) else { continue };
            if let Some((_, records)) = &own {
                attributes(folder.as_fd(), records);
            }
            let done = fchmod(&folder, Mode::from_raw_mode(mode));
            let done = done.and_then(|()| own.map_or(Ok(()), |(time, _)| futimens(&folder, &times(time))));
            first = first.and(done);
        }
        Ok(first?)
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// One more file of so many bytes was written.
    pub(super) fn count(&mut self, bytes: u64) {
        self.done.entries += 1;
        self.done.bytes += bytes;
    }

    pub(super) fn entry(
        &mut self,
        entry: &Entry,
        mut parts: Vec<OsString>,
        below: Option<&str>,
        content: &mut dyn Read,
    ) -> io::Result<()> {
        let kind = entry.header.entry_type();
        let mode = entry.header.mode()? & 0o7777;
        let time = entry.modified()?;
        if kind == EntryType::Directory {
            self.done.entries += 1;
            return self.folder(parts, mode, time, entry.records.clone());
        }
        let shown = entry.shown();
        let Some(name) = parts.pop() else { return Ok(()) };
        let part = self.part_name();
        let folder = self.enter(&parts)?;
        match kind {
            EntryType::Regular | EntryType::Continuous => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file = File::from(openat(folder, &part, flags, Mode::from_raw_mode(0o600))?);
                let written = io::copy(&mut content.take(entry.size), &mut file);
                let written = written.and_then(|copied| match copied == entry.size {
                    true => Ok(copied),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                });
                let settled = written.and_then(|copied| {
                    attributes(file.as_fd(), &entry.records);
                    fchmod(&file, Mode::from_raw_mode(mode))?;
                    futimens(&file, &times(time))?;
                    Ok(copied)
                });
                match settled {
                    Ok(copied) => self.done.bytes += copied,
                    Err(error) => {
                        let _ = unlinkat(self.enter(&parts)?, &part, AtFlags::empty());
                        return Err(error);
                    }
                }
            }
            EntryType::Symlink => {
                // From the root means from the platform's: as BuildKit has it.
                let target = match below {
                    Some(below) if entry.link.starts_with(b"/") => {
                        [b"/", below.as_bytes(), &entry.link].concat()
                    }
                    _ => entry.link.clone(),
                };
                symlinkat(OsStr::new(&OsString::from_vec(target)), folder, &part)?;
                utimensat(folder, &part, &times(time), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            EntryType::Link => {
                let mut target: Vec<OsString> = below.map(OsString::from).into_iter().collect();
                target.extend(archive::parts(&entry.link)?);
                let Some(target_name) = target.pop() else { return Err(senseless("a link to nothing")) };
                let from = self.open_below(&target)?;
                linkat(&from, &target_name, self.enter(&parts)?, &part, AtFlags::empty())?;
            }
            EntryType::Fifo => {
                mknodat(folder, &part, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
                // Opened without waiting for a writer.
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fifo = openat(folder, &part, flags, Mode::empty())?;
                fchmod(&fifo, Mode::from_raw_mode(mode))?;
                futimens(&fifo, &times(time))?;
            }
            EntryType::Char | EntryType::Block => {
                self.done.warnings.push(format!("left out {shown}: it is a device"));
                return Ok(());
            }
            other => return Err(senseless(&format!("{shown:?} is of the kind {other:?}"))),
        }
        self.done.entries += 1;
        self.put(&parts, &part, &name).inspect_err(|_| {
            if let Ok(folder) = self.enter(&parts) {
                let _ = unlinkat(folder, &part, AtFlags::empty());
            }
        })
    }

    pub(super) fn part_name(&mut self) -> OsString {
        self.next_part += 1;
        format!(".farm-{}-{}.part", std::process::id(), self.next_part).into()
    }

    /// Puts what was written beside into its place.
    fn put(&mut self, parts: &[OsString], part: &OsStr, name: &OsStr) -> io::Result<()> {
        let folder = self.enter(parts)?;
        let there = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        if there.is_ok_and(|there| FileType::from_raw_mode(there.st_mode) == FileType::Directory) {
            remove_folder(folder, name)?;
            self.last = None;
        }
        let folder = self.enter(parts)?;
        renameat(folder, part, folder, name)?;
        // Of two names of one file the renaming leaves both.
        let _ = unlinkat(folder, part, AtFlags::empty());
        Ok(())
    }

    /// A folder of the output: made, or taken as it is.
    fn folder(
        &mut self,
        parts: Vec<OsString>,
        mode: u32,
        time: (i64, u32),
        records: Records,
    ) -> io::Result<()> {
        let Some((name, above)) = parts.split_last() else { return Ok(()) };
        let folder = self.enter(above)?;
        match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) if FileType::from_raw_mode(there.st_mode) == FileType::Directory => {
                loosen(folder, name)?;
            }
            Ok(_) => {
                unlinkat(folder, name, AtFlags::empty())?;
                mkdirat(folder, name, Mode::from_raw_mode(0o700))?;
            }
            Err(_) => mkdirat(folder, name, Mode::from_raw_mode(0o700))?,
        }
        self.folders.push(Folder { parts, mode, own: Some((time, records)) });
        Ok(())
    }

    /// The folder of these parts, which is kept open for the next entry.
    fn enter(&mut self, parts: &[OsString]) -> io::Result<BorrowedFd<'_>> {
        if parts.is_empty() {
            return Ok(self.root.as_fd());
        }
        if self.last.as_ref().is_none_or(|(known, _)| known != parts) {
            let folder = self.open_below(parts)?;
            self.last = Some((parts.to_vec(), folder));
        }
        self.last.as_ref().map(|(_, folder)| folder.as_fd()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Opens a folder below the root, name by name; one that isn't there is made, one that its owner can't write to becomes
    /// what it was in the end.
    fn open_below(&mut self, parts: &[OsString]) -> io::Result<OwnedFd> {
        let mut folder = self.root.try_clone()?;
        for (nth, part) in parts.iter().enumerate() {
            let parts = &parts[..=nth];
            folder = match loosen(folder.as_fd(), part) {
                Ok(before) => {
                    let parts = parts.to_vec();
                    self.folders.extend(before.map(|mode| Folder { parts, mode, own: None }));
                    openat(&folder, part, FOLDER, Mode::empty())?
                }
                Err(rustix::io::Errno::NOENT) => {
                    mkdirat(&folder, part, Mode::from_raw_mode(0o755))?;
                    openat(&folder, part, FOLDER, Mode::empty())?
                }
                Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => {
                    return Err(senseless(&format!(
                        "{:?} is no folder, and there is something in it",
                        joined(parts)
                    )));
                }
                Err(error) => return Err(error.into()),
            };
        }
        Ok(folder)
    }

    /// The same of one that is there, as it is.
    fn existing(&self, parts: &[OsString]) -> io::Result<OwnedFd> {
        parts.iter().try_fold(self.root.try_clone()?, |folder, part| {
            Ok(openat(&folder, part, FOLDER, Mode::empty())?)
        })
    }
}

impl Drop for Unpacking {
    fn drop(&mut self) {
        let _ = self.settle();
    }
}

/// How folders are opened.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Lets a folder's owner write to it; gives the mode that it had if it wasn't so.
fn loosen(above: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<Option<u32>> {
    // Also of one that may not be read.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(above, name, flags, Mode::empty())?;
    let mode = fstat(&folder)?.st_mode & 0o7777;
    if mode & 0o700 == 0o700 {
        return Ok(None);
    }
    // What is another's stays as it is; whether it can be written shows soon.
    let path = format!("/proc/self/fd/{}", folder.as_raw_fd());
    Ok(chmod(path, Mode::from_raw_mode(mode | 0o700)).is_ok().then_some(mode))
}

/// Extended attributes, as far as the file system and the kernel take them (buildx, too, asks for no more).
fn attributes(file: BorrowedFd<'_>, records: &Records) {
    use base64::Engine as _;
    for (key, value) in records {
        let Some(name) = key.strip_prefix("FARM.xattr.") else { continue };
        if let Ok(value) = base64::engine::general_purpose::STANDARD.decode(value) {
            let _ = fsetxattr(file, name, &value, XattrFlags::empty());
        }
    }
}

fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Removes a folder with all that is in it, without following links (as the standard library does it).
fn remove_folder(above: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    fs::remove_dir_all(Path::new("/proc/self/fd").join(above.as_raw_fd().to_string()).join(name))
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
