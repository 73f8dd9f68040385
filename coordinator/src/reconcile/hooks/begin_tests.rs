use farm_hooks::{Happened, PullRequestState};
use farm_rules::{Event, EventKind, Facts, Outcome as Planned, Rules};
use farm_types::{GitPoint, HookId, PrincipalId, ProjectId, Take};

use super::*;

const COMMIT: &str = "0123456789012345678901234567890123456789";

fn waiting() -> Waiting {
    Waiting {
        project: ProjectId::generate(),
        project_name: "web".to_owned(),
        hook: HookId::generate(),
        hook_name: "app".to_owned(),
        provider: "github".to_owned(),
        host: "github.com".to_owned(),
        full_name: "acme/app".to_owned(),
        repository_id: Some("7".to_owned()),
        clone_url: Some("https://github.com/acme/app.git".to_owned()),
        api_url: None,
        id: "1".to_owned(),
        sequence: 1,
        attempts: 0,
        run: 0,
        received_at: chrono::DateTime::UNIX_EPOCH,
        principal: PrincipalId::generate(),
        publishes: Vec::new(),
        asked_at: chrono::DateTime::UNIX_EPOCH,
        is_told: false,
        default_branch: None,
        own: None,
        is_read: false,
        is_placed: false,
        strayed: String::new(),
    }
}

fn event(kind: EventKind, git_ref: &str) -> Event {
    Event {
        kind,
        git_ref: git_ref.parse().unwrap(),
        commit: COMMIT.parse().unwrap(),
        default_branch: Some("main".to_owned()),
        changed: None,
        message: String::new(),
    }
}

fn push() -> Event {
    event(EventKind::Push { branch: "main".to_owned() }, "refs/heads/main")
}

fn proposal(fork: bool) -> Event {
    let (base, head) = ("main".to_owned(), "fix".to_owned());
    event(EventKind::PullRequest { number: 7, base, head, fork }, "refs/pull/7/head")
}

#[test]
fn a_push_has_its_own_rules_and_what_is_proposed_has_those_of_its_base() {
    let (source, take) = rules_source(&waiting(), &push()).unwrap();
    assert_eq!(source.point, GitPoint::Ref("refs/heads/main".parse().unwrap()));
    assert_eq!(source.expected.unwrap().as_str(), COMMIT);
    assert_eq!(take, Take::File(".farm.yaml".to_owned()));
    let (source, _) = rules_source(&waiting(), &proposal(false)).unwrap();
    assert_eq!(source.point, GitPoint::Ref("refs/heads/main".parse().unwrap()));
    assert_eq!(source.expected, None, "the base may be anywhere");
}

#[test]
fn an_image_is_built_of_the_commit_that_was_told_and_of_a_dockerfile_in_its_context() {
    let rules = "version: 1\nimages:\n  app:\n    on:\n      push: {}\n      pull_request: {}\n    context: docker\n    dockerfile: DOCKERFILE\n";
    let wanted = |dockerfile: &str, event: &Event| {
        let rules = Rules::parse(&rules.replace("DOCKERFILE", dockerfile)).unwrap();
        let plan = rules.plan(event, &Facts { now: chrono::DateTime::UNIX_EPOCH, tags: Vec::new() });
        let Planned::Build(wanted) = plan.images[0].outcome.clone() else { panic!("{plan:?}") };
        wanted
    };
    let (source, take) =
        image_source(&waiting(), &wanted("docker/web/Dockerfile", &push()), &push()).unwrap();
    assert_eq!((source.subdir.as_str(), take), ("docker", Take::Build("web/Dockerfile".to_owned())));
    assert_eq!(source.point, GitPoint::Commit(COMMIT.parse().unwrap()));
    // The head of what is proposed has to be seen at that commit: the rules were the base's.
    let (source, _) =
        image_source(&waiting(), &wanted("docker/Dockerfile", &proposal(false)), &proposal(false)).unwrap();
    assert_eq!(source.point, GitPoint::Ref("refs/pull/7/head".parse().unwrap()));
    assert_eq!(source.expected.unwrap().as_str(), COMMIT);
    for outside in ["Dockerfile", "docker2/Dockerfile"] {
        match image_source(&waiting(), &wanted(outside, &push()), &push()) {
            Err(Stop::So(Begun::Failed(why))) => {
                assert!(why.contains("isn't in its context docker"), "{why}")
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_needs_an_image_of_another_schedule_does_not_wait_for_it() {
    let text = "version: 1\nimages:\n  a:\n    on:\n      schedule: {nightly: \"0 3 * * *\"}\n  b:\n    needs: [a]\n    on:\n      schedule: \
                {nightly: \"0 4 * * *\"}\n  c:\n    needs: [b]\n    on:\n      schedule: {nightly: \"0 4 * * *\"}\n";
    let rules = Rules::parse(text).unwrap();
    let event = event(EventKind::Schedule { name: "nightly".to_owned() }, "refs/heads/main");
    let facts = Facts { now: chrono::DateTime::UNIX_EPOCH, tags: Vec::new() };
    let mut plan = rules.plan(&event, &facts);
    assert_eq!(plan.builds().count(), 3);
    let untimely = strike(&mut plan, &rules, &event, Some("0 4 * * *"));
    assert_eq!(untimely.keys().collect::<Vec<_>>(), ["a"]);
    let needs: Vec<&[String]> = plan.builds().map(|(_, wanted)| wanted.needs.as_slice()).collect();
    let none: &[String] = &[];
    assert_eq!(needs, [none, none, &["b".to_owned()]]);
    let mut plan = rules.plan(&event, &facts);
    assert!(strike(&mut plan, &rules, &push(), None).is_empty());
}

#[test]
fn nothing_is_fetched_for_what_is_closed() {
    let happened = |event, pull_request| Happened {
        event,
        before: None,
        is_forced: false,
        pull_request,
        proposed: Default::default(),
    };
    for (happened, is_refused) in [
        (happened(push(), None), false),
        (happened(proposal(false), Some(PullRequestState::Open)), false),
        (happened(proposal(true), Some(PullRequestState::Open)), false),
        (happened(proposal(true), Some(PullRequestState::Closed)), true),
        (happened(proposal(false), Some(PullRequestState::Closed)), true),
        (happened(proposal(false), Some(PullRequestState::Merged)), true),
    ] {
        assert_eq!(refused(&happened).is_some(), is_refused, "{happened:?}");
    }
}
