//! What an engine keeps of former builds: how much, and dropping it.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard_buildkit_proto::moby::buildkit::v1::{DiskUsageRequest, PruneRequest, UsageRecord};

use super::address::{EngineKind, Place};
use super::error::{EngineError, reason};
use super::{Engine, docker};

/// How long a pruning may take: it removes files.
const PRUNE_WITHIN: Duration = Duration::from_secs(300);

/// How long saying what is kept may take: what was never measured is measured then.
const SAID_WITHIN: Duration = Duration::from_secs(120);

/// What an engine is to keep of former builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheBounds {
    /// What was used within that stays.
    pub older_than: Duration,
    /// With so many bytes left or less nothing is dropped any more.
    pub keep: u64,
}

/// What an engine dropped of what it kept of former builds, or would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped {
    /// What it keeps, bytes.
    pub kept: u64,
    /// What it dropped, or would, bytes.
    pub freed: u64,
}

impl Engine {
    /// The folder in which the engine keeps everything, where it says so and is on this machine: a Docker engine that is
    /// reached by a socket. That the folder is there doesn't prove it, but most likely it is the one.
    pub async fn root(&self) -> Option<PathBuf> {
        let Place::Unix(socket) = &self.address().0 else { return None };
        if self.kind() != EngineKind::Docker {
            return None;
        }
        let root = docker::info(socket).await.ok()?.root?;
        tokio::fs::metadata(&root).await.is_ok().then_some(root)
    }

    /// Has the engine drop so many bytes of what it keeps of former builds, the least lately used first, never what is in
    /// use; at least half of it, if asked. Gives how many it dropped.
    ///
    /// # Errors
    /// It does not answer, or not within five minutes.
    pub async fn prune(&self, bytes: u64, at_least_half: bool) -> Result<u64, EngineError> {
        let mut control = self.control();
        let unreachable = |status: tonic::Status| self.unreachable(reason(&status));
        let pruning = async {
            let usage =
                control.disk_usage(DiskUsageRequest::default()).await.map_err(unreachable)?.into_inner();
            let kept: i64 = usage.record.iter().map(|record| record.size.max(0)).sum();
            let drop = i64::try_from(bytes).unwrap_or(i64::MAX).max(if at_least_half { kept / 2 } else { 0 });
            if drop == 0 || kept == 0 {
                return Ok(0);
            }
            // 0 stands for no bound, which keeps nothing: what is wanted then.
            let reserved_space = kept.saturating_sub(drop).max(0);
            let request = PruneRequest { all: true, reserved_space, ..PruneRequest::default() };
            let mut dropped = control.prune(request).await.map_err(unreachable)?.into_inner();
            let mut freed = 0_u64;
            while let Some(record) = dropped.message().await.map_err(unreachable)? {
                freed = freed.saturating_add(u64::try_from(record.size).unwrap_or(0));
            }
            Ok(freed)
        };
        match tokio::time::timeout(PRUNE_WITHIN, pruning).await {
            Ok(freed) => freed,
            Err(_) => Err(self.unreachable(format!("pruning took longer than {} s", PRUNE_WITHIN.as_secs()))),
        }
    }

    /// What [`Engine::drop_cache`] would drop, as nearly as the engine's own list tells: what hangs on something that is dropped goes with
    /// it, or stays for it.
    ///
    /// # Errors
    /// It does not answer, or not within two minutes.
    pub async fn would_drop(&self, bounds: CacheBounds) -> Result<Dropped, EngineError> {
        let records = self.usage().await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(would_drop(&records, bounds, now))
    }

    /// Has the engine drop what it keeps of former builds and nobody has used lately, the least lately used first, down to some size;
    /// never what is in use.
    ///
    /// # Errors
    /// It does not answer, or not within five minutes.
    pub async fn drop_cache(&self, bounds: CacheBounds) -> Result<Dropped, EngineError> {
        let unreachable = |status: tonic::Status| self.unreachable(reason(&status));
        let request = PruneRequest {
            all: true,
            keep_duration: i64::try_from(bounds.older_than.as_nanos()).unwrap_or(i64::MAX),
            reserved_space: i64::try_from(bounds.keep).unwrap_or(i64::MAX),
            ..PruneRequest::default()
        };
        let pruning = async {
            let mut dropped = self.control().prune(request).await.map_err(unreachable)?.into_inner();
            let mut freed = 0_u64;
            while let Some(record) = dropped.message().await.map_err(unreachable)? {
                freed = freed.saturating_add(size(&record));
            }
            Ok(freed)
        };
        let freed = match tokio::time::timeout(PRUNE_WITHIN, pruning).await {
            Ok(freed) => freed?,
            Err(_) => {
                let why = format!("pruning took longer than {} s", PRUNE_WITHIN.as_secs());
                return Err(self.unreachable(why));
            }
        };
        // What is gone is told, also where what is left can't be.
        let kept = self.usage().await.unwrap_or_default();
        let kept = kept.iter().fold(0_u64, |sum, record| sum.saturating_add(size(record)));
        Ok(Dropped { kept, freed })
    }

    async fn usage(&self) -> Result<Vec<UsageRecord>, EngineError> {
        let mut control = self.control();
        let said = tokio::time::timeout(SAID_WITHIN, control.disk_usage(DiskUsageRequest::default())).await;
        match said {
            Ok(Ok(usage)) => Ok(usage.into_inner().record),
            Ok(Err(status)) => Err(self.unreachable(reason(&status))),
            Err(_) => Err(self.unreachable(format!(
                "it did not say within {} s what its build cache takes",
                SAID_WITHIN.as_secs()
            ))),
        }
    }
}

fn size(record: &UsageRecord) -> u64 {
    u64::try_from(record.size).unwrap_or(0)
}

/// What goes of these by the bounds; `now` since 1970.
fn would_drop(records: &[UsageRecord], bounds: CacheBounds, now: Duration) -> Dropped {
    let all = records.iter().fold(0_u64, |sum, record| sum.saturating_add(size(record)));
    let used = |record: &UsageRecord| {
        // What was never used is as old as can be, as BuildKit has it.
        record
            .last_used_at
            .as_ref()
            .map_or(Duration::ZERO, |at| Duration::from_secs(u64::try_from(at.seconds).unwrap_or(0)))
    };
    let is_old = |record: &&UsageRecord| {
        bounds.older_than.is_zero() || now.saturating_sub(used(record)) > bounds.older_than
    };
    let mut idle: Vec<&UsageRecord> = records.iter().filter(|record| !record.in_use).filter(is_old).collect();
    idle.sort_by_key(|record| used(record));
    let mut freed = 0_u64;
    for record in idle {
        if bounds.keep > 0 && all.saturating_sub(freed) <= bounds.keep {
            break;
        }
        freed = freed.saturating_add(size(record));
    }
    Dropped { kept: all, freed }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    /// Of 10 bytes, last used so many hours ago.
    fn record(hours_ago: Option<u64>, in_use: bool) -> UsageRecord {
        let seconds = |hours: u64| i64::try_from((100 - hours) * HOUR).unwrap();
        UsageRecord {
            size: 10,
            in_use,
            last_used_at: hours_ago.map(|hours| bollard_buildkit_proto::google::protobuf::Timestamp {
                seconds: seconds(hours),
                nanos: 0,
            }),
            ..UsageRecord::default()
        }
    }

    #[test]
    fn what_is_in_use_or_was_lately_stays_and_the_rest_goes_down_to_the_size_that_is_kept() {
        let records = [
            record(Some(1), false),
            record(Some(30), false),
            record(Some(80), true),
            record(Some(90), false),
            record(None, false),
        ];
        let freed = |hours: u64, keep: u64| {
            let bounds = CacheBounds { older_than: Duration::from_secs(hours * HOUR), keep };
            let dropped = would_drop(&records, bounds, Duration::from_secs(100 * HOUR));
            assert_eq!(dropped.kept, 50);
            dropped.freed
        };
        assert_eq!(freed(0, 0), 40, "all but what is in use");
        assert_eq!(freed(72, 0), 20);
        assert_eq!(freed(24, 0), 30);
        assert_eq!(freed(0, 25), 30, "down to that size");
        assert_eq!(freed(72, 35), 20);
        assert_eq!(freed(0, 50), 0);
    }
}
