//! What becomes of what is sent.

use std::time::Duration;

/// A request may take so long, its answer included; longer than a connection may take to be there (`outbound::client`).
pub const PATIENCE: Duration = Duration::from_secs(15);

/// What became of sending something. Why it wasn't taken has no word of a receiver's: those may hold its address, and stand in the answer only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// It was taken.
    Taken,
    /// It wasn't, and why; and for how long the receiver wants to hear nothing, if it says so.
    Later(String, Option<Duration>),
    /// Nobody knows whether it was taken, or it is this one that isn't: a few more tries are worth it, and no more.
    Doubtful(String),
    /// It will not be taken later either, and why.
    Never(String),
}

/// The same, and what the receiver has said to it, in a short line, which is shown to nobody but who tries a notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What became of it.
    pub sent: Sent,
    /// The receiver's words; empty: it has said none.
    pub words: String,
}

impl Answer {
    /// What nobody has said anything to.
    pub fn wordless(sent: Sent) -> Self {
        Self { sent, words: String::new() }
    }
}
