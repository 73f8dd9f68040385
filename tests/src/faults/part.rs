//! A process of the farm's that may be killed, paused and started again, any number of times.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::process::Child;

/// One that ends by itself is started again, but not in a tight loop: what systemd does with `RestartSec=1`.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Part {
    name: String,
    command: Command,
    logs: PathBuf,
    child: Option<Child>,
    started: Instant,
}

impl Part {
    pub fn start(name: &str, command: Command, logs: &Path) -> Part {
        let child = Child::spawn(name, &command, logs);
        Part {
            name: name.to_owned(),
            command,
            logs: logs.to_owned(),
            child: Some(child),
            started: Instant::now(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Of its process, which may be dead.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::pid)
    }

    pub fn log_path(&self) -> PathBuf {
        self.logs.join(format!("{}.log", self.name))
    }

    /// Waits until it has written a line that begins so.
    pub fn wait_for_line(&mut self, start: &str, limit: Duration) {
        self.child.as_mut().expect("it was just started").wait_for_line(start, limit);
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(Child::is_running)
    }

    /// Starts it again if it isn't there.
    pub fn start_again(&mut self) {
        if !self.is_running() {
            self.child = Some(Child::spawn(&self.name, &self.command, &self.logs));
            self.started = Instant::now();
        }
    }

    /// Starts it again if it has ended by itself, and says how it ended.
    pub fn keep(&mut self) -> Option<String> {
        if self.is_running() || self.started.elapsed() < AGAIN {
            return None;
        }
        let status = self.child.as_mut().map(|child| child.wait_exit(Duration::from_secs(1)));
        self.start_again();
        Some(status.map_or_else(|| "it was not there".to_owned(), |status| status.to_string()))
    }

    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill9();
        }
    }

    pub fn pause(&mut self) {
        if let Some(child) = self.child.as_mut() {
            child.pause();
        }
    }

    pub fn cont(&mut self) {
        if let Some(child) = self.child.as_mut() {
            child.cont();
        }
    }
}
