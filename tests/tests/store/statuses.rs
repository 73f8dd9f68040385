//! The outbox of statuses: the newest that is wanted is sent, once, by one sender at a time, whatever is cut off.

use std::time::Duration;

use farm_store::StoreError;
use farm_store::builds::mounts::SealedKey;
use farm_store::default_project;
use farm_store::hooks::deliveries::Waiting;
use farm_store::hooks::sending::{CLAIM, Counts, ToSend, Untaken};
use farm_store::hooks::statuses::{About, Detail, StatusState, Wanted, Whole};
use farm_store::hooks::tokens::SealedToken;
use farm_types::state::BuildState;
use farm_types::{BuildId, HookId, ShortId};
use uuid::Uuid;

use crate::fixture::{PUBLISH, World, tester, world};
use crate::hooks::{hook, keep, secret};
use crate::retrying::retry_of;

pub fn token() -> SealedToken {
    let key = SealedKey { by: "key".to_owned(), bytes: b"1".to_vec() };
    SealedToken { version: Uuid::new_v4(), key, bytes: b"token".to_vec(), app: None }
}

pub fn wanted(context: &str, state: StatusState, why: &str, build: Option<(BuildId, ShortId)>) -> Wanted {
    Wanted { context: context.to_owned(), state, description: why.to_owned(), build, held: None }
}

fn detail(text: &str) -> Detail {
    Detail { text: text.to_owned(), places: vec![(2, "no".to_owned())] }
}

/// A push to a branch, at a commit of which each digit is this one.
pub fn push_of(digit: char) -> About {
    about(digit, "refs/heads/main", "push")
}

fn about(digit: char, git_ref: &str, kind: &'static str) -> About {
    let commit = digit.to_string().repeat(40).parse().unwrap();
    About { commit, git_ref: git_ref.parse().unwrap(), kind, branch: Some("main".to_owned()) }
}

fn over(why: &str) -> Untaken<'_> {
    Untaken { why, may_come: false }
}

/// A farm with a hook that has a token, and deliveries of these ids.
pub async fn told(ids: &[&str]) -> (World, Vec<Waiting>) {
    let world = world().await;
    let key = secret();
    let app = hook("app", &key);
    world.store.add_hook(&tester(), &app).await.unwrap();
    world.store.set_hook_token(&tester(), default_project(), "app", app.id, &token()).await.unwrap();
    for id in ids {
        keep(&world, &app, &key, id, id.as_bytes()).await;
        world.pass("1 second");
    }
    let waiting = world.store.waiting_deliveries(10).await.unwrap();
    assert!(waiting.len() == ids.len() && waiting.iter().all(|one| one.is_told));
    (world, waiting)
}

pub async fn due(world: &World) -> Vec<ToSend> {
    world.store.statuses_to_send(10, &[], &[]).await.unwrap()
}

fn said(due: &[ToSend]) -> Vec<String> {
    due.iter().map(|one| format!("{} {}", one.context, one.state)).collect()
}

#[tokio::test]
async fn the_newest_is_sent_by_one_at_a_time_and_again_when_that_was_cut_off() {
    let (world, waiting) = told(&["1"]).await;
    let (store, epoch, of, about) = (&world.store, world.epoch, &waiting[0], push_of('a'));
    let want =
        async |wanted: &[Wanted]| store.want_statuses(epoch, of, &about, wanted, Whole::Fine).await.unwrap();
    let pending = [wanted("farm/app", StatusState::Pending, "its source", None)];
    assert!(want(&pending).await);
    assert!(!want(&pending).await, "that is wanted already");
    let first = due(&world).await;
    assert_eq!(said(&first), ["farm/app pending"]);
    let is_none = async |but: &[HookId], places: &[String]| {
        store.statuses_to_send(10, but, places).await.unwrap().is_empty()
    };
    assert!(is_none(&[of.hook], &[]).await, "that hook is busy");
    assert!(is_none(&[], &["github.com".to_owned()]).await, "that place is");
    assert!(store.claim_status(epoch, &first[0]).await.unwrap());
    assert!(!store.claim_status(epoch, &first[0]).await.unwrap(), "somebody has it");
    assert!(due(&world).await.is_empty());
    // Whoever had it was killed: it is sent again, but not before its request can't come any more.
    let claim = format!("{} seconds", CLAIM.as_secs() + 1);
    world.pass(&claim);
    assert!(store.claim_status(epoch, &due(&world).await[0]).await.unwrap());

    // While it is under way something newer is wanted, which waits for it and replaces it.
    let build = world.submit("k", "linux/amd64", &[]).await;
    let short = world.build(build).await.short_id;
    let of_build = [wanted("farm/app", StatusState::Pending, "builds", Some((build.id, short.clone())))];
    assert!(want(&of_build).await);
    assert!(due(&world).await.is_empty());
    store.status_sent(epoch, &first[0], Some("255")).await.unwrap();
    let twice = store.status_sent(epoch, &first[0], None).await.unwrap_err();
    assert!(matches!(twice, StoreError::Stale(_)), "{twice}");
    let second = due(&world).await;
    assert_eq!((said(&second), second[0].build.as_deref()), (said(&first), Some(short.as_str())));
    assert!(
        second[0].version > first[0].version && second[0].pipeline.as_deref() == Some("255"),
        "{second:?}"
    );

    // Nobody answers, so it may have come or come yet. What becomes of the build meanwhile is sent in its place, and not before that is over.
    assert!(store.claim_status(epoch, &second[0]).await.unwrap());
    let lost = Untaken { why: "no answer", may_come: true };
    store.put_off_status(epoch, &second[0], lost, Duration::ZERO, Counts::Away).await.unwrap();
    assert!(due(&world).await.is_empty() && store.ended_statuses(10).await.unwrap().is_empty());
    world.pass(&claim);
    // Then the forge can't now, and doesn't know the commit: each is counted apart.
    for (counts, attempts, unknowns) in
        [(Counts::Away, 2, 0), (Counts::Unknown, 2, 1), (Counts::Nothing, 2, 1)]
    {
        let again = due(&world).await;
        assert!(store.claim_status(epoch, &again[0]).await.unwrap());
        store.put_off_status(epoch, &again[0], over("away"), Duration::from_secs(300), counts).await.unwrap();
        assert!(due(&world).await.is_empty());
        world.pass("301 seconds");
        let again = due(&world).await;
        assert_eq!((again[0].attempts, again[0].unknowns), (attempts, unknowns), "{counts:?}");
    }
    assert_eq!(due(&world).await[0].pipeline, None, "it may be that which isn't known");
    assert!(store.has_open_statuses().await.unwrap());
    let known = &store.hook_tokens(default_project()).await.unwrap()[0].1;
    assert_eq!((known.trouble.as_ref().unwrap().0.as_str(), known.waiting), ("away", 1));
    world.database.psql("UPDATE builds SET state = 'cancelled', finished_at = farm_now()");
    let ended = store.ended_statuses(10).await.unwrap();
    assert_eq!((ended.len(), ended[0].state), (1, Some(BuildState::Cancelled)));
    assert!(store.settle_status(epoch, &ended[0], StatusState::Cancelled, "cancelled").await.unwrap());
    assert!(!store.settle_status(epoch, &ended[0], StatusState::Cancelled, "cancelled").await.unwrap());
    // The delivery goes on, and says no more of it.
    assert!(!want(&of_build).await);
    let third = due(&world).await;
    assert_eq!(said(&third), ["farm/app cancelled"]);
    assert_eq!((third[0].attempts, third[0].unknowns), (0, 0));
    assert!(!store.claim_status(epoch, &second[0]).await.unwrap(), "nobody wants that any more");
    assert!(store.claim_status(epoch, &third[0]).await.unwrap());
    store.status_sent(epoch, &third[0], None).await.unwrap();
    assert!(due(&world).await.is_empty() && !store.has_open_statuses().await.unwrap());
    let known = &store.hook_tokens(default_project()).await.unwrap()[0].1;
    assert!(known.told_at.is_some() && known.trouble.is_none() && known.waiting == 0, "{known:?}");
}

#[tokio::test]
async fn a_retry_takes_the_builds_place_and_so_does_a_retry_of_that_and_another_of_the_first() {
    let (world, waiting) = told(&["1"]).await;
    let (store, epoch, of, about) = (&world.store, world.epoch, &waiting[0], push_of('a'));
    let build = world.submit("k", "linux/amd64", &[]).await;
    let short = world.build(build).await.short_id;
    let mut of_build = [wanted("farm/app", StatusState::Pending, "builds", Some((build.id, short)))];
    let end = || world.database.psql("UPDATE builds SET state = 'cancelled', finished_at = farm_now()");
    store.want_statuses(epoch, of, &about, &of_build, Whole::Fine).await.unwrap();
    let (mut before, mut tries) = (due(&world).await[0].version, vec![build]);
    // Of the build, of its retry, and of the build once more.
    for (of_which, key) in [(0, "again"), (1, "of the retry"), (0, "once more")] {
        end();
        let retry = store.retry(&retry_of(tries[of_which], key, false), PUBLISH).await.unwrap();
        tries.push(retry);
        let shown = due(&world).await;
        let short = world.build(retry).await.short_id;
        assert_eq!(
            (said(&shown), shown[0].build.as_deref()),
            (vec!["farm/app pending".to_owned()], Some(short.as_str()))
        );
        assert!(shown[0].version > before, "{key}");
        before = shown[0].version;
        // The delivery, which knows nothing of it, doesn't take that back.
        assert!(!store.want_statuses(epoch, of, &about, &of_build, Whole::Fine).await.unwrap(), "{key}");
        assert!(store.ended_statuses(10).await.unwrap().is_empty(), "{key}");
        world.pass("1 second");
    }
    // Where it is shown only now, the newest is.
    of_build[0].context = "farm/web".to_owned();
    assert!(store.want_statuses(epoch, of, &about, &of_build, Whole::Fine).await.unwrap());
    let builds: Vec<_> = due(&world).await.into_iter().map(|one| one.build).collect();
    assert!(builds.len() == 2 && builds[0] == builds[1], "{builds:?}");
}

#[tokio::test]
async fn what_was_given_up_is_sent_by_another_token_and_goes_with_its_hook() {
    let (world, waiting) = told(&["1"]).await;
    let (store, epoch, of, project) = (&world.store, world.epoch, &waiting[0], default_project());
    let about = push_of('a');
    let red = async || {
        let detail = detail("2:1: no");
        let why = Whole::Red(".farm.yaml: 2:1: no", &detail);
        store.want_statuses(epoch, of, &about, &[], why).await.unwrap()
    };
    assert!(red().await);
    let first = due(&world).await;
    assert!(store.claim_status(epoch, &first[0]).await.unwrap());
    store.give_up_status(epoch, &first[0], over("the token may not do that")).await.unwrap();
    assert!(due(&world).await.is_empty() && !store.has_open_statuses().await.unwrap());
    let known = &store.hook_tokens(project).await.unwrap()[0].1;
    assert_eq!((known.waiting, known.given_up), (0, 1));
    store.set_hook_token(&tester(), project, "app", of.hook, &token()).await.unwrap();
    let known = &store.hook_tokens(project).await.unwrap()[0].1;
    assert_eq!((&known.trouble, known.waiting, known.given_up), (&None, 1, 0));
    // What the one before was answered says nothing of the new one, nor does it begin anything.
    assert!(!store.claim_status(epoch, &first[0]).await.unwrap());
    let late = [
        store.status_sent(epoch, &first[0], None).await,
        store.put_off_status(epoch, &first[0], over("late"), Duration::from_secs(60), Counts::Away).await,
        store.give_up_status(epoch, &first[0], over("late")).await,
    ];
    assert!(late.iter().all(|one| matches!(one, Err(StoreError::Stale(_)))), "{late:?}");
    assert_eq!(store.hook_tokens(project).await.unwrap()[0].1.trouble, None);
    let again = due(&world).await;
    assert_eq!((again.len(), again[0].attempts, again[0].version), (1, 0, first[0].version));
    assert!(store.claim_status(epoch, &again[0]).await.unwrap());
    store.put_off_status(epoch, &again[0], over("away"), Duration::ZERO, Counts::Away).await.unwrap();
    let nobodys = store.set_hook_token(&tester(), project, "other", of.hook, &token()).await.unwrap_err();
    assert!(matches!(nobodys, StoreError::NotFound("hook")), "{nobodys}");

    // Its key's use is known, and exchanged.
    assert!(
        store.keys_in_use().await.unwrap().contains(&("key".to_owned(), 2)),
        "the hook's secret, and its token"
    );
    let [found] = &store.hook_token_keys_by(&["key".to_owned()], None, 9).await.unwrap()[..] else {
        panic!()
    };
    let other = SealedKey { by: "other".to_owned(), bytes: b"3".to_vec() };
    assert!(store.reseal_hook_token_key(epoch, found, &other).await.unwrap());
    assert!(!store.reseal_hook_token_key(epoch, found, &other).await.unwrap(), "that it was");
    let after = Some((found.project, found.hook));
    assert!(store.hook_token_keys_by(&["other".to_owned()], after, 9).await.unwrap().is_empty());

    // Old ones go; with the token, and with the hook, all do. What comes in their place is never taken for them.
    let left = || {
        world.database.psql("SELECT (SELECT count(*) FROM statuses) + (SELECT count(*) FROM commit_readings)")
    };
    assert_eq!(left(), "2");
    world.pass("25 hours");
    store.remove_deliveries(epoch, Duration::from_secs(24 * 3600), 10).await.unwrap();
    assert_eq!(left(), "0");
    for is_hook in [false, true] {
        store.set_hook_token(&tester(), project, "app", of.hook, &token()).await.unwrap();
        assert!(red().await);
        assert!(due(&world).await[0].version > first[0].version);
        if is_hook {
            store.remove_hook(&tester(), project, "app").await.unwrap();
        } else {
            assert!(store.remove_hook_token(&tester(), project, "app", of.hook).await.unwrap());
            assert!(!store.remove_hook_token(&tester(), project, "app", of.hook).await.unwrap());
            assert!(!red().await, "nobody is told");
        }
        assert_eq!(left(), "0");
        assert_eq!(world.database.psql("SELECT count(*) FROM hook_tokens"), "0");
    }
    let deeds = "SELECT string_agg(coalesce(detail->>'removed', 'set'), ' ' ORDER BY id) FROM audit WHERE action = 'hook.token'";
    assert_eq!(world.database.psql(deeds), "set set set true set");
}

#[tokio::test]
async fn of_two_deliveries_about_a_commit_the_one_that_was_asked_for_last_counts() {
    let (world, waiting) = told(&["push", "tag"]).await;
    let (store, epoch, at, elsewhere) = (&world.store, world.epoch, push_of('a'), push_of('b'));
    let [push, tag] = &waiting[..] else { panic!() };
    let app = |state| [wanted("farm/app", state, "why", None)];
    let want = async |of: &Waiting, about: &About, state| {
        store.want_statuses(epoch, of, about, &app(state), Whole::Open).await.unwrap()
    };
    assert!(want(tag, &at, StatusState::Pending).await);
    assert!(!want(push, &at, StatusState::Failure).await, "that is an earlier one");
    assert!(want(push, &elsewhere, StatusState::Cancelled).await, "of another commit");
    // Also where both say the same the later one counts from then on.
    assert!(!want(tag, &elsewhere, StatusState::Cancelled).await);
    assert!(!want(push, &elsewhere, StatusState::Failure).await);
    assert!(want(tag, &elsewhere, StatusState::Pending).await);

    // Once it is to be processed again it is the later one, and what was read of it before counts for nothing.
    let end = farm_store::hooks::deliveries::End {
        state: farm_store::hooks::deliveries::DeliveryState::Failed,
        reason: String::new(),
        builds: Vec::new(),
    };
    store.end_delivery(epoch, push, &end).await.unwrap();
    store.redeliver(&tester(), default_project(), "app", "push").await.unwrap();
    let again = store.waiting_deliveries(10).await.unwrap().into_iter().find(|one| one.id == "push").unwrap();
    assert!(again.asked_at > tag.asked_at && again.run == 1);
    assert!(!want(push, &elsewhere, StatusState::Failure).await);
    assert!(want(&again, &at, StatusState::Failure).await);
    // What it had said to be pending and comes to nothing is over with it.
    assert!(!want(&again, &elsewhere, StatusState::Pending).await);
    assert!(store.leave_statuses(epoch, &again, "it has moved on").await.unwrap());
    assert!(!store.leave_statuses(epoch, &again, "it has moved on").await.unwrap());
    let states = "SELECT string_agg(left(commit_id, 1) || ' ' || context || ' ' || state, ', ' ORDER BY commit_id, context) FROM statuses";
    assert_eq!(world.database.psql(states), "a farm/app failure, b farm/app cancelled");
}

#[tokio::test]
async fn a_commit_is_red_as_a_whole_as_long_as_the_newest_of_any_ref_and_kind_is() {
    let (world, waiting) = told(&["1", "2", "3"]).await;
    let (store, epoch) = (&world.store, world.epoch);
    let [first, second, third] = &waiting[..] else { panic!() };
    let (push, proposal) = (push_of('a'), about('a', "refs/pull/7/head", "pull_request"));
    let say = async |of: &Waiting, about: &About, whole: Whole<'_>| {
        store.want_statuses(epoch, of, about, &[], whole).await.unwrap()
    };
    let shown = || world.database.psql("SELECT string_agg(state || ': ' || description, ', ') FROM statuses");
    // What goes well is no word of it, and a delivery that came before it and fails late doesn't paint it red.
    assert!(!say(second, &push, Whole::Fine).await);
    assert!(!say(first, &push, Whole::Red("late", &detail("late"))).await);
    assert_eq!(shown(), "");
    // A push's broken rules stay red when its commit is proposed: the base's rules are in order, which are others.
    assert!(say(second, &push, Whole::Red("2:1: no", &detail("2:1: no"))).await);
    assert!(!say(third, &proposal, Whole::Fine).await);
    assert_eq!(shown(), "failure: 2:1: no");
    // Two are wrong, each of which is mended by its own kind.
    assert!(say(third, &proposal, Whole::Red("the base's", &detail("the base's"))).await);
    assert_eq!(shown(), "failure: the base's");
    assert!(say(third, &proposal, Whole::Fine).await);
    assert_eq!(shown(), "failure: 2:1: no");
    assert!(say(third, &push, Whole::Fine).await);
    assert_eq!(shown(), "success: the rules are read");
    assert!(!say(second, &push, Whole::Red("late", &detail("late"))).await);
    assert_eq!(shown(), "success: the rules are read");
}
