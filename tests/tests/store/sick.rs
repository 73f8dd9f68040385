//! Workers that are sick or have to leave: quarantine, probation, what is given back, attempts without progress.

use std::time::Duration;

use farm_core::life::attempt::StopReason;
use farm_store::builds::submit::Submitted;
use farm_store::machines::workers::{Sign, WorkerRecord};
use farm_store::work::attempts::Lease;
use farm_store::work::finish::Outcome;
use farm_store::{StoreError, default_project};
use farm_types::state::{BuildState, JobState, WorkerState};
use farm_types::{BootId, Cause, Failure, FailureCode, WorkerId};
use uuid::Uuid;

use crate::fixture::{LEASE, PUBLISH, World, success, tester, world};

const SUSPECT: Duration = Duration::from_secs(12);

async fn record(world: &World, worker: WorkerId) -> WorkerRecord {
    world.store.workers().await.unwrap().into_iter().find(|record| record.id == worker).unwrap()
}

/// A build of one platform, running on this worker.
async fn running(world: &World, key: &str, worker: WorkerId) -> (Submitted, Lease) {
    let build = world.submit(key, "linux/amd64", &[]).await;
    let lease = world.lease(build, 0, worker).await;
    world.store.attempt_started(lease).await.unwrap();
    (build, lease)
}

async fn beat(world: &World, worker: WorkerId, leases: &[Lease]) {
    let tokens = leases.iter().map(|lease| lease.token.as_uuid()).collect();
    let sign = Sign { worker, connection: world.connection(worker), tokens };
    world.store.heartbeats(world.coordinator, &[sign], LEASE).await.unwrap();
}

fn trouble(code: &str) -> Outcome {
    Outcome::Failed(Failure::new(Cause::Infrastructure, code.parse().unwrap(), "something broke"))
}

/// One job after the other that fails there so, by the worker's own fault.
async fn fail_some(world: &World, prefix: &str, worker: WorkerId, codes: &[&str]) {
    fail_checked(world, prefix, worker, codes, Some("no runc")).await;
}

/// One job after the other that fails there so; what the worker then found.
async fn fail_checked(world: &World, prefix: &str, worker: WorkerId, codes: &[&str], found: Option<&str>) {
    for (n, code) in codes.iter().enumerate() {
        let (_, lease) = running(world, &format!("{prefix}{n}"), worker).await;
        world.finish_checked(lease, trouble(code), found).await.unwrap();
    }
}

#[tokio::test]
async fn a_worker_that_does_not_stop_is_quarantined_and_what_it_runs_is_anothers() {
    let world = world().await;
    let (worker, boot) = world.worker("w", 3).await;
    let (unwanted, unheeded) = running(&world, "unwanted", worker).await;
    let (wanted, other) = running(&world, "wanted", worker).await;
    world.store.cancel(&tester(), default_project(), unwanted.id, PUBLISH).await.unwrap();
    world.pass("50 s");
    beat(&world, worker, &[unheeded, other]).await;
    assert!(world.store.quarantine_unheeding(world.epoch).await.unwrap().is_empty());
    world.pass("11 s");
    beat(&world, worker, &[unheeded, other]).await;
    assert_eq!(world.store.quarantine_unheeding(world.epoch).await.unwrap(), ["w"]);
    assert!(record(&world, worker).await.quarantined_at.is_some());
    assert!(world.store.quarantine_unheeding(world.epoch).await.unwrap().is_empty());

    // All that it runs ends: one is what somebody wanted to end, the other is run again, elsewhere.
    assert_eq!(world.store.reap(world.epoch, PUBLISH, 0.0).await.unwrap(), 2);
    assert_eq!(world.state(unwanted).await, BuildState::Cancelled);
    let job = &world.build(wanted).await.jobs[0];
    assert_eq!(job.state, JobState::Ready);
    assert_eq!(job.attempts[0].failure.as_ref().unwrap().code, FailureCode::WorkerQuarantined);
    assert_eq!(world.slots_used(), 0);
    let assignment = world.assignment(wanted, 0, worker).await;
    assert!(world.store.lease(world.epoch, assignment, LEASE).await.is_err());
    // Its late word changes nothing.
    assert!(matches!(world.finish(other, success("x")).await, Err(StoreError::Stale(_))));
    let (second, _) = world.worker("second", 1).await;
    let lease = world.lease(wanted, 0, second).await;
    world.finish(lease, success("x")).await.unwrap();

    // As long as it names that attempt, nothing changes, on whatever stream; then it is a worker again.
    world.store.register_worker(&world.registration("w", boot, 3), SUSPECT).await.unwrap();
    beat(&world, worker, &[unheeded]).await;
    assert!(record(&world, worker).await.quarantined_at.is_some());
    beat(&world, worker, &[other]).await;
    assert!(record(&world, worker).await.quarantined_at.is_none());
}

#[tokio::test]
async fn another_life_or_an_administrator_ends_a_quarantine() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    for again in [false, true] {
        let (build, lease) = running(&world, if again { "a" } else { "b" }, worker).await;
        world.store.cancel(&tester(), default_project(), build.id, PUBLISH).await.unwrap();
        world.pass("61 s");
        beat(&world, worker, &[lease]).await;
        assert_eq!(world.store.quarantine_unheeding(world.epoch).await.unwrap(), ["w"]);
        world.store.reap(world.epoch, PUBLISH, 0.0).await.unwrap();
        if again {
            world.store.resume_workers(&tester(), &["w".to_owned()]).await.unwrap().unwrap();
        } else {
            let life = world.registration("w", BootId::generate(), 1);
            world.store.register_worker(&life, Duration::ZERO).await.unwrap();
        }
        assert!(record(&world, worker).await.quarantined_at.is_none());
    }
}

#[tokio::test]
async fn an_attempt_of_which_nothing_is_heard_is_told_to_stop_and_is_tried_elsewhere() {
    let world = world().await;
    let limit = Duration::from_secs(900);
    let (worker, boot) = world.worker("w", 2).await;
    let (talking, heard) = running(&world, "talking", worker).await;
    let (silent, lease) = running(&world, "silent", worker).await;
    for seq in 1..=2 {
        world.pass("8 min");
        world.store.append_chunk(heard, seq, b"x").await.unwrap();
        beat(&world, worker, &[heard, lease]).await;
    }
    // One of a worker that doesn't vouch for what is silent is let alone.
    let mut older = world.registration("w", boot, 2);
    older.features.clear();
    world.store.register_worker(&older, SUSPECT).await.unwrap();
    assert_eq!(world.store.stop_stalled_attempts(world.epoch, limit).await.unwrap(), 0);
    world.store.register_worker(&world.registration("w", boot, 2), SUSPECT).await.unwrap();
    assert_eq!(world.store.stop_stalled_attempts(world.epoch, limit).await.unwrap(), 1);
    let stops = world.store.stops_via(world.coordinator).await.unwrap();
    assert_eq!(stops, [(worker, lease.attempt, StopReason::NoProgress.as_str().to_owned())]);
    world.finish(lease, Outcome::Stopped).await.unwrap();
    let job = &world.build(silent).await.jobs[0];
    assert_eq!(
        (job.state, job.attempts[0].failure.as_ref().unwrap().code.as_str()),
        (JobState::Ready, "no_progress")
    );
    assert_eq!(world.build(talking).await.jobs[0].state, JobState::Running);
}

#[tokio::test]
async fn what_fails_on_a_worker_that_found_itself_well_or_did_not_look_is_not_held_against_it() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    let codes = ["engine_lost", "session_lost", "no_space", "registry_unavailable", "engine_error"];
    for (prefix, found) in [("well", Some("")), ("older", None)] {
        fail_checked(&world, prefix, worker, &codes, found).await;
        assert!(world.store.judge_workers(world.epoch).await.unwrap().is_empty(), "{prefix}");
    }
    fail_checked(&world, "sick", worker, &["session_lost"; 3], Some("its engine's disk is full")).await;
    assert_eq!(world.store.judge_workers(world.epoch).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_worker_that_fails_several_jobs_goes_on_probation_until_a_trial_build_succeeds() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    fail_some(&world, "a", worker, &["engine_lost", "engine_lost"]).await;
    assert!(world.store.judge_workers(world.epoch).await.unwrap().is_empty());
    fail_some(&world, "b", worker, &["no_space"]).await;
    let said = world.store.judge_workers(world.epoch).await.unwrap();
    assert_eq!(
        said,
        [
            "w is on probation: 3 jobs in a row failed there for its own reasons (engine_lost 2 times, no_space)"
        ]
    );
    assert!(world.store.judge_workers(world.epoch).await.unwrap().is_empty());
    assert_eq!(record(&world, worker).await.state, WorkerState::Probation);

    // It is asked at once, once; the answer to another question is none.
    let asked = world.store.probes_via(world.coordinator).await.unwrap();
    assert_eq!((asked.len(), asked[0].0), (1, worker));
    assert_eq!(world.store.probes_via(world.coordinator).await.unwrap(), asked);
    assert!(world.store.probes_via(Uuid::now_v7()).await.unwrap().is_empty());
    let stale = world.store.probe_ended(worker, Uuid::now_v7(), Ok(())).await;
    assert!(matches!(stale, Err(StoreError::Stale(_))));
    world.store.probe_ended(worker, asked[0].1, Err("no runc".to_owned())).await.unwrap();
    let after = record(&world, worker).await;
    assert!(after.probation_why.ends_with("; its trial build failed: no runc"), "{}", after.probation_why);
    assert!(world.store.probes_via(world.coordinator).await.unwrap().is_empty());
    world.pass("11 s");
    let asked = world.store.probes_via(world.coordinator).await.unwrap();
    // No answer is an answer.
    world.pass("121 s");
    assert!(world.store.probes_via(world.coordinator).await.unwrap().is_empty());
    assert!(world.store.probe_ended(worker, asked[0].1, Ok(())).await.is_err());
    world.pass("21 s");
    let asked = world.store.probes_via(world.coordinator).await.unwrap();
    world.store.probe_ended(worker, asked[0].1, Ok(())).await.unwrap();
    let after = record(&world, worker).await;
    assert!(after.probation_at.is_none() && after.probation_why.is_empty());
    // What was, is forgiven; the next time it is trusted later.
    assert!(world.store.judge_workers(world.epoch).await.unwrap().is_empty());
    fail_some(&world, "c", worker, &["engine_lost"; 3]).await;
    assert_eq!(world.store.judge_workers(world.epoch).await.unwrap().len(), 1);
    assert!(world.store.probes_via(world.coordinator).await.unwrap().is_empty());
    world.pass("11 s");
    assert_eq!(world.store.probes_via(world.coordinator).await.unwrap().len(), 1);
}

#[tokio::test]
async fn another_life_is_tried_at_once_and_a_finished_job_or_an_administrator_ends_probation() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    fail_some(&world, "a", worker, &["worker_disk"; 3]).await;
    world.store.judge_workers(world.epoch).await.unwrap();
    let asked = world.store.probes_via(world.coordinator).await.unwrap();
    world.store.probe_ended(worker, asked[0].1, Err("x".to_owned())).await.unwrap();
    let life = world.registration("w", BootId::generate(), 1);
    world.store.register_worker(&life, Duration::ZERO).await.unwrap();
    assert!(record(&world, worker).await.probation_at.is_some());
    let asked = world.store.probes_via(world.coordinator).await.unwrap();
    world.store.probe_ended(worker, asked[0].1, Err("x".to_owned())).await.unwrap();
    assert!(world.store.probes_via(world.coordinator).await.unwrap().is_empty());
    // So is one whose engine is back.
    let mut away = life.clone();
    away.offers.clear();
    for hello in [&away, &life] {
        world.store.register_worker(hello, SUSPECT).await.unwrap();
    }
    assert_eq!(world.store.probes_via(world.coordinator).await.unwrap().len(), 1);
    // An ordinary job that was given to it after all.
    let (_, lease) = running(&world, "last resort", worker).await;
    world.finish(lease, success("x")).await.unwrap();
    let said = world.store.judge_workers(world.epoch).await.unwrap();
    assert_eq!(said, ["w is no longer on probation: it finished a job"]);

    fail_some(&world, "b", worker, &["worker_disk"; 3]).await;
    assert_eq!(world.store.judge_workers(world.epoch).await.unwrap().len(), 1);
    world.store.resume_workers(&tester(), &["w".to_owned()]).await.unwrap().unwrap();
    assert!(record(&world, worker).await.probation_at.is_none());
    assert!(world.store.judge_workers(world.epoch).await.unwrap().is_empty());
    // One that can't answer trial builds isn't asked.
    let mut older = world.registration("older", BootId::generate(), 1);
    older.features.clear();
    let older = world.store.register_worker(&older, SUSPECT).await.unwrap();
    fail_some(&world, "c", older, &["worker_disk"; 3]).await;
    world.store.judge_workers(world.epoch).await.unwrap();
    assert!(record(&world, older).await.probation_at.is_some());
    assert!(world.store.probes_via(world.coordinator).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_worker_that_is_to_take_nothing_new_gets_no_trial_build_either() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    fail_some(&world, "a", worker, &["worker_disk"; 3]).await;
    assert_eq!(world.store.judge_workers(world.epoch).await.unwrap().len(), 1);
    let drained = |word: &str| world.database.psql(&format!("UPDATE workers SET drained_at = {word}"));
    drained("farm_now()");
    assert_eq!(world.store.probes_via(world.coordinator).await.unwrap(), []);
    drained("NULL");
    assert_eq!(world.store.probes_via(world.coordinator).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_a_leaving_worker_gives_back_keeps_its_place_and_costs_no_try_at_first() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    let build = world.submit("k", "linux/amd64", &[]).await;
    let place = || world.database.psql("SELECT virtual_time FROM jobs");
    let before = place();
    for round in 1..=7 {
        world.store.resume_workers(&tester(), &["w".to_owned()]).await.unwrap().unwrap();
        let lease = world.lease(build, 0, worker).await;
        world.store.attempt_started(lease).await.unwrap();
        let within = Some(Duration::from_secs(90));
        world.store.drain_workers(&tester(), &["w".to_owned()], within).await.unwrap().unwrap();
        assert_eq!(world.store.release_overdue_attempts(world.epoch).await.unwrap(), 0);
        world.pass("91 s");
        beat(&world, worker, &[lease]).await;
        assert_eq!(world.store.release_overdue_attempts(world.epoch).await.unwrap(), 1);
        let stops = world.store.stops_via(world.coordinator).await.unwrap();
        assert_eq!(stops, [(worker, lease.attempt, "released".to_owned())]);
        world.finish(lease, Outcome::Stopped).await.unwrap();
        let job = world.build(build).await.jobs.remove(0);
        if round == 7 {
            assert_eq!(job.failure.unwrap().code, FailureCode::GivenBack);
            return;
        }
        assert_eq!((job.state, place()), (JobState::Ready, before.clone()));
        let counted = world.database.psql("SELECT attempt_count FROM jobs");
        assert_eq!(counted, if round <= 3 { "0".to_owned() } else { (round - 3).to_string() });
        // At once.
        assert_eq!(world.database.psql("SELECT not_before <= farm_now() FROM jobs"), "t");
    }
}

#[tokio::test]
async fn a_job_that_fills_every_disk_ends_after_three_of_them() {
    let world = world().await;
    let build = world.submit("k", "linux/amd64", &[]).await;
    for (n, code) in ["no_space", "worker_disk", "no_space"].iter().enumerate() {
        let (worker, _) = world.worker(&format!("w{n}"), 1).await;
        let lease = world.lease(build, 0, worker).await;
        world.finish(lease, trouble(code)).await.unwrap();
    }
    let failure = world.build(build).await.failure.unwrap();
    assert_eq!(failure.code, FailureCode::NoSpace);
    assert!(failure.message.contains("on 3 tries"), "{failure}");
}

#[tokio::test]
async fn housekeeping_looks_at_what_there_is_and_at_nothing_else() {
    let world = world().await;
    let concerns = async || {
        let concerns = world.store.concerns().await.unwrap();
        (concerns.attempts, concerns.builds, concerns.health)
    };
    assert_eq!(concerns().await, (false, false, false));
    let (worker, _) = world.worker("w", 1).await;
    let waits = world.submit("waits", "linux/amd64", &[]).await;
    assert_eq!(concerns().await, (false, true, false));
    let lease = world.lease(waits, 0, worker).await;
    assert_eq!(concerns().await, (true, true, false), "an offer is one");
    world.finish(lease, success("x")).await.unwrap();
    assert_eq!(concerns().await, (false, true, false), "it isn't published yet");
    fail_some(&world, "a", worker, &["worker_disk"; 3]).await;
    assert!(concerns().await.2, "something failed");
    assert_eq!(world.store.judge_workers(world.epoch).await.unwrap().len(), 1);
    world.pass("2 days");
    assert!(concerns().await.2, "one is on probation, whenever it failed");
    world.store.resume_workers(&tester(), &["w".to_owned()]).await.unwrap().unwrap();
    assert!(!concerns().await.2, "all that is over");
}
