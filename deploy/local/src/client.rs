//! The other side: starts a supervisor, asks it, stops it. Blocking; nothing is printed here.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind, Read, Seek as _, SeekFrom, Write as _};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};

use crate::child::{Record, search_path};
use crate::control::{Event, Request, Status};
use crate::layout::{Layout, MARKER};
use crate::parts::own_program;
use crate::settings::Settings;
use crate::{Error, Result, checks, failed, logs, purge, sweep};

/// How long a supervisor may take to say how it is.
const ANSWER: Duration = Duration::from_secs(5);
/// How long starting or stopping may take between two things that it tells.
const BETWEEN: Duration = Duration::from_secs(90);
/// How long a folder may be locked while nobody answers there: a supervisor's first and last moments, a purge.
const LOCKED: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(30);

/// What became of a wish for a farm.
#[derive(Debug)]
pub enum Up {
    /// It was up already.
    Already(Box<Status>),
    /// It starts, begun by this call or (true) by another one.
    Starting(Box<Events>, bool),
}

/// Starts a supervisor, unless there is one. One that starts is joined, the end of one that stops waited for.
///
/// # Errors
/// The machine or the folder can't be used, or a supervisor is there that doesn't answer.
pub fn up(layout: &Layout, settings: &Settings) -> Result<Up> {
    loop {
        while let Some(status) = status(layout)? {
            match status.state.as_str() {
                "up" => return Ok(Up::Already(Box::new(status))),
                "starting" => {
                    if let Some(events) = ask(layout, Request::Up)? {
                        return Ok(Up::Starting(Box::new(events), true));
                    }
                }
                _ => {
                    if let Some(mut events) = ask(layout, Request::Down)? {
                        while events.next_event()?.is_some() {}
                    }
                }
            }
        }
        let fit = check(layout, settings);
        if layout.is_locked() {
            // Somebody was quicker; what was found in the way may be theirs.
            continue;
        }
        fit?;
        if let Some(events) = start(layout, settings)? {
            return Ok(Up::Starting(Box::new(events), false));
        }
    }
}

fn check(layout: &Layout, settings: &Settings) -> Result<()> {
    checks::before(layout, settings)?;
    layout.check()?;
    if !layout.is_marked() {
        // Nothing of a former start can be in the way, so nothing needs to be made to find out.
        checks::ports(settings)?;
        checks::disk(layout)?;
    }
    Ok(())
}

/// Starts a supervisor in a session of its own: it outlives the terminal. `None`: somebody works in the folder.
fn start(layout: &Layout, settings: &Settings) -> Result<Option<Events>> {
    // Made here too, since the log goes there.
    let Some(held) = layout.lock()? else { return Ok(None) };
    let program = own_program("farm-local").map_err(Error::Usage)?;
    layout.prepare()?;
    let log = layout.log("supervisor");
    let stderr = logs::open(&log).map_err(|e| failed(log.display(), &e))?;
    drop(held);
    let said_before = stderr.metadata().map_or(0, |m| m.len());
    let json = serde_json::to_string(settings).map_err(|e| Error::Failed(e.to_string()))?;
    keep_open_files_to_ourselves();
    // setsid(1) makes the session; Rust would need unsafe code between fork and exec. It forks only where it leads a
    // process group already, which a child of ours doesn't.
    let mut command = Command::new("setsid");
    command.env("PATH", search_path());
    command.arg(program).arg("supervise").arg("--state-dir").arg(layout.root()).args(["--settings", &json]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).current_dir("/");
    let mut process = command.spawn().map_err(|e| failed("setsid can't be started", &e))?;
    let Some(stdout) = process.stdout.take() else { return Err(Error::Failed("no pipe".to_owned())) };
    let lines: Box<dyn Read> = Box::new(stdout);
    Ok(Some(Events {
        lines: BufReader::new(lines),
        from: From::Child(process, said_before),
        layout: layout.clone(),
        is_over: false,
    }))
}

/// Whoever called us may have left files open, locks and pipes among them; the supervisor must not hold them for ever.
fn keep_open_files_to_ourselves() {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    for fd in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).filter(|fd| *fd > 2)
    {
        #[expect(
            unsafe_code,
            reason = "a flag is set on a number; one that was closed meanwhile gives EBADF"
        )]
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let _ = fcntl_setfd(fd, FdFlags::CLOEXEC);
    }
}

/// Asks the supervisor of a folder; `Ok(None)`: there is none.
///
/// # Errors
/// It won't answer us, or somebody else works in the folder.
pub fn ask(layout: &Layout, request: Request) -> Result<Option<Events>> {
    let socket = layout.control_socket();
    let begin = Instant::now();
    let mut stream = loop {
        match UnixStream::connect(&socket) {
            Ok(stream) => break stream,
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                return Err(Error::Usage(format!(
                    "the farm in {} is another user's; use sudo",
                    layout.root().display()
                )));
            }
            // Nobody listens. Somebody is about to, or has just ended, where the lock is held.
            Err(_) if !layout.is_locked() => return Ok(None),
            Err(_) if begin.elapsed() > LOCKED => return Err(busy(layout)),
            Err(_) => sleep(POLL),
        }
    };
    let line = serde_json::to_string(&request).map_err(|e| Error::Failed(e.to_string()))?;
    stream.set_read_timeout(Some(ANSWER)).map_err(|e| failed(socket.display(), &e))?;
    // One that ends just now is told by what is read.
    let _ = stream.write_all(format!("{line}\n").as_bytes());
    let same = stream.try_clone().map_err(|e| failed(socket.display(), &e))?;
    let lines: Box<dyn Read> = Box::new(stream);
    Ok(Some(Events {
        lines: BufReader::new(lines),
        from: From::Socket(same),
        layout: layout.clone(),
        is_over: false,
    }))
}

/// The events that a supervisor tells, one after the other.
pub struct Events {
    lines: BufReader<Box<dyn Read>>,
    from: From,
    layout: Layout,
    is_over: bool,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("layout", &self.layout).finish_non_exhaustive()
    }
}

enum From {
    /// Its standard output, and how long its log was before.
    Child(Child, u64),
    /// The socket's other handle, of which limits can be set while it is read.
    Socket(UnixStream),
}

impl Events {
    /// The next; `None` after the last, and when the supervisor has ended without one.
    ///
    /// # Errors
    /// It failed to start (nothing of it is left then), or it doesn't answer.
    pub fn next_event(&mut self) -> Result<Option<Event>> {
        if self.is_over {
            return Ok(None);
        }
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(silent(&self.layout));
            }
            Ok(0) | Err(_) => {
                self.is_over = true;
                return match &mut self.from {
                    From::Socket(_) => Ok(None),
                    From::Child(process, said_before) => {
                        let status = process.wait().map_err(|e| failed("the supervisor", &e))?;
                        Err(died(&self.layout, &status.to_string(), *said_before))
                    }
                };
            }
            Ok(_) => {}
        }
        if let From::Socket(socket) = &self.from {
            // It lives. What it does may take its time.
            let _ = socket.set_read_timeout(Some(BETWEEN));
        }
        let event: Event = serde_json::from_str(&line)
            .map_err(|e| Error::Failed(format!("the supervisor's report can't be read ({e}): {line}")))?;
        self.is_over = event.is_last();
        match event {
            Event::Failed(why, is_usage) => {
                self.wait();
                Err(if is_usage { Error::Usage(why) } else { Error::Failed(why) })
            }
            event => Ok(Some(event)),
        }
    }

    /// A supervisor that has failed ends a moment after its last word.
    fn wait(&mut self) {
        let begin = Instant::now();
        if let From::Child(process, _) = &mut self.from {
            while begin.elapsed() < ANSWER && !matches!(process.try_wait(), Ok(Some(_)) | Err(_)) {
                sleep(POLL);
            }
        }
    }
}

/// It ended without a word on its standard output; its log may have some.
fn died(layout: &Layout, status: &str, said_before: u64) -> Error {
    let log = layout.log("supervisor");
    let mut text = String::new();
    if let Ok(mut file) = File::open(&log) {
        let _ = file
            .seek(SeekFrom::Start(said_before))
            .and_then(|_| file.take(1 << 16).read_to_string(&mut text));
    }
    let mut message = format!("the supervisor ended ({status}) while it started");
    for line in logs::last_lines(&text, 5) {
        message.push_str("\n  ");
        message.push_str(&line);
    }
    Error::Failed(format!("{message}\n(its log: {}; farm up begins anew)", log.display()))
}

fn silent(layout: &Layout) -> Error {
    let record = fs::read(layout.run("supervisor.json")).ok();
    let record = record.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
    match record.filter(|record| record.find().is_some()) {
        Some(Record { pid, .. }) => Error::Failed(format!(
            "the supervisor (pid {pid}) doesn't answer; look at farm logs --of supervisor, or kill -9 {pid} and call \
             farm up: nothing that was accepted is lost"
        )),
        None => Error::Failed("the supervisor has ended; farm up carries on".to_owned()),
    }
}

/// How the farm of a folder is; `None`: it isn't up.
///
/// # Errors
/// As [`ask`], and it doesn't answer.
pub fn status(layout: &Layout) -> Result<Option<Status>> {
    let Some(mut answers) = ask(layout, Request::Status)? else { return Ok(None) };
    match answers.next_event()? {
        Some(Event::Status(status)) => Ok(Some(*status)),
        // It ended meanwhile.
        _ => Ok(None),
    }
}

/// Ends what a killed farm has left in this folder. Gives what it was.
///
/// # Errors
/// Somebody works in the folder.
pub fn clean(layout: &Layout) -> Result<Vec<String>> {
    let is_ours = fs::symlink_metadata(layout.join(MARKER))
        .is_ok_and(|marker| marker.uid() == rustix::process::geteuid().as_raw());
    // What root's farm may have left is root's to end; who may stop it by its socket finds nothing to stop.
    if !is_ours {
        return Ok(Vec::new());
    }
    let _lock = lock(layout)?;
    Ok(sweep::sweep(layout))
}

/// Removes the folder of a farm that isn't up.
///
/// # Errors
/// As [`purge::purge`], and when somebody works in the folder.
pub fn forget(layout: &Layout) -> Result<Vec<String>> {
    purge::check(layout)?;
    let _lock = lock(layout)?;
    sweep::sweep(layout);
    purge::purge(layout)
}

fn lock(layout: &Layout) -> Result<File> {
    let begin = Instant::now();
    loop {
        match layout.lock()? {
            Some(lock) => return Ok(lock),
            None if begin.elapsed() > LOCKED => return Err(busy(layout)),
            None => sleep(POLL),
        }
    }
}

fn busy(layout: &Layout) -> Error {
    Error::Failed(format!(
        "a farm up or farm down works in {} now; try again in a moment",
        layout.root().display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_that_another_one_has_begun_is_left_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::find(Some(folder.path())).unwrap();
        let held = layout.lock().unwrap();
        assert!(start(&layout, &Settings::default()).unwrap().is_none());
        drop(held);
    }
}
