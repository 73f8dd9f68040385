//! What happened in a repository.

use farm_types::{Commit, RefName};
use serde::{Deserialize, Serialize};

/// Something that happened, as rules see it, in the words of no forge. Names and texts in it are whatever people chose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// The ref that it was about, by which the commit is fetched: `refs/heads/main`, `refs/tags/v1`, `refs/pull/7/head`.
    pub git_ref: RefName,
    /// The commit to build.
    pub commit: Commit,
    /// The repository's default branch, if the sender says it.
    #[serde(default)]
    pub default_branch: Option<String>,
    /// The paths that were changed, from the repository's root; `None`: nobody knows (too many, a new branch, a forced push), and
    /// filters by path match.
    #[serde(default)]
    pub changed: Option<Vec<String>>,
    /// The commit's message, for markers that skip builds.
    #[serde(default)]
    pub message: String,
}

/// What kind of thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A branch has moved, or is new.
    Push {
        /// Its name.
        branch: String,
    },
    /// A tag was made, or moved.
    Tag {
        /// Its name.
        tag: String,
    },
    /// A pull request (GitLab: merge request) was opened, or its head moved.
    PullRequest {
        /// Its number in the repository.
        number: u64,
        /// The branch that it is to go to.
        base: String,
        /// The branch that it comes from.
        head: String,
        /// Its head is in another repository.
        fork: bool,
    },
    /// A release was published.
    Release {
        /// Its tag.
        tag: String,
        /// It is marked as one before the release.
        prerelease: bool,
    },
    /// The clock says so.
    Schedule {
        /// The rule's own name for it.
        name: String,
    },
    /// An image that is built upon has moved.
    BaseImage {
        /// `REGISTRY/REPO:TAG`.
        image: String,
    },
}

/// Every kind of event, in the rules' words.
pub const EVENTS: [&str; 6] = ["push", "tag", "pull_request", "release", "schedule", "base_image"];

impl EventKind {
    /// The word of the rules for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Push { .. } => "push",
            Self::Tag { .. } => "tag",
            Self::PullRequest { .. } => "pull_request",
            Self::Release { .. } => "release",
            Self::Schedule { .. } => "schedule",
            Self::BaseImage { .. } => "base_image",
        }
    }
}
