//! Walking a folder: what is in it after the ignore patterns, without reading any file.
//!
//! Invariant: a folder that patterns leave out is in the result only if something below it is (brought back
//! by a `!` pattern), as Docker has it.

use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use farm_types::Digest;
use farm_types::pattern::{PatternSet, Verdicts};
use farm_types::snapshot::{Entry, Folder, Node};

use super::ContextError;
use super::files::Stat;
use super::known::{Known, KnownEntry};
use super::meant::Meant;
use super::unpack::{GoesOn, Recorded, Stamp, TOLD};

/// What patterns say of folders that aren't entered yet takes no more memory, bytes.
const MOST_HELD: usize = 64 << 20;

/// The files and folders of a context, as they were listed.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// A folder stands behind the one that it lies in; the first is the root.
    dirs: Vec<Dir>,
    /// All regular files that are part of the source.
    pub(super) files: Vec<FoundFile>,
    /// Sentences on what was left out though no pattern says so.
    pub(super) left_out: Vec<String>,
    /// The verdicts on folders that aren't entered yet, bytes.
    held: usize,
}

/// A regular file of the source.
#[derive(Debug)]
pub(super) struct FoundFile {
    /// From the root, with `/` between its parts.
    pub(super) name: String,
    /// What the file was like when it was listed; one that has changed since then is noticed by it.
    pub(super) stat: Stat,
    /// Its digest, of a file that isn't on this machine.
    pub(super) known: Option<Digest>,
}

#[derive(Debug)]
struct Dir {
    path: String,
    entries: Vec<Found>,
    /// A pattern leaves it out; it stays only for what is below it.
    excluded: bool,
    verdicts: Verdicts,
    meant: Meant,
}

#[derive(Debug)]
struct Found {
    name: String,
    mode: u32,
    mtime: i64,
    /// Mode and time are those of an archive, whatever the disk says.
    is_recorded: bool,
    what: What,
}

#[derive(Debug)]
enum What {
    /// The file's place in [`Scan::files`].
    File(usize),
    /// The folder's place in [`Scan::dirs`].
    Dir(usize),
    Symlink(String),
    Fifo,
}

/// The permission bits of folders that aren't on this machine.
const FOLDER_MODE: u32 = 0o755;

/// Permission bits with setuid, setgid and sticky.
pub(super) fn mode(metadata: &Metadata) -> u32 {
    metadata.mode() & 0o7777
}

/// Walks the folder at `root`, or what is meant of it. What is in `recorded` has its modes and times from there.
///
/// # Errors
/// Something that isn't left out can't be listed or has a name that isn't UTF-8; there are too many folders for so many patterns; or
/// it isn't to go on.
pub(super) fn scan(
    root: &Path,
    patterns: &PatternSet,
    meant: Meant,
    (recorded, known): (&Recorded, Option<&Known>),
    goes_on: &dyn GoesOn,
) -> Result<Scan, ContextError> {
    let mut scan = Scan::default();
    scan.dirs.push(Dir {
        path: String::new(),
        entries: Vec::new(),
        excluded: false,
        verdicts: Verdicts::default(),
        meant,
    });
    let mut odd = 0;
    let mut at = 0;
    while at < scan.dirs.len() {
        scan.list(at, root, (patterns, recorded, known), goes_on, &mut odd)?;
        at += 1;
    }
    if odd > TOLD {
        scan.left_out.push(format!("and {} more sockets and devices are left out", odd - TOLD));
    }
    Ok(scan)
}

/// What is in a folder, in whatever order.
fn names(folder: &Path) -> io::Result<Vec<OsString>> {
    std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.file_name())).collect()
}

impl Scan {
    fn list(
        &mut self,
        at: usize,
        root: &Path,
        (patterns, recorded, known): (&PatternSet, &Recorded, Option<&Known>),
        goes_on: &dyn GoesOn,
        odd: &mut usize,
    ) -> Result<(), ContextError> {
        let path = self.dirs[at].path.clone();
        let excluded = self.dirs[at].excluded;
        let verdicts = std::mem::take(&mut self.dirs[at].verdicts);
        self.held -= verdicts.bytes();
        let mut meant = std::mem::take(&mut self.dirs[at].meant);
        let shown = if path.is_empty() { root.display().to_string() } else { path.clone() };
        let names = if meant.is_whole {
            let on_disk = names(&root.join(&path));
            let names = match known {
                Some(known) => known.complete(&path, on_disk),
                None => on_disk,
            };
            match names {
                Ok(names) => names,
                // What was left out may be closed, and what is gone since its parent was listed is gone.
                Err(e) if excluded && e.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
                Err(e) if !path.is_empty() && e.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(e) => return Err(ContextError::unreadable(&shown, &e)),
            }
        } else {
            // Nobody looks at what isn't meant.
            meant.children.keys().cloned().collect()
        };
        let mut entries = Vec::new();
        for os_name in names {
            if !goes_on.goes_on() {
                return Err(ContextError::BrokenOff);
            }
            let place = root.join(&path).join(&os_name);
            let lossy = os_name.to_string_lossy();
            let entry_path =
                if path.is_empty() { lossy.clone().into_owned() } else { format!("{path}/{lossy}") };
            let (out, entry_verdicts) = patterns.judge(&entry_path, &verdicts);
            if out && !patterns.may_reinclude_below(&entry_path) {
                continue;
            }
            let of_known =
                known.and_then(|known| Some((known.entry(&path, os_name.to_str()?)?, known.mtime())));
            if let Some((entry, mtime)) = of_known
                && !(matches!(entry, KnownEntry::Folder) && place.symlink_metadata().is_ok())
            {
                if out && matches!(entry, KnownEntry::File(_)) {
                    continue;
                }
                let (mode, what) = match entry {
                    KnownEntry::File(file) => {
                        let stat = Stat { size: file.size, mtime, ..Stat::default() };
                        self.files.push(FoundFile { name: entry_path, stat, known: Some(file.digest) });
                        (file.mode, What::File(self.files.len() - 1))
                    }
                    KnownEntry::Folder => {
                        self.enter(&shown, entry_path, (out, entry_verdicts), Meant::whole())?;
                        (FOLDER_MODE, What::Dir(self.dirs.len() - 1))
                    }
                };
                let name = lossy.into_owned();
                entries.push(Found { name, mode, mtime, is_recorded: true, what });
                continue;
            }
            let metadata = match place.symlink_metadata() {
                Ok(metadata) => metadata,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(ContextError::unreadable(&entry_path, &e)),
            };
            if out && !metadata.is_dir() {
                continue;
            }
            let Some(name) = os_name.to_str() else {
                return Err(ContextError::Name(format!("the name of {entry_path:?} ({os_name:?})")));
            };
            let kind = metadata.file_type();
            let stat = Stat::from(&metadata);
            let stamp = recorded.of(Path::new(&entry_path));
            let what = if kind.is_dir() {
                let below = if meant.is_whole {
                    Meant::whole()
                } else {
                    meant.children.remove(&os_name).unwrap_or_default()
                };
                self.enter(&shown, entry_path, (out, entry_verdicts), below)?;
                What::Dir(self.dirs.len() - 1)
            } else if kind.is_file() {
                self.files.push(FoundFile { name: entry_path, stat, known: None });
                What::File(self.files.len() - 1)
            } else if kind.is_symlink() {
                let target = match std::fs::read_link(&place) {
                    Ok(target) => target,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(ContextError::unreadable(&entry_path, &e)),
                };
                let Some(target) = target.to_str() else {
                    return Err(ContextError::Name(format!(
                        "where the link {entry_path:?} points to ({target:?})"
                    )));
                };
                What::Symlink(target.to_owned())
            } else if kind.is_fifo() {
                What::Fifo
            } else {
                *odd += 1;
                if *odd <= TOLD {
                    let kind = if kind.is_socket() { "socket" } else { "device" };
                    self.left_out.push(format!("{entry_path:?} is a {kind} and is left out"));
                }
                continue;
            };
            let Stamp { mode, mtime } = stamp.unwrap_or(Stamp { mode: mode(&metadata), mtime: stat.mtime });
            entries.push(Found { name: name.to_owned(), mode, mtime, is_recorded: stamp.is_some(), what });
        }
        self.dirs[at].entries = entries;
        Ok(())
    }

    /// Adds a folder that is to be listed.
    fn enter(
        &mut self,
        shown: &str,
        path: String,
        (excluded, verdicts): (bool, Verdicts),
        meant: Meant,
    ) -> Result<(), ContextError> {
        self.held += verdicts.bytes();
        if self.held > MOST_HELD {
            return Err(ContextError::IgnoreFile(format!(
                "{shown:?} has too many folders below it for so many lines in .dockerignore; take lines out of it"
            )));
        }
        self.dirs.push(Dir { path, entries: Vec::new(), excluded, verdicts, meant });
        Ok(())
    }

    /// The folders, each with its path, each behind those that it holds; the root is the last. `digests`
    /// are of [`Self::files`], in the same order; a file without one is gone.
    ///
    /// # Errors
    /// A name that no snapshot takes.
    pub(super) fn folders(
        &self,
        digests: &[Option<(Digest, Stat)>],
    ) -> Result<Vec<(String, Folder)>, ContextError> {
        let mut made: Vec<Option<(Digest, Digest)>> = vec![None; self.dirs.len()];
        let mut folders = Vec::with_capacity(self.dirs.len());
        for (i, dir) in self.dirs.iter().enumerate().rev() {
            let mut entries = Vec::with_capacity(dir.entries.len());
            for found in &dir.entries {
                let (mtime, node) = match &found.what {
                    What::File(file) => match digests[*file] {
                        Some((digest, stat)) => {
                            let mtime = if found.is_recorded { found.mtime } else { stat.mtime };
                            (mtime, Node::File { size: stat.size, digest })
                        }
                        None => continue,
                    },
                    What::Dir(below) => match made[*below] {
                        Some((tree, content)) => (found.mtime, Node::Folder { tree, content }),
                        None => continue,
                    },
                    What::Symlink(target) => (found.mtime, Node::Symlink { target: target.clone() }),
                    What::Fifo => (found.mtime, Node::Fifo),
                };
                entries.push(Entry { name: found.name.clone(), mode: found.mode, mtime, node });
            }
            if dir.excluded && entries.is_empty() {
                continue;
            }
            let folder =
                Folder::new(entries).map_err(|e| ContextError::Location(format!("{}: {e}", dir.path)))?;
            made[i] = Some((folder.tree_digest(), folder.content_digest()));
            folders.push((dir.path.clone(), folder));
        }
        Ok(folders)
    }
}

#[cfg(test)]
mod tests {
    use super::super::unpack::Always;
    use super::*;

    #[test]
    fn what_patterns_say_of_folders_that_wait_is_bounded() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("a")).unwrap();
        let patterns = PatternSet::parse("x\ny\n").unwrap();
        let meant = || Meant::whole();
        let dir = |path: &str| Dir {
            path: path.to_owned(),
            entries: Vec::new(),
            excluded: false,
            verdicts: Verdicts::default(),
            meant: meant(),
        };
        let list = |held| {
            let mut scan = Scan { dirs: vec![dir("")], held, ..Scan::default() };
            let listed = scan.list(0, root.path(), (&patterns, &Recorded::default(), None), &Always, &mut 0);
            listed.map(|()| scan.held)
        };
        assert_eq!(list(0).unwrap(), 8);
        assert_eq!(list(MOST_HELD - 8).unwrap(), MOST_HELD);
        let told = list(MOST_HELD - 7).unwrap_err().to_string();
        assert!(told.contains("too many folders") && told.contains(".dockerignore"), "{told}");
        // Once a folder is entered, what was said of it is let go.
        let scan = scan(root.path(), &patterns, meant(), (&Recorded::default(), None), &Always).unwrap();
        assert_eq!((scan.dirs.len(), scan.held), (2, 0));
    }
}
