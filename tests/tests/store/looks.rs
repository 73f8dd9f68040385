//! What the farm delivers to its hooks itself: looks for pushes that weren't delivered, schedules, base images.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use farm_core::hooks::{Found, missed};
use farm_store::hooks::builds::Moves;
use farm_store::hooks::deliveries::{DeliveryState, End, Kept, NewDelivery, Says, Waiting};
use farm_store::hooks::looks::{Look, LookEnd, Turn};
use farm_store::hooks::own::{Made, NewOwn, Planned, Root};
use farm_store::hooks::registered::{NewHook, by_hook};
use farm_store::{StoreError, default_project};
use farm_types::{
    BuildSpec, Commit, FetchSpec, GitSource, HookId, ProjectId, RefName, Refs, SnapshotRef, Take,
};

use crate::fixture::{World, tester, world};
use crate::hooks::{hook, keep, secret};

pub const HOUR: Duration = Duration::from_secs(3600);

pub fn commit(n: u32) -> Commit {
    format!("{n:040x}").parse().unwrap()
}

pub fn name(of: &str) -> RefName {
    format!("refs/{of}").parse().unwrap()
}

pub fn listed(at: &[(&str, u32)]) -> Refs {
    let at = at.iter().map(|(of, n)| (name(of), commit(*n)));
    Refs::bounded(at, Some("main".to_owned()), false)
}

fn end(result: &str, is_trouble: bool, wait: Duration) -> LookEnd {
    LookEnd { result: result.to_owned(), is_trouble, wait }
}

pub fn own(event: &'static str, of: &str) -> NewOwn {
    let (of, body) = (of.to_owned(), b"{}".to_vec());
    NewOwn { event, of, body, lineage: Vec::new(), root: None, found: None, wait: Duration::ZERO }
}

/// Upon which move, as which of the images that rules name, told by which delivery.
pub fn root(id: u128, base: &str, told_by: u128) -> Option<Root> {
    let [id, told_by] = [id, told_by].map(uuid::Uuid::from_u128);
    Some(Root { id, base: base.to_owned(), told_by })
}

/// The hook that is to be looked for now.
pub async fn due(world: &World) -> Option<(ProjectId, HookId)> {
    world.store.due_look(Turn { sweeps: true, period: HOUR, but: &[], looking: &[] }).await.unwrap()
}

async fn begin(world: &World, hook: &NewHook) -> Look {
    let at = (hook.project, hook.id);
    assert_eq!(due(world).await, Some(at));
    world.store.begin_look(world.epoch, at).await.unwrap();
    assert!(
        matches!(world.store.begin_look(world.epoch, at).await, Err(StoreError::Stale(_))),
        "one at a time"
    );
    world.store.looks_under_way().await.unwrap().remove(0)
}

/// A look that comes back with this: what it makes up.
pub async fn look(world: &World, hook: &NewHook, refs: &Refs) -> Vec<String> {
    let look = begin(world, hook).await;
    back(world, &look, refs).await
}

async fn back(world: &World, look: &Look, refs: &Refs) -> Vec<String> {
    let (seen, _) = world.store.seen(look).await.unwrap();
    let Found::Refs(found) = missed(&seen, refs) else {
        world.store.end_look(world.epoch, look, &end("strange", true, HOUR)).await.unwrap();
        world.pass("1 hour");
        return vec!["strange or later".to_owned()];
    };
    let made =
        |(name, at): (&RefName, &Commit)| NewOwn { found: Some(at.clone()), ..own("sweep", name.as_str()) };
    let made: Vec<NewOwn> = found.moved.iter().map(made).collect();
    let done = end("fine", false, HOUR);
    world.store.take_look(world.epoch, look, (&found, &made), Some("main"), &done).await.unwrap();
    world.pass("1 hour");
    found.moved.keys().map(ToString::to_string).collect()
}

pub async fn waiting(world: &World) -> Vec<Waiting> {
    world.store.waiting_deliveries(100).await.unwrap()
}

/// Processes a delivery about a ref as far as its place.
pub async fn place(world: &World, of: &Waiting, at: (&str, u32), moves: Moves) -> bool {
    let (git_ref, commit) = (name(at.0), commit(at.1));
    assert!(world.store.line_up(world.epoch, of, &git_ref).await.unwrap());
    let placed = world.store.place_delivery(world.epoch, of, &git_ref, &commit, moves).await.unwrap();
    let over = End { state: DeliveryState::Done, reason: String::new(), builds: Vec::new() };
    world.store.end_delivery(world.epoch, of, &over).await.unwrap();
    placed.is_some()
}

#[tokio::test]
async fn a_look_notes_where_refs_are_and_makes_up_for_what_was_not_delivered_once() {
    let world = world().await;
    let (store, epoch, project) = (&world.store, world.epoch, default_project());
    let first = secret();
    let app = hook("app", &first);
    store.add_hook(&tester(), &app).await.unwrap();
    assert!(
        store.unlooked_hooks(10, true).await.unwrap().is_empty(),
        "nobody knows yet which repository it is"
    );
    store.pin_repository(&by_hook("default", "app"), project, app.id, "42").await.unwrap();
    assert_eq!(store.unlooked_hooks(10, true).await.unwrap(), [(project, app.id)]);
    store.plan_look(epoch, (project, app.id), HOUR).await.unwrap();
    assert_eq!(due(&world).await, None);
    world.pass("1 hour");
    // Whoever runs beside it and would read a delivery of the farm's own as a forge's is kept out.
    world.database.psql(
        "INSERT INTO coordinators (id, address, runs_schema) VALUES (gen_random_uuid(), 'http://old', 55)",
    );
    let refused = store.begin_look(epoch, (project, app.id)).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Older(why) if why.contains("http://old")), "{refused}");
    world.database.psql("DELETE FROM coordinators WHERE address = 'http://old'");

    let one = look(&world, &app, &listed(&[("heads/main", 1), ("tags/v1", 1)])).await;
    assert!(one.is_empty() && waiting(&world).await.is_empty(), "the first one only notes: {one:?}");
    assert_eq!(look(&world, &app, &listed(&[("heads/main", 2), ("tags/v1", 1)])).await, ["refs/heads/main"]);
    let made = waiting(&world).await.remove(0);
    assert_eq!(
        (made.own.as_deref(), made.default_branch.as_deref()),
        (Some("sweep refs/heads/main"), Some("main"))
    );
    // It is noted where it was, and made up for once, whatever becomes of that.
    assert_eq!(look(&world, &app, &listed(&[("heads/main", 2), ("tags/v1", 1)])).await, [""; 0]);
    assert!(place(&world, &made, ("heads/main", 2), Moves::Found).await);

    // A delivery that comes while a look goes on is left to itself, read or not.
    let going = begin(&world, &app).await;
    assert_eq!(keep(&world, &app, &first, "3", b"three").await, Kept::New);
    let (seen, best) = store.seen(&going).await.unwrap();
    assert!(seen.has_unread && best == Some(commit(2)), "{seen:?}");
    let three = waiting(&world).await.remove(0);
    store.see_ref(epoch, &three, &name("heads/main"), (Some(&commit(3)), None)).await.unwrap();
    assert!(place(&world, &three, ("heads/main", 3), Moves::Told).await);
    assert_eq!(back(&world, &going, &listed(&[("heads/main", 4), ("tags/v1", 1)])).await, [""; 0]);
    assert_eq!(look(&world, &app, &listed(&[("heads/main", 4), ("tags/v1", 1)])).await, ["refs/heads/main"]);
    // What was told meanwhile makes up for what was made up.
    assert_eq!(keep(&world, &app, &first, "4", b"four").await, Kept::New);
    let all = waiting(&world).await;
    let told = all.iter().find(|one| one.own.is_none()).unwrap();
    let found = all.iter().find(|one| one.own.is_some()).unwrap();
    assert!(place(&world, told, ("heads/main", 4), Moves::Told).await);
    assert!(!place(&world, found, ("heads/main", 4), Moves::Found).await);
    // What a release or a schedule says of a ref says nothing of a push.
    assert_eq!(keep(&world, &app, &first, "5", b"five").await, Kept::New);
    let release = waiting(&world).await.remove(0);
    assert!(place(&world, &release, ("tags/v2", 4), Moves::No).await);
    assert_eq!(
        look(&world, &app, &listed(&[("heads/main", 4), ("tags/v1", 1), ("tags/v2", 4)])).await,
        ["refs/tags/v2"]
    );
    let made = waiting(&world).await.remove(0);
    assert!(place(&world, &made, ("tags/v2", 4), Moves::Found).await);

    // Another repository, or none of its refs: nothing is taken from it.
    assert_eq!(look(&world, &app, &listed(&[("heads/main", 9)])).await, ["strange or later"]);
    let watched = store.watched(project).await.unwrap().remove(&app.id).unwrap();
    assert!(watched.ended.is_some_and(|(_, why, is_trouble)| is_trouble && why == "strange"));
    // A tag that is gone, and back where it was.
    assert_eq!(look(&world, &app, &listed(&[("heads/main", 4), ("tags/v1", 1)])).await, [""; 0]);
    assert_eq!(
        world.database.psql("SELECT git_ref FROM ref_heads WHERE gone_at IS NOT NULL"),
        "refs/tags/v2"
    );
    let all = [("heads/main", 4), ("tags/v1", 1), ("tags/v2", 4)];
    assert_eq!(look(&world, &app, &listed(&all)).await, [""; 0]);
    assert_eq!(look(&world, &app, &listed(&all[..2])).await, [""; 0]);
    store.remove_deliveries(epoch, 100 * 24 * HOUR, 10).await.unwrap();
    assert_eq!(world.database.psql("SELECT count(*) FROM ref_heads"), "3", "it isn't gone for long");
    world.pass("31 days");
    store.remove_deliveries(epoch, 100 * 24 * HOUR, 10).await.unwrap();
    assert_eq!(world.database.psql("SELECT count(*) FROM ref_heads"), "2");

    // Switched off, and what was pushed meanwhile is nobody's wish.
    store.set_sweeps(&tester(), project, "app", false).await.unwrap();
    assert_eq!(due(&world).await, None);
    store.set_sweeps(&tester(), project, "app", true).await.unwrap();
    assert_eq!(look(&world, &app, &listed(&[("heads/main", 4), ("heads/new", 5)])).await, [""; 0]);
    assert_eq!(
        look(&world, &app, &listed(&[("heads/main", 6), ("heads/new", 5)])).await,
        ["refs/heads/main"]
    );
}

#[tokio::test]
async fn a_name_that_became_anothers_stops_it_until_a_delivery_says_otherwise() {
    let world = world().await;
    let (store, project) = (&world.store, default_project());
    let first = secret();
    let app = hook("app", &first);
    store.add_hook(&tester(), &app).await.unwrap();
    store.pin_repository(&by_hook("default", "app"), project, app.id, "42").await.unwrap();
    let say = async |id: &str, says: Says<'_>| {
        let headers = BTreeMap::new();
        let new = NewDelivery {
            project,
            hook: app.id,
            id,
            event: "push",
            headers: &headers,
            body: b"{}",
            secret: first.id,
            state: DeliveryState::Ignored,
            reason: "",
            says,
        };
        store.keep_delivery(&new).await.unwrap();
        store.hooks(project).await.unwrap().remove(0).strayed
    };
    assert_eq!(say("1", Says::Same).await, "");
    assert_eq!(say("2", Says::Strayed("it is called acme/new")).await, "it is called acme/new");
    assert!(store.unlooked_hooks(10, true).await.unwrap().is_empty());
    assert_eq!(say("3", Says::Nothing).await, "it is called acme/new");
    assert_eq!(say("1", Says::Same).await, "it is called acme/new", "one that comes again says how it was");
    assert_eq!(say("4", Says::Same).await, "");
    assert_eq!(store.unlooked_hooks(10, true).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_look_that_finds_another_repository_stops_what_is_the_farms_own_until_a_delivery_says_otherwise() {
    let world = world().await;
    let (store, epoch, project) = (&world.store, world.epoch, default_project());
    let first = secret();
    let app = hook("app", &first);
    store.add_hook(&tester(), &app).await.unwrap();
    store.pin_repository(&by_hook("default", "app"), project, app.id, "42").await.unwrap();
    store.plan_look(epoch, (project, app.id), Duration::ZERO).await.unwrap();
    assert_eq!(keep(&world, &app, &first, "1", b"one").await, Kept::New);
    let one = waiting(&world).await.remove(0);
    assert!(!store.is_checked(&one, 2 * HOUR).await.unwrap());
    store.see_no_ref(epoch, &one).await.unwrap();
    assert!(look(&world, &app, &listed(&[("heads/main", 1)])).await.is_empty());
    assert!(store.is_checked(&one, 2 * HOUR).await.unwrap());
    world.pass("2 hours");
    assert!(!store.is_checked(&one, 2 * HOUR).await.unwrap(), "that was long ago");

    // The next one is looked at more closely; and then it is another one.
    let going = begin(&world, &app).await;
    assert!(!going.is_doubted);
    store.doubt_look(epoch, &going, &end("strange", true, HOUR)).await.unwrap();
    store.hurry_look(epoch, &one, "waits").await.unwrap();
    assert_eq!(due(&world).await, None, "one that came to nothing isn't hurried");
    world.pass("1 hour");
    let going = begin(&world, &app).await;
    assert!(going.is_doubted && going.is_on);
    store.stray(epoch, &going, "it is another one", &end("strange", true, HOUR)).await.unwrap();
    world.pass("1 hour");
    assert_eq!(due(&world).await, None);
    assert_eq!(waiting(&world).await.remove(0).strayed, "it is another one");
    let new = NewOwn { root: root(1, "*", 1), ..own("base_image", "r.example/a:1") };
    assert_eq!(store.make_own(epoch, project, &[(app.id, new)]).await.unwrap(), [Made::Gone]);
    let headers = BTreeMap::new();
    let same = NewDelivery {
        project,
        hook: app.id,
        id: "2",
        event: "push",
        headers: &headers,
        body: b"{}",
        secret: first.id,
        state: DeliveryState::Ignored,
        reason: "",
        says: Says::Same,
    };
    store.keep_delivery(&same).await.unwrap();
    assert_eq!(due(&world).await, Some((project, app.id)));

    // Nor is anything made up once nobody wants that, whatever a look brings back.
    let going = begin(&world, &app).await;
    store.set_sweeps(&tester(), project, "app", false).await.unwrap();
    let (seen, _) = store.seen(&going).await.unwrap();
    let Found::Refs(mut found) = missed(&seen, &listed(&[("heads/main", 1), ("heads/new", 2)])) else {
        panic!()
    };
    let made = [own("sweep", "refs/heads/new")];
    let done = end("fine", false, HOUR);
    let refused = store.take_look(epoch, &going, (&found, &made), None, &done).await.unwrap_err();
    assert!(matches!(refused, StoreError::Stale(_)), "{refused}");
    found.moved.clear();
    store.take_look(epoch, &going, (&found, &[]), None, &done).await.unwrap();
    // But with a schedule it is looked all the same.
    world.pass("1 hour");
    assert_eq!(due(&world).await, None);
    let now: DateTime<Utc> = store.now().await.unwrap();
    let schedules = vec![("nightly".to_owned(), "0 3 * * *".to_owned(), now + TimeDelta::hours(9))];
    store.plan_hook(epoch, &one, 7, &Planned { schedules, bases: Vec::new() }).await.unwrap();
    assert_eq!(due(&world).await, Some((project, app.id)));
    let host = ["https://github.com".to_owned()];
    let turn = Turn { sweeps: true, period: HOUR, but: &host, looking: &[] };
    assert_eq!(store.due_look(turn).await.unwrap(), None, "its host is asked already");
}

#[tokio::test]
async fn a_push_that_was_made_up_in_vain_is_found_again_three_times() {
    let world = world().await;
    let (store, epoch, project) = (&world.store, world.epoch, default_project());
    let first = secret();
    let app = hook("app", &first);
    store.add_hook(&tester(), &app).await.unwrap();
    store.pin_repository(&by_hook("default", "app"), project, app.id, "42").await.unwrap();
    store.plan_look(epoch, (project, app.id), Duration::ZERO).await.unwrap();
    assert!(look(&world, &app, &listed(&[("heads/main", 1), ("tags/v1", 1)])).await.is_empty());
    let now = listed(&[("heads/main", 2), ("tags/v1", 1)]);
    for _ in 0..3 {
        assert_eq!(look(&world, &app, &now).await, ["refs/heads/main"]);
        let made = waiting(&world).await.remove(0);
        let failed = End { state: DeliveryState::Failed, reason: "no".to_owned(), builds: Vec::new() };
        store.end_delivery(epoch, &made, &failed).await.unwrap();
    }
    assert_eq!(look(&world, &app, &now).await, [""; 0]);
    // Another commit is another matter.
    assert_eq!(look(&world, &app, &listed(&[("heads/main", 3), ("tags/v1", 1)])).await, ["refs/heads/main"]);
    let made = waiting(&world).await.remove(0);
    // A delivery that waits for its place goes before what was made up.
    assert_eq!(keep(&world, &app, &first, "1", b"one").await, Kept::New);
    let main = name("heads/main");
    assert!(!store.is_told(&made, &main).await.unwrap(), "nobody has read it yet");
    let all = waiting(&world).await;
    let one = all.iter().find(|one| one.own.is_none()).unwrap();
    store.see_ref(epoch, one, &main, (Some(&commit(3)), None)).await.unwrap();
    assert!(store.is_told(&made, &main).await.unwrap());
    assert!(place(&world, one, ("heads/main", 3), Moves::Told).await);
    assert!(!store.is_told(&made, &main).await.unwrap());
    assert!(store.is_placed_by_another(&made, &main, &commit(3)).await.unwrap());
    assert!(!store.is_placed_by_another(one, &main, &commit(3)).await.unwrap(), "it has its place itself");
    // A ref that is deleted, and is back where a look has seen it, was pushed anew.
    assert_eq!(keep(&world, &app, &first, "2", b"two").await, Kept::New);
    let all = waiting(&world).await;
    let gone = all.iter().find(|one| one.own.is_none()).unwrap();
    store.see_ref(epoch, gone, &name("tags/v1"), (None, None)).await.unwrap();
    assert_eq!(
        world
            .database
            .psql("SELECT count(*) FROM ref_heads WHERE git_ref = 'refs/tags/v1' AND listed IS NULL"),
        "1"
    );
}

#[tokio::test]
async fn a_push_that_was_made_up_and_has_found_its_ref_elsewhere_is_found_again_when_it_is_back() {
    let world = world().await;
    let (store, epoch, project) = (&world.store, world.epoch, default_project());
    let app = hook("app", &secret());
    store.add_hook(&tester(), &app).await.unwrap();
    store.pin_repository(&by_hook("default", "app"), project, app.id, "42").await.unwrap();
    store.plan_look(epoch, (project, app.id), Duration::ZERO).await.unwrap();
    assert!(look(&world, &app, &listed(&[("heads/main", 1), ("tags/v1", 1)])).await.is_empty());
    let now = listed(&[("heads/main", 2), ("tags/v1", 1)]);
    assert_eq!(look(&world, &app, &now).await, ["refs/heads/main"]);
    let made = waiting(&world).await.remove(0);
    let passed = End { state: DeliveryState::Ignored, reason: "moved on".to_owned(), builds: Vec::new() };
    store.end_delivery(epoch, &made, &passed).await.unwrap();
    assert_eq!(look(&world, &app, &now).await, ["refs/heads/main"]);
    // Once it has its place, what the rules make of it is another matter.
    let made = waiting(&world).await.remove(0);
    let main = name("heads/main");
    assert!(store.line_up(epoch, &made, &main).await.unwrap());
    store.place_delivery(epoch, &made, &main, &commit(2), Moves::Found).await.unwrap().unwrap();
    store.end_delivery(epoch, &made, &passed).await.unwrap();
    assert_eq!(look(&world, &app, &now).await, [""; 0]);
}

#[tokio::test]
async fn a_look_counts_against_no_limit_and_is_kept_for_a_day() {
    let world = world().await;
    let source = GitSource {
        repository: "https://git.example/app.git".parse().unwrap(),
        point: Default::default(),
        expected: None,
        subdir: String::new(),
        keep_git: false,
        submodules: false,
        lfs: Default::default(),
    };
    world.database.psql("UPDATE projects SET builds_per_minute = 1, max_queued_builds = 2");
    for n in 0..3 {
        let spec = BuildSpec::to_fetch(
            FetchSpec { source: source.clone().into(), take: Take::Refs },
            SnapshotRef::none(),
        );
        let new = farm_store::builds::submit::NewBuild {
            spec,
            ..world.new_build(&format!("look {n}"), "linux/amd64", &[])
        };
        world.store.submit(&new).await.unwrap();
    }
    world.submit("build", "linux/amd64", &[]).await;
    let used = world.store.used(default_project()).await.unwrap();
    assert_eq!((used.builds, used.queued_builds), (1, 1));
    let refused = world.store.submit(&world.new_build("more", "linux/amd64", &[])).await.unwrap_err();
    assert!(matches!(refused, StoreError::Exhausted { .. }), "{refused}");
}

#[tokio::test]
async fn schedules_come_once_and_images_that_move_often_are_built_upon_once() {
    let world = world().await;
    let (store, epoch, project) = (&world.store, world.epoch, default_project());
    let first = secret();
    let app = hook("app", &first);
    store.add_hook(&tester(), &app).await.unwrap();
    store.pin_repository(&by_hook("default", "app"), project, app.id, "42").await.unwrap();
    assert_eq!(keep(&world, &app, &first, "1", b"one").await, Kept::New);
    let one = waiting(&world).await.remove(0);
    store.note_default_branch(epoch, &one, "main").await.unwrap();
    // One that came before says nothing of it any more.
    let older = Waiting { sequence: one.sequence - 1, ..one.clone() };
    store.note_default_branch(epoch, &older, "master").await.unwrap();
    let now: DateTime<Utc> = store.now().await.unwrap();
    let image = "docker.io/library/python:3.13";
    let planned = |line: &str| Planned {
        schedules: vec![("nightly".to_owned(), line.to_owned(), now + TimeDelta::hours(1))],
        bases: vec![image.to_owned()],
    };
    store.plan_hook(epoch, &one, 7, &planned("0 3 * * *")).await.unwrap();
    // What an older push says counts no more.
    store.plan_hook(epoch, &one, 6, &planned("0 9 * * *")).await.unwrap();
    assert!(store.due_schedules(10).await.unwrap().is_empty());
    // The farm was down for two days.
    world.pass("49 hours");
    let due = store.due_schedules(10).await.unwrap();
    assert_eq!((due.len(), due[0].line.as_str(), due[0].is_on), (1, "0 3 * * *", true));
    let next = Some(due[0].now + TimeDelta::hours(1));
    let nightly = own("schedule", "nightly (0 3 * * *)");
    assert!(store.come(epoch, &due[0], next, Some(&nightly)).await.unwrap());
    assert!(matches!(store.come(epoch, &due[0], next, Some(&nightly)).await, Err(StoreError::Stale(_))));
    assert!(store.due_schedules(10).await.unwrap().is_empty());
    world.pass("1 hour");
    let due = store.due_schedules(10).await.unwrap();
    assert!(!store.come(epoch, &due[0], next, Some(&nightly)).await.unwrap(), "the one before waits");
    assert_eq!(waiting(&world).await.len(), 2);

    let tag = image.parse().unwrap();
    let upon = store.built_upon(project, &tag).await.unwrap();
    assert_eq!((upon.len(), upon[0].hook, upon[0].default_branch.as_str()), (1, app.id, "main"));
    assert!(
        store
            .built_upon(project, &"docker.io/library/python:3.12".parse().unwrap())
            .await
            .unwrap()
            .is_empty()
    );
    let (other, another) = (farm_types::HookId::generate(), farm_types::HookId::generate());
    for (n, lineage) in [(1, vec![other]), (2, vec![other, another]), (3, vec![])] {
        let new = NewOwn { lineage, root: root(n, image, n), ..own("base_image", image) };
        let made = store.make_own(epoch, project, &[(app.id, new.clone())]).await.unwrap();
        assert_eq!(made, [Made::There]);
        let new = NewOwn { root: root(n, image, n + 50), ..new };
        let again = store.make_own(epoch, project, &[(app.id, new)]).await.unwrap();
        assert_eq!(again, [Made::Known], "upon what all began by it builds once");
    }
    let all = waiting(&world).await;
    let of_image: Vec<&Waiting> = all
        .iter()
        .filter(|one| one.own.as_deref() == Some("base_image docker.io/library/python:3.13"))
        .collect();
    assert_eq!(of_image.len(), 1);
    assert_eq!(
        world.database.psql("SELECT cardinality(lineage) FROM deliveries WHERE own LIKE 'base_image%'"),
        "2"
    );
    // Once it was begun, a move leads to another one.
    assert!(store.line_up(epoch, of_image[0], &name("heads/main")).await.unwrap());
    let new = NewOwn { root: root(4, image, 4), ..own("base_image", image) };
    store.make_own(epoch, project, &[(app.id, new)]).await.unwrap();
    assert_eq!(waiting(&world).await.len(), all.len() + 1);
    // Of other images there are too many within the hour, whatever they are; those that join one that waits are none of these.
    let another = |n: u128| NewOwn {
        root: root(100 + n, "*", 100 + n),
        ..own("base_image", &format!("r.example/i:{n}"))
    };
    let many: Vec<(HookId, NewOwn)> = (0..12).map(|n| (app.id, another(n))).collect();
    let made = store.make_own(epoch, project, &many).await.unwrap();
    assert_eq!(made.iter().filter(|made| **made == Made::TooMany).count(), 2, "{made:?}");
    // Several images are one where one move has led to all of them.
    let image = |n: u128| format!("r.example/b:{n}");
    let led = |n: u128| NewOwn { root: root(100, &image(n), 200 + n), ..own("base_image", &image(n)) };
    let led: Vec<(HookId, NewOwn)> = (0..5).map(|n| (app.id, led(n))).collect();
    let made = store.make_own(epoch, project, &led).await.unwrap();
    assert!(made.iter().all(|made| !matches!(made, Made::TooMany | Made::Known)), "{made:?}");
    world.database.psql("UPDATE deliveries SET state = 'ignored', finished_at = farm_now() WHERE own LIKE 'base_image r.example%'");
    // It is processed once more like any other.
    let over = End { state: DeliveryState::Done, reason: String::new(), builds: Vec::new() };
    store.end_delivery(epoch, of_image[0], &over).await.unwrap();
    store.redeliver(&tester(), project, "app", &of_image[0].id).await.unwrap();
    let again = waiting(&world).await;
    assert!(again.iter().any(|one| one.id == of_image[0].id && one.is_asked_again() && one.own.is_some()));
    assert_eq!(store.came(&tag, None).await.unwrap(), None, "the farm hasn't put it there");
    let digest = Some(farm_types::Digest::of(b"its index"));
    assert_eq!(store.came(&tag, digest).await.unwrap(), None);
}
