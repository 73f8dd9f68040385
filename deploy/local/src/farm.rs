//! What is known of the farm on this machine while its supervisor lives: settings, parts, what was told.

use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::control::{Event, Status};
use crate::journal::Journal;
use crate::keeper::{Board, now_ms};
use crate::layout::{Layout, OwnEngine};
use crate::settings::Settings;

/// The farm of this machine, as all of a supervisor sees it. A clone is the same farm.
#[derive(Debug, Clone)]
pub struct LocalFarm {
    pub layout: Layout,
    /// The flags of `farm up`, and what follows from them.
    pub settings: Settings,
    /// The parts and what they are doing, as `farm status` shows them.
    pub board: Board,
    /// What is told while it starts.
    pub starting: Journal,
    /// What is told while it stops.
    pub stopping: Journal,
    /// Stops it, also while it starts.
    pub stop: CancellationToken,
    notices: Arc<Mutex<Vec<String>>>,
    since_ms: i64,
}

impl LocalFarm {
    /// A farm of which nothing is started yet.
    pub fn new(layout: &Layout, settings: &Settings) -> Self {
        Self {
            layout: layout.clone(),
            settings: settings.clone(),
            board: Board::default(),
            starting: Journal::default(),
            stopping: Journal::default(),
            stop: CancellationToken::new(),
            notices: Arc::default(),
            since_ms: now_ms(),
        }
    }

    /// Something that a person should know as long as the farm is up.
    pub fn notice(&self, text: &str) {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
        self.starting.add(Event::Notice(text.to_owned()));
    }

    /// How it is at the moment when its last part is ready.
    pub fn status_when_up(&self) -> Status {
        Status { state: "up".to_owned(), ..self.status() }
    }

    /// How it is now.
    pub fn status(&self) -> Status {
        let own = format!("unix://{}", self.layout.engine_socket(OwnEngine::Trusted).display());
        let state = match (self.stop.is_cancelled(), self.starting.is_over()) {
            (true, _) => "stopping",
            (false, true) => "up",
            (false, false) => "starting",
        };
        Status {
            state: state.to_owned(),
            pid: std::process::id(),
            since_ms: self.since_ms,
            settings: self.settings.clone(),
            url: format!("http://127.0.0.1:{}", self.settings.port),
            registry: format!("localhost:{}", self.settings.registry_port),
            engine: self.settings.engine.clone().unwrap_or(own),
            state_dir: self.layout.root().display().to_string(),
            token_file: self.layout.token().display().to_string(),
            notices: self.notices.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            parts: self.board.parts(),
        }
    }
}
