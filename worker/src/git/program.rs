//! Runs git: with nothing of the worker's environment and of anybody's configuration, as its own user, bounded, and ended as a whole.
//!
//! Invariant: no word of a repository's reaches a command line as anything but a commit's hexadecimal name; paths go by stdin, or behind
//! what ends the options.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use farm_types::{Cause, Failure, FailureCode};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::account::Account;
use super::error::{FetchError, disk, user};
use super::order::GitLimits;

/// The oldest git that can be held to an address (`http.curloptResolve`).
const OLDEST: (u32, u32) = (2, 37);
/// Where programs are; the worker's own PATH doesn't count.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// What git may have of memory as addresses, bytes. Packs are mapped in small pieces (`CONFIG`).
const MEMORY: u64 = 4 << 30;
/// As long may each file be that git writes for itself, whatever the limit, bytes.
const HOUSEKEEPING: u64 = 16 << 20;
/// How often it is looked how much has come.
const LOOK: Duration = Duration::from_millis(250);
/// As much of its words is kept: the end.
const WORDS: usize = 64 * 1024;

/// Configuration of every call: all that a repository, a system or a user could say otherwise.
const CONFIG: &[&str] = &[
    // Nothing is run that a repository or a folder names.
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.askPass=/bin/false",
    "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null",
    "credential.helper=",
    "gc.auto=0",
    "maintenance.auto=false",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    // Files are as they are in the repository.
    "core.autocrlf=false",
    "core.eol=lf",
    "core.symlinks=true",
    "core.fileMode=true",
    "core.protectHFS=true",
    "core.protectNTFS=true",
    // What is wrong in itself isn't taken, but for what forges take as well: old programs' slips.
    "fetch.fsckObjects=true",
    "fetch.fsck.zeroPaddedFilemode=ignore",
    "fetch.fsck.badTimezone=ignore",
    "fetch.fsck.missingSpaceBeforeDate=ignore",
    "fetch.fsck.missingSpaceBeforeEmail=ignore",
    "fetch.fsck.missingNameBeforeEmail=ignore",
    // Always a pack, so that a broken one is one file.
    "fetch.unpackLimit=1",
    "fetch.writeCommitGraph=false",
    "transfer.bundleURI=false",
    "transfer.credentialsInUrl=die",
    "protocol.version=2",
    // Nowhere else, and not for ever.
    "http.followRedirects=false",
    "http.proxy=",
    "http.sslVerify=true",
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=60",
    // Bounded memory.
    "core.bigFileThreshold=32m",
    "core.packedGitWindowSize=32m",
    "core.packedGitLimit=256m",
    "core.deltaBaseCacheLimit=64m",
    "pack.threads=1",
    "index.threads=1",
    "log.showSignature=false",
    "core.logAllRefUpdates=false",
];

/// How far a source may go.
#[derive(Debug)]
pub(crate) struct Bounds<'a> {
    pub(crate) limits: GitLimits,
    pub(crate) until: Instant,
    pub(crate) stop: &'a CancellationToken,
}

impl<'a> Bounds<'a> {
    pub(crate) fn begin(limits: GitLimits, stop: &'a CancellationToken) -> Self {
        Self { limits, until: Instant::now() + limits.time, stop }
    }

    pub(crate) fn too_slow(&self) -> FetchError {
        let text = format!(
            "the source took more than {} s to fetch; a project's limit is for whoever runs the farm to raise, or the repository \
             has to become smaller",
            self.limits.time.as_secs()
        );
        FetchError::Failed(Box::new(Failure::new(Cause::Deadline, FailureCode::GitTooSlow, text)))
    }

    pub(crate) fn too_large(&self) -> FetchError {
        let text = format!(
            "the source has more than {} bytes, which is the limit; take large files out of the repository, or name a folder of it \
             (#REF:FOLDER)",
            self.limits.bytes
        );
        user(FailureCode::GitTooLarge, text)
    }

    pub(crate) fn too_many(&self) -> FetchError {
        let text = format!(
            "the source has more than {} files, which is the limit; name a folder of the repository (#REF:FOLDER)",
            self.limits.files
        );
        user(FailureCode::GitTooManyFiles, text)
    }

    /// What it waits for, unless it is told to stop or time is over.
    pub(crate) async fn within<T>(&self, waited: impl Future<Output = T>) -> Result<T, FetchError> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(FetchError::Stopped),
            () = sleep_until(self.until) => Err(self.too_slow()),
            value = waited => Ok(value),
        }
    }
}

/// One call of git.
#[derive(Debug, Default)]
pub(crate) struct Call {
    args: Vec<OsString>,
    env: Vec<(&'static str, OsString)>,
    folder: PathBuf,
    stdin: Vec<u8>,
    grows: Option<PathBuf>,
}

impl Call {
    /// A call in a repository (its folder with `objects`), from whose folder it is made.
    pub(crate) fn at(repository: &Path) -> Self {
        Self { folder: repository.to_owned(), ..Self::default() }.env("GIT_DIR", repository)
    }

    /// A call without a repository, from a folder in which there is none.
    pub(crate) fn nowhere(folder: &Path) -> Self {
        let call = Self { folder: folder.to_owned(), ..Self::default() };
        call.env("GIT_CEILING_DIRECTORIES", folder.parent().unwrap_or(folder))
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub(crate) fn env(mut self, name: &'static str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name, value.as_ref().to_owned()));
        self
    }

    pub(crate) fn from(mut self, folder: &Path) -> Self {
        folder.clone_into(&mut self.folder);
        self
    }

    pub(crate) fn stdin(mut self, bytes: Vec<u8>) -> Self {
        self.stdin = bytes;
        self
    }

    /// This folder may become larger by the limit of bytes, and no more.
    pub(crate) fn grows(mut self, folder: &Path) -> Self {
        self.grows = Some(folder.to_owned());
        self
    }
}

/// How a call ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) ok: bool,
    pub(crate) stdout: Vec<u8>,
    pub(crate) words: String,
}

/// What takes a call's output; an error ends the call.
type Sink<'a> = &'a mut (dyn FnMut(&[u8]) -> Result<(), FetchError> + Send);

/// Git on this machine.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) account: Option<Account>,
}

impl Program {
    /// Looks for git.
    ///
    /// # Errors
    /// There is none, or one that is too old.
    pub(crate) async fn find(account: Option<Account>) -> Result<Self, String> {
        let program = Self { account };
        let stop = CancellationToken::new();
        let bounds = Bounds::begin(GitLimits::default(), &stop);
        let cure = "install git 2.37 or newer (apt-get install git)";
        let said = program
            .capture(Call::nowhere(Path::new("/")).args(["version"]), &bounds, 1024)
            .await
            .map_err(|error| format!("git can't be run: {error}; {cure}"))?;
        let text = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        let mut numbers =
            text.trim_start_matches("git version ").split('.').map_while(|part| part.parse::<u32>().ok());
        match (numbers.next(), numbers.next()) {
            _ if !said.ok => Err(format!("git can't be run: {}; {cure}", said.words.trim())),
            (Some(major), Some(minor)) if (major, minor) >= OLDEST => Ok(program),
            _ => Err(format!("git here is {text:?}; {cure}")),
        }
    }

    /// Runs it, and keeps what it puts out, at most so many bytes.
    pub(crate) async fn capture(
        &self,
        call: Call,
        bounds: &Bounds<'_>,
        most: usize,
    ) -> Result<Said, FetchError> {
        let mut kept = Vec::new();
        let mut keep = |bytes: &[u8]| {
            if kept.len() + bytes.len() > most {
                return Err(bounds.too_large());
            }
            kept.extend_from_slice(bytes);
            Ok(())
        };
        let (ok, words) = self.run(call, bounds, &mut keep).await?;
        Ok(Said { ok, stdout: kept, words })
    }

    /// Runs it: whether it ended well, and its words.
    ///
    /// # Errors
    /// It can't be run, was told to stop, took too long, or became too large.
    pub(crate) async fn run(
        &self,
        call: Call,
        bounds: &Bounds<'_>,
        sink: Sink<'_>,
    ) -> Result<(bool, String), FetchError> {
        let mut child = self.command(&call, bounds).spawn().map_err(|error| {
            super::error::trouble(
                FailureCode::GitUnavailable,
                format!("git can't be run: {error}; install git"),
            )
        })?;
        let mut group = Group::of(&child);
        let before = match &call.grows {
            Some(folder) => size(folder.clone()).await,
            None => 0,
        };
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let told = async {
            // One that doesn't read to the end says why by its end.
            if let Some(mut stdin) = stdin {
                let _ = stdin.write_all(&call.stdin).await;
            }
            Ok(())
        };
        let ended = async {
            let ((), (), words) = tokio::try_join!(told, each(stdout, sink), last(stderr))?;
            let status = child.wait().await.map_err(|error| disk("git can't be waited for", &error))?;
            Ok((status.success(), words))
        };
        let growing = async {
            let Some(folder) = &call.grows else { return std::future::pending().await };
            let mut look = interval(LOOK);
            look.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                look.tick().await;
                if size(folder.clone()).await.saturating_sub(before) > bounds.limits.bytes {
                    return bounds.too_large();
                }
            }
        };
        let result = bounds
            .within(async {
                tokio::select! {
                    ended = ended => ended,
                    error = growing => Err(error),
                }
            })
            .await;
        // Not of one that has been waited for: its number may be another's by now.
        if child.id().is_some() {
            group.kill();
            let _ = child.wait().await;
        }
        group.forget();
        result?
    }

    fn command(&self, call: &Call, bounds: &Bounds<'_>) -> Command {
        let mut command = Command::new("/usr/bin/prlimit");
        command.args([
            format!("--fsize={}", bounds.limits.bytes.max(HOUSEKEEPING)),
            format!("--as={MEMORY}"),
            "--core=0".to_owned(),
            "--".to_owned(),
        ]);
        command.args(["/usr/bin/setpriv", "--no-new-privs"]);
        if let Some(account) = &self.account {
            command.arg(format!("--reuid={}", account.uid)).arg(format!("--regid={}", account.gid));
            command.args(["--clear-groups", "--inh-caps=-all", "--ambient-caps=-all"]);
        }
        command.args(["--", "git"]);
        for setting in CONFIG {
            command.args(["-c", setting]);
        }
        command.args(&call.args).env_clear();
        for (name, value) in [
            ("PATH", PATH),
            ("LC_ALL", "C"),
            ("TZ", "UTC"),
            ("HOME", "/nonexistent"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_SYSTEM", "/dev/null"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", "/bin/false"),
            ("SSH_ASKPASS_REQUIRE", "never"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_NO_LAZY_FETCH", "1"),
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("GIT_LITERAL_PATHSPECS", "1"),
            ("GIT_ALLOW_PROTOCOL", "none"),
        ] {
            command.env(name, value);
        }
        command.envs(call.env.iter().map(|(name, value)| (name, value)));
        command
            .current_dir(&call.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command
    }
}

/// The processes of a call. They are killed when nobody waits any more.
#[derive(Debug)]
struct Group(Option<rustix::process::Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        Self(pid.and_then(rustix::process::Pid::from_raw))
    }

    fn kill(&self) {
        if let Some(pid) = self.0 {
            // It may be gone, which is as well.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }

    fn forget(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn each(from: Option<impl AsyncRead + Unpin>, sink: Sink<'_>) -> Result<(), FetchError> {
    let Some(mut from) = from else { return Ok(()) };
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut bytes).await.map_err(|error| disk("git can't be read from", &error))?;
        if read == 0 {
            return Ok(());
        }
        sink(&bytes[..read])?;
    }
}

/// The end of what it says.
async fn last(from: Option<impl AsyncRead + Unpin>) -> Result<String, FetchError> {
    let Some(mut from) = from else { return Ok(String::new()) };
    let (mut kept, mut bytes) = (Vec::new(), vec![0; 8 * 1024]);
    loop {
        let read = from.read(&mut bytes).await.map_err(|error| disk("git can't be read from", &error))?;
        if read == 0 {
            return Ok(String::from_utf8_lossy(&kept).into_owned());
        }
        kept.extend_from_slice(&bytes[..read]);
        if kept.len() > 2 * WORDS {
            kept.drain(..kept.len() - WORDS);
        }
    }
}

async fn size(folder: PathBuf) -> u64 {
    tokio::task::spawn_blocking(move || folder_size(&folder)).await.unwrap_or_default()
}

/// The bytes of the files below a folder. What can't be read, or goes meanwhile, counts nothing.
pub(crate) fn folder_size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(io::Result::ok);
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => folder_size(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
