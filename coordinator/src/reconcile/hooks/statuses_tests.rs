use chrono::DateTime;
use farm_store::builds::mounts::SealedKey;
use farm_store::hooks::sending::Check;
use farm_store::hooks::tokens::SealedToken;
use farm_types::{Cause, Failure, FailureCode, HookId, ProjectId};

use super::*;
use crate::reconcile::busy::MOST_AT_ONCE;

#[test]
fn the_end_of_a_build_is_shown_in_one_line() {
    let at = |seconds| DateTime::<Utc>::from_timestamp(seconds, 0).unwrap();
    let mut of = Ended {
        project: ProjectId::generate(),
        hook: HookId::generate(),
        commit: "a".repeat(40),
        context: "farm/app".to_owned(),
        version: 1,
        state: Some(BuildState::Succeeded),
        failure: None,
        took: Some((at(0), at(72))),
    };
    assert_eq!(end(&of), (StatusState::Success, "built in 1 m 12 s".to_owned()));
    of.state = Some(BuildState::Failed);
    of.failure = Some(Failure::new(Cause::User, FailureCode::GitRefMissing, "exit code 100\nmore"));
    assert_eq!(end(&of), (StatusState::Failure, "exit code 100 (and 1 more)".to_owned()));
    for state in [Some(BuildState::Cancelled), None] {
        of.state = state;
        assert_eq!(end(&of).0, StatusState::Cancelled);
    }
}

#[test]
fn what_hangs_at_one_hook_holds_up_no_other_and_a_place_is_asked_a_few_things_at_once() {
    let one = |hook: HookId, host: &str| ToSend {
        project: ProjectId::generate(),
        project_name: "web".to_owned(),
        hook,
        hook_name: "app".to_owned(),
        provider: "github".to_owned(),
        host: host.to_owned(),
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
        context: "farm".to_owned(),
        state: StatusState::Failure,
        description: String::new(),
        build: None,
        build_id: None,
        held: None,
        detail: None,
        check: Check::default(),
        version: 1,
        branch: None,
        pipeline: None,
        attempts: 0,
        unknowns: 0,
        age: Duration::ZERO,
    };
    let mut busy = Busy::default();
    let [first, second] = [(); 2].map(|()| HookId::generate());
    let begun = busy.begin(vec![one(first, "a"), one(second, "a"), one(first, "a")]);
    let counts: Vec<_> = begun.iter().map(|(hook, due)| (*hook, due.len())).collect();
    assert_eq!(counts, [(first, 2), (second, 1)]);
    assert!(busy.begin(vec![one(first, "a")]).is_empty() && busy.full().is_empty());
    let more: Vec<_> = (0..MOST_AT_ONCE).map(|_| one(HookId::generate(), "a")).collect();
    assert_eq!(busy.begin(more).len(), MOST_AT_ONCE - 2);
    assert!(busy.full().contains(&"a".to_owned()) && busy.senders().len() == MOST_AT_ONCE);
    assert_eq!(busy.begin(vec![one(HookId::generate(), "a"), one(HookId::generate(), "b")]).len(), 1);
    busy.end(first);
    assert!(busy.full().is_empty());
}

#[test]
fn a_token_that_has_asked_too_much_waits_and_no_other_one() {
    let (limits, now) = (Limits::default(), Instant::now());
    let [one, other] = [b"one", b"two"].map(|text| Digest::of(text));
    let after = |seconds| now + Duration::from_secs(seconds);
    assert_eq!((limits.wait(one, now), limits.strikes(one)), (None, 0));
    limits.strike(one, after(60));
    limits.strike(one, after(120));
    assert_eq!((limits.wait(one, now), limits.strikes(one)), (Some(Duration::from_secs(120)), 2));
    assert_eq!(limits.wait(other, now), None);
    assert_eq!(
        (limits.wait(one, after(120)), limits.strikes(one)),
        (None, 2),
        "until the forge has taken something"
    );
    limits.clear(one);
    assert_eq!(limits.strikes(one), 0);
}
