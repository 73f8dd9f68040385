//! Pointers of Git LFS: small texts in the place of files that git hasn't got.
//!
//! Nothing here fetches what they stand for, so a source with one is a source with a wrong file. The form is that of git-lfs's
//! specification (`docs/spec.md`, "The Pointer"): lines `KEY VALUE`, of which `version` is the first, and `oid` and `size` have to be
//! there; fewer than 1024 bytes.

use std::collections::HashSet;
use std::io::{self, Read as _};

use farm_source::{Object, Source, open_file};
use farm_types::Digest;
use farm_types::snapshot::{ROOT_CONTEXT, ROOT_DOCKERFILE};

/// A pointer is shorter, bytes.
const TOO_LONG: u64 = 1024;
/// The first line of each is one of these. git-lfs writes the first, and reads those of its alpha versions as well (its `lfs/pointer.go`).
const VERSIONS: [&str; 3] = [
    "version https://git-lfs.github.com/spec/v1",
    "version https://hawser.github.com/spec/v1",
    "version http://git-media.io/v/2",
];

/// The files of a source that are pointers, by their names: each of several equal ones. Of those with a `known` digest it is known that
/// they are none. Blocks.
///
/// # Errors
/// A file can't be read.
pub(crate) fn find(source: &Source, known: &HashSet<Digest>) -> io::Result<Vec<String>> {
    let mut pointers = HashSet::new();
    for (digest, object) in &source.objects {
        let Object::File { path, size, .. } = object else { continue };
        if known.contains(digest) {
            continue;
        }
        if (1..TOO_LONG).contains(size) && is_pointer(&open_file(path)?)? {
            pointers.insert(*digest);
        }
    }
    let mut found = named(source, ROOT_CONTEXT, &pointers)?;
    // The Dockerfile is in a root of its own besides, or there alone.
    for (_, digest) in &found {
        pointers.remove(digest);
    }
    found.extend(named(source, ROOT_DOCKERFILE, &pointers)?);
    let mut found: Vec<_> = found.into_iter().map(|(name, _)| name).collect();
    found.sort_unstable();
    Ok(found)
}

/// The names of the files in a root that are one of these.
fn named(source: &Source, root: &str, wanted: &HashSet<Digest>) -> io::Result<Vec<(String, Digest)>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let files = source.files_of(root)?.into_iter().filter(|(_, _, digest)| wanted.contains(digest));
    Ok(files.map(|(name, _, digest)| (name, digest)).collect())
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
    lines.next().is_some_and(|line| VERSIONS.contains(&line)) && has("oid") && has("size")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_that_is_a_pointer_counts_though_several_are_equal() {
        let folder = tempfile::tempdir().unwrap();
        let version = VERSIONS[0];
        let pointer = format!("{version}\noid sha256:1\nsize 2\n");
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        for (name, text) in
            [("a/b/x", &pointer[..]), ("a/y", &pointer), ("z", &pointer), ("a/file", "size 2\n")]
        {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let around = farm_source::Surroundings {
            cache: None,
            now_ns: 0,
            files: &farm_source::Disk,
            meant: None,
            known: None,
            goes_on: &farm_source::Always,
        };
        let all = farm_dockerfile::Selection::All;
        let source =
            farm_source::read_folder(folder.path(), &farm_source::Recorded::default(), false, &all, &around);
        assert_eq!(find(&source.unwrap(), &HashSet::new()).unwrap(), ["a/b/x", "a/y", "z"]);
    }

    #[test]
    fn a_pointer_is_told_from_what_only_speaks_of_one() {
        let [version, hawser, media] = VERSIONS;
        let oid = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393";
        for text in [
            format!("{version}\noid sha256:{oid}\nsize 12345\n"),
            format!("{version}\next-0-foo sha256:{oid}\noid sha256:{oid}\nsize 0\n"),
            format!("{hawser}\noid sha256:{oid}\nsize 12345\n"),
            format!("{media}\noid sha256:{oid}\nsize 12345\n"),
            // As `eol=crlf` leaves it.
            format!("{version}\r\noid sha256:{oid}\r\nsize 12345\r\n"),
        ] {
            assert!(is_text_of_pointer(text.as_bytes()), "{text}");
        }
        for text in [
            String::new(),
            format!("{version}\n"),
            format!("{version}\nsize 12345\n"),
            format!("# {version}\noid sha256:{oid}\nsize 12345\n"),
            format!("version https://git-lfs.github.com/spec/v10\noid sha256:{oid}\nsize 12345\n"),
        ] {
            assert!(!is_text_of_pointer(text.as_bytes()), "{text}");
        }
        assert!(!is_text_of_pointer(&[version.as_bytes(), b"\noid \xff\nsize 1\n"].concat()));
    }
}
