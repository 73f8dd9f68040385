//! What the farm does of its own accord, beside what forges deliver: whom it asks, in whose turn, upon what it builds, and that it is in no
//! push's way.

use std::time::Duration;

use farm_store::hooks::builds::Moves;
use farm_store::hooks::deliveries::{DeliveryState, End, Waiting};
use farm_store::hooks::looks::Turn;
use farm_store::hooks::own::{Made, NewOwn, Planned, Root};
use farm_store::hooks::registered::{NewHook, by_hook};
use farm_store::{StoreError, default_project};
use farm_types::ProjectId;

use crate::fixture::{World, tester, world};
use crate::hooks::{hook, keep, secret};
use crate::looks::{HOUR, commit, due, listed, look, name, own, place, root, waiting};

/// A hook whose repository is known.
async fn added(world: &World, hook: &NewHook) {
    world.store.add_hook(&tester(), hook).await.unwrap();
    let by = by_hook("default", &hook.name);
    world.store.pin_repository(&by, hook.project, hook.id, "42").await.unwrap();
}

/// The same, and it is to be looked for now.
async fn planned(world: &World, hook: &NewHook) {
    added(world, hook).await;
    world.store.plan_look(world.epoch, (hook.project, hook.id), Duration::ZERO).await.unwrap();
}

async fn end(world: &World, of: &Waiting, state: DeliveryState) {
    let end = End { state, reason: "over".to_owned(), builds: Vec::new() };
    world.store.end_delivery(world.epoch, of, &end).await.unwrap();
}

async fn upon(world: &World, hook: &NewHook, image: &str, root: Option<Root>) -> Made {
    let new = NewOwn { root, ..own("base_image", image) };
    world.store.make_own(world.epoch, hook.project, &[(hook.id, new)]).await.unwrap()[0]
}

#[tokio::test]
async fn a_host_is_known_by_where_it_is_fetched_and_not_by_what_deliveries_call_it() {
    let world = world().await;
    for (name, url) in [
        ("away", "https://Away.example:8443/acme/app.git"),
        ("app", "https://github.com/acme/app.git"),
        ("key", "ssh://git@github.com/acme/app.git"),
        ("twin", "https://github.com/acme/twin.git"),
    ] {
        planned(&world, &NewHook { clone_url: Some(url.to_owned()), ..hook(name, &secret()) }).await;
    }
    let mut but = Vec::new();
    loop {
        let turn = Turn { sweeps: true, period: HOUR, but: &but, looking: &[] };
        let Some(due) = world.store.due_look(turn).await.unwrap() else { break };
        but.push(world.store.begin_look(world.epoch, due).await.unwrap());
    }
    assert_eq!(but, ["https://away.example:8443", "https://github.com", "ssh://github.com"]);
    let under_way = world.store.looks_under_way().await.unwrap();
    assert_eq!(under_way.into_iter().map(|look| look.asks).collect::<Vec<_>>(), but);
}

#[tokio::test]
async fn a_project_that_looks_somewhere_lets_others_go_first() {
    let world = world().await;
    let (store, project) = (&world.store, default_project());
    let web: ProjectId = store.create_project(&tester(), &"web".parse().unwrap(), None).await.unwrap();
    let [one, two, other] = [("one", project), ("two", project), ("other", web)].map(|(name, project)| {
        let clone_url = Some(format!("https://{name}.example/acme/app.git"));
        NewHook { project, clone_url, ..hook(name, &secret()) }
    });
    for hook in [&one, &two, &other] {
        planned(&world, hook).await;
        world.pass("1 minute");
    }
    let next = async |looking: &[ProjectId]| {
        let turn = Turn { sweeps: true, period: HOUR, but: &[], looking };
        store.due_look(turn).await.unwrap().unwrap().1
    };
    assert_eq!(next(&[]).await, one.id);
    store.begin_look(world.epoch, (project, one.id)).await.unwrap();
    assert_eq!(next(&[project]).await, other.id);
    assert_eq!(next(&[project, web]).await, two.id, "who waits for longest");
}

#[tokio::test]
async fn upon_one_move_a_hook_builds_once_for_each_image_that_its_rules_name() {
    let world = world().await;
    let (store, epoch, project) = (&world.store, world.epoch, default_project());
    let key = secret();
    let [named, any, both] = ["named", "any", "both"].map(|name| hook(name, &key));
    let (a, b, c) = ("r.example/a:1", "r.example/b:1", "r.example/c:1");
    for (hook, bases) in [(&named, vec![a, b]), (&any, vec!["*"]), (&both, vec!["*", b])] {
        added(&world, &NewHook { secret: secret(), ..hook.clone() }).await;
        let new = NewOwn { ..own("schedule", "nightly (0 3 * * *)") };
        store.make_own(epoch, project, &[(hook.id, new)]).await.unwrap();
        let one = waiting(&world).await.remove(0);
        store.note_default_branch(epoch, &one, "main").await.unwrap();
        let bases = bases.into_iter().map(str::to_owned).collect();
        store.plan_hook(epoch, &one, 7, &Planned { schedules: Vec::new(), bases }).await.unwrap();
        end(&world, &one, DeliveryState::Done).await;
    }
    let bases = async |image: &str| -> Vec<(String, String)> {
        let upon = store.built_upon(project, &image.parse().unwrap()).await.unwrap();
        upon.into_iter().map(|one| (one.name, one.base)).collect()
    };
    let pairs = |of: &[(&str, &str)]| -> Vec<(String, String)> {
        of.iter().map(|(name, base)| ((*name).to_owned(), (*base).to_owned())).collect()
    };
    assert_eq!(bases(b).await, pairs(&[("any", "*"), ("both", b), ("named", b)]));
    assert_eq!(bases(c).await, pairs(&[("any", "*"), ("both", "*")]));

    // What is built upon one isn't built upon the other.
    assert_eq!(upon(&world, &named, a, root(1, a, 1)).await, Made::There);
    assert_eq!(upon(&world, &named, b, root(1, b, 2)).await, Made::There);
    assert_eq!(upon(&world, &named, a, root(1, a, 3)).await, Made::Known);
    // Of whatever moves, and isn't named, the first will do; of what was built upon one that is named as well.
    assert_eq!(upon(&world, &any, a, root(1, "*", 1)).await, Made::There);
    assert_eq!(upon(&world, &any, b, root(1, "*", 2)).await, Made::Known);
    assert_eq!(upon(&world, &both, b, root(1, b, 2)).await, Made::There);
    assert_eq!(upon(&world, &both, a, root(1, "*", 1)).await, Made::Known);
    assert_eq!(upon(&world, &both, a, root(2, "*", 3)).await, Made::There);
    assert_eq!(upon(&world, &both, b, root(2, b, 4)).await, Made::There);

    // Who tells it once more, as the process had ended before it could say so, hears the same, and nothing is made.
    let before = world.database.psql("SELECT count(*) FROM deliveries");
    assert_eq!(upon(&world, &named, a, root(1, a, 1)).await, Made::There);
    assert_eq!(upon(&world, &any, b, root(1, "*", 2)).await, Made::Known, "that it was told of nothing came");
    assert_eq!(world.database.psql("SELECT count(*) FROM deliveries"), before);
    // What a coordinator of before has noted is of whichever.
    world.database.psql(&format!(
        "INSERT INTO hook_roots (project_id, hook_id, root, is_own) VALUES ('{project}', '{}', '{}', true)",
        named.id,
        uuid::Uuid::from_u128(9)
    ));
    assert_eq!(upon(&world, &named, a, root(9, a, 9)).await, Made::Known);
    world.pass("25 hours");
    store.remove_deliveries(epoch, 24 * HOUR, 100).await.unwrap();
    assert_eq!(world.database.psql("SELECT count(*) FROM hook_roots"), "0");
}

#[tokio::test]
async fn what_waits_for_a_look_keeps_no_push_waiting_and_what_has_its_place_goes_on() {
    let world = world().await;
    let (store, epoch, project) = (&world.store, world.epoch, default_project());
    let first = secret();
    let app = hook("app", &first);
    added(&world, &app).await;
    let nightly = own("schedule", "nightly (0 3 * * *)");
    store.make_own(epoch, project, &[(app.id, nightly)]).await.unwrap();
    let nightly = waiting(&world).await.remove(0);
    let main = name("heads/main");
    assert!(store.line_up(epoch, &nightly, &main).await.unwrap());
    keep(&world, &app, &first, "1", b"one").await;
    let push = waiting(&world).await.into_iter().find(|one| one.own.is_none()).unwrap();
    assert!(!store.line_up(epoch, &push, &main).await.unwrap(), "the schedule's rules are fetched");

    // Nobody knows any more whose the repository is. What was begun is begun anew, as its fetch is older than the push's will be.
    assert!(store.hurry_look(epoch, &nightly, "waits for a look").await.unwrap());
    assert_eq!(due(&world).await, Some((project, app.id)));
    let late = store.go_on_with_delivery(epoch, &nightly, Duration::ZERO, "goes on").await;
    assert!(matches!(late, Err(StoreError::Stale(_))), "{late:?}");
    let shown = store.deliveries(project, "app", None, 10).await.unwrap();
    assert_eq!(shown[1].reason, "waits for a look");
    assert!(place(&world, &push, ("heads/main", 2), Moves::Told).await);
    assert!(waiting(&world).await.is_empty());
    world.pass("6 seconds");
    let again = waiting(&world).await.remove(0);
    assert_eq!((again.run, again.attempts, again.is_placed), (nightly.run + 1, 0, false));
    // One that is in nobody's way only waits.
    assert!(!store.hurry_look(epoch, &again, "waits for a look").await.unwrap());
    store.go_on_with_delivery(epoch, &again, Duration::ZERO, "waits").await.unwrap();

    // Once it has its place it is of one commit, and goes on.
    assert!(store.line_up(epoch, &again, &main).await.unwrap());
    assert!(store.place_delivery(epoch, &again, &main, &commit(2), Moves::No).await.unwrap().is_some());
    let placed = waiting(&world).await.remove(0);
    assert!(placed.is_placed);
    assert!(!store.hurry_look(epoch, &placed, "waits for a look").await.unwrap());
    store.go_on_with_delivery(epoch, &placed, Duration::ZERO, "goes on").await.unwrap();
}

#[tokio::test]
async fn it_is_looked_for_the_sake_of_what_waits_for_that_alone() {
    let world = world().await;
    let app = NewHook { sweeps: false, ..hook("app", &secret()) };
    planned(&world, &app).await;
    assert_eq!(due(&world).await, None);
    let nightly = own("schedule", "nightly (0 3 * * *)");
    world.store.make_own(world.epoch, app.project, &[(app.id, nightly)]).await.unwrap();
    assert_eq!(due(&world).await, Some((app.project, app.id)));
    let nightly = waiting(&world).await.remove(0);
    end(&world, &nightly, DeliveryState::Done).await;
    assert_eq!(due(&world).await, None);
}

#[tokio::test]
async fn a_push_is_missed_while_the_one_before_it_is_built() {
    let world = world().await;
    let (store, epoch) = (&world.store, world.epoch);
    let first = secret();
    let app = hook("app", &first);
    planned(&world, &app).await;
    assert!(look(&world, &app, &listed(&[("heads/main", 1), ("tags/v1", 1)])).await.is_empty());
    keep(&world, &app, &first, "1", b"one").await;
    let push = waiting(&world).await.remove(0);
    let main = name("heads/main");
    store.see_ref(epoch, &push, &main, (Some(&commit(2)), None)).await.unwrap();
    assert!(store.line_up(epoch, &push, &main).await.unwrap());
    let now = listed(&[("heads/main", 3), ("tags/v1", 1)]);
    assert_eq!(look(&world, &app, &now).await, [""; 0], "it has no place yet");
    store.place_delivery(epoch, &push, &main, &commit(2), Moves::Told).await.unwrap().unwrap();
    assert_eq!(look(&world, &app, &now).await, ["refs/heads/main"]);
}

#[tokio::test]
async fn a_ref_that_was_deleted_and_is_back_where_it_was_built_is_made_up_for() {
    let world = world().await;
    let (store, epoch) = (&world.store, world.epoch);
    let first = secret();
    let app = hook("app", &first);
    planned(&world, &app).await;
    assert!(look(&world, &app, &listed(&[("heads/main", 1)])).await.is_empty());
    let tag = name("tags/v1");
    let all = listed(&[("heads/main", 1), ("tags/v1", 5)]);
    keep(&world, &app, &first, "1", b"one").await;
    let push = waiting(&world).await.remove(0);
    store.see_ref(epoch, &push, &tag, (Some(&commit(5)), None)).await.unwrap();
    assert!(place(&world, &push, ("tags/v1", 5), Moves::Told).await);
    assert_eq!(look(&world, &app, &all).await, [""; 0]);
    // It is gone, and nobody says so: that may be for any reason.
    assert_eq!(look(&world, &app, &listed(&[("heads/main", 1)])).await, [""; 0]);
    assert_eq!(look(&world, &app, &all).await, [""; 0]);
    keep(&world, &app, &first, "2", b"two").await;
    let deleted = waiting(&world).await.remove(0);
    store.see_ref(epoch, &deleted, &tag, (None, None)).await.unwrap();
    end(&world, &deleted, DeliveryState::Ignored).await;
    assert_eq!(look(&world, &app, &all).await, ["refs/tags/v1"]);
}

#[tokio::test]
async fn a_push_that_is_made_up_once_more_leaves_what_was_noted_since() {
    let world = world().await;
    let (store, project) = (&world.store, default_project());
    let app = hook("app", &secret());
    planned(&world, &app).await;
    assert!(look(&world, &app, &listed(&[("heads/main", 1), ("tags/v1", 1)])).await.is_empty());
    let now = |at| listed(&[("heads/main", at), ("tags/v1", 1)]);
    assert_eq!(look(&world, &app, &now(2)).await, ["refs/heads/main"]);
    let made = waiting(&world).await.remove(0);
    end(&world, &made, DeliveryState::Ignored).await;
    // Nobody has wanted it for a while, and what was pushed then is noted only.
    for sweeps in [false, true] {
        store.set_sweeps(&tester(), project, "app", sweeps).await.unwrap();
    }
    assert_eq!(look(&world, &app, &now(3)).await, [""; 0]);
    for state in [DeliveryState::Ignored, DeliveryState::Failed] {
        store.redeliver(&tester(), project, "app", &made.id).await.unwrap();
        let again = waiting(&world).await.remove(0);
        end(&world, &again, state).await;
        assert_eq!(look(&world, &app, &now(3)).await, [""; 0], "{state}");
    }
}

#[tokio::test]
async fn of_one_image_only_one_delivery_waits_whoever_wants_another_processed_once_more() {
    let world = world().await;
    let (store, project) = (&world.store, default_project());
    let app = hook("app", &secret());
    added(&world, &app).await;
    let image = "r.example/a:1";
    assert_eq!(upon(&world, &app, image, root(1, image, 1)).await, Made::There);
    let one = waiting(&world).await.remove(0);
    end(&world, &one, DeliveryState::Ignored).await;
    assert_eq!(upon(&world, &app, image, root(2, image, 2)).await, Made::There);
    let refused = store.redeliver(&tester(), project, "app", &one.id).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Conflict(why) if why.contains("another delivery about the image")),
        "{refused}"
    );
    let two = waiting(&world).await.remove(0);
    end(&world, &two, DeliveryState::Done).await;
    store.redeliver(&tester(), project, "app", &one.id).await.unwrap();
    assert_eq!(waiting(&world).await.remove(0).id, one.id);
}
