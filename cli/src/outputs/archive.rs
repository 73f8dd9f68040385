//! Tar archives as the farm's engines and workers write them, entry by entry, with their pax records raw.
//!
//! The tar crate reads the blocks; records are read here, since its reader takes a line break within a value for the end of a
//! record, and because an entry that is passed on has to keep what it doesn't know.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use tar::{Archive, EntryType, Header};

/// The most that stands before an entry, bytes.
const LONGEST_RECORDS: u64 = 1 << 20;

/// An entry, with what stood before it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its header as it stands there; names and times may stand in `records`.
    pub header: Header,
    /// Its pax records, in their order, but for those of name and link.
    pub records: Vec<(String, Vec<u8>)>,
    /// Its name, bytes as they are.
    pub path: Vec<u8>,
    /// Where a link points, bytes as they are.
    pub link: Vec<u8>,
    /// The length of its content, bytes.
    pub size: u64,
}

impl Entry {
    /// The value of a pax record, if it has one of this name.
    pub fn record(&self, key: &str) -> Option<&[u8]> {
        self.records.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_slice())
    }

    /// Its name as it is shown.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }

    /// Its parts, the last of which is its own name; none: the root itself.
    ///
    /// # Errors
    /// It leads, or may lead, out of where it is put.
    pub fn parts(&self) -> io::Result<Vec<OsString>> {
        parts(&self.path)
    }

    /// When its content was changed: seconds since 1970, and nanoseconds.
    pub fn modified(&self) -> io::Result<(i64, u32)> {
        let Some(text) = self.record("mtime") else {
            return Ok((i64::try_from(self.header.mtime()?).unwrap_or(i64::MAX), 0));
        };
        std::str::from_utf8(text).ok().and_then(time).ok_or_else(|| senseless("a time that is none"))
    }
}

/// The parts of a path in an archive.
///
/// # Errors
/// It leads, or may lead, out of where it is put.
pub fn parts(path: &[u8]) -> io::Result<Vec<OsString>> {
    let shown = || String::from_utf8_lossy(path).into_owned();
    let mut parts = Vec::new();
    if path.starts_with(b"/") || path.contains(&0) {
        return Err(senseless(&format!("{:?} leads out of its folder", shown())));
    }
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(senseless(&format!("{:?} leads out of its folder", shown()))),
            part => parts.push(OsString::from_vec(part.to_vec())),
        }
    }
    Ok(parts)
}

/// A file's path, as `parts` has it.
pub fn joined(parts: &[OsString]) -> PathBuf {
    parts.iter().collect()
}

/// An archive that isn't what it should be.
pub fn senseless(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the output makes no sense: {what}"))
}

fn time(text: &str) -> Option<(i64, u32)> {
    let (sign, text) = match text.strip_prefix('-') {
        Some(text) => (-1, text),
        None => (1, text),
    };
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let (seconds, nanos) = (sign * seconds.parse::<i64>().ok()?, digits.parse::<u32>().ok()?);
    match (sign, nanos) {
        (-1, 1..) => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos)),
        _ => Some((seconds, nanos)),
    }
}

/// Visits each entry, in their order; the content is what the entry reads. Then reads the input to its end.
///
/// # Errors
/// It is no archive, it breaks off, or what the visitor says.
pub fn each<R: Read>(
    input: R,
    mut visit: impl FnMut(Entry, &mut dyn Read) -> io::Result<()>,
) -> io::Result<()> {
    let mut archive = Archive::new(input);
    let mut records: Vec<(String, Vec<u8>)> = Vec::new();
    // Headers may follow each other without end, too.
    let mut before = 0_u64;
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        let size = entry.header().entry_size()?;
        if matches!(
            kind,
            EntryType::XHeader | EntryType::GNULongName | EntryType::GNULongLink | EntryType::XGlobalHeader
        ) {
            before = before.saturating_add(size).saturating_add(512);
            if before > LONGEST_RECORDS {
                return Err(senseless("endless records"));
            }
        }
        let name = match kind {
            EntryType::XHeader => {
                records.extend(read_records(&small(&mut entry)?)?);
                continue;
            }
            EntryType::GNULongName => "path",
            EntryType::GNULongLink => "linkpath",
            EntryType::XGlobalHeader => {
                small(&mut entry)?;
                continue;
            }
            _ => "",
        };
        if !name.is_empty() {
            let mut value = small(&mut entry)?;
            while value.last() == Some(&0) {
                value.pop();
            }
            records.push((name.to_owned(), value));
            continue;
        }
        before = 0;
        let mut records = std::mem::take(&mut records);
        let mut take = |key: &str| {
            let place = records.iter().rposition(|(known, _)| known == key);
            let value = place.map(|place| records[place].1.clone());
            records.retain(|(known, _)| known != key);
            value
        };
        let header = entry.header().clone();
        let path = take("path").unwrap_or_else(|| header.path_bytes().into_owned());
        let link = take("linkpath").or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
        if take("size").is_some_and(|said| said != size.to_string().into_bytes()) {
            return Err(senseless("a file is longer than its header can say"));
        }
        if records.iter().any(|(key, _)| key.starts_with("GNU.sparse")) || kind == EntryType::GNUSparse {
            return Err(senseless("a sparse file"));
        }
        let own = Entry { header, records, path, link: link.unwrap_or_default(), size };
        visit(own, &mut entry)?;
    }
    // What follows the end marker counts into the digest.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(())
}

fn small(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// `LENGTH KEY=VALUE\n` after each other.
fn read_records(mut bytes: &[u8]) -> io::Result<Vec<(String, Vec<u8>)>> {
    let wrong = || senseless("pax records that are none");
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let blank = bytes.iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
        let length: usize =
            std::str::from_utf8(&bytes[..blank]).ok().and_then(|n| n.parse().ok()).ok_or_else(wrong)?;
        if length <= blank + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
            return Err(wrong());
        }
        let record = &bytes[blank + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
        let key = String::from_utf8(record[..equals].to_vec()).map_err(|_| wrong())?;
        out.push((key, record[equals + 1..].to_vec()));
        bytes = &bytes[length..];
    }
    Ok(out)
}

/// Writes an archive, entry by entry.
pub struct Writer<W> {
    to: W,
}

impl<W: Write> Writer<W> {
    pub fn new(to: W) -> Self {
        Self { to }
    }

    /// Writes an entry with its content.
    ///
    /// # Errors
    /// It can't be read or written.
    pub fn entry(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        let mut header = entry.header.clone();
        let mut records = Vec::new();
        for (key, value, place) in [("path", &entry.path, 0..100), ("linkpath", &entry.link, 157..257)] {
            let field = &mut header.as_mut_bytes()[place];
            field.fill(0);
            match value.len() <= field.len() && value.is_ascii() {
                true => field[..value.len()].copy_from_slice(value),
                false => record(&mut records, key, value),
            }
        }
        // The rest of a longer name would stand here.
        if let Some(ustar) = header.as_ustar_mut() {
            ustar.prefix.fill(0);
        }
        entry.records.iter().for_each(|(key, value)| record(&mut records, key, value));
        header.set_cksum();
        if !records.is_empty() {
            let mut extended = Header::new_ustar();
            extended.set_entry_type(EntryType::XHeader);
            extended.set_mode(0o644);
            extended.set_size(u64::try_from(records.len()).unwrap_or(u64::MAX));
            extended.set_cksum();
            self.to.write_all(extended.as_bytes())?;
            self.to.write_all(&records)?;
            self.pad(u64::try_from(records.len()).unwrap_or(0))?;
        }
        self.to.write_all(header.as_bytes())?;
        let copied = io::copy(&mut content.take(entry.size), &mut self.to)?;
        if copied != entry.size {
            return Err(senseless("a file is shorter than it says"));
        }
        self.pad(copied)
    }

    /// A file or folder of our own, of 1970.
    ///
    /// # Errors
    /// It can't be written.
    pub fn own(&mut self, kind: EntryType, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(u64::try_from(content.len()).unwrap_or(u64::MAX));
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        let entry = Entry {
            header,
            records: Vec::new(),
            path: path.as_bytes().to_vec(),
            link: Vec::new(),
            size: u64::try_from(content.len()).unwrap_or(u64::MAX),
        };
        self.entry(&entry, &mut &content[..])
    }

    /// Ends the archive with two empty blocks.
    ///
    /// # Errors
    /// It can't be written.
    pub fn end(mut self) -> io::Result<W> {
        self.to.write_all(&[0; 1024])?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn pad(&mut self, content: u64) -> io::Result<()> {
        let missing = usize::try_from((512 - content % 512) % 512).unwrap_or(0);
        self.to.write_all(&[0; 512][..missing])
    }
}

fn record(to: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    to.extend_from_slice(format!("{length} {key}=").as_bytes());
    to.extend_from_slice(value);
    to.push(b'\n');
}

/// Reads, and writes what was read.
pub struct Tee<R, W> {
    from: R,
    to: W,
}

impl<R: Read, W: Write> Tee<R, W> {
    /// Whatever is read from `from` is written to `to` as well.
    pub fn new(from: R, to: W) -> Self {
        Self { from, to }
    }
}

impl<R: Read, W: Write> Read for Tee<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(buffer)?;
        self.to.write_all(&buffer[..length])?;
        Ok(length)
    }
}

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
