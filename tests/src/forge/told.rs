//! What forges tell of a repository `acme/app`, id 42: as much of their payloads as the farm reads, by their documentation (GitHub and Gitea
//! "Webhook events and payloads", GitLab "Webhook events").

use serde_json::{Value, json};

use super::form::Form;

/// An event, as the forge calls it, and what it posts of it.
#[derive(Debug, Clone)]
pub struct Told {
    pub event: &'static str,
    pub body: Value,
}

/// A pull request's head, and what has happened to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proposed<'a> {
    Opened(&'a str),
    /// It was there before.
    Moved(&'a str, &'a str),
}

/// A repository, cloned by this address.
#[derive(Debug, Clone, Copy)]
pub struct Repo<'a> {
    pub form: Form,
    pub clone_url: &'a str,
}

impl Repo<'_> {
    fn is_gitlab(self) -> bool {
        matches!(self.form, Form::Gitlab | Form::GitlabBare)
    }

    /// Itself, as its forge tells it.
    fn itself(self) -> Value {
        let url = self.clone_url;
        if self.is_gitlab() {
            return json!({"id": 42, "path_with_namespace": "acme/app", "git_http_url": url, "default_branch": "main"});
        }
        json!({"id": 42, "full_name": "acme/app", "clone_url": url, "default_branch": "main"})
    }

    /// A branch was pushed, by ada.
    pub fn push(self, branch: &str, before: &str, after: &str) -> Told {
        let git_ref = format!("refs/heads/{branch}");
        let commit = json!({"id": after, "message": "a change", "added": [], "removed": [], "modified": ["Dockerfile"]});
        if self.is_gitlab() {
            let body = json!({
                "object_kind": "push", "ref": git_ref, "before": before, "after": after, "checkout_sha": after,
                "user_id": 7, "user_name": "Ada", "user_username": "ada", "project_id": 42, "project": self.itself(),
                "commits": [commit], "total_commits_count": 1
            });
            return Told { event: "Push Hook", body };
        }
        let body = json!({
            "ref": git_ref, "before": before, "after": after, "head_commit": commit, "commits": [commit],
            "total_commits": 1, "repository": self.itself(), "sender": {"id": 7, "login": "ada"}
        });
        Told { event: "push", body }
    }

    /// Eve's fork proposes something for `main`.
    pub fn fork(self, number: u64, proposed: Proposed<'_>) -> Told {
        let (head, before) = match proposed {
            Proposed::Opened(head) => (head, None),
            Proposed::Moved(before, head) => (head, Some(before)),
        };
        if self.is_gitlab() {
            let action = if before.is_some() { "update" } else { "open" };
            let mut body = json!({
                "object_kind": "merge_request", "user": {"id": 9, "username": "eve"}, "project": self.itself(),
                "object_attributes": {
                    "iid": number, "action": action, "state": "opened", "title": "Mend it", "author_id": 9,
                    "source_branch": "mend", "target_branch": "main", "source_project_id": 43, "target_project_id": 42,
                    "source": {"path_with_namespace": "eve/app"}, "updated_at": "2026-01-31 12:00:00 UTC",
                    "last_commit": {"id": head, "message": "Mend it"}
                }
            });
            if let Some(before) = before {
                body["object_attributes"]["oldrev"] = before.into();
            }
            return Told { event: "Merge Request Hook", body };
        }
        let action = match (before, self.form) {
            (None, _) => "opened",
            (Some(_), Form::Github) => "synchronize",
            (Some(_), _) => "synchronized",
        };
        let body = json!({
            "action": action, "number": number, "repository": self.itself(), "sender": {"id": 9, "login": "eve"},
            "pull_request": {
                "title": "Mend it", "merged": false, "state": "open", "user": {"id": 9, "login": "eve"},
                "updated_at": "2026-01-31T12:00:00Z",
                "head": {"label": "eve:mend", "ref": "mend", "sha": head, "repo": {"id": 43, "full_name": "eve/app"}},
                "base": {"label": "main", "ref": "main", "sha": "0".repeat(40), "repo": {"id": 42}}
            }
        });
        Told { event: "pull_request", body }
    }

    /// Somebody has commented on a pull request, an hour after what was said of that last.
    pub fn comment(self, who: (u64, &str), number: u64, text: &str) -> Told {
        let (id, login) = who;
        if self.is_gitlab() {
            let body = json!({
                "object_kind": "note", "user": {"id": id, "username": login}, "project": self.itself(),
                "merge_request": {"iid": number},
                "object_attributes": {
                    "note": text, "noteable_type": "MergeRequest", "action": "create", "created_at": "2026-01-31 13:00:00 UTC"
                }
            });
            return Told { event: "Note Hook", body };
        }
        let mut body = json!({
            "action": "created", "issue": {"number": number, "pull_request": {}},
            "comment": {"body": text, "created_at": "2026-01-31T13:00:00Z"},
            "repository": self.itself(), "sender": {"id": id, "login": login}
        });
        if self.form != Form::Github {
            body["is_pull"] = true.into();
        }
        Told { event: "issue_comment", body }
    }

    /// Where the head of a pull request is, in the repository itself.
    pub fn head(self, number: u64) -> String {
        let kind = if self.is_gitlab() { "merge-requests" } else { "pull" };
        format!("refs/{kind}/{number}/head")
    }
}
