//! What a delivery says, in the words of no forge.

use chrono::{DateTime, Utc};
use farm_rules::Event;
use farm_types::{Commit, Digest, RefName};

/// What was delivered. Names and texts in it are whatever people chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// What tells it from others of its hook; the same when it comes again.
    pub id: String,
    /// What kind of event it is, in the sender's own word.
    pub event: String,
    /// Which repository it is about; `None`: it is a registry's, or the sender doesn't say (a ping of an
    /// organisation's hook).
    pub repository: Option<Repository>,
    /// Who did it; `None`: the sender doesn't say.
    pub actor: Option<Actor>,
    /// What it means.
    pub outcome: Outcome,
}

/// A repository, as its forge knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// By which it is known there for good.
    pub id: String,
    /// `OWNER/REPO`, as it is called now.
    pub full_name: String,
    /// `HOST[:PORT]`, in small letters, by the address that the sender gives for clones; empty: it gives none.
    pub host: String,
}

/// An account of the forge's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// By which it is known there for good.
    pub id: String,
    /// What it is called now.
    pub login: String,
}

/// What a delivery means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Something happened that rules are asked of.
    Event(Box<Happened>),
    /// A ref isn't there any more.
    Deleted {
        /// Which.
        git_ref: RefName,
        /// Where it was, if the sender says it.
        before: Option<Commit>,
    },
    /// Somebody has told the farm something in a comment.
    Comment(Comment),
    /// Somebody wants what the farm shows at a commit begun anew.
    Again(Again),
    /// Images in a registry have moved.
    Images(Vec<MovedImage>),
    /// The sender tries whether it is heard.
    Ping,
    /// Nothing follows from it.
    Ignored(String),
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happened {
    /// What rules see of it. Its commit is none ([`Commit::is_none`]) where the sender doesn't say it, as GitHub and Gitea don't for a
    /// release: then it is whatever the ref is at.
    pub event: Event,
    /// Where the ref was; `None`: it is new, or the sender doesn't say it.
    pub before: Option<Commit>,
    /// The sender says that the ref was moved to what doesn't follow from where it was.
    pub is_forced: bool,
    /// Of a pull request.
    pub pull_request: Option<PullRequestState>,
    /// The same: who proposes it, as far as the sender says it.
    pub proposed: Proposed,
}

/// Who proposes something, and from where. What the sender doesn't say is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proposed {
    /// The account that has opened it. An empty login: it isn't told.
    pub opener: Option<Actor>,
    /// The repository that its head is in.
    pub from: Option<Source>,
    /// When it was changed last, by the sender's clock.
    pub at: Option<DateTime<Utc>>,
}

/// Where a head is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// By which the forge knows the repository for good.
    pub id: String,
    /// What it is called now; empty: that isn't told.
    pub full_name: String,
}

/// How a pull request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullRequestState {
    Open,
    /// Nothing is to be built any more.
    Closed,
    /// The same, and it is part of its base.
    Merged,
}

/// What was written under a pull request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comment {
    /// `/farm approve [COMMIT [BRANCH]]`: the head may be built. Whether its author may say so has to be asked of the forge.
    Approve {
        /// The pull request's number.
        pull_request: u64,
        /// How the commit's name begins, in hexadecimal digits, if the comment says it.
        commit: Option<String>,
        /// The branch that the head is to go to, if the comment says it.
        base: Option<String>,
        /// When it was written, by the sender's clock, if the sender says it.
        at: Option<DateTime<Utc>>,
    },
}

/// What is to be begun anew, as GitHub tells that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Again {
    /// The id of the App that has made it.
    pub app: String,
    /// At which commit.
    pub commit: Commit,
    /// One check run; `None`: all that the App has made at the commit.
    pub check: Option<AgainCheck>,
}

/// One check run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgainCheck {
    /// What it is called there.
    pub name: String,
    /// By what whoever has made it knows it; empty: that isn't said.
    pub external_id: String,
}

/// An image that has moved, in the hook's registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedImage {
    /// Without the registry.
    pub repository: String,
    pub tag: String,
    /// What the tag points to now, if the registry says it.
    pub digest: Option<Digest>,
}

impl Outcome {
    /// Whether something may follow from it.
    pub fn is_wanted(&self) -> bool {
        !matches!(self, Self::Ping | Self::Ignored(_))
    }
}
