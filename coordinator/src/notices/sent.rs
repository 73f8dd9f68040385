//! What becomes of what is sent.

use std::time::Duration;

/// A request, or a mail, may take so long, its answer included.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What became of sending something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// It was taken, and what was said to it.
    Taken(String),
    /// It wasn't, and why; and for how long the receiver wants to hear nothing, if it says so.
    Later(String, Option<Duration>),
    /// It will not be taken later either, and why.
    Never(String),
}
