//! A context, or a Dockerfile, from standard input: put into a folder, and read from there as any other.
//!
//! As Docker does it: what begins as an archive is the context, anything else is a Dockerfile without a context. Names
//! that lead out of the folder are left out by the tar crate.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use tar::{Archive, EntryType};
use tempfile::TempDir;

use super::ContextError;

/// A Dockerfile is no longer than that, bytes.
const LONGEST_DOCKERFILE: u64 = 1 << 20;
/// Where ustar archives bear their magic word, and how much is looked at to find it.
const USTAR: (usize, &[u8]) = (257, b"ustar");

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// An archive: the folder holds its files.
    Context,
    /// A text: the folder holds it as `Dockerfile` and nothing else.
    Dockerfile,
}

/// Reads all of `input` into a folder that goes with the value.
///
/// # Errors
/// It is empty, compressed in a way that isn't read here, or can't be unpacked.
pub fn read(mut input: impl Read) -> Result<(TempDir, Came), ContextError> {
    let folder = tempfile::tempdir().map_err(|e| failed("a temporary folder", &e))?;
    let mut head = Vec::new();
    let looked_at = u64::try_from(USTAR.0 + USTAR.1.len()).unwrap_or(u64::MAX);
    input.by_ref().take(looked_at).read_to_end(&mut head).map_err(|e| failed("standard input", &e))?;
    if head.is_empty() {
        return Err(ContextError::Location(
            "standard input is empty; give it a Dockerfile, or an archive (tar -c . | farm submit - …)"
                .to_owned(),
        ));
    }
    let compressed = [(&b"BZh"[..], "bzip2 -d"), (b"\xfd7zXZ\0", "xz -d"), (b"\x28\xb5\x2f\xfd", "zstd -d")];
    if let Some((_, tool)) = compressed.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(ContextError::Location(format!(
            "standard input is compressed, and of compressed archives only gzip's are read; put `{tool} |` before it"
        )));
    }
    let (is_gzip, is_tar) = (head.starts_with(b"\x1f\x8b"), head.get(USTAR.0..) == Some(USTAR.1));
    let whole = io::Cursor::new(head).chain(input);
    if is_gzip {
        unpack(MultiGzDecoder::new(whole), folder.path())?;
    } else if is_tar {
        unpack(whole, folder.path())?;
    } else {
        dockerfile(whole, folder.path())?;
        return Ok((folder, Came::Dockerfile));
    }
    Ok((folder, Came::Context))
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

fn unpack(input: impl Read, folder: &Path) -> Result<(), ContextError> {
    let broken = |e: &io::Error| failed("the archive on standard input", e);
    let mut archive = Archive::new(input);
    for entry in archive.entries().map_err(|e| broken(&e))? {
        let mut entry = entry.map_err(|e| broken(&e))?;
        let kept = matches!(
            entry.header().entry_type(),
            EntryType::Regular
                | EntryType::Continuous
                | EntryType::Directory
                | EntryType::Symlink
                | EntryType::Link
        );
        // Devices and pipes are left out of folders, too.
        if kept {
            entry.unpack_in(folder).map_err(|e| broken(&e))?;
        }
    }
    Ok(())
}

fn dockerfile(input: impl Read, folder: &Path) -> Result<(), ContextError> {
    let mut text = Vec::new();
    input.take(LONGEST_DOCKERFILE + 1).read_to_end(&mut text).map_err(|e| failed("standard input", &e))?;
    if u64::try_from(text.len()).is_ok_and(|len| len > LONGEST_DOCKERFILE) {
        return Err(ContextError::Location(
            "standard input is neither an archive nor a Dockerfile: it is longer than 1 MiB".to_owned(),
        ));
    }
    fs::write(folder.join("Dockerfile"), text).map_err(|e| failed("a temporary file", &e))
}

fn failed(what: &str, error: &io::Error) -> ContextError {
    ContextError::Location(format!("{what} can't be read or unpacked ({error})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut add = |path: &str, kind: EntryType, link: &str, text: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(u64::try_from(text.len()).unwrap());
            header.set_mode(0o755);
            header.set_mtime(1_000_000);
            if link.is_empty() {
                builder.append_data(&mut header, path, text).unwrap();
            } else {
                builder.append_link(&mut header, path, link).unwrap();
            }
        };
        add("Dockerfile", EntryType::Regular, "", b"FROM scratch\n");
        add("bin/run", EntryType::Regular, "", b"x");
        add("link", EntryType::Symlink, "bin/run", b"");
        add("pipe", EntryType::Fifo, "", b"");
        builder.into_inner().unwrap()
    }

    #[test]
    fn archives_are_contexts_whether_gzipped_or_not() {
        let plain = archive();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        for bytes in [plain, gzip.finish().unwrap()] {
            let (folder, came) = read(&bytes[..]).unwrap();
            assert_eq!(came, Came::Context);
            let at = |name: &str| folder.path().join(name);
            assert_eq!(fs::read(at("Dockerfile")).unwrap(), b"FROM scratch\n");
            assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("bin/run"));
            assert!(!at("pipe").exists());
            use std::os::unix::fs::MetadataExt as _;
            let metadata = fs::metadata(at("bin/run")).unwrap();
            assert_eq!((metadata.mode() & 0o777, metadata.mtime()), (0o755, 1_000_000));
        }
    }

    #[test]
    fn nothing_is_put_outside() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        // Written by hand, since the builder refuses such names.
        header.as_old_mut().name[..9].copy_from_slice(b"../escape");
        header.set_cksum();
        builder.append(&header, &b"x"[..]).unwrap();
        let (folder, _) = read(&builder.into_inner().unwrap()[..]).unwrap();
        assert!(!folder.path().parent().unwrap().join("escape").exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn other_text_is_a_dockerfile_and_other_things_are_told_apart() {
        let (folder, came) = read(&b"FROM scratch\n"[..]).unwrap();
        assert_eq!(came, Came::Dockerfile);
        assert_eq!(fs::read(folder.path().join("Dockerfile")).unwrap(), b"FROM scratch\n");
        let error = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
        assert!(error(b"").contains("is empty"));
        assert!(error(b"BZh91AY").contains("bzip2 -d"));
        assert!(error(&vec![b'x'; (1 << 20) + 1]).contains("neither an archive nor a Dockerfile"));
        assert!(error(&archive()[..700]).contains("archive on standard input"));
    }
}
