//! Files with holes: only their extents are in an archive, with a map of where they belong.
//!
//! Source: GNU tar's manual, "Storing Sparse Files". There are four forms: the old one of GNU has the map in the header and
//! blocks behind it; with pax it stands in records (0.0: a pair for each extent, 0.1: one list) or in front of the contents
//! (1.0).
//!
//! Invariant: of a map that was taken the extents follow each other, end within the file, and hold all bytes that the
//! archive has of it.

use super::ArchiveError;
use super::header::{BLOCK, number};
use super::pax::{Records, decimal};

/// Of a file no more extents are taken.
const MOST_EXTENTS: usize = 1_000_000;

/// How many bytes of which place are in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// The form of a map in pax records.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The pax records hold the map.
    Records(Vec<Extent>),
    /// It is in front of the contents.
    InContents,
}

/// Whether these records tell of a sparse file, and how.
///
/// # Errors
/// The form is one that nobody is known to write, or the map is none.
pub(super) fn form(records: &Records, name: &[u8]) -> Result<Option<Form>, ArchiveError> {
    let broken = || ArchiveError::damaged(name, "the map of its holes makes no sense");
    let version = (records.get("GNU.sparse.major"), records.get("GNU.sparse.minor"));
    match version {
        (Some(b"1"), Some(b"0")) => return Ok(Some(Form::InContents)),
        (None, None) | (Some(b"0"), Some(b"0" | b"1")) => {}
        _ => {
            return Err(ArchiveError::unsupported(
                name,
                "its holes are told in a form that farm doesn't know",
                "make the archive without -S (--sparse)",
            ));
        }
    }
    if let Some(map) = records.get("GNU.sparse.map") {
        let numbers: Option<Vec<u64>> = map.split(|byte| *byte == b',').map(decimal).collect();
        return pairs(&numbers.ok_or_else(broken)?).map(|map| Some(Form::Records(map))).ok_or_else(broken);
    }
    let mut numbers = Vec::new();
    for (key, value) in records.iter() {
        let is_offset = key == b"GNU.sparse.offset";
        if is_offset || key == b"GNU.sparse.numbytes" {
            // They come in turns.
            if is_offset != (numbers.len() % 2 == 0) {
                return Err(broken());
            }
            numbers.push(decimal(value).ok_or_else(broken)?);
        }
    }
    // A file that is one hole has a size of it, and no extent.
    if numbers.is_empty() && records.get("GNU.sparse.size").is_none() {
        return Ok(None);
    }
    pairs(&numbers).map(|map| Some(Form::Records(map))).ok_or_else(broken)
}

/// Reads a map as it stands in front of the contents: a number of extents, then their numbers, a line each, filled up to
/// a whole block. `next` gives block after block.
///
/// # Errors
/// Those of `next`, or this is no map.
pub(super) fn in_contents(
    name: &[u8],
    mut next: impl FnMut() -> Result<[u8; BLOCK], ArchiveError>,
) -> Result<Vec<Extent>, ArchiveError> {
    let broken = || ArchiveError::damaged(name, "the map of its holes makes no sense");
    let mut numbers: Vec<u64> = Vec::new();
    let mut line = Vec::new();
    let mut wanted = None;
    while wanted != Some(numbers.len()) {
        let block = next()?;
        for byte in block {
            if wanted == Some(numbers.len()) {
                break;
            }
            if byte != b'\n' {
                line.push(byte);
                // No number is longer.
                if line.len() > 20 {
                    return Err(broken());
                }
                continue;
            }
            let value = decimal(&std::mem::take(&mut line)).ok_or_else(broken)?;
            match wanted {
                None => {
                    let extents = usize::try_from(value).ok().filter(|n| *n <= MOST_EXTENTS);
                    wanted = Some(extents.ok_or_else(|| too_many(name))? * 2);
                }
                Some(_) => numbers.push(value),
            }
        }
    }
    pairs(&numbers).ok_or_else(broken)
}

fn too_many(name: &[u8]) -> ArchiveError {
    let why = format!("it has more than {MOST_EXTENTS} holes");
    ArchiveError::unsupported(name, &why, "make the archive without -S (--sparse)")
}

/// Adds the extents of a field of GNU's, of 24 bytes each, up to the first that is unused.
///
/// # Errors
/// These are none, or there are too many.
pub(super) fn of_field(field: &[u8], name: &[u8], map: &mut Vec<Extent>) -> Result<(), ArchiveError> {
    for pair in field.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        let both = (number(&pair[..12]), number(&pair[12..]));
        let (Some(Ok(offset)), Some(Ok(length))) = (both.0.map(u64::try_from), both.1.map(u64::try_from))
        else {
            return Err(ArchiveError::damaged(name, "the map of its holes makes no sense"));
        };
        map.push(Extent { offset, length });
        if map.len() > MOST_EXTENTS {
            return Err(too_many(name));
        }
    }
    Ok(())
}

fn pairs(numbers: &[u64]) -> Option<Vec<Extent>> {
    let (pairs, []) = numbers.as_chunks::<2>() else { return None };
    Some(pairs.iter().map(|[offset, length]| Extent { offset: *offset, length: *length }).collect())
}

/// Checks a map against the file's length and the bytes that the archive has of it.
///
/// # Errors
/// The map doesn't go with these lengths.
pub(super) fn check(map: &[Extent], real_size: u64, stored: u64, name: &[u8]) -> Result<(), ArchiveError> {
    let broken = || ArchiveError::damaged(name, "the map of its holes makes no sense");
    let (mut end, mut bytes) = (0, 0_u64);
    for extent in map {
        if extent.offset < end {
            return Err(broken());
        }
        end = extent.offset.checked_add(extent.length).ok_or_else(broken)?;
        bytes = bytes.checked_add(extent.length).ok_or_else(broken)?;
    }
    if end > real_size || bytes != stored { Err(broken()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_goes_together_with_the_file() {
        let extent = |offset, length| Extent { offset, length };
        let map = [extent(0, 5), extent(5, 0), extent(9, 1)];
        assert!(check(&map, 10, 6, b"x").is_ok() && check(&map, 11, 6, b"x").is_ok());
        assert!(check(&map, 9, 6, b"x").is_err() && check(&map, 10, 7, b"x").is_err());
        assert!(check(&[extent(5, 1), extent(0, 1)], 10, 2, b"x").is_err());
        assert!(check(&[extent(u64::MAX, 1)], u64::MAX, 1, b"x").is_err());
        assert!(check(&[], 10, 0, b"x").is_ok());
    }

    #[test]
    fn a_map_of_headers_has_an_end() {
        let mut map = vec![Extent { offset: 0, length: 0 }; MOST_EXTENTS - 1];
        let field = [b"000000000000".as_slice(), b"000000000000"].concat();
        assert!(of_field(&field, b"x", &mut map).is_ok());
        assert!(of_field(&field, b"x", &mut map).unwrap_err().to_string().contains("holes"));
    }

    #[test]
    fn a_map_in_front_of_the_contents_may_take_several_blocks() {
        let text: String = "200\n".to_owned() + &(0..400).map(|n| format!("{n}\n")).collect::<String>();
        let mut bytes = text.into_bytes();
        let blocks = bytes.len().div_ceil(BLOCK);
        bytes.resize(blocks * BLOCK, 0);
        let mut at = bytes.as_chunks::<BLOCK>().0.iter().copied();
        let map = in_contents(b"x", || Ok(at.next().unwrap())).unwrap();
        assert_eq!((map.len(), map[199]), (200, Extent { offset: 398, length: 399 }));
        assert!(at.next().is_none());
        assert!(in_contents(b"x", || Ok([b'1'; BLOCK])).is_err());
        let mut endless = [b'\n'; BLOCK];
        endless[..7].copy_from_slice(b"1000001");
        assert!(in_contents(b"x", || Ok(endless)).unwrap_err().to_string().contains("holes"));
        assert!(in_contents(b"x", || Ok([b'\n'; BLOCK])).is_err());
    }
}
