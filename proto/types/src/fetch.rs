//! Fetches: a worker brings a source from where it lies, and makes a snapshot of it.
//!
//! A fetch is a build of its own purpose, so it has queue, lease, attempts, log, deadlines and cancel as all builds have. It is
//! for no platform, and takes no slot of an engine.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Invalid;
use crate::git::{Commit, GitSource, GitUrl, RefName};
use crate::snapshot::SnapshotRef;

/// So many fetches a worker runs at once, beside what its slots are for.
pub const FETCHES_AT_ONCE: u32 = 4;

/// So many tags are told at most.
pub const MOST_TAGS: usize = 5000;

/// What is fetched, and what of it becomes the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchSpec {
    /// From where.
    pub source: GitSource,
    /// What of it.
    #[serde(default)]
    pub take: Take,
}

/// What of a fetched source becomes the snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Take {
    /// Everything: the root `context`, whatever an ignore file says.
    #[default]
    All,
    /// One file, by its path from the folder on, whatever an ignore file says: the root `context` with it alone; with nothing, if it isn't
    /// there.
    File(String),
    /// What a named context is: the root `context` without what its `.dockerignore` leaves out.
    Context,
    /// What a build of this Dockerfile (a path from the folder on; empty: the usual one) is made of: the roots `context`, without
    /// what the ignore file of that Dockerfile leaves out, and `dockerfile`.
    Build(String),
}

impl Take {
    /// A Dockerfile of the source, by its path from the folder on.
    ///
    /// # Errors
    /// The path leads out of it.
    pub fn build(dockerfile: &str) -> Result<Self, Invalid> {
        check_inside("dockerfile", dockerfile)?;
        Ok(Self::Build(dockerfile.to_owned()))
    }
}

/// Refuses a path that isn't one from a folder on.
pub(crate) fn check_inside(thing: &str, path: &str) -> Result<(), Invalid> {
    let is_part = |part: &str| !matches!(part, "" | "." | "..");
    if path.is_empty() || path.split('/').all(is_part) && !path.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Invalid::new(thing, path, "write a path within the repository, without . and .. in it"))
}

impl FetchSpec {
    /// Refuses what isn't one.
    ///
    /// # Errors
    /// A path leads out of the repository.
    pub fn check(&self) -> Result<(), Invalid> {
        check_inside("folder", &self.source.subdir)?;
        match &self.take {
            Take::Build(dockerfile) => check_inside("dockerfile", dockerfile),
            Take::File(path) if path.is_empty() => {
                Err(Invalid::new("file", "", "name it by its path from the folder on"))
            }
            Take::File(path) => check_inside("file", path),
            Take::All | Take::Context => Ok(()),
        }
    }
}

/// What a fetch has brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// The snapshot.
    pub snapshot: SnapshotRef,
    /// Its roots, by their names.
    pub roots: BTreeMap<String, FetchedRoot>,
    /// From where it is.
    pub origin: GitOrigin,
    /// The Dockerfile's name in the root `dockerfile`; empty: there is no such root.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dockerfile: String,
    /// How many files it has.
    pub files: u64,
    /// How long these are together, bytes.
    pub bytes: u64,
    /// With [`Take::File`]: the repository's tags whose names look like versions (`v1.2.3`, `2.0`), at most [`MOST_TAGS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// A root of a fetched snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedRoot {
    /// The tree digest of its folder.
    pub tree: Digest,
    /// The content digest of its folder.
    pub content: Digest,
}

/// Where in which repository a source is from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitOrigin {
    /// The repository.
    pub repository: GitUrl,
    /// The ref that led to the commit; `None`: the commit was asked for by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_ref: Option<RefName>,
    /// The commit.
    pub commit: Commit,
    /// When it was committed, seconds since 1970.
    pub committed_at: i64,
    /// The folder; empty: the whole repository.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subdir: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_within_the_repository() {
        for path in ["", "Dockerfile", "docker/web.Dockerfile"] {
            assert!(Take::build(path).is_ok(), "{path}");
        }
        for path in ["/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/", "a\nb"] {
            assert!(Take::build(path).is_err(), "{path}");
        }
    }
}
