//! Keeps one part running: starts it, starts it again when it dies, stops it when asked.

use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use farm_types::{Backoff, Waits};
use tokio::sync::oneshot;
use tokio::time::{Instant as Tick, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::control::{PartState, PartStatus};
use crate::parts::{Part, Started};

/// The waits before a dead part is started again.
const WAITS: Waits = Waits::new(Duration::from_millis(100), Duration::from_secs(10));
/// A part that ran for so long begins with short waits again.
const STEADY: Duration = Duration::from_secs(30);
/// How often a running part is asked whether it is well, and how long it may take to answer.
const PROBE: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(3));

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
    let mut backoff = Backoff::new(WAITS);
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
                let Some(why) = attend(started, part.as_ref(), &board, &stop).await else { break };
                if up.elapsed() > STEADY {
                    backoff.reset();
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
        let wait = backoff.next_wait();
        eprintln!("{name}: {why}; starting it again in {} ms", wait.as_millis());
        board.set(&name, |it| {
            it.state = PartState::Restarting;
            it.pid = None;
            it.restarts += 1;
            it.detail = in_short(&why);
        });
        tokio::select! {
            () = sleep(wait) => {}
            () = stop.cancelled() => break,
        }
    }
    board.set(&name, |it| {
        it.state = PartState::Stopped;
        it.pid = None;
    });
}

/// The first line, which says what has happened, and the last, which is the part's last word.
fn in_short(why: &str) -> String {
    let mut lines = why.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    match lines.next_back() {
        Some(last) => format!("{first}: {}", last.chars().take(160).collect::<String>()),
        None => first.to_owned(),
    }
}

/// Waits for its end, and says how it came; `None` when it was stopped.
async fn attend(
    mut started: Started,
    part: &dyn Part,
    board: &Board,
    stop: &CancellationToken,
) -> Option<String> {
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
        () = watch(part, board, &started.detail) => None,
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

/// Shows whether it answers. It isn't started anew when it doesn't: a machine that is short of everything would only
/// be made to work harder. Never returns.
async fn watch(part: &dyn Part, board: &Board, detail: &str) {
    let mut rounds = interval_at(Tick::now() + PROBE.0, PROBE.0);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        let answer = timeout(PROBE.1, part.probe()).await;
        let why = match answer {
            Ok(Ok(())) => None,
            Ok(Err(why)) => Some(why),
            Err(_) => Some("doesn't answer".to_owned()),
        };
        board.set(part.name(), |it| {
            it.state = if why.is_none() { PartState::Running } else { PartState::Unresponsive };
            it.detail = why.unwrap_or_else(|| detail.to_owned());
        });
    }
}
