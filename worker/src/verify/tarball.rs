//! The heads of a tar archive's files, with their paths: all of it that a look needs.
//!
//! Format: POSIX.1-2017, "pax", ustar and extended headers; GNU tar's long names (type L). Names are cut at [`NAME_BYTES`], whatever
//! an archive claims, and nothing of a file but its head is kept, so that no archive takes more memory than another.

use std::io::{self, Read};

/// The archive's unit.
const BLOCK: usize = 512;
/// The longest path that is known.
const NAME_BYTES: u64 = 1024;
/// The longest extended header that is read: it may hold the path.
const EXTENDED_BYTES: u64 = 1 << 20;

/// Calls `found` with the path and the first `HEAD` bytes (fewer, of a shorter file) of each regular file. Reads no more than `most`
/// entries: then, and at something that is no archive, it is an error.
pub(crate) fn heads<const HEAD: usize>(
    mut archive: impl Read,
    most: u64,
    mut found: impl FnMut(&str, &[u8]),
) -> io::Result<()> {
    let mut next = Next::default();
    for _ in 0..most {
        let mut header = [0; BLOCK];
        match fill(&mut archive, &mut header)? {
            0 => return Ok(()),
            BLOCK => {}
            _ => return Err(broken("a header is cut off")),
        }
        if header.iter().all(|&byte| byte == 0) {
            // The end; what follows it is nobody's.
            return Ok(());
        }
        check_sum(&header)?;
        let size = number(&header[124..136])?;
        match header[156] {
            b'x' => {
                let text = text(&mut archive, size, EXTENDED_BYTES)?;
                next.extended(&text);
            }
            b'L' => {
                let mut name = text(&mut archive, size, NAME_BYTES)?;
                name.truncate(name.iter().position(|&byte| byte == 0).unwrap_or(name.len()));
                next.path = Some(name);
            }
            // Of all files that follow, and the long target of a link.
            b'g' | b'K' => skip(&mut archive, padded(size)?)?,
            kind => {
                let Next { path, size: told } = std::mem::take(&mut next);
                let size = told.unwrap_or(size);
                // Regular files, in all their spellings; of a sparse one what is there begins with a map, or with its first bytes.
                if !matches!(kind, b'0' | 0 | b'7' | b'S') {
                    // Links and folders have no bytes, whatever they say of their size.
                    if !matches!(kind, b'1'..=b'6') {
                        skip(&mut archive, padded(size)?)?;
                    }
                    continue;
                }
                if kind == b'S' {
                    // Its further maps come before its bytes.
                    let mut more = header[482] != 0;
                    while more {
                        let mut map = [0; BLOCK];
                        archive.read_exact(&mut map)?;
                        more = map[504] != 0;
                    }
                }
                let path = path.unwrap_or_else(|| name(&header));
                let mut head = [0; HEAD];
                let wanted = usize::try_from(size).unwrap_or(HEAD).min(HEAD);
                archive.read_exact(&mut head[..wanted])?;
                let path = String::from_utf8_lossy(&path);
                found(path.trim_start_matches("./").trim_start_matches('/'), &head[..wanted]);
                let read = u64::try_from(wanted).unwrap_or(0);
                skip(&mut archive, padded(size)?.saturating_sub(read))?;
            }
        }
    }
    Err(broken("it has too many entries"))
}

/// What extended headers say of the entry that follows.
#[derive(Default)]
struct Next {
    path: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Next {
    /// Takes records of the form `LENGTH KEY=VALUE\n`.
    fn extended(&mut self, mut text: &[u8]) {
        while let Some(blank) = text.iter().position(|&byte| byte == b' ') {
            let length = std::str::from_utf8(&text[..blank]).ok().and_then(|text| text.parse::<usize>().ok());
            let Some(record) = length.and_then(|length| text.get(blank + 1..length)) else { return };
            let end = blank + 1 + record.len();
            let record = record.strip_suffix(b"\n").unwrap_or(record);
            let value = |key: &[u8]| record.strip_prefix(key);
            if let Some(path) = value(b"path=").or_else(|| value(b"GNU.sparse.name=")) {
                let longest = usize::try_from(NAME_BYTES).unwrap_or(usize::MAX);
                self.path = Some(path[..path.len().min(longest)].to_vec());
            } else if let Some(size) = value(b"size=") {
                self.size = std::str::from_utf8(size).ok().and_then(|text| text.parse().ok());
            }
            text = &text[end..];
        }
    }
}

/// The path of a ustar header: with its prefix, if it is one of POSIX.
fn name(header: &[u8; BLOCK]) -> Vec<u8> {
    let part = |bytes: &[u8]| bytes.split(|&byte| byte == 0).next().unwrap_or_default().to_vec();
    let name = part(&header[..100]);
    if header[257..263] != *b"ustar\0" || header[345] == 0 {
        return name;
    }
    [part(&header[345..500]), name].join(&b'/')
}

/// A field with a number: octal digits, or after a first byte of 0x80 the number itself.
fn number(field: &[u8]) -> io::Result<u64> {
    if field[0] & 0x80 != 0 {
        let mut bytes = field.iter().enumerate().map(|(i, &byte)| if i == 0 { byte & 0x7f } else { byte });
        let number = bytes.try_fold(0_u64, |number, byte| {
            // After the factor there is room for a byte.
            number.checked_mul(256).map(|number| number + u64::from(byte))
        });
        return number.ok_or_else(|| broken("a size is too large"));
    }
    let digits =
        field.iter().copied().skip_while(|&byte| byte == b' ').take_while(|byte| !matches!(byte, 0 | b' '));
    digits
        .map(|digit| match digit {
            b'0'..=b'7' => Some(u64::from(digit - b'0')),
            _ => None,
        })
        .try_fold(0_u64, |number, digit| number.checked_mul(8)?.checked_add(digit?))
        .ok_or_else(|| broken("a size is no number"))
}

fn check_sum(header: &[u8; BLOCK]) -> io::Result<()> {
    let told = number(&header[148..156])?;
    let sum = |at: usize, byte: u8| if (148..156).contains(&at) { 32 } else { u64::from(byte) };
    let sum: u64 = header.iter().enumerate().map(|(at, &byte)| sum(at, byte)).sum();
    if sum == told { Ok(()) } else { Err(broken("it is no archive")) }
}

/// Reads the bytes of a short entry; of a longer one those that count, the rest is passed over.
fn text(archive: &mut impl Read, size: u64, most: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let wanted = size.min(most);
    let read = archive.by_ref().take(wanted).read_to_end(&mut text)?;
    if u64::try_from(read).ok() != Some(wanted) {
        return Err(broken("an entry is cut off"));
    }
    skip(archive, padded(size)? - wanted)?;
    Ok(text)
}

/// With what fills up its last block.
fn padded(size: u64) -> io::Result<u64> {
    size.checked_next_multiple_of(512).ok_or_else(|| broken("a size is too large"))
}

fn skip(archive: &mut impl Read, bytes: u64) -> io::Result<()> {
    let skipped = io::copy(&mut archive.by_ref().take(bytes), &mut io::sink())?;
    if skipped == bytes { Ok(()) } else { Err(broken("an entry is cut off")) }
}

/// Reads until the buffer is full or nothing comes any more.
fn fill(archive: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match archive.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
#[path = "tarball_tests.rs"]
mod tests;
