//! The outbox of check runs: which run is under way, whether anybody has heard of it, and how it is begun anew.

use std::time::Duration;

use farm_store::StoreError;
use farm_store::default_project;
use farm_store::hooks::again::Anew;
use farm_store::hooks::deliveries::{DeliveryState, End};
use farm_store::hooks::sending::{CLAIM, Check, Counts, Untaken};
use farm_store::hooks::statuses::{Detail, StatusState, Wanted, Whole};
use farm_store::hooks::tokens::{KnownApp, SealedToken};

use crate::fixture::{World, tester};
use crate::statuses::{due, push_of, token, told, wanted};

fn app(id: i64) -> SealedToken {
    let app = KnownApp { name: "Iv23li".to_owned(), id, installation: 5 };
    SealedToken { app: Some(app), ..token() }
}

/// The check run of the one status that is due.
async fn check(world: &World) -> (i64, Check) {
    let due = due(world).await;
    assert_eq!(due.len(), 1, "{due:?}");
    (due[0].version, due[0].check)
}

#[tokio::test]
async fn a_check_run_is_looked_for_where_nobody_has_heard_of_it_and_what_is_over_begins_anew() {
    let (world, waiting) = told(&["1"]).await;
    let (store, epoch, of, about) = (&world.store, world.epoch, &waiting[0], push_of('a'));
    store.set_hook_token(&tester(), default_project(), "app", of.hook, &app(7)).await.unwrap();
    let known = store.hook_token(default_project(), of.hook).await.unwrap().unwrap().app.unwrap();
    assert_eq!((known.name.as_str(), known.id, known.installation), ("Iv23li", 7, 5));
    // What it is lent is noted as long as it has this key.
    let lends = || world.database.psql("SELECT lends_clones FROM hook_tokens");
    let version: uuid::Uuid = world.database.psql("SELECT version FROM hook_tokens").parse().unwrap();
    store.note_clones(default_project(), (of.hook, version), true).await.unwrap();
    assert_eq!(lends(), "t");
    let key = SealedToken { version: uuid::Uuid::new_v4(), ..app(7) };
    store.set_hook_token(&tester(), default_project(), "app", of.hook, &key).await.unwrap();
    store.note_clones(default_project(), (of.hook, version), true).await.unwrap();
    assert_eq!(lends(), "f");
    let want = async |state| {
        let wanted = [wanted("farm/app", state, "why", None)];
        store.want_statuses(epoch, of, &about, &wanted, Whole::Open).await.unwrap()
    };
    assert!(want(StatusState::Pending).await);
    let (first, none) = check(&world).await;
    assert_eq!(none, Check::default());
    // Whoever asks for it is killed: the next one knows that it was asked for, and by which id.
    let one = due(&world).await.remove(0);
    assert!(store.claim_status(epoch, &one).await.unwrap());
    world.pass(&format!("{} seconds", CLAIM.as_secs() + 1));
    assert_eq!(check(&world).await, (first, Check { of: Some(first), id: None, tried: Some(first) }));
    // The same where something newer is wanted meanwhile.
    assert!(want(StatusState::Failure).await);
    let (second, before) = check(&world).await;
    assert_eq!((second > first, before), (true, Check { of: Some(first), id: None, tried: Some(first) }));
    assert_eq!(due(&world).await[0].check_of(), first);
    // GitHub can't: that it may have made one stays known.
    let one = due(&world).await.remove(0);
    assert!(store.claim_status(epoch, &one).await.unwrap());
    let away = Untaken { why: "away", may_come: false };
    store.put_off_status(epoch, &one, away, Duration::ZERO, Counts::Away).await.unwrap();
    assert_eq!(check(&world).await.1.tried, Some(second));
    // It is taken, and not over: the same run goes on.
    let one = due(&world).await.remove(0);
    assert!(store.claim_status(epoch, &one).await.unwrap());
    store.check_sent(epoch, &one, 100, false).await.unwrap();
    assert!(due(&world).await.is_empty());
    let twice = store.check_sent(epoch, &one, 100, false).await.unwrap_err();
    assert!(matches!(twice, StoreError::Stale(_)), "{twice}");
    assert!(want(StatusState::Cancelled).await);
    assert_eq!(check(&world).await.1, Check { of: Some(first), id: Some(100), tried: None });
    // Once it is over, what comes after begins another.
    let one = due(&world).await.remove(0);
    assert!(store.claim_status(epoch, &one).await.unwrap());
    store.check_sent(epoch, &one, 100, true).await.unwrap();
    assert!(want(StatusState::Success).await);
    let (third, before) = check(&world).await;
    assert_eq!(before, Check::default());
    // It was over and nobody had heard that: the claim is given back, and another begins.
    let one = due(&world).await.remove(0);
    assert!(store.claim_status(epoch, &one).await.unwrap());
    store.begin_check_anew(epoch, &one).await.unwrap();
    assert_eq!(check(&world).await, (third, Check { of: Some(third), id: None, tried: None }));

    // Another key of the same App goes on with it; another App can't.
    let set = async |token: &SealedToken| {
        store.set_hook_token(&tester(), default_project(), "app", of.hook, token).await.unwrap();
    };
    set(&app(7)).await;
    assert_eq!(check(&world).await.1.of, Some(third));
    set(&app(8)).await;
    assert_eq!(check(&world).await.1, Check::default());
    assert_eq!(store.hook_tokens(default_project()).await.unwrap()[0].1.app.as_ref().unwrap().id, 8);
    // A token makes statuses, of which nothing of that is noted.
    set(&token()).await;
    let one = due(&world).await.remove(0);
    assert!(one.token.app.is_none() && store.claim_status(epoch, &one).await.unwrap());
    assert_eq!(
        world.database.psql("SELECT count(*) FROM statuses WHERE check_of IS NULL AND check_tried IS NULL"),
        "1"
    );
    store.status_sent(epoch, &one, None).await.unwrap();
}

#[tokio::test]
async fn what_is_held_an_older_coordinator_may_say_to_be_built() {
    let (world, waiting) = told(&["1"]).await;
    let (store, epoch, about) = (&world.store, world.epoch, push_of('a'));
    let held = Wanted {
        held: Some("7f3k2m".parse().unwrap()),
        ..wanted("farm/app", StatusState::Pending, "waits", None)
    };
    assert!(store.want_statuses(epoch, &waiting[0], &about, &[held], Whole::Open).await.unwrap());
    // Those of before know nothing of what is held.
    let build = "UPDATE statuses SET build_id = gen_random_uuid(), begun_id = gen_random_uuid(), build = '7f3k2n' WHERE held = '7f3k2m' RETURNING 1";
    assert_eq!(world.database.psql(build), "1");
    let end = "UPDATE statuses SET state = 'success' WHERE held = '7f3k2m' RETURNING 1";
    assert_eq!(world.database.psql(end), "1");
}

#[tokio::test]
async fn what_is_begun_anew_is_pending_and_processed_once_more_once() {
    let (world, waiting) = told(&["push", "again"]).await;
    let (store, epoch, about) = (&world.store, world.epoch, push_of('a'));
    let [push, again] = &waiting[..] else { panic!() };
    let end = End { state: DeliveryState::Failed, reason: String::new(), builds: Vec::new() };
    let detail = Detail { text: "2:1: no".to_owned(), places: vec![(2, "no".to_owned())] };
    let red = Whole::Red("2:1: no", &detail);
    assert!(store.want_statuses(epoch, push, &about, &[], red).await.unwrap());
    assert_eq!(due(&world).await[0].detail.as_ref(), Some(&detail));
    let anew = async |context| store.begin_anew(&tester(), again, &about.commit, context).await.unwrap();
    assert_eq!(anew(None).await, Anew::Goes, "it waits still");
    store.end_delivery(epoch, push, &end).await.unwrap();
    assert_eq!(anew(Some("farm/app")).await, Anew::Unknown);
    assert_eq!(anew(Some("farm")).await, Anew::Begun(vec!["push".to_owned()]));
    let shown = due(&world).await;
    assert_eq!((shown[0].state, &shown[0].detail), (StatusState::Pending, &None));
    // It is over once more; whoever has asked for that, and is asked again after a crash, begins nothing.
    let push = store.waiting_deliveries(10).await.unwrap().into_iter().find(|one| one.id == "push").unwrap();
    assert_eq!(push.run, 1);
    assert!(store.want_statuses(epoch, &push, &about, &[], red).await.unwrap(), "it is red again");
    store.end_delivery(epoch, &push, &end).await.unwrap();
    assert_eq!(anew(Some("farm")).await, Anew::Goes);
    assert_eq!(world.database.psql("SELECT count(*) FROM audit WHERE action = 'hook.redeliver'"), "1");
}
