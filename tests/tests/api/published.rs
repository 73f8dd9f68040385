//! GitHub's deliveries as its own examples have them: `@octokit/webhooks-examples` (MIT), which `tests/run.sh api` takes from npm's
//! registry. What each means is read from its JSON here anew, by what GitHub's documentation says of the fields.

use std::collections::BTreeMap;
use std::path::PathBuf;

use farm_hooks::{Delivery, Headers, Outcome, Provider, PullRequestState, parse};
use farm_rules::EventKind;
use serde_json::Value;

const ZERO: &str = "0000000000000000000000000000000000000000";

/// Reads all of them; how many there are of each event.
pub fn examples() -> BTreeMap<String, usize> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/published/package");
    let mut counts = BTreeMap::new();
    let releases = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for release in releases {
        let index = release.unwrap().path().join("index.json");
        if !index.is_file() {
            continue;
        }
        let events: Vec<Value> = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
        for event in &events {
            let name = event["name"].as_str().unwrap();
            for example in event["examples"].as_array().unwrap() {
                let body = serde_json::to_vec(example).unwrap();
                let headers = [("x-github-event", name), ("content-type", "application/json")];
                let headers = Headers::of(headers.map(|(name, value)| (name, value.as_bytes())));
                let read = parse(Provider::Github, &headers, &body)
                    .unwrap_or_else(|error| panic!("{name} of {}: {error}\n{example}", index.display()));
                fits(name, example, &read);
                *counts.entry(name.to_owned()).or_default() += 1;
            }
        }
    }
    counts
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// Whether what was read is what the example says.
fn fits(name: &str, said: &Value, read: &Delivery) {
    let about = || format!("{name} {}: {:?}\n{said}", text(said, "/action"), read.outcome);
    let id = said.pointer("/repository/id").map(ToString::to_string);
    assert_eq!(read.repository.as_ref().map(|repository| repository.id.clone()), id, "{}", about());
    if let Some(repository) = &read.repository {
        assert_eq!(repository.full_name, text(said, "/repository/full_name"));
    }
    let actor = read.actor.as_ref().map_or("", |actor| actor.login.as_str());
    assert_eq!(actor, text(said, "/sender/login"), "{}", about());
    match (name, text(said, "/action")) {
        ("push", _) => push(said, read),
        ("pull_request", action @ ("opened" | "reopened" | "synchronize" | "closed")) => {
            pull_request(action, said, read);
        }
        ("release", "published") => {
            let Outcome::Event(happened) = &read.outcome else { panic!("{}", about()) };
            let tag = text(said, "/release/tag_name").to_owned();
            let prerelease = said.pointer("/release/prerelease") == Some(&Value::Bool(true));
            assert_eq!(happened.event.git_ref.tag(), Some(tag.as_str()));
            assert_eq!(happened.event.kind, EventKind::Release { tag, prerelease });
        }
        ("ping", _) => assert_eq!(read.outcome, Outcome::Ping),
        ("check_run" | "check_suite", "rerequested") => {
            let Outcome::Again(again) = &read.outcome else { panic!("{}", about()) };
            assert_eq!(again.commit.as_str(), text(said, &format!("/{name}/head_sha")));
            assert_eq!(Some(&again.app), said[name].pointer("/app/id").map(ToString::to_string).as_ref());
            let check = again.check.as_ref().map(|check| check.name.as_str());
            assert_eq!(check, said[name]["name"].as_str());
        }
        // None of the examples says /farm approve.
        _ => assert!(matches!(&read.outcome, Outcome::Ignored(why) if !why.is_empty()), "{}", about()),
    }
}

fn push(said: &Value, read: &Delivery) {
    let (git_ref, after) = (text(said, "/ref"), text(said, "/after"));
    let before = Some(text(said, "/before")).filter(|before| *before != ZERO);
    match &read.outcome {
        Outcome::Deleted { git_ref: gone, before: was } => {
            assert_eq!((gone.as_str(), after), (git_ref, ZERO), "{said}");
            assert_eq!(was.as_ref().map(farm_types::Commit::as_str), before);
        }
        Outcome::Event(happened) => {
            let event = &happened.event;
            assert_eq!((event.git_ref.as_str(), event.commit.as_str()), (git_ref, after), "{said}");
            assert_eq!(happened.before.as_ref().map(farm_types::Commit::as_str), before);
            let is_tag = git_ref.starts_with("refs/tags/");
            assert_eq!(matches!(event.kind, EventKind::Tag { .. }), is_tag, "{said}");
            assert_eq!(event.default_branch.as_deref(), said["repository"]["default_branch"].as_str());
        }
        other => panic!("{other:?}\n{said}"),
    }
}

fn pull_request(action: &str, said: &Value, read: &Delivery) {
    let Outcome::Event(happened) = &read.outcome else { panic!("{:?}\n{said}", read.outcome) };
    let number = said["number"].as_u64().unwrap();
    let head = said.pointer("/pull_request/head/repo/id");
    let fork = head.is_none() || head != said.pointer("/repository/id");
    let (base, head) = (text(said, "/pull_request/base/ref"), text(said, "/pull_request/head/ref"));
    let (base, head) = (base.to_owned(), head.to_owned());
    assert_eq!(happened.event.kind, EventKind::PullRequest { number, base, head, fork }, "{said}");
    assert_eq!(happened.event.commit.as_str(), text(said, "/pull_request/head/sha"));
    assert_eq!(happened.event.git_ref.as_str(), format!("refs/pull/{number}/head"));
    let is_merged = said.pointer("/pull_request/merged") == Some(&Value::Bool(true));
    assert_eq!(
        happened.pull_request,
        Some(match (action, is_merged) {
            ("closed", true) => PullRequestState::Merged,
            ("closed", false) => PullRequestState::Closed,
            _ => PullRequestState::Open,
        })
    );
}
