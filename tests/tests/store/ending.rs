//! How attempts, jobs, executions and builds end.

use std::time::Duration;

use farm_core::work::waiting::{Waiting, Wanted};
use farm_store::machines::workers::Sign;
use farm_store::work::finish::Outcome;
use farm_store::{StoreError, default_project};
use farm_types::state::{AttemptState, BuildState, JobState};
use farm_types::{Cause, Failure, FailureCode};

use crate::fixture::{LEASE, PUBLISH, success, tester, world};

fn failure(cause: Cause) -> Outcome {
    Outcome::Failed(Failure::new(cause, FailureCode::RunFailed, "it broke"))
}

#[tokio::test]
async fn a_build_runs_when_the_first_job_starts_and_publishes_when_the_last_has_ended() {
    let world = world().await;
    let (worker, _) = world.worker("w", 2).await;
    let build = world.submit("k", "linux/amd64,linux/arm64", &["localhost:5002/app:1"]).await;
    let leases = [world.lease(build, 0, worker).await, world.lease(build, 1, worker).await];
    assert_eq!(world.state(build).await, BuildState::Queued);
    world.store.attempt_started(leases[0]).await.unwrap();
    world.store.attempt_started(leases[0]).await.unwrap();
    assert_eq!(world.state(build).await, BuildState::Running);
    world.finish(leases[0], success("amd64")).await.unwrap();
    assert_eq!(world.state(build).await, BuildState::Running);
    world.finish(leases[1], success("arm64")).await.unwrap();
    assert_eq!(world.state(build).await, BuildState::Publishing);
    assert_eq!(world.slots_used(), 0);
    assert_eq!(world.database.psql("SELECT count(*) FROM pushed_digests"), "2");
}

#[tokio::test]
async fn the_same_end_said_twice_is_one_end_and_another_end_is_refused() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    let build = world.submit("k", "linux/amd64", &[]).await;
    let lease = world.lease(build, 0, worker).await;
    world.finish(lease, success("x")).await.unwrap();
    world.finish(lease, success("x")).await.unwrap();
    let late = world.finish(lease, failure(Cause::User)).await;
    assert!(matches!(late, Err(StoreError::Stale(_))), "{late:?}");
    assert_eq!(world.slots_used(), 0);
}

#[tokio::test]
async fn a_users_mistake_fails_the_build_at_once_and_stops_the_other_platform() {
    let world = world().await;
    let (worker, boot) = world.worker("w", 1).await;
    let build = world.submit("k", "linux/amd64,linux/arm64", &[]).await;
    let lease = world.lease(build, 0, worker).await;
    world.finish(lease, failure(Cause::User)).await.unwrap();
    let record = world.build(build).await;
    assert_eq!(record.state, BuildState::Failed);
    assert_eq!(record.failure.unwrap().message, "it broke");
    assert_eq!(record.jobs[1].state, JobState::Cancelled);
    assert!(world.store.live_attempts(worker, boot).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_infrastructure_failure_is_tried_again_elsewhere_and_four_times_in_all() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    let build = world.submit("k", "linux/amd64", &[]).await;
    for attempt in 1..=4 {
        assert_eq!(world.build(build).await.jobs[0].state, JobState::Ready, "before attempt {attempt}");
        let lease = world.lease(build, 0, worker).await;
        world.finish(lease, failure(Cause::Infrastructure)).await.unwrap();
    }
    let record = world.build(build).await;
    assert_eq!(record.state, BuildState::Failed);
    assert_eq!(record.jobs[0].attempts.len(), 4);
    assert_eq!(world.database.psql("SELECT excluded_workers = ARRAY(SELECT id FROM workers) FROM jobs"), "t");
}

#[tokio::test]
async fn a_lost_lease_frees_the_job_and_its_old_token_changes_nothing_any_more() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    let build = world.submit("k", "linux/amd64", &[]).await;
    let old = world.lease_for(build, 0, worker, Duration::from_secs(25)).await;
    world.store.attempt_started(old).await.unwrap();
    assert_eq!(world.store.reap(world.epoch, PUBLISH, 0.0).await.unwrap(), 0);
    world.pass("26 s");
    assert_eq!(world.store.reap(world.epoch, PUBLISH, 0.0).await.unwrap(), 1);
    assert_eq!(world.slots_used(), 0);
    let new = world.lease(build, 0, worker).await;
    for stale in [
        world.store.attempt_started(old).await,
        world.finish(old, success("zombie")).await,
        world.store.leased_snapshot(old).await.map(drop),
    ] {
        assert!(matches!(stale, Err(StoreError::Stale(_))), "{stale:?}");
    }
    world.finish(new, success("x")).await.unwrap();
    let record = world.build(build).await;
    let states: Vec<AttemptState> = record.jobs[0].attempts.iter().map(|a| a.state).collect();
    assert_eq!(states, [AttemptState::Lost, AttemptState::Succeeded]);
    let words = record.jobs[0].attempts[0].failure.clone().unwrap().message;
    // 26 s by the shifted clock, and what the test itself took.
    let silent = words.strip_prefix("no heartbeat for ").and_then(|rest| rest.strip_suffix(" s"));
    assert!(silent.and_then(|text| text.parse().ok()).is_some_and(|s: u32| (26..60).contains(&s)), "{words}");
}

#[tokio::test]
async fn a_late_result_counts_until_the_lease_was_reaped() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    let build = world.submit("k", "linux/amd64", &[]).await;
    let lease = world.lease_for(build, 0, worker, Duration::from_secs(25)).await;
    world.pass("10 min");
    world.finish(lease, success("late")).await.unwrap();
    assert_eq!(world.store.reap(world.epoch, PUBLISH, 0.0).await.unwrap(), 0);
    assert_eq!(world.build(build).await.jobs[0].state, JobState::Succeeded);
}

#[tokio::test]
async fn a_worker_that_was_restarted_has_lost_what_it_ran() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    let build = world.submit("k", "linux/amd64", &[]).await;
    world.lease(build, 0, worker).await;
    let (same, _) = world.worker("w", 1).await;
    assert_eq!(worker, same);
    // A result that its former life left on disk may still come.
    assert_eq!(world.store.reap(world.epoch, PUBLISH, 0.0).await.unwrap(), 0);
    world.pass("4 s");
    assert_eq!(world.store.reap(world.epoch, PUBLISH, 0.0).await.unwrap(), 1);
    let words = world.build(build).await.jobs[0].attempts[0].failure.clone().unwrap().message;
    assert!(words.contains("restarted"), "{words}");
}

#[tokio::test]
async fn a_job_that_loses_three_workers_is_poison() {
    let world = world().await;
    let build = world.submit("k", "linux/amd64", &[]).await;
    for name in ["a", "b", "c"] {
        let (worker, _) = world.worker(name, 1).await;
        world.pass("2 min");
        let lease = world.lease_for(build, 0, worker, Duration::from_secs(25)).await;
        world.store.attempt_started(lease).await.unwrap();
        world.pass("26 s");
        world.store.reap(world.epoch, PUBLISH, 0.0).await.unwrap();
    }
    let record = world.build(build).await;
    assert_eq!((record.state, record.failure.unwrap().code.as_str()), (BuildState::Failed, "poison"));
}

#[tokio::test]
async fn a_heartbeat_renews_the_leases_that_it_names_and_no_others() {
    let world = world().await;
    let (worker, boot) = world.worker("w", 2).await;
    let connection = world.connection(worker);
    let build = world.submit("k", "linux/amd64,linux/arm64", &[]).await;
    let named = world.lease_for(build, 0, worker, Duration::from_secs(25)).await;
    world.lease_for(build, 1, worker, Duration::from_secs(25)).await;
    world.pass("20 s");
    let sign = |connection| Sign { worker, connection, tokens: vec![named.token.as_uuid()] };
    world.store.heartbeats(world.coordinator, &[sign(connection)], Duration::from_secs(25)).await.unwrap();
    world.pass("10 s");
    assert_eq!(world.store.reap(world.epoch, PUBLISH, 0.0).await.unwrap(), 1);
    let live = world.store.live_attempts(worker, boot).await.unwrap();
    assert_eq!(live.iter().map(|l| l.attempt).collect::<Vec<_>>(), [named.attempt]);
    // Another connection, and so another life of the worker, renews nothing.
    let stranger = sign(uuid::Uuid::new_v4());
    world.store.heartbeats(world.coordinator, &[stranger], LEASE).await.unwrap();
    world.pass("16 s");
    assert_eq!(world.store.reap(world.epoch, PUBLISH, 0.0).await.unwrap(), 1);
}

#[tokio::test]
async fn a_cancel_ends_what_waits_at_once_and_what_runs_when_its_worker_says_so() {
    let world = world().await;
    let (worker, boot) = world.worker("w", 1).await;
    let waiting = world.submit("a", "linux/amd64", &[]).await;
    world.store.cancel(&tester(), default_project(), waiting.id, PUBLISH).await.unwrap();
    assert_eq!(world.state(waiting).await, BuildState::Cancelled);

    let running = world.submit("b", "linux/amd64,linux/arm64", &[]).await;
    let lease = world.lease(running, 0, worker).await;
    world.store.attempt_started(lease).await.unwrap();
    world.store.cancel(&tester(), default_project(), running.id, PUBLISH).await.unwrap();
    assert_eq!(world.state(running).await, BuildState::Cancelling);
    let stops = world.store.stops_via(world.coordinator).await.unwrap();
    assert_eq!(stops, [(worker, lease.attempt, "cancelled".to_owned())]);
    world.finish(lease, Outcome::Stopped).await.unwrap();
    assert_eq!(world.state(running).await, BuildState::Cancelled);
    assert!(world.store.live_attempts(worker, boot).await.unwrap().is_empty());
    assert_eq!(world.slots_used(), 0);
    // A second cancel, and one of a final build, change nothing.
    world.store.cancel(&tester(), default_project(), running.id, PUBLISH).await.unwrap();
    assert_eq!(world.state(running).await, BuildState::Cancelled);
}

#[tokio::test]
async fn a_cancelled_build_whose_worker_is_lost_ends_cancelled_and_is_not_tried_again() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    let build = world.submit("k", "linux/amd64", &[]).await;
    world.lease_for(build, 0, worker, Duration::from_secs(25)).await;
    world.store.cancel(&tester(), default_project(), build.id, PUBLISH).await.unwrap();
    world.pass("26 s");
    world.store.reap(world.epoch, PUBLISH, 0.0).await.unwrap();
    assert_eq!(world.state(build).await, BuildState::Cancelled);
}

#[tokio::test]
async fn a_job_that_waits_past_the_queue_deadline_fails_its_build_and_says_what_it_waited_for() {
    let world = world().await;
    let build = world.submit("k", "linux/amd64", &[]).await;
    let job = world.build(build).await.jobs[0].id;
    let wanted = Wanted::Platform("linux/amd64".parse().unwrap());
    let nobody = Waiting::NoWorker { wanted, emulated_refused: false, aside: vec![] };
    world.store.note_waiting(world.epoch, &[(job, nobody)]).await.unwrap();
    assert_eq!(world.store.end_overdue_queues(world.epoch, PUBLISH).await.unwrap(), 0);
    world.pass("61 s");
    assert_eq!(world.store.end_overdue_queues(world.epoch, PUBLISH).await.unwrap(), 1);
    let failure = world.build(build).await.failure.unwrap();
    assert_eq!((failure.cause, failure.code.as_str()), (Cause::Deadline, "queue_deadline"));
    assert!(failure.message.contains("no worker for linux/amd64"), "{}", failure.message);
}

#[tokio::test]
async fn an_optional_job_that_waits_past_the_queue_deadline_fails_alone() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    let mut new = world.new_build("k", "linux/amd64,linux/arm64", &["localhost:5002/app:1"]);
    new.spec.optional = vec!["linux/arm64".parse().unwrap()];
    let build = world.store.submit(&new).await.unwrap();
    let lease = world.lease(build, 0, worker).await;
    world.finish(lease, success("amd64")).await.unwrap();
    let jobs = world.build(build).await.jobs;
    assert_eq!((jobs[0].optional, jobs[1].optional), (false, true));
    world.pass("61 s");
    assert_eq!(world.store.end_overdue_queues(world.epoch, PUBLISH).await.unwrap(), 1);
    let record = world.build(build).await;
    assert_eq!((record.state, record.failure), (BuildState::Publishing, None));
    assert_eq!(record.jobs[1].failure.as_ref().unwrap().code.as_str(), "queue_deadline");
}

#[tokio::test]
async fn a_build_that_is_not_built_within_its_timeout_fails_and_is_stopped_and_one_that_is_goes_on() {
    let world = world().await;
    let (worker, _) = world.worker("w", 3).await;
    let submit = async |key: &str| {
        let mut new = world.new_build(key, "linux/amd64", &["localhost:5002/app:1"]);
        new.spec.timeout_ms = Some(90_000);
        new.queue_limit = Duration::from_secs(3600);
        world.store.submit(&new).await.unwrap()
    };
    let (running, waiting, built) = (submit("r").await, submit("w").await, submit("b").await);
    let lease = world.lease_for(running, 0, worker, Duration::from_secs(3600)).await;
    world.store.attempt_started(lease).await.unwrap();
    let done = world.lease(built, 0, worker).await;
    world.finish(done, success("b")).await.unwrap();
    world.pass("45 s");
    assert_eq!(world.store.end_overdue_builds(world.epoch).await.unwrap(), 0);
    world.pass("46 s");
    assert_eq!(world.store.end_overdue_builds(world.epoch).await.unwrap(), 2);
    for build in [running, waiting] {
        let failure = world.build(build).await.failure.unwrap();
        assert_eq!((failure.cause, failure.code.as_str()), (Cause::Deadline, "build_timeout"));
        assert!(failure.message.contains("90 s"), "{}", failure.message);
    }
    assert_eq!(world.state(built).await, BuildState::Publishing);
    assert_eq!(world.store.stops_via(world.coordinator).await.unwrap().len(), 1, "what runs is stopped");
    // A retry has as long again.
    let retry = farm_store::builds::retry::Retry {
        project: default_project(),
        id: farm_types::BuildId::generate(),
        of: running.id,
        idempotency_key: "again".to_owned(),
        failed_only: false,
        gone: Vec::new(),
        protected: false,
        mounts: None,
        signing: None,
        by: tester(),
        submitter: Default::default(),
        queue_limit: Duration::from_secs(3600),
    };
    let again = world.store.retry(&retry, PUBLISH).await.unwrap();
    assert_eq!(world.store.end_overdue_builds(world.epoch).await.unwrap(), 0);
    world.pass("91 s");
    assert_eq!(world.store.end_overdue_builds(world.epoch).await.unwrap(), 1);
    assert_eq!(world.state(again).await, BuildState::Failed);
}

#[tokio::test]
async fn an_offer_that_nobody_answered_has_lost_no_worker() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    let build = world.submit("k", "linux/amd64", &[]).await;
    for _ in 0..4 {
        world.lease_for(build, 0, worker, Duration::from_secs(25)).await;
        world.pass("26 s");
        assert_eq!(world.store.reap(world.epoch, PUBLISH, 0.0).await.unwrap(), 1);
        world.pass("2 s");
    }
    let record = world.build(build).await;
    assert_eq!(record.jobs[0].state, JobState::Ready);
    let words = record.jobs[0].attempts[0].failure.clone().unwrap().message;
    assert!(words.contains("did not answer"), "{words}");
}

#[tokio::test]
async fn an_attempt_that_goes_on_for_ever_is_stopped_and_ends_by_its_deadline() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    let limit = Duration::from_secs(600);
    let build = world.submit("k", "linux/amd64", &[]).await;
    let lease = world.lease_for(build, 0, worker, Duration::from_secs(3600)).await;
    world.store.attempt_started(lease).await.unwrap();
    assert_eq!(world.store.stop_overdue_attempts(world.epoch, limit).await.unwrap(), 0);
    world.pass("601 s");
    assert_eq!(world.store.stop_overdue_attempts(world.epoch, limit).await.unwrap(), 1);
    assert_eq!(world.store.stops_via(world.coordinator).await.unwrap().len(), 1);
    world.finish(lease, Outcome::Stopped).await.unwrap();
    let failure = world.build(build).await.failure.unwrap();
    assert_eq!((failure.cause, failure.code.as_str()), (Cause::Deadline, "attempt_deadline"));
}

#[tokio::test]
async fn a_worker_that_does_not_stop_when_told_loses_its_lease_however_often_it_is_heard() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    let build = world.submit("k", "linux/amd64", &[]).await;
    let lease = world.lease_for(build, 0, worker, Duration::from_secs(25)).await;
    world.store.attempt_started(lease).await.unwrap();
    world.store.cancel(&tester(), default_project(), build.id, PUBLISH).await.unwrap();
    let sign = Sign { worker, connection: world.connection(worker), tokens: vec![lease.token.as_uuid()] };
    for _ in 0..9 {
        world.pass("10 s");
        world
            .store
            .heartbeats(world.coordinator, std::slice::from_ref(&sign), Duration::from_secs(25))
            .await
            .unwrap();
        world.store.reap(world.epoch, PUBLISH, 0.0).await.unwrap();
    }
    assert_eq!(world.state(build).await, BuildState::Cancelled);
}
