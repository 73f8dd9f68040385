//! Webhooks: what is kept of them, what was delivered, and in which order refs were seen.

use std::collections::BTreeMap;
use std::time::Duration;

use farm_store::builds::mounts::SealedKey;
use farm_store::builds::submit::NewBuild;
use farm_store::hooks::builds::{Moves, OfDelivery, Part};
use farm_store::hooks::deliveries::{DeliveryState, End, Kept, NewDelivery, Says};
use farm_store::hooks::registered::{NewHook, by_hook};
use farm_store::hooks::secrets::SealedSecret;
use farm_store::{StoreError, default_project};
use farm_types::{Commit, HookId, RefName};
use uuid::Uuid;

use crate::fixture::{World, tester, world};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Bytes as they are: this crate opens nothing.
pub fn secret() -> SealedSecret {
    let key = SealedKey { by: "key".to_owned(), bytes: b"1".to_vec() };
    SealedSecret { id: Uuid::now_v7(), key, bytes: b"1".to_vec() }
}

pub fn hook(name: &str, secret: &SealedSecret) -> NewHook {
    NewHook {
        project: default_project(),
        id: HookId::generate(),
        name: name.to_owned(),
        provider: "github".to_owned(),
        host: "github.com".to_owned(),
        full_name: "acme/app".to_owned(),
        clone_url: Some("https://github.com/acme/app.git".to_owned()),
        api_url: None,
        address: Uuid::new_v4().simple().to_string(),
        publishes: Vec::new(),
        sweeps: true,
        secret: secret.clone(),
    }
}

pub async fn keep(world: &World, hook: &NewHook, secret: &SealedSecret, id: &str, body: &[u8]) -> Kept {
    kept(world, hook, secret, id, body, DeliveryState::Received).await
}

async fn kept(
    world: &World,
    hook: &NewHook,
    secret: &SealedSecret,
    id: &str,
    body: &[u8],
    state: DeliveryState,
) -> Kept {
    let headers = BTreeMap::from([("x-github-event".to_owned(), "push".to_owned())]);
    let new = NewDelivery {
        project: hook.project,
        hook: hook.id,
        id,
        event: "push",
        headers: &headers,
        body,
        secret: secret.id,
        state,
        reason: "",
        says: Says::Nothing,
    };
    world.store.keep_delivery(&new).await.unwrap()
}

#[tokio::test]
async fn a_delivery_is_kept_once_and_processed_until_it_is_over() {
    let world = world().await;
    let (store, epoch, project) = (&world.store, world.epoch, default_project());
    let older =
        "INSERT INTO coordinators (id, address, runs_schema) VALUES (gen_random_uuid(), 'http://old', 49)";
    world.database.psql(older);
    let first = secret();
    let app = hook("app", &first);
    let refused = store.add_hook(&tester(), &app).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Older(why) if why.contains("http://old")), "{refused}");
    world.database.psql("DELETE FROM coordinators WHERE address = 'http://old'");
    store.add_hook(&tester(), &app).await.unwrap();
    let twice = store.add_hook(&tester(), &hook("app", &secret())).await.unwrap_err();
    assert!(matches!(twice, StoreError::Conflict(_)), "{twice}");
    assert!(store.hook_called("nobody's", 10).await.unwrap().is_none());

    assert_eq!(keep(&world, &app, &first, "1", b"one").await, Kept::New);
    assert_eq!(keep(&world, &app, &first, "1", b"one").await, Kept::Again);
    assert_eq!(keep(&world, &app, &first, "1", b"other").await, Kept::Other);
    assert_eq!(keep(&world, &app, &secret(), "2", b"two").await, Kept::Gone, "by a secret that isn't its");
    assert_eq!(keep(&world, &app, &first, "2", b"two").await, Kept::New);
    assert_eq!(kept(&world, &app, &first, "3", b"three", DeliveryState::Ignored).await, Kept::New);
    assert_eq!(store.hook_called(&app.address, 10).await.unwrap().unwrap().waiting, 2);
    assert_eq!(store.hook_called(&app.address, 1).await.unwrap().unwrap().waiting, 1);

    let waiting = store.waiting_deliveries(10).await.unwrap();
    let ids: Vec<&str> = waiting.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids, ["1", "2"], "in the order in which they came");
    let [one, two] = &waiting[..] else { panic!() };
    let (headers, body) = store.delivered(one).await.unwrap().unwrap();
    assert_eq!((headers["x-github-event"].as_str(), body.as_slice()), ("push", &b"one"[..]));
    // One that can't be done now is done later, by whoever saw that it waits.
    store.put_off_delivery(epoch, one, Duration::from_secs(60), "away", false).await.unwrap();
    let done = |builds: &[&str]| End {
        state: DeliveryState::Done,
        reason: String::new(),
        builds: builds.iter().map(|&build| build.to_owned()).collect(),
    };
    let stale = store.end_delivery(epoch, one, &done(&[])).await.unwrap_err();
    assert!(matches!(stale, StoreError::Stale(_)), "{stale}");
    let now: Vec<String> =
        store.waiting_deliveries(10).await.unwrap().into_iter().map(|one| one.id).collect();
    assert_eq!(now, ["2"]);
    // Late ones, and those that are processed again, move no ref back.
    let (main, [a, b]): (RefName, [Commit; 2]) =
        ("refs/heads/main".parse().unwrap(), ["1", "2"].map(|digit| digit.repeat(40).parse().unwrap()));
    assert!(store.see_ref(epoch, two, &main, (Some(&b), None)).await.unwrap());
    assert!(!store.see_ref(epoch, one, &main, (Some(&a), None)).await.unwrap());
    assert!(store.see_ref(epoch, two, &main, (Some(&b), None)).await.unwrap());
    assert_eq!(world.database.psql("SELECT commit_id FROM ref_heads"), b.as_str());
    store.end_delivery(epoch, two, &done(&["7f3k2m"])).await.unwrap();
    let over =
        Kept::Over { state: DeliveryState::Done, reason: String::new(), builds: vec!["7f3k2m".to_owned()] };
    assert_eq!(keep(&world, &app, &first, "2", b"two").await, over);
    world.pass("61 seconds");
    let again = store.waiting_deliveries(10).await.unwrap();
    assert_eq!((again[0].id.as_str(), again[0].attempts), ("1", 1));
    let failed = End { state: DeliveryState::Failed, reason: "no".to_owned(), builds: Vec::new() };
    store.end_delivery(epoch, &again[0], &failed).await.unwrap();
    // A redelivery bears the same id, and mends what had failed.
    assert_eq!(keep(&world, &app, &first, "1", b"one").await, Kept::Again);
    assert_eq!(store.waiting_deliveries(10).await.unwrap()[0].attempts, 0);
    assert!(matches!(store.redeliver(&tester(), project, "app", "1").await, Err(StoreError::Conflict(_))));
    assert!(matches!(
        store.redeliver(&tester(), project, "app", "9").await,
        Err(StoreError::NotFound("delivery"))
    ));
    store.redeliver(&tester(), project, "app", "2").await.unwrap();
    // Whoever still processes the time before says nothing about this one.
    for late in [
        store.end_delivery(epoch, two, &done(&[])).await,
        store.go_on_with_delivery(epoch, two, Duration::ZERO, "goes on").await,
        store.put_off_delivery(epoch, two, Duration::ZERO, "away", false).await,
    ] {
        assert!(matches!(late, Err(StoreError::Stale(_))), "{late:?}");
    }
    let listed = store.deliveries(project, "app", None, 10).await.unwrap();
    let states: Vec<(&str, DeliveryState)> = listed.iter().map(|one| (one.id.as_str(), one.state)).collect();
    let received = DeliveryState::Received;
    assert_eq!(states, [("3", DeliveryState::Ignored), ("2", received), ("1", received)]);
    assert_eq!(store.deliveries(project, "app", Some(listed[1].sequence), 10).await.unwrap().len(), 1);

    // With the hook goes what it was told, when that is old; nothing follows from what waits.
    store.remove_hook(&tester(), project, "app").await.unwrap();
    assert!(matches!(store.remove_hook(&tester(), project, "app").await, Err(StoreError::NotFound("hook"))));
    assert_eq!(keep(&world, &app, &first, "4", b"four").await, Kept::Gone);
    assert!(store.hook_called(&app.address, 10).await.unwrap().is_none());
    assert!(store.waiting_deliveries(10).await.unwrap().is_empty());
    store.add_hook(&tester(), &hook("app", &secret())).await.unwrap();
    assert_eq!(store.remove_deliveries(epoch, DAY, 10).await.unwrap(), 0, "not old");
    world.pass("25 hours");
    assert_eq!(store.remove_deliveries(epoch, DAY, 10).await.unwrap(), 3);
    store.remove_deliveries(epoch, DAY, 10).await.unwrap();
    assert_eq!(world.database.psql("SELECT count(*) FROM hooks"), "1");
    let deeds = world
        .database
        .psql("SELECT string_agg(action, ' ' ORDER BY id) FROM audit WHERE action LIKE 'hook.%'");
    assert_eq!(deeds, "hook.add hook.redeliver hook.remove hook.add");
}

#[tokio::test]
async fn two_secrets_count_until_the_new_one_was_used_and_a_day_longer() {
    let world = world().await;
    let (store, project) = (&world.store, default_project());
    let (old, new) = (secret(), secret());
    let app = hook("app", &old);
    store.add_hook(&tester(), &app).await.unwrap();
    let rotate = async |with: &SealedSecret| store.rotate_hook(&tester(), project, "app", app.id, with).await;
    let counting = async || -> Vec<Uuid> {
        let called = store.hook_called(&app.address, 10).await.unwrap().unwrap();
        called.secrets.into_iter().map(|(id, _)| id).collect()
    };
    rotate(&new).await.unwrap();
    assert_eq!(counting().await, [new.id, old.id]);
    let third = rotate(&secret()).await.unwrap_err();
    assert!(matches!(&third, StoreError::Conflict(why) if why.contains("--finish")), "{third}");
    assert_eq!(keep(&world, &app, &old, "1", b"1").await, Kept::New);
    world.pass("25 hours");
    assert_eq!(counting().await, [new.id, old.id], "the new one wasn't used");
    assert_eq!(keep(&world, &app, &new, "2", b"2").await, Kept::New);
    world.pass("23 hours");
    assert_eq!(keep(&world, &app, &old, "3", b"3").await, Kept::New);
    world.pass("2 hours");
    assert_eq!(counting().await, [new.id]);
    assert_eq!(keep(&world, &app, &old, "4", b"4").await, Kept::Gone);
    // What has ended is no second one.
    let next = secret();
    rotate(&next).await.unwrap();
    assert!(store.finish_rotation(&tester(), project, "app", app.id).await.unwrap());
    assert!(!store.finish_rotation(&tester(), project, "app", app.id).await.unwrap());
    assert_eq!(counting().await, [next.id]);

    // The repository's id is the first that is said, by the hook.
    let by = by_hook("default", "app");
    assert_eq!(store.pin_repository(&by, project, app.id, "42").await.unwrap(), "42");
    assert_eq!(store.pin_repository(&by, project, app.id, "43").await.unwrap(), "42");
    assert_eq!(
        world.database.psql("SELECT principal FROM audit WHERE action = 'hook.repository'"),
        "hook:default/app"
    );
    assert_eq!(world.database.psql("SELECT kind FROM principals WHERE kind = 'hook'"), "hook");
    // Its key's use is known, and exchanged.
    assert_eq!(store.keys_in_use().await.unwrap(), [("key".to_owned(), 1)]);
    let [found] = &store.hook_keys_by(&["key".to_owned()], None, 9).await.unwrap()[..] else { panic!() };
    let other = SealedKey { by: "other".to_owned(), bytes: b"3".to_vec() };
    assert!(store.reseal_hook_key(world.epoch, found, &other).await.unwrap());
    assert!(!store.reseal_hook_key(world.epoch, found, &other).await.unwrap(), "that it was");
    let after = Some((found.project, found.hook, found.secret));
    assert!(store.hook_keys_by(&["other".to_owned()], after, 9).await.unwrap().is_empty());
}

#[tokio::test]
async fn deliveries_about_a_ref_take_turns_at_looking_and_a_place_is_of_what_the_ref_was_at() {
    let world = world().await;
    let (store, epoch) = (&world.store, world.epoch);
    let key = secret();
    let app = hook("app", &key);
    store.add_hook(&tester(), &app).await.unwrap();
    for id in ["1", "2", "3"] {
        keep(&world, &app, &key, id, id.as_bytes()).await;
    }
    let waiting = store.waiting_deliveries(10).await.unwrap();
    let [one, two, three] = &waiting[..] else { panic!() };
    let (main, other): (RefName, RefName) =
        ("refs/heads/main".parse().unwrap(), "refs/heads/other".parse().unwrap());
    let [a, b]: [Commit; 2] = ["1", "2"].map(|digit| digit.repeat(40).parse().unwrap());
    assert!(store.line_up(epoch, two, &main).await.unwrap());
    assert!(!store.line_up(epoch, one, &main).await.unwrap(), "another one looks, whichever came first");
    assert!(store.line_up(epoch, three, &other).await.unwrap(), "that is another ref");
    let of_two = store.place_delivery(epoch, two, &main, &b, Moves::Told).await.unwrap().unwrap();
    assert_eq!(of_two.follows, None);
    assert!(store.line_up(epoch, one, &main).await.unwrap());
    let of_one = store.place_delivery(epoch, one, &main, &a, Moves::Told).await.unwrap().unwrap();
    assert!(of_one.order_key > of_two.order_key);
    assert_eq!(of_one.follows.as_ref(), Some(&b), "what the ref was at when it was seen last");
    assert_eq!(
        store.place_delivery(epoch, one, &main, &a, Moves::Told).await.unwrap().unwrap(),
        of_one,
        "once"
    );

    // A build of what the ref was at later overtakes, and is of a delivery that waits.
    let of = |delivery: &str, image: &str, order_key| OfDelivery {
        hook: app.id,
        delivery: delivery.to_owned(),
        run: 0,
        part: Part::Image,
        image: image.to_owned(),
        git_ref: main.clone(),
        order_key: Some(order_key),
    };
    let build = |key: &str, of| NewBuild { of: Some(of), ..world.new_build(key, "linux/amd64", &[]) };
    assert!(!store.is_overtaken(two, &main, "app", of_two.order_key).await.unwrap());
    let newer = store.submit(&build("n", of("1", "app", of_one.order_key))).await.unwrap();
    assert!(store.is_overtaken(two, &main, "app", of_two.order_key).await.unwrap());
    assert!(!store.is_overtaken(two, &main, "web", of_two.order_key).await.unwrap(), "another image");
    let older = store.submit(&build("o", of("2", "app", of_two.order_key))).await.unwrap();
    let superseded = store.superseded(one, &main, "app", of_one.order_key).await;
    assert_eq!(superseded.unwrap(), [older.id]);
    let begun = store.begun(one).await.unwrap();
    assert_eq!(begun[&(Part::Image, "app".to_owned())], newer.id);

    // It is begun anew with nothing of what was, and what was read before that begins no more.
    store.put_off_delivery(epoch, three, Duration::ZERO, "not there yet", true).await.unwrap();
    let stale = store.line_up(epoch, three, &other).await.unwrap_err();
    assert!(matches!(stale, StoreError::Stale(_)), "{stale}");
    let stale = store.submit(&build("s", of("3", "app", 0))).await.unwrap_err();
    assert!(matches!(stale, StoreError::Stale(_)), "{stale}");
    store.remove_hook(&tester(), default_project(), "app").await.unwrap();
    let gone = store.submit(&build("g", of("1", "web", of_one.order_key))).await.unwrap_err();
    assert!(matches!(gone, StoreError::Stale(_)), "{gone}");
}

#[tokio::test]
async fn of_a_burst_of_pushes_to_a_ref_the_newest_is_looked_at_and_what_came_before_that_look_is_passed() {
    let world = world().await;
    let (store, epoch) = (&world.store, world.epoch);
    let key = secret();
    let app = hook("app", &key);
    store.add_hook(&tester(), &app).await.unwrap();
    for id in ["1", "2", "3", "4"] {
        keep(&world, &app, &key, id, id.as_bytes()).await;
    }
    let ids = async || -> Vec<String> {
        store.waiting_deliveries(10).await.unwrap().into_iter().map(|one| one.id).collect()
    };
    let waiting = store.waiting_deliveries(10).await.unwrap();
    let [one, two, three, four] = &waiting[..] else { panic!() };
    let (main, other): (RefName, RefName) =
        ("refs/heads/main".parse().unwrap(), "refs/heads/other".parse().unwrap());
    let [a, b, c, d]: [Commit; 4] = ["1", "2", "3", "4"].map(|digit| digit.repeat(40).parse().unwrap());
    store.see_ref(epoch, one, &main, (Some(&a), None)).await.unwrap();
    store.see_ref(epoch, two, &main, (Some(&b), Some(&a))).await.unwrap();
    store.see_ref(epoch, three, &main, (Some(&c), Some(&b))).await.unwrap();
    store.see_ref(epoch, four, &other, (Some(&d), None)).await.unwrap();
    // The first looks before anybody knows of the others; while it does, they are none of what is due.
    assert!(store.line_up(epoch, one, &main).await.unwrap());
    for behind in [two, three] {
        assert!(!store.line_up(epoch, behind, &main).await.unwrap());
    }
    assert!(store.line_up(epoch, four, &other).await.unwrap());
    assert_eq!(ids().await, ["1", "4"]);
    // It came to nothing. Now the newest of them, and not the next.
    let end = End { state: DeliveryState::Ignored, reason: "moved on".to_owned(), builds: Vec::new() };
    store.end_delivery(epoch, one, &end).await.unwrap();
    assert_eq!(ids().await, ["3", "4"]);
    // Unless that one waits for something else.
    store.put_off_delivery(epoch, three, Duration::from_secs(60), "away", false).await.unwrap();
    assert_eq!(ids().await, ["2", "4"]);
    world
        .database
        .psql("UPDATE deliveries SET due_at = farm_now() - interval '1 second', attempts = 0 WHERE id = '3'");
    assert_eq!(ids().await, ["3", "4"]);

    // Its look finds the ref: that says where it is to those that came before the look, and to no others.
    assert!(store.line_up(epoch, three, &main).await.unwrap());
    let rules = OfDelivery {
        hook: app.id,
        delivery: "3".to_owned(),
        run: 0,
        part: Part::Rules,
        image: String::new(),
        git_ref: main.clone(),
        order_key: None,
    };
    store.submit(&NewBuild { of: Some(rules), ..world.new_build("r", "linux/amd64", &[]) }).await.unwrap();
    // Where the ref was before, one delivery before the other; so a server that is late isn't taken for one where the ref has moved on.
    let befores = store.befores(three, &main, &c).await.unwrap();
    assert_eq!(befores.len(), 2);
    assert!(befores.contains(&a) && befores.contains(&b), "{befores:?}");
    assert_eq!(store.befores(two, &main, &b).await.unwrap(), std::slice::from_ref(&a));
    assert_eq!(store.passed_by(two, &main, &b).await.unwrap(), None);
    store.place_delivery(epoch, three, &main, &c, Moves::Told).await.unwrap().unwrap();
    assert_eq!(store.passed_by(two, &main, &b).await.unwrap(), Some(c.clone()));
    assert_eq!(
        store.passed_by(two, &main, &d).await.unwrap(),
        None,
        "nobody says that it was moved on from there"
    );
    assert_eq!(store.passed_by(two, &other, &b).await.unwrap(), None, "that is another ref");
    assert_eq!(store.passed_by(three, &main, &b).await.unwrap(), None, "it is the one that was seen");
    assert_eq!(store.passed_by(four, &main, &b).await.unwrap(), None, "it came later, and may be newer");
    assert_eq!(ids().await, ["3", "2", "4"], "each goes on");
    // Who has it processed once more wants to know where the ref is now.
    store.end_delivery(epoch, two, &end).await.unwrap();
    store.redeliver(&tester(), default_project(), "app", "2").await.unwrap();
    let waiting = store.waiting_deliveries(10).await.unwrap();
    let again = waiting.iter().find(|one| one.id == "2").unwrap();
    assert_eq!(store.passed_by(again, &main, &b).await.unwrap(), None);
    // What is gone, and comes back, was seen by nobody.
    store.place_delivery(epoch, again, &main, &b, Moves::Told).await.unwrap().unwrap();
    assert_eq!(store.passed_by(two, &main, &b).await.unwrap(), None, "by an earlier one nothing is passed");
}

#[tokio::test]
async fn a_hooks_own_rules_are_kept_so_often_a_day_and_the_same_ones_once() {
    let world = world().await;
    let (store, project) = (&world.store, default_project());
    let app = hook("app", &secret());
    store.add_hook(&tester(), &app).await.unwrap();
    let set = async |text: Option<&str>| store.set_hook_rules(&tester(), project, "app", app.id, text).await;
    assert!(set(Some("one")).await.unwrap());
    assert!(!set(Some("one")).await.unwrap());
    assert_eq!(world.database.psql("SELECT count(*) FROM hook_rules"), "1");
    assert!(set(None).await.unwrap() && !set(None).await.unwrap());
    assert!(set(Some("one")).await.unwrap());
    for n in 3..100 {
        assert!(set(Some(&format!("{n}"))).await.unwrap());
    }
    let refused = set(Some("more")).await.unwrap_err();
    assert!(matches!(refused, StoreError::Exhausted { .. }), "{refused}");
    assert_eq!(store.hook_rules(project, app.id, None).await.unwrap().unwrap().text, "99");
    world.pass("25 hours");
    assert!(set(Some("more")).await.unwrap());
}
