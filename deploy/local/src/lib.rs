//! A whole farm on one machine: what stands behind `farm up`, `farm down`, `farm status` and `farm logs --of`.
//!
//! `farm up` starts the binary `farm-local` as the leader of a session of its own ([`supervisor`]). It holds the
//! folder's lock, starts the [`parts`] in order ([`order`]), starts again what dies ([`keeper`]), and answers on a
//! socket ([`socket`], [`control`]). It is a starter of processes and knows only their flags: no protocol of farm's is spoken here.
//!
//! Invariants:
//! - A process is known by its pidfd, and across supervisors by pid, start time and boot ([`child`]); never by name.
//! - Children die with the supervisor, and all of the engine's processes, mounts, bridges and rules with the engine,
//!   since they are in namespaces of its own ([`engine_init`]). What is left all the same is found by the records
//!   and by the engine's own control group ([`sweep`]).
//! - Only what farm made is removed ([`purge`]).
//!
//! To add a part: a file in `parts/`, and its place in the orders of [`order`].

pub mod binfmt;
pub mod checks;
pub mod child;
pub mod client;
pub mod control;
pub mod engine_init;
pub mod farm;
pub mod journal;
pub mod keeper;
pub mod layout;
pub mod logs;
pub mod order;
pub mod parts;
pub mod ports;
pub mod process;
pub mod purge;
pub mod relay;
pub mod settings;
pub mod socket;
pub mod supervisor;
pub mod sweep;

/// What keeps a farm from being started, asked or stopped. The text names the thing, the value and the cure.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A value or the machine can't be taken as it is.
    #[error("{0}")]
    Usage(String),
    /// Something failed while it was done.
    #[error("{0}")]
    Failed(String),
}

/// The result of what is done here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) fn failed(what: impl std::fmt::Display, error: &std::io::Error) -> Error {
    Error::Failed(format!("{what}: {}", explain(error)))
}

/// An io error, with a cure for those that a person can mend.
pub(crate) fn explain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::StorageFull => format!("{error}; free some space, or choose another --state-dir"),
        std::io::ErrorKind::PermissionDenied => format!("{error}; use sudo, or choose another --state-dir"),
        std::io::ErrorKind::ReadOnlyFilesystem => format!("{error}; choose another --state-dir"),
        _ => error.to_string(),
    }
}
