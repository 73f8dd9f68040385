//! Why an engine can't be used, and the words of errors on the way to it.

use std::error::Error;

/// Why an engine can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Nothing answers there now: it may later.
    #[error("engine {address} does not answer: {reason}; {cure}")]
    Unreachable {
        /// The address.
        address: String,
        /// What happened.
        reason: String,
        /// What to do.
        cure: String,
    },
    /// What is there, or how it is addressed, will not do: trying again does not help.
    #[error("engine {address} cannot be used: {reason}; {cure}")]
    Unusable {
        /// The address.
        address: String,
        /// What is wrong.
        reason: String,
        /// What to do.
        cure: String,
    },
}

/// A status in words: its message, and the innermost of the errors that led to it, where that says more.
pub(crate) fn reason(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut next = std::error::Error::source(status);
    while let Some(error) = next {
        if error.source().is_none() && !text.contains(&error.to_string()) {
            text = format!("{text}: {error}");
        }
        next = error.source();
    }
    text
}

/// The error at the bottom: what the operating system said.
pub(crate) fn innermost(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(next) = innermost.source() {
        innermost = next;
    }
    innermost.to_string()
}
