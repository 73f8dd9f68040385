//! Publications: steps that can be repeated, tags in the order of intent.

use std::time::Duration;

use farm_store::builds::submit::Submitted;
use farm_store::publish::destinations::{Claim, DueDestination};
use farm_store::publish::publications::DueMerge;
use farm_store::{StoreError, default_project};
use farm_tests::session::Session;
use farm_types::state::{BuildState, TagState};
use farm_types::{Cause, Digest, Failure, FailureCode};

use crate::fixture::{PUBLISH, World, index, success, tester, world};
use crate::interleavings::stopped;

/// A build of one platform that is built and merged, with its destinations.
pub async fn merged(world: &World, key: &str, tags: &[&str]) -> (Submitted, Vec<DueDestination>) {
    let build = world.submit(key, "linux/amd64", tags).await;
    built(world, build, key).await
}

/// An accepted build of one platform, built and merged as `key`.
pub async fn built(world: &World, build: Submitted, key: &str) -> (Submitted, Vec<DueDestination>) {
    let (worker, _) = world.worker(&format!("w-{key}"), 1).await;
    let lease = world.lease(build, 0, worker).await;
    world.finish(lease, success(key)).await.unwrap();
    let due = world.store.due_merges(1000).await.unwrap().into_iter().find(|d| d.build == build.id).unwrap();
    let sizes = [("linux/amd64".parse().unwrap(), 7)];
    world.store.keep_publication(world.epoch, &due, &index(key), &sizes).await.unwrap();
    assert!(world.store.keep_publication(world.epoch, &due, &index(key), &[]).await.is_err(), "kept twice");
    let bytes = key.as_bytes();
    let mut destinations = world.store.due_destinations(1000).await.unwrap();
    destinations.retain(|d| d.bytes == bytes);
    (build, destinations)
}

async fn claim(world: &World, destination: &DueDestination, tag: &str) -> farm_store::Result<Claim> {
    let before = Some(Digest::of(b"before"));
    world.store.claim_tag(world.epoch, destination, tag, before, Duration::from_secs(60)).await
}

pub async fn put(world: &World, destination: &DueDestination, tag: &str) -> Claim {
    let claim = claim(world, destination, tag).await.unwrap();
    if claim == Claim::Granted {
        world.store.tag_put(world.epoch, destination, tag).await.unwrap();
        world.store.tag_verified(world.epoch, destination, tag).await.unwrap();
    }
    claim
}

#[tokio::test]
async fn a_build_succeeds_when_every_destination_has_the_index_and_every_tag_is_verified() {
    let world = world().await;
    let tags = ["localhost:5002/app:1", "localhost:5002/app:2", "localhost:5002/other:1"];
    let (build, destinations) = merged(&world, "k", &tags).await;
    assert_eq!(destinations.len(), 2);
    for destination in &destinations {
        assert_eq!(world.state(build).await, BuildState::Publishing);
        world.store.destination_pushed(world.epoch, destination).await.unwrap();
        for tag in &destination.tags {
            assert_eq!(put(&world, destination, tag).await, Claim::Granted);
        }
    }
    let record = world.build(build).await;
    assert_eq!(record.state, BuildState::Succeeded);
    assert_eq!(record.jobs[0].result.as_ref().unwrap().image_bytes, 7);
    let publication = record.publication.unwrap();
    let tags: Vec<_> = publication.destinations.iter().flat_map(|d| &d.tags).collect();
    assert!(
        tags.iter().all(|tag| tag.state == TagState::Verified && tag.previous == Some(Digest::of(b"before")))
    );
    assert!(world.store.due_destinations(10).await.unwrap().is_empty());
    assert!(world.store.due_merges(1000).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_older_intention_never_passes_a_newer_one() {
    let world = world().await;
    let (old, old_destinations) = merged(&world, "old", &["localhost:5002/app:1"]).await;
    let (new, new_destinations) = merged(&world, "new", &["localhost:5002/app:1"]).await;
    for (destinations, expected) in
        [(&new_destinations, Claim::Granted), (&old_destinations, Claim::Superseded)]
    {
        world.store.destination_pushed(world.epoch, &destinations[0]).await.unwrap();
        assert_eq!(put(&world, &destinations[0], "1").await, expected);
    }
    assert_eq!(world.state(new).await, BuildState::Succeeded);
    let record = world.build(old).await;
    assert_eq!(record.state, BuildState::Succeeded);
    assert_eq!(record.publication.unwrap().destinations[0].tags[0].state, TagState::Superseded);
    let head = world.database.psql("SELECT encode(digest, 'hex') FROM tag_heads");
    assert_eq!(head, Digest::of(b"new").hex());
}

#[tokio::test]
async fn a_destination_that_is_down_is_tried_again_and_one_that_refuses_fails_the_build() {
    let world = world().await;
    let tags = ["localhost:5002/app:1", "localhost:5002/other:1"];
    let (build, destinations) = merged(&world, "k", &tags).await;
    let failure = Failure::new(Cause::Infrastructure, FailureCode::RegistryUnavailable, "down");
    let later = Some(Duration::from_secs(9));
    world.store.destination_failed(world.epoch, &destinations[0], &failure, later).await.unwrap();
    assert_eq!(world.store.due_destinations(10).await.unwrap().len(), 1, "the other goes on");
    world.pass("10 s");
    assert_eq!(world.store.due_destinations(10).await.unwrap().len(), 2);
    world.store.destination_pushed(world.epoch, &destinations[0]).await.unwrap();
    assert_eq!(put(&world, &destinations[0], "1").await, Claim::Granted);
    let refused = Failure::new(Cause::User, FailureCode::RegistryAuth, "401");
    world.store.destination_failed(world.epoch, &destinations[1], &refused, None).await.unwrap();
    let record = world.build(build).await;
    assert_eq!((record.state, record.failure.unwrap().code.as_str()), (BuildState::Failed, "registry_auth"));
}

#[tokio::test]
async fn a_publication_that_is_not_done_by_its_deadline_fails_its_build() {
    let world = world().await;
    let (build, _) = merged(&world, "k", &["localhost:5002/app:1"]).await;
    assert_eq!(world.store.end_overdue_publications(world.epoch).await.unwrap(), 0);
    world.pass("61 s");
    assert_eq!(world.store.end_overdue_publications(world.epoch).await.unwrap(), 1);
    let record = world.build(build).await;
    assert_eq!(
        (record.state, record.failure.unwrap().code.as_str()),
        (BuildState::Failed, "publish_deadline")
    );
    assert!(world.store.due_destinations(10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_build_without_tags_succeeds_without_a_publication() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    let build = world.submit("k", "linux/amd64", &[]).await;
    let lease = world.lease(build, 0, worker).await;
    world.finish(lease, success("x")).await.unwrap();
    world.store.finish_unpublished(world.epoch, farm_store::default_project(), build.id).await.unwrap();
    assert_eq!(world.state(build).await, BuildState::Succeeded);
}

#[tokio::test]
async fn a_tag_that_is_refused_after_the_index_was_taken_fails_the_build() {
    let world = world().await;
    let (build, destinations) = merged(&world, "k", &["localhost:5002/app:1", "localhost:5002/app:2"]).await;
    let destination = &destinations[0];
    world.store.destination_pushed(world.epoch, destination).await.unwrap();
    assert_eq!(put(&world, destination, "1").await, Claim::Granted);
    let refused = Failure::new(Cause::User, FailureCode::RegistryAuth, "403");
    world.store.destination_failed(world.epoch, destination, &refused, None).await.unwrap();
    let record = world.build(build).await;
    assert_eq!((record.state, record.failure.unwrap().code.as_str()), (BuildState::Failed, "registry_auth"));
    let states: Vec<_> =
        record.publication.unwrap().destinations[0].tags.iter().map(|tag| tag.state).collect();
    assert_eq!(states, [TagState::Verified, TagState::Failed]);
}

#[tokio::test]
async fn the_last_two_tags_verified_at_once_end_the_build() {
    let world = world().await;
    for round in 0..10 {
        let key = format!("k{round}");
        let tags = [format!("localhost:5002/app{round}:1"), format!("localhost:5003/app{round}:1")];
        let (build, destinations) = merged(&world, &key, &[&tags[0], &tags[1]]).await;
        for destination in &destinations {
            world.store.destination_pushed(world.epoch, destination).await.unwrap();
        }
        tokio::join!(put(&world, &destinations[0], "1"), put(&world, &destinations[1], "1"));
        assert_eq!(world.state(build).await, BuildState::Succeeded, "round {round}");
    }
}

#[tokio::test]
async fn a_tag_is_not_moved_for_a_publication_that_has_ended() {
    let world = world().await;
    let (_, destinations) = merged(&world, "k", &["localhost:5002/app:1"]).await;
    world.pass("61 s");
    world.store.end_overdue_publications(world.epoch).await.unwrap();
    assert!(matches!(claim(&world, &destinations[0], "1").await, Err(farm_store::StoreError::Stale(_))));
    assert_eq!(world.database.psql("SELECT count(*) FROM tag_heads"), "0");
}

#[tokio::test]
async fn a_tag_whose_older_put_may_still_come_is_looked_at_once_more() {
    let world = world().await;
    let (_, old) = merged(&world, "old", &["localhost:5002/app:1"]).await;
    let (_, new) = merged(&world, "new", &["localhost:5002/app:1"]).await;
    assert_eq!(claim(&world, &old[0], "1").await.unwrap(), Claim::Granted);
    world.store.destination_pushed(world.epoch, &new[0]).await.unwrap();
    put(&world, &new[0], "1").await;
    assert!(world.store.due_rechecks(10).await.unwrap().is_empty());
    world.pass("61 s");
    let recheck = world.store.due_rechecks(10).await.unwrap().remove(0);
    let wanted = recheck.wanted.clone().unwrap();
    assert_eq!((wanted.digest, wanted.bytes.as_slice()), (Digest::of(b"new"), b"new".as_slice()));
    assert_eq!(recheck.older, [Digest::of(b"old")]);
    let longest_put = Duration::from_secs(60);
    world.store.rechecked(world.epoch, &recheck, true, Some(longest_put), longest_put).await.unwrap();
    assert!(world.store.due_rechecks(10).await.unwrap().is_empty());
    // Whether the older put is over nobody knows: it is looked at for a day, less and less often.
    let mut looks = 0;
    for _ in 0..16 {
        world.pass("2 hours");
        for recheck in world.store.due_rechecks(10).await.unwrap() {
            looks += 1;
            world.store.rechecked(world.epoch, &recheck, false, None, longest_put).await.unwrap();
        }
    }
    assert!((4..=6).contains(&looks), "{looks}");
    assert_eq!(world.database.psql("SELECT count(*) FROM tag_heads WHERE recheck_at IS NOT NULL"), "0");
}

#[tokio::test]
async fn a_tag_whose_older_put_is_known_to_be_over_is_looked_at_once_if_at_all() {
    let world = world().await;
    let longest_put = Duration::from_secs(60);
    let mut newer = Vec::new();
    for (key, pause) in [("first", "1 s"), ("soon", "61 s"), ("late", "1 s")] {
        let (_, destinations) = merged(&world, key, &["localhost:5002/app:1"]).await;
        world.store.destination_pushed(world.epoch, &destinations[0]).await.unwrap();
        put(&world, &destinations[0], "1").await;
        let due = world.database.psql("SELECT count(*) FROM tag_heads WHERE recheck_at IS NOT NULL");
        newer.push((key, due));
        world.pass(pause);
        for recheck in world.store.due_rechecks(10).await.unwrap() {
            world.store.rechecked(world.epoch, &recheck, false, None, longest_put).await.unwrap();
        }
    }
    assert_eq!(newer, [("first", "0".to_owned()), ("soon", "1".to_owned()), ("late", "0".to_owned())]);
}

#[tokio::test]
async fn who_finds_that_he_leads_no_more_has_a_newer_ones_tag_looked_at_at_once() {
    let world = world().await;
    let (_, old) = merged(&world, "old", &["localhost:5002/app:1"]).await;
    let (_, new) = merged(&world, "new", &["localhost:5002/app:1"]).await;
    for destination in [&old[0], &new[0]] {
        world.store.destination_pushed(world.epoch, destination).await.unwrap();
    }
    // He has it himself: there is nothing to be mended.
    put(&world, &old[0], "1").await;
    ask_recheck(&world, &old[0]).await;
    assert!(world.store.due_rechecks(10).await.unwrap().is_empty());
    put(&world, &new[0], "1").await;
    ask_recheck(&world, &old[0]).await;
    let recheck = world.store.due_rechecks(10).await.unwrap().remove(0);
    assert_eq!((recheck.digest, recheck.older), (Digest::of(b"new"), vec![Digest::of(b"old")]));
}

async fn ask_recheck(world: &World, d: &DueDestination) {
    world.store.ask_recheck(d.project, &d.repository, &d.tags, d.order_key, d.index_digest).await.unwrap();
}

/// A build whose results can't be merged yet.
async fn unmerged(world: &World, key: &str) -> (Submitted, DueMerge) {
    let build = world.submit(key, "linux/amd64", &["localhost:5002/app:1"]).await;
    let (worker, _) = world.worker(&format!("w-{key}"), 1).await;
    let lease = world.lease(build, 0, worker).await;
    world.finish(lease, success(key)).await.unwrap();
    assert_eq!(world.state(build).await, BuildState::Publishing);
    let due = world.store.due_merges(1000).await.unwrap().into_iter().find(|d| d.build == build.id).unwrap();
    (build, due)
}

#[tokio::test]
async fn a_build_can_be_cancelled_as_long_as_there_is_nothing_to_publish() {
    let world = world().await;
    let (build, due) = unmerged(&world, "k").await;
    let store = &world.store;
    store.retry_merge(world.epoch, due.project, build.id, "it is away", Duration::ZERO).await.unwrap();
    store.cancel(&tester(), default_project(), build.id, PUBLISH).await.unwrap();
    assert_eq!(world.state(build).await, BuildState::Cancelled);
    assert!(store.due_merges(1000).await.unwrap().is_empty());
    // Whoever was about to merge it learns that.
    let kept = store.keep_publication(world.epoch, &due, &index("k"), &[]).await;
    assert!(matches!(kept, Err(StoreError::Stale(_))), "{kept:?}");
    let put_off = store.retry_merge(world.epoch, due.project, build.id, "again", Duration::ZERO).await;
    assert!(matches!(put_off, Err(StoreError::Stale(_))), "{put_off:?}");
    // One that was merged may have moved a tag.
    let (merged, destinations) = merged(&world, "m", &["localhost:5002/app:1"]).await;
    store.cancel(&tester(), default_project(), merged.id, PUBLISH).await.unwrap();
    assert_eq!(world.state(merged).await, BuildState::Publishing);
    store.destination_pushed(world.epoch, &destinations[0]).await.unwrap();
    assert_eq!(put(&world, &destinations[0], "1").await, Claim::Granted);
    assert_eq!(world.state(merged).await, BuildState::Succeeded);
}

#[tokio::test]
async fn a_cancel_and_a_merge_at_once_have_one_winner() {
    let world = world().await;
    let mut sessions = [(); 2].map(|()| Session::open(world.database.url()));
    for cancel_first in [true, false] {
        let key = if cancel_first { "a" } else { "b" };
        let (build, due) = unmerged(&world, key).await;
        let hold = format!("SELECT 'held' FROM builds WHERE id = '{}' FOR UPDATE", build.id.as_uuid());
        let made = index(key);
        let by = tester();
        let cancel = world.store.cancel(&by, default_project(), build.id, PUBLISH);
        let keep = world.store.keep_publication(world.epoch, &due, &made, &[]);
        let (cancelled, kept) = if cancel_first {
            stopped(&mut sessions, &hold, cancel, keep).await
        } else {
            let (kept, cancelled) = stopped(&mut sessions, &hold, keep, cancel).await;
            (cancelled, kept)
        };
        cancelled.unwrap();
        let state = if cancel_first { BuildState::Cancelled } else { BuildState::Publishing };
        assert_eq!((world.state(build).await, kept.is_ok()), (state, !cancel_first));
        assert_eq!(world.build(build).await.publication.is_some(), !cancel_first);
    }
}
