//! Retries: the same intent once more, with what is there already or without.

use std::time::Duration;

use farm_store::builds::retry::Retry;
use farm_store::builds::submit::Submitted;
use farm_store::builds::submitter::{Submitter, SubmittingJob};
use farm_store::publish::destinations::Claim;
use farm_store::work::finish::Outcome;
use farm_store::{StoreError, default_project};
use farm_types::state::{BuildState, JobState};
use farm_types::{Cause, Digest, Failure, FailureCode};

use crate::fixture::{LEASE, PUBLISH, World, index, success, tester, world};

const TAG: &str = "localhost:5002/app:1";

pub fn retry_of(build: Submitted, key: &str, failed_only: bool) -> Retry {
    Retry {
        project: default_project(),
        id: farm_types::BuildId::generate(),
        of: build.id,
        idempotency_key: key.to_owned(),
        failed_only,
        gone: Vec::new(),
        protected: false,
        mounts: None,
        signing: None,
        by: tester(),
        submitter: Default::default(),
        queue_limit: LEASE,
    }
}

async fn retry(world: &World, build: Submitted, key: &str, failed_only: bool) -> Submitted {
    world.store.retry(&retry_of(build, key, failed_only), PUBLISH).await.unwrap()
}

/// A build of two platforms: the first succeeded, the second failed.
pub async fn half(world: &World, key: &str) -> Submitted {
    let (worker, _) = world.worker(&format!("w-{key}"), 2).await;
    let build = world.submit(key, "linux/amd64,linux/arm64", &[TAG]).await;
    let lease = world.lease(build, 0, worker).await;
    world.finish(lease, success("amd64")).await.unwrap();
    let lease = world.lease(build, 1, worker).await;
    world
        .finish(lease, Outcome::Failed(Failure::new(Cause::User, FailureCode::RunFailed, "x")))
        .await
        .unwrap();
    assert_eq!(world.state(build).await, BuildState::Failed);
    build
}

fn order_key(world: &World, build: Submitted) -> String {
    world.database.psql(&format!("SELECT order_key FROM builds WHERE id = '{}'", build.id))
}

#[tokio::test]
async fn a_retry_is_a_build_of_its_own_with_the_place_of_the_old_one() {
    let world = world().await;
    let old = half(&world, "old").await;
    let new = retry(&world, old, "r", false).await;
    let again = retry(&world, old, "r", false).await;
    assert_eq!((again.id, again.replayed), (new.id, true));
    let Err(StoreError::Conflict(why)) = world.store.retry(&retry_of(old, "r", true), PUBLISH).await else {
        panic!("one key, two requests")
    };
    assert!(why.contains("\"r\""), "{why}");
    let second = retry(&world, old, "r2", false).await;
    let (record, before) = (world.build(new).await, world.build(old).await);
    assert_eq!(record.retry_of, Some(before.short_id.clone()));
    assert_eq!(before.retried_by, [record.short_id.clone(), world.build(second).await.short_id]);
    assert_eq!((record.state, &record.spec), (BuildState::Queued, &before.spec));
    assert!(record.jobs.iter().all(|job| job.state == JobState::Ready && job.taken_from.is_none()));
    assert_eq!(order_key(&world, new), order_key(&world, old));
    // One that has not ended is none to retry.
    let refused = world.store.retry(&retry_of(new, "r3", false), PUBLISH).await;
    assert!(matches!(refused, Err(StoreError::Stale(_))), "{refused:?}");
}

#[tokio::test]
async fn who_submitted_and_who_retried_a_build_is_kept_exactly() {
    let world = world().await;
    let (ada, token) = (Some(farm_types::PrincipalId::generate()), farm_types::TokenId::generate());
    let job = SubmittingJob { token, full_ref: Some("refs/heads/main".to_owned()), event: None };
    let (first, second) =
        (Submitter { principal: ada, job: None }, Submitter { principal: ada, job: Some(job) });
    let mut new = world.new_build("1", "linux/amd64", &[]);
    new.submitter = first.clone();
    let old = world.store.submit(&new).await.unwrap();
    assert_eq!(world.build(old).await.submitter, Some(first));
    world.store.cancel(&tester(), default_project(), old.id, PUBLISH).await.unwrap();
    let again = Retry { submitter: second.clone(), ..retry_of(old, "r", false) };
    let again = world.store.retry(&again, PUBLISH).await.unwrap();
    assert_eq!(world.build(again).await.submitter, Some(second));
    // As a coordinator of before leaves it.
    world.database.psql("UPDATE builds SET submitter = NULL");
    assert_eq!(world.build(old).await.submitter, None);
}

#[tokio::test]
async fn what_succeeded_is_taken_over_and_only_the_rest_runs() {
    let world = world().await;
    let old = half(&world, "old").await;
    let id = world.build(old).await.short_id;
    let new = retry(&world, old, "r", true).await;
    let jobs = world.build(new).await.jobs;
    assert_eq!((jobs[0].state, jobs[0].taken_from.as_ref()), (JobState::Succeeded, Some(&id)));
    assert_eq!(jobs[0].result.as_ref().unwrap().digest, Some(Digest::of(b"amd64")));
    assert_eq!(jobs[0].attempts[0].worker, "w-old");
    assert_eq!((jobs[1].state, jobs[1].attempts.len()), (JobState::Ready, 0));
    let (worker, _) = world.worker("w", 2).await;
    let lease = world.lease(new, 1, worker).await;
    world
        .finish(lease, Outcome::Failed(Failure::new(Cause::User, FailureCode::RunFailed, "x")))
        .await
        .unwrap();

    // A retry of the retry names the build that made it, and one whose result is gone runs again.
    let third = retry(&world, new, "r2", true).await;
    assert_eq!(world.build(third).await.jobs[0].taken_from, Some(id));
    let gone = Retry { gone: vec!["linux/amd64".parse().unwrap()], ..retry_of(new, "r3", true) };
    let fourth = world.store.retry(&gone, PUBLISH).await.unwrap();
    assert!(world.build(fourth).await.jobs.iter().all(|job| job.state == JobState::Ready));

    let lease = world.lease(third, 1, worker).await;
    world.finish(lease, success("arm64")).await.unwrap();
    assert_eq!(world.state(third).await, BuildState::Publishing);
    let due = world.store.due_merges(10).await.unwrap().remove(0);
    let digests: Vec<_> = due.results.iter().map(|pushed| pushed.result.digest.unwrap()).collect();
    assert_eq!((due.build, digests), (third.id, vec![Digest::of(b"amd64"), Digest::of(b"arm64")]));
}

#[tokio::test]
async fn a_build_that_only_could_not_be_published_is_published_once_more_and_passes_no_newer_one() {
    let world = world().await;
    let (worker, _) = world.worker("w", 2).await;
    let old = world.submit("old", "linux/amd64", &[TAG]).await;
    let lease = world.lease(old, 0, worker).await;
    world.finish(lease, success("old")).await.unwrap();
    let failure = Failure::new(Cause::Infrastructure, FailureCode::RegistryUnavailable, "x");
    world.store.fail_merge(world.epoch, default_project(), old.id, &failure).await.unwrap();
    let newer = world.submit("newer", "linux/amd64", &[TAG]).await;
    let lease = world.lease(newer, 0, worker).await;
    world.finish(lease, success("newer")).await.unwrap();

    let again = retry(&world, old, "r", true).await;
    assert_eq!(world.state(again).await, BuildState::Publishing);
    for (build, word, expected) in [(newer, "newer", Claim::Granted), (again, "old", Claim::Superseded)] {
        let due =
            world.store.due_merges(10).await.unwrap().into_iter().find(|d| d.build == build.id).unwrap();
        world.store.keep_publication(world.epoch, &due, &index(word), &[]).await.unwrap();
        let destination = world.store.due_destinations(10).await.unwrap();
        let destination = destination.iter().find(|d| d.bytes == word.as_bytes()).unwrap();
        world.store.destination_pushed(world.epoch, destination).await.unwrap();
        let claim = world.store.claim_tag(world.epoch, destination, "1", None, Duration::from_secs(60)).await;
        assert_eq!(claim.unwrap(), expected, "{word}");
    }
    assert_eq!(world.state(again).await, BuildState::Succeeded);
}

#[tokio::test]
async fn a_build_whose_source_is_gone_is_not_retried() {
    let world = world().await;
    let old = half(&world, "old").await;
    world.database.psql("DELETE FROM snapshots");
    let Err(StoreError::Conflict(why)) = world.store.retry(&retry_of(old, "r", false), PUBLISH).await else {
        panic!("taken")
    };
    assert!(why.contains("submit it again"), "{why}");
    assert_eq!(world.database.psql("SELECT count(*) FROM builds"), "1");
}

#[tokio::test]
async fn what_is_to_pass_a_gate_has_to_pass_it_once_more_and_older_coordinators_are_shut_out_by_a_form() {
    let world = world().await;
    let mut new = world.new_build("gated", "linux/amd64", &[TAG]);
    new.spec.gate = Some("true".parse().unwrap());
    let gated = world.store.submit(&new).await.unwrap();
    let mut registration = world.registration("w", farm_types::BootId::generate(), 1);
    registration.features.push(farm_types::FEATURE_GATES.to_owned());
    let worker = world.store.register_worker(&registration, Duration::ZERO).await.unwrap();
    let lease = world.lease(gated, 0, worker).await;
    let failure = Failure::new(Cause::User, FailureCode::RunFailed, "x");
    world.finish(lease, Outcome::Failed(failure)).await.unwrap();
    let again = retry(&world, gated, "again", false).await;
    let jobs = format!(
        "SELECT bool_and(j.gated) FROM jobs j JOIN builds b ON b.execution_id = j.execution_id WHERE b.id = '{}'",
        again.id
    );
    assert_eq!(world.database.psql(&jobs).trim(), "t");

    let older =
        "INSERT INTO coordinators (id, address, runs_schema) VALUES (gen_random_uuid(), 'http://old', 65)";
    world.database.psql(older);
    let expected = farm_types::ExpectedTag { tag: TAG.parse().unwrap(), digest: None };
    let plain = world.new_build("plain", "linux/amd64", &[TAG]);
    let mut unchanged = world.new_build("unchanged", "linux/amd64", &[TAG]);
    unchanged.spec.expected = vec![expected];
    let mut docker = world.new_build("docker", "linux/amd64", &[TAG]);
    docker.spec.packaging.media_types = farm_types::MediaTypes::Docker;
    for formed in [&unchanged, &docker] {
        let refused = world.store.submit(formed).await.unwrap_err();
        assert!(matches!(&refused, StoreError::Older(why) if why.contains("http://old")), "{refused}");
    }
    world.store.submit(&plain).await.unwrap();
    // The same request, though the tag points elsewhere by now.
    world.database.psql("DELETE FROM coordinators WHERE address = 'http://old'");
    let first = world.store.submit(&unchanged).await.unwrap();
    unchanged.spec.expected[0].digest = Some(farm_types::Digest::of(b"elsewhere"));
    let second = world.store.submit(&unchanged).await.unwrap();
    assert!(second.replayed && first.id == second.id);
}
