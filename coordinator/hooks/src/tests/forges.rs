//! What GitHub, GitLab, Gitea and Forgejo send.

use farm_rules::EventKind;
use serde_json::{Value, json};

use super::*;
use crate::{About, Again, AgainCheck, Comment, Expected, PullRequestState, Source, about};

/// A repository in GitHub's form.
fn repository(id: u64) -> Value {
    json!({"id": id, "full_name": "acme/app", "clone_url": "https://Git.example/acme/app.git", "default_branch": "main", "private": true})
}

fn sender() -> Value {
    json!({"id": 7, "login": "ada", "type": "User"})
}

/// A push in GitHub's form, whose commits say that somebody else wrote them.
fn push(git_ref: &str, before: &str, after: &str) -> Value {
    let author = json!({"name": "root", "email": "root@acme.example", "username": "root"});
    let commit = json!({
        "id": after, "message": "Mend it", "author": author, "committer": author,
        "added": ["new"], "removed": [], "modified": ["src/lib.rs", "new"]
    });
    let gone = after == ZERO;
    json!({
        "ref": git_ref, "before": before, "after": after, "created": before == ZERO, "deleted": gone, "forced": false,
        "head_commit": if gone { Value::Null } else { commit.clone() },
        "commits": if gone { json!([]) } else { json!([commit]) },
        "repository": repository(42), "sender": sender(), "pusher": {"name": "root", "email": "root@acme.example"}
    })
}

fn pull_request(action: &str, head: Value) -> Value {
    json!({
        "action": action, "number": 5, "repository": repository(42), "sender": sender(),
        "pull_request": {
            "title": "Mend it", "merged": false, "user": {"id": 1, "login": "mallory"},
            "head": {"label": "mend", "ref": "mend", "sha": B, "repo": head},
            "base": {"label": "main", "ref": "main", "sha": A, "repo": repository(42)}
        }
    })
}

const HUBS: [Provider; 3] = [Provider::Github, Provider::Gitea, Provider::Forgejo];

#[test]
fn a_push_is_of_its_repository_ref_commit_and_the_forges_account() {
    for provider in HUBS {
        let of = |body: &Value| golden(&read(provider, "push", body).unwrap());
        assert_eq!(
            of(&push("refs/heads/main", A, B)),
            "git.example#42 push:refs/heads/main 2222 own by 7:ada"
        );
        let pushed = happened(read(provider, "push", &push("refs/heads/a/b", A, B)).unwrap());
        assert_eq!(pushed.event.changed.unwrap(), ["new", "src/lib.rs"]);
        assert_eq!((pushed.event.message.as_str(), pushed.before.unwrap().as_str()), ("Mend it", A));
        assert!(matches!(pushed.event.kind, EventKind::Push { branch } if branch == "a/b"));
        // A new branch: what it has changed nobody knows.
        let new = happened(read(provider, "push", &push("refs/heads/new", ZERO, B)).unwrap());
        assert_eq!((new.before, new.event.changed), (None, None));
        // A tag that is an object of its own is of the commit in head_commit.
        let mut tag = push("refs/tags/v1", ZERO, A);
        tag["head_commit"]["id"] = B.into();
        assert_eq!(of(&tag), "git.example#42 tag:refs/tags/v1 2222 own by 7:ada");
        let mut forced = push("refs/heads/main", A, B);
        forced["forced"] = true.into();
        assert_eq!(of(&forced), "git.example#42 push:refs/heads/main 2222 own forced by 7:ada");
        assert_eq!(happened(read(provider, "push", &forced).unwrap()).event.changed, None);
        let gone = read(provider, "push", &push("refs/heads/main", A, ZERO)).unwrap();
        assert!(matches!(gone.outcome, Outcome::Deleted { before: Some(_), .. }), "{gone:?}");
        let notes = read(provider, "push", &push("refs/notes/x", A, B)).unwrap();
        assert!(!notes.outcome.is_wanted());
    }
    // Gitea lists some of the commits only.
    let mut many = push("refs/heads/main", A, B);
    many["total_commits"] = 31.into();
    assert_eq!(happened(read(Provider::Gitea, "push", &many).unwrap()).event.changed, None);
}

#[test]
fn a_pull_request_is_a_fork_s_unless_its_head_is_in_the_same_repository() {
    for (provider, moved) in [
        (Provider::Github, "synchronize"),
        (Provider::Gitea, "synchronized"),
        (Provider::Forgejo, "synchronized"),
    ] {
        let of = |action, head| golden(&read(provider, "pull_request", &pull_request(action, head)).unwrap());
        for action in ["opened", "reopened", moved] {
            let own = of(action, repository(42));
            assert_eq!(own, "git.example#42 pull_request:refs/pull/5/head 2222 own Open by 7:ada");
        }
        assert!(of("opened", repository(43)).contains(" fork Open by 7:ada"));
        // A fork that was deleted since.
        assert!(of("opened", Value::Null).contains(" fork "));
        assert!(of("closed", repository(42)).contains(" own Closed "));
        let mut merged = pull_request("closed", repository(42));
        merged["pull_request"]["merged"] = true.into();
        let merged = happened(read(provider, "pull_request", &merged).unwrap());
        assert_eq!(merged.pull_request, Some(PullRequestState::Merged));
        for action in ["labeled", "edited", "assigned", "review_requested"] {
            let said = read(provider, "pull_request", &pull_request(action, repository(42))).unwrap();
            assert!(!said.outcome.is_wanted(), "{said:?}");
        }
        // For another branch other rules count: it is proposed anew. Gitea calls that `ref`.
        let edited = |changes: Value| {
            let mut body = pull_request("edited", repository(43));
            body["changes"] = changes;
            body
        };
        for moved in
            [json!({"base": {"ref": {"from": "old"}, "sha": {"from": A}}}), json!({"ref": {"from": "old"}})]
        {
            assert!(of_body(provider, &edited(moved.clone())).contains(" fork Open by 7:ada"));
            let mut closed = edited(moved);
            closed["pull_request"]["state"] = "closed".into();
            assert!(!read(provider, "pull_request", &closed).unwrap().outcome.is_wanted());
        }
        let title = edited(json!({"title": {"from": "Mend"}, "base": null}));
        assert!(!read(provider, "pull_request", &title).unwrap().outcome.is_wanted());
    }
}

fn of_body(provider: Provider, body: &Value) -> String {
    golden(&read(provider, "pull_request", body).unwrap())
}

/// What Gitea and Forgejo say of `git push origin HEAD:refs/for/main -o topic=mend`, which whoever may read may do: the head is in the
/// repository itself, at no branch of it.
fn agit() -> Value {
    let mut body = pull_request("opened", repository(42));
    body["pull_request"]["head"] =
        json!({"label": "", "ref": "refs/pull/5/head", "sha": B, "repo_id": 42, "repo": repository(42)});
    body["pull_request"]["flow"] = 1.into();
    body
}

#[test]
fn what_was_proposed_without_a_fork_by_who_may_only_read_is_a_fork_s_all_the_same() {
    for provider in [Provider::Gitea, Provider::Forgejo] {
        let of = |body: &Value| golden(&read(provider, "pull_request", body).unwrap());
        assert_eq!(of(&agit()), "git.example#42 pull_request:refs/pull/5/head 2222 fork Open by 7:ada");
        let mut moved = agit();
        moved["action"] = "synchronized".into();
        assert!(of(&moved).contains(" fork Open "));
        // Each sign of it is enough, as not every version has all of them.
        let own = || pull_request("opened", repository(42));
        assert!(of(&own()).contains(" own Open "));
        for (name, value) in
            [("ref", "refs/pull/5/head".into()), ("label", "".into()), ("label", Value::Null)]
        {
            let mut body = own();
            body["pull_request"]["head"][name] = value;
            assert!(of(&body).contains(" fork Open "), "{name}");
        }
        let mut body = own();
        body["pull_request"]["flow"] = 1.into();
        assert!(of(&body).contains(" fork Open "));
        body["pull_request"]["flow"] = 0.into();
        assert!(of(&body).contains(" own Open "));
    }
}

#[test]
fn releases_comments_and_all_else_of_hubs() {
    let body = |action: &str| {
        json!({
            "action": action, "repository": repository(42), "sender": sender(),
            "release": {"tag_name": "v1.0-rc1", "prerelease": true, "draft": false, "target_commitish": "main"}
        })
    };
    let comment = |text: &str, pull: Value| {
        json!({
            "action": "created", "repository": repository(42), "sender": sender(),
            "issue": {"number": 5, "pull_request": pull}, "comment": {"body": text, "user": {"id": 7, "login": "ada"}}
        })
    };
    for provider in HUBS {
        let released = read(provider, "release", &body("published")).unwrap();
        assert_eq!(golden(&released), "git.example#42 release:refs/tags/v1.0-rc1 0000 own by 7:ada");
        assert!(happened(released).event.commit.is_none());
        assert!(!read(provider, "release", &body("edited")).unwrap().outcome.is_wanted());

        let said = |text, pull| read(provider, "issue_comment", &comment(text, pull)).unwrap().outcome;
        let approve = |commit: Option<&str>, base: Option<&str>| {
            Outcome::Comment(Comment::Approve {
                pull_request: 5,
                commit: commit.map(ToOwned::to_owned),
                base: base.map(ToOwned::to_owned),
                at: None,
            })
        };
        let pull = || json!({"url": "https://git.example/api"});
        assert_eq!(said("/farm approve", pull()), approve(None, None));
        assert_eq!(said(" /farm  approve 2222222A \r\nlooks good", pull()), approve(Some("2222222a"), None));
        assert_eq!(
            said("/farm approve 2222222 release/v1", pull()),
            approve(Some("2222222"), Some("release/v1"))
        );
        for other in [
            "please /farm approve",
            "/farm approve now please",
            "/farm approve ../x",
            "/farm approve 2222222 ../x",
            "/farm approve 2222222 main please",
            "> /farm approve",
            "",
        ] {
            assert!(!said(other, pull()).is_wanted(), "{other}");
        }
        assert!(!said("/farm approve", Value::Null).is_wanted(), "an issue");

        // What the push says, too, isn't done twice.
        let create =
            json!({"ref": "v1", "ref_type": "tag", "repository": repository(42), "sender": sender()});
        for event in ["create", "delete", "star", "workflow_run"] {
            assert!(!read(provider, event, &create).unwrap().outcome.is_wanted(), "{event}");
        }
    }
    let ping =
        read(Provider::Github, "ping", &json!({"zen": "…", "hook_id": 1, "sender": sender()})).unwrap();
    assert_eq!(ping.outcome, Outcome::Ping);
}

#[test]
fn who_wants_a_check_of_github_s_begun_anew_is_heard_and_of_no_other_forge() {
    let said = |event: &str, action: &str| {
        let app = json!({"id": 7, "slug": "farm"});
        let suite = json!({"id": 4, "head_sha": A, "head_branch": "main", "app": app.clone()});
        let run = json!({"id": 3, "name": "farm/app", "head_sha": A, "external_id": "farm 1", "check_suite": suite.clone(), "app": app});
        let mut body = json!({"action": action, "repository": repository(42), "sender": sender()});
        body[event] = if event == "check_run" { run } else { suite };
        body
    };
    let of = |provider, event: &str, body: &Value| read(provider, event, body).unwrap().outcome;
    let again = |check| Outcome::Again(Again { app: "7".to_owned(), commit: A.parse().unwrap(), check });
    let check = AgainCheck { name: "farm/app".to_owned(), external_id: "farm 1".to_owned() };
    let github = Provider::Github;
    assert_eq!(of(github, "check_run", &said("check_run", "rerequested")), again(Some(check)));
    assert_eq!(of(github, "check_suite", &said("check_suite", "rerequested")), again(None));
    for event in ["check_run", "check_suite"] {
        for action in ["created", "completed", "requested", "requested_action"] {
            let ignored = Outcome::Ignored(format!("nothing follows from {event} {action}"));
            assert_eq!(of(github, event, &said(event, action)), ignored);
        }
        let mut nobodys = said(event, "rerequested");
        nobodys[event]["app"] = Value::Null;
        assert!(matches!(of(github, event, &nobodys), Outcome::Ignored(_)));
        assert!(matches!(of(Provider::Gitea, event, &said(event, "rerequested")), Outcome::Ignored(_)));
    }
    assert!(read(github, "check_run", &json!({"action": 1, "repository": repository(42)})).is_err());
}

fn project(id: u64) -> Value {
    json!({
        "id": id, "path_with_namespace": "acme/group/app", "git_http_url": "https://gitlab.example:8443/acme/group/app.git",
        "default_branch": "main"
    })
}

fn gitlab_push(kind: &str, git_ref: &str, before: &str, after: &str, checkout: Value) -> Value {
    json!({
        "object_kind": kind, "ref": git_ref, "before": before, "after": after, "checkout_sha": checkout,
        "user_id": 7, "user_name": "root", "user_username": "ada", "user_email": "root@acme.example",
        "project_id": 42, "project": project(42), "total_commits_count": 1,
        "commits": [{"id": after, "message": "Mend it", "author": {"name": "root"}, "added": [], "modified": ["a"], "removed": ["b"]}]
    })
}

fn merge_request(action: &str, oldrev: Option<&str>, source: Value) -> Value {
    let mut body = json!({
        "object_kind": "merge_request", "user": {"id": 7, "name": "Root", "username": "ada"}, "project": project(42),
        "object_attributes": {
            "iid": 5, "id": 900, "action": action, "source_branch": "mend", "target_branch": "main", "title": "Mend it",
            "source_project_id": source, "target_project_id": 42, "author_id": 1,
            "last_commit": {"id": B, "message": "Mend it [skip farm]", "author": {"name": "root", "email": "root@acme.example"}}
        }
    });
    if let Some(oldrev) = oldrev {
        body["object_attributes"]["oldrev"] = oldrev.into();
    }
    body
}

#[test]
fn gitlab_says_the_same_in_its_own_words() {
    let lab = |event: &str, body: &Value| read(Provider::Gitlab, event, body);
    let pushed = gitlab_push("push", "refs/heads/main", A, B, B.into());
    let pushed = lab("Push Hook", &pushed).unwrap();
    assert_eq!(golden(&pushed), "gitlab.example:8443#42 push:refs/heads/main 2222 own by 7:ada");
    let event = happened(pushed).event;
    assert_eq!(
        (event.changed.unwrap(), event.message.as_str()),
        (vec!["a".to_owned(), "b".to_owned()], "Mend it")
    );
    let mut more = gitlab_push("push", "refs/heads/main", A, B, B.into());
    more["total_commits_count"] = 21.into();
    assert_eq!(happened(lab("Push Hook", &more).unwrap()).event.changed, None);
    // Of a tag that is an object of its own, checkout_sha is the commit.
    let tag = gitlab_push("tag_push", "refs/tags/v1", ZERO, A, B.into());
    assert_eq!(
        golden(&lab("Tag Push Hook", &tag).unwrap()),
        "gitlab.example:8443#42 tag:refs/tags/v1 2222 own by 7:ada"
    );
    for (event, kind, git_ref) in
        [("Push Hook", "push", "refs/heads/x"), ("Tag Push Hook", "tag_push", "refs/tags/x")]
    {
        let gone = lab(event, &gitlab_push(kind, git_ref, A, ZERO, Value::Null)).unwrap();
        assert!(matches!(gone.outcome, Outcome::Deleted { .. }), "{gone:?}");
    }
    // What is signed is the body; the header has to say the same.
    assert!(lab("Push Hook", &tag).is_err());

    let merge =
        |action, oldrev, source| lab("Merge Request Hook", &merge_request(action, oldrev, source)).unwrap();
    let golden_of = |action, oldrev, source| golden(&merge(action, oldrev, source));
    assert_eq!(
        golden_of("open", None, 42.into()),
        "gitlab.example:8443#42 pull_request:refs/merge-requests/5/head 2222 own Open by 7:ada"
    );
    assert!(golden_of("open", None, 43.into()).contains(" fork Open by 7:ada"));
    assert!(golden_of("reopen", None, Value::Null).contains(" fork Open "), "a fork that was deleted");
    assert!(golden_of("update", Some(A), 42.into()).contains(" own Open "));
    assert!(!merge("update", None, 42.into()).outcome.is_wanted(), "another title");
    let mut moved = merge_request("update", None, 43.into());
    moved["changes"] = json!({"target_branch": {"previous": "old", "current": "main"}});
    assert!(golden(&lab("Merge Request Hook", &moved).unwrap()).contains(" fork Open "), "another branch");
    moved["object_attributes"]["state"] = "closed".into();
    assert!(!lab("Merge Request Hook", &moved).unwrap().outcome.is_wanted());
    assert!(golden_of("close", None, 42.into()).contains("Closed"));
    assert!(golden_of("merge", None, 42.into()).contains("Merged"));
    assert!(!merge("approved", None, 42.into()).outcome.is_wanted());

    let release = json!({
        "object_kind": "release", "action": "create", "tag": "v1", "project": project(42), "commit": {"id": B, "message": "x"}
    });
    assert_eq!(
        golden(&lab("Release Hook", &release).unwrap()),
        "gitlab.example:8443#42 release:refs/tags/v1 2222 own by -:-"
    );
    let note = json!({
        "object_kind": "note", "user": {"id": 7, "username": "ada"}, "project": project(42),
        "object_attributes": {"note": "/farm approve", "noteable_type": "MergeRequest", "action": "create"},
        "merge_request": {"iid": 5}
    });
    let noted = lab("Note Hook", &note).unwrap().outcome;
    assert_eq!(
        noted,
        Outcome::Comment(Comment::Approve { pull_request: 5, commit: None, base: None, at: None })
    );
    let pipeline =
        json!({"object_kind": "pipeline", "project": project(42), "user": {"id": 7, "username": "ada"}});
    assert!(!lab("Pipeline Hook", &pipeline).unwrap().outcome.is_wanted());
}

#[test]
fn what_a_delivery_is_about_is_told_by_the_repositorys_id_and_the_first_time_by_its_name() {
    let expected =
        |id| Expected { provider: Provider::Github, id, full_name: "Acme/app", host: "git.example" };
    let body = push("refs/heads/main", A, B);
    let mut pushed = read(Provider::Github, "push", &body).unwrap();
    assert_eq!(about(expected(None), &mut pushed), About::First("42".to_owned()));
    assert_eq!(about(expected(Some("42")), &mut pushed), About::Own);
    assert!(matches!(about(expected(Some("41")), &mut pushed), About::Strayed(_)), "one that took the name");
    let renamed = Expected { full_name: "acme/older", ..expected(Some("42")) };
    assert!(
        matches!(about(renamed, &mut pushed), About::Strayed(_)),
        "who has its old name would be fetched"
    );
    for other in [
        Expected { full_name: "acme/app2", ..expected(None) },
        Expected { host: "github.com", ..expected(None) },
        Expected { full_name: "acme/older", ..expected(None) },
    ] {
        assert!(matches!(about(other, &mut pushed), About::Other(_)), "{other:?}");
    }
    let mut bare = read(Provider::Github, "star", &json!({})).unwrap();
    assert!(matches!(about(expected(None), &mut bare), About::Other(_)));
}

#[test]
fn what_can_t_be_read_is_an_error_that_says_where() {
    for (provider, event) in [
        (Provider::Github, "push"),
        (Provider::Gitea, "pull_request"),
        (Provider::Forgejo, "release"),
        (Provider::Gitlab, "Push Hook"),
        (Provider::Gitlab, "Merge Request Hook"),
    ] {
        for body in [json!({}), json!([]), json!(null), json!({"repository": 5, "sender": "x"})] {
            assert!(read(provider, event, &body).is_err(), "{provider} {event} {body}");
        }
        let whole = push("refs/heads/main", A, B).to_string();
        for length in [0, 1, 2, whole.len() / 2, whole.len() - 1] {
            let cut = &whole.as_bytes()[..length];
            assert!(parse(provider, &headers(&[("x-github-event", "push")]), cut).is_err());
        }
    }
    for (field, value) in [
        ("ref", "refs/heads/-/../x"),
        ("ref", "--upload-pack=id"),
        ("ref", "refs/heads/a b"),
        ("after", "HEAD"),
        ("after", "2222"),
        ("before", "../../x"),
    ] {
        let mut body = push("refs/heads/main", A, B);
        body[field] = value.into();
        let error = read(Provider::Github, "push", &body).unwrap_err();
        assert!(error.to_string().contains(value), "{error}");
    }
    let mut long = push("refs/heads/main", A, B);
    long["sender"]["login"] = "a".repeat(600).into();
    assert!(read(Provider::Github, "push", &long).is_err());
    let mut deep = "[".repeat(100_000);
    deep.push_str(&"]".repeat(100_000));
    let deep = format!("{{\"x\":{deep}}}");
    assert!(parse(Provider::Github, &headers(&[("x-github-event", "push")]), deep.as_bytes()).is_err());
    let form = [("x-github-event", "push"), ("content-type", "application/x-www-form-urlencoded")];
    let error = parse(Provider::Github, &headers(&form), b"payload=%7B%7D").unwrap_err();
    assert!(error.cure.contains("application/json"), "{error}");
}

#[test]
fn of_a_fork_is_told_who_has_opened_it_where_its_head_is_and_when_it_was_there() {
    let at = |text: &str| Some(chrono::DateTime::parse_from_rfc3339(text).unwrap().to_utc());
    let source = |name: &str| Some(Source { id: "43".to_owned(), full_name: name.to_owned() });
    let opener = |login: &str| Some(Actor { id: "9".to_owned(), login: login.to_owned() });
    let mut body = pull_request("synchronize", json!({"id": 43, "full_name": "eve/app"}));
    body["pull_request"]["user"] = json!({"id": 9, "login": "eve"});
    body["pull_request"]["updated_at"] = "2026-01-31T12:05:24Z".into();
    let of = |body: &Value| happened(read(Provider::Github, "pull_request", body).unwrap()).proposed;
    let said = of(&body);
    assert_eq!((said.opener, said.from), (opener("eve"), source("eve/app")));
    assert_eq!(said.at, at("2026-01-31T12:05:24Z"));
    let deleted = of(&pull_request("opened", Value::Null));
    assert_eq!((deleted.from, deleted.at), (None, None));

    // GitLab names who did something, which needn't be who has opened it.
    let mut body = merge_request("update", Some(A), 43.into());
    body["object_attributes"]["author_id"] = 9.into();
    body["object_attributes"]["source"] = json!({"path_with_namespace": "eve/app"});
    body["object_attributes"]["updated_at"] = "2026-01-31 12:05:24 UTC".into();
    let said = happened(read(Provider::Gitlab, "Merge Request Hook", &body).unwrap()).proposed;
    assert_eq!((said.opener, said.from), (opener(""), source("eve/app")));
    assert_eq!(said.at, at("2026-01-31T12:05:24Z"));

    let comment = json!({
        "action": "created", "repository": repository(42), "sender": sender(),
        "issue": {"number": 5, "pull_request": {}},
        "comment": {"body": "/farm approve", "created_at": "2026-01-31T13:05:24+01:00"}
    });
    let said = read(Provider::Github, "issue_comment", &comment).unwrap().outcome;
    let written = at("2026-01-31T12:05:24Z");
    assert_eq!(
        said,
        Outcome::Comment(Comment::Approve { pull_request: 5, commit: None, base: None, at: written })
    );
}
