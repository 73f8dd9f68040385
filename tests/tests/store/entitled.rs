//! Entitlements: what a job asks for is leased only to whom it may be granted by, as long as its project may ask for it.

use farm_core::work::plan::{Limits, plan};
use farm_store::{StoreError, default_project};
use farm_types::Entitlement::{NetworkHost, SecurityInsecure};
use farm_types::{BootId, Entitlements, WorkerId};

use crate::fixture::{LEASE, PUBLISH, World, tester, world};
use crate::retrying::retry_of;

async fn allow(world: &World, entitlements: impl Into<Entitlements>) {
    world.store.allow_entitlements(&tester(), default_project(), &entitlements.into()).await.unwrap();
}

/// A worker that says that it may grant these.
async fn granting(world: &World, name: &str, grants: &[&str]) -> WorkerId {
    let mut registration = world.registration(name, BootId::generate(), 4);
    registration.features.extend(grants.iter().map(|one| (*one).to_owned()));
    world.store.register_worker(&registration, std::time::Duration::ZERO).await.unwrap()
}

#[tokio::test]
async fn a_job_is_leased_to_whom_it_may_be_granted_by_and_by_nobody_else() {
    let world = world().await;
    let store = &world.store;
    let mut new = world.new_build("first", "linux/amd64", &[]);
    new.spec.run.network = "host".parse().unwrap();
    new.spec.run.allow = [SecurityInsecure].into();
    let build = store.submit(&new).await.unwrap();
    let (plain, _) = world.worker("plain", 4).await;
    let half = granting(&world, "half", &["network.host"]).await;
    let whole = granting(&world, "whole", &["network.host", "security.insecure", "device"]).await;
    let lease = async |worker| {
        let assignment = world.assignment(build, 0, worker).await;
        store.lease(world.epoch, assignment, LEASE).await
    };

    // What was accepted while it was allowed, and isn't any more.
    let state = store.schedule_state(64, &[]).await.unwrap();
    assert_eq!(state.waiting[0].entitlements, [NetworkHost, SecurityInsecure].into());
    assert!(state.shares[&default_project()].allowed.is_empty());
    assert!(matches!(lease(whole).await, Err(StoreError::Stale(_))));
    allow(&world, [NetworkHost]).await;
    assert!(matches!(lease(whole).await, Err(StoreError::Stale(_))));
    allow(&world, [NetworkHost, SecurityInsecure]).await;
    for other in [plain, half] {
        assert!(matches!(lease(other).await, Err(StoreError::Stale(_))));
    }
    let state = store.schedule_state(64, &[]).await.unwrap();
    let of = |id| state.workers.iter().find(|worker| worker.id == id).unwrap().grants.clone();
    assert_eq!((of(plain), of(half)), (Entitlements::new(), [NetworkHost].into()));
    assert_eq!(of(whole), [NetworkHost, SecurityInsecure].into());
    let decisions = plan(&state, Limits::default(), store.now().await.unwrap());
    assert!(format!("{decisions:?}").contains(&format!("{whole:?}")), "{decisions:?}");
    lease(whole).await.unwrap();

    // Its like stand in a queue of their own: they hold up nobody who asks for nothing.
    let classes = world.database.psql("SELECT queue_class FROM jobs");
    assert!(classes.contains(" allow=network.host,security.insecure "), "{classes}");
}

#[tokio::test]
async fn a_retry_asks_for_what_the_first_one_did_and_who_allowed_it_is_kept() {
    let world = world().await;
    let mut new = world.new_build("first", "linux/amd64", &[]);
    new.spec.run.allow = [NetworkHost].into();
    let build = world.store.submit(&new).await.unwrap();
    world.store.cancel(&tester(), default_project(), build.id, PUBLISH).await.unwrap();
    world.store.retry(&retry_of(build, "again", false), PUBLISH).await.unwrap();
    let asked = world.database.psql("SELECT DISTINCT entitlements::text FROM jobs");
    assert_eq!(asked.trim(), "{network.host}");

    allow(&world, [NetworkHost]).await;
    assert_eq!(
        world.store.access(default_project()).await.unwrap().access.entitlements,
        [NetworkHost].into()
    );
    allow(&world, []).await;
    let rows = world.database.psql(
        "SELECT principal || ' ' || subject || ' ' || detail::text FROM audit WHERE action = 'project.entitlements' ORDER BY id",
    );
    assert_eq!(
        rows.lines().collect::<Vec<_>>(),
        [r#"test default {"entitlements": ["network.host"]}"#, r#"test default {"entitlements": []}"#]
    );
    let nowhere = farm_types::ProjectId::from(uuid::Uuid::now_v7());
    let absent = world.store.allow_entitlements(&tester(), nowhere, &Entitlements::new()).await;
    assert!(matches!(absent, Err(StoreError::NotFound(_))), "{absent:?}");
}
