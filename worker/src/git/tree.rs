//! A commit's files, out of a repository that is here into a folder.
//!
//! Files are counted before one is written. What git does at a checkout by `.gitattributes` it does here: line ends (`eol`), `ident`
//! and encodings. Filters have no program, so what they would change stays as it was committed (Git LFS: the pointers).

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use farm_source::Known;
use farm_types::FailureCode;
use farm_types::git::{Commit, GitUrl};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::error::{FetchError, disk, trouble, user};
use super::known::{Kept, Listed};
use super::program::{Bounds, Call, Program, folder_size};
use super::said;

/// The longest path that a disk takes, bytes (PATH_MAX).
const LONGEST_PATH: usize = 4096;
/// All paths of a source together, bytes.
const MOST_PATHS: usize = 64 << 20;

/// A submodule in a commit: it names another repository's commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    pub(crate) path: String,
    pub(crate) commit: Commit,
}

/// What a source has so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// What is to be written.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Each with a zero behind it.
    paths: Vec<u8>,
    /// The same with what they are, as an index takes them (git-update-index, `--index-info`): `MODE OBJECT<tab>PATH`.
    entries: Vec<u8>,
    modules: Vec<Module>,
}

/// What was written, and what was spared.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) modules: Vec<Module>,
    pub(crate) listing: Listing,
    /// Files that weren't.
    pub(crate) known: Known,
}

/// A repository here, and a commit that it has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) program: &'a Program,
    /// Where it came from, for what is said.
    pub(crate) url: &'a GitUrl,
    pub(crate) repository: &'a Path,
    pub(crate) bounds: &'a Bounds<'a>,
}

impl At<'_> {
    /// What a call prints, which has to end well.
    pub(crate) async fn ask(&self, call: Call) -> Result<Vec<u8>, FetchError> {
        let said = self.program.capture(call, self.bounds, 16 << 20).await?;
        if said.ok { Ok(said.stdout) } else { Err(self.failure(&said.words)) }
    }

    fn failure(&self, words: &str) -> FetchError {
        if words.contains("No space left") || words.contains("quota exceeded") {
            return trouble(
                FailureCode::WorkerDisk,
                "the worker has no room for the source; free space there",
            );
        }
        said::broken(self.url, words)
    }

    fn call(&self) -> Call {
        Call::at(self.repository)
    }

    /// Whether it has this commit, whole or not.
    pub(crate) async fn has(&self, commit: &str) -> Result<bool, FetchError> {
        let call = self.call().args(["rev-parse", "--verify", "--quiet", commit]);
        Ok(self.program.capture(call, self.bounds, 1 << 20).await?.ok)
    }

    /// The commit that an object leads to; `None`: it leads to none.
    pub(crate) async fn commit_of(&self, name: &str) -> Result<Option<Commit>, FetchError> {
        let call = self.call().args(["rev-parse", "--verify", "--quiet", &format!("{name}^{{commit}}")]);
        let said = self.program.capture(call, self.bounds, 1 << 20).await?;
        Ok(String::from_utf8_lossy(&said.stdout).trim().parse().ok())
    }

    /// When it was committed, seconds since 1970.
    pub(crate) async fn time(&self, commit: &Commit) -> Result<i64, FetchError> {
        let said = self.ask(self.call().args(["log", "-1", "--format=%ct", commit.as_str()])).await?;
        let text = String::from_utf8_lossy(&said);
        text.trim()
            .parse()
            .map_err(|_| said::broken(self.url, &format!("the commit's time {:?} is none", text.trim())))
    }

    /// Writes a commit's files, or those of a folder of it, into the folder `tree`, by the index file `index`; but for those that are
    /// `spared` (not the Dockerfile of that name), at this time of all files (seconds since 1970).
    ///
    /// # Errors
    /// It has no such folder, has more than may be `taken`, or can't be written.
    pub(crate) async fn write(
        &self,
        commit: &Commit,
        subdir: &str,
        (tree, index): (&Path, &Path),
        (spared, seconds): (Option<(&Kept, &str)>, i64),
        taken: &mut Taken,
    ) -> Result<Written, FetchError> {
        if !subdir.is_empty() {
            self.is_folder(commit, subdir).await?;
        }
        let mut listing = self.list(commit, subdir, taken).await?;
        let mut known = Known::default();
        if let Some((kept, named)) = spared.filter(|_| listing.modules.is_empty()) {
            let mtime = seconds.saturating_mul(1_000_000_000);
            (listing.paths, known) = kept.part(listing.listed(), (named, mtime));
        }
        let mut entries = listing.entries.clone();
        entries.extend(self.attributes_above(commit, subdir).await?);
        let with_index = |call: Call| call.env("GIT_INDEX_FILE", index);
        // Nothing but this: what else is in the commit nobody has counted, and a few objects can stand for any number of files.
        let fill = self.call().args(["update-index", "-z", "--index-info"]).stdin(entries);
        self.ask(with_index(fill)).await?;
        let out = self.call().args(["checkout-index", "--force", "--quiet", "-z", "--stdin"]);
        let out = with_index(out.env("GIT_WORK_TREE", tree))
            .from(tree)
            .stdin(std::mem::take(&mut listing.paths))
            .grows(tree);
        self.ask(out).await?;
        // Attributes make files longer than their blobs.
        let written = tree.to_owned();
        let written = tokio::task::spawn_blocking(move || folder_size(&written)).await.unwrap_or(u64::MAX);
        if written > self.bounds.limits.bytes {
            return Err(self.bounds.too_large());
        }
        Ok(Written { modules: std::mem::take(&mut listing.modules), listing, known })
    }

    /// The `.gitattributes` of the folders that a folder lies in, as an index takes them.
    async fn attributes_above(&self, commit: &Commit, subdir: &str) -> Result<Vec<u8>, FetchError> {
        if subdir.is_empty() {
            return Ok(Vec::new());
        }
        let above = subdir.match_indices('/').map(|(end, _)| format!("{}/.gitattributes", &subdir[..end]));
        let call =
            self.call().args(["ls-tree", "-z", "--full-tree", commit.as_str(), "--", ".gitattributes"]);
        let said = self.ask(call.args(above)).await?;
        let files = said.split_inclusive(|byte| *byte == 0).filter(|entry| entry.starts_with(b"100"));
        Ok(files.flatten().copied().collect())
    }

    /// That a commit has a folder of this path; one that a link leads to is none.
    async fn is_folder(&self, commit: &Commit, subdir: &str) -> Result<(), FetchError> {
        let call = self.call().args(["ls-tree", "-z", "--full-tree", commit.as_str(), "--", subdir]);
        let said = self.ask(call).await?;
        let what = match said.get(..6) {
            Some(b"040000") => return Ok(()),
            Some(b"120000") => "a link there",
            Some(b"160000") => "a submodule there",
            Some(_) => "a file there",
            None => "not there",
        };
        let text = format!(
            "{} has no folder {subdir} in commit {}: it is {what}; name one that is there: URL#REF:FOLDER",
            self.url,
            commit.short()
        );
        Err(user(FailureCode::GitSubdirMissing, text))
    }

    async fn list(&self, commit: &Commit, subdir: &str, taken: &mut Taken) -> Result<Listing, FetchError> {
        let mut call = self.call().args(["ls-tree", "-r", "-z", "-l", "--full-tree", commit.as_str()]);
        if !subdir.is_empty() {
            call = call.args(["--", subdir]);
        }
        let (mut listing, mut rest) = (Listing::default(), Vec::new());
        let mut sink = |bytes: &[u8]| {
            rest.extend_from_slice(bytes);
            let Some(end) = rest.iter().rposition(|byte| *byte == 0) else {
                let is_endless = rest.len() > 2 * LONGEST_PATH;
                return if is_endless {
                    Err(said::broken(self.url, "a path without an end"))
                } else {
                    Ok(())
                };
            };
            let whole: Vec<u8> = rest.drain(..=end).collect();
            for entry in whole.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()) {
                let unreadable =
                    || said::broken(self.url, &format!("an entry {:?}", String::from_utf8_lossy(entry)));
                listing.take(entry, taken).ok_or_else(unreadable)?;
                if taken.files > self.bounds.limits.files || listing.paths.len() > MOST_PATHS {
                    return Err(self.bounds.too_many());
                }
                if taken.bytes > self.bounds.limits.bytes {
                    return Err(self.bounds.too_large());
                }
            }
            Ok(())
        };
        let (ok, words) = self.program.run(call, self.bounds, &mut sink).await?;
        if ok { Ok(listing) } else { Err(self.failure(&words)) }
    }
}

impl Listing {
    /// All entries.
    pub(super) fn listed(&self) -> impl Iterator<Item = Listed<'_>> + Clone {
        let entries = self.entries.split(|byte| *byte == 0).filter(|entry| !entry.is_empty());
        entries.filter_map(|entry| {
            let tab = entry.iter().position(|byte| *byte == b'\t')?;
            let (mode, object) = str::from_utf8(&entry[..tab]).ok()?.split_once(' ')?;
            Some(Listed { mode, object, path: &entry[tab + 1..] })
        })
    }

    /// An entry as `git ls-tree -l` prints it: `MODE TYPE OBJECT SIZE<tab>PATH`.
    fn take(&mut self, entry: &[u8], taken: &mut Taken) -> Option<()> {
        let tab = entry.iter().position(|byte| *byte == b'\t')?;
        let (about, path) = (str::from_utf8(&entry[..tab]).ok()?, &entry[tab + 1..]);
        if path.len() > LONGEST_PATH {
            return None;
        }
        let words: Vec<&str> = about.split_ascii_whitespace().collect();
        let [mode, _, object, size] = words[..] else { return None };
        taken.files += 1;
        if mode == "160000" {
            let path = str::from_utf8(path).ok()?.to_owned();
            self.modules.push(Module { path, commit: object.parse().ok()? });
        } else {
            taken.bytes = taken.bytes.saturating_add(size.parse().ok()?);
        }
        self.entries.extend(format!("{mode} {object}\t").bytes());
        for to in [&mut self.entries, &mut self.paths] {
            to.extend_from_slice(path);
            to.push(0);
        }
        Some(())
    }
}

/// Gives all that is in a folder the modes that git knows (644, 755; folders 755), and one time. Blocks.
///
/// # Errors
/// The disk's.
pub(crate) fn settle(folder: &Path, seconds: i64) -> Result<(), FetchError> {
    settle_below(folder, seconds)
        .map_err(|error| disk("the source's files can't be given their times", &error))
}

fn settle_below(path: &Path, seconds: i64) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.is_dir() {
        // Before what is in it, as it may be another user's alone.
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        for entry in fs::read_dir(path)? {
            settle_below(&entry?.path(), seconds)?;
        }
    } else if metadata.is_file() {
        let mode = if metadata.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    let at = Timespec { tv_sec: seconds, tv_nsec: 0 };
    utimensat(CWD, path, &Timestamps { last_access: at, last_modification: at }, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}
