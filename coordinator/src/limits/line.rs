//! One connection, as the limits see it: what it is used for, and how long it hasn't been.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;

/// Nothing is under way.
const NEVER: u64 = 0;

/// How long a connection may be of no use.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Until its first call.
    pub first_call: Duration,
    /// Without a call.
    pub idle: Duration,
    /// With a stream of which nothing is taken.
    pub stalled: Duration,
    /// While it takes not a byte of what is written.
    pub blocked: Duration,
}

/// A connection.
#[derive(Debug)]
pub struct Line {
    /// Where it comes from; what is counted as one place.
    pub place: IpAddr,
    opened: Instant,
    /// Calls that are under way, and those of them whose caller is known.
    calls: AtomicUsize,
    known_calls: AtomicUsize,
    was_called: AtomicBool,
    /// Since when there has been no call, since when nothing could be written; in milliseconds since it was opened, and one.
    quiet_since: AtomicU64,
    blocked_since: AtomicU64,
    is_closed: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
    /// Per call that answers: since when what was handed out last has not been taken.
    answers: Mutex<HashMap<u64, Arc<AtomicU64>>>,
    answered: AtomicU64,
}

impl Line {
    /// One that was just opened.
    pub fn new(place: IpAddr) -> Self {
        Self {
            place,
            opened: Instant::now(),
            calls: AtomicUsize::default(),
            known_calls: AtomicUsize::default(),
            was_called: AtomicBool::default(),
            quiet_since: AtomicU64::new(1),
            blocked_since: AtomicU64::new(NEVER),
            is_closed: AtomicBool::default(),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
            answers: Mutex::default(),
            answered: AtomicU64::default(),
        }
    }

    /// Whether somebody whom the farm knows has a call under way on it: then it gives way to nobody.
    pub fn is_busy(&self) -> bool {
        self.known_calls.load(Ordering::Relaxed) > 0
    }

    /// Ends it: its reader finds the end, its writer an error.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.reader.wake();
        self.writer.wake();
    }

    /// Whether it was ended; if not, this is woken when it is.
    pub fn is_closed_for_reading(&self, waker: &Waker) -> bool {
        self.reader.register(waker);
        self.is_closed()
    }

    /// The same for who writes.
    pub fn is_closed_for_writing(&self, waker: &Waker) -> bool {
        self.writer.register(waker);
        self.is_closed()
    }

    /// Whether it was ended.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Notes whether something could be written.
    pub fn wrote(&self, could: bool) {
        if could {
            if self.blocked_since.load(Ordering::Relaxed) != NEVER {
                self.blocked_since.store(NEVER, Ordering::Relaxed);
            }
        } else {
            let now = self.now();
            // The first time counts.
            let _ = self.blocked_since.compare_exchange(NEVER, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Why it is to be ended, as the limit's name; `None`: it isn't.
    pub fn outlived(&self, patience: Patience) -> Option<&'static str> {
        let now = self.now();
        let since = |at: u64, limit: Duration| at != NEVER && now.saturating_sub(at) > millis(limit);
        if self.is_closed() {
            return None;
        }
        if self.calls.load(Ordering::Relaxed) == 0 {
            let quiet = self.quiet_since.load(Ordering::Relaxed);
            if !self.was_called.load(Ordering::Relaxed) && since(quiet, patience.first_call) {
                return Some("first_call_seconds");
            }
            if since(quiet, patience.idle) {
                return Some("idle_connection_seconds");
            }
        }
        if since(self.blocked_since.load(Ordering::Relaxed), patience.blocked) {
            return Some("a connection takes nothing");
        }
        let stalled = |handed: &Arc<AtomicU64>| since(handed.load(Ordering::Relaxed), patience.stalled);
        self.answers().values().any(stalled).then_some("stalled_stream_seconds")
    }

    /// Milliseconds since it was opened, and one: never [`NEVER`].
    fn now(&self) -> u64 {
        millis(self.opened.elapsed()).saturating_add(1)
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<u64, Arc<AtomicU64>>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A call on a connection, for as long as it is under way.
#[derive(Debug)]
pub struct Turn {
    line: Arc<Line>,
    is_known: bool,
    /// Its answer's place, when there is one.
    answer: Option<(u64, Arc<AtomicU64>)>,
}

impl Turn {
    /// A call begins.
    pub fn begin(line: Arc<Line>) -> Self {
        line.calls.fetch_add(1, Ordering::Relaxed);
        line.was_called.store(true, Ordering::Relaxed);
        Self { line, is_known: false, answer: None }
    }

    /// Its caller is one whom the farm knows.
    pub fn know(&mut self) {
        if !self.is_known {
            self.is_known = true;
            self.line.known_calls.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A piece of its answer was handed out, or the client has taken all that was.
    pub fn handed(&mut self, is_out: bool) {
        let now = if is_out { self.line.now() } else { NEVER };
        match &self.answer {
            Some((_, handed)) => handed.store(now, Ordering::Relaxed),
            None if is_out => {
                let number = self.line.answered.fetch_add(1, Ordering::Relaxed);
                let handed = Arc::new(AtomicU64::new(now));
                self.line.answers().insert(number, Arc::clone(&handed));
                self.answer = Some((number, handed));
            }
            None => {}
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some((number, _)) = self.answer.take() {
            self.line.answers().remove(&number);
        }
        self.line.quiet_since.store(self.line.now(), Ordering::Relaxed);
        if self.is_known {
            self.line.known_calls.fetch_sub(1, Ordering::Relaxed);
        }
        self.line.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Patience = Patience {
        first_call: Duration::from_millis(10),
        idle: Duration::from_millis(40),
        stalled: Duration::from_millis(10),
        blocked: Duration::from_millis(10),
    };
    const LONG: Patience = Patience {
        first_call: Duration::from_secs(60),
        idle: Duration::from_secs(60),
        stalled: Duration::from_secs(60),
        blocked: Duration::from_secs(60),
    };

    /// Waits until it is to be ended.
    fn outlives(line: &Line) -> &'static str {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(10) {
            if let Some(limit) = line.outlived(SHORT) {
                return limit;
            }
            std::thread::yield_now();
        }
        panic!("it goes on for ever");
    }

    #[test]
    fn what_is_of_no_use_is_told_by_the_limit_that_it_has_passed() {
        let line = Arc::new(Line::new("10.0.0.1".parse().unwrap()));
        assert_eq!(line.outlived(LONG), None);
        assert_eq!(outlives(&line), "first_call_seconds");
        let mut turn = Turn::begin(Arc::clone(&line));
        assert!(!line.is_busy());
        turn.know();
        assert!(line.is_busy());
        assert_eq!(line.outlived(SHORT), None);
        turn.handed(true);
        assert_eq!(outlives(&line), "stalled_stream_seconds");
        turn.handed(false);
        assert_eq!(line.outlived(SHORT), None);
        turn.handed(true);
        drop(turn);
        assert!(!line.is_busy());
        assert_eq!(outlives(&line), "idle_connection_seconds");
        let _turn = Turn::begin(Arc::clone(&line));
        line.wrote(false);
        assert_eq!(outlives(&line), "a connection takes nothing");
        line.wrote(true);
        assert_eq!(line.outlived(SHORT), None);
        line.close();
        assert_eq!(line.outlived(SHORT), None);
    }
}
