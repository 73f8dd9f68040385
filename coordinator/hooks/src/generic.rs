//! Farm's own form, for whoever has no forge that the farm knows; docs/guide/webhooks.md describes it. What isn't known is an
//! error: this form is ours.

use farm_rules::{Event, EventKind};
use farm_types::{Invalid, RefName};
use serde::Deserialize;

use crate::delivery::{Actor, Delivery, Happened, Outcome, Proposed, PullRequestState, Repository};
use crate::parts::{MOST_PATHS, commit, commit_opt, json, message};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    #[serde(rename = "type")]
    kind: Kind,
    // Of all but a ping.
    repository: Option<OwnRepository>,
    actor: Option<OwnActor>,
    #[serde(rename = "ref")]
    git_ref: Option<String>,
    commit: Option<String>,
    before: Option<String>,
    default_branch: Option<String>,
    changed: Option<Vec<String>>,
    #[serde(default)]
    message: String,
    #[serde(default)]
    forced: bool,
    pull_request: Option<OwnPullRequest>,
    #[serde(default)]
    prerelease: bool,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Ping,
    Push,
    Delete,
    PullRequest,
    Release,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Push => "push",
            Self::Delete => "delete",
            Self::PullRequest => "pull_request",
            Self::Release => "release",
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnRepository {
    id: String,
    name: String,
    #[serde(default)]
    host: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnActor {
    id: String,
    login: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnPullRequest {
    number: u64,
    base: String,
    head: String,
    // Whoever doesn't know says nothing, and then it is taken for one.
    #[serde(default = "yes")]
    fork: bool,
    #[serde(default)]
    state: State,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum State {
    #[default]
    Open,
    Closed,
    Merged,
}

fn missing(field: &str, kind: Kind) -> Invalid {
    Invalid::new(field, "", format!("a body of type {} needs it", kind.as_str()))
}

pub(crate) fn parse(body: &[u8]) -> Result<Delivery, Invalid> {
    let said: Body = json(body)?;
    let kind = said.kind;
    let repository = said.repository.map(|of| Repository {
        id: of.id,
        full_name: of.name,
        host: of.host.to_ascii_lowercase(),
    });
    let is_named = repository.as_ref().map(|repository| !repository.id.is_empty());
    if !is_named.unwrap_or(kind == Kind::Ping) {
        return Err(missing("repository.id", kind));
    }
    let actor = said.actor.map(|actor| Actor { id: actor.id, login: actor.login });
    let done =
        |outcome| Delivery { id: String::new(), event: kind.as_str().to_owned(), repository, actor, outcome };
    if kind == Kind::Ping {
        return Ok(done(Outcome::Ping));
    }
    let git_ref: RefName = said.git_ref.ok_or_else(|| missing("ref", kind))?.parse()?;
    let before = commit_opt(said.before.as_deref())?;
    if kind == Kind::Delete {
        return Ok(done(Outcome::Deleted { git_ref, before }));
    }
    let commit = commit(&said.commit.ok_or_else(|| missing("commit", kind))?)?;
    let commit = commit.ok_or_else(|| {
        Invalid::new("commit", "0000000", "it names no commit; a ref that is gone is type delete")
    })?;
    let tag = || {
        let tag = git_ref.tag().map(ToOwned::to_owned);
        tag.ok_or_else(|| Invalid::new("ref", git_ref.as_str(), "a release is of a tag: refs/tags/TAG"))
    };
    let mut state = None;
    let kind = match kind {
        Kind::PullRequest => {
            let of = said.pull_request.ok_or_else(|| missing("pull_request", kind))?;
            state = Some(match of.state {
                State::Open => PullRequestState::Open,
                State::Closed => PullRequestState::Closed,
                State::Merged => PullRequestState::Merged,
            });
            EventKind::PullRequest { number: of.number, base: of.base, head: of.head, fork: of.fork }
        }
        Kind::Release => EventKind::Release { tag: tag()?, prerelease: said.prerelease },
        Kind::Push | Kind::Ping | Kind::Delete => match (git_ref.branch(), git_ref.tag()) {
            (Some(branch), _) => EventKind::Push { branch: branch.to_owned() },
            (_, Some(tag)) => EventKind::Tag { tag: tag.to_owned() },
            (None, None) => {
                let cure = "write refs/heads/BRANCH or refs/tags/TAG";
                return Err(Invalid::new("ref", git_ref.as_str(), cure));
            }
        },
    };
    let event = Event {
        kind,
        git_ref,
        commit,
        default_branch: said.default_branch,
        changed: said.changed.filter(|paths| paths.len() <= MOST_PATHS && !said.forced),
        message: message(said.message),
    };
    let happened = Happened {
        event,
        before,
        is_forced: said.forced,
        pull_request: state,
        proposed: Proposed::default(),
    };
    Ok(done(Outcome::Event(Box::new(happened))))
}
