//! What an administrator says of workers: drained, resumed, removed.

use std::time::Duration;

use farm_core::work::plan::{Decision, Limits, plan};
use farm_store::machines::drain::Refusal;
use farm_store::machines::workers::Sign;
use farm_types::state::WorkerState;
use farm_types::{BootId, RunMode, Support};

use crate::fixture::{LEASE, World, success, tester, world};

const SUSPECT: Duration = Duration::from_secs(12);

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// What the scheduler proposes for the first job that waits; a hold is its reason in words.
async fn proposed(world: &World) -> Result<RunMode, String> {
    let state = world.store.schedule_state(10, &[]).await.unwrap();
    match plan(&state, Limits::default(), world.store.now().await.unwrap()).remove(0) {
        Decision::Assign { support, .. } => Ok(support),
        Decision::Hold { why, .. } => Err(why.words()),
    }
}

#[tokio::test]
async fn a_drained_worker_gets_nothing_new_through_its_restarts_and_its_job_goes_on() {
    let world = world().await;
    let (worker, boot) = world.worker("w", 2).await;
    let running = world.submit("running", "linux/amd64", &[]).await;
    let lease = world.lease(running, 0, worker).await;
    world.store.drain_workers(&tester(), &names(&["w", "w"]), None).await.unwrap().unwrap();
    let drained_at = world.store.workers().await.unwrap()[0].drained_at;
    let waiting = world.submit("waiting", "linux/amd64", &[]).await;
    let assignment = world.assignment(waiting, 0, worker).await;
    let reason = proposed(&world).await.unwrap_err();
    assert!(reason.contains("w is drained; `farm workers resume w`"), "{reason}");
    assert!(world.store.lease(world.epoch, assignment.clone(), LEASE).await.is_err());

    // Neither another life of it, nor the end of its stream, nor a second wish changes anything.
    world.store.register_worker(&world.registration("w", boot, 2), SUSPECT).await.unwrap();
    world.store.worker_disconnected(worker, world.connection(worker)).await.unwrap();
    let again = world.registration("w", BootId::generate(), 2);
    world.store.register_worker(&again, SUSPECT).await.unwrap();
    world.store.drain_workers(&tester(), &names(&["w"]), None).await.unwrap().unwrap();
    assert_eq!(world.store.workers().await.unwrap()[0].drained_at, drained_at);
    assert!(world.store.lease(world.epoch, assignment.clone(), LEASE).await.is_err());

    world.finish(lease, success("x")).await.unwrap();
    world.store.resume_workers(&tester(), &names(&["w"])).await.unwrap().unwrap();
    assert_eq!(proposed(&world).await, Ok(RunMode::Native));
    world.store.lease(world.epoch, assignment, LEASE).await.unwrap();
}

#[tokio::test]
async fn emulation_is_unlocked_thirty_seconds_after_the_drain_where_the_policy_allows_it() {
    let world = world().await;
    world.worker("native", 1).await;
    let mut emulating = world.registration("emulating", BootId::generate(), 1);
    emulating.offers.retain(|offer| offer.platform.architecture() == "arm64");
    emulating.offers[0].support = Support::Emulated;
    world.store.register_worker(&emulating, SUSPECT).await.unwrap();
    world.submit("k", "linux/arm64", &[]).await;
    let seen_just_now = || world.database.psql("UPDATE workers SET last_seen = farm_now()");
    world.store.drain_workers(&tester(), &names(&["native"]), None).await.unwrap().unwrap();
    // What the test itself takes counts, too.
    world.pass("20 seconds");
    seen_just_now();
    let reason = proposed(&world).await.unwrap_err();
    assert!(reason.contains("native is drained"), "{reason}");
    world.pass("10 seconds");
    seen_just_now();
    assert_eq!(proposed(&world).await, Ok(RunMode::Emulated));
    // Another native one keeps it locked.
    let (_, _) = world.worker("other", 1).await;
    assert_eq!(proposed(&world).await, Ok(RunMode::Native));
    world.store.drain_workers(&tester(), &names(&["other"]), None).await.unwrap().unwrap();
    world.database.psql("UPDATE jobs SET emulation = 'never'");
    world.pass("1 minute");
    seen_just_now();
    let reason = proposed(&world).await.unwrap_err();
    assert!(reason.contains("does not allow emulation: native, other are drained"), "{reason}");
}

#[tokio::test]
async fn only_a_worker_that_is_gone_is_removed_and_its_history_stays() {
    let world = world().await;
    let (worker, boot) = world.worker("w", 1).await;
    let build = world.submit("k", "linux/amd64", &[]).await;
    let lease = world.lease(build, 0, worker).await;
    let remove = async |list: &[&str]| world.store.remove_workers(&tester(), &names(list)).await.unwrap();
    assert_eq!(remove(&["w"]).await, Err(Refusal::Connected("w".to_owned())));
    let connection = world.connection(worker);
    world.store.worker_disconnected(worker, connection).await.unwrap();
    assert_eq!(remove(&["w"]).await, Err(Refusal::Leased("w".to_owned())));
    world.finish(lease, success("x")).await.unwrap();
    // All or none.
    assert_eq!(remove(&["w", "ghost"]).await, Err(Refusal::Unknown("ghost".to_owned())));
    world.store.drain_workers(&tester(), &names(&["w"]), None).await.unwrap().unwrap();
    remove(&["w"]).await.unwrap();
    assert!(world.store.workers().await.unwrap().is_empty());
    assert_eq!(world.build(build).await.jobs[0].attempts[0].worker, "w");
    assert_eq!(remove(&["w"]).await, Err(Refusal::Unknown("w".to_owned())));
    for wish in [
        world.store.drain_workers(&tester(), &names(&["w"]), None).await.unwrap(),
        world.store.resume_workers(&tester(), &names(&["w"])).await.unwrap(),
    ] {
        assert_eq!(wish, Err(Refusal::Unknown("w".to_owned())));
    }
    // A sign that was on its way by the stream that has ended doesn't bring it back; registering does.
    let sign = Sign { worker, connection, tokens: Vec::new() };
    world.store.heartbeats(world.coordinator, &[sign], LEASE).await.unwrap();
    assert!(world.store.workers().await.unwrap().is_empty());
    world.store.register_worker(&world.registration("w", boot, 1), SUSPECT).await.unwrap();
    let back = world.store.workers().await.unwrap().remove(0);
    assert!(back.state == WorkerState::Online && back.drained_at.is_none());
}
