//! Reading files: their stat, and the digest of contents that stood still while they were read.
//!
//! Invariant: a digest is given only for contents whose stat was the same before and after, and whose
//! length is what the stat says. Nothing follows a symbolic link, and nothing waits for a pipe.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use farm_types::Digest;
use farm_types::digest::Hasher;
use serde::{Deserialize, Serialize};

use super::ContextError;

/// What tells that a file is as it was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// The length, bytes.
    pub size: u64,
    /// When the content changed last, nanoseconds since 1970.
    pub mtime: i64,
    /// Of the last change of contents or of the file's properties, nanoseconds since 1970.
    pub ctime: i64,
    /// The file's number on its device.
    pub inode: u64,
    /// The device's number.
    pub device: u64,
}

impl From<&Metadata> for Stat {
    fn from(metadata: &Metadata) -> Self {
        let ns = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        Self {
            size: metadata.size(),
            mtime: ns(metadata.mtime(), metadata.mtime_nsec()),
            ctime: ns(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
            device: metadata.dev(),
        }
    }
}

/// A file that is open for reading.
pub trait OpenFile: Read {
    /// Its stat now.
    ///
    /// # Errors
    /// Those of the operating system.
    fn stat(&self) -> io::Result<Stat>;
}

impl OpenFile for File {
    fn stat(&self) -> io::Result<Stat> {
        let metadata = self.metadata()?;
        // What is no file any more counts as what a link does: it isn't read.
        if metadata.is_file() {
            Ok(Stat::from(&metadata))
        } else {
            Err(io::Error::from_raw_os_error(libc::ELOOP))
        }
    }
}

/// How files are opened; tests put in files that change under the reader's hands.
pub trait Files: Sync {
    /// Opens a regular file.
    ///
    /// # Errors
    /// Those of the operating system.
    fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>>;
}

/// The files of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk;

impl Files for Disk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn OpenFile>> {
        Ok(Box::new(open(path)?))
    }
}

/// Opens a file without following a link at its end, and without waiting should it be a pipe by now.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

/// Reads a file to its end: the digest, and the stat that goes with it; nothing when it is gone. When the
/// file changes meanwhile it is read once more.
///
/// # Errors
/// It can't be read, or changed both times; `name` is how the user knows it.
pub(super) fn digest(
    files: &dyn Files,
    path: &Path,
    name: &str,
    buffer: &mut [u8],
) -> Result<Option<(Digest, Stat)>, ContextError> {
    for _ in 0..2 {
        let mut once = || -> io::Result<Option<(Digest, Stat)>> {
            let mut file = files.open(path)?;
            let before = file.stat()?;
            let mut hasher = Hasher::new();
            let mut length = 0;
            loop {
                let n = match file.read(buffer) {
                    Ok(0) => break,
                    Ok(n) => n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(e) => return Err(e),
                };
                hasher.update(&buffer[..n]);
                length += u64::try_from(n).unwrap_or(u64::MAX);
            }
            let after = file.stat()?;
            let still = (before.size, before.mtime) == (after.size, after.mtime) && length == after.size;
            Ok(still.then(|| (hasher.finish(), after)))
        };
        match once() {
            Ok(Some(read)) => return Ok(Some(read)),
            Ok(None) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            // It is a link by now.
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) => {}
            Err(e) => return Err(ContextError::unreadable(name, &e)),
        }
    }
    Err(ContextError::Changed(name.to_owned()))
}

/// Calls `work` for each number below `count`, on as many threads as there are CPUs, each with a buffer of
/// its own; stops at the first error.
///
/// # Errors
/// An error of `work`; with several, that of the smallest number that was tried.
pub(super) fn in_parallel<T: Send>(
    count: usize,
    work: impl Fn(usize, &mut [u8]) -> Result<T, ContextError> + Sync,
) -> Result<Vec<T>, ContextError> {
    const BUFFER_BYTES: usize = 256 * 1024;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(16).min(count.max(1));
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(count));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut buffer = vec![0; BUFFER_BYTES];
                let mut mine = Vec::new();
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= count {
                        break;
                    }
                    let result = work(i, &mut buffer);
                    if result.is_err() {
                        // The others find nothing left to do.
                        next.fetch_max(count, Ordering::Relaxed);
                    }
                    mine.push((i, result));
                }
                done.lock().unwrap_or_else(PoisonError::into_inner).append(&mut mine);
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}
