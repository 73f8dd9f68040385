//! What was fetched before: one bare repository per project and repository, so that the next fetch brings differences only.
//!
//! Nothing is trusted for being in a mirror: each fetch asks the host first, with the login of that build. Whoever reads or
//! writes a mirror holds its lock; whoever removes it, too. A mirror that has become large or old is thrown away rather than tidied.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use farm_types::git::GitUrl;
use farm_types::{Digest, GitPlace, ProjectId};
use tokio::sync::RwLock;

use super::account::{Account, own_folder, passage};
use super::known::KNOWN;
use super::program::folder_size;

/// From so many fetches on a mirror begins anew: each leaves a pack.
const MOST_PACKS: usize = 50;
/// What stands behind the name of a file beside a mirror that is written at each use. (What is in a mirror is git's user's.)
const USED: &str = "used";
/// One that wasn't used for so long goes: its project, or the login for it, may be gone.
const UNUSED: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a mirror is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// For which project.
    pub project: ProjectId,
    /// Which repository.
    pub repository: GitUrl,
    /// The place of the login by which it was fetched last.
    pub place: Option<GitPlace>,
}

/// A lock on one mirror.
pub(crate) type Lock = Arc<RwLock<()>>;

/// All mirrors.
#[derive(Debug)]
pub(crate) struct Mirrors {
    folder: PathBuf,
    /// Bytes of all.
    most: u64,
    locks: Mutex<HashMap<PathBuf, Lock>>,
}

impl Mirrors {
    /// Those of this folder, which is made if need be.
    pub(crate) fn open(folder: PathBuf, most: u64) -> io::Result<Self> {
        passage(&folder)?;
        Ok(Self { folder, most, locks: Mutex::default() })
    }

    /// The place of one mirror, and its lock.
    pub(crate) fn of(&self, project: ProjectId, repository: &GitUrl) -> (PathBuf, Lock) {
        let name = Digest::of(repository.as_str().as_bytes()).hex();
        let path = self.folder.join(project.to_string()).join(format!("{name}.git"));
        let lock = self.lock(&path);
        (path, lock)
    }

    fn lock(&self, path: &Path) -> Lock {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(path.to_owned()).or_default())
    }

    /// Makes an empty folder for a mirror that isn't there. By whoever holds the lock.
    pub(crate) fn make(path: &Path, account: Option<&Account>) -> io::Result<()> {
        if let Some(project) = path.parent() {
            passage(project)?;
        }
        own_folder(path, account)
    }

    /// Whether it is fit to be fetched into: sound as far as can be seen, and neither old nor too large. What a fetch that was killed
    /// left in it goes. By whoever holds the lock to write.
    pub(crate) fn is_fit(path: &Path, most: u64) -> bool {
        let packs = fs::read_dir(path.join("objects/pack")).into_iter().flatten().filter_map(io::Result::ok);
        let mut count = 0;
        for entry in packs {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("tmp_") {
                let _ = fs::remove_file(entry.path());
            }
            count += usize::from(name.ends_with(".pack"));
        }
        let is_locked =
            ["shallow.lock", "packed-refs.lock", "config.lock"].iter().any(|lock| path.join(lock).exists());
        path.join("HEAD").exists() && !is_locked && count < MOST_PACKS && folder_size(path) <= most
    }

    /// Notes that it was used now, and by the login of that place.
    pub(crate) fn used(path: &Path, repository: &GitUrl, place: Option<&GitPlace>) {
        let place = place.map_or("", GitPlace::as_str);
        // An unwritten one is removed sooner, no more.
        let _ = fs::write(path.with_extension(USED), format!("{}\n{place}\n", repository.as_str()));
    }

    /// All that are here, but for those of workers of before, which didn't note what they are of.
    pub(crate) async fn kept(&self) -> Vec<Kept> {
        let folder = self.folder.clone();
        let read = move || {
            let of = |project: PathBuf| {
                let id: ProjectId = project.file_name()?.to_str()?.parse().ok()?;
                let notes = entries(&project).into_iter();
                let notes = notes.filter(|path| path.extension().is_some_and(|extension| extension == USED));
                Some(notes.filter_map(move |path| {
                    let note = fs::read_to_string(path).ok()?;
                    let mut lines = note.lines();
                    let repository = lines.next()?.parse().ok()?;
                    Some(Kept { project: id, repository, place: lines.next()?.parse().ok() })
                }))
            };
            entries(&folder).into_iter().filter_map(of).flatten().collect()
        };
        tokio::task::spawn_blocking(read).await.unwrap_or_default()
    }

    /// Removes a project's mirror of one repository, or all of a project's.
    pub(crate) async fn forget(&self, project: ProjectId, repository: Option<&GitUrl>) {
        let folder = self.folder.join(project.to_string());
        let doomed = match repository {
            Some(repository) => vec![self.of(project, repository).0],
            None => entries(&folder),
        };
        for path in doomed {
            let lock = self.lock(&path);
            let _held = lock.write().await;
            remove_notes(&path);
            remove(path).await;
        }
        // Others may be in it.
        let _ = fs::remove_dir(&folder);
    }

    /// Removes those that nobody has used for long, and those that were used longest ago until all have room. One that is in use stays.
    pub(crate) async fn trim(&self) {
        let folder = self.folder.clone();
        let measured = tokio::task::spawn_blocking(move || {
            let is_mirror = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "git");
            let mirrors = entries(&folder)
                .iter()
                .flat_map(|project| entries(project))
                .filter(is_mirror)
                .collect::<Vec<_>>();
            let mut measured: Vec<(SystemTime, u64, PathBuf)> =
                mirrors.into_iter().map(|path| (last_use(&path), folder_size(&path), path)).collect();
            measured.sort();
            measured
        });
        let Ok(measured) = measured.await else { return };
        let mut sum: u64 = measured.iter().map(|(_, size, _)| size).sum();
        for (used, size, path) in measured {
            let is_old = used.elapsed().is_ok_and(|age| age > UNUSED);
            if sum <= self.most && !is_old {
                return;
            }
            let lock = self.lock(&path);
            let Ok(_held) = lock.try_write() else { continue };
            tracing::info!(mirror = %path.display(), bytes = size, "a mirror of a repository goes: room for others");
            remove_notes(&path);
            remove(path).await;
            sum = sum.saturating_sub(size);
        }
    }
}

/// What is noted beside a mirror goes with it.
fn remove_notes(path: &Path) {
    for note in [USED, KNOWN] {
        let _ = fs::remove_file(path.with_extension(note));
    }
}

fn last_use(path: &Path) -> SystemTime {
    File::open(path.with_extension(USED))
        .and_then(|file| file.metadata()?.modified())
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().filter_map(io::Result::ok).map(|entry| entry.path()).collect()
}

/// Removes a folder, if it is there.
pub(crate) async fn remove(path: PathBuf) {
    let removed = tokio::task::spawn_blocking(move || (fs::remove_dir_all(&path), path)).await;
    if let Ok((Err(error), path)) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, folder = %path.display(), "a folder of git can't be removed");
    }
}
