use farm_store::builds::mounts::SealedKey;
use farm_store::hooks::sending::Check;
use farm_store::hooks::statuses::Detail;
use farm_store::hooks::tokens::SealedToken;
use farm_types::{HookId, ProjectId};

use super::*;

fn one(state: StatusState, build: Option<&str>, held: Option<&str>) -> ToSend {
    ToSend {
        project: ProjectId::generate(),
        project_name: "web".to_owned(),
        hook: HookId::generate(),
        hook_name: "app".to_owned(),
        provider: "github".to_owned(),
        host: "github.com".to_owned(),
        api_url: None,
        full_name: "acme/app".to_owned(),
        repository_id: None,
        token: SealedToken {
            version: uuid::Uuid::nil(),
            key: SealedKey { by: String::new(), bytes: Vec::new() },
            bytes: Vec::new(),
            app: None,
        },
        commit: "a".repeat(40),
        context: "farm/app".to_owned(),
        state,
        description: "why\u{1b}[2J".to_owned(),
        build: build.map(str::to_owned),
        build_id: None,
        held: held.map(str::to_owned),
        detail: None,
        check: Check::default(),
        version: 5,
        branch: None,
        pipeline: None,
        attempts: 0,
        unknowns: 0,
        age: Duration::ZERO,
    }
}

#[test]
fn a_check_run_is_as_far_as_its_image_and_what_is_over_is_left_as_it_is() {
    for (state, build, held, expected) in [
        (StatusState::Pending, None, None, Stage::Queued),
        (StatusState::Pending, Some("7f3k2m"), None, Stage::Goes),
        (StatusState::Pending, None, Some("7f3k2m"), Stage::Queued),
        (StatusState::Pending, Some("7f3k2m"), Some("7f3k2m"), Stage::Goes),
        (StatusState::Pending, Some("7f3k2m"), Some(""), Stage::Goes),
        (StatusState::Pending, None, Some(""), Stage::Over(Conclusion::Neutral)),
        (StatusState::Success, Some("7f3k2m"), None, Stage::Over(Conclusion::Success)),
        (StatusState::Failure, None, None, Stage::Over(Conclusion::Failure)),
        (StatusState::Cancelled, None, None, Stage::Over(Conclusion::Cancelled)),
    ] {
        let one = one(state, build, held);
        let run = run(&one, None, None);
        assert_eq!((run.stage, is_over(&one)), (expected, matches!(expected, Stage::Over(_))));
        assert_eq!((run.title.as_str(), run.external_id), ("why", format!("farm/{}/5", one.hook)));
        assert!(!run.summary.is_empty() && !run.summary.contains('\u{1b}'), "{}", run.summary);
    }
    let begun = Check { of: Some(3), id: Some(9), tried: None };
    let later = ToSend { check: begun, ..one(StatusState::Success, None, None) };
    assert!(run(&later, None, None).external_id.ends_with("/3"), "the run that has begun");
}

#[test]
fn what_is_wrong_in_the_rules_is_shown_at_their_lines() {
    let places = (1..=60).map(|line| (line, format!("no\u{7} {line}"))).collect();
    let detail = Detail { text: ".farm.yaml: 1:1: no\n2:1: no".to_owned(), places };
    let wrong = ToSend { detail: Some(detail), ..one(StatusState::Failure, None, None) };
    let run = run(&wrong, None, None);
    assert_eq!(run.annotations.len(), MOST_ANNOTATIONS);
    let second = &run.annotations[1];
    assert_eq!((second.path.as_str(), second.lines, second.message.as_str()), (".farm.yaml", (2, 2), "no 2"));
    assert!(run.summary.contains("```text\n.farm.yaml: 1:1: no\n2:1: no\n```"), "{}", run.summary);
}

#[test]
fn what_a_program_has_printed_leaves_no_fence_and_is_bounded() {
    let mut told = Told::default();
    told.fence(["a\u{1b}[31m```", "````` @everyone <img src=x>", "b"]);
    assert_eq!(told.text, "``````text\na```\n````` @everyone <img src=x>\nb\n``````\n\n");
    let line = "é".repeat(5000);
    let many: Vec<&str> = std::iter::repeat_n(line.as_str(), 500).chain(["the last one"]).collect();
    let mut told = Told::default();
    told.words("before");
    told.fence(many);
    assert!(told.text.len() <= LONGEST && told.text.contains("the last one\n```"), "{}", told.text.len());
    assert!(told.text.lines().all(|line| line.chars().count() <= LONGEST_LINE));
    // What has no room is left out as a whole, and its fence with it.
    for _ in 0..100 {
        told.fence(["x".repeat(900).as_str()]);
    }
    assert!(told.text.len() <= LONGEST && told.text.matches("```").count() % 2 == 0);
    let mut told = Told::default();
    told.fence(["", "\u{1b}[0m"]);
    assert_eq!(told.text, "");
}
