//! What untrusted machines build: who gets it, when it may be copied, and when it leaves the staging registry.

use std::time::Duration;

use farm_store::builds::retry::Retry;
use farm_store::builds::submit::Submitted;
use farm_store::publish::publications::DueMerge;
use farm_store::work::attempts::Lease;
use farm_store::work::finish::Outcome;
use farm_store::{StoreError, default_project};
use farm_types::state::{BuildState, JobState};
use farm_types::{Digest, JoinId, Repository, TrustClass, WorkerId};

use crate::fixture::{LEASE, PUBLISH, World, success, tester};
use crate::joining::{connect, connect_staging, join, patched};
use crate::retrying::retry_of;

const STAGING: &str = "staging.example:5004";
const TAG: &str = "r.example/team/app:1";

/// A world in which untrusted machines' engines are new enough.
async fn world() -> World {
    let mut world = crate::fixture::world().await;
    world.store = world.store.with_patched_engines(patched("docker 0"));
    world
}

/// A worker on an untrusted machine whose coordinator has a staging registry, and as what it joined.
async fn fork(world: &World) -> (WorkerId, JoinId) {
    let joined = join(world, "fork", TrustClass::Untrusted).await;
    (connect_staging(world, "fork", joined, true).await, joined.join)
}

/// A success that was pushed where the attempt pushes.
fn staged(lease: Lease, what: &str) -> Outcome {
    let Outcome::Succeeded { result, steps, .. } = success(what) else { panic!() };
    let repositories = vec![place(lease)];
    Outcome::Succeeded { result, repositories, steps }
}

fn place(lease: Lease) -> Repository {
    format!("{STAGING}/{}/{}", default_project(), lease.attempt).parse().unwrap()
}

/// A build of `platforms` that waits to be copied, and by which lease the first was built.
async fn built(world: &World, key: &str, tags: &[&str]) -> (Submitted, Lease) {
    let (worker, join) = fork(world).await;
    let build = world.submit(key, "linux/amd64", tags).await;
    let lease = Lease { holder: Some(join), ..world.lease(build, 0, worker).await };
    world.finish(lease, staged(lease, key)).await.unwrap();
    assert_eq!(world.state(build).await, BuildState::Publishing);
    (build, lease)
}

async fn due(world: &World, build: Submitted) -> DueMerge {
    world.store.due_merges(10).await.unwrap().into_iter().find(|due| due.build == build.id).unwrap()
}

fn uncopied(due: &DueMerge) -> Vec<String> {
    due.uncopied().flat_map(|(_, to)| to).map(|repository| repository.to_string()).collect()
}

#[tokio::test]
async fn what_pushes_goes_to_an_untrusted_machine_by_a_staging_registry_only_and_secrets_never() {
    let world = world().await;
    let plain = connect(&world, "plain", join(&world, "plain", TrustClass::Untrusted).await).await;
    let (fork, join) = fork(&world).await;
    let pushes = world.submit("pushes", "linux/amd64", &[TAG]).await;
    let refused = async |build, worker| {
        let planned = world.assignment(build, 0, worker).await;
        world.store.lease(world.epoch, planned, LEASE).await.unwrap_err()
    };
    assert!(matches!(refused(pushes, plain).await, StoreError::Stale(_)));
    let mounts = world.submit("mounts", "linux/amd64", &["r.example/mounts:1"]).await;
    world.database.psql(
        "UPDATE executions SET spec = spec || '{\"mounts\": {}}' WHERE 'r.example/mounts' = ANY(repositories)",
    );
    assert!(matches!(refused(mounts, fork).await, StoreError::Stale(_)));

    let latest = world.submit("latest", "linux/amd64", &["r.example/latest:1"]).await;
    world
        .database
        .psql("UPDATE executions SET protected = true WHERE 'r.example/latest' = ANY(repositories)");
    assert!(matches!(refused(latest, fork).await, StoreError::Stale(_)), "it moves a protected tag");

    // Nor while a coordinator runs that would offer it with its destinations, or publish what isn't there.
    let older =
        "INSERT INTO coordinators (id, address, runs_schema) VALUES (gen_random_uuid(), 'http://old', 43)";
    world.database.psql(older);
    let error = refused(pushes, fork).await;
    assert!(matches!(&error, StoreError::Older(why) if why.contains("http://old (schema 43)")), "{error}");
    world.database.psql("DELETE FROM coordinators WHERE address = 'http://old'");
    // Nor once it is connected to another coordinator, which may know of none.
    world.database.psql("UPDATE workers SET coordinator_id = gen_random_uuid() WHERE name = 'fork'");
    assert!(matches!(refused(pushes, fork).await, StoreError::Stale(_)));
    world.database.psql("UPDATE workers SET coordinator_id = staged_via WHERE name = 'fork'");

    let workers = world.store.workers().await.unwrap();
    assert!(workers.iter().all(|worker| worker.stages == (worker.name == "fork")), "{workers:?}");
    let lease = world.lease(pushes, 0, fork).await;
    let offered = world.store.offered_via(world.coordinator).await.unwrap();
    assert!(offered[0].staged && offered[0].trust == TrustClass::Untrusted, "{offered:?}");
    let others = Lease { holder: Some(JoinId::generate()), ..lease };
    assert!(world.store.leased_snapshot(others).await.is_err(), "the lease is for who has the certificate");
    let lease = Lease { holder: Some(join), ..lease };
    assert!(world.store.leased_snapshot(lease).await.unwrap().staged);
    assert_eq!(world.database.psql("SELECT oldest FROM schema_compat"), "44");
    // What pushes nowhere isn't staged.
    let kept = world.submit("kept", "linux/amd64", &[]).await;
    world.lease(kept, 0, plain).await;
    assert_eq!(world.database.psql("SELECT count(*) FROM attempts WHERE staged"), "1");
}

#[tokio::test]
async fn it_is_copied_to_each_destination_once_while_its_build_is_published() {
    let world = world().await;
    let (build, lease) = built(&world, "k", &[TAG, "q.example/app:1"]).await;
    let due_now = due(&world, build).await;
    assert_eq!(uncopied(&due_now), ["r.example/team/app", "q.example/app"]);
    let (pushed, to) = due_now.uncopied().next().unwrap();
    assert_eq!(pushed.attempt, lease.attempt);
    let (store, project) = (&world.store, default_project());
    store.may_copy(world.epoch, project, build.id, &to).await.unwrap();
    store.copied(world.epoch, (project, build.id), pushed, &to[0]).await.unwrap();
    assert_eq!(uncopied(&due(&world, build).await), [to[1].to_string()]);
    // Said again it is no other.
    store.copied(world.epoch, (project, build.id), pushed, &to[0]).await.unwrap();
    store.copied(world.epoch, (project, build.id), pushed, &to[1]).await.unwrap();
    assert_eq!(uncopied(&due(&world, build).await), [""; 0]);
    assert_eq!(world.database.psql("SELECT count(*) FROM pushed_digests"), "3");
    // Where it is removed again it has to be brought again.
    world.database.psql("UPDATE pushed_digests SET fate = 'removed' WHERE registry = 'q.example'");
    assert_eq!(uncopied(&due(&world, build).await), ["q.example/app"]);
    store.copied(world.epoch, (project, build.id), pushed, &"q.example/app".parse().unwrap()).await.unwrap();
    assert_eq!(uncopied(&due(&world, build).await), [""; 0]);

    store.cancel(&tester(), project, build.id, PUBLISH).await.unwrap();
    let late = store.copied(world.epoch, (project, build.id), pushed, &to[0]).await;
    assert!(matches!(late, Err(StoreError::Stale(_))), "{late:?}");
    let late = store.may_copy(world.epoch, project, build.id, &to).await;
    assert!(matches!(late, Err(StoreError::Stale(_))), "{late:?}");
}

#[tokio::test]
async fn a_repository_isnt_cleaned_while_something_is_copied_there_nor_the_other_way_round() {
    let world = world().await;
    let (build, _) = built(&world, "k", &[TAG]).await;
    let (store, at) = (&world.store, "r.example/team/app".parse::<Repository>().unwrap());
    let minute = Duration::from_secs(60);
    assert_eq!(store.begin_cleaning(world.epoch, &at, minute, minute, minute).await.unwrap(), None);
    let to = [at.clone()];
    store.may_copy(world.epoch, default_project(), build.id, &to).await.unwrap();
    world.database.psql("UPDATE cleanings SET until = farm_now() + interval '1 minute'");
    let refused = store.may_copy(world.epoch, default_project(), build.id, &to).await;
    assert!(matches!(refused, Err(StoreError::Stale(_))), "{refused:?}");
}

#[tokio::test]
async fn what_was_staged_is_unneeded_once_all_builds_that_want_it_have_ended() {
    let world = world().await;
    let (build, lease) = built(&world, "k", &[TAG]).await;
    let (store, project) = (&world.store, default_project());
    let unneeded = async || store.unneeded(STAGING, &[], 10).await.unwrap();
    assert_eq!(unneeded().await, []);
    store.cancel(&tester(), project, build.id, PUBLISH).await.unwrap();
    let found = unneeded().await;
    let [one] = &found[..] else { panic!("{found:?}") };
    assert_eq!((one.project, one.attempt, one.digest), (project, lease.attempt, Digest::of(b"k")));
    assert_eq!(store.unneeded("other.example", &[], 10).await.unwrap(), []);
    assert_eq!(store.unneeded(STAGING, &[lease.attempt], 10).await.unwrap(), []);
    // The usual cleaning, which waits for a day and knows logins, has nothing to do with it.
    world.pass("48 hours");
    assert_eq!(store.due_cleanings(Duration::from_secs(3600), 10).await.unwrap(), []);
    // A retry that takes it over wants it again.
    let retry = store.retry(&retry_of(build, "again", true), PUBLISH).await.unwrap();
    assert_eq!(world.state(retry).await, BuildState::Publishing);
    assert_eq!(unneeded().await, []);
    assert_eq!(uncopied(&due(&world, retry).await), ["r.example/team/app"]);
    store.cancel(&tester(), project, retry.id, PUBLISH).await.unwrap();
    store.unstaged(world.epoch, STAGING, one, true).await.unwrap();
    assert_eq!(unneeded().await, []);
    assert_eq!(world.database.psql("SELECT fate FROM pushed_digests"), "removed");
}

#[tokio::test]
async fn a_retry_asks_anew_whether_its_tag_is_protected_and_takes_nothing_over_from_untrusted_machines_then()
{
    let world = world().await;
    let (build, _) = built(&world, "old", &["r.example/app:v1"]).await;
    world.store.cancel(&tester(), default_project(), build.id, PUBLISH).await.unwrap();
    let protected = |key: &str, protected| Retry { protected, ..retry_of(build, key, true) };
    let open = world.store.retry(&protected("open", false), PUBLISH).await.unwrap();
    assert_eq!(world.build(open).await.jobs[0].state, JobState::Succeeded);
    let closed = world.store.retry(&protected("closed", true), PUBLISH).await.unwrap();
    assert_eq!(world.build(closed).await.jobs[0].state, JobState::Ready, "it is built anew");
    let state = world.store.schedule_state(64, &[]).await.unwrap();
    assert!(state.waiting.iter().any(|job| job.protected), "by a machine that is trusted");
}
