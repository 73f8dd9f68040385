//! Keeps disks from running full: the engine's, where it can be seen, and the worker's own.
//!
//! With less room than wanted the engine is asked to drop what it keeps of former builds, and the content cache what
//! nobody uses; never what is in use. With less than the least the worker withdraws until there is room again: a job that
//! starts now would most likely fail, and take those that run along. A job that met a full disk is a reason to look at
//! once.
//!
//! Invariant: nothing here waits on a disk in a thread that must not block, and no failure here ends anything.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::attempts::Attempts;
use crate::engine_watch::Ready;
use crate::gauge::free;
use crate::snapshot::cache::ContentCache;

/// How often a quiet disk is looked at.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// Between two prunings of an engine that has not got enough room by the first one.
const PRUNE_PAUSE: Duration = Duration::from_secs(60);

/// How much room there is to be, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// With less, what is kept of former builds is dropped.
    pub wanted: u64,
    /// With less, no job is taken.
    pub least: u64,
}

/// Told when a job met a full disk.
#[derive(Debug, Default)]
pub struct MetFull {
    /// Notified when a job met the engine's disk full.
    pub engine: Notify,
    /// Notified when a job met the worker's own disk full.
    pub own: Notify,
}

/// Looks at the disks, makes room on them, and has offers declined while there is too little.
pub struct DiskWatch {
    /// Closed while there is too little room.
    pub attempts: Arc<Attempts>,
    /// The engine as it was last seen.
    pub engine: watch::Receiver<Ready>,
    /// Where the engine keeps all that it has, if somebody said so; else it is asked.
    pub engine_root: Option<PathBuf>,
    /// What it said, when it was asked.
    pub asked_root: Option<PathBuf>,
    /// The worker's own folder.
    pub state_dir: PathBuf,
    /// What is kept there of sources.
    pub cache: Arc<ContentCache>,
    /// How much room there is to be.
    pub room: Room,
    /// Told when a job met a full disk.
    pub met_full: Arc<MetFull>,
}

/// What a look at the disks found.
#[derive(Debug, Default)]
struct Found {
    /// Room of the engine's disk, bytes; none when it can't be seen.
    engine: Option<(PathBuf, u64)>,
    /// Room of the worker's own disk, bytes; none when it can't be seen.
    own: Option<u64>,
}

impl DiskWatch {
    /// Watches until it is dropped.
    pub async fn run(mut self) {
        let mut pruned_at: Option<Instant> = None;
        let mut told = None;
        // What is there at the start counts before the first job does.
        let (mut engine_full, mut own_full) = (false, false);
        loop {
            let found = self.look().await;
            self.tell(&mut told, &found);
            let short = |free: u64| free < self.room.wanted;
            if engine_full || own_full || found.own.is_some_and(short) {
                let cache = Arc::clone(&self.cache);
                let freed = tokio::task::spawn_blocking(move || cache.drop_idle()).await.unwrap_or_default();
                if freed > 0 {
                    tracing::info!(
                        freed,
                        "there is little room for sources: those that nobody uses are dropped"
                    );
                }
            }
            let engine_short = found.engine.as_ref().is_some_and(|(_, free)| short(*free));
            let again = pruned_at.is_none_or(|at| at.elapsed() >= PRUNE_PAUSE);
            // An engine whose disk is so full that it can't even note what it drops is asked once more, when it has come round.
            let mut still_full = false;
            if engine_full || (engine_short && again) {
                pruned_at = Some(Instant::now());
                let missing =
                    found.engine.as_ref().map_or(0, |(_, free)| self.room.wanted.saturating_sub(*free));
                still_full = !self.prune(missing, engine_full).await && engine_full;
                let found = self.look().await;
                self.tell(&mut told, &found);
            }
            (engine_full, own_full) = tokio::select! {
                () = self.met_full.engine.notified() => (true, false),
                () = self.met_full.own.notified() => (still_full, true),
                () = tokio::time::sleep(CHECK_EVERY) => (still_full, false),
            };
        }
    }

    /// Withdraws, or comes back.
    fn tell(&self, told: &mut Option<String>, found: &Found) {
        let why = found.too_little(self.room.least, told.is_some());
        match (&why, &told) {
            (Some(why), None) => tracing::warn!(why, "no jobs are taken until there is room"),
            (None, Some(_)) => tracing::info!("there is room again"),
            _ => {}
        }
        if why != *told {
            self.attempts.set_full(why.clone());
            *told = why;
        }
    }

    async fn look(&mut self) -> Found {
        if self.engine_root.is_none()
            && (self.asked_root.is_none() || self.engine.has_changed().unwrap_or(false))
        {
            let ready = self.engine.borrow_and_update().clone();
            self.asked_root = ready.engine.root().await;
        }
        let root = self.engine_root.clone().or_else(|| self.asked_root.clone());
        let state_dir = self.state_dir.clone();
        let looked = tokio::task::spawn_blocking(move || Found {
            engine: root.and_then(|root| free(&root).ok().map(|free| (root, free.bytes))),
            own: free(&state_dir).ok().map(|free| free.bytes),
        });
        looked.await.unwrap_or_default()
    }

    /// Drops so much of what the engine keeps of former builds; of one that was met full at least half. Answers whether it could.
    async fn prune(&self, missing: u64, met_full: bool) -> bool {
        let engine = self.engine.borrow().engine.clone();
        match engine.prune(missing, met_full).await {
            Ok(freed) => {
                tracing::info!(freed, "there is little room: the engine's build cache was pruned");
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the engine's build cache could not be pruned");
                false
            }
        }
    }
}

impl Found {
    /// Why no job is to be taken, in words. Who has withdrawn comes back with a tenth more, so that it isn't in and out.
    fn too_little(&self, least: u64, withdrawn: bool) -> Option<String> {
        let least_now = if withdrawn { least.saturating_add(least / 10) } else { least };
        let words = |what: &str, free: u64| {
            format!("{what} has {} free, and {} is the least (--min-free)", size(free), size(least))
        };
        let engine = self.engine.as_ref().filter(|(_, free)| *free < least_now);
        let own = self.own.filter(|free| *free < least_now);
        match (engine, own) {
            (Some((root, free)), _) => Some(words(&format!("its engine's disk ({})", root.display()), *free)),
            (None, Some(free)) => Some(words("the disk of its own folder", free)),
            (None, None) => None,
        }
    }
}

/// Bytes for people, without digits that would change each time.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes >> 10),
        1_048_576..10_737_418_240 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_that_is_full_is_named_and_a_little_more_is_needed_to_come_back() {
        let found =
            |engine: u64, own: u64| Found { engine: Some((PathBuf::from("/d"), engine)), own: Some(own) };
        const MIB: u64 = 1 << 20;
        assert_eq!(found(100 * MIB, 100 * MIB).too_little(100 * MIB, false), None);
        assert_eq!(
            found(99 * MIB, 0).too_little(100 * MIB, false).unwrap(),
            "its engine's disk (/d) has 99 MiB free, and 100 MiB is the least (--min-free)"
        );
        assert!(found(105 * MIB, 500 * MIB).too_little(100 * MIB, true).is_some());
        assert!(found(110 * MIB, 500 * MIB).too_little(100 * MIB, true).is_none());
        assert!(found(500 * MIB, 5).too_little(100 * MIB, false).unwrap().contains("own folder has 0 KiB"));
        // What can't be seen is no reason.
        assert_eq!(Found::default().too_little(u64::MAX, false), None);
    }
}
