//! Pointers of Git LFS: small texts in the place of files that git hasn't got.
//!
//! Nothing here fetches what they stand for, so a source with one is a source with a wrong file. The form is that of git-lfs's
//! specification (`docs/spec.md`, "The Pointer"): lines `KEY VALUE`, of which `version` is the first, and `oid` and `size` have to be
//! there; fewer than 1024 bytes.

use std::io::{self, Read as _};

use farm_source::{Object, Source, open_file};

/// A pointer is shorter, bytes.
const TOO_LONG: u64 = 1024;
/// The first line of each.
const VERSION: &str = "version https://git-lfs.github.com/spec/v1";

/// The files of a source that are pointers, by their names; of equal ones the first. Blocks.
///
/// # Errors
/// A file can't be read.
pub(crate) fn find(source: &Source) -> io::Result<Vec<&str>> {
    let mut found = Vec::new();
    for object in source.objects.values() {
        let Object::File { path, size, name } = object else { continue };
        if (1..TOO_LONG).contains(size) && is_pointer(&open_file(path)?)? {
            found.push(name.as_str());
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn is_pointer(file: &std::fs::File) -> io::Result<bool> {
    let mut bytes = Vec::new();
    file.take(TOO_LONG).read_to_end(&mut bytes)?;
    Ok(is_text_of_pointer(&bytes))
}

fn is_text_of_pointer(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    let mut lines = text.lines();
    let has = |key: &str| text.lines().any(|line| line.split_once(' ').is_some_and(|(word, _)| word == key));
    lines.next() == Some(VERSION) && has("oid") && has("size")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_told_from_what_only_speaks_of_one() {
        let oid = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393";
        for text in [
            format!("{VERSION}\noid sha256:{oid}\nsize 12345\n"),
            format!("{VERSION}\next-0-foo sha256:{oid}\noid sha256:{oid}\nsize 0\n"),
            // As `eol=crlf` leaves it.
            format!("{VERSION}\r\noid sha256:{oid}\r\nsize 12345\r\n"),
        ] {
            assert!(is_text_of_pointer(text.as_bytes()), "{text}");
        }
        for text in [
            String::new(),
            format!("{VERSION}\n"),
            format!("{VERSION}\nsize 12345\n"),
            format!("# {VERSION}\noid sha256:{oid}\nsize 12345\n"),
            format!("version https://git-lfs.github.com/spec/v10\noid sha256:{oid}\nsize 12345\n"),
        ] {
            assert!(!is_text_of_pointer(text.as_bytes()), "{text}");
        }
        assert!(!is_text_of_pointer(&[VERSION.as_bytes(), b"\noid \xff\nsize 1\n"].concat()));
    }
}
