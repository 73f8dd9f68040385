//! Reading a tar archive, entry by entry, as a stream.
//!
//! All forms in use are understood: V7, ustar, old GNU, GNU (long names, sparse files), pax (names, sizes, times, sparse
//! files in all three versions, defaults for the whole archive). What is not understood is an error that names the entry.
//!
//! Invariant: every entry is given out or is an error; nothing is passed over but labels of volumes. To add a form: its
//! letter in [`Archive::next`].

mod error;
mod header;
mod pax;
mod sparse;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

pub(super) use error::{ArchiveError, shown};
use header::{BLOCK, Format, Header};
use pax::Records;
use sparse::{Extent, Form};

/// How many bytes tell whether an archive begins.
pub(super) const FIRST_BYTES: usize = BLOCK;

/// How much may be said of an entry besides its header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Most {
    /// The longest header of headers (a name, or pax records), MiB.
    pub(super) extension_mib: u64,
    /// As many records has a pax header.
    pub(super) records: usize,
}

impl Most {
    /// Of an archive that a user has: the map of a sparse file may be long.
    pub(super) const OWN: Self = Self { extension_mib: 64, records: usize::MAX };
    /// Of anybody's.
    pub(super) const BROUGHT: Self = Self { extension_mib: 1, records: 65_536 };
}

/// All that may be said of every entry, bytes.
const MOST_DEFAULTS: usize = 1 << 20;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A regular file; with extents: the rest of it is holes.
    File {
        size: u64,
        extents: Option<Vec<Extent>>,
    },
    Folder,
    Symlink {
        target: Vec<u8>,
    },
    /// Another name of an earlier entry.
    HardLink {
        target: Vec<u8>,
    },
    Fifo,
    Device,
}

/// An entry, without its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The name as it stands in the archive.
    pub(super) name: Vec<u8>,
    pub(super) kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub(super) mode: u32,
    /// Nanoseconds since 1970.
    pub(super) mtime: i64,
    /// It has extended attributes or access lists, which no entry keeps.
    pub(super) has_attributes: bool,
}

/// What stands in front of an entry and is said of it.
#[derive(Debug, Default)]
struct Before {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Option<Records>,
}

/// Whether these bytes begin an archive that isn't compressed: a header with its own sum, or the zeros of an empty one.
pub(super) fn begins(bytes: &[u8; BLOCK]) -> bool {
    Header::new(*bytes).is_some() || bytes.iter().all(|byte| *byte == 0)
}

/// An archive that is being read.
pub(super) struct Archive<R> {
    input: R,
    /// Of the last entry's contents so many bytes weren't read yet, and so many fill the last block.
    left: u64,
    padding: u64,
    /// The last entry's name.
    last: Vec<u8>,
    /// What is said of all entries.
    defaults: Records,
    most: Most,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(input: R, most: Most) -> Self {
        Self { input, left: 0, padding: 0, last: Vec::new(), defaults: Records::default(), most }
    }

    /// The next entry; nothing after the last, when all that follows was seen to be zeros. What wasn't read of the last
    /// entry's contents is passed over.
    ///
    /// # Errors
    /// It can't be read, is damaged or cut off, or has an entry of a kind that isn't known.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut before = Before::default();
        loop {
            self.pass_over()?;
            let Some(header) = self.header()? else {
                return match before {
                    Before { name: None, link: None, records: None } => Ok(None),
                    _ => Err(ArchiveError::Cut("behind a name, where its entry should be".to_owned())),
                };
            };
            let name = header.name();
            match header.letter() {
                b'L' => before.name = Some(self.extension_text(&header)?),
                b'K' => before.link = Some(self.extension_text(&header)?),
                b'x' | b'X' => {
                    let records = Records::parse(&self.extension(&header)?, &name, self.most.records)?;
                    before.records = Some(records);
                }
                b'g' => {
                    let records = Records::parse(&self.extension(&header)?, &name, self.most.records)?;
                    if records.get("GNU.volume.filename").is_some() {
                        return Err(volumes(&name));
                    }
                    self.defaults = std::mem::take(&mut self.defaults).replaced(records);
                    if self.defaults.bytes() > MOST_DEFAULTS {
                        let what = "what is said of all entries is longer than 1 MiB";
                        return Err(ArchiveError::damaged(&name, what));
                    }
                }
                // The label of a volume is no entry.
                b'V' => self.contents(header.size()?, &name)?,
                _ => return self.entry(&header, before).map(Some),
            }
        }
    }

    /// The entry of this header.
    fn entry(&mut self, header: &Header, before: Before) -> Result<Entry, ArchiveError> {
        let records = match before.records {
            Some(records) => self.defaults.with(records),
            None => self.defaults.clone(),
        };
        let own = |key: &str| records.get(key).map(<[u8]>::to_vec);
        let name =
            own("GNU.sparse.name").or_else(|| own("path")).or(before.name).unwrap_or_else(|| header.name());
        let link = || own("linkpath").or(before.link).unwrap_or_else(|| header.link().to_vec());
        let stored = match records.number("size", &name)? {
            Some(size) => size,
            None => header.size()?,
        };
        let mtime = match records.mtime(&name)? {
            Some(mtime) => mtime,
            None => header.mtime()?.saturating_mul(1_000_000_000),
        };
        let kind = match header.letter() {
            // Before POSIX a folder was a file whose name ends so.
            b'\0' | b'0' | b'7' if name.ends_with(b"/") && stored == 0 => Kind::Folder,
            b'\0' | b'0' | b'7' => self.file(&records, stored, &name)?,
            b'S' if header.format() == Format::Gnu => self.gnu_sparse(header, stored, &name)?,
            b'5' => Kind::Folder,
            // Of incremental archives: its contents are the names in it, each of which has an entry, or is in an older one.
            b'D' => {
                self.contents(stored, &name)?;
                Kind::Folder
            }
            b'1' => Kind::HardLink { target: link() },
            b'2' => Kind::Symlink { target: link() },
            b'3' | b'4' => Kind::Device,
            b'6' => Kind::Fifo,
            b'M' => return Err(volumes(&name)),
            letter => {
                let why = format!("entries of kind {:?} aren't known", char::from(letter));
                let cure = "make the archive with GNU tar, or leave the file out of it";
                return Err(ArchiveError::unsupported(&name, &why, cure));
            }
        };
        self.last.clone_from(&name);
        let has_attributes = records.iter().any(|(key, _)| {
            [&b"SCHILY.xattr."[..], b"LIBARCHIVE.xattr.", b"SCHILY.acl.", b"RHT.security."]
                .iter()
                .any(|prefix| key.starts_with(prefix))
        });
        Ok(Entry { name, kind, mode: header.mode()?, mtime, has_attributes })
    }

    /// A regular file, with holes if its records say so.
    fn file(&mut self, records: &Records, stored: u64, name: &[u8]) -> Result<Kind, ArchiveError> {
        self.contents(stored, name)?;
        let Some(form) = sparse::form(records, name)? else {
            return Ok(Kind::File { size: stored, extents: None });
        };
        let size = match records.number("GNU.sparse.realsize", name)? {
            Some(size) => size,
            None => records
                .number("GNU.sparse.size", name)?
                .ok_or_else(|| ArchiveError::damaged(name, "its pax header lacks its size"))?,
        };
        let extents = match form {
            Form::Records(extents) => extents,
            Form::InContents => {
                let longer = || ArchiveError::damaged(name, "the map of its holes is longer than the file");
                let block = u64::try_from(BLOCK).unwrap_or_default();
                let mut left = stored;
                let extents = sparse::in_contents(name, || {
                    left = left.checked_sub(block).ok_or_else(longer)?;
                    self.block(name)
                })?;
                self.left = left;
                extents
            }
        };
        sparse::check(&extents, size, self.left, name)?;
        Ok(Kind::File { size, extents: Some(extents) })
    }

    /// A sparse file in the old form of GNU.
    fn gnu_sparse(&mut self, header: &Header, stored: u64, name: &[u8]) -> Result<Kind, ArchiveError> {
        let size = header.real_size()?;
        let mut extents = Vec::new();
        let (field, mut goes_on) = header.extents();
        sparse::of_field(field, name, &mut extents)?;
        while goes_on {
            let block = self.block(name)?;
            sparse::of_field(&block[..504], name, &mut extents)?;
            goes_on = block[504] != 0;
        }
        // Programs differ in whether each extent fills its last block.
        let filled = |extent: &Extent| extent.length.is_multiple_of(512);
        let last = extents.iter().rposition(|extent| extent.length > 0).unwrap_or(0);
        if !extents[..last.min(extents.len())].iter().all(filled) {
            return Err(ArchiveError::unsupported(
                name,
                "its holes don't begin at whole blocks",
                "make the archive without -S (--sparse)",
            ));
        }
        self.contents(stored, name)?;
        sparse::check(&extents, size, stored, name)?;
        Ok(Kind::File { size, extents: Some(extents) })
    }

    /// Writes the contents of the entry that came last into an empty file; holes stay holes.
    ///
    /// # Errors
    /// It is cut off, or can't be read or written.
    pub(super) fn copy(
        &mut self,
        size: u64,
        extents: Option<&[Extent]>,
        file: &mut File,
    ) -> Result<(), ArchiveError> {
        let Some(extents) = extents else { return self.copy_bytes(size, file) };
        for extent in extents {
            file.seek(SeekFrom::Start(extent.offset))?;
            self.copy_bytes(extent.length, file)?;
        }
        Ok(file.set_len(size)?)
    }

    fn copy_bytes(&mut self, length: u64, out: &mut impl Write) -> Result<(), ArchiveError> {
        let copied = io::copy(&mut self.input.by_ref().take(length), out)?;
        self.left = self.left.saturating_sub(copied);
        if copied < length { Err(self.cut()) } else { Ok(()) }
    }

    fn cut(&self) -> ArchiveError {
        ArchiveError::Cut(format!("in the middle of {:?}", shown(&self.last)))
    }

    /// Says how much follows the header that was just read.
    fn contents(&mut self, size: u64, name: &[u8]) -> Result<(), ArchiveError> {
        self.last = name.to_vec();
        self.left = size;
        let block = u64::try_from(BLOCK).unwrap_or_default();
        self.padding = size.checked_next_multiple_of(block).map_or(0, |whole| whole - size);
        Ok(())
    }

    fn pass_over(&mut self) -> Result<(), ArchiveError> {
        let rest = self.left.saturating_add(self.padding);
        self.copy_bytes(rest, &mut io::sink())?;
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    /// The text of a name that is longer than a header's field.
    fn extension_text(&mut self, header: &Header) -> Result<Vec<u8>, ArchiveError> {
        Ok(header::text(&self.extension(header)?).to_vec())
    }

    fn extension(&mut self, header: &Header) -> Result<Vec<u8>, ArchiveError> {
        let (size, name) = (header.size()?, header.name());
        let most = self.most.extension_mib;
        if size > most << 20 {
            let what = format!("what is said of an entry is longer than {most} MiB");
            return Err(ArchiveError::damaged(&name, &what));
        }
        self.contents(size, &name)?;
        let mut bytes = Vec::new();
        self.copy_bytes(size, &mut bytes)?;
        Ok(bytes)
    }

    /// A block of the entry that is being read.
    fn block(&mut self, name: &[u8]) -> Result<[u8; BLOCK], ArchiveError> {
        self.last = name.to_vec();
        self.read_block()?.ok_or_else(|| self.cut())
    }

    /// The next block; nothing at the end.
    fn read_block(&mut self) -> Result<Option<[u8; BLOCK]>, ArchiveError> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            match self.input.read(&mut block[have..]) {
                Ok(0) => break,
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        match have {
            0 => Ok(None),
            BLOCK => Ok(Some(block)),
            _ if self.last.is_empty() => Err(ArchiveError::Cut("in its first header".to_owned())),
            _ => Err(ArchiveError::Cut(format!("behind {:?}", shown(&self.last)))),
        }
    }

    /// The next header; nothing at the archive's end, behind which there is nothing.
    fn header(&mut self) -> Result<Option<Header>, ArchiveError> {
        let Some(block) = self.read_block()? else {
            // Whether more was to follow can't be told from an end without its mark.
            let last = shown(&self.last);
            return Err(ArchiveError::Other(format!(
                "ends behind {last:?} without the zeros that mark its end, so it may be cut off; see whether what writes it \
                 failed, or add them: (cat ARCHIVE; head -c 1024 /dev/zero) | farm submit - …"
            )));
        };
        if block.iter().any(|byte| *byte != 0) {
            return match Header::new(block) {
                Some(header) => Ok(Some(header)),
                None => Err(ArchiveError::damaged(&self.last, "what follows it is no header of an entry")),
            };
        }
        let mut rest = [0; 64 * 1024];
        loop {
            match self.input.read(&mut rest) {
                Ok(0) => return Ok(None),
                Ok(n) if rest[..n].iter().all(|byte| *byte == 0) => {}
                Ok(_) => {
                    return Err(ArchiveError::Other(
                        "has something behind its end, which would be left out; of several archives make one \
                         (tar --concatenate), and send nothing after it"
                            .to_owned(),
                    ));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

fn volumes(name: &[u8]) -> ArchiveError {
    ArchiveError::unsupported(
        name,
        "it is continued from another volume",
        "make one archive of all (tar without -M)",
    )
}
