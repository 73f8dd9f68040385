//! What people and scripts see of a build.
//!
//! [`progress`] turns the events of a build into plain lines while it runs, [`summary`] says how it ended,
//! [`json`] says the same to scripts. All three are functions of what the farm sent, and print nothing
//! themselves; [`Out`] is where lines go.

use std::io::{ErrorKind, Write};

pub mod json;
pub mod lines;
pub mod progress;
pub mod summary;
pub mod text;

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
        if let Err(e) = writeln!(self.to, "{line}").and_then(|()| self.to.flush()) {
            self.closed = e.kind() != ErrorKind::Interrupted;
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
