//! Sources from git: a repository's commit becomes a folder of files.
//!
//! [`Git::open`] once in a worker's life (it looks for git and clears away what a former life left), then for each source
//! [`Git::fetch`], whose [`Checkout`] is a folder for as long as it lives. This room knows nothing of leases or snapshots.
//!
//! ```text
//! Git::open(folder: &Path) -> Result<Git, GitError>                                          async
//! git.fetch(&Order, &CancellationToken, say: impl FnMut(&str) + Send) -> Result<Checkout, GitError>   async
//! git.resolve(&Order, &CancellationToken) -> Result<(Commit, Option<RefName>), GitError>    async; asks, fetches nothing
//! git.forget(project: ProjectId, repository: Option<&GitUrl>)                                async; mirrors go
//! Checkout { commit, git_ref: Option<RefName>, committed_at: i64 (s) }; checkout.path() -> &Path (subdir applied)
//! ```

mod error;
mod order;

pub use error::GitError;
pub use order::{GitLimits, GitLogin, Order};
