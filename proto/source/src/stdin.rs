//! A context, or a Dockerfile, from standard input: put into a folder, and read from there as any other.
//!
//! As Docker does it: what begins as an archive is the context ([`super::unpack`]), anything else is a Dockerfile without a
//! context. To add a way of compression: its first bytes and its reader in [`read`].

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use tempfile::TempDir;

use super::ContextError;
use super::archive::{self, FIRST_BYTES};
use super::unpack::{Limits, Shape, Unpacked, unpack};

/// A Dockerfile is no longer than that, bytes.
const LONGEST_DOCKERFILE: u64 = 16 << 20;

/// Other things that come in files, by their first bytes, and what makes of them what is read.
pub(super) const NOT_READ: [(&[u8], &str, &str); 6] = [
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "put `zstd -d |` before it"),
    (b"\x04\x22\x4d\x18", "compressed by lz4", "put `lz4 -d |` before it"),
    (b"LZIP", "compressed by lzip", "put `lzip -d |` before it"),
    (b"\x5d\0\0", "compressed by lzma", "put `xz -d --format=lzma |` before it"),
    (b"\x1f\x9d", "compressed by compress", "put `gzip -d |` before it"),
    (b"PK\x03\x04", "a zip archive", "unpack it and name the folder"),
];

/// What standard input turned out to be.
#[derive(Debug)]
pub enum Came {
    /// An archive: the context.
    Context(Unpacked),
    /// A text: the folder holds it as `Dockerfile` and nothing else.
    Dockerfile(TempDir),
}

/// Reads all of `input` into a folder that goes with the value.
///
/// # Errors
/// It is empty, compressed in a way that isn't read here, or can't be unpacked.
pub fn read(mut input: impl Read) -> Result<Came, ContextError> {
    let folder = tempfile::tempdir().map_err(|e| failed("a temporary folder", &e))?;
    let head = first_bytes(&mut input)?;
    if head.is_empty() {
        return Err(ContextError::Location(
            "standard input is empty; give it a Dockerfile, or an archive (tar -c . | farm submit - …)"
                .to_owned(),
        ));
    }
    if let Some((_, what, cure)) = NOT_READ.iter().find(|(magic, ..)| head.starts_with(magic)) {
        return Err(ContextError::Location(format!(
            "standard input is {what}; of archives tar's are read, plain or compressed by gzip, bzip2 or xz; {cure}"
        )));
    }
    let is_archive = begins(&head);
    let kind: [&[u8]; 3] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"];
    let kind = kind.map(|magic| head.starts_with(magic));
    let has_nul = head.contains(&0);
    let whole = io::Cursor::new(head).chain(input);
    match kind {
        [true, _, _] => compressed(MultiGzDecoder::new(whole), folder),
        [_, true, _] => compressed(MultiBzDecoder::new(whole), folder),
        [_, _, true] => compressed(XzReader::new(whole, true), folder),
        _ if is_archive => context(whole, folder),
        _ if has_nul => Err(ContextError::Location(
            "standard input is neither an archive nor a Dockerfile: it holds NUL bytes, and begins as no archive that is known"
                .to_owned(),
        )),
        _ => {
            dockerfile(whole, folder.path())?;
            Ok(Came::Dockerfile(folder))
        }
    }
}

/// Reads a Dockerfile alone.
///
/// # Errors
/// It is too long, or can't be read.
pub fn read_dockerfile(input: impl Read) -> Result<TempDir, ContextError> {
    let folder = tempfile::tempdir().map_err(|e| failed("a temporary folder", &e))?;
    dockerfile(input, folder.path())?;
    Ok(folder)
}

/// As many bytes as tell what it is, or all.
fn first_bytes(input: &mut impl Read) -> Result<Vec<u8>, ContextError> {
    let mut head = Vec::new();
    let looked_at = u64::try_from(FIRST_BYTES).unwrap_or(u64::MAX);
    input.take(looked_at).read_to_end(&mut head).map_err(|e| failed("standard input", &e))?;
    Ok(head)
}

pub(super) fn begins(head: &[u8]) -> bool {
    head.try_into().is_ok_and(|head: &[u8; FIRST_BYTES]| archive::begins(head))
}

fn compressed(mut input: impl Read, folder: TempDir) -> Result<Came, ContextError> {
    let head = first_bytes(&mut input)?;
    if !begins(&head) {
        return Err(ContextError::Location(
            "what is compressed on standard input is no archive; a Dockerfile is sent as it is".to_owned(),
        ));
    }
    context(io::Cursor::new(head).chain(input), folder)
}

fn context(input: impl Read, folder: TempDir) -> Result<Came, ContextError> {
    unpack(io::BufReader::with_capacity(256 * 1024, input), folder, (Limits::NONE, Shape::OWN))
        .map(Came::Context)
        .map_err(|e| ContextError::Location(format!("the archive on standard input {e}")))
}

fn dockerfile(input: impl Read, folder: &Path) -> Result<(), ContextError> {
    let mut text = Vec::new();
    input.take(LONGEST_DOCKERFILE + 1).read_to_end(&mut text).map_err(|e| failed("standard input", &e))?;
    if u64::try_from(text.len()).is_ok_and(|len| len > LONGEST_DOCKERFILE) {
        return Err(ContextError::Location(
            "standard input is neither an archive nor a Dockerfile: it is longer than 16 MiB".to_owned(),
        ));
    }
    fs::write(folder.join("Dockerfile"), text).map_err(|e| failed("a temporary file", &e))
}

fn failed(what: &str, error: &io::Error) -> ContextError {
    ContextError::Location(format!("{what} can't be read or unpacked ({error})"))
}
