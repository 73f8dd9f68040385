//! How a running supervisor is asked: a Unix socket in the state folder, a JSON line each way.
//!
//! The same lines come out of a supervisor's standard output while it starts.

use serde::{Deserialize, Serialize};

use crate::settings::Settings;

/// What can be asked. The first answer is always how it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// How is it?
    Status,
    /// Tell me how the start goes on, from its beginning.
    Up,
    /// Stop everything, in order.
    Down,
}

/// What is said.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A part is ready, or has stopped.
    Step {
        /// The part.
        part: String,
        /// What became of it (`stopped`, or what it says when it is ready).
        text: String,
        /// How long it took, milliseconds.
        ms: u64,
    },
    /// Something that a person should know.
    Notice(String),
    /// All parts are ready; nothing more comes.
    Ready(Box<Status>),
    /// How it is.
    Status(Box<Status>),
    /// It can't be; nothing more comes. True: because of what was asked for, not of what happened.
    Failed(String, bool),
    /// All has ended.
    Stopped,
    /// Another supervisor has the folder.
    Busy,
}

/// A farm on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// `starting`, `up` or `stopping`.
    pub state: String,
    /// The supervisor's process id.
    pub pid: u32,
    /// When it began, milliseconds since 1970.
    pub since_ms: i64,
    /// The flags that `farm up` was given.
    pub settings: Settings,
    /// The coordinator's address.
    pub url: String,
    /// The registry, as tags name it (`localhost:5000`).
    pub registry: String,
    /// The engine's address.
    pub engine: String,
    /// The state folder.
    pub state_dir: String,
    /// The token's file.
    pub token_file: String,
    /// What a person should know.
    pub notices: Vec<String>,
    /// The parts, in the order of their start.
    pub parts: Vec<PartStatus>,
}

/// One part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartStatus {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: PartState,
    /// Since when it is doing that, milliseconds since 1970.
    pub since_ms: i64,
    /// Its process id, while it has one.
    pub pid: Option<u32>,
    /// How often it died and was started again.
    pub restarts: u32,
    /// What it is, or what is wrong.
    pub detail: String,
}

/// What a part is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartState {
    /// It is started for the first time.
    Starting,
    /// It is ready.
    Running,
    /// Its process is there, but doesn't answer.
    Unresponsive,
    /// It died, or doesn't come up; it is tried again.
    Restarting,
    /// It was ended in order.
    Stopped,
}

impl PartState {
    /// The state in one word, as `farm status` shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Unresponsive => "unresponsive",
            Self::Restarting => "restarting",
            Self::Stopped => "stopped",
        }
    }
}

impl Event {
    /// Whether it is the last one: nothing follows it.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Ready(_) | Self::Failed(..) | Self::Stopped | Self::Busy)
    }

    /// As a line, with its end.
    pub fn line(&self) -> String {
        let mut text = serde_json::to_string(self).unwrap_or_default();
        text.push('\n');
        text
    }
}
