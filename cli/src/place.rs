//! A place that a user named for something to be written to: a file, a device, a pipe, or a link to one of them.
//!
//! It is looked at before the work begins ([`Place::find`]), emptied of what earlier work has left ([`Place::clear`]), and
//! written at the end ([`Place::write`]).
//!
//! Invariant: what is there is written into and never replaced, so that it keeps its owner, its mode and its other names,
//! and a device stays a device. What must not be written into (a folder, a disk, a socket) is refused when it is looked at.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use farm_types::chain::io_in_short;
use rustix::fs::{Access, access};

/// As many links as the system follows (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// Where it is, with links resolved, and what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    kind: Kind,
    /// The path as the user named it.
    named: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// A regular file, or none yet. Its device and number, and whether it has no other name.
    File { path: PathBuf, known: Option<(u64, u64)> },
    /// A pipe with a name.
    Fifo(PathBuf),
    /// A terminal, /dev/null, or the like.
    Device(PathBuf),
    /// What this process has open already: `/dev/stdout`, `/dev/fd/3`.
    Open(u32),
}

impl Place {
    /// Looks at what the path leads to. Changes nothing.
    ///
    /// # Errors
    /// A sentence with the cure: it can't be written there.
    pub fn find(named: &Path) -> Result<Self, String> {
        let place = |kind| Ok(Self { kind, named: named.to_owned() });
        let path = match resolve(named)? {
            Resolved::Open(number) => return place(Kind::Open(number)),
            Resolved::Path(path) => path,
        };
        let metadata = match path.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let folder = folder_of(&path);
                access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(|e| {
                    format!(
                        "its folder can't be written ({}); name a file in another one",
                        io_in_short(&e.into())
                    )
                })?;
                return place(Kind::File { path, known: None });
            }
            Err(e) => return Err(format!("it can't be looked at ({})", io_in_short(&e))),
        };
        refused(metadata.file_type())?;
        access(&path, Access::WRITE_OK)
            .map_err(|e| format!("it can't be written ({}); name another file", io_in_short(&e.into())))?;
        place(match metadata.file_type() {
            kind if kind.is_fifo() => Kind::Fifo(path),
            kind if kind.is_char_device() => Kind::Device(path),
            _ => Kind::File { path, known: Some((metadata.dev(), metadata.ino())) },
        })
    }

    /// True when what is written to both ends up in one place, where nobody could tell it apart.
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::File { known: Some(one), .. }, Kind::File { known: Some(other), .. }) => one == other,
            // Two may say nothing to nobody.
            (Kind::Device(_), _) | (_, Kind::Device(_)) => false,
            (one, other) => one == other,
        }
    }

    /// True when it is this file, by whatever name.
    pub fn is_file(&self, file: &Path) -> bool {
        let Kind::File { known: Some(known), .. } = &self.kind else { return false };
        file.metadata().is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == *known)
    }

    /// True when it is a regular file, or will be one.
    pub fn is_regular(&self) -> bool {
        matches!(self.kind, Kind::File { .. })
    }

    /// Takes out of a regular file what an earlier command has left there.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn clear(&self) -> io::Result<()> {
        match &self.kind {
            Kind::File { path, known: Some(_) } => {
                OpenOptions::new().write(true).truncate(true).open(path).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Writes into it. A pipe with a name waits for somebody who reads; blocks so long.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        // A terminal that is named doesn't become this process's own.
        let open = || OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY).clone();
        let mut file = match &self.kind {
            Kind::Open(1) => return all_of(&mut io::stdout().lock(), bytes),
            Kind::Open(2) => return all_of(&mut io::stderr().lock(), bytes),
            // What is there already belongs to whoever opened it.
            Kind::Open(number) => open().append(true).open(format!("/proc/self/fd/{number}"))?,
            Kind::Fifo(path) | Kind::Device(path) => open().open(path)?,
            Kind::File { path, .. } => open().create(true).truncate(true).open(path)?,
        };
        // It may have become something else meanwhile.
        refused(file.metadata()?.file_type()).map_err(io::Error::other)?;
        all_of(&mut file, bytes)
    }

    /// Nothing will be written: removes a regular file that is empty, and lets go who waits to read from a pipe.
    pub fn give_up(&self) {
        match &self.kind {
            Kind::File { path, .. } => {
                let is_left = |metadata: std::fs::Metadata| {
                    metadata.is_file() && metadata.len() == 0 && metadata.nlink() == 1
                };
                if path.symlink_metadata().is_ok_and(is_left) {
                    // Where it can't be removed (a mount, another's folder) it stays empty.
                    let _ = std::fs::remove_file(path);
                }
            }
            Kind::Fifo(path) => {
                // Without a reader this fails at once.
                let _ = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path);
            }
            Kind::Device(_) | Kind::Open(_) => {}
        }
    }

    /// As it was named, for messages.
    pub fn named(&self) -> &Path {
        &self.named
    }
}

fn all_of(to: &mut impl io::Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).and_then(|()| to.flush())
}

/// Why nothing can be written into a file of this type.
fn refused(kind: FileType) -> Result<(), String> {
    let what = match kind {
        kind if kind.is_dir() => "a folder",
        kind if kind.is_block_device() => "a disk",
        kind if kind.is_socket() => "a socket",
        _ => return Ok(()),
    };
    Err(format!("this is {what}; name a file"))
}

enum Resolved {
    Path(PathBuf),
    Open(u32),
}

/// Follows links to what they lead to, which need not be there; its folder must.
fn resolve(named: &Path) -> Result<Resolved, String> {
    let mut path = named.to_owned();
    for _ in 0..MOST_LINKS {
        let folder = match folder_of(&path).canonicalize() {
            Ok(folder) if folder.is_dir() => folder,
            Ok(_) => return Err("its folder is a file; name another place".to_owned()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err("its folder isn't there; make it first".to_owned());
            }
            Err(e) => return Err(format!("its folder can't be looked at ({})", io_in_short(&e))),
        };
        let Some(name) = path.file_name().filter(|_| !ends_as_folder(&path)) else {
            return Err("this is a folder; name a file".to_owned());
        };
        // Such a link leads to what is open, whatever it says in words.
        if Path::new("/proc/self/fd").canonicalize().is_ok_and(|own| own == folder)
            && let Some(number) = name.to_str().and_then(|name| name.parse().ok())
        {
            return match folder.join(name).metadata() {
                Ok(metadata) => refused(metadata.file_type())
                    .or_else(|why| if metadata.file_type().is_socket() { Ok(()) } else { Err(why) })
                    .map(|()| Resolved::Open(number)),
                Err(_) => Err(format!("nothing is open as {number}; name a file")),
            };
        }
        path = folder.join(name);
        match std::fs::read_link(&path) {
            Ok(target) => path = folder.join(target),
            Err(_) => return Ok(Resolved::Path(path)),
        }
    }
    Err("its links lead in a circle; name a file".to_owned())
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `out/` and `out/.` name folders, even where there is none.
fn ends_as_folder(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.ends_with(b"/") || bytes.ends_with(b"/.") || bytes == b"."
}

/// Writes a regular file whole or not at all: what reads it meanwhile sees the old one or the new one.
///
/// `mode` is that of a new file; one that was there keeps its own, and its owner. A link stays a link, to what is changed.
///
/// # Errors
/// A sentence: what is there is no regular file, or it can't be written.
pub fn replace(named: &Path, bytes: &[u8], mode: Mode) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt as _;
    let shown = |e: &io::Error| format!("it can't be written ({})", io_in_short(e));
    std::fs::create_dir_all(folder_of(named)).map_err(|e| shown(&e))?;
    let place = Place::find(named)?;
    let Kind::File { path, .. } = &place.kind else {
        return Err("this is no regular file, and would be lost; name a file".to_owned());
    };
    let before = path.metadata().ok();
    let mut file = tempfile::NamedTempFile::new_in(folder_of(path)).map_err(|e| shown(&e))?;
    file.write_all(bytes).map_err(|e| shown(&e))?;
    if let Some(before) = &before {
        // Root may write another's file; it stays theirs.
        let _ = std::os::unix::fs::fchown(file.as_file(), Some(before.uid()), Some(before.gid()));
    }
    let bits = match (mode, &before) {
        (Mode::Kept(_), Some(before)) => before.mode() & 0o7777,
        (Mode::Kept(mode) | Mode::Always(mode), _) => mode,
    };
    let set = |file: &File| file.set_permissions(std::fs::Permissions::from_mode(bits));
    set(file.as_file()).map_err(|e| shown(&e))?;
    // A name that comes to the disk before its content would be an empty file after a power cut.
    file.as_file().sync_all().map_err(|e| shown(&e))?;
    file.persist(path).map_err(|e| shown(&e.error))?;
    Ok(())
}

/// The permissions of a file that is written by [`replace`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// These, for a new file; one that was there keeps its own.
    Kept(u32),
    /// These, whatever was there.
    Always(u32),
}

#[cfg(test)]
#[path = "place_tests.rs"]
mod tests;
