//! Sources from git: a repository's commit becomes a folder of files.
//!
//! [`Git::open`] once in a worker's life (it looks for git and clears away what a former life left), then for each source
//! [`Git::fetch`], whose [`Checkout`] is a folder for as long as it lives. This room knows nothing of leases or snapshots.
//!
//! Follow one source: [`guard`] looks its host up and judges the addresses; [`remote`] has the login, asks for [`refs`] and
//! fetches; [`mirrors`] keep what came; [`tree`] writes the files, [`modules`] says where submodules are, and [`kept`] leaves `.git`
//! where it is asked for; [`known`] spares what is as it was. [`program`] is the one place from which git is run, and [`said`] the one that reads what it says.
//!
//! Invariants: git runs no program that a repository names, reads no configuration but ours, and goes to no address that wasn't judged;
//! what comes from a fork ends in no mirror.

mod account;
mod error;
pub(crate) mod guard;
mod kept;
mod known;
mod mirrors;
mod modules;
mod order;
mod program;
mod refs;
mod remote;
mod runner;
#[cfg(test)]
mod runner_tests;
mod said;
#[cfg(test)]
mod server;
mod tree;

pub use error::FetchError;
pub(crate) use error::{disk, trouble, user};
pub use mirrors::Kept;
pub use order::{GitLimits, GitLogin, Order, Spares};
pub use runner::{Checkout, Git, Looked};
