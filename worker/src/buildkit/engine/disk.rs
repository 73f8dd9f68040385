//! What an engine keeps of former builds: how much, and dropping it.

use std::path::PathBuf;
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::{DiskUsageRequest, PruneRequest};

use super::address::{EngineKind, Place};
use super::error::{EngineError, reason};
use super::{Engine, docker};

/// How long a pruning may take: it removes files.
const PRUNE_WITHIN: Duration = Duration::from_secs(300);

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
}
