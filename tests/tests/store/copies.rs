//! Copies: builds without jobs, which are published as soon as they are accepted.

use std::time::Duration;

use farm_core::publish::{Index, OCI_INDEX};
use farm_store::builds::retry::Retry;
use farm_store::builds::submit::{NewBuild, Submitted};
use farm_store::publish::destinations::Claim;
use farm_store::publish::publications::DueMerge;
use farm_store::work::decide::PublishLimit;
use farm_store::{StoreError, default_project};
use farm_types::state::BuildState;
use farm_types::{BuildId, BuildSpec, Cause, CopySpec, CopyVerb, Digest, Failure, FailureCode};

use crate::fixture::{PUBLISH, World, tester, world};
use crate::publishing::{merged, put};

const TAG: &str = "localhost:5002/app:1";

fn copy(world: &World, key: &str, from: &str, tags: &[&str]) -> NewBuild {
    let copy = CopySpec { from: from.parse().unwrap(), verb: CopyVerb::Promote, platforms: Vec::new() };
    let spec = BuildSpec::to_copy(copy, tags.iter().map(|tag| tag.parse().unwrap()).collect());
    NewBuild { spec, ..world.new_build(key, "linux/amd64", tags) }
}

fn source(what: &str) -> Index {
    let bytes = what.as_bytes().to_vec();
    Index {
        digest: Digest::of(&bytes),
        bytes,
        media_type: OCI_INDEX,
        manifests: Vec::new(),
        referrers: Vec::new(),
    }
}

async fn due(world: &World, of: Submitted) -> Option<DueMerge> {
    world.store.due_merges(100).await.unwrap().into_iter().find(|due| due.build == of.id)
}

async fn publish(world: &World, of: Submitted, what: &str) -> Claim {
    let merge = due(world, of).await.unwrap();
    world.store.keep_publication(world.epoch, &merge, &source(what), &[]).await.unwrap();
    let all = world.store.due_destinations(100).await.unwrap();
    let destination = all.into_iter().find(|one| one.bytes == what.as_bytes()).unwrap();
    world.store.destination_pushed(world.epoch, &destination).await.unwrap();
    put(world, &destination, "1").await
}

#[tokio::test]
async fn a_copy_is_published_at_once_as_what_its_source_was_when_it_was_first_looked_at() {
    let world = world().await;
    let older =
        "INSERT INTO coordinators (id, address, runs_schema) VALUES (gen_random_uuid(), 'http://old', 64)";
    world.database.psql(older);
    let new = copy(&world, "c", "r.example/app:rc", &[TAG]);
    let refused = world.store.submit(&new).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Older(why) if why.contains("http://old")), "{refused}");
    world.database.psql("DELETE FROM coordinators WHERE address = 'http://old'");
    let made = world.store.submit(&new).await.unwrap();
    assert!(world.store.submit(&new).await.unwrap().replayed);
    let record = world.build(made).await;
    assert_eq!((record.state, record.jobs.len(), record.copied), (BuildState::Publishing, 0, None));

    let merge = due(&world, made).await.unwrap();
    assert_eq!(merge.spec.purpose.copy().unwrap().from.to_string(), "r.example/app:rc");
    let (first, other) = (Digest::of(b"first"), Digest::of(b"other"));
    let of = (default_project(), made.id);
    assert_eq!(world.store.pin_copy(world.epoch, of, first).await.unwrap(), first);
    assert_eq!(world.store.pin_copy(world.epoch, of, other).await.unwrap(), first, "the tag has moved since");
    assert_eq!(due(&world, made).await.unwrap().copied, Some(first));
    assert_eq!(publish(&world, made, "first").await, Claim::Granted);
    let record = world.build(made).await;
    assert_eq!((record.state, record.copied), (BuildState::Succeeded, Some(first)));
    // What it found there may be somebody else's.
    assert_eq!(world.database.psql("SELECT fate FROM destinations"), "kept");
    // What it did is heard once, by whoever asks for what came since.
    let another = world.store.submit(&copy(&world, "n", "r.example/app:1", &[TAG])).await.unwrap();
    let noted = (default_project(), another.id);
    for text in ["one", "two"] {
        world.store.note_copy(world.epoch, noted, text).await.unwrap();
    }
    let notes = world.store.notes(noted.0, noted.1, (0, i64::MAX)).await.unwrap();
    assert_eq!(notes.iter().map(|note| note.text.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    let since = world.store.notes(noted.0, noted.1, (notes[0].seq, notes[1].seq)).await.unwrap();
    assert_eq!(since, [notes[1].clone()]);
    assert!(world.store.notes(noted.0, noted.1, (notes[0].seq, notes[0].seq)).await.unwrap().is_empty());
    let stale = world.store.pin_copy(world.epoch, of, other).await.unwrap_err();
    assert!(matches!(stale, StoreError::Stale(_)), "{stale}");
}

#[tokio::test]
async fn a_copy_has_its_place_among_builds_and_the_same_when_it_is_retried() {
    let world = world().await;
    let store = &world.store;
    let early = store.submit(&copy(&world, "early", "r.example/app:1", &[TAG])).await.unwrap();
    let (_, destinations) = merged(&world, "built", &[TAG]).await;
    // A build that was asked for later has the tag: the copy moves it no more, nor does its retry.
    store.destination_pushed(world.epoch, &destinations[0]).await.unwrap();
    assert_eq!(put(&world, &destinations[0], "1").await, Claim::Granted);
    assert_eq!(publish(&world, early, "early").await, Claim::Superseded);
    let digest = Digest::of(b"x");
    let failing = store.submit(&copy(&world, "fails", "r.example/app:2", &[TAG])).await.unwrap();
    store.pin_copy(world.epoch, (default_project(), failing.id), digest).await.unwrap();
    let why = Failure::new(Cause::User, FailureCode::CopiedImageUnfit, "no");
    store.fail_merge(world.epoch, default_project(), failing.id, &why).await.unwrap();
    assert_eq!(world.build(failing).await.state, BuildState::Failed);
    let late = store.submit(&copy(&world, "late", "r.example/app:3", &[TAG])).await.unwrap();
    assert_eq!(publish(&world, late, "late").await, Claim::Granted);
    let retry = Retry {
        project: default_project(),
        id: BuildId::generate(),
        of: failing.id,
        idempotency_key: "again".to_owned(),
        failed_only: false,
        gone: Vec::new(),
        protected: false,
        mounts: None,
        signing: None,
        by: tester(),
        submitter: Default::default(),
        queue_limit: Duration::from_secs(60),
    };
    let again = store.retry(&retry, PUBLISH).await.unwrap();
    let record = world.build(again).await;
    assert_eq!((record.state, record.copied), (BuildState::Publishing, Some(digest)), "what it was then");
    assert_eq!(publish(&world, again, "again").await, Claim::Superseded);
}

#[tokio::test]
async fn so_many_copies_of_a_project_are_under_way_at_once() {
    let world = world().await;
    for n in 0..100 {
        world.store.submit(&copy(&world, &n.to_string(), "r.example/app:1", &[TAG])).await.unwrap();
    }
    let more = copy(&world, "more", "r.example/app:1", &[TAG]);
    let refused = world.store.submit(&more).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Exhausted { what, .. } if what.contains("100 copies")),
        "{refused}"
    );
    // Those of one source aren't in the way of others: each has its own places.
    let first = world.database.psql("SELECT id FROM builds LIMIT 1").parse().unwrap();
    world.store.cancel(&tester(), default_project(), first, PUBLISH).await.unwrap();
    let near = world.store.submit(&copy(&world, "near", "localhost:5002/app:2", &[TAG])).await.unwrap();
    let due = world.store.due_merges(8).await.unwrap();
    assert_eq!(due.len(), 9);
    assert!(due.iter().any(|one| one.build == near.id));
}

#[tokio::test]
async fn a_copy_is_called_off_until_it_is_there_ends_by_its_own_deadline_and_keeps_cleanings_out() {
    let world = world().await;
    let store = &world.store;
    let repository = "localhost:5002/app".parse().unwrap();
    let made = store.submit(&copy(&world, "c", "r.example/app:1", &[TAG])).await.unwrap();
    let (lasts, again) = (Duration::from_secs(60), Duration::from_secs(60));
    let begun = store.begin_cleaning(world.epoch, &repository, Duration::ZERO, lasts, again).await.unwrap();
    assert_eq!(begun, None, "it is copied there");
    assert_eq!(world.database.psql("SELECT busy_since IS NOT NULL FROM cleanings"), "t");
    store.cancel(&tester(), default_project(), made.id, PUBLISH).await.unwrap();
    assert_eq!(world.build(made).await.state, BuildState::Cancelled);
    assert!(due(&world, made).await.is_none());
    let limit = PublishLimit(Duration::from_secs(7000));
    let long = NewBuild { publish_limit: limit, ..copy(&world, "d", "r.example/app:1", &[TAG]) };
    let made = store.submit(&long).await.unwrap();
    let left = "SELECT extract(epoch FROM publish_deadline - farm_now()) BETWEEN 6000 AND 7000 FROM builds WHERE id = ";
    assert_eq!(world.database.psql(&format!("{left}'{}'", made.id)), "t");
}
