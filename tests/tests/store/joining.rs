//! Workers that joined: what they are is asked again in each write, and what is of use to nobody any more goes.

use std::time::Duration;

use farm_core::machines::engine::PatchedEngines;
use farm_core::work::plan::Decision;
use farm_store::StoreError;
use farm_store::machines::certificates::Ended;
use farm_store::machines::invitations::NewInvitation;
use farm_store::machines::joins::{Joining, Unrevoked};
use farm_store::machines::workers::Joined;
use farm_types::{BootId, Digest, TrustClass, WorkerId};

use crate::fixture::{LEASE, World, tester, world};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A worker that was invited and has joined; its certificate is good for a day.
pub async fn join(world: &World, name: &str, trust: TrustClass) -> Joined {
    let token = Digest::of(format!("{name}'s token {}", BootId::generate()).as_bytes());
    let new = NewInvitation {
        digest: token,
        hint: "farm_j_1",
        name: Some(name),
        machine: None,
        pool: "default",
        trust,
        platforms: &[],
        slots: None,
        lives: HOUR,
    };
    world.store.invite(&tester(), &new).await.unwrap();
    let certificate = Digest::of(format!("{name}'s certificate {}", BootId::generate()).as_bytes());
    let joining = Joining { token, name, key: Digest::of(b"a key"), certificate, lives: DAY, address: "" };
    world.store.join(&joining).await.unwrap();
    let shown = world.store.shown_by_certificate(certificate).await.unwrap().unwrap();
    Joined { join: shown.join, machine: shown.machine, trust: shown.trust }
}

/// The certificate that it joined with.
fn certificate_of(world: &World, joined: Joined) -> Digest {
    let sql = format!("SELECT encode(digest, 'hex') FROM certificates WHERE join_id = '{}'", joined.join);
    format!("sha256:{}", world.database.psql(&sql)).parse().unwrap()
}

pub async fn connect(world: &World, name: &str, joined: Joined) -> WorkerId {
    connect_staging(world, name, joined, false).await
}

/// The same; `stages`: its coordinator has a staging registry for what it pushes.
pub async fn connect_staging(world: &World, name: &str, joined: Joined, stages: bool) -> WorkerId {
    let registration = world.registration(name, BootId::generate(), 2);
    let registration =
        farm_store::machines::workers::Registration { joined: Some(joined), stages, ..registration };
    world.store.register_worker(&registration, Duration::ZERO).await.unwrap()
}

#[tokio::test]
async fn a_job_that_pushes_is_leased_to_nobody_who_has_become_untrusted_meanwhile() {
    let mut world = world().await;
    world.store = world.store.with_patched_engines(patched("docker 0"));
    let worker = connect(&world, "w", join(&world, "w", TrustClass::Trusted).await).await;
    let pushes = world.submit("pushes", "linux/amd64", &["r.example/team/app:1"]).await;
    let kept = world.submit("kept", "linux/amd64", &[]).await;
    let planned = world.assignment(pushes, 0, worker).await;
    // Between plan and lease the worker of that name is another one.
    world.store.revoke_workers(&tester(), &["w".to_owned()]).await.unwrap().unwrap();
    let again = connect(&world, "w", join(&world, "w", TrustClass::Untrusted).await).await;
    assert_eq!(again, worker, "the row is the same");
    let refused = world.store.lease(world.epoch, planned, LEASE).await.unwrap_err();
    assert!(matches!(refused, StoreError::Stale(_)), "{refused:?}");
    world.lease(kept, 0, worker).await;
}

pub fn patched(engine: &str) -> PatchedEngines {
    [engine.parse().unwrap()].into_iter().collect()
}

#[tokio::test]
async fn nothing_is_leased_to_an_untrusted_machine_whose_engine_has_become_too_old_meanwhile() {
    let mut world = world().await;
    let joined = join(&world, "w", TrustClass::Untrusted).await;
    let boot = BootId::generate();
    let on_engine = async |world: &World, version: &str, buildkit: &str| {
        let registration = farm_store::machines::workers::Registration {
            joined: Some(joined),
            engine_version: version.to_owned(),
            engine_buildkit: buildkit.to_owned(),
            ..world.registration("w", boot, 4)
        };
        world.store.register_worker(&registration, Duration::ZERO).await.unwrap()
    };
    let worker = on_engine(&world, "29", "v0.31.2").await;
    let planned = async |world: &World| {
        let state = world.store.schedule_state(64, &[]).await.unwrap();
        let limits = farm_core::work::plan::Limits::default();
        let decisions = farm_core::work::plan::plan(&state, limits, world.store.now().await.unwrap());
        decisions.iter().filter(|decision| matches!(decision, Decision::Assign { .. })).count()
    };
    let builds = [
        world.submit("1", "linux/amd64", &[]).await,
        world.submit("2", "linux/amd64", &[]).await,
        world.submit("3", "linux/amd64", &[]).await,
    ];
    assert_eq!(planned(&world).await, 3);
    let assignment = world.assignment(builds[0], 0, worker).await;
    on_engine(&world, "28.5.2", "").await;
    let refused = world.store.lease(world.epoch, assignment.clone(), LEASE).await.unwrap_err();
    assert!(matches!(refused, StoreError::Stale(why) if why.contains("too old")), "{refused:?}");
    assert_eq!(planned(&world).await, 0);
    // Nothing of it is left behind, and listed it counts.
    world.store = world.store.with_patched_engines(patched("docker 28.5.2"));
    assert_eq!(planned(&world).await, 3);
    world.store.lease(world.epoch, assignment, LEASE).await.unwrap();
    let offered = world.store.offered_via(world.coordinator).await.unwrap();
    assert!(offered.len() == 1 && offered[0].engine_is_fit, "{offered:?}");
    on_engine(&world, "28.5.1", "").await;
    assert!(!world.store.offered_via(world.coordinator).await.unwrap()[0].engine_is_fit);
    // The same once nobody says any more that it is fenced off.
    on_engine(&world, "28.5.2", "").await;
    let assignment = world.assignment(builds[1], 0, worker).await;
    world.database.psql("UPDATE workers SET features = array_remove(features, 'fenced-engine')");
    assert_eq!(planned(&world).await, 0);
    let refused = world.store.lease(world.epoch, assignment, LEASE).await.unwrap_err();
    assert!(matches!(refused, StoreError::Stale(why) if why.contains("fenced")), "{refused:?}");
    assert!(!world.store.offered_via(world.coordinator).await.unwrap()[0].engine_is_fit);
}

#[tokio::test]
async fn a_join_whose_certificate_cant_be_renewed_frees_its_name_and_goes_in_the_end() {
    let world = world().await;
    let lost = join(&world, "lost", TrustClass::Trusted).await;
    connect(&world, "lost", lost).await;
    connect(&world, "there", join(&world, "there", TrustClass::Trusted).await).await;
    let rows = |table: &str| world.database.psql(&format!("SELECT count(*) FROM {table}"));
    world.pass("48 hours");
    assert!(world.store.forget_joins(world.epoch, 100).await.unwrap().is_empty(), "they can be renewed yet");
    let fresh = Digest::of(b"renewed");
    let there = world.database.psql("SELECT id FROM joins WHERE name = 'there'");
    let there = there.parse::<uuid::Uuid>().unwrap();
    world.store.add_certificate(there.into(), fresh, DAY).await.unwrap();
    world.pass("2 hours");
    assert_eq!(world.store.forget_joins(world.epoch, 100).await.unwrap(), ["lost"]);
    let refused = world.store.add_certificate(lost.join, Digest::of(b"late"), DAY).await.unwrap_err();
    assert!(refused.to_string().contains("can't be renewed"), "{refused:?}");
    // Nobody has revoked it, and nobody can any more.
    let ended = async |digest| world.store.shown_by_certificate(digest).await.unwrap().unwrap().ended;
    assert_eq!(ended(certificate_of(&world, lost)).await, Some(Ended::Expired));
    let names = ["lost".to_owned()];
    let unrevoked = world.store.revoke_workers(&tester(), &names).await.unwrap().unwrap_err();
    assert_eq!(unrevoked, Unrevoked::Expired("lost".into()));
    let standings = world.store.standings().await.unwrap();
    let expired: Vec<bool> = standings.iter().map(|standing| standing.expired).collect();
    assert!(expired.len() == 2 && expired.iter().filter(|expired| **expired).count() == 1, "{standings:?}");
    // The name is free, and the other one goes on.
    let again = join(&world, "lost", TrustClass::Trusted).await;
    world.store.revoke_workers(&tester(), &names).await.unwrap().unwrap();
    assert!(matches!(ended(certificate_of(&world, again)).await, Some(Ended::Revoked(_))));
    join(&world, "lost", TrustClass::Trusted).await;
    assert_eq!(ended(fresh).await, None);
    world.pass("40 days");
    world.store.add_certificate(there.into(), Digest::of(b"again"), DAY).await.unwrap();
    for _ in 0..2 {
        world.store.forget_joins(world.epoch, 100).await.unwrap();
    }
    assert_eq!(
        (rows("invitations").as_str(), rows("certificates").as_str()),
        ("0", "1"),
        "what nobody needs any more stays"
    );
    // Of the three that were called so a worker's row names the first, the second has been gone for a month, the last since now.
    assert_eq!(
        world.database.psql("SELECT string_agg(name, ',' ORDER BY name) FROM joins"),
        "lost,lost,there"
    );
}

#[tokio::test]
async fn a_worker_is_listed_also_when_its_certificates_are_deleted() {
    let world = world().await;
    connect(&world, "lost", join(&world, "lost", TrustClass::Trusted).await).await;
    world.pass("50 hours");
    assert_eq!(world.store.forget_joins(world.epoch, 100).await.unwrap(), ["lost"]);
    let expired = world.store.standings().await.unwrap();
    world.pass("40 days");
    assert!(world.store.forget_joins(world.epoch, 100).await.unwrap().is_empty());
    assert_eq!(world.database.psql("SELECT count(*) FROM certificates"), "0");
    let listed = world.store.standings().await.unwrap();
    assert!(listed.len() == 1 && listed[0].expired, "{listed:?}");
    // What is left to tell is since when it counts no more.
    assert!(listed[0].ends > expired[0].ends, "{listed:?}");
}
