//! What a mirror's repository was when it last went to the farm as a whole: files that are the same need not be written and read again.
//!
//! Kept beside the mirror as one file of the worker's own, made anew as a whole. It is a cache and never more: one that is missing,
//! damaged or of another version is as good as none. A file is the same if its path, its mode and its object are, and all
//! `.gitattributes` of the repository, since these say what git makes of an object at a checkout.
//!
//! Invariant: what a person or farm reads by name (Dockerfiles, what they ignore, `.farm.yaml`) and links are written in any case; and
//! where one of the former is a link, or lies behind one, so is all else, as it may be what that leads to.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use farm_source::{Known, KnownFile};
use farm_types::Digest;
use serde::{Deserialize, Serialize};

/// Counts when what is written changes its meaning.
const VERSION: u32 = 1;
/// The longest that is kept or read, bytes.
const MOST_BYTES: u64 = 32 << 20;

/// What stands behind a mirror's name in that of the file beside it.
pub(super) const KNOWN: &str = "known";

/// An entry of a commit's tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listed<'a> {
    /// As git prints it: `100644`.
    pub(super) mode: &'a str,
    pub(super) object: &'a str,
    pub(super) path: &'a [u8],
}

impl Listed<'_> {
    fn name(&self) -> &[u8] {
        self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }

    /// The permission bits of a regular file.
    fn permissions(&self) -> Option<u32> {
        match self.mode {
            "100644" => Some(0o644),
            "100755" => Some(0o755),
            _ => None,
        }
    }

    fn is_link(&self) -> bool {
        self.mode == "120000"
    }

    /// Whether it may be read before all of the source is; `named` is the path of the Dockerfile that was named.
    fn is_read_by_name(&self, named: &str) -> bool {
        if self.path == named.as_bytes() {
            return true;
        }
        let name = String::from_utf8_lossy(self.name()).to_lowercase();
        ["dockerfile", "containerfile", "ignore", ".farm"].iter().any(|part| name.contains(part))
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct File {
    mode: String,
    object: String,
    size: u64,
    digest: Digest,
}

/// Files of a repository that the farm has.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Kept {
    version: u32,
    /// Of all paths and objects of `.gitattributes`.
    attributes: Digest,
    /// None of the files is a pointer of Git LFS.
    no_pointers: bool,
    files: HashMap<String, File>,
}

impl Kept {
    /// What is kept beside this mirror, for a source that may have pointers or mustn't. Blocks.
    pub(super) fn load(mirror: &Path, no_pointers: bool) -> Option<Self> {
        let file = mirror.with_extension(KNOWN);
        if fs::metadata(&file).ok()?.len() > MOST_BYTES {
            return None;
        }
        let kept: Self = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        (kept.version == VERSION && (kept.no_pointers || !no_pointers)).then_some(kept)
    }

    /// Whether the link of this entry may lead to what is read by name.
    fn hides(entry: &Listed<'_>, named: &str) -> bool {
        let mut folders = named.match_indices('/').map(|(end, _)| &named.as_bytes()[..end]);
        entry.is_link() && (entry.is_read_by_name(named) || folders.any(|folder| folder == entry.path))
    }

    /// Of a listing: the paths that have to be written, each with a zero behind it, and the files that are known, with their time
    /// (nanoseconds since 1970).
    pub(super) fn part<'a>(
        &self,
        listed: impl Iterator<Item = Listed<'a>> + Clone,
        (named, mtime): (&str, i64),
    ) -> (Vec<u8>, Known) {
        let (mut paths, mut known) = (Vec::new(), Known::at(mtime));
        let is_fit = self.attributes == attributes(listed.clone())
            && !listed.clone().any(|entry| Self::hides(&entry, named));
        for entry in listed {
            let same = str::from_utf8(entry.path).ok().and_then(|path| {
                let file = self.files.get(path).filter(|_| is_fit && !entry.is_read_by_name(named))?;
                let is_same = file.mode == entry.mode && file.object == entry.object;
                Some((path, file, entry.permissions().filter(|_| is_same)?))
            });
            match same {
                Some((path, file, mode)) => {
                    known.add(path, KnownFile { mode, size: file.size, digest: file.digest });
                }
                None => {
                    paths.extend_from_slice(entry.path);
                    paths.push(0);
                }
            }
        }
        (paths, known)
    }

    /// Keeps what is in a listing and has gone to the farm, by path: its length and digest. Blocks.
    pub(super) fn keep<'a>(
        mirror: &Path,
        listed: impl Iterator<Item = Listed<'a>> + Clone,
        no_pointers: bool,
        sent: &HashMap<String, (u64, Digest)>,
    ) {
        // The project, or its login, may be gone by now, and the mirror with it.
        if !mirror.join("HEAD").exists() {
            return;
        }
        let attributes = attributes(listed.clone());
        let files = listed.filter(|entry| entry.permissions().is_some()).filter_map(|entry| {
            let path = str::from_utf8(entry.path).ok()?;
            let (size, digest) = *sent.get(path)?;
            let (mode, object) = (entry.mode.to_owned(), entry.object.to_owned());
            Some((path.to_owned(), File { mode, object, size, digest }))
        });
        let kept = Self { version: VERSION, attributes, no_pointers, files: files.collect() };
        if let Err(error) = kept.write(&mirror.with_extension(KNOWN)) {
            tracing::info!(%error, "what a repository had is not kept for the next fetch");
        }
    }

    fn write(&self, to: &Path) -> std::io::Result<()> {
        let bytes = serde_json::to_vec(self).map_err(std::io::Error::other)?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MOST_BYTES {
            return fs::remove_file(to);
        }
        let folder = to.parent().unwrap_or(to);
        let mut new = tempfile::NamedTempFile::new_in(folder)?;
        new.write_all(&bytes)?;
        new.persist(to)?;
        Ok(())
    }
}

fn attributes<'a>(listed: impl Iterator<Item = Listed<'a>>) -> Digest {
    let mut hasher = farm_types::digest::Hasher::new();
    for entry in listed.filter(|entry| entry.name() == b".gitattributes") {
        for part in [entry.path, entry.mode.as_bytes(), entry.object.as_bytes()] {
            hasher.update(part);
            hasher.update(&[0]);
        }
    }
    hasher.finish()
}
