//! What people and scripts see of a build.
//!
//! While a build runs, [`live`] draws it on a terminal, [`progress`] tells it in plain lines, [`events`] in lines of
//! JSON; [`display`] chooses. [`summary`] says how it ended, [`json`] says the same to scripts. All are functions of
//! what the farm sent; [`Out`] is where lines go, and only a [`live`] screen writes besides.

use std::io::{ErrorKind, Write};
use std::sync::OnceLock;

pub mod display;
pub mod events;
pub mod format;
pub mod git_logins;
pub mod history;
pub mod hooks;
pub mod json;
pub mod live;
pub mod logins;
pub mod mirrors;
pub mod notices;
pub mod people;
pub mod planned;
pub mod progress;
pub mod rules;
pub mod secrets;
pub mod signing_keys;
pub mod summary;
pub mod tags;
pub mod text;
pub mod trusts;
pub mod usage;

/// What `--progress` can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Mode {
    /// tty on a terminal, else plain
    #[default]
    Auto,
    /// A line for each platform, drawn anew as it goes on
    Tty,
    /// Lines in the order in which things happen, each with its platform
    Plain,
    /// A JSON object a line
    Json,
    /// Only the digest of what was published
    #[value(alias = "none")]
    Quiet,
}

/// What kept output from being written, if anything did.
static LOST: OnceLock<String> = OnceLock::new();

/// Why some of the output was lost, for the end of the process.
pub fn lost() -> Option<&'static str> {
    LOST.get().map(String::as_str)
}

/// Where lines go: standard output, or standard error when standard output is for a JSON object.
pub struct Out {
    to: Box<dyn Write + Send>,
    closed: bool,
}

impl Out {
    /// Standard output.
    pub fn stdout() -> Self {
        Self::over(Box::new(std::io::stdout()))
    }

    /// Standard error.
    pub fn stderr() -> Self {
        Self::over(Box::new(std::io::stderr()))
    }

    /// Any other place.
    pub fn over(to: Box<dyn Write + Send>) -> Self {
        Self { to, closed: false }
    }

    /// Writes a line and its line break. Once the reader is gone lines are dropped: a build goes on though
    /// nobody reads of it.
    pub fn line(&mut self, line: &str) {
        if self.closed {
            return;
        }
        if let Err(e) = writeln!(self.to, "{line}").and_then(|()| self.to.flush())
            && e.kind() != ErrorKind::Interrupted
        {
            self.closed = true;
            // A reader that went away had enough; anything else (a full disk) is a loss.
            if e.kind() != ErrorKind::BrokenPipe {
                LOST.get_or_init(|| e.to_string());
            }
        }
    }

    /// Writes these lines.
    pub fn lines<S: AsRef<str>>(&mut self, lines: impl IntoIterator<Item = S>) {
        for line in lines {
            self.line(line.as_ref());
        }
    }

    /// True when nobody reads any more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }
}

/// A terminal's columns and rows, if this is one that knows them.
pub fn window(terminal: impl std::os::fd::AsFd) -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(terminal).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then(|| (size.ws_col.into(), size.ws_row.into()))
}
