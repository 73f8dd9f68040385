//! What is known of the programs that a job runs: kept, inherited, corrected.

use farm_core::work::plan::{Decision, Limits, plan};
use farm_core::work::waiting::Waiting;
use farm_store::builds::retry::Retry;
use farm_store::work::finish::Outcome;
use farm_store::work::lease::Assignment;
use farm_store::{StoreError, default_project};
use farm_types::state::JobState;
use farm_types::{Cause, Failure, FailureCode, RunMode, Runs};

use crate::fixture::{LEASE, PUBLISH, World, success, tester, world};
use farm_store::builds::submit::Submitted;

/// A build for a platform that no worker here offers.
async fn submit(world: &World, key: &str, runs: &str) -> Submitted {
    let mut new = world.new_build(key, "linux/s390x", &[]);
    new.runs = [("linux/s390x".parse().unwrap(), runs.parse().unwrap())].into();
    world.store.submit(&new).await.unwrap()
}

/// What the scheduler says of the only job that waits.
async fn proposed(world: &World) -> Result<Assignment, String> {
    let state = world.store.schedule_state(64, &[]).await.unwrap();
    let decisions = plan(&state, Limits::default(), world.store.now().await.unwrap());
    match decisions.into_iter().next().unwrap() {
        Decision::Assign { job, worker, engine, support, reason } => {
            Ok(Assignment { job, worker, engine, support, reason })
        }
        Decision::Hold { why, .. } => Err(why.words()),
    }
}

fn known(world: &World, build: Submitted) -> String {
    world.database.psql(&format!(
        "SELECT runs || ' | ' || queue_class FROM jobs JOIN builds USING (project_id, execution_id) WHERE builds.id = '{}'",
        build.id
    ))
}

fn foreign_program(step: &str) -> Outcome {
    let failure = Failure::new(Cause::Infrastructure, FailureCode::EmulatorMissing, "exec format error");
    Outcome::Failed(Failure { step: Some(step.to_owned()), ..failure })
}

#[tokio::test]
async fn a_job_without_programs_is_leased_to_whoever_is_there_and_the_record_says_how() {
    let world = world().await;
    world.worker("w", 1).await;
    let build = submit(&world, "k", "none").await;
    let assignment = proposed(&world).await.unwrap();
    assert_eq!(assignment.support, RunMode::Unneeded);
    world.store.lease(world.epoch, assignment, LEASE).await.unwrap();
    let offered = world.store.offered_via(world.coordinator).await.unwrap();
    assert_eq!((offered[0].support, &offered[0].runs), (RunMode::Unneeded, &Runs::nothing()));
    let attempt = world.build(build).await.jobs.remove(0).attempts.remove(0);
    assert_eq!(attempt.support, RunMode::Unneeded);
    assert_eq!(attempt.support_reason, "no program of linux/s390x runs");
}

#[tokio::test]
async fn a_worker_of_before_gets_none_of_these() {
    let world = world().await;
    world.worker("w", 1).await;
    world.database.psql("UPDATE workers SET features = '{progress}'");
    submit(&world, "k", "none").await;
    assert!(proposed(&world).await.unwrap_err().starts_with("no worker takes jobs now"));
}

#[tokio::test]
async fn a_program_of_the_base_image_corrects_what_is_known_and_counts_for_nothing() {
    let world = world().await;
    world.worker("w", 1).await;
    let build = submit(&world, "k", "engine").await;
    let lease_and_end = async |step: &str| {
        let attempt = world.store.lease(world.epoch, proposed(&world).await.unwrap(), LEASE).await.unwrap();
        let token = world.database.psql(&format!("SELECT lease_token FROM attempts WHERE id = '{attempt}'"));
        let lease =
            farm_store::work::attempts::Lease { attempt, token: token.parse().unwrap(), holder: None };
        world.finish(lease, foreign_program(step)).await.unwrap();
    };
    // What the build made itself, on the engine's platform, is tried as ever.
    lease_and_end("[b 2/2] RUN ./made").await;
    assert!(known(&world, build).starts_with("engine | linux/s390x fallback runs=engine "));
    assert_eq!(world.database.psql("SELECT attempt_count, cardinality(excluded_workers) FROM jobs"), "1|1");
    world.pass("2 minutes");
    world.database.psql("UPDATE workers SET last_seen = farm_now()");
    lease_and_end("[stage-1 2/3] ONBUILD RUN [\"/x\"]").await;
    assert!(
        known(&world, build).starts_with("target | linux/s390x fallback size="),
        "{}",
        known(&world, build)
    );
    assert_eq!(world.database.psql("SELECT attempt_count, cardinality(excluded_workers) FROM jobs"), "1|1");
    let record = world.build(build).await;
    assert_eq!((record.jobs[0].state, record.jobs[0].attempts.len()), (JobState::Ready, 2));
    assert!(proposed(&world).await.unwrap_err().starts_with("no worker for linux/s390x takes jobs now"));
    assert_eq!(world.slots_used(), 0);
}

#[tokio::test]
async fn a_retry_inherits_what_is_known() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    let build = submit(&world, "k", "linux/amd64,linux/arm64").await;
    let lease = world.lease(build, 0, worker).await;
    world.finish(lease, success("x")).await.unwrap();
    let retry = Retry {
        project: default_project(),
        id: farm_types::BuildId::generate(),
        of: build.id,
        idempotency_key: "again".to_owned(),
        failed_only: false,
        gone: Vec::new(),
        protected: false,
        mounts: None,
        signing: None,
        by: tester(),
        submitter: Default::default(),
        queue_limit: LEASE,
    };
    let again = world.store.retry(&retry, PUBLISH).await;
    // One that still publishes can't be retried.
    let again = match again {
        Err(StoreError::Stale(_)) => {
            world.database.psql("UPDATE builds SET state = 'succeeded', finished_at = farm_now()");
            world.store.retry(&retry, PUBLISH).await.unwrap()
        }
        other => other.unwrap(),
    };
    assert_eq!(known(&world, again), known(&world, build));
    assert!(known(&world, again).starts_with("linux/amd64,linux/arm64 | "));
}

#[tokio::test]
async fn one_that_waits_for_any_slot_is_told_when_it_starts_by_all_slots() {
    let world = world().await;
    let (worker, _) = world.worker("w", 2).await;
    for sample in 0..3 {
        let build = submit(&world, &format!("sample {sample}"), "none").await;
        let mut assignment = world.assignment(build, 0, worker).await;
        (assignment.support, assignment.reason) = (RunMode::Unneeded, "no program runs".to_owned());
        let attempt = world.store.lease(world.epoch, assignment, LEASE).await.unwrap();
        let token = world.database.psql(&format!("SELECT lease_token FROM attempts WHERE id = '{attempt}'"));
        let lease =
            farm_store::work::attempts::Lease { attempt, token: token.parse().unwrap(), holder: None };
        world.store.attempt_started(lease).await.unwrap();
        world.pass("60 seconds");
        world.finish(lease, success("x")).await.unwrap();
    }
    world.database.psql("UPDATE workers SET last_seen = farm_now()");
    let build = submit(&world, "waits", "none").await;
    let waits = async |build| {
        let job = world.build(build).await.jobs[0].id;
        let full = Waiting::Slots { support: RunMode::Unneeded, used: 2, total: 2 };
        world.store.note_waiting(world.epoch, &[(job, full)]).await.unwrap();
    };
    waits(build).await;
    let job = world.build(build).await.jobs.remove(0);
    assert_eq!(job.place, Some(1));
    // Both slots are free, in truth.
    let now = world.store.now().await.unwrap();
    assert!((job.starts_at.unwrap() - now).num_seconds() <= 1, "{job:?}");
    // A job that needs what nobody there runs waits for nobody's slot.
    let other = submit(&world, "other", "linux/riscv64").await;
    waits(other).await;
    assert_eq!(world.build(other).await.jobs[0].starts_at, None);
}
