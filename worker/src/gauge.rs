//! How full the disks got while an attempt ran.
//!
//! A build that fills a disk fails, and what it had written goes with it: who looks afterwards finds room. So the
//! engine's disk is looked at all the time, the more often the less there is free: before it could have run full since
//! the last look. What a build *says* of a full disk is no evidence, as it may say anything.
//!
//! Invariant: a look never holds an attempt up, and one that fails changes nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use crate::engine_watch::Ready;

/// With less free than this a disk is full, bytes: what is left over when a large write fails.
pub const FULL_BELOW: u64 = 8 << 20;
/// No disk takes more in a second, bytes.
const FASTEST: u64 = 4 << 30;
/// The least time between two looks.
const LEAST_PAUSE: Duration = Duration::from_millis(15);
/// The longest time between two looks.
const MOST_PAUSE: Duration = Duration::from_millis(500);
/// A command fails soon after it met a full disk; what was before has nothing to do with it.
const LATELY: Duration = Duration::from_secs(60);

/// The disks that matter to a worker.
#[derive(Debug, Clone)]
pub struct Disks {
    /// Where the engine keeps all that it has, if somebody said so; else it is asked.
    pub engine_root: Option<PathBuf>,
    /// The worker's own folder.
    pub state_dir: PathBuf,
}

/// What a user may still write on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Free {
    /// So many bytes.
    pub bytes: u64,
    /// No more files, whatever their size.
    pub no_files: bool,
}

impl Free {
    /// Nothing can be written any more, or next to nothing.
    pub fn is_full(self) -> bool {
        self.bytes < FULL_BELOW || self.no_files
    }
}

/// Room of the disk that this is on (statvfs(3)). Blocks.
///
/// # Errors
/// There is nothing at this path.
pub fn free(path: &Path) -> io::Result<Free> {
    let disk = rustix::fs::statvfs(path)?;
    // Some have no bound on files, and say 0 of 0.
    let no_files = disk.f_files > 0 && disk.f_favail == 0;
    Ok(Free { bytes: disk.f_bavail.saturating_mul(disk.f_frsize), no_files })
}

impl Disks {
    /// Where this engine keeps all that it has, if that is known and on this machine.
    pub async fn of_engine(&self, ready: &Ready) -> Option<PathBuf> {
        match &self.engine_root {
            Some(root) => Some(root.clone()),
            None => ready.engine.root().await,
        }
    }
}

/// What was found of the engine's disk lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lately {
    /// It was full.
    Full,
    /// It was not.
    Room,
    /// It can't be seen from here.
    Unseen,
}

/// Looks at the engine's disk until it is dropped.
pub struct Gauge {
    seen: Arc<Mutex<Seen>>,
    _looking: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    looked: bool,
    full_at: Option<Instant>,
}

impl Seen {
    fn note(&mut self, free: Free, now: Instant) {
        self.looked = true;
        if free.is_full() {
            self.full_at = Some(now);
        }
    }

    fn lately(&self, now: Instant) -> Lately {
        match self.full_at {
            Some(at) if now.saturating_duration_since(at) <= LATELY => Lately::Full,
            _ if self.looked => Lately::Room,
            _ => Lately::Unseen,
        }
    }
}

impl Gauge {
    /// Begins to look.
    pub fn start(disks: Disks, ready: Ready) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let noted = Arc::clone(&seen);
        let looking = tokio::spawn(async move {
            let Some(root) = disks.of_engine(&ready).await else { return };
            loop {
                let place = root.clone();
                let looked = tokio::task::spawn_blocking(move || free(&place)).await;
                let Ok(Ok(free)) = looked else { return };
                noted.lock().unwrap_or_else(PoisonError::into_inner).note(free, Instant::now());
                sleep(pause(free)).await;
            }
        });
        Self { seen, _looking: AbortOnDropHandle::new(looking) }
    }

    /// How the engine's disk was in the last minute.
    pub fn lately(&self) -> Lately {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).lately(Instant::now())
    }
}

/// So long a disk with so much free can't run full.
fn pause(free: Free) -> Duration {
    let millis = free.bytes / (FASTEST / 1000);
    Duration::from_millis(millis).clamp(LEAST_PAUSE, MOST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(bytes: u64) -> Free {
        Free { bytes, no_files: false }
    }

    #[test]
    fn the_less_is_free_the_sooner_it_is_looked_at_again() {
        let pauses = [0, 200 << 20, 1 << 30, 1 << 40].map(|free| pause(bytes(free)).as_millis());
        assert_eq!(pauses, [15, 48, 250, 500]);
    }

    #[test]
    fn what_was_full_a_while_ago_is_forgotten_and_what_was_never_seen_is_unknown() {
        let begin = Instant::now();
        let mut seen = Seen::default();
        assert_eq!(seen.lately(begin), Lately::Unseen);
        seen.note(bytes(FULL_BELOW), begin);
        assert_eq!(seen.lately(begin), Lately::Room);
        seen.note(bytes(FULL_BELOW - 1), begin);
        seen.note(bytes(1 << 40), begin + Duration::from_secs(1));
        assert_eq!(seen.lately(begin + LATELY), Lately::Full);
        assert_eq!(seen.lately(begin + LATELY + Duration::from_secs(1)), Lately::Room);
        seen.note(Free { bytes: 1 << 40, no_files: true }, begin + LATELY * 2);
        assert_eq!(seen.lately(begin + LATELY * 2), Lately::Full);
    }

    #[test]
    fn a_disk_says_how_much_it_takes() {
        assert!(free(Path::new("/")).is_ok());
        assert!(free(Path::new("/no/such/folder")).is_err());
    }
}
