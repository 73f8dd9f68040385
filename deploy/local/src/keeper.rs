//! Keeps one part running: starts it, starts it again when it dies, stops it when asked.

use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::control::{PartState, PartStatus};
use crate::parts::{Part, Started};

/// The first wait before a dead part is started again, and the longest.
const WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// A part that ran for so long begins with short waits again.
const STEADY: Duration = Duration::from_secs(30);

/// What everybody may know of the parts, in the order in which they were started.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<Vec<PartStatus>>>);

impl Board {
    /// All parts as they are now.
    pub fn parts(&self) -> Vec<PartStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A part that will be started; its place in the list.
    pub fn add(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(PartStatus {
            name: name.to_owned(),
            state: PartState::Starting,
            since_ms: now_ms(),
            pid: None,
            restarts: 0,
            detail: String::new(),
        });
    }

    fn set(&self, name: &str, change: impl FnOnce(&mut PartStatus)) {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = parts.iter_mut().find(|part| part.name == name) {
            let before = part.state;
            change(part);
            if part.state != before {
                part.since_ms = now_ms();
            }
        }
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// How the first start went: what it has become, and how long it took.
pub type First = Result<(String, Duration), String>;

/// Runs until `stop`. The first start is reported to `first`; when it fails, nothing is tried again.
pub async fn keep(part: Arc<dyn Part>, board: Board, first: oneshot::Sender<First>, stop: CancellationToken) {
    let name = part.name().to_owned();
    let begin = Instant::now();
    let mut first = Some(first);
    let mut wait = WAIT.0;
    loop {
        let started = tokio::select! {
            started = part.start() => started,
            () = stop.cancelled() => break,
        };
        let why = match started {
            Ok(started) => {
                let up = Instant::now();
                board.set(&name, |it| {
                    it.state = PartState::Running;
                    it.pid = Some(started.child.pid());
                    it.detail.clone_from(&started.detail);
                });
                if let Some(first) = first.take() {
                    let _ = first.send(Ok((started.detail.clone(), begin.elapsed())));
                }
                let Some(why) = attend(started, &stop).await else { break };
                if up.elapsed() > STEADY {
                    wait = WAIT.0;
                }
                why
            }
            Err(why) => {
                if first.is_some() && begin.elapsed() >= part.patience() {
                    board.set(&name, |it| it.state = PartState::Stopped);
                    if let Some(first) = first.take() {
                        let _ = first.send(Err(why));
                    }
                    return;
                }
                why
            }
        };
        eprintln!("{name}: {why}; starting it again in {} ms", wait.as_millis());
        board.set(&name, |it| {
            it.state = PartState::Restarting;
            it.pid = None;
            it.restarts += 1;
            it.detail = why.lines().next().unwrap_or_default().to_owned();
        });
        tokio::select! {
            () = sleep(wait) => {}
            () = stop.cancelled() => break,
        }
        wait = (wait * 2).min(WAIT.1);
    }
    board.set(&name, |it| {
        it.state = PartState::Stopped;
        it.pid = None;
    });
}

/// Waits for its end, and says how it came; `None` when it was stopped.
async fn attend(mut started: Started, stop: &CancellationToken) -> Option<String> {
    let depends_on = started.depends_on.take();
    let moved = async {
        match depends_on {
            Some(mut depends_on) => drop(depends_on.changed().await),
            None => std::future::pending().await,
        }
    };
    let end: Option<ExitStatus> = tokio::select! {
        status = started.child.wait() => Some(status),
        () = moved => None,
        () = stop.cancelled() => {
            started.child.stop().await;
            return None;
        }
    };
    match end {
        Some(status) => Some(format!("ended ({status})")),
        None => {
            started.child.stop().await;
            Some("what it belongs to was started anew".to_owned())
        }
    }
}
