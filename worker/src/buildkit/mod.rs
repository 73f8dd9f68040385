//! Builds by BuildKit: the one place that knows its API.
//!
//! An [`Engine`] is a BuildKit, inside a Docker engine or on its own (`engine`). [`Engine::solve`] builds one image for one
//! platform (`solve`): it looks into the `dockerfile`, opens a `session` (in which *we* are the server of files and
//! credentials, and take what is made for the client), asks for the solve, follows its status (`follow`), and turns what
//! comes out into farm's words (`failure`, `types`). A `tree` is a source as the engine is shown it; what an engine fetches by itself,
//! `fetches` says.
//!
//! Invariants: BuildKit's generated types do not leave this folder; every failure has a cause that says
//! whether to try again; nothing that belongs to a solve outlives its future.
//!
//! To serve something more to builds: a service in `session`, announced by its method names.

#![allow(clippy::result_large_err, reason = "a failure is made once per build, and is carried, not copied")]

pub mod content;
mod dockerfile;
mod engine;
mod failure;
mod fetches;
mod follow;
mod public;
mod session;
mod solve;
mod tree;
mod types;

pub use engine::address::EngineAddress;
pub use engine::elf::probe_executable;
pub use engine::{CacheBounds, Dropped, Engine, EngineDescription, EngineError, EngineKind};
pub use failure::is_unstartable;
pub use fetches::{Fetches, Place};
pub use public::Public;
pub use tree::{MemoryTree, SourceTree, TreeEntry, TreeKind, path_order};
pub use types::{
    Agent, AgentAsked, Bound, Bounds, Export, Grant, ImageForm, Images, Lending, LentToken, Login, Looked,
    Missing, Mounted, Output, OutputPart, Seen, Solve, SolveError, Solved, TokenAsked, Tokens,
};
