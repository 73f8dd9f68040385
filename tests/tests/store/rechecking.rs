//! Later looks at a tag that another put may have overtaken: who is looked for, and what a put back leaves behind.

use std::time::Duration;

use farm_store::StoreError;
use farm_store::builds::submit::Submitted;
use farm_store::publish::destinations::{Claim, DueDestination};
use farm_store::publish::rechecks::Recheck;
use farm_types::state::BuildState;
use farm_types::{Cause, Digest, Failure, FailureCode};

use crate::fixture::{PUBLISH, World, world};
use crate::publishing::{built, merged, put};
use crate::retrying::retry_of;

const LONGEST_PUT: Duration = Duration::from_secs(60);
const TAG: &str = "localhost:5002/app:1";

/// Claims the tag; what is put then is on its way.
async fn claim(world: &World, destination: &DueDestination) {
    world.store.destination_pushed(world.epoch, destination).await.unwrap();
    let claim = world.store.claim_tag(world.epoch, destination, "1", None, LONGEST_PUT).await.unwrap();
    assert_eq!(claim, Claim::Granted);
}

async fn publish(world: &World, destination: &DueDestination) {
    world.store.destination_pushed(world.epoch, destination).await.unwrap();
    assert_eq!(put(world, destination, "1").await, Claim::Granted);
}

async fn due(world: &World) -> Option<Recheck> {
    world.store.due_rechecks(10).await.unwrap().pop()
}

fn wanted(recheck: &Recheck) -> Option<Digest> {
    recheck.wanted.as_ref().map(|wanted| wanted.digest)
}

/// A retry of a build that has ended, built anew as `what`.
async fn retried(world: &World, of: Submitted, what: &str) -> (Submitted, Vec<DueDestination>) {
    let build = world.store.retry(&retry_of(of, what, false), PUBLISH).await.unwrap();
    built(world, build, what).await
}

#[tokio::test]
async fn a_late_put_of_the_build_that_was_retried_is_seen() {
    let world = world().await;
    let (old_build, old) = merged(&world, "old", &[TAG]).await;
    claim(&world, &old[0]).await;
    // Given up, and the user is told so; but what was sent may still come.
    let failure = Failure::new(Cause::User, FailureCode::RegistryAuth, "403");
    world.store.destination_failed(world.epoch, &old[0], &failure, None).await.unwrap();
    let (new_build, new) = retried(&world, old_build, "new").await;
    publish(&world, &new[0]).await;
    assert_eq!(world.state(new_build).await, BuildState::Succeeded);
    world.pass("61 s");
    let recheck = due(&world).await.expect("the same intent, another index");
    assert_eq!((wanted(&recheck), recheck.older), (Some(Digest::of(b"new")), vec![Digest::of(b"old")]));
}

#[tokio::test]
async fn who_leads_no_more_has_the_tag_of_his_builds_retry_looked_at() {
    let world = world().await;
    let (old_build, old) = merged(&world, "old", &[TAG]).await;
    let failure = Failure::new(Cause::User, FailureCode::RegistryAuth, "403");
    world.store.destination_failed(world.epoch, &old[0], &failure, None).await.unwrap();
    let (_, new) = retried(&world, old_build, "new").await;
    publish(&world, &new[0]).await;
    assert!(due(&world).await.is_none());
    let d = &old[0];
    world.store.ask_recheck(d.project, &d.repository, &d.tags, d.order_key, d.index_digest).await.unwrap();
    assert_eq!(wanted(&due(&world).await.unwrap()), Some(Digest::of(b"new")));
}

#[tokio::test]
async fn a_tag_that_is_put_back_is_claimed_so_that_whoever_follows_knows_of_that_put() {
    let world = world().await;
    let (_, first) = merged(&world, "first", &[TAG]).await;
    let (_, second) = merged(&world, "second", &[TAG]).await;
    publish(&world, &first[0]).await;
    publish(&world, &second[0]).await;
    world.pass("61 s");
    let recheck = due(&world).await.unwrap();
    world.store.claim_back(world.epoch, &recheck, LONGEST_PUT).await.unwrap();
    // The one who would put it back is stopped here, for long.
    world.pass("2 hours");
    let (_, third) = merged(&world, "third", &[TAG]).await;
    publish(&world, &third[0]).await;
    let stale = world.store.rechecked(world.epoch, &recheck, true, None, LONGEST_PUT).await;
    assert!(matches!(stale, Err(StoreError::Stale(_))), "{stale:?}");
    let stale = world.store.claim_back(world.epoch, &recheck, LONGEST_PUT).await;
    assert!(matches!(stale, Err(StoreError::Stale(_))), "{stale:?}");
    world.pass("61 s");
    for _ in 0..2 {
        let recheck = due(&world).await.expect("nobody knows whether that put is over");
        assert_eq!(wanted(&recheck), Some(Digest::of(b"third")));
        world.store.rechecked(world.epoch, &recheck, false, None, LONGEST_PUT).await.unwrap();
        world.pass("2 hours");
    }
}

#[tokio::test]
async fn a_tag_is_not_put_to_the_index_of_a_build_that_failed() {
    let world = world().await;
    let (_, first) = merged(&world, "first", &[TAG]).await;
    let (_, second) = merged(&world, "second", &[TAG]).await;
    let (third_build, third) = merged(&world, "third", &[TAG]).await;
    publish(&world, &first[0]).await;
    publish(&world, &second[0]).await;
    claim(&world, &third[0]).await;
    let failure = Failure::new(Cause::User, FailureCode::RegistryAuth, "403");
    world.store.destination_failed(world.epoch, &third[0], &failure, None).await.unwrap();
    assert_eq!(world.state(third_build).await, BuildState::Failed);
    world.pass("61 s");
    let recheck = due(&world).await.unwrap();
    assert_eq!(wanted(&recheck), Some(Digest::of(b"second")), "its user was told that tags are as before");
    assert_eq!(recheck.older, [Digest::of(b"third"), Digest::of(b"first")]);
    world.store.claim_back(world.epoch, &recheck, LONGEST_PUT).await.unwrap();
    world.store.rechecked(world.epoch, &recheck, true, None, LONGEST_PUT).await.unwrap();
    assert!(due(&world).await.is_none());
}

#[tokio::test]
async fn those_who_wait_for_one_registry_hide_nobody_elses() {
    let world = world().await;
    for n in 0..6 {
        merged(&world, &format!("down-{n}"), &["localhost:5003/down:1"]).await;
    }
    let (up, _) = merged(&world, "up", &[TAG]).await;
    world.pass("0 s");
    let due = world.store.due_destinations(3).await.unwrap();
    let registries: Vec<_> = due.iter().map(|d| d.repository.registry()).collect();
    assert_eq!(registries, ["localhost:5003", "localhost:5003", "localhost:5003", "localhost:5002"]);
    // The same of what is to be merged, and of tags that are looked at.
    for n in 0..6 {
        let build = world.submit(&format!("merge-{n}"), "linux/amd64", &["localhost:5003/down:1"]).await;
        let (worker, _) = world.worker(&format!("m-{n}"), 1).await;
        let lease = world.lease(build, 0, worker).await;
        world.finish(lease, crate::fixture::success("x")).await.unwrap();
    }
    let last = world.store.retry(&retry_of(ended(&world, up).await, "r", true), PUBLISH).await.unwrap();
    let due = world.store.due_merges(3).await.unwrap();
    assert_eq!((due.len(), due[3].build), (4, last.id));
    world.database.psql(
        "INSERT INTO tag_heads (project_id, registry, repository, tag, order_key, digest, epoch, recheck_at)
         SELECT id, CASE WHEN n < 6 THEN 'down:1' ELSE 'up:1' END, 'x', 'x' || n, 1, decode(repeat('00', 32), 'hex'), 1,
                farm_now() - make_interval(secs => 10 - n)
         FROM projects, generate_series(0, 6) n",
    );
    let due = world.store.due_rechecks(3).await.unwrap();
    assert_eq!((due.len(), due[3].repository.registry()), (4, "up:1"));
    assert!(due.iter().all(|recheck| recheck.wanted.is_none()));
}

/// Its destination refuses it: it has ended.
async fn ended(world: &World, build: Submitted) -> Submitted {
    let due = world.store.due_destinations(1000).await.unwrap();
    let failure = Failure::new(Cause::User, FailureCode::RegistryAuth, "403");
    for destination in due.iter().filter(|d| d.repository.registry() == "localhost:5002") {
        world.store.destination_failed(world.epoch, destination, &failure, None).await.unwrap();
    }
    assert_eq!(world.state(build).await, BuildState::Failed);
    build
}
