//! GitHub's payloads (docs.github.com, "Webhook events and payloads"), and those of Gitea and Forgejo, which have taken
//! GitHub's form with differences (`modules/structs/hook.go`): what those don't write may be missing here.

use std::collections::BTreeSet;

use farm_rules::{Event, EventKind};
use farm_types::{Invalid, RefName};
use serde::Deserialize;

use crate::checks;
use crate::delivery::{Actor, Delivery, Happened, Outcome, Proposed, PullRequestState, Repository, Source};
use crate::headers::Headers;
use crate::parts::{MOST_PATHS, commit, commit_opt, host, json, message, moment, no_commit, ref_of, told};

/// Whose form it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    Github,
    Gitea,
}

#[derive(Deserialize)]
struct Repo {
    id: u64,
    full_name: String,
    #[serde(default)]
    clone_url: String,
    default_branch: Option<String>,
}

#[derive(Deserialize)]
struct User {
    id: i64,
    login: Option<String>,
    // What older Giteas write.
    username: Option<String>,
}

/// What is common to all that is ignored.
#[derive(Deserialize)]
struct Any {
    repository: Option<Repo>,
    sender: Option<User>,
}

#[derive(Deserialize)]
struct Push {
    #[serde(rename = "ref")]
    git_ref: String,
    before: Option<String>,
    after: String,
    #[serde(default)]
    forced: bool,
    head_commit: Option<HeadCommit>,
    commits: Option<Vec<Changes>>,
    // Gitea cuts the list of commits, and says how many there were.
    total_commits: Option<usize>,
    repository: Repo,
    sender: User,
}

#[derive(Deserialize)]
struct HeadCommit {
    id: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct Changes {
    added: Option<Vec<String>>,
    removed: Option<Vec<String>>,
    modified: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct PullRequestEvent {
    action: String,
    number: u64,
    before: Option<String>,
    pull_request: PullRequest,
    // Of `edited`: what was there before.
    changes: Option<Edited>,
    repository: Repo,
    sender: User,
}

/// What was edited of a pull request, as far as something follows from it: the branch that it is to go to.
#[derive(Deserialize)]
struct Edited {
    base: Option<serde::de::IgnoredAny>,
    // Gitea calls it so.
    #[serde(rename = "ref")]
    base_ref: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct PullRequest {
    // `open` or `closed`.
    state: Option<String>,
    head: Side,
    base: Side,
    #[serde(default)]
    title: String,
    // GitHub and Gitea call it so; in lists it is missing.
    merged: Option<bool>,
    // Of Forgejo: 1 is AGit's.
    flow: Option<i64>,
    // Who has opened it.
    user: Option<User>,
    updated_at: Option<String>,
}

#[derive(Deserialize)]
struct Side {
    #[serde(rename = "ref")]
    branch: String,
    sha: String,
    // A branch's name, of GitHub after its owner's and a colon. Empty of one that isn't a branch.
    label: Option<String>,
    // Null when the fork was deleted.
    repo: Option<RepoId>,
}

#[derive(Deserialize)]
struct RepoId {
    id: u64,
    #[serde(default)]
    full_name: String,
}

#[derive(Deserialize)]
struct ReleaseEvent {
    action: String,
    release: Release,
    repository: Repo,
    sender: User,
}

#[derive(Deserialize)]
struct Release {
    tag_name: String,
    #[serde(default)]
    prerelease: bool,
}

#[derive(Deserialize)]
struct CommentEvent {
    action: String,
    issue: Issue,
    comment: CommentText,
    repository: Repo,
    sender: User,
    // Of Gitea.
    #[serde(default)]
    is_pull: bool,
}

#[derive(Deserialize)]
struct Issue {
    number: u64,
    pull_request: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct CommentText {
    #[serde(default)]
    body: String,
    created_at: Option<String>,
}

impl From<&Repo> for Repository {
    fn from(repo: &Repo) -> Self {
        Self { id: repo.id.to_string(), full_name: repo.full_name.clone(), host: host(&repo.clone_url) }
    }
}

impl From<User> for Actor {
    fn from(user: User) -> Self {
        Self { id: user.id.to_string(), login: user.login.or(user.username).unwrap_or_default() }
    }
}

fn delivery(event: &str, repository: Option<&Repo>, sender: Option<User>, outcome: Outcome) -> Delivery {
    Delivery {
        id: String::new(),
        event: event.to_owned(),
        repository: repository.map(Repository::from),
        actor: sender.map(Actor::from),
        outcome,
    }
}

pub(crate) fn parse(flavour: Flavour, headers: &Headers, body: &[u8]) -> Result<Delivery, Invalid> {
    let names: &[&str] = match flavour {
        Flavour::Github => &["x-github-event"],
        Flavour::Gitea => &["x-forgejo-event", "x-gitea-event"],
    };
    let event = names.iter().find_map(|name| headers.get(name));
    let event = event.ok_or_else(|| {
        let cure = "a delivery says there what happened; does something between the forge and the farm take headers away?";
        Invalid::new("header", names.join(" or "), cure)
    })?;
    match event {
        "push" => push(event, json(body)?),
        "pull_request" | "pull_request_sync" => pull_request(flavour, event, json(body)?),
        "release" => release(event, json(body)?),
        "issue_comment" | "pull_request_comment" => comment(event, json(body)?),
        "check_run" | "check_suite" if flavour == Flavour::Github => {
            let Any { repository, sender } = json(body)?;
            Ok(delivery(event, repository.as_ref(), sender, checks::outcome(event, body)?))
        }
        other => {
            let Any { repository, sender } = json(body)?;
            let outcome = match other {
                "ping" => Outcome::Ping,
                "create" | "delete" => {
                    Outcome::Ignored("the push that comes with it says it, too".to_owned())
                }
                other => Outcome::Ignored(format!("nothing follows from {other}")),
            };
            Ok(delivery(event, repository.as_ref(), sender, outcome))
        }
    }
}

fn push(event: &str, push: Push) -> Result<Delivery, Invalid> {
    let git_ref: RefName = push.git_ref.parse()?;
    let (before, after) = (commit_opt(push.before.as_deref())?, commit(&push.after)?);
    let kind = match (git_ref.branch(), git_ref.tag()) {
        (Some(branch), _) => Some(EventKind::Push { branch: branch.to_owned() }),
        (_, Some(tag)) => Some(EventKind::Tag { tag: tag.to_owned() }),
        (None, None) => None,
    };
    let outcome = match (kind, after) {
        (None, _) => Outcome::Ignored(format!("{git_ref} is neither a branch nor a tag")),
        (_, None) => Outcome::Deleted { git_ref, before },
        (Some(kind), Some(after)) => {
            let is_tag = git_ref.tag().is_some();
            // A tag may be an object of its own; what it is of stands in head_commit.
            let head = push.head_commit.as_ref().filter(|_| is_tag).map(|head| head.id.as_str());
            let after = commit_opt(head)?.unwrap_or(after);
            let changed = if is_tag || push.forced || before.is_none() {
                None
            } else {
                changed(push.commits.as_deref(), push.total_commits)
            };
            let happened = Happened {
                event: Event {
                    kind,
                    git_ref,
                    commit: after,
                    default_branch: push.repository.default_branch.clone(),
                    changed,
                    message: message(push.head_commit.map(|head| head.message).unwrap_or_default()),
                },
                before,
                is_forced: push.forced,
                pull_request: None,
                proposed: Proposed::default(),
            };
            Outcome::Event(Box::new(happened))
        }
    };
    Ok(delivery(event, Some(&push.repository), Some(push.sender), outcome))
}

/// What these commits have changed; `None`: they aren't all, or there are too many.
fn changed(commits: Option<&[Changes]>, total: Option<usize>) -> Option<Vec<String>> {
    let commits = commits?;
    if commits.is_empty() || total.is_some_and(|total| total > commits.len()) || commits.len() >= 2048 {
        return None;
    }
    let mut paths = BTreeSet::new();
    for Changes { added, removed, modified } in commits {
        for some in [added, removed, modified] {
            paths.extend(some.as_ref()?.iter());
        }
    }
    (paths.len() <= MOST_PATHS).then(|| paths.into_iter().cloned().collect())
}

fn pull_request(flavour: Flavour, event: &str, said: PullRequestEvent) -> Result<Delivery, Invalid> {
    let PullRequestEvent { action, number, before, pull_request, changes, repository, sender } = said;
    // The same head for another branch is another proposal: other rules count for it.
    let is_retargeted = changes.is_some_and(|changes| changes.base.is_some() || changes.base_ref.is_some());
    let is_closed = pull_request.state.as_deref() == Some("closed");
    let state = match (flavour, action.as_str()) {
        (_, "edited") if is_retargeted && !is_closed => Some(PullRequestState::Open),
        (_, "opened" | "reopened")
        | (Flavour::Github, "synchronize")
        | (Flavour::Gitea, "synchronized" | "synchronize") => Some(PullRequestState::Open),
        (_, "closed") if pull_request.merged == Some(true) => Some(PullRequestState::Merged),
        (_, "closed") => Some(PullRequestState::Closed),
        _ => None,
    };
    let outcome = match (state, commit(&pull_request.head.sha)?) {
        (None, _) => Outcome::Ignored(format!(
            "nothing follows from {event} {action}: the head and its base are where they were"
        )),
        (_, None) => Outcome::Ignored("the pull request has no head".to_owned()),
        (Some(state), Some(head)) => {
            let is_fork = is_fork(flavour, &pull_request, repository.id);
            let from = pull_request
                .head
                .repo
                .map(|repo| Source { id: repo.id.to_string(), full_name: repo.full_name });
            let proposed = Proposed {
                opener: pull_request.user.map(Actor::from),
                from,
                at: moment(pull_request.updated_at.as_deref()),
            };
            let happened = Happened {
                event: Event {
                    kind: EventKind::PullRequest {
                        number,
                        base: pull_request.base.branch,
                        head: pull_request.head.branch,
                        fork: is_fork,
                    },
                    git_ref: ref_of("pull", &format!("{number}/head"))?,
                    commit: head,
                    default_branch: repository.default_branch.clone(),
                    changed: None,
                    message: message(pull_request.title),
                },
                before: commit_opt(before.as_deref())?,
                is_forced: false,
                pull_request: Some(state),
                proposed,
            };
            Outcome::Event(Box::new(happened))
        }
    };
    Ok(delivery(event, Some(&repository), Some(sender), outcome))
}

/// Whether its head was written by whoever likes to, and not by who may write in the repository.
fn is_fork(flavour: Flavour, of: &PullRequest, repository: u64) -> bool {
    let base = of.base.repo.as_ref().map_or(repository, |repo| repo.id);
    // What was deleted isn't here, wherever it was.
    let is_elsewhere = of.head.repo.as_ref().is_none_or(|repo| repo.id != base) || base != repository;
    // Who may only read proposes something without a fork, too: `git push origin HEAD:refs/for/main` (AGit). Then the repository is its
    // own, and the head is no branch of it: it has no label, and a ref of another kind for a name.
    let is_agit = of.flow == Some(1)
        || of.head.branch.starts_with("refs/")
        || of.head.label.as_deref().is_none_or(str::is_empty);
    is_elsewhere || flavour == Flavour::Gitea && is_agit
}

fn release(event: &str, said: ReleaseEvent) -> Result<Delivery, Invalid> {
    let ReleaseEvent { action, release, repository, sender } = said;
    let outcome = if action == "published" {
        let happened = Happened {
            event: Event {
                git_ref: ref_of("tags", &release.tag_name)?,
                kind: EventKind::Release { tag: release.tag_name, prerelease: release.prerelease },
                // `target_commitish` is a branch, or what counts only where the tag wasn't there before.
                commit: no_commit()?,
                default_branch: repository.default_branch.clone(),
                changed: None,
                message: String::new(),
            },
            before: None,
            is_forced: false,
            pull_request: None,
            proposed: Proposed::default(),
        };
        Outcome::Event(Box::new(happened))
    } else {
        Outcome::Ignored(format!("nothing follows from {event} {action}"))
    };
    Ok(delivery(event, Some(&repository), Some(sender), outcome))
}

fn comment(event: &str, said: CommentEvent) -> Result<Delivery, Invalid> {
    let is_of_pull_request = said.is_pull || said.issue.pull_request.is_some();
    let told = told(said.issue.number, &said.comment.body, said.comment.created_at.as_deref());
    let outcome = match told {
        Some(comment) if said.action == "created" && is_of_pull_request => Outcome::Comment(comment),
        _ => Outcome::Ignored("the comment tells the farm nothing".to_owned()),
    };
    Ok(delivery(event, Some(&said.repository), Some(said.sender), outcome))
}
