//! An archive that was brought from elsewhere: unpacked as one from standard input ([`super::stdin`]), and held to limits, as whoever made
//! it may be anybody.
//!
//! Invariant: what is read, written, kept in memory and said of it is bounded, whatever the archive says.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;

use super::archive::{ArchiveError, FIRST_BYTES};
use super::stdin::{NOT_READ, begins};
use super::unpack::{Limits, Shape, Unpacked, unpack};

/// As much memory may xz take, KiB: twice of what `xz -9` makes files need.
const XZ_MEMORY_KB: u32 = 128 << 10;
/// What stands in an archive for an entry besides its bytes, at most on the average.
const BESIDES: u64 = 4096;

/// Why it isn't unpacked.
#[derive(Debug, thiserror::Error)]
pub enum NotUnpacked {
    /// What is in it has more bytes than may be.
    #[error("it has more bytes than it may")]
    TooLarge,
    /// It has more entries than may be.
    #[error("it has more entries than it may")]
    TooMany,
    /// It was told to stop.
    #[error("it was told to stop")]
    BrokenOff,
    /// It is a text, as a Dockerfile is.
    #[error("it is a text")]
    Text,
    /// It is no archive, or has something that can't be taken: the rest of a sentence about it, with the cure.
    #[error("{0}")]
    Unusable(String),
    /// The disk takes no more, or doesn't give what it has.
    #[error(transparent)]
    Disk(io::Error),
}

/// Unpacks the archive in this file into a new folder in `place`, plain or compressed by gzip, bzip2 or xz. Blocks.
///
/// # Errors
/// It is none, has something that can't be taken, or more than it may.
pub fn unpack_file(mut file: File, place: &Path, limits: Limits<'_>) -> Result<Unpacked, NotUnpacked> {
    let folder = tempfile::Builder::new().prefix("context-").tempdir_in(place).map_err(NotUnpacked::Disk)?;
    let head = first_bytes(&mut file).map_err(NotUnpacked::Disk)?;
    if let Some((_, what, _)) = NOT_READ.iter().find(|(magic, ..)| head.starts_with(magic)) {
        return Err(NotUnpacked::Unusable(format!(
            "is {what}; of archives tar's are taken, plain or compressed by gzip, bzip2 or xz"
        )));
    }
    let kind: [&[u8]; 3] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"];
    let kind = kind.map(|magic| head.starts_with(magic));
    let (is_archive, is_text) = (begins(&head), !head.is_empty() && !head.contains(&0));
    // What is decompressed is counted where it comes out, but not all that goes in comes out.
    let file = Counted { input: file, left: u64::MAX, limits };
    let whole = io::BufReader::with_capacity(256 * 1024, io::Cursor::new(head).chain(file));
    match kind {
        [true, _, _] => contents(MultiGzDecoder::new(whole), folder, limits),
        [_, true, _] => contents(MultiBzDecoder::new(whole), folder, limits),
        [_, _, true] => contents(XzReader::new_mem_limit(whole, true, XZ_MEMORY_KB), folder, limits),
        _ if is_archive => contents(whole, folder, limits),
        _ if is_text => Err(NotUnpacked::Text),
        _ => Err(NotUnpacked::Unusable(
            "is no archive; of archives tar's are taken, plain or compressed by gzip, bzip2 or xz".to_owned(),
        )),
    }
}

fn first_bytes(input: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    input.take(u64::try_from(FIRST_BYTES).unwrap_or(u64::MAX)).read_to_end(&mut head)?;
    Ok(head)
}

/// Unpacks what comes out of it.
fn contents(
    input: impl Read,
    folder: tempfile::TempDir,
    limits: Limits<'_>,
) -> Result<Unpacked, NotUnpacked> {
    let most = limits.bytes.saturating_add(limits.entries.saturating_mul(BESIDES));
    let mut input = Counted { input, left: most, limits };
    let head = first_bytes(&mut input).map_err(unread)?;
    if !begins(&head) {
        return Err(NotUnpacked::Unusable("holds no archive of tar's; see what is in it".to_owned()));
    }
    let whole = io::BufReader::with_capacity(256 * 1024, io::Cursor::new(head).chain(input));
    unpack(whole, folder, (limits, Shape::BROUGHT)).map_err(|error| match error {
        ArchiveError::TooLarge => NotUnpacked::TooLarge,
        ArchiveError::TooMany => NotUnpacked::TooMany,
        ArchiveError::BrokenOff => NotUnpacked::BrokenOff,
        ArchiveError::Io(error) => unread(error),
        other => NotUnpacked::Unusable(other.to_string()),
    })
}

/// What an error of reading or writing means: the machine's has one of these numbers, all others are the archive's.
fn unread(error: io::Error) -> NotUnpacked {
    const MACHINE: [i32; 8] = [
        libc::ENOSPC,
        libc::EDQUOT,
        libc::EIO,
        libc::EROFS,
        libc::EACCES,
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOMEM,
    ];
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Over>()) {
        Some(Over::Bytes) => NotUnpacked::TooLarge,
        Some(Over::Stopped) => NotUnpacked::BrokenOff,
        None if error.raw_os_error().is_some_and(|number| MACHINE.contains(&number)) => {
            NotUnpacked::Disk(error)
        }
        None => NotUnpacked::Unusable(format!("can't be unpacked ({error}); make it anew")),
    }
}

/// Counts what comes out, asks whether it is to go on, and breaks off.
struct Counted<'a, R> {
    input: R,
    left: u64,
    limits: Limits<'a>,
}

/// Why it was broken off.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error("too much")]
    Bytes,
    #[error("told to stop")]
    Stopped,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.limits.goes_on.goes_on() {
            return Err(io::Error::other(Over::Stopped));
        }
        let read = self.input.read(buffer)?;
        let count = u64::try_from(read).unwrap_or(u64::MAX);
        self.left = self.left.checked_sub(count).ok_or_else(|| io::Error::other(Over::Bytes))?;
        Ok(read)
    }
}

#[cfg(test)]
#[path = "brought_tests.rs"]
mod tests;
