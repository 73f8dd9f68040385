//! Whoever comes at the same moment: one of them decides, and nothing leaks.

use std::time::Duration;

use farm_store::builds::record::BuildRecord;
use farm_store::work::finish::Outcome;
use farm_store::{StoreError, default_project};
use farm_types::state::{BuildState, JobState};
use farm_types::{Cause, Failure, FailureCode};

use crate::fixture::{LEASE, PUBLISH, World, success, tester, world};

#[tokio::test]
async fn a_job_that_is_leased_to_many_at_once_goes_to_one() {
    let world = world().await;
    let mut assignments = Vec::new();
    let build = world.submit("k", "linux/amd64", &[]).await;
    for name in ["a", "b", "c", "d"] {
        let (worker, _) = world.worker(name, 1).await;
        assignments.push(world.assignment(build, 0, worker).await);
    }
    let leases = assignments.into_iter().map(|a| world.store.lease(world.epoch, a, LEASE));
    let granted = futures::future::join_all(leases).await.into_iter().filter(Result::is_ok).count();
    assert_eq!((granted, world.slots_used()), (1, 1));
}

#[tokio::test]
async fn an_engine_is_never_given_more_than_it_has() {
    let world = world().await;
    let (worker, _) = world.worker("w", 3).await;
    let mut assignments = Vec::new();
    for i in 0..8 {
        let build = world.submit(&format!("{i}"), "linux/amd64", &[]).await;
        assignments.push(world.assignment(build, 0, worker).await);
    }
    let leases = assignments.into_iter().map(|a| world.store.lease(world.epoch, a, LEASE));
    let granted = futures::future::join_all(leases).await.into_iter().filter(Result::is_ok).count();
    assert_eq!((granted, world.slots_used()), (3, 3));
}

/// One of the things that can happen to a running attempt.
async fn happen(
    world: &World,
    what: usize,
    build: farm_store::builds::submit::Submitted,
    lease: farm_store::work::attempts::Lease,
) {
    let result = match what {
        0 => world.finish(lease, success("x")).await,
        1 => {
            let failure = Failure::new(Cause::Infrastructure, FailureCode::RunFailed, "x");
            world.finish(lease, Outcome::Failed(failure)).await
        }
        2 => world.store.reap(world.epoch, PUBLISH, 0.0).await.map(drop),
        3 => world.store.cancel(&tester(), default_project(), build.id, PUBLISH).await,
        4 => world.finish(lease, Outcome::Stopped).await,
        5 => world.store.attempt_started(lease).await,
        _ => world.store.heartbeats(world.coordinator, &[], LEASE).await.map(drop),
    };
    match result {
        // Not first, or told to try again: both leave the state to the others.
        Ok(()) | Err(StoreError::Stale(_) | StoreError::Unavailable(_)) => {}
        Err(error) => panic!("{what}: {error}"),
    }
}

/// That a build of one job that is not published is in one of the states in which it can be; answers its live leases.
pub fn fits(record: &BuildRecord, case: &str) -> usize {
    let job = &record.jobs[0];
    let live = job.attempts.iter().filter(|attempt| !attempt.state.is_final()).count();
    assert_eq!(live, usize::from(matches!(job.state, JobState::Leased | JobState::Running)), "{case}");
    let fits = match record.state {
        BuildState::Queued | BuildState::Running => !job.state.is_final(),
        BuildState::Cancelling => live == 1,
        BuildState::Publishing => job.state == JobState::Succeeded,
        BuildState::Cancelled => job.state.is_final() && job.state != JobState::Failed,
        BuildState::Failed | BuildState::Succeeded => false,
    };
    assert!(fits, "{case}");
    live
}

#[tokio::test]
async fn every_pair_of_endings_at_once_leaves_one_state_and_no_slot_behind() {
    let world = world().await;
    for first in 0..6 {
        for second in 0..6 {
            let (worker, _) = world.worker(&format!("w{first}{second}"), 1).await;
            let build =
                world.submit(&format!("{first}{second}"), "linux/amd64", &["localhost:5002/a:1"]).await;
            let lease = world.lease_for(build, 0, worker, Duration::from_secs(1)).await;
            world.pass("2 s");
            tokio::join!(happen(&world, first, build, lease), happen(&world, second, build, lease));
            let record = world.build(build).await;
            let job = &record.jobs[0];
            let pair = format!("{first} and {second}: build {}, job {}", record.state, job.state);
            fits(&record, &pair);
            // Whatever is left is ended, so that the next pair finds an empty farm.
            world.store.cancel(&tester(), default_project(), build.id, PUBLISH).await.unwrap();
            world.store.reap(world.epoch, PUBLISH, 0.0).await.unwrap();
            assert_eq!(world.slots_used(), 0, "{pair}");
        }
    }
}
