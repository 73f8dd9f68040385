//! The source of a build, on this machine: fetched, verified, kept, and shown to the engine.
//!
//! [`fetch`] asks the coordinator for the folders of each root and for the files that [`cache`] lacks;
//! [`folders`] checks that each is what the snapshot's name promises; [`tree`] shows them to the engine.
//!
//! Invariant: nothing reaches the engine whose digest was not checked against the one that its parent
//! names, up to the snapshot's `tree_id`.

pub mod cache;
pub mod fetch;
pub mod folders;
pub mod tree;

use farm_types::{Cause, Failure, FailureCode, Invalid};

/// Why a snapshot could not be brought here.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The attempt was stopped.
    #[error("stopped")]
    Stopped,
    /// The lease is another's now.
    #[error("the lease is another's")]
    Superseded,
    /// The coordinator lacks a part of the snapshot.
    #[error("the coordinator lacks a part of the source: {0}")]
    Missing(String),
    /// What came is not what was asked for.
    #[error("the source came damaged: {0}")]
    Damaged(String),
    /// The coordinator does not answer, or refuses.
    #[error("the source could not be fetched from the coordinator: {0}")]
    Unreachable(String),
    /// This machine's disk does not do its part.
    #[error("the source could not be kept on the worker's disk: {0}")]
    Disk(#[from] std::io::Error),
}

impl From<Invalid> for SnapshotError {
    fn from(error: Invalid) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl SnapshotError {
    /// The failure of the attempt, or `None` when it was stopped or its lease lost.
    pub fn into_failure(self) -> Option<Failure> {
        let code = match self {
            Self::Stopped | Self::Superseded => return None,
            Self::Missing(_) => FailureCode::SourceMissing,
            Self::Damaged(_) => FailureCode::SourceDamaged,
            Self::Unreachable(_) => FailureCode::SourceUnreachable,
            Self::Disk(_) => FailureCode::WorkerDisk,
        };
        Some(Failure::new(Cause::Infrastructure, code, self.to_string()))
    }
}
