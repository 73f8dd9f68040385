//! The outbox of statuses: the newest that is wanted is sent, once, by one sender at a time, whatever is cut off.

use std::time::Duration;

use farm_store::StoreError;
use farm_store::builds::mounts::SealedKey;
use farm_store::default_project;
use farm_store::hooks::deliveries::Waiting;
use farm_store::hooks::statuses::{CLAIM, StatusState, ToSend, Wanted};
use farm_store::hooks::tokens::SealedToken;
use farm_types::state::BuildState;
use farm_types::{BuildId, Commit, ShortId};
use uuid::Uuid;

use crate::fixture::{PUBLISH, World, tester, world};
use crate::hooks::{hook, keep, secret};
use crate::retrying::retry_of;

fn token() -> SealedToken {
    let key = SealedKey { by: "key".to_owned(), bytes: b"1".to_vec() };
    SealedToken { version: Uuid::new_v4(), key, bytes: b"token".to_vec() }
}

fn wanted(context: &str, state: StatusState, why: &str, build: Option<(BuildId, ShortId)>) -> Wanted {
    Wanted { context: context.to_owned(), state, description: why.to_owned(), build }
}

/// A farm with a hook that has a token, and deliveries of these ids.
async fn told(ids: &[&str]) -> (World, Vec<Waiting>, Commit) {
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
    (world, waiting, "a".repeat(40).parse().unwrap())
}

async fn due(world: &World) -> Vec<ToSend> {
    world.store.statuses_to_send(10, &[]).await.unwrap()
}

fn said(due: &[ToSend]) -> Vec<String> {
    due.iter().map(|one| format!("{} {} {}", one.context, one.state, one.version)).collect()
}

#[tokio::test]
async fn the_newest_is_sent_by_one_at_a_time_and_again_when_that_was_cut_off() {
    let (world, waiting, commit) = told(&["1"]).await;
    let (store, epoch, of) = (&world.store, world.epoch, &waiting[0]);
    let pending = [wanted("farm/app", StatusState::Pending, "its source", None)];
    assert!(store.want_statuses(epoch, of, &commit, &pending).await.unwrap());
    assert!(!store.want_statuses(epoch, of, &commit, &pending).await.unwrap(), "that is wanted already");
    let first = due(&world).await;
    assert_eq!(said(&first), ["farm/app pending 1"]);
    assert!(
        store.statuses_to_send(10, &["github.com".to_owned()]).await.unwrap().is_empty(),
        "that place is busy"
    );
    assert!(store.claim_status(epoch, &first[0]).await.unwrap());
    assert!(!store.claim_status(epoch, &first[0]).await.unwrap(), "somebody has it");
    assert!(due(&world).await.is_empty());
    // Whoever had it was killed: it is sent again, but not before its request can't come any more.
    world.pass(&format!("{} seconds", CLAIM.as_secs() + 1));
    assert!(store.claim_status(epoch, &due(&world).await[0]).await.unwrap());

    // While it is under way something newer is wanted, which waits for it and replaces it.
    let build = world.submit("k", "linux/amd64", &[]).await;
    let short = world.build(build).await.short_id;
    let of_build = [wanted("farm/app", StatusState::Pending, "builds", Some((build.id, short.clone())))];
    assert!(store.want_statuses(epoch, of, &commit, &of_build).await.unwrap());
    assert!(due(&world).await.is_empty());
    store.status_sent(epoch, &first[0]).await.unwrap();
    let twice = store.status_sent(epoch, &first[0]).await.unwrap_err();
    assert!(matches!(twice, StoreError::Stale(_)), "{twice}");
    let second = due(&world).await;
    assert_eq!(
        (said(&second), second[0].build.as_deref()),
        (vec!["farm/app pending 2".to_owned()], Some(short.as_str()))
    );

    // The forge can't now. What becomes of the build meanwhile is sent in its place.
    assert!(store.claim_status(epoch, &second[0]).await.unwrap());
    store.put_off_status(epoch, &second[0], Duration::from_secs(300), "away", true).await.unwrap();
    assert!(due(&world).await.is_empty() && store.ended_statuses(10).await.unwrap().is_empty());
    assert!(store.has_open_statuses().await.unwrap());
    let known = &store.hook_tokens(default_project()).await.unwrap()[0].1;
    assert_eq!((known.trouble.as_ref().unwrap().0.as_str(), known.waiting), ("away", 1));
    world.database.psql("UPDATE builds SET state = 'cancelled', finished_at = farm_now()");
    let ended = store.ended_statuses(10).await.unwrap();
    assert_eq!((ended.len(), ended[0].state), (1, Some(BuildState::Cancelled)));
    assert!(store.settle_status(epoch, &ended[0], StatusState::Cancelled, "cancelled").await.unwrap());
    assert!(!store.settle_status(epoch, &ended[0], StatusState::Cancelled, "cancelled").await.unwrap());
    // The delivery goes on, and says no more of it.
    assert!(!store.want_statuses(epoch, of, &commit, &of_build).await.unwrap());
    let third = due(&world).await;
    assert_eq!((said(&third), third[0].attempts), (vec!["farm/app cancelled 3".to_owned()], 0));
    assert!(!store.claim_status(epoch, &second[0]).await.unwrap(), "nobody wants that any more");
    assert!(store.claim_status(epoch, &third[0]).await.unwrap());
    store.status_sent(epoch, &third[0]).await.unwrap();
    assert!(due(&world).await.is_empty() && !store.has_open_statuses().await.unwrap());
    let known = &store.hook_tokens(default_project()).await.unwrap()[0].1;
    assert!(known.told_at.is_some() && known.trouble.is_none() && known.waiting == 0, "{known:?}");

    // A retry takes the build's place; the delivery, which knows nothing of it, doesn't take that back.
    let again = store.retry(&retry_of(build, "again", false), PUBLISH).await.unwrap();
    let fourth = due(&world).await;
    let short = world.build(again).await.short_id;
    assert_eq!(
        (said(&fourth), fourth[0].build.as_deref()),
        (vec!["farm/app pending 4".to_owned()], Some(short.as_str()))
    );
    assert!(!store.want_statuses(epoch, of, &commit, &of_build).await.unwrap());
}

#[tokio::test]
async fn what_was_given_up_is_sent_by_another_token_and_goes_with_its_hook() {
    let (world, waiting, commit) = told(&["1"]).await;
    let (store, epoch, of, project) = (&world.store, world.epoch, &waiting[0], default_project());
    let red = [wanted("farm", StatusState::Failure, ".farm.yaml: 2:1: no", None)];
    store.want_statuses(epoch, of, &commit, &red).await.unwrap();
    let first = due(&world).await;
    assert!(store.claim_status(epoch, &first[0]).await.unwrap());
    store.give_up_status(epoch, &first[0], "the token may not do that").await.unwrap();
    assert!(due(&world).await.is_empty() && !store.has_open_statuses().await.unwrap());
    store.set_hook_token(&tester(), project, "app", of.hook, &token()).await.unwrap();
    let known = &store.hook_tokens(project).await.unwrap()[0].1;
    assert_eq!((&known.trouble, known.waiting), (&None, 1));
    // What the one before was answered says nothing of the new one.
    store.put_off_status(epoch, &first[0], Duration::ZERO, "late", true).await.unwrap();
    assert_eq!(store.hook_tokens(project).await.unwrap()[0].1.trouble, None);
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

    // Old ones go; with the token, and with the hook, all do.
    world.pass("25 hours");
    store.remove_deliveries(epoch, Duration::from_secs(24 * 3600), 10).await.unwrap();
    assert_eq!(world.database.psql("SELECT count(*) FROM statuses"), "0");
    for is_hook in [false, true] {
        store.set_hook_token(&tester(), project, "app", of.hook, &token()).await.unwrap();
        assert!(store.want_statuses(epoch, of, &commit, &red).await.unwrap());
        if is_hook {
            store.remove_hook(&tester(), project, "app").await.unwrap();
        } else {
            assert!(store.remove_hook_token(&tester(), project, "app", of.hook).await.unwrap());
            assert!(!store.remove_hook_token(&tester(), project, "app", of.hook).await.unwrap());
            assert!(!store.want_statuses(epoch, of, &commit, &red).await.unwrap(), "nobody is told");
        }
        let left = "SELECT (SELECT count(*) FROM statuses) + (SELECT count(*) FROM hook_tokens)";
        assert_eq!(world.database.psql(left), "0");
    }
    let deeds = "SELECT string_agg(coalesce(detail->>'removed', 'set'), ' ' ORDER BY id) FROM audit WHERE action = 'hook.token'";
    assert_eq!(world.database.psql(deeds), "set set set true set");
}

#[tokio::test]
async fn of_two_deliveries_about_a_commit_the_one_that_was_asked_for_last_counts() {
    let (world, waiting, commit) = told(&["push", "tag"]).await;
    let (store, epoch) = (&world.store, world.epoch);
    let [push, tag] = &waiting[..] else { panic!() };
    let red = [wanted("farm", StatusState::Failure, "no such secret", None)];
    let app = |state| [wanted("farm/app", state, "why", None)];
    assert!(store.want_statuses(epoch, push, &commit, &red).await.unwrap());
    // What was red as a whole is mended by whoever gets further.
    assert!(store.want_statuses(epoch, tag, &commit, &app(StatusState::Pending)).await.unwrap());
    let mut all = said(&due(&world).await);
    all.sort();
    assert_eq!(all, ["farm success 2", "farm/app pending 1"]);
    assert!(!store.want_statuses(epoch, push, &commit, &red).await.unwrap(), "that is an earlier one");
    assert!(!store.want_statuses(epoch, push, &commit, &app(StatusState::Failure)).await.unwrap());
    let other: Commit = "b".repeat(40).parse().unwrap();
    assert!(
        store.want_statuses(epoch, push, &other, &app(StatusState::Pending)).await.unwrap(),
        "of another commit"
    );

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
    assert!(!store.want_statuses(epoch, push, &other, &app(StatusState::Failure)).await.unwrap());
    assert!(store.want_statuses(epoch, &again, &commit, &app(StatusState::Failure)).await.unwrap());
    // What it had said to be pending and comes to nothing is over with it.
    assert!(store.leave_statuses(epoch, &again, "it has moved on").await.unwrap());
    assert!(!store.leave_statuses(epoch, &again, "it has moved on").await.unwrap());
    let states = "SELECT string_agg(left(commit_id, 1) || ' ' || context || ' ' || state, ', ' ORDER BY commit_id, context) FROM statuses";
    assert_eq!(world.database.psql(states), "a farm success, a farm/app failure, b farm/app cancelled");
}
