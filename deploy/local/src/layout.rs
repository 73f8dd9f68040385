//! The state folder: where everything of a farm on this machine lies, and whose it is.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown,
};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::settings::Settings;
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
pub const OWN_ENTRIES: &[&str] = &[
    "postgres",
    "registry",
    "staging",
    "engine",
    "untrusted",
    "coordinator",
    "workers",
    "logs",
    "run",
    "token",
    "ca.pem",
    "settings.json",
    // Last: a purge that was cut off can be repeated, and nobody else comes in before it is over.
    MARKER,
    "lock",
];

/// An engine of farm's own, by how far the machine is trusted that it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnEngine {
    /// This one.
    Trusted,
    /// One that isn't (`farm up --untrusted`): it reaches the staging registry and public addresses, and nothing else.
    Untrusted,
}

impl OwnEngine {
    /// The part's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trusted => "engine",
            Self::Untrusted => "untrusted-engine",
        }
    }

    /// The name of the part that is its way out.
    pub fn network(self) -> &'static str {
        match self {
            Self::Trusted => "network",
            Self::Untrusted => "untrusted-network",
        }
    }

    /// Its folder.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Trusted => "engine",
            Self::Untrusted => "untrusted",
        }
    }
}

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

    /// An own engine's socket.
    pub fn engine_socket(&self, engine: OwnEngine) -> PathBuf {
        self.run(match engine {
            OwnEngine::Trusted => "docker.sock",
            OwnEngine::Untrusted => "untrusted.sock",
        })
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

    /// The control group of what an own engine's builds run: always the same for one folder, so that what a
    /// killed farm left is found.
    pub fn group_of(&self, engine: OwnEngine) -> String {
        match engine {
            OwnEngine::Trusted => self.group(),
            OwnEngine::Untrusted => format!("{}-untrusted", self.group()),
        }
    }

    /// A name for what is this folder's, the same each time.
    pub fn group(&self) -> String {
        // FNV-1a: stable between builds, which std's hasher does not promise.
        let hash = self.root.to_string_lossy().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("farm-local-{:08x}", hash & 0xffff_ffff)
    }

    /// What the farm in it was last told; `None`: it was never up.
    pub fn remembered(&self) -> Option<Settings> {
        serde_json::from_slice(&fs::read(self.join("settings.json")).ok()?).ok()
    }

    /// Keeps what the farm was told for the next time.
    pub fn remember(&self, settings: &Settings) {
        let text = serde_json::to_string_pretty(settings).unwrap_or_default();
        if let Err(error) = self.write(&self.join("settings.json"), &text) {
            eprintln!("the flags are not remembered: {error}");
        }
    }

    /// Sees whether the folder may be taken. Changes nothing.
    ///
    /// # Errors
    /// It holds something else, is another user's farm, or others may change what is in it.
    pub fn check(&self) -> Result<()> {
        self.check_owner()?;
        if !self.is_marked() {
            let known = |name: &OsStr| name == "lost+found" || name == "lock";
            let mut entries = fs::read_dir(&self.root).into_iter().flatten();
            if entries.any(|entry| entry.is_ok_and(|entry| !known(&entry.file_name()))) {
                return Err(self.refusal(
                    "the folder isn't empty and wasn't made by farm up; choose another, or empty it",
                ));
            }
        }
        Ok(())
    }

    /// What is in the folder is started, and removed, with this user's rights: so nobody else may put it there, also
    /// not by putting another folder in its place.
    ///
    /// # Errors
    /// The farm in it is another user's, or others may change the folder.
    pub fn check_owner(&self) -> Result<()> {
        let me = rustix::process::geteuid().as_raw();
        if let Ok(marker) = fs::symlink_metadata(self.join(MARKER))
            && marker.uid() != me
        {
            // Its files would belong to two users in turn, and neither could go on.
            return Err(self.refusal(&format!(
                "the farm in it is of the user with number {}; start it as that user, or choose another folder",
                marker.uid()
            )));
        }
        // Who may be root by sudo owns the machine anyhow.
        let trusted = [Some(0), Some(me), caller().filter(|_| me == 0).map(|(uid, _)| uid)];
        for (depth, folder) in self.root.ancestors().enumerate() {
            // An ordinary user's other folders are that user's business.
            if depth > 0 && me != 0 {
                break;
            }
            let Ok(metadata) = fs::symlink_metadata(folder) else { continue };
            let is_shared = metadata.mode() & 0o022 != 0 && (depth == 0 || metadata.mode() & 0o1000 == 0);
            if !trusted.contains(&Some(metadata.uid())) {
                return Err(self.refusal(&format!(
                    "{} belongs to the user with number {}, who could change what is run from it; choose another, like \
                     {ROOT_STATE}",
                    folder.display(),
                    metadata.uid()
                )));
            }
            if is_shared {
                return Err(self.refusal(&format!(
                    "others may write in {}, and so change what is run from it; chmod go-w it, or choose another folder",
                    folder.display()
                )));
            }
        }
        Ok(())
    }

    fn refusal(&self, why: &str) -> Error {
        Error::Usage(format!("--state-dir {}: {why}", self.root.display()))
    }

    /// Makes the folder, or takes it when it is farm's already. Only for the holder of its lock.
    ///
    /// # Errors
    /// As [`Layout::check`], and when it can't be made or written.
    pub fn prepare(&self) -> Result<()> {
        self.check()?;
        let at = |path: &Path, e: &std::io::Error| failed(format!("--state-dir {}", path.display()), e);
        let folder = |path: &Path, mode| make(path, mode).map_err(|e| at(path, &e));
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
            ("staging", 0o700),
            ("engine", 0o711),
            ("engine/data", 0o711),
            ("untrusted", 0o711),
            ("untrusted/data", 0o711),
            ("coordinator", 0o700),
            // Git passes it, as a user of its own; each worker's folder is that worker's and its group's.
            ("workers", 0o711),
        ] {
            folder(&self.join(name), mode)?;
        }
        Ok(())
    }

    /// The folder's lock, held by the supervisor for life and by whoever makes or removes what is in the folder, which
    /// is made for it if need be. The kernel frees it however its holder ends.
    ///
    /// # Errors
    /// `Ok(None)`: somebody has it. Else it can't be had, or the folder isn't ours to use.
    pub fn lock(&self) -> Result<Option<File>> {
        self.check_owner()?;
        let path = self.join("lock");
        make(&self.root, 0o755).map_err(|e| failed(format!("--state-dir {}", self.root.display()), &e))?;
        // Whoever can open it can hold it, and so keep the farm from starting.
        let file =
            OpenOptions::new().create(true).truncate(false).write(true).read(true).mode(0o600).open(&path);
        let file = file.map_err(|e| failed(path.display(), &e))?;
        give_to_caller(&path);
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // A purge may have removed it between the opening and the locking: that lock keeps nobody out.
            Ok(()) => Ok(is_at(&file, &path).then_some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(failed(path.display(), &e.into())),
        }
    }

    /// True while somebody has the lock.
    pub fn is_locked(&self) -> bool {
        let Ok(file) = File::open(self.join("lock")) else { return false };
        let tried = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        tried == Err(rustix::io::Errno::WOULDBLOCK)
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
            // A name that comes to the disk before its content would be an empty file after a power cut.
            file.sync_all()?;
            fs::rename(&beside, path)
        };
        write().map_err(|e| failed(path.display(), &e))
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(a), Ok(b)) if same(&a, &b))
}

/// Makes a folder of this mode, whatever the umask, and the ones above it for all to pass.
fn make(path: &Path, mode: u32) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent() {
        make(above, 0o755)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(mode)),
        Err(_) if path.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}

/// The usual folder of this user.
fn usual() -> Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from(ROOT_STATE));
    }
    // A relative path is as good as none: it would mean another place in each folder.
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let own = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
    let own = own.map(|base| base.join("farm"));
    // Root's farm is the one that is meant where the user has none.
    let has_none = own.as_ref().is_none_or(|own| !own.join(MARKER).exists());
    if has_none && Path::new(ROOT_STATE).join(MARKER).exists() {
        return Ok(PathBuf::from(ROOT_STATE));
    }
    own.ok_or_else(|| {
        Error::Usage("HOME is not set to an absolute path; say where with --state-dir DIR".to_owned())
    })
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

/// Who has called sudo: user and group.
fn caller() -> Option<(u32, u32)> {
    let id = |name: &str| std::env::var(name).ok().and_then(|id| id.parse::<u32>().ok());
    Some((id("SUDO_UID")?, id("SUDO_GID")?))
}

/// Whoever called sudo owns the machine anyhow, so the farm's token, lock and socket are that user's, too; without sudo
/// they are root's (again).
pub fn give_to_caller(path: &Path) {
    if rustix::process::geteuid().is_root() {
        let (uid, gid) = caller().unwrap_or((0, 0));
        // What can't be given stays as it is.
        let _ = chown(path, Some(uid), Some(gid));
    }
}

/// The first folder above (or at) `path` that others may not pass.
pub fn closed_ancestor(path: &Path) -> Option<PathBuf> {
    let closed =
        |at: &&Path| fs::metadata(at).is_ok_and(|m| m.permissions().mode() & 0o001 == 0 && m.is_dir());
    path.ancestors().find(closed).map(Path::to_owned)
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
        // Whose logs are they?
        fs::create_dir(folder.path().join("logs")).unwrap();
        assert!(layout.prepare().is_err());
        fs::remove_dir(folder.path().join("logs")).unwrap();
        layout.prepare().unwrap();
        layout.prepare().unwrap();
        assert!(layout.is_marked());
    }

    #[test]
    fn a_lock_that_was_removed_with_its_folder_keeps_nobody_out() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::find(Some(folder.path())).unwrap();
        layout.prepare().unwrap();
        let held = layout.lock().unwrap().unwrap();
        assert!(layout.is_locked());
        fs::remove_file(layout.join("lock")).unwrap();
        assert!(!is_at(&held, &layout.join("lock")));
        assert!(!layout.is_locked());
        assert!(layout.lock().unwrap().is_some());
    }

    #[test]
    fn a_folder_that_others_may_change_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::find(Some(&folder.path().join("farm"))).unwrap();
        layout.prepare().unwrap();
        fs::set_permissions(layout.root(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(layout.lock().unwrap_err().to_string().contains("others may write"));
        fs::set_permissions(layout.root(), fs::Permissions::from_mode(0o755)).unwrap();
        if rustix::process::geteuid().is_root() {
            // Its owner could put another one in its place.
            chown(folder.path(), Some(12345), None).unwrap();
            assert!(layout.check().unwrap_err().to_string().contains("number 12345"));
            chown(folder.path(), Some(0), None).unwrap();
        }
        layout.check().unwrap();
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
