//! Mirrors that the farm repeats: when each is due, that none is begun twice, and in whose name it copies.

use std::time::Duration;

use farm_store::builds::submit::{NewBuild, Submitted};
use farm_store::people::audit::By;
use farm_store::people::read_limits::ReadLimit;
use farm_store::publish::mirror_runs::{Run, RunEnd};
use farm_store::publish::mirrors::{Mirror, NewMirror};
use farm_store::{StoreError, default_project};
use farm_types::{BuildSpec, CopySpec, CopyVerb, Digest, MirrorId, PrincipalId, Role};

use crate::fixture::{World, tester, world};

const HOUR: Duration = Duration::from_secs(3600);
const TO: &str = "localhost:5002/python:3.11";

fn new(to: &str) -> NewMirror {
    NewMirror {
        project: default_project(),
        id: MirrorId::generate(),
        source: "docker.io/library/python:3.11".parse().unwrap(),
        destination: to.parse().unwrap(),
        platforms: vec!["linux/arm/v7".parse().unwrap(), "linux/amd64".parse().unwrap()],
        per_arch: true,
        every: HOUR,
        owner: None,
        most: Role::Builder,
    }
}

async fn add(world: &World, new: &NewMirror) -> (Mirror, i64) {
    world.store.add_mirror(&tester(), new).await.unwrap()
}

async fn begun(world: &World) -> u64 {
    world.store.begin_mirrors(world.epoch, 100).await.unwrap()
}

async fn runs(world: &World) -> Vec<Run> {
    world.store.mirror_runs(100).await.unwrap()
}

/// The only one that goes on.
async fn run(world: &World) -> Run {
    let mut all = runs(world).await;
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}

async fn end(world: &World, run: &Run, end: RunEnd) {
    world.store.end_mirror_run(world.epoch, run, &end).await.unwrap();
}

async fn mirror(world: &World) -> Mirror {
    world.store.mirrors(default_project()).await.unwrap().remove(0)
}

/// A run's build of a part, as the leader makes it.
async fn build(world: &World, run: &Run, part: &str) -> Submitted {
    let copy = CopySpec { from: run.source.clone(), verb: CopyVerb::Mirror, platforms: Vec::new() };
    let spec = BuildSpec::to_copy(copy, vec![run.destination.clone()]);
    let new = NewBuild { spec, ..world.new_build(&run.key(part), "linux/amd64", &[]) };
    let made = world.store.submit(&new).await.unwrap();
    world.store.note_mirror_build(world.epoch, run, part, made.id).await.unwrap();
    made
}

fn copied() -> RunEnd {
    RunEnd::Copied(Digest::of(b"x"))
}

#[tokio::test]
async fn a_mirror_is_due_at_once_and_then_by_its_interval_and_what_was_missed_is_made_up_for_once() {
    let world = world().await;
    let (added, first) = add(&world, &new(TO)).await;
    assert_eq!((added.run, added.is_running, first), (0, false, 1));
    assert_eq!((begun(&world).await, begun(&world).await), (1, 0), "one that goes on isn't begun again");
    let going = run(&world).await;
    assert_eq!((going.number, going.builds.len(), going.owner.clone()), (1, 0, None));
    assert_eq!(going.platforms, new(TO).platforms);
    // However long it takes.
    world.pass("5 hours");
    assert_eq!(begun(&world).await, 0);
    end(&world, &going, copied()).await;
    let after = mirror(&world).await;
    assert_eq!((after.digest, after.trouble.as_str(), after.failures), (Some(Digest::of(b"x")), "", 0));
    let waits = after.next_at - world.store.now().await.unwrap();
    assert!(waits > chrono::TimeDelta::zero() && waits <= chrono::TimeDelta::hours(1), "{waits}");
    assert_eq!((begun(&world).await, runs(&world).await.len()), (0, 0));
    // A coordinator that was away for a day begins one.
    world.pass("1 day");
    assert_eq!((begun(&world).await, begun(&world).await), (1, 0));
    let second = run(&world).await;
    assert_eq!(second.number, 2);
    end(&world, &second, copied()).await;
    assert_eq!(begun(&world).await, 0);
    // An hour later it is due again, not a moment before.
    let next = mirror(&world).await.next_at;
    let wait = next - world.store.now().await.unwrap();
    world.pass(&format!("{} milliseconds", wait.num_milliseconds() - 2000));
    assert_eq!(begun(&world).await, 0);
    world.pass("3 seconds");
    assert_eq!(begun(&world).await, 1);
    // Whoever has lost its leadership begins none, and ends none.
    let third = run(&world).await;
    world.database.psql("UPDATE leader SET epoch = epoch + 1");
    let refused = world.store.end_mirror_run(world.epoch, &third, &copied()).await.unwrap_err();
    assert!(matches!(refused, StoreError::NotLeading), "{refused}");
}

#[tokio::test]
async fn a_run_knows_its_builds_and_another_one_only_its_own() {
    let world = world().await;
    add(&world, &new(TO)).await;
    begun(&world).await;
    let going = run(&world).await;
    let (main, part) = (build(&world, &going, "").await, build(&world, &going, "amd64").await);
    assert_ne!(going.key(""), going.key("amd64"));
    let seen = run(&world).await;
    let ids = [main, part].map(|one| one.id);
    let mut found = Vec::new();
    for (part, id) in ["", "amd64"].into_iter().zip(ids) {
        let record = world.store.build_by_id(default_project(), id).await.unwrap();
        found.push(seen.build(part).unwrap().short_id == record.short_id);
    }
    assert_eq!((found, seen.builds.len()), (vec![true, true], 2));
    // Who takes over in the middle makes no other: the key is known.
    assert!(build(&world, &seen, "").await == Submitted { id: main.id, replayed: true });
    assert_eq!(mirror(&world).await.build.unwrap(), seen.build("").unwrap().short_id.to_string());
    // It is looked at again when that was said, and not before.
    world.store.look_at_mirror_later(world.epoch, &seen, HOUR, true).await.unwrap();
    assert!(runs(&world).await.is_empty());
    world.pass("1 hour");
    assert_eq!(run(&world).await.tries, 1);
    end(&world, &seen, copied()).await;
    let late = world.store.note_mirror_build(world.epoch, &seen, "arm64", main.id).await.unwrap_err();
    assert!(matches!(late, StoreError::Stale(_)), "{late}");
    world.pass("2 hours");
    begun(&world).await;
    let next = run(&world).await;
    assert!(next.builds.is_empty() && next.key("") != seen.key(""), "{next:#?}");
    build(&world, &next, "").await;
    assert_eq!(world.database.psql("SELECT count(*) FROM mirror_builds"), "1", "the others are forgotten");
}

#[tokio::test]
async fn failures_put_it_off_and_what_is_asked_for_anew_begins_at_once() {
    let world = world().await;
    add(&world, &new(TO)).await;
    let mut waits = Vec::new();
    for n in 1..=3 {
        begun(&world).await;
        let going = run(&world).await;
        end(&world, &going, RunEnd::Failed(format!("no {n}"))).await;
        let now = mirror(&world).await;
        assert_eq!((now.failures, now.trouble.as_str(), now.digest), (n, format!("no {n}").as_str(), None));
        waits.push((now.next_at - world.store.now().await.unwrap()).num_minutes());
        world.pass("5 hours");
    }
    assert!((59..67).contains(&waits[0]) && (119..127).contains(&waits[1]), "{waits:?}");
    assert!((170..247).contains(&waits[2]), "{waits:?}");
    // The same, more often: it is tried now.
    let often = NewMirror { every: Duration::from_secs(600), id: MirrorId::generate(), ..new(TO) };
    let (same, next) = add(&world, &often).await;
    assert_eq!((same.run, next, same.failures, same.every_seconds), (3, 4, 0, 600));
    assert_eq!(begun(&world).await, 1);
    // And while that goes on, it is that one.
    assert_eq!(add(&world, &often).await.1, 4);
    // Another image for the tag takes its place, and what the first one's run makes is nothing to it.
    let before = run(&world).await;
    let (other, next) = add(&world, &NewMirror { source: "r.example/a:1".parse().unwrap(), ..new(TO) }).await;
    assert_eq!((other.run, next, other.source.as_str()), (0, 1, "r.example/a:1"));
    let gone = world.store.end_mirror_run(world.epoch, &before, &copied()).await.unwrap_err();
    assert!(matches!(gone, StoreError::Stale(_)), "{gone}");
    assert_eq!(world.store.mirrors(default_project()).await.unwrap().len(), 1);
    // What is refused before there is a build is audited, as nothing else tells of it.
    begun(&world).await;
    let going = run(&world).await;
    end(&world, &going, RunEnd::Refused("ada is in project default no more".to_owned())).await;
    let told = "SELECT principal || ' ' || subject || ' ' || (detail ->> 'why') FROM audit WHERE action = 'mirror.refused'";
    assert_eq!(world.database.psql(told), format!("test {TO} ada is in project default no more"));
    let removed =
        world.store.remove_mirror(&tester(), default_project(), &TO.parse().unwrap()).await.unwrap();
    assert_eq!(removed.source, "r.example/a:1");
    let again =
        world.store.remove_mirror(&tester(), default_project(), &TO.parse().unwrap()).await.unwrap_err();
    assert!(matches!(again, StoreError::NotFound(_)), "{again}");
    let deeds = "SELECT string_agg(action, ' ' ORDER BY id) FROM audit WHERE action LIKE 'mirror.%'";
    assert_eq!(
        world.database.psql(deeds),
        "mirror.add mirror.add mirror.add mirror.add mirror.refused mirror.remove"
    );
}

#[tokio::test]
async fn a_run_copies_in_the_name_of_whoever_has_asked_as_that_one_stands_now() {
    let world = world().await;
    let (store, project) = (&world.store, default_project());
    store.set_member(&tester(), project, "ada", Role::Publisher).await.unwrap();
    let ada: PrincipalId =
        world.database.psql("SELECT id FROM principals WHERE name = 'ada'").parse().unwrap();
    let by = By { name: "ada".to_owned(), ..tester() };
    let of_ada = NewMirror { owner: Some(ada), most: Role::Publisher, ..new(TO) };
    store.add_mirror(&by, &of_ada).await.unwrap();
    begun(&world).await;
    let owner = async || run(&world).await.owner.unwrap();
    assert_eq!((owner().await.role, owner().await.name.as_str()), (Some(Role::Publisher), "ada"));
    assert_eq!(run(&world).await.most, Role::Publisher);
    store.set_member(&tester(), project, "ada", Role::Viewer).await.unwrap();
    assert_eq!(owner().await.role, Some(Role::Viewer));
    assert_eq!(store.lasting_role(project, ada).await.unwrap(), Some(Role::Viewer));
    store.remove_member(&tester(), project, "ada").await.unwrap();
    assert_eq!((owner().await.role, store.lasting_role(project, ada).await.unwrap()), (None, None));
    store.set_farm_admin(&tester(), "ada", true).await.unwrap();
    assert_eq!(owner().await.role, Some(Role::Admin));
    // One bad row is left out, and told.
    add(&world, &new("localhost:5002/other:1")).await;
    begun(&world).await;
    world.database.psql(&format!("UPDATE mirrors SET source = '::' WHERE destination = '{TO}'"));
    assert_eq!(run(&world).await.destination.to_string(), "localhost:5002/other:1");
}

#[tokio::test]
async fn a_project_has_so_many_mirrors_and_none_when_it_is_removed() {
    let world = world().await;
    let store = &world.store;
    let web = store.create_project(&tester(), &"web".parse().unwrap(), None).await.unwrap();
    let of_web = |n: usize| NewMirror { project: web, ..new(&format!("localhost:5002/a:{n}")) };
    for n in 0..100 {
        add(&world, &of_web(n)).await;
    }
    let refused = store.add_mirror(&tester(), &of_web(100)).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Exhausted { what, .. } if what.contains("farm mirror rm")),
        "{refused}"
    );
    assert_eq!(add(&world, &of_web(99)).await.0.destination, "localhost:5002/a:99", "it is there already");
    // Those that were asked for at one moment don't all come back at one.
    world.store.begin_mirrors(world.epoch, 1000).await.unwrap();
    for run in store.mirror_runs(1000).await.unwrap() {
        end(&world, &run, copied()).await;
    }
    let spread =
        "SELECT extract(epoch FROM max(next_at) - min(next_at))::int BETWEEN 60 AND 366 FROM mirrors";
    assert_eq!(world.database.psql(spread), "t");
    store.remove_project(&tester(), web).await.unwrap();
    assert_eq!(world.database.psql("SELECT count(*) FROM mirrors"), "0");
}

#[tokio::test]
async fn what_registries_let_be_read_is_told_by_any_coordinator_and_of_the_login_that_counts() {
    let world = world().await;
    let store = &world.store;
    let limit = |remaining| ReadLimit { remaining, of: 100, window_seconds: 21_600 };
    for remaining in [7, 6] {
        store.note_read_limit(None, "docker.io", limit(remaining)).await.unwrap();
    }
    let said = store.read_limits().await.unwrap();
    assert_eq!((said.len(), said[0].host.as_str(), said[0].limit), (1, "docker.io", limit(6)));
    // Of a login that isn't there nothing is kept.
    store.note_read_limit(Some(uuid::Uuid::from_u128(1)), "docker.io", limit(1)).await.unwrap();
    assert_eq!(store.read_limits().await.unwrap().len(), 1);
    world.pass("8 days");
    store.note_read_limit(None, "r.example", limit(5)).await.unwrap();
    let hosts: Vec<String> = store.read_limits().await.unwrap().into_iter().map(|said| said.host).collect();
    assert_eq!(hosts, ["r.example"], "what is old is forgotten");
    for n in 0..250 {
        store.note_read_limit(None, &format!("r{n}.example"), limit(5)).await.unwrap();
    }
    assert_eq!(store.read_limits().await.unwrap().len(), 200);
}
