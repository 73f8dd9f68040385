//! Builds by BuildKit: the one place that knows its API.
//!
//! An [`Engine`] is a BuildKit, inside a Docker engine or on its own. [`Engine::solve`] builds one image for
//! one platform: it opens a session (in which *we* are the server of files and credentials, and
//! take what is made for the client), asks for the
//! solve, follows its status, and turns what comes out into farm's words.
//!
//! Invariants: BuildKit's generated types do not leave this folder; every failure has a cause that says
//! whether to try again; nothing that belongs to a solve outlives its future.
//!
//! To serve something more to builds (secrets, SSH): a service in `session`, announced by its method names.

#![allow(clippy::result_large_err, reason = "a failure is made once per build, and is carried, not copied")]

mod address;
mod archive;
mod call;
mod cases;
mod collected;
mod connect;
mod details;
mod disk;
mod docker;
mod elf;
mod engine;
mod failure;
mod filesend;
mod filesync;
mod follow;
mod probe;
mod receive;
mod request;
mod said;
mod session;
mod solve;
mod status;
mod stepname;
mod syntax;
mod times;
mod tree;
mod types;
mod violation;

pub use address::EngineAddress;
pub use elf::probe_executable;
pub use engine::{Engine, EngineDescription, EngineError, EngineKind};
pub use failure::is_unstartable;
pub use tree::{MemoryTree, SourceTree, TreeEntry, TreeKind, path_order};
pub use types::{Export, Login, Missing, Output, OutputPart, Solve, SolveError, Solved};
