//! One header of an archive: 512 bytes, of which every format has the first 257 alike.
//!
//! Sources: POSIX.1-2017, `pax`, "ustar Interchange Format"; GNU tar's manual, "Basic Tar Format". Numbers are octal
//! digits between blanks, or (GNU) binary: the first bit set, then two's complement.

use super::ArchiveError;

/// All of an archive comes in pieces of so many bytes.
pub(super) const BLOCK: usize = 512;

/// The format's family, by its magic word; it says what stands behind byte 257.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// V7 and others without a word: nothing does.
    Old,
    /// POSIX, pax included: a prefix of the name.
    Ustar,
    /// Old GNU and GNU: extents of a sparse file.
    Gnu,
}

/// A header whose sum is right.
#[derive(Debug, Clone)]
pub(super) struct Header {
    bytes: [u8; BLOCK],
}

impl Header {
    /// The header in these bytes, if the sum in it is theirs.
    pub(super) fn new(bytes: [u8; BLOCK]) -> Option<Self> {
        let said = number(&bytes[148..156])?;
        let counted = |at: &usize| !(148..156).contains(at);
        let places = || bytes.iter().enumerate().filter(|(at, _)| counted(at)).map(|(_, byte)| *byte);
        let blanks = 8 * i64::from(b' ');
        let unsigned: i64 = places().map(i64::from).sum();
        // Some old programs took the bytes for signed ones.
        let signed: i64 = places().map(|byte| i64::from(byte.cast_signed())).sum();
        (said == unsigned + blanks || said == signed + blanks).then_some(Self { bytes })
    }

    pub(super) fn format(&self) -> Format {
        match &self.bytes[257..265] {
            b"ustar  \0" => Format::Gnu,
            [b'u', b's', b't', b'a', b'r', b'\0', ..] => Format::Ustar,
            _ => Format::Old,
        }
    }

    /// What the entry is, as the letter for it.
    pub(super) fn letter(&self) -> u8 {
        self.bytes[156]
    }

    /// The name with its prefix.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.bytes[..100]);
        // Of star's headers the last part of the prefix holds times.
        let is_star = &self.bytes[508..512] == b"tar\0";
        let prefix = match self.format() {
            Format::Ustar if is_star => text(&self.bytes[345..476]),
            Format::Ustar => text(&self.bytes[345..500]),
            Format::Old | Format::Gnu => &[],
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(&self) -> &[u8] {
        text(&self.bytes[157..257])
    }

    /// Permission bits with setuid, setgid and sticky.
    ///
    /// # Errors
    /// This is no number; the same for those below.
    pub(super) fn mode(&self) -> Result<u32, ArchiveError> {
        let mode = self.number(100..108, "mode")?;
        // Old programs write the kind of file into it, too.
        Ok(u32::try_from(mode & 0o7777).unwrap_or_default())
    }

    /// Seconds since 1970.
    pub(super) fn mtime(&self) -> Result<i64, ArchiveError> {
        self.number(136..148, "time")
    }

    /// Bytes that follow.
    pub(super) fn size(&self) -> Result<u64, ArchiveError> {
        self.length(124..136, "size")
    }

    /// Of a sparse file of GNU's: its length with all holes.
    pub(super) fn real_size(&self) -> Result<u64, ArchiveError> {
        self.length(483..495, "size")
    }

    /// Of a sparse file of GNU's: where its first extents are told, and whether more follow.
    pub(super) fn extents(&self) -> (&[u8], bool) {
        (&self.bytes[386..482], self.bytes[482] != 0)
    }

    fn length(&self, place: std::ops::Range<usize>, what: &str) -> Result<u64, ArchiveError> {
        let value = self.number(place, what)?;
        u64::try_from(value)
            .map_err(|_| ArchiveError::damaged(&self.name(), &format!("its {what} is less than nothing")))
    }

    fn number(&self, place: std::ops::Range<usize>, what: &str) -> Result<i64, ArchiveError> {
        number(&self.bytes[place])
            .ok_or_else(|| ArchiveError::damaged(&self.name(), &format!("its {what} is no number")))
    }
}

/// A text of this field, which ends where it is full or at the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The number in this field; an empty field is 0.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        // The first bit only says that it is binary; the second one is the sign.
        let sign = if first & 0x40 == 0 { 0 } else { -1 };
        let top = (sign << 7) | i128::from(first & 0x7f);
        let value = field[1..].iter().fold(top, |value, byte| (value << 8) | i128::from(*byte));
        return i64::try_from(value).ok();
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\0');
    let digits = field.iter().skip_while(|byte| is_blank(byte));
    let mut value = 0_i64;
    let mut rest = digits.skip_while(|byte| match byte {
        b'0'..=b'7' => {
            // A field has at most 12 digits, which is 36 bits.
            value = (value << 3) | i64::from(*byte - b'0');
            true
        }
        _ => false,
    });
    // What stands behind a blank is of no matter; old programs left anything there.
    rest.next().is_none_or(is_blank).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_between_blanks_or_binary() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777", Some(0o77_777_777)),
            (b"00000000000 x", Some(0)),
            (b"12x", None),
            (b"-1", None),
            (b"9", None),
            (b"\x80\0\0\0\0\0\0\x02\0\0\0\0", Some(2 << 32)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }

    #[test]
    fn a_header_has_its_own_sum() {
        assert!(Header::new([0; BLOCK]).is_none());
        let mut bytes = [0; BLOCK];
        bytes[..3].copy_from_slice(b"a\xe9b");
        let unsigned = u32::from(b'a') + 0xe9 + u32::from(b'b') + 256;
        for sum in [unsigned, unsigned - 256] {
            bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            assert_eq!(Header::new(bytes).unwrap().name(), b"a\xe9b");
        }
        bytes[0] = b'b';
        assert!(Header::new(bytes).is_none());
    }
}
