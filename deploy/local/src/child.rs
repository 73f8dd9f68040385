//! A process that the supervisor started: it dies with the supervisor, is signalled through its pidfd, and leaves
//! a record by which a later supervisor finds it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::timeout;

use crate::logs::LogFile;

/// How a process is asked to end.
#[derive(Debug, Clone, Copy)]
pub struct Stop {
    /// The signal that asks it to end.
    pub signal: Signal,
    /// When it is asked again (for those that take the first for "finish your work").
    pub again_after: Option<Duration>,
    /// After so long it is killed.
    pub grace: Duration,
}

/// SIGTERM; killed when that hasn't helped within ten seconds.
pub const TERM: Stop = Stop { signal: Signal::TERM, again_after: None, grace: Duration::from_secs(10) };

/// How long what was killed may take to be gone.
const GONE: Duration = Duration::from_secs(5);

/// How a part's process is started and stopped.
#[derive(Debug)]
pub struct Recipe {
    /// The part's name: of the log and of the record.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables besides those that all parts have.
    pub env: Vec<(String, String)>,
    /// Another user and group; only root can use it.
    pub user: Option<(u32, u32)>,
    /// What the kernel sends it when the supervisor dies.
    pub orphaned: &'static str,
    /// How it is asked to end.
    pub stop: Stop,
}

impl Recipe {
    /// A process of the supervisor's own user.
    pub fn new(name: &str, command: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            name: name.to_owned(),
            command: command.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            user: None,
            orphaned: "KILL",
            stop: TERM,
        }
    }
}

/// What of the caller's environment the parts get. Not the rest: a REGISTRY_…, PG…, DOCKER_… or FARM_… that is meant
/// for something else would put a part's data elsewhere, or keep it from starting.
const KEPT: &[&str] = &[
    "HOME",
    "TZ",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "RUST_LOG",
    "RUST_BACKTRACE",
];

/// The environment of all parts.
pub fn environment() -> Vec<(String, OsString)> {
    let kept = KEPT.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var_os(name)?)));
    kept.chain([("PATH".to_owned(), search_path())]).collect()
}

/// The caller's PATH, and the folders of system programs behind it, which an ordinary user's may lack.
pub fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    for folder in ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"] {
        if !path.is_empty() {
            path.push(":");
        }
        path.push(folder);
    }
    path
}

/// A running process.
#[derive(Debug)]
pub struct Child {
    /// The log that its output goes to.
    pub log: LogFile,
    name: String,
    inner: tokio::process::Child,
    pid: u32,
    /// The process that signals are for: itself, or the one that it is only the shell of.
    target: OwnedFd,
    stop: Stop,
    record: PathBuf,
    /// The record of the process that this one is only the shell of.
    inner_record: Option<PathBuf>,
}

impl Child {
    /// Starts it, its output appended to its log. Must be called on the thread that lives as long as the
    /// supervisor: the kernel ties the death signal to it.
    ///
    /// # Errors
    /// It can't be started.
    pub fn spawn(recipe: &Recipe, log: &Path, records: &Path) -> io::Result<Self> {
        let log = LogFile::begin(log)?;
        // Between fork and exec Rust would need unsafe code; setpriv does it there, and keeps the process id.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", recipe.orphaned]);
        if let Some((uid, gid)) = recipe.user {
            command.args(["--reuid", &uid.to_string(), "--regid", &gid.to_string(), "--clear-groups"]);
        }
        command.arg("--").args(&recipe.command);
        command.env_clear().envs(environment()).envs(recipe.env.iter().map(|(k, v)| (k, v))).current_dir("/");
        command.stdin(Stdio::null()).stdout(log.writer()?).stderr(log.writer()?);
        command.process_group(0).kill_on_drop(true);
        let inner = command.spawn().map_err(|e| {
            let program = recipe.command.first().map_or("", String::as_str);
            io::Error::new(e.kind(), format!("{program} can't be started: {e}"))
        })?;
        let pid = inner.id().ok_or_else(|| io::Error::other("it has ended already"))?;
        let target = open(pid)?;
        let record = records.join(format!("{}.json", recipe.name));
        Record::of(pid, &recipe.name)?.write(&record)?;
        Ok(Self {
            log,
            name: recipe.name.clone(),
            inner,
            pid,
            target,
            stop: recipe.stop,
            record,
            inner_record: None,
        })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets signals go to another process, for whose end this one waits, and which is to end with this one.
    ///
    /// # Errors
    /// There is none of that number.
    pub fn aim_at(&mut self, pid: u32) -> io::Result<()> {
        self.target = open(pid)?;
        let record = self.record.with_extension("inner.json");
        Record::of(pid, &self.name)?.write(&record)?;
        self.inner_record = Some(record);
        Ok(())
    }

    /// Waits for its end. Safe to cancel.
    pub async fn wait(&mut self) -> ExitStatus {
        let status = self.inner.wait().await.unwrap_or_default();
        if self.inner_record.is_some() {
            // One that was killed hasn't waited for the other.
            let _ = pidfd_send_signal(&self.target, Signal::KILL);
            if let Ok(target) = self.target.try_clone() {
                let _ = tokio::task::spawn_blocking(move || ends_within(&target, GONE)).await;
            }
        }
        self.forget();
        status
    }

    fn forget(&self) {
        for record in [Some(&self.record), self.inner_record.as_ref()].into_iter().flatten() {
            let _ = fs::remove_file(record);
        }
    }

    /// `Some` when it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.inner.try_wait().ok().flatten()
    }

    /// Asks it to end, waits, and kills it at the end of its grace.
    pub async fn stop(&mut self) -> ExitStatus {
        let Stop { signal, again_after, grace } = self.stop;
        let _ = pidfd_send_signal(&self.target, signal);
        if let Some(again) = again_after {
            if let Ok(status) = timeout(again, self.wait()).await {
                return status;
            }
            let _ = pidfd_send_signal(&self.target, signal);
        }
        if let Ok(status) = timeout(grace, self.wait()).await {
            return status;
        }
        eprintln!("{}: still there {} s after it was asked to end; killed", self.name, grace.as_secs());
        let _ = pidfd_send_signal(&self.target, Signal::KILL);
        if let Ok(status) = timeout(Duration::from_secs(2), self.wait()).await {
            return status;
        }
        let _ = self.inner.start_kill();
        self.wait().await
    }

    /// Why it ended, and its last words.
    pub fn obituary(&self, status: ExitStatus) -> String {
        let mut text = format!("{} ended ({status})", self.name);
        for line in self.log.tail(8) {
            text.push_str("\n  ");
            text.push_str(&line);
        }
        if text.contains("No space left on device") {
            text.push_str("\nThe disk is full: free some space, or choose another --state-dir.");
        }
        text
    }
}

impl Drop for Child {
    /// Nobody waits for it any more: it is killed, and gone when this returns.
    fn drop(&mut self) {
        let own = if self.ended().is_none() { open(self.pid).ok() } else { None };
        if own.is_none() && self.inner_record.is_none() {
            return;
        }
        let _ = pidfd_send_signal(&self.target, Signal::KILL);
        ends_within(&self.target, GONE);
        if let Some(own) = own {
            let _ = pidfd_send_signal(&own, Signal::KILL);
            ends_within(&own, GONE);
        }
        self.forget();
    }
}

/// Waits until a process has ended; false when it hasn't by then.
pub fn ends_within(process: &impl AsFd, limit: Duration) -> bool {
    // A pidfd is readable when its process has ended (pidfd_open(2)).
    let begin = Instant::now();
    while begin.elapsed() < limit {
        let mut fds = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
        let left = limit.saturating_sub(begin.elapsed());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(1),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut fds, Some(&left)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return true,
            Err(_) => return false,
        }
    }
    false
}

/// The pidfd of a process.
///
/// # Errors
/// There is none.
pub fn open(pid: u32) -> io::Result<OwnedFd> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(raw, PidfdFlags::empty())?)
}

/// What tells a process from a later one with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The name of the part.
    pub part: String,
    /// The process id.
    pub pid: u32,
    /// Clock ticks from the machine's start to the process's.
    pub start_time: u64,
    /// The machine's boot id: process ids begin anew with each start.
    pub boot_id: String,
}

impl Record {
    /// The record of a process that runs now.
    ///
    /// # Errors
    /// No such process runs.
    pub fn of(pid: u32, part: &str) -> io::Result<Self> {
        let start_time = start_time(pid).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { part: part.to_owned(), pid, start_time, boot_id: boot_id() })
    }

    /// Keeps it in a file.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        serde_json::to_writer(File::create(path)?, self).map_err(io::Error::other)
    }

    /// The process of this record, if it is still there. Opened first and compared then, so that it can't be
    /// another one.
    pub fn find(&self) -> Option<OwnedFd> {
        let fd = open(self.pid).ok()?;
        let fields = stat_fields(self.pid)?;
        // One that has ended and was not waited for yet is gone.
        let is_there = fields.first().is_some_and(|state| !matches!(state.as_str(), "Z" | "X" | "x"));
        let is_it = fields.get(19).is_some_and(|time| *time == self.start_time.to_string());
        (is_there && is_it && boot_id() == self.boot_id).then_some(fd)
    }
}

/// Which start of the machine this is.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Field 22 of `/proc/PID/stat` (proc_pid_stat(5)); `None` when there is no such process.
fn start_time(pid: u32) -> Option<u64> {
    stat_fields(pid)?.get(19)?.parse().ok()
}

/// The process that started it, field 4.
pub fn parent(pid: u32) -> Option<u32> {
    stat_fields(pid)?.get(1)?.parse().ok()
}

/// The fields after the name, which may hold anything.
fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

/// All processes of this machine.
pub fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_more_than_its_number() {
        let me = std::process::id();
        let record = Record::of(me, "x").unwrap();
        assert!(record.find().is_some());
        assert!(Record { start_time: record.start_time + 1, ..record.clone() }.find().is_none());
        assert!(Record { boot_id: "another".into(), ..record }.find().is_none());
        assert_eq!(parent(me), Some(std::os::unix::process::parent_id()));
    }

    #[test]
    fn of_the_environment_only_what_is_meant_for_all_is_passed_on() {
        let names: Vec<String> = environment().into_iter().map(|(name, _)| name).collect();
        // Cargo sets many of its own for a test.
        assert!(!names.iter().any(|name| name.starts_with("CARGO")), "{names:?}");
        let path = search_path().into_string().unwrap();
        assert!(names.contains(&"PATH".to_owned()) && path.contains(":/usr/sbin:"), "{path}");
    }

    #[test]
    fn a_process_that_nobody_has_waited_for_is_gone_all_the_same() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let record = Record::of(child.id(), "x").unwrap();
        let process = record.find().unwrap();
        pidfd_send_signal(&process, Signal::KILL).unwrap();
        while record.find().is_some() {
            std::thread::yield_now();
        }
        assert!(start_time(child.id()).is_some(), "it is still in the table");
        child.wait().unwrap();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn it_is_asked_then_killed_and_its_last_words_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let (log, records) = (folder.path().join("x.log"), folder.path());
        let mut recipe =
            Recipe::new("deaf", ["sh", "-c", "trap '' TERM; echo listening; while :; do sleep 0.05; done"]);
        recipe.stop = Stop { signal: Signal::TERM, again_after: None, grace: Duration::from_millis(300) };
        let mut child = Child::spawn(&recipe, &log, records).unwrap();
        while !child.log.text().contains("listening") {
            tokio::task::yield_now().await;
        }
        assert!(records.join("deaf.json").exists());
        let status = child.stop().await;
        assert!(!status.success());
        assert!(child.obituary(status).contains("listening"));
        assert!(!records.join("deaf.json").exists());
    }
}
