//! The other side: starts a supervisor, asks it, stops it. Blocking; nothing is printed here.

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::child::Record;
use crate::control::{Event, Request, Status};
use crate::layout::Layout;
use crate::parts::own_program;
use crate::settings::Settings;
use crate::{Error, Result, failed, logs, purge, sweep};

/// How long a supervisor may take to say how it is.
const ANSWER: Duration = Duration::from_secs(5);
/// How long stopping may take between two things that it tells.
const STOPPING: Duration = Duration::from_secs(60);

/// A supervisor that starts.
#[derive(Debug)]
pub struct Starting {
    process: Child,
    lines: BufReader<ChildStdout>,
    layout: Layout,
}

/// Starts a supervisor in a session of its own: it outlives the terminal.
///
/// # Errors
/// The folder can't be used, or the program isn't there.
pub fn start(layout: &Layout, settings: &Settings) -> Result<Starting> {
    let program = own_program("farm-local").map_err(Error::Usage)?;
    // Made here too, since the log goes there; it refuses what isn't farm's.
    layout.prepare()?;
    let log = layout.log("supervisor");
    let open = OpenOptions::new().create(true).append(true).open(&log);
    let stderr = open.map_err(|e| failed(log.display(), &e))?;
    let json = serde_json::to_string(settings).map_err(|e| Error::Failed(e.to_string()))?;
    // setsid(1) makes the session; Rust would need unsafe code between fork and exec. It forks only where it leads a
    // process group already, which a child of ours doesn't.
    let mut command = Command::new("setsid");
    command.arg(program).arg("supervise").arg("--state-dir").arg(layout.root()).args(["--settings", &json]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).current_dir("/");
    let mut process = command.spawn().map_err(|e| failed("farm-local can't be started", &e))?;
    let Some(stdout) = process.stdout.take() else { return Err(Error::Failed("no pipe".to_owned())) };
    Ok(Starting { process, lines: BufReader::new(stdout), layout: layout.clone() })
}

impl Starting {
    /// What it tells next; `None` when it is ready, after [`Event::Ready`].
    ///
    /// # Errors
    /// It couldn't be started.
    pub fn next_event(&mut self) -> Result<Option<Event>> {
        let mut line = String::new();
        let read = self.lines.read_line(&mut line).map_err(|e| failed("the supervisor's report", &e))?;
        if read == 0 {
            let status = self.process.wait().map_err(|e| failed("the supervisor", &e))?;
            let log = self.layout.log("supervisor");
            let last = logs::last_lines(&fs::read_to_string(&log).unwrap_or_default(), 5).join("\n  ");
            return Err(Error::Failed(format!(
                "the supervisor ended ({status}):\n  {last}\n({})",
                log.display()
            )));
        }
        match serde_json::from_str(&line) {
            Ok(Event::Failed(why, true)) => Err(Error::Usage(why)),
            Ok(Event::Failed(why, false)) => Err(Error::Failed(why)),
            Ok(event) => Ok(Some(event)),
            Err(e) => Err(Error::Failed(format!("the supervisor's report can't be read ({e}): {line}"))),
        }
    }
}

/// Asks the supervisor of a folder; `Ok(None)`: there is none.
///
/// # Errors
/// There is one that doesn't answer, or won't answer us.
pub fn ask(layout: &Layout, request: Request) -> Result<Option<Answers>> {
    let socket = layout.control_socket();
    let mut stream = match UnixStream::connect(&socket) {
        Ok(stream) => stream,
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            return Err(Error::Usage(format!(
                "the farm in {} is another user's; use sudo",
                layout.root().display()
            )));
        }
        // Nobody listens. Somebody may be about to.
        Err(_) => {
            return match supervisor(layout) {
                Some(record) => Err(Error::Failed(format!(
                    "the supervisor in {} (pid {}) is starting or stopping, or hangs; try again in a moment, or \
                     kill -9 {} and call farm up",
                    layout.root().display(),
                    record.pid,
                    record.pid
                ))),
                None => Ok(None),
            };
        }
    };
    let limit = if request == Request::Down { STOPPING } else { ANSWER };
    let line = serde_json::to_string(&request).map_err(|e| Error::Failed(e.to_string()))?;
    let sent =
        stream.set_read_timeout(Some(limit)).and_then(|()| stream.write_all(format!("{line}\n").as_bytes()));
    sent.map_err(|e| failed(socket.display(), &e))?;
    Ok(Some(Answers { lines: BufReader::new(stream), layout: layout.clone() }))
}

/// What a supervisor answers.
#[derive(Debug)]
pub struct Answers {
    lines: BufReader<UnixStream>,
    layout: Layout,
}

impl Answers {
    /// The next; `None` at the end.
    ///
    /// # Errors
    /// It doesn't answer.
    pub fn next_event(&mut self) -> Result<Option<Event>> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => Ok(None),
            Ok(_) => serde_json::from_str(&line)
                .map(Some)
                .map_err(|e| Error::Failed(format!("the supervisor's answer can't be read ({e}): {line}"))),
            Err(_) => {
                let pid =
                    supervisor(&self.layout).map_or_else(|| "?".to_owned(), |record| record.pid.to_string());
                Err(Error::Failed(format!(
                    "the supervisor (pid {pid}) doesn't answer; look at farm logs --of supervisor, or kill -9 {pid} \
                     and call farm up: nothing that was accepted is lost"
                )))
            }
        }
    }
}

fn supervisor(layout: &Layout) -> Option<Record> {
    let record: Record = serde_json::from_slice(&fs::read(layout.run("supervisor.json")).ok()?).ok()?;
    record.find().map(|_| record)
}

/// How the farm of a folder is; `None`: it isn't up.
///
/// # Errors
/// As [`ask`].
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
    if !layout.is_marked() {
        return Ok(Vec::new());
    }
    let Some(_lock) = layout.lock()? else { return Err(busy(layout)) };
    Ok(sweep::sweep(layout))
}

/// Removes the folder of a farm that isn't up.
///
/// # Errors
/// As [`purge::purge`], and when somebody works in the folder.
pub fn forget(layout: &Layout) -> Result<Vec<String>> {
    purge::check(layout)?;
    let Some(_lock) = layout.lock()? else { return Err(busy(layout)) };
    sweep::sweep(layout);
    purge::purge(layout)
}

fn busy(layout: &Layout) -> Error {
    Error::Failed(format!(
        "a farm up or farm down works in {} now; try again in a moment",
        layout.root().display()
    ))
}
