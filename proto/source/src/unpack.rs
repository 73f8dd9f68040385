//! An archive as a folder of files, with what the archive says of them beside it.
//!
//! On the disk all is readable by its user and by nobody else: modes and times of the archive are kept in [`Recorded`] and
//! take the place of the disk's when the folder is read. So nothing depends on the umask, on who runs farm, or on what the
//! disk can keep, and a folder of mode 000 can be filled and read.
//!
//! The rules are Docker's (the archive package of its engine): what comes later replaces what came before, a name goes
//! through links as long as they stay inside, `..` may not lead out, a leading `/` doesn't count.
//!
//! Invariant: nothing is written outside the folder, and nothing that the archive has is missing from it but what
//! [`Unpacked::left_out`] says.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use tempfile::TempDir;

use super::archive::{Archive, ArchiveError, Entry, Kind, Most, shown};
use super::within::{Leads, follow};

/// At most so many things that were left out are told one by one.
pub(super) const TOLD: usize = 10;

/// What an archive says of an entry, whatever the disk says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// When it changed last, nanoseconds since 1970.
    pub mtime: i64,
}

/// The stamps of all that was unpacked, by the path in the folder; empty for a folder that is one.
#[derive(Debug, Clone, Default)]
pub struct Recorded(BTreeMap<PathBuf, Stamp>);

impl Recorded {
    /// The stamp of what is at this path, if an archive brought it.
    pub fn of(&self, path: &Path) -> Option<Stamp> {
        self.0.get(path).copied()
    }

    /// Forgets a path and all below.
    fn forget(&mut self, path: &Path) {
        let below: Vec<_> = self
            .0
            .range(path.to_owned()..)
            .map(|(known, _)| known)
            .take_while(|known| known.starts_with(path))
            .cloned()
            .collect();
        for path in below {
            self.0.remove(&path);
        }
    }
}

/// An archive that was unpacked.
#[derive(Debug)]
pub struct Unpacked {
    /// Holds its files; goes with the value.
    pub folder: TempDir,
    /// Modes and times that the archive gives them.
    pub recorded: Recorded,
    /// Sentences on what was left out.
    pub left_out: Vec<String>,
}

/// Where a link's mode is not the archive's: no system has one.
const LINK_MODE: u32 = 0o777;
/// Of a folder that only the names of others tell of.
const IMPLIED_MODE: u32 = 0o755;

/// How much an archive may have.
#[derive(Debug, Clone, Copy)]
pub struct Limits<'a> {
    /// Bytes of its files: of one that is there by several names (hard links) as often, since each of them is read.
    pub bytes: u64,
    /// Entries, and folders that only their names tell of.
    pub entries: u64,
    /// Whether it is to go on, asked again and again.
    pub goes_on: &'a dyn GoesOn,
}

/// Whether something is to go on.
pub trait GoesOn: std::fmt::Debug + Sync {
    /// No: it is broken off.
    fn goes_on(&self) -> bool;
}

/// Nothing is broken off.
#[derive(Debug, Clone, Copy)]
pub struct Always;

impl GoesOn for Always {
    fn goes_on(&self) -> bool {
        true
    }
}

/// What of it is kept in memory, and how deep its folders lie, at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    said: Most,
    /// Bytes of all paths and of all links' targets.
    names: usize,
    /// As many names has a path: a folder in a folder takes an open file of whoever removes it.
    depth: usize,
    /// Bytes of a path.
    path: usize,
}

impl Shape {
    /// Of an archive that a user has.
    pub(super) const OWN: Self =
        Self { said: Most::OWN, names: usize::MAX, depth: usize::MAX, path: usize::MAX };
    /// Of anybody's.
    pub(super) const BROUGHT: Self = Self { said: Most::BROUGHT, names: 64 << 20, depth: 128, path: 2048 };
}

impl Limits<'_> {
    /// As much as there is: of an archive that a user has.
    pub(super) const NONE: Self = Self { bytes: u64::MAX, entries: u64::MAX, goes_on: &Always };
}

/// Unpacks all of `input`, as far as the limits let it.
///
/// # Errors
/// It is no whole archive, has an entry that can't be taken, or has more than it may.
pub(super) fn unpack(
    input: impl Read,
    folder: TempDir,
    (limits, shape): (Limits<'_>, Shape),
) -> Result<Unpacked, ArchiveError> {
    let mut archive = Archive::new(input, shape.said);
    let mut target = Target {
        root: folder.path().to_owned(),
        left: limits,
        shape,
        recorded: Recorded::default(),
        left_out: Vec::new(),
        devices: 0,
        attributes: 0,
    };
    open(&target.root, 0o700)?;
    while let Some(entry) = archive.next()? {
        if !limits.goes_on.goes_on() {
            return Err(ArchiveError::BrokenOff);
        }
        target.add(&entry, &mut archive)?;
    }
    let Target { recorded, mut left_out, devices, attributes, .. } = target;
    if devices > TOLD {
        left_out.push(format!("and {} more sockets and devices are left out", devices - TOLD));
    }
    if attributes > 0 {
        left_out.push(format!(
            "extended attributes and access lists are left out, as a folder's are ({attributes} in the archive)"
        ));
    }
    Ok(Unpacked { folder, recorded, left_out })
}

/// Sets the mode on the disk, whatever the umask made of it.
fn open(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

struct Target<'a> {
    root: PathBuf,
    /// What is left of the limits.
    left: Limits<'a>,
    /// The same, of what else is bounded.
    shape: Shape,
    recorded: Recorded,
    left_out: Vec<String>,
    devices: usize,
    attributes: usize,
}

impl Target<'_> {
    /// Counts an entry that is made.
    fn take_entry(&mut self) -> Result<(), ArchiveError> {
        self.left.entries = self.left.entries.checked_sub(1).ok_or(ArchiveError::TooMany)?;
        Ok(())
    }

    /// Counts bytes that are written, or read once more.
    fn take_bytes(&mut self, bytes: u64) -> Result<(), ArchiveError> {
        self.left.bytes = self.left.bytes.checked_sub(bytes).ok_or(ArchiveError::TooLarge)?;
        Ok(())
    }

    /// Counts bytes of names that are kept.
    fn take_names(&mut self, bytes: usize) -> Result<(), ArchiveError> {
        let too_long = || {
            let cure = "take some out of it, or make them shorter";
            ArchiveError::Other(format!("has more than 64 MiB of names; {cure}"))
        };
        self.shape.names = self.shape.names.checked_sub(bytes).ok_or_else(too_long)?;
        Ok(())
    }

    /// Refuses what lies too deep, wherever links have led to.
    fn check_path(&self, path: &Path, entry: &Entry) -> Result<(), ArchiveError> {
        let Shape { depth, path: longest, .. } = self.shape;
        let why = match path {
            path if path.as_os_str().len() > longest => format!("its path is longer than {longest} bytes"),
            path if path.components().count() > depth => format!("its path has more than {depth} names"),
            _ => return Ok(()),
        };
        Err(ArchiveError::unsupported(&entry.name, &why, "leave it out of the archive"))
    }

    /// Keeps what the archive says of what lies there.
    fn record(&mut self, path: &Path, stamp: Stamp) -> Result<(), ArchiveError> {
        self.take_names(path.as_os_str().len())?;
        self.recorded.0.insert(path.to_owned(), stamp);
        Ok(())
    }

    fn add<R: Read>(&mut self, entry: &Entry, archive: &mut Archive<R>) -> Result<(), ArchiveError> {
        self.take_entry()?;
        let name = clean(&entry.name)?;
        let (Some(parent), Some(leaf)) = (name.parent(), name.file_name()) else {
            // The folder itself, of which nothing is kept.
            return match entry.kind {
                Kind::Folder => Ok(()),
                _ => Err(ArchiveError::unsupported(
                    &entry.name,
                    "it has no name",
                    "leave it out of the archive",
                )),
            };
        };
        self.attributes += usize::from(entry.has_attributes);
        let path = self.folder(parent, entry)?.join(leaf);
        self.check_path(&path, entry)?;
        if self.make_way(&path, entry)? {
            self.make(&path, entry, archive)?;
        }
        Ok(())
    }

    /// The folder at this path, made if it is missing.
    fn folder(&mut self, path: &Path, entry: &Entry) -> Result<PathBuf, ArchiveError> {
        match follow(&self.root, path, true)? {
            Leads::To(folder) if self.root.join(&folder).symlink_metadata()?.is_dir() => Ok(folder),
            Leads::Missing { mut folder, names } => {
                let above = std::iter::once(folder.as_os_str());
                let whole: PathBuf = above.chain(names.iter().map(OsString::as_os_str)).collect();
                self.check_path(&whole, entry)?;
                for name in names {
                    self.take_entry()?;
                    folder.push(name);
                    self.make_folder(&folder)?;
                    // A time of this run would make a new snapshot of the same archive each time.
                    self.record(&folder, Stamp { mode: IMPLIED_MODE, mtime: entry.mtime })?;
                }
                Ok(folder)
            }
            Leads::To(_) | Leads::Nowhere => Err(ArchiveError::unsupported(
                &entry.name,
                "what it should lie in is no folder, or a link that leads to none in the archive",
                "see what the archive has of that name (tar -tvf)",
            )),
        }
    }

    /// Takes away what an earlier entry put there; tells whether the new one is to be put there.
    fn make_way(&mut self, path: &Path, entry: &Entry) -> Result<bool, ArchiveError> {
        let at = self.root.join(path);
        let Some(there) = absent(at.symlink_metadata())? else { return Ok(true) };
        if let Kind::HardLink { target } = &entry.kind
            && self.linked(target, entry)? == path
        {
            return Ok(false);
        }
        match (there.is_dir(), &entry.kind) {
            (true, Kind::Folder) => return Ok(true),
            (true, _) => fs::remove_dir_all(&at)?,
            (false, _) => fs::remove_file(&at)?,
        }
        self.recorded.forget(path);
        Ok(true)
    }

    fn make<R: Read>(
        &mut self,
        path: &Path,
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> Result<(), ArchiveError> {
        let at = self.root.join(path);
        let mut stamp = Stamp { mode: entry.mode, mtime: entry.mtime };
        match &entry.kind {
            Kind::File { size, extents } => {
                self.take_bytes(*size)?;
                let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at)?;
                archive.copy(*size, extents.as_deref(), &mut file)?;
                open(&at, 0o600)?;
            }
            Kind::Folder => {
                if absent(at.symlink_metadata())?.is_none() {
                    self.make_folder(path)?;
                }
            }
            Kind::Symlink { target } => {
                stamp.mode = LINK_MODE;
                self.take_names(target.len())?;
                symlink(OsStr::from_bytes(target), &at)?;
            }
            Kind::HardLink { target } => {
                let target = self.linked(target, entry)?;
                stamp = self.recorded.of(&target).unwrap_or(stamp);
                let target = self.root.join(target);
                self.take_bytes(target.symlink_metadata()?.len())?;
                // Not every disk has hard links, and none has any number.
                if let Err(error) = fs::hard_link(&target, &at) {
                    let metadata = target.symlink_metadata()?;
                    if !metadata.is_file() {
                        return Err(error.into());
                    }
                    fs::copy(&target, &at)?;
                }
            }
            Kind::Fifo => rustix::fs::mknodat(
                rustix::fs::CWD,
                &at,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
                0,
            )
            .map_err(io::Error::from)?,
            Kind::Device => {
                self.devices += 1;
                if self.devices <= TOLD {
                    let name = shown(path.as_os_str().as_bytes());
                    self.left_out.push(format!("{name:?} is a device and is left out"));
                }
                return Ok(());
            }
        }
        self.record(path, stamp)
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        let at = self.root.join(path);
        fs::create_dir(&at)?;
        open(&at, 0o700)
    }

    /// What a hard link leads to.
    fn linked(&self, target: &[u8], entry: &Entry) -> Result<PathBuf, ArchiveError> {
        let wrong = |why: &str| {
            let target = shown(target);
            let cure = "make the archive of all names of the file, or leave this one out";
            Err(ArchiveError::unsupported(&entry.name, &format!("a hard link to {target:?}, {why}"), cure))
        };
        match follow(&self.root, &clean(target)?, false)? {
            Leads::To(path)
                if path.as_os_str().is_empty() || self.root.join(&path).symlink_metadata()?.is_dir() =>
            {
                wrong("which is a folder")
            }
            Leads::To(path) => Ok(path),
            Leads::Missing { .. } | Leads::Nowhere => wrong("which isn't in the archive before it"),
        }
    }
}

fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// A name as a path in the folder: without `.`, `..` and a leading `/`.
///
/// # Errors
/// The name leads out of the folder.
fn clean(name: &[u8]) -> Result<PathBuf, ArchiveError> {
    let path = Path::new(OsStr::from_bytes(name));
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            // There is nothing above the root.
            Component::ParentDir if path.is_absolute() => drop(clean.pop()),
            Component::ParentDir => {
                if !clean.pop() {
                    return Err(ArchiveError::unsupported(
                        name,
                        "it leads out of the archive",
                        "make the archive in the folder that is to be the context (tar -C FOLDER -c .)",
                    ));
                }
            }
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    Ok(clean)
}
