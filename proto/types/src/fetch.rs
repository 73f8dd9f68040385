//! Fetches: a worker brings a source from where it lies, and makes a snapshot of it.
//!
//! A fetch is a build of its own purpose, so it has queue, lease, attempts, log, deadlines and cancel as all builds have. It is
//! for no platform, and takes no slot of an engine.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::archive::{ArchiveOrigin, ArchiveSource};
use crate::digest::Digest;
use crate::error::Invalid;
use crate::git::{Commit, GitSource, GitUrl, RefName};
use crate::snapshot::SnapshotRef;

/// So many fetches a worker runs at once, beside what its slots are for.
pub const FETCHES_AT_ONCE: u32 = 4;

/// So many tags are told at most.
pub const MOST_TAGS: usize = 5000;

/// So many branches and tags a look at a repository tells at most.
pub const MOST_REFS: usize = 10_000;
/// So long their names are together at most, bytes.
const MOST_REF_BYTES: usize = 512 * 1024;

/// What is fetched, and what of it becomes the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchSpec {
    /// From where.
    pub source: FetchSource,
    /// What of it.
    #[serde(default)]
    pub take: Take,
}

/// From where a source is fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FetchSource {
    /// From a repository, which is known by its key `repository`.
    Git(GitSource),
    /// From an archive, which is known by its key `archive`.
    Archive(ArchiveSource),
}

impl FetchSource {
    /// The repository, if it is one.
    pub fn git(&self) -> Option<&GitSource> {
        match self {
            Self::Git(source) => Some(source),
            Self::Archive(_) => None,
        }
    }

    /// The archive, if it is one.
    pub fn archive(&self) -> Option<&ArchiveSource> {
        match self {
            Self::Git(_) => None,
            Self::Archive(source) => Some(source),
        }
    }

    /// As others may see it: without the query of an address, in which there often is a signature.
    pub fn shown(&self) -> Self {
        match self {
            Self::Git(source) => Self::Git(source.clone()),
            Self::Archive(source) => Self::Archive(ArchiveSource {
                archive: source.archive.without_query(),
                checksum: source.checksum,
                lfs: source.lfs,
            }),
        }
    }
}

impl From<GitSource> for FetchSource {
    fn from(source: GitSource) -> Self {
        Self::Git(source)
    }
}

impl From<ArchiveSource> for FetchSource {
    fn from(source: ArchiveSource) -> Self {
        Self::Archive(source)
    }
}

/// The address, without what of it is fetched.
impl fmt::Display for FetchSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Git(source) => source.repository.fmt(f),
            Self::Archive(source) => source.archive.fmt(f),
        }
    }
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
    /// Nothing: the root `context` is empty. It is told where branches and tags are ([`Refs`]). The commit that is expected needs no ref
    /// at it.
    Refs,
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
        if let FetchSource::Git(source) = &self.source {
            check_inside("folder", &source.subdir)?;
        }
        match &self.take {
            Take::Build(dockerfile) => check_inside("dockerfile", dockerfile),
            Take::File(path) if path.is_empty() => {
                Err(Invalid::new("file", "", "name it by its path from the folder on"))
            }
            Take::File(path) => check_inside("file", path),
            Take::Refs if self.source.git().is_none() => {
                Err(Invalid::new("take", "refs", "an archive has no branches and tags; name a repository"))
            }
            Take::All | Take::Context | Take::Refs => Ok(()),
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
    pub origin: Origin,
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
    /// With [`Take::Refs`]: where these are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refs: Option<Box<Refs>>,
}

/// Where the branches and tags of a repository are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refs {
    /// The commit of each; of a tag that is an object of its own the one that it is of.
    pub at: BTreeMap<RefName, Commit>,
    /// There are more: these are the first ones by their names.
    #[serde(default)]
    pub is_cut: bool,
    /// The default branch, if the repository says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_branch: Option<String>,
    /// The commit that was expected is one of the repository's: a branch or a tag is at it, or above it.
    #[serde(default)]
    pub has_expected: bool,
}

impl Refs {
    /// Those of these that there is room for.
    pub fn bounded(
        refs: impl IntoIterator<Item = (RefName, Commit)>,
        default_branch: Option<String>,
        has_expected: bool,
    ) -> Self {
        let all: BTreeMap<RefName, Commit> = refs.into_iter().collect();
        let (mut bytes, count) = (0, all.len());
        let has_room = |(name, _): &(RefName, Commit)| {
            bytes += name.as_str().len();
            bytes <= MOST_REF_BYTES
        };
        let at: BTreeMap<RefName, Commit> = all.into_iter().take(MOST_REFS).take_while(has_room).collect();
        Self { is_cut: at.len() < count, at, default_branch, has_expected }
    }
}

/// A root of a fetched snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedRoot {
    /// The tree digest of its folder.
    pub tree: Digest,
    /// The content digest of its folder.
    pub content: Digest,
}

/// From where a source is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Origin {
    /// From a commit of a repository.
    Git(GitOrigin),
    /// From an archive.
    Archive(ArchiveOrigin),
}

impl Origin {
    /// The commit, if it is from one.
    pub fn git(&self) -> Option<&GitOrigin> {
        match self {
            Self::Git(origin) => Some(origin),
            Self::Archive(_) => None,
        }
    }
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
    fn no_more_refs_are_told_than_there_is_room_for() {
        let commit: Commit = "1".repeat(40).parse().unwrap();
        let named =
            |n: usize, length: usize| (format!("refs/tags/{n:0length$}").parse().unwrap(), commit.clone());
        let few = Refs::bounded((0..10).map(|n| named(n, 5)), None, true);
        assert_eq!((few.at.len(), few.is_cut), (10, false));
        let many = Refs::bounded((0..MOST_REFS + 1).map(|n| named(n, 5)), None, true);
        assert_eq!((many.at.len(), many.is_cut), (MOST_REFS, true));
        let long = Refs::bounded((0..1000).map(|n| named(n, 1000)), None, true);
        assert!(long.is_cut && long.at.len() < 600, "{}", long.at.len());
    }

    #[test]
    fn what_is_kept_of_a_source_and_an_origin_says_which_kind_they_are() {
        let git = r#"{"source":{"repository":"https://x.example/a.git","lfs":false},"take":"all"}"#;
        let git: FetchSpec = serde_json::from_str(git).unwrap();
        assert!(git.source.git().is_some());
        let archive = r#"{"source":{"archive":"https://x.example/a.tar?s=1"},"take":"all"}"#;
        let read: FetchSpec = serde_json::from_str(archive).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), archive);
        assert_eq!(
            serde_json::to_string(&read.source.shown()).unwrap(),
            r#"{"archive":"https://x.example/a.tar"}"#
        );
        let digest = Digest::of(b"");
        let origin =
            Origin::Archive(ArchiveOrigin { archive: "https://x.example/a.tar".parse().unwrap(), digest });
        assert_eq!(serde_json::from_value::<Origin>(serde_json::to_value(&origin).unwrap()).unwrap(), origin);
    }

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
