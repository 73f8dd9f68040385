//! What builds may mount, sealed: who reads it, and when it goes.

use farm_store::StoreError;
use farm_store::builds::mounts::{NewMounts, SealedKey, SealedMounts, SealedValue};
use farm_store::builds::submit::{NewBuild, Submitted};
use farm_store::work::attempts::Lease;
use farm_types::{LeaseToken, SecretSource, SshSource, ValueType};

use crate::fixture::{PUBLISH, World, success, tester, world};
use crate::retrying::retry_of;

/// Bytes as they are: this crate opens nothing.
fn sealed(by: &str) -> SealedMounts {
    let value = |mount, id: &str| SealedValue { mount, id: id.parse().unwrap(), bytes: id.into() };
    SealedMounts {
        key: SealedKey { by: by.to_owned(), bytes: b"sealed key".to_vec() },
        values: vec![value(ValueType::Secret, "npm"), value(ValueType::Ssh, "default")],
    }
}

/// The same, as a new build is given it.
fn given(by: &str) -> NewMounts {
    NewMounts { sealed: sealed(by), used: Vec::new() }
}

fn with_mounts(world: &World, key: &str, by: &str) -> NewBuild {
    let mut build = world.new_build(key, "linux/amd64,linux/arm64", &[]);
    build.spec.mounts.secrets.insert("npm".parse().unwrap(), SecretSource::Given);
    build.spec.mounts.ssh.insert("default".parse().unwrap(), SshSource::Keys);
    build.mounts = Some(given(by));
    build
}

async fn submit(world: &World, key: &str, by: &str) -> Submitted {
    world.store.submit(&with_mounts(world, key, by)).await.unwrap()
}

fn rows(world: &World) -> (String, String) {
    let count = |table: &str| world.database.psql(&format!("SELECT count(*) FROM {table}"));
    (count("build_keys"), count("build_values"))
}

#[tokio::test]
async fn whoever_holds_a_lease_of_the_build_reads_them_until_the_build_ends_in_whatever_way() {
    let world = world().await;
    let (worker, _) = world.worker("w", 8).await;
    let build = submit(&world, "1", "key").await;
    assert!(world.store.submit(&with_mounts(&world, "1", "key")).await.unwrap().replayed);
    let other = world.submit("other", "linux/amd64", &[]).await;
    let (first, second) = (world.lease(build, 0, worker).await, world.lease(build, 1, worker).await);
    for lease in [first, second, first] {
        let leased = world.store.leased_mounts(lease).await.unwrap();
        assert_eq!((leased.build, leased.sealed), (build.id, Some(sealed("key"))));
        assert_eq!(leased.mounts.given().count(), 2);
    }
    let none = world.store.leased_mounts(world.lease(other, 0, worker).await).await.unwrap();
    assert!(none.mounts.is_empty() && none.sealed.is_none());
    let forged = Lease { token: LeaseToken::generate(), ..first };
    assert!(matches!(world.store.leased_mounts(forged).await, Err(StoreError::Stale(_))));
    // While one of its jobs runs they stay for that one, and only for that.
    world.finish(first, success("amd64")).await.unwrap();
    assert!(matches!(world.store.leased_mounts(first).await, Err(StoreError::Stale(_))));
    assert!(world.store.leased_mounts(second).await.unwrap().sealed.is_some());
    world.finish(second, success("arm64")).await.unwrap();
    assert_eq!(rows(&world), ("0".into(), "0".into()), "of a build that succeeded");

    let cancelled = submit(&world, "2", "key").await;
    assert_eq!(rows(&world), ("1".into(), "2".into()));
    world.store.cancel(&tester(), farm_store::default_project(), cancelled.id, PUBLISH).await.unwrap();
    assert_eq!(rows(&world), ("0".into(), "0".into()), "of a build that was cancelled");

    // A retry has what it was given itself.
    let again =
        farm_store::builds::retry::Retry { mounts: Some(given("new")), ..retry_of(cancelled, "3", false) };
    let again = world.store.retry(&again, PUBLISH).await.unwrap();
    let lease = world.lease(again, 0, worker).await;
    assert_eq!(world.store.leased_mounts(lease).await.unwrap().sealed, Some(sealed("new")));
}

#[tokio::test]
async fn a_lease_that_was_told_to_stop_or_whose_time_is_over_gets_nothing_before_anybody_has_ended_it() {
    let world = world().await;
    let (worker, _) = world.worker("w", 8).await;
    let ended = async |lease| {
        let store = &world.store;
        // The last is what tokens, logins, sources and look-ups of images are asked by.
        let asked = (
            store.leased_mounts(lease).await.err(),
            store.leased_agents(lease).await.err(),
            store.leased_snapshot(lease).await.err(),
        );
        match asked {
            (None, None, None) => false,
            (Some(StoreError::Stale(_)), Some(StoreError::Stale(_)), Some(StoreError::Stale(_))) => true,
            other => panic!("{other:?}"),
        }
    };
    let cancelled = submit(&world, "1", "key").await;
    let lease = world.lease(cancelled, 0, worker).await;
    world.store.attempt_started(lease).await.unwrap();
    assert!(!ended(lease).await);
    world.store.cancel(&tester(), farm_store::default_project(), cancelled.id, PUBLISH).await.unwrap();
    assert_eq!(rows(&world), ("1".into(), "2".into()), "it still runs");
    assert!(ended(lease).await);

    let late = submit(&world, "2", "key").await;
    let lease = world.lease(late, 0, worker).await;
    assert!(!ended(lease).await);
    world.pass("2 days");
    assert!(ended(lease).await);
}

#[tokio::test]
async fn an_agent_is_asked_without_a_look_at_the_values() {
    let world = world().await;
    let (worker, _) = world.worker("w", 8).await;
    let build = submit(&world, "1", "key").await;
    let lease = world.lease(build, 0, worker).await;
    world.database.psql("DROP TABLE build_values");
    assert!(world.store.leased_mounts(lease).await.is_err());
    let leased = world.store.leased_agents(lease).await.unwrap();
    assert_eq!((leased.build, leased.mounts.ssh.len()), (build.id, 1));
}

#[tokio::test]
async fn they_are_leased_to_no_worker_of_before() {
    let world = world().await;
    let (worker, _) = world.worker("w", 8).await;
    let build = submit(&world, "1", "key").await;
    let planned = world.assignment(build, 0, worker).await;
    world.database.psql("UPDATE workers SET features = array_remove(features, 'mounts')");
    let refused = world.store.lease(world.epoch, planned, crate::fixture::LEASE).await.unwrap_err();
    assert!(matches!(refused, StoreError::Stale(_)), "{refused:?}");
}

#[tokio::test]
async fn what_an_old_key_sealed_is_sealed_anew_unless_it_is_gone_or_was_already() {
    let world = world().await;
    let build = submit(&world, "1", "old").await;
    submit(&world, "2", "new").await;
    assert_eq!(world.store.keys_in_use().await.unwrap(), [("new".to_owned(), 1), ("old".to_owned(), 1)]);
    let found = world.store.build_keys_by(&["old".to_owned()], None, 10).await.unwrap();
    let [(project, id, old)] = &found[..] else { panic!("{found:?}") };
    assert_eq!(*id, build.id);
    let new = SealedKey { by: "new".to_owned(), bytes: b"anew".to_vec() };
    let reseal = async || world.store.reseal_build_key(world.epoch, *project, *id, old, &new).await.unwrap();
    assert!(reseal().await && !reseal().await);
    assert_eq!(world.store.keys_in_use().await.unwrap(), [("new".to_owned(), 2)]);
    let (worker, _) = world.worker("w", 8).await;
    let lease = world.lease(build, 0, worker).await;
    assert_eq!(world.store.leased_mounts(lease).await.unwrap().sealed.unwrap().key, new);
}
