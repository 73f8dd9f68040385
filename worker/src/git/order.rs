//! What is to be fetched, by which login, and how much of it at most.

use std::fmt;
use std::time::Duration;

use farm_types::git::GitSource;
use farm_types::{GitPlace, ProjectId};
use zeroize::Zeroizing;

use crate::buildkit::Fetches;

/// A source to fetch.
#[derive(Debug)]
pub struct Order {
    /// What.
    pub source: GitSource,
    /// Whose it is: mirrors are a project's own.
    pub project: ProjectId,
    /// The login at the repository's host. It is shown to that host only.
    pub login: Option<GitLogin>,
    /// The repositories that it is for; `None`: the source's own only.
    pub login_for: Option<GitPlace>,
    /// It comes from a fork: nothing of it stays in the project's mirror.
    pub throw_away: bool,
    /// Where git may go: as engines may, by the same lists. `http://` is for what is named open there only.
    pub reach: Fetches,
    /// How much at most.
    pub limits: GitLimits,
    /// Files that the farm was sent before need not be written ([`Checkout::known`](super::Checkout)); `None`: all are.
    pub spares: Option<Spares>,
}

/// Which of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spares {
    /// The path of the Dockerfile, if it was named; else empty.
    pub dockerfile: String,
    /// Only such of sources without pointers of Git LFS.
    pub no_pointers: bool,
}

/// A login at a host of repositories. It isn't printed, and is wiped from memory when dropped.
#[derive(Clone)]
pub enum GitLogin {
    /// Of `https`: a name and a password or token.
    Token {
        /// The user's name; forges take any for a token.
        username: String,
        /// The password or token.
        password: Zeroizing<String>,
    },
    /// Of `ssh`: a deploy key.
    Key {
        /// The private key as OpenSSH writes it, without a passphrase.
        pem: Zeroizing<String>,
        /// The host's keys, as lines of `known_hosts`(sshd(8)): `HOST KIND KEY`, `[HOST]:PORT KIND KEY`.
        known_hosts: String,
    },
}

impl fmt::Debug for GitLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token { .. } => "Token",
            Self::Key { .. } => "Key",
        })
    }
}

/// How much of a repository is fetched at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GitLimits {
    /// Bytes: of what comes over the network, and again of the files.
    pub bytes: u64,
    /// Files, links and submodules.
    pub files: u64,
    /// For all of it.
    pub time: Duration,
}

impl Default for GitLimits {
    /// 2 GiB, 200,000 files, 5 minutes.
    fn default() -> Self {
        Self { bytes: 2 << 30, files: 200_000, time: Duration::from_secs(300) }
    }
}
