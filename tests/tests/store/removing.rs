//! Removing tags at somebody's wish: the door that keeps builds out meanwhile, and what is noted; and what workers are asked of caches.

use std::time::Duration;

use farm_store::machines::caches::{Bounds, Told};
use farm_store::machines::drain::Refusal;
use farm_store::publish::removals::Removed;
use farm_store::{StoreError, default_project};
use farm_types::{Digest, FEATURE_CACHES, Repository};

use crate::fixture::{LEASE, PUBLISH, World, success, tester, world};

const TAG: &str = "localhost:5002/app:1";
const AGAIN: Duration = Duration::from_secs(900);

fn app() -> Repository {
    "localhost:5002/app".parse().unwrap()
}

#[tokio::test]
async fn while_something_is_removed_nothing_begins_there_and_nothing_else_is_removed_or_cleaned() {
    let world = world().await;
    let (worker, _) = world.worker("w", 2).await;
    let build = world.submit("k", "linux/amd64", &[TAG]).await;
    let removing = world.store.begin_removal(&app(), LEASE).await.unwrap().unwrap();
    assert!(!removing.in_use.is_busy && removing.in_use.digests.is_empty());
    assert_eq!(world.store.begin_removal(&app(), LEASE).await.unwrap(), None);
    let assignment = world.assignment(build, 0, worker).await;
    let refused = world.store.lease(world.epoch, assignment, LEASE).await;
    assert!(matches!(refused, Err(StoreError::Stale(_))), "{refused:?}");
    // Another repository is nobody's business here.
    assert!(
        world.store.begin_removal(&"localhost:5002/other".parse().unwrap(), LEASE).await.unwrap().is_some()
    );
    world.store.end_removal(&app(), &removing).await.unwrap();
    let lease = world.lease(build, 0, worker).await;

    // Now something is under way: the door stays open, and that is told.
    let busy = world.store.begin_removal(&app(), LEASE).await.unwrap().unwrap();
    assert!(busy.in_use.is_busy);
    world.finish(lease, success("image")).await.unwrap();
    // Its image is needed until it has been published.
    let used = world.store.begin_removal(&app(), LEASE).await.unwrap().unwrap();
    assert!(!used.in_use.is_busy);
    assert!(used.in_use.digests.contains(&Digest::of(b"image")), "{used:?}");
    // The end of the one before opens nothing, and one whose coordinator dies ends by its time.
    world.store.end_removal(&app(), &busy).await.unwrap();
    world.store.end_removal(&app(), &removing).await.unwrap();
    assert_eq!(world.store.begin_removal(&app(), LEASE).await.unwrap(), None);
    world.pass("1 hour");
    assert!(world.store.begin_removal(&app(), LEASE).await.unwrap().is_some());
}

#[tokio::test]
async fn what_is_being_cleaned_is_not_removed_from() {
    let world = world().await;
    let (worker, _) = world.worker("w", 2).await;
    let build = world.submit("k", "linux/amd64,linux/arm64", &[TAG]).await;
    let lease = world.lease(build, 0, worker).await;
    world.finish(lease, success("k")).await.unwrap();
    world.store.cancel(&tester(), default_project(), build.id, PUBLISH).await.unwrap();
    world.pass("25 hours");
    let after = Duration::from_secs(24 * 3600);
    assert!(world.store.begin_cleaning(world.epoch, &app(), after, LEASE, AGAIN).await.unwrap().is_some());
    assert_eq!(world.store.begin_removal(&app(), LEASE).await.unwrap(), None);
}

#[tokio::test]
async fn who_has_removed_which_tag_is_noted_and_forgotten_after_its_time() {
    let world = world().await;
    let (by, project, at) = (tester(), default_project(), app());
    let digest = Digest::of(b"gone");
    let tags = ["1".to_owned(), "old".to_owned()];
    let note = async |tags: &[String], is_kept| {
        let removed = Removed { at: &at, digest, tags, is_kept };
        world.store.note_removal(&by, project, removed).await.unwrap();
    };
    note(&tags, false).await;
    world.pass("1 hour");
    note(&tags[..1], true).await;
    note(&[], false).await;
    let of = async |tag: &str| world.store.tag_removals(project, (&at, tag), 10).await.unwrap();
    let removals = of("1").await;
    assert_eq!((removals.len(), of("old").await.len(), of("2").await.len()), (2, 1, 0));
    assert!(removals[0].removed_at > removals[1].removed_at);
    assert_eq!((removals[0].digest, removals[0].removed_by.as_str()), (digest, by.name.as_str()));
    let audited = world
        .database
        .psql("SELECT string_agg(subject, ' ' ORDER BY id) FROM audit WHERE action = 'image.remove'");
    assert_eq!(audited.trim(), format!("{at}@{digest} {at}:1 {at}@{digest}"));
    let kept = Duration::from_secs(30 * 60);
    assert_eq!(world.store.remove_moves(world.epoch, kept, 10).await.unwrap(), 2);
    assert_eq!((of("1").await.len(), of("old").await.len()), (1, 0));
}

async fn connected(world: &World, name: &str, features: &[&str]) {
    let mut registration = world.registration(name, farm_types::BootId::generate(), 1);
    registration.features.extend(features.iter().map(|feature| (*feature).to_owned()));
    world.store.register_worker(&registration, Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn what_a_worker_is_asked_of_its_cache_is_asked_until_it_answers_and_no_longer_than_it_may_take() {
    let world = world().await;
    connected(&world, "w1", &[FEATURE_CACHES]).await;
    connected(&world, "w-old", &[]).await;
    let store = &world.store;
    let bounds = Bounds { older_than: Duration::from_secs(3600), keep_bytes: 7, dry_run: false };
    let prune = async |key: &str, names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        store.prune_caches(&tester(), key, &names, bounds).await.unwrap()
    };
    assert_eq!(prune("none", &["w9"]).await, Err(Refusal::Unknown("w9".to_owned())));
    assert_eq!(prune("k", &["w1"]).await, Ok(()));
    assert_eq!(prune("k", &["w1"]).await, Ok(()), "the same wish");
    let via = async || store.cache_asks_via(world.coordinator).await.unwrap();
    let asks = via().await;
    assert_eq!((asks.len(), asks[0].bounds), (1, bounds));
    assert!(store.asked_caches(Some("k")).await.unwrap()[0].told.is_none());
    let told = Told { bytes: u64::MAX, freed_bytes: 3, failure: String::new() };
    let stranger = farm_types::WorkerId::generate();
    assert!(matches!(store.cache_told(stranger, asks[0].id, &told).await, Err(StoreError::Stale(_))));
    store.cache_told(asks[0].worker, asks[0].id, &told).await.unwrap();
    assert!(matches!(store.cache_told(asks[0].worker, asks[0].id, &told).await, Err(StoreError::Stale(_))));
    let asked = store.asked_caches(Some("k")).await.unwrap();
    assert_eq!(asked[0].told.as_ref().unwrap().0.freed_bytes, 3);
    assert_eq!(via().await, []);
    // One of before can't be asked.
    assert_eq!(prune("old", &["w-old"]).await, Ok(()));
    let old = store.asked_caches(Some("old")).await.unwrap();
    assert!(old[0].told.as_ref().unwrap().0.failure.contains("update it"), "{old:?}");
    let audited =
        world.database.psql("SELECT string_agg(subject, ' ') FROM audit WHERE action = 'worker.prune'");
    assert_eq!(audited.trim(), "w1");

    // What was measured a moment ago isn't measured again.
    store.measure_caches().await.unwrap();
    store.measure_caches().await.unwrap();
    let asks = via().await;
    assert_eq!(asks.len(), 1);
    assert!(!store.are_measured().await.unwrap());
    store.cache_told(asks[0].worker, asks[0].id, &told).await.unwrap();
    assert!(store.are_measured().await.unwrap());
    // One that never answers is asked no more, and that is said; what was told last stays.
    assert_eq!(prune("late", &["w1"]).await, Ok(()));
    world.pass("11 minutes");
    assert_eq!(via().await, []);
    let late = store.asked_caches(Some("late")).await.unwrap();
    assert!(late[0].told.as_ref().unwrap().0.failure.contains("did not answer"), "{late:?}");
    store.measure_caches().await.unwrap();
    assert_eq!(store.asked_caches(None).await.unwrap()[0].told.as_ref().unwrap().0.freed_bytes, 3);
}
