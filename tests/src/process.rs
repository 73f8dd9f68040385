//! A process of a test: its output goes to a file, it ends with the test, and a failing test shows its last words.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::environment;

const POLL: Duration = Duration::from_millis(10);
const TAIL_LINES: usize = 40;

/// A user and group to run as; only root can use it.
#[derive(Clone, Copy, Debug)]
pub struct RunAs {
    pub uid: u32,
    pub gid: u32,
}

#[derive(Debug)]
pub struct Child {
    name: String,
    log: PathBuf,
    /// Where this process's output begins: a restarted part appends to the log of its predecessor.
    log_start: u64,
    inner: std::process::Child,
    status: Option<ExitStatus>,
}

impl Child {
    /// Starts `command` with both outputs appended to `folder/name.log` and without input.
    pub fn spawn(name: &str, command: &Command, folder: &Path) -> Child {
        Child::spawn_as(name, command, folder, None)
    }

    /// As [`Child::spawn`], as another user.
    pub fn spawn_as(name: &str, command: &Command, folder: &Path, user: Option<RunAs>) -> Child {
        fs::create_dir_all(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let log = folder.join(format!("{name}.log"));
        let file = open_log(&log);
        let log_start = file.metadata().unwrap().len();
        let mut wrapped = dying_with_parent(command, user);
        wrapped.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        // Its own group: Ctrl-C must reach the one who stops things in order, not everyone at once.
        wrapped.process_group(0);
        let inner = wrapped.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Child { name: name.to_owned(), log, log_start, inner, status: None }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.inner.id()
    }

    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// What this process has written so far.
    pub fn output(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.log) {
            file.seek(SeekFrom::Start(self.log_start)).unwrap();
            file.read_to_end(&mut bytes).unwrap();
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn is_running(&mut self) -> bool {
        self.try_wait().is_none()
    }

    /// Asks `probe` until it gives something. Panics with the end of the log when the process ends before, or at
    /// `limit`.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut probe: impl FnMut(&mut Child) -> Option<T>,
    ) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = probe(self) {
                return found;
            }
            if let Some(status) = self.try_wait() {
                panic!("{} ended ({status}) before {what}\n{}", self.name, self.tail());
            }
            if start.elapsed() > limit {
                panic!("{}: no {what} within {limit:?}\n{}", self.name, self.tail());
            }
            thread::sleep(POLL);
        }
    }

    /// Waits for a whole line of output that begins with `start`, and returns the line.
    pub fn wait_for_line(&mut self, start: &str, limit: Duration) -> String {
        self.wait_until(&format!("line `{start}…`"), limit, |child| {
            let output = child.output();
            let complete = output.rfind('\n').map_or("", |end| &output[..end]);
            complete.lines().find(|line| line.starts_with(start)).map(str::to_owned)
        })
    }

    /// SIGKILL, and waits until it is gone. Its own children live on: a crash leaves them, so does this.
    pub fn kill9(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// SIGTERM, and the exit status; panics when it still runs at `limit`.
    pub fn stop_term(&mut self, limit: Duration) -> ExitStatus {
        self.stop_with(Signal::TERM, limit)
    }

    /// Another signal that asks for an end, and the exit status.
    pub fn stop_with(&mut self, signal: Signal, limit: Duration) -> ExitStatus {
        self.signal(signal);
        self.wait_exit(limit)
    }

    /// Waits for it to end by itself.
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.try_wait() {
                return status;
            }
            if start.elapsed() > limit {
                panic!("{} did not end within {limit:?}\n{}", self.name, self.tail());
            }
            thread::sleep(POLL);
        }
    }

    /// SIGSTOP: it is there but does nothing, as under a partition or a stalled machine.
    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT after [`Child::pause`].
    pub fn cont(&mut self) {
        self.signal(Signal::CONT);
    }

    pub fn signal(&mut self, signal: Signal) {
        // Reaped means that the number may belong to someone else by now.
        if self.status.is_none() {
            let pid = i32::try_from(self.inner.id()).ok().and_then(Pid::from_raw).unwrap();
            kill_process(pid, signal).unwrap_or_else(|error| panic!("{}: {signal:?}: {error}", self.name));
        }
    }

    /// The last lines of its output, marked with its name.
    pub fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        let mut text = format!("--- {} ({} of {} lines) ---\n", self.log.display(), last.len(), lines.len());
        for line in last {
            text += &format!("{}| {line}\n", self.name);
        }
        text
    }

    fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.inner.try_wait().unwrap();
        }
        self.status
    }

    fn wait(&mut self) {
        if self.status.is_none() {
            self.status = Some(self.inner.wait().unwrap());
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if thread::panicking() {
            eprint!("{}", self.tail());
        }
        if self.try_wait().is_none() {
            // A stopped process takes SIGKILL too.
            let _ = self.inner.kill();
            let _ = self.inner.wait();
        }
    }
}

/// `command` as a child that the kernel kills when the thread that starts it ends. `setpriv` does it between fork and
/// exec, where Rust would need unsafe code; the process id stays the same. Its environment is [`environment`]'s with what
/// is set for `command`.
pub fn dying_with_parent(command: &Command, user: Option<RunAs>) -> Command {
    let mut wrapped = environment::command("setpriv");
    wrapped.args(["--pdeathsig", "KILL"]);
    if let Some(RunAs { uid, gid }) = user {
        wrapped.args(["--reuid", &uid.to_string(), "--regid", &gid.to_string(), "--clear-groups"]);
    }
    wrapped.arg("--").arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(key, value),
            None => wrapped.env_remove(key),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        wrapped.current_dir(folder);
    }
    wrapped
}

/// Runs `command` to its end and returns its standard output; panics with all it said when it fails.
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    if !output.status.success() {
        panic!(
            "{command:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn open_log(path: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines of a log that name something by an id that nobody has seen: a UUID.
pub fn lines_with_uuids(log: &str) -> Vec<&str> {
    let is_uuid = |word: &str| word.len() == 36 && word.parse::<farm_types::AttemptId>().is_ok();
    let has = |line: &&str| line.split(|c: char| !c.is_ascii_hexdigit() && c != '-').any(is_uuid);
    log.lines().filter(has).collect()
}
