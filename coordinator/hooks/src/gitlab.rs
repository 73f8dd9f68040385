//! GitLab's payloads (docs.gitlab.com, "Webhook events").

use std::collections::BTreeSet;

use farm_rules::{Event, EventKind};
use farm_types::{Invalid, RefName};
use serde::Deserialize;

use crate::delivery::{Actor, Delivery, Happened, Outcome, Proposed, PullRequestState, Repository, Source};
use crate::headers::Headers;
use crate::parts::{MOST_PATHS, commit, commit_opt, host, json, message, moment, no_commit, ref_of, told};

#[derive(Deserialize)]
struct Project {
    id: u64,
    path_with_namespace: String,
    #[serde(default)]
    git_http_url: String,
    default_branch: Option<String>,
}

/// Of all but pushes.
#[derive(Deserialize)]
struct User {
    id: i64,
    #[serde(default)]
    username: String,
}

#[derive(Deserialize)]
struct Any {
    project: Option<Project>,
    user: Option<User>,
}

#[derive(Deserialize)]
struct Push {
    object_kind: String,
    #[serde(rename = "ref")]
    git_ref: String,
    before: Option<String>,
    after: String,
    // The commit, also where the tag is an object of its own; null when the ref was deleted.
    checkout_sha: Option<String>,
    user_id: i64,
    // `user_name` and `user_email` are what people chose.
    #[serde(default)]
    user_username: String,
    project: Project,
    #[serde(default)]
    commits: Vec<Changes>,
    total_commits_count: Option<usize>,
}

#[derive(Deserialize)]
struct Changes {
    id: String,
    #[serde(default)]
    message: String,
    added: Option<Vec<String>>,
    removed: Option<Vec<String>>,
    modified: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct MergeRequestEvent {
    object_kind: String,
    user: User,
    project: Project,
    object_attributes: MergeRequest,
    changes: Option<Edited>,
}

/// What was changed of a merge request, as far as something follows from it.
#[derive(Deserialize)]
struct Edited {
    // The branch that it is to go to.
    target_branch: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct MergeRequest {
    iid: u64,
    // Missing where nobody did anything to it, as for a pipeline.
    #[serde(default)]
    action: String,
    // `opened`, or how it ended.
    state: Option<String>,
    // Where its head was; it moved only if this is here.
    oldrev: Option<String>,
    source_branch: String,
    target_branch: String,
    source_project_id: Option<u64>,
    target_project_id: u64,
    // The fork, if it is there.
    source: Option<SourceProject>,
    // By whom it was opened; `user` is who did this.
    author_id: Option<i64>,
    updated_at: Option<String>,
    last_commit: Option<LastCommit>,
    #[serde(default)]
    title: String,
}

#[derive(Deserialize)]
struct SourceProject {
    #[serde(default)]
    path_with_namespace: String,
}

#[derive(Deserialize)]
struct LastCommit {
    id: String,
    message: Option<String>,
}

#[derive(Deserialize)]
struct ReleaseEvent {
    object_kind: String,
    action: String,
    tag: String,
    project: Project,
    commit: Option<LastCommit>,
}

#[derive(Deserialize)]
struct NoteEvent {
    object_kind: String,
    user: User,
    project: Project,
    object_attributes: Note,
    merge_request: Option<Iid>,
}

#[derive(Deserialize)]
struct Note {
    #[serde(default)]
    note: String,
    created_at: Option<String>,
    // Missing in older ones, which send what is new only.
    action: Option<String>,
}

#[derive(Deserialize)]
struct Iid {
    iid: u64,
}

impl From<&Project> for Repository {
    fn from(project: &Project) -> Self {
        Self {
            id: project.id.to_string(),
            full_name: project.path_with_namespace.clone(),
            host: host(&project.git_http_url),
        }
    }
}

impl From<User> for Actor {
    fn from(user: User) -> Self {
        Self { id: user.id.to_string(), login: user.username }
    }
}

fn delivery(event: &str, project: Option<&Project>, actor: Option<Actor>, outcome: Outcome) -> Delivery {
    let repository = project.map(Repository::from);
    Delivery { id: String::new(), event: event.to_owned(), repository, actor, outcome }
}

pub(crate) fn parse(headers: &Headers, body: &[u8]) -> Result<Delivery, Invalid> {
    let event = headers.get("x-gitlab-event").ok_or_else(|| {
        let cure = "a delivery says there what happened; does something between the forge and the farm take headers away?";
        Invalid::new("header", "x-gitlab-event", cure)
    })?;
    match event {
        "Push Hook" => push(event, json(body)?, "push"),
        "Tag Push Hook" => push(event, json(body)?, "tag_push"),
        "Merge Request Hook" => merge_request(event, json(body)?),
        "Release Hook" => release(event, json(body)?),
        "Note Hook" => note(event, json(body)?),
        other => {
            let Any { project, user } = json(body)?;
            let outcome = match other {
                "ping" => Outcome::Ping,
                other => Outcome::Ignored(format!("nothing follows from {other}")),
            };
            Ok(delivery(event, project.as_ref(), user.map(Actor::from), outcome))
        }
    }
}

/// The body has to be of the kind that the header says, as it alone is signed.
fn is_kind(said: &str, kind: &str) -> Result<(), Invalid> {
    if said == kind {
        return Ok(());
    }
    let said: String = said.chars().take(64).collect();
    Err(Invalid::new("object_kind", said, format!("the delivery's header says that it is {kind}")))
}

fn push(event: &str, push: Push, kind: &str) -> Result<Delivery, Invalid> {
    is_kind(&push.object_kind, kind)?;
    let git_ref: RefName = push.git_ref.parse()?;
    let before = commit_opt(push.before.as_deref())?;
    let after = commit(&push.after)?;
    let kind = match (git_ref.branch(), git_ref.tag()) {
        (Some(branch), _) => Some(EventKind::Push { branch: branch.to_owned() }),
        (_, Some(tag)) => Some(EventKind::Tag { tag: tag.to_owned() }),
        (None, None) => None,
    };
    let outcome = match (kind, after) {
        (None, _) => Outcome::Ignored(format!("{git_ref} is neither a branch nor a tag")),
        (_, None) => Outcome::Deleted { git_ref, before },
        (Some(kind), Some(after)) => {
            let head = commit_opt(push.checkout_sha.as_deref())?.unwrap_or(after);
            let is_new = git_ref.tag().is_some() || before.is_none();
            let changed = if is_new { None } else { changed(&push.commits, push.total_commits_count) };
            let text = push.commits.iter().find(|one| one.id == head.as_str()).map(|one| one.message.clone());
            let happened = Happened {
                event: Event {
                    kind,
                    git_ref,
                    commit: head,
                    default_branch: push.project.default_branch.clone(),
                    changed,
                    message: message(text.unwrap_or_default()),
                },
                before,
                // GitLab doesn't say it.
                is_forced: false,
                pull_request: None,
                proposed: Proposed::default(),
            };
            Outcome::Event(Box::new(happened))
        }
    };
    let actor = Actor { id: push.user_id.to_string(), login: push.user_username };
    Ok(delivery(event, Some(&push.project), Some(actor), outcome))
}

/// What these commits have changed; `None`: they aren't all (GitLab lists 20), or none.
fn changed(commits: &[Changes], total: Option<usize>) -> Option<Vec<String>> {
    if commits.is_empty() || total.is_none_or(|total| total > commits.len()) {
        return None;
    }
    let mut paths = BTreeSet::new();
    for Changes { added, removed, modified, .. } in commits {
        for some in [added, removed, modified] {
            paths.extend(some.as_ref()?.iter());
        }
    }
    (paths.len() <= MOST_PATHS).then(|| paths.into_iter().cloned().collect())
}

fn merge_request(event: &str, said: MergeRequestEvent) -> Result<Delivery, Invalid> {
    is_kind(&said.object_kind, "merge_request")?;
    let MergeRequestEvent { user, project, object_attributes: of, changes, .. } = said;
    let before = commit_opt(of.oldrev.as_deref())?;
    let is_retargeted = changes.is_some_and(|changes| changes.target_branch.is_some());
    let is_over = of.state.as_deref().is_some_and(|state| state != "opened");
    let state = match of.action.as_str() {
        "open" | "reopen" => Some(PullRequestState::Open),
        "update" if before.is_some() => Some(PullRequestState::Open),
        // The same head for another branch is another proposal: other rules count for it.
        "update" if is_retargeted && !is_over => Some(PullRequestState::Open),
        "close" => Some(PullRequestState::Closed),
        "merge" => Some(PullRequestState::Merged),
        _ => None,
    };
    let head = commit_opt(of.last_commit.as_ref().map(|last| last.id.as_str()))?;
    let outcome = match (state, head) {
        (None, _) => Outcome::Ignored(format!(
            "nothing follows from merge request {}: the head and its branches are where they were",
            of.action
        )),
        (_, None) => Outcome::Ignored("the merge request has no commit".to_owned()),
        (Some(state), Some(head)) => {
            let is_fork =
                of.source_project_id != Some(of.target_project_id) || of.target_project_id != project.id;
            let name = of.source.map(|source| source.path_with_namespace).unwrap_or_default();
            let opener = of.author_id.map(|id| {
                let login = if id == user.id { user.username.clone() } else { String::new() };
                Actor { id: id.to_string(), login }
            });
            let proposed = Proposed {
                opener,
                from: of.source_project_id.map(|id| Source { id: id.to_string(), full_name: name }),
                at: moment(of.updated_at.as_deref()),
            };
            let happened = Happened {
                event: Event {
                    kind: EventKind::PullRequest {
                        number: of.iid,
                        base: of.target_branch,
                        head: of.source_branch,
                        fork: is_fork,
                    },
                    git_ref: ref_of("merge-requests", &format!("{}/head", of.iid))?,
                    commit: head,
                    default_branch: project.default_branch.clone(),
                    changed: None,
                    message: message(of.last_commit.and_then(|last| last.message).unwrap_or(of.title)),
                },
                before,
                is_forced: false,
                pull_request: Some(state),
                proposed,
            };
            Outcome::Event(Box::new(happened))
        }
    };
    Ok(delivery(event, Some(&project), Some(user.into()), outcome))
}

fn release(event: &str, said: ReleaseEvent) -> Result<Delivery, Invalid> {
    is_kind(&said.object_kind, "release")?;
    let ReleaseEvent { action, tag, project, commit, .. } = said;
    let outcome = if action == "create" {
        let known = commit_opt(commit.as_ref().map(|commit| commit.id.as_str()))?;
        let happened = Happened {
            event: Event {
                git_ref: ref_of("tags", &tag)?,
                kind: EventKind::Release { tag, prerelease: false },
                commit: known.map_or_else(no_commit, Ok)?,
                default_branch: project.default_branch.clone(),
                changed: None,
                message: message(commit.and_then(|commit| commit.message).unwrap_or_default()),
            },
            before: None,
            is_forced: false,
            pull_request: None,
            proposed: Proposed::default(),
        };
        Outcome::Event(Box::new(happened))
    } else {
        Outcome::Ignored(format!("nothing follows from release {action}"))
    };
    // Who made it GitLab doesn't say.
    Ok(delivery(event, Some(&project), None, outcome))
}

fn note(event: &str, said: NoteEvent) -> Result<Delivery, Invalid> {
    is_kind(&said.object_kind, "note")?;
    let NoteEvent { user, project, object_attributes, merge_request, .. } = said;
    let is_new = object_attributes.action.as_deref().is_none_or(|action| action == "create");
    let told = merge_request
        .filter(|_| is_new)
        .and_then(|of| told(of.iid, &object_attributes.note, object_attributes.created_at.as_deref()));
    let outcome = told
        .map_or_else(|| Outcome::Ignored("the comment tells the farm nothing".to_owned()), Outcome::Comment);
    Ok(delivery(event, Some(&project), Some(user.into()), outcome))
}
