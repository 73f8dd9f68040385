//! How fetching ends when it doesn't end well.

use std::io;

use farm_types::{Cause, Failure, FailureCode};

/// Why there is no source.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It was told to stop.
    #[error("it was told to stop")]
    Stopped,
    /// It failed.
    #[error("{0}")]
    Failed(Box<Failure>),
}

impl FetchError {
    /// The failure, unless it was told to stop.
    pub fn into_failure(self) -> Option<Failure> {
        match self {
            Self::Stopped => None,
            Self::Failed(failure) => Some(*failure),
        }
    }

    /// The failure's code.
    pub(crate) fn code(&self) -> Option<&FailureCode> {
        match self {
            Self::Stopped => None,
            Self::Failed(failure) => Some(&failure.code),
        }
    }
}

/// Something for the user to mend.
pub(crate) fn user(code: FailureCode, message: impl Into<String>) -> FetchError {
    FetchError::Failed(Box::new(Failure::new(Cause::User, code, message)))
}

/// Something that may be otherwise the next time, or on another machine.
pub(crate) fn trouble(code: FailureCode, message: impl Into<String>) -> FetchError {
    FetchError::Failed(Box::new(Failure::new(Cause::Infrastructure, code, message)))
}

/// The worker's disk.
pub(crate) fn disk(what: &str, error: &io::Error) -> FetchError {
    trouble(FailureCode::WorkerDisk, format!("{what}: {error}; look at the worker's state folder"))
}
