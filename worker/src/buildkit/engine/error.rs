//! Why an engine can't be used, and the words of errors on the way to it.

use farm_types::chain::innermost;

/// Why an engine can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// Nothing answers there now: it may later.
    #[error("engine {address} does not answer: {reason}; {cure}")]
    Unreachable {
        /// As the flag `--engine` has it.
        address: String,
        /// What happened, in words.
        reason: String,
        /// What to do about it, in words.
        cure: String,
    },
    /// What is there, or how it is addressed, will not do: trying again does not help.
    #[error("engine {address} cannot be used: {reason}; {cure}")]
    Unusable {
        /// As the flag `--engine` has it.
        address: String,
        /// What is wrong with it, in words.
        reason: String,
        /// What to do about it, in words.
        cure: String,
    },
}

/// A status in words: its message, and the cause of it below, where that says more.
pub(crate) fn reason(status: &tonic::Status) -> String {
    let text = status.message();
    match std::error::Error::source(status).map(|below| innermost(below).to_string()) {
        Some(cause) if !text.contains(&cause) => format!("{text}: {cause}"),
        _ => text.to_owned(),
    }
}
