//! What builds that came to nothing have pushed is found, once, and never what something published needs.

use std::time::Duration;

use farm_store::builds::retry::Retry;
use farm_store::builds::submit::Submitted;
use farm_store::publish::destinations::Claim;
use farm_store::publish::garbage::{Cleaned, Cleaning};
use farm_store::work::finish::Outcome;
use farm_store::{StoreError, default_project};
use farm_types::state::{BuildState, JobState};
use farm_types::{Cause, Digest, Failure, FailureCode, Repository};

use crate::fixture::{LEASE, PUBLISH, World, success, tester, world};
use crate::interleavings::stopped;
use crate::publishing::{merged, put};
use farm_tests::session::Session;

const TAG: &str = "localhost:5002/app:1";
const AFTER: Duration = Duration::from_secs(24 * 3600);
const AGAIN: Duration = Duration::from_secs(900);

fn app() -> Repository {
    "localhost:5002/app".parse().unwrap()
}

/// A build of two platforms: the first pushed the digest of `what`, the second failed.
async fn half(world: &World, what: &str) -> Submitted {
    let (worker, _) = world.worker(&format!("w-{what}"), 2).await;
    let build = world.submit(what, "linux/amd64,linux/arm64", &[TAG]).await;
    let lease = world.lease(build, 0, worker).await;
    world.finish(lease, success(what)).await.unwrap();
    let lease = world.lease(build, 1, worker).await;
    world
        .finish(lease, Outcome::Failed(Failure::new(Cause::User, FailureCode::RunFailed, "x")))
        .await
        .unwrap();
    assert_eq!(world.state(build).await, BuildState::Failed);
    build
}

async fn begin(world: &World) -> Option<Cleaning> {
    world.store.begin_cleaning(world.epoch, &app(), AFTER, LEASE, AGAIN).await.unwrap()
}

async fn end(world: &World, ended: &Cleaned) {
    world.store.end_cleaning(world.epoch, &app(), ended, AGAIN).await.unwrap();
}

async fn due(world: &World) -> Vec<Repository> {
    world.store.due_cleanings(AFTER, 10).await.unwrap()
}

fn digests(of: &[&str]) -> Vec<Digest> {
    let mut digests: Vec<Digest> = of.iter().map(|what| Digest::of(what.as_bytes())).collect();
    digests.sort();
    digests
}

fn removed(of: &[&str]) -> Cleaned {
    Cleaned { removed: digests(of), ..Cleaned::default() }
}

#[tokio::test]
async fn what_a_failed_build_pushed_goes_after_its_time_and_is_found_once() {
    let world = world().await;
    half(&world, "failed").await;
    assert_eq!(due(&world).await, []);
    world.pass("23 hours");
    assert_eq!((due(&world).await, begin(&world).await), (vec![], None));
    world.pass("2 hours");
    assert_eq!(due(&world).await, [app()]);
    assert_eq!(begin(&world).await.unwrap().garbage, digests(&["failed"]));
    assert_eq!(due(&world).await, [], "it is being cleaned");
    end(&world, &removed(&["failed"])).await;
    world.pass("1 day");
    assert_eq!(due(&world).await, []);
    // The same bytes once more, for nothing.
    let (worker, _) = world.worker("w-again", 2).await;
    let build = world.submit("again", "linux/amd64,linux/arm64", &[TAG]).await;
    let lease = world.lease(build, 0, worker).await;
    world.finish(lease, success("failed")).await.unwrap();
    let lease = world.lease(build, 1, worker).await;
    world
        .finish(lease, Outcome::Failed(Failure::new(Cause::User, FailureCode::RunFailed, "x")))
        .await
        .unwrap();
    world.pass("25 hours");
    assert_eq!(due(&world).await, [app()]);
    assert_eq!(begin(&world).await.unwrap().garbage, digests(&["failed"]));
}

#[tokio::test]
async fn what_was_pushed_and_refused_goes_too() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    let build = world.submit("k", "linux/amd64", &[TAG]).await;
    let lease = world.lease(build, 0, worker).await;
    let image = Digest::of(b"refused");
    for _ in 0..2 {
        world.store.note_pushed(lease, &[app()], image, "m").await.unwrap();
    }
    let failure = Failure::new(Cause::User, FailureCode::ForeignPrograms, "it is for another machine");
    world.finish(lease, Outcome::Failed(failure)).await.unwrap();
    // Its lease has ended.
    world.store.note_pushed(lease, &[app()], Digest::of(b"late"), "m").await.unwrap();
    world.pass("25 hours");
    assert_eq!(due(&world).await, [app()]);
    assert_eq!(begin(&world).await.unwrap().garbage, [image]);
}

#[tokio::test]
async fn what_was_published_or_is_needed_by_it_stays_and_what_came_too_late_goes() {
    let world = world().await;
    let (_, older) = merged(&world, "older", &[TAG]).await;
    let (_, newer) = merged(&world, "newer", &[TAG]).await;
    for (destination, claim) in [(&newer[0], Claim::Granted), (&older[0], Claim::Superseded)] {
        world.store.destination_pushed(world.epoch, destination).await.unwrap();
        assert_eq!(put(&world, destination, "1").await, claim);
    }
    // A build that came to nothing pushed what another one has published.
    world.database.psql(
        "UPDATE publications SET manifests = ARRAY[(SELECT digest FROM pushed_digests p JOIN attempts a
             ON a.id = p.attempt_id JOIN jobs j ON j.id = a.job_id JOIN builds b ON b.execution_id = j.execution_id
             WHERE b.id = publications.build_id)]",
    );
    let (worker, _) = world.worker("w", 2).await;
    let same = world.submit("same", "linux/amd64,linux/arm64", &[TAG]).await;
    let lease = world.lease(same, 0, worker).await;
    world.finish(lease, success("newer")).await.unwrap();
    let lease = world.lease(same, 1, worker).await;
    world
        .finish(lease, Outcome::Failed(Failure::new(Cause::User, FailureCode::RunFailed, "x")))
        .await
        .unwrap();
    // What was published by a build that is forgotten stays as well.
    let forgotten = world.submit("forgotten", "linux/amd64,linux/arm64", &[TAG]).await;
    let lease = world.lease(forgotten, 0, worker).await;
    world.finish(lease, success("of a forgotten build")).await.unwrap();
    let lease = world.lease(forgotten, 1, worker).await;
    world
        .finish(lease, Outcome::Failed(Failure::new(Cause::User, FailureCode::RunFailed, "x")))
        .await
        .unwrap();
    world.database.psql(
        "INSERT INTO put_indexes SELECT project_id, registry, repository, sha256('x'), media_type, ARRAY[digest], farm_now()
         FROM pushed_digests WHERE digest = sha256('of a forgotten build')",
    );
    world.pass("25 hours");
    // Index and image of the older one have one name here.
    assert_eq!(begin(&world).await.unwrap().garbage, digests(&["older"]));
    assert_eq!(world.store.needed(&app(), &digests(&["older", "newer"])).await.unwrap(), digests(&["newer"]));
    // The registry's tags show that somebody else has put it to use.
    end(&world, &Cleaned { needed: digests(&["older"]), ..Cleaned::default() }).await;
    world.pass("1 day");
    assert_eq!(due(&world).await, []);
    assert_eq!(world.database.psql("SELECT string_agg(DISTINCT fate, ',') FROM pushed_digests"), "kept");
}

#[tokio::test]
async fn nothing_is_cleaned_while_a_build_pushes_there_and_none_begins_while_it_is_cleaned() {
    let world = world().await;
    half(&world, "failed").await;
    world.pass("25 hours");
    let (worker, _) = world.worker("w", 2).await;
    let build = world.submit("b", "linux/amd64", &["localhost:5002/app:2"]).await;
    let lease = world.lease(build, 0, worker).await;
    assert_eq!(begin(&world).await, None, "it may find there what would be removed");
    assert_eq!(due(&world).await, [], "it is looked at later");
    world
        .finish(lease, Outcome::Failed(Failure::new(Cause::User, FailureCode::RunFailed, "x")))
        .await
        .unwrap();
    assert!(begin(&world).await.is_some());
    let next = world.submit("next", "linux/amd64", &[TAG, "localhost:5002/other:1"]).await;
    let assignment = world.assignment(next, 0, worker).await;
    let refused = world.store.lease(world.epoch, assignment.clone(), LEASE).await;
    assert!(matches!(refused, Err(StoreError::Stale("its repository is being cleaned"))), "{refused:?}");
    assert_eq!(world.slots_used(), 0);
    let elsewhere = world.submit("elsewhere", "linux/amd64", &["localhost:5002/app/below:1"]).await;
    world.lease(elsewhere, 0, worker).await;
    end(&world, &removed(&["failed"])).await;
    world.store.lease(world.epoch, assignment, LEASE).await.unwrap();
}

#[tokio::test]
async fn a_repository_with_builds_that_wait_is_cleaned_and_what_they_have_pushed_stays() {
    let world = world().await;
    half(&world, "failed").await;
    half(&world, "shared").await;
    world.pass("25 hours");
    let (worker, _) = world.worker("w", 1).await;
    let build = world.submit("b", "linux/amd64,linux/arm64", &[TAG]).await;
    let lease = world.lease(build, 0, worker).await;
    world.finish(lease, success("shared")).await.unwrap();
    // Its other platform waits, for days perhaps.
    let cleaning = begin(&world).await.unwrap();
    assert_eq!((cleaning.garbage, cleaning.in_use), (digests(&["failed"]), digests(&["shared"])));
    // The scheduler knows: the job takes no slot, and whoever stands behind it gets it.
    let behind = world.submit("behind", "linux/amd64", &["localhost:5002/other:1"]).await;
    let state = world.store.schedule_state(1, &[]).await.unwrap();
    let held = |build| {
        state.waiting.iter().filter(move |job| job.job == build).map(|job| job.cleaned_until.is_some())
    };
    let jobs = (world.build(build).await.jobs[1].id, world.build(behind).await.jobs[0].id);
    assert_eq!(
        (held(jobs.0).collect::<Vec<_>>(), held(jobs.1).collect::<Vec<_>>()),
        (vec![true], vec![false])
    );
    end(&world, &removed(&["failed"])).await;
    let state = world.store.schedule_state(1, &[]).await.unwrap();
    assert!(state.waiting.iter().all(|job| job.cleaned_until.is_none()));
}

#[tokio::test]
async fn a_repository_that_is_never_without_a_build_gets_none_for_a_while_and_is_cleaned() {
    let world = world().await;
    half(&world, "failed").await;
    world.pass("25 hours");
    let (worker, _) = world.worker("w", 1).await;
    let build = world.submit("b", "linux/amd64,linux/arm64", &[TAG]).await;
    let lease = world.lease(build, 0, worker).await;
    let closed = || world.database.psql("SELECT count(*) FROM cleanings WHERE until > farm_now()") == "1";
    for _ in 0..6 {
        assert_eq!((begin(&world).await, closed()), (None, false));
        world.pass("70 minutes");
    }
    assert_eq!((begin(&world).await, closed()), (None, true), "those that run come to their end");
    // It takes too long: the others go on, and after a while there is another try.
    world.pass("16 minutes");
    assert_eq!((begin(&world).await, closed()), (None, false));
    world.pass("7 hours");
    assert_eq!((begin(&world).await, closed()), (None, true));
    world
        .finish(lease, Outcome::Failed(Failure::new(Cause::Infrastructure, FailureCode::EngineLost, "x")))
        .await
        .unwrap();
    world.pass("40 seconds");
    assert_eq!(due(&world).await, [app()], "it is looked at again soon");
    assert_eq!(begin(&world).await.unwrap().garbage, digests(&["failed"]));
    end(&world, &removed(&["failed"])).await;
    assert!(!closed());
}

#[tokio::test]
async fn a_lease_waits_for_no_look_for_garbage() {
    let world = world().await;
    half(&world, "failed").await;
    world.pass("25 hours");
    let (worker, _) = world.worker("w", 1).await;
    let build = world.submit("b", "linux/amd64", &["localhost:5002/app:2"]).await;
    let assignment = world.assignment(build, 0, worker).await;
    // The look for garbage stands before a table that it writes, and a lease doesn't.
    let mut session = Session::open(world.database.url());
    session.ask("BEGIN; LOCK TABLE pushed_digests IN SHARE MODE; SELECT 1");
    let begun = begin(&world);
    tokio::pin!(begun);
    let lease = async {
        // It has begun when its door is closed.
        while world.database.psql("SELECT count(*) FROM cleanings WHERE until > farm_now()") != "1" {
            tokio::task::yield_now().await;
        }
        world.store.lease(world.epoch, assignment, LEASE).await
    };
    tokio::select! {
        leased = lease => {
            assert!(matches!(leased, Err(StoreError::Stale("its repository is being cleaned"))), "{leased:?}");
        }
        begun = &mut begun => panic!("it did not wait: {begun:?}"),
    }
    session.ask("ROLLBACK; SELECT 1");
    begun.await;
}

#[tokio::test]
async fn a_cleaning_that_nobody_ends_is_over_by_itself_and_its_end_changes_nothing_then() {
    let world = world().await;
    half(&world, "failed").await;
    world.pass("25 hours");
    assert!(begin(&world).await.is_some());
    world.pass("61 seconds");
    let late = world.store.end_cleaning(world.epoch, &app(), &removed(&["failed"]), AGAIN).await;
    assert!(matches!(late, Err(StoreError::Stale(_))), "{late:?}");
    let (worker, _) = world.worker("w", 1).await;
    let build = world.submit("b", "linux/amd64", &[TAG]).await;
    let lease = world.lease(build, 0, worker).await;
    world
        .finish(lease, Outcome::Failed(Failure::new(Cause::User, FailureCode::RunFailed, "x")))
        .await
        .unwrap();
    world.pass("15 minutes");
    assert_eq!(due(&world).await, [app()], "it is found again");
}

#[tokio::test]
async fn a_retry_takes_nothing_over_that_is_being_removed_and_what_it_takes_over_is_not_removed() {
    let world = world().await;
    let old = half(&world, "old").await;
    let retry = |key: &str| Retry {
        project: default_project(),
        id: farm_types::BuildId::generate(),
        of: old.id,
        idempotency_key: key.to_owned(),
        failed_only: true,
        gone: Vec::new(),
        protected: false,
        mounts: None,
        signing: None,
        by: tester(),
        submitter: Default::default(),
        queue_limit: LEASE,
    };
    world.pass("25 hours");
    // The retry stands before its last step, and the cleaning comes.
    let mut sessions = [Session::open(world.database.url()), Session::open(world.database.url())];
    let hold = "INSERT INTO builds (project_id, id, short_id, idempotency_key, request_digest, execution_id, spec, created_by, \
                queue_deadline) SELECT project_id, gen_random_uuid(), 'zzzzzz', 'r', request_digest, execution_id, spec, \
                created_by, queue_deadline FROM builds; DELETE FROM builds WHERE short_id = 'zzzzzz' RETURNING 'held'";
    let (retried, begun) =
        stopped(&mut sessions, hold, world.store.retry(&retry("r"), PUBLISH), begin(&world)).await;
    let new = retried.unwrap();
    let taken = world.build(new).await.jobs;
    assert_eq!((taken[0].state, taken[1].state), (JobState::Succeeded, JobState::Ready));
    assert_eq!(begun, None, "what was taken over was decided to be garbage");
    world.store.cancel(&tester(), default_project(), new.id, PUBLISH).await.unwrap();

    assert_eq!(begin(&world).await.unwrap().garbage, digests(&["old"]));
    let second = world.store.retry(&retry("r2"), PUBLISH).await.unwrap();
    assert!(world.build(second).await.jobs.iter().all(|job| job.state == JobState::Ready));
}
