//! The state folder: where everything of a farm on this machine lies, and whose it is.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown,
};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::{Error, Result, failed};

/// Where root's farm is.
pub const ROOT_STATE: &str = "/var/lib/farm";

/// By this file a folder is known as farm's.
pub const MARKER: &str = ".farm-state";

const MARKER_TEXT: &str =
    "The state of a farm that `farm up` runs on this machine. `farm down --purge` removes it.\n";

/// Socket addresses hold 107 bytes; the longest name below the folder takes this many.
const LONGEST_SOCKET: usize = "/run/postgres/.s.PGSQL.5432".len();

/// What farm makes in its folder; [`crate::purge`] removes these and nothing else.
pub const OWN_ENTRIES: &[&str] =
    &["postgres", "registry", "engine", "coordinator", "workers", "logs", "run", "token", "lock", MARKER];

/// Paths in a state folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The folder that was named, or the usual one of this user.
    ///
    /// # Errors
    /// Its path can't be used.
    pub fn find(named: Option<&Path>) -> Result<Self> {
        let root = match named {
            Some(folder) => std::path::absolute(folder).map_err(|e| failed(folder.display(), &e))?,
            None => usual()?,
        };
        // Links are resolved as far as the folder is there: mounts and locks go by real paths.
        let root = resolve(&root);
        let text = root.to_str().unwrap_or_default();
        let refuse = |why: String| Err(Error::Usage(format!("--state-dir {}: {why}", root.display())));
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+@".contains(&b)) || text.is_empty() {
            return refuse("use letters, digits and . _ - + @ / only".to_owned());
        }
        if text.len() + LONGEST_SOCKET > 107 {
            return refuse(format!(
                "the path has {} bytes, and Unix sockets below it leave room for {}; choose a shorter one",
                text.len(),
                107 - LONGEST_SOCKET
            ));
        }
        if root.components().count() < 3 {
            return refuse("choose a folder further down, like /var/lib/farm".to_owned());
        }
        // The engine's private /run would hide it.
        if root.starts_with("/run")
            || root.starts_with("/proc")
            || root.starts_with("/sys")
            || root.starts_with("/dev")
        {
            return refuse("choose a folder on disk, like /var/lib/farm".to_owned());
        }
        Ok(Self { root })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path in it.
    pub fn join(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Sockets and records of what runs.
    pub fn run(&self, name: &str) -> PathBuf {
        self.root.join("run").join(name)
    }

    /// The supervisor's socket.
    pub fn control_socket(&self) -> PathBuf {
        self.run("control.sock")
    }

    /// The own engine's socket.
    pub fn engine_socket(&self) -> PathBuf {
        self.run("docker.sock")
    }

    /// The local admin's token.
    pub fn token(&self) -> PathBuf {
        self.join("token")
    }

    /// A part's log.
    pub fn log(&self, part: &str) -> PathBuf {
        self.root.join("logs").join(format!("{part}.log"))
    }

    /// True when `farm up` has made it.
    pub fn is_marked(&self) -> bool {
        self.join(MARKER).is_file()
    }

    /// The control group of what the own engine's builds run: always the same for one folder, so that what a
    /// killed farm left is found.
    pub fn group(&self) -> String {
        // FNV-1a: stable between builds, which std's hasher does not promise.
        let hash = self.root.to_string_lossy().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("farm-local-{:08x}", hash & 0xffff_ffff)
    }

    /// Makes the folder, or takes it when it is farm's already.
    ///
    /// # Errors
    /// It holds something else, or can't be made or written.
    pub fn prepare(&self) -> Result<()> {
        let at = |path: &Path, e: &std::io::Error| failed(format!("--state-dir {}", path.display()), e);
        if !self.is_marked() {
            let taken = fs::read_dir(&self.root).is_ok_and(|mut entries| {
                entries.any(|e| e.is_ok_and(|e| e.file_name() != "lost+found" && e.file_name() != "logs"))
            });
            if taken {
                return Err(Error::Usage(format!(
                    "--state-dir {}: the folder isn't empty and wasn't made by farm up; choose another, or empty it",
                    self.root.display()
                )));
            }
        }
        let folder = |path: &Path, mode| match DirBuilder::new().recursive(true).mode(mode).create(path) {
            Ok(()) => Ok(()),
            Err(e) => Err(at(path, &e)),
        };
        // Others may pass, to reach the sockets that are meant for them; what is below decides for itself.
        folder(&self.root, 0o755)?;
        let marker = self.join(MARKER);
        if !marker.exists() {
            fs::write(&marker, MARKER_TEXT).map_err(|e| at(&marker, &e))?;
        }
        for (name, mode) in [
            ("run", 0o755),
            ("run/parts", 0o700),
            ("logs", 0o755),
            ("postgres", 0o755),
            ("registry", 0o700),
            ("engine", 0o711),
            ("coordinator", 0o700),
            ("workers", 0o700),
        ] {
            folder(&self.join(name), mode)?;
        }
        Ok(())
    }

    /// The folder's lock, held by the supervisor for life and by whoever removes the folder. The kernel frees it
    /// however its holder ends.
    ///
    /// # Errors
    /// `Ok(None)`: somebody has it.
    pub fn lock(&self) -> Result<Option<File>> {
        let path = self.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .read(true)
            .mode(0o644)
            .open(&path)
            .map_err(|e| failed(path.display(), &e))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(failed(path.display(), &e.into())),
        }
    }

    /// Writes a file as a whole: who reads it sees the old text or the new one.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write(&self, path: &Path, text: &str) -> Result<()> {
        let beside = path.with_extension("new");
        let write = || {
            let mut file = File::create(&beside)?;
            file.write_all(text.as_bytes())?;
            fs::rename(&beside, path)
        };
        write().map_err(|e| failed(path.display(), &e))
    }
}

/// The usual folder of this user.
fn usual() -> Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from(ROOT_STATE));
    }
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let own = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
    let own = own.map(|base| base.join("farm"));
    // Root's farm is the one that is meant where the user has none.
    let has_none = own.as_ref().is_none_or(|own| !own.join(MARKER).exists());
    if has_none && Path::new(ROOT_STATE).join(MARKER).exists() {
        return Ok(PathBuf::from(ROOT_STATE));
    }
    own.ok_or_else(|| Error::Usage("HOME is not set; say where with --state-dir DIR".to_owned()))
}

fn resolve(path: &Path) -> PathBuf {
    let mut rest = Vec::new();
    let mut there = path;
    loop {
        if let Ok(real) = there.canonicalize() {
            return rest.iter().rev().fold(real, |at: PathBuf, name| at.join(name));
        }
        let (Some(parent), Some(name)) = (there.parent(), there.file_name()) else { return path.to_owned() };
        rest.push(name);
        there = parent;
    }
}

/// Whoever called sudo owns the machine anyhow, so the farm's token and socket are that user's, too.
pub fn give_to_caller(path: &Path) {
    let id = |name: &str| std::env::var(name).ok().and_then(|id| id.parse::<u32>().ok());
    if rustix::process::geteuid().is_root()
        && let (Some(uid), Some(gid)) = (id("SUDO_UID"), id("SUDO_GID"))
    {
        // What can't be given stays root's.
        let _ = chown(path, Some(uid), Some(gid));
    }
}

/// The first folder above (or at) `path` that others may not pass.
pub fn closed_ancestor(path: &Path) -> Option<PathBuf> {
    let closed =
        |at: &&Path| fs::metadata(at).is_ok_and(|m| m.permissions().mode() & 0o001 == 0 && m.is_dir());
    path.ancestors().find(closed).map(Path::to_owned)
}

/// The device that a path is on.
pub fn device(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path).ok().map(|m| m.dev())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfit_folders_are_refused_with_the_reason() {
        let error = |path: &str| Layout::find(Some(Path::new(path))).unwrap_err().to_string();
        assert!(error("/run/farm").contains("on disk"));
        assert!(error("/farm").contains("further down"));
        assert!(error("/tmp/a b").contains("letters"));
        assert!(error(&format!("/tmp/{}", "x".repeat(90))).contains("shorter"));
    }

    #[test]
    fn a_folder_of_somebody_else_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::find(Some(folder.path())).unwrap();
        fs::write(folder.path().join("thesis.tex"), "x").unwrap();
        assert!(layout.prepare().unwrap_err().to_string().contains("isn't empty"));
        fs::remove_file(folder.path().join("thesis.tex")).unwrap();
        layout.prepare().unwrap();
        layout.prepare().unwrap();
        assert!(layout.is_marked());
    }

    #[test]
    fn one_at_a_time_has_the_lock() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::find(Some(folder.path())).unwrap();
        layout.prepare().unwrap();
        let held = layout.lock().unwrap();
        assert!(held.is_some() && layout.lock().unwrap().is_none());
        drop(held);
        assert!(layout.lock().unwrap().is_some());
    }
}
