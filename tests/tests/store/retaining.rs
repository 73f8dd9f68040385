//! What is old goes, and nothing that somebody still needs.

use std::time::Duration;

use farm_store::logs::events::StreamPart;
use farm_store::sources::sweep::DoomedPlace;
use farm_store::work::attempts::Lease;
use farm_store::{StoreError, default_project};
use farm_types::state::BuildState;

use crate::fixture::{PUBLISH, World, index, tester, world};
use crate::interleavings::stopped;
use crate::publishing::{merged, put};
use crate::retrying::{half, retry_of};
use crate::sealing::{ended, piece};
use farm_tests::session::Session;

const DAY: Duration = Duration::from_secs(24 * 3600);

async fn remove_builds(world: &World) -> u64 {
    let mut removed = 0;
    for (project, execution) in world.store.removable_executions(DAY, 100).await.unwrap() {
        removed += world.store.remove_execution(world.epoch, project, execution, DAY).await.unwrap();
    }
    removed
}

fn count(world: &World, table: &str) -> u32 {
    world.database.psql(&format!("SELECT count(*) FROM {table}")).parse().unwrap()
}

#[tokio::test]
async fn old_logs_go_sealed_or_not_and_are_known_to_be_gone() {
    let world = world().await;
    let lease = ended(&world, "sealed", &[b"one", b"two"]).await;
    let open = ended(&world, "open", &[b"one"]).await;
    world.pass("6 minutes");
    let attempts = world.store.unsealed(Duration::ZERO, &[], 10).await.unwrap();
    let attempt = *attempts.iter().find(|attempt| attempt.attempt == lease.attempt).unwrap();
    let sealed = piece(&world, 1, 1).await;
    world.store.seal(world.epoch, &attempt, &sealed).await.unwrap();
    assert_eq!(world.store.remove_logs(world.epoch, DAY, 10).await.unwrap(), 0, "not old");
    world.pass("25 hours");
    assert_eq!(world.store.remove_logs(world.epoch, DAY, 10).await.unwrap(), 2);
    assert_eq!(world.store.remove_logs(world.epoch, DAY, 10).await.unwrap(), 0, "only once");
    assert_eq!((count(&world, "attempt_chunks"), count(&world, "sealed_logs")), (0, 0));
    let doomed = world.store.doomed(&[], 10).await.unwrap();
    let place = DoomedPlace::Named(farm_store::logs::seal::BlobKind::Log);
    assert_eq!(doomed.iter().map(|d| (d.id, d.place)).collect::<Vec<_>>(), [(sealed.blob, place)]);
    world.store.buried(&doomed).await.unwrap();
    assert_eq!((count(&world, "doomed_blobs"), count(&world, "blobs")), (0, 0));
    for Lease { attempt, .. } in [lease, open] {
        let part = world.store.stream_part(default_project(), attempt, 0, 10).await.unwrap();
        assert!(matches!(part, StreamPart::Removed(_)), "{part:?}");
    }
    let late = world.store.append_chunk(open, 2, b"late").await;
    assert!(matches!(late, Err(StoreError::Stale(_))), "{late:?}");
    assert!(world.store.seal(world.epoch, &attempt, &piece(&world, 2, 2).await).await.is_err());
    assert_eq!(world.store.unsealed(Duration::ZERO, &[], 10).await.unwrap(), []);
}

/// A build that is published as `localhost:5002/app:TAG`.
async fn published(world: &World, key: &str, tag: &str) -> farm_store::builds::submit::Submitted {
    let (build, destinations) = merged(world, key, &[&format!("localhost:5002/app:{tag}")]).await;
    world.store.destination_pushed(world.epoch, &destinations[0]).await.unwrap();
    put(world, &destinations[0], tag).await;
    assert_eq!(world.state(build).await, BuildState::Succeeded);
    build
}

#[tokio::test]
async fn an_old_build_goes_with_all_that_hangs_on_it_but_what_was_pushed_stays_known() {
    let world = world().await;
    let old = published(&world, "old", "1").await;
    let attempt = world.build(old).await.jobs[0].attempts[0].id;
    let token = world.database.psql(&format!("SELECT lease_token FROM attempts WHERE id = '{attempt}'"));
    let lease = Lease { attempt, token: token.parse().unwrap(), holder: None };
    world.store.append_chunk(lease, 1, b"said").await.unwrap();
    world.pass("25 hours");
    let young = published(&world, "young", "2").await;
    let (_worker, _) = world.worker("w", 1).await;
    let running = world.submit("running", "linux/amd64", &[]).await;
    assert_eq!(remove_builds(&world).await, 1);
    assert!(matches!(world.store.build_by_id(default_project(), old.id).await, Err(StoreError::NotFound(_))));
    for (table, left) in [("builds", 2), ("executions", 2), ("jobs", 2), ("attempts", 1), ("publications", 1)]
    {
        assert_eq!(count(&world, table), left, "{table}");
    }
    assert_eq!(
        (count(&world, "attempt_chunks"), count(&world, "tags"), count(&world, "destinations")),
        (0, 1, 1)
    );
    let orphans = "events WHERE stream_id NOT IN (SELECT id FROM builds UNION SELECT id FROM executions)";
    assert_eq!(count(&world, orphans), 0);
    // For whoever cleans the registry, and so that no older intention passes.
    assert_eq!((count(&world, "pushed_digests"), count(&world, "tag_heads")), (2, 2));
    let kept = world.database.psql("SELECT registry, repository, encode(digest, 'hex') FROM put_indexes");
    assert_eq!(kept, format!("localhost:5002|app|{}", index("old").digest.hex()));
    let late = world.store.append_chunk(lease, 2, b"late").await;
    assert!(matches!(late, Err(StoreError::Stale(_))), "{late:?}");
    assert_eq!(world.state(young).await, BuildState::Succeeded);
    assert_eq!(world.state(running).await, BuildState::Queued);
    // Its idempotency key is free again.
    assert!(!world.submit("old", "linux/amd64", &["localhost:5002/app:1"]).await.replayed);
}

#[tokio::test]
async fn a_build_stays_while_a_retry_of_it_is_there_or_a_tag_has_to_be_looked_at() {
    let world = world().await;
    let old = half(&world, "old").await;
    world.pass("25 hours");
    let retry = world.store.retry(&retry_of(old, "r", true), PUBLISH).await.unwrap();
    assert_eq!(remove_builds(&world).await, 0, "its result was taken over, and it is retried");
    world.store.cancel(&tester(), default_project(), retry.id, PUBLISH).await.unwrap();
    assert_eq!(remove_builds(&world).await, 0, "the retry is young");
    world.pass("25 hours");
    assert_eq!((remove_builds(&world).await, remove_builds(&world).await), (1, 1), "from the end");

    let build = published(&world, "watched", "9").await;
    world.pass("25 hours");
    world.database.psql("UPDATE tag_heads SET recheck_at = farm_now() WHERE tag = '9'");
    assert_eq!(remove_builds(&world).await, 0, "the bytes may have to be put again");
    world.database.psql("UPDATE tag_heads SET recheck_at = NULL");
    assert_eq!(remove_builds(&world).await, 1);
    assert!(world.store.build_by_id(default_project(), build.id).await.is_err());
}

#[tokio::test]
async fn a_retry_and_the_removal_of_its_build_at_the_same_moment_leave_no_half() {
    let world = world().await;
    let mut sessions = [Session::open(world.database.url()), Session::open(world.database.url())];
    for retry_first in [true, false] {
        let key = format!("old-{retry_first}");
        let old = half(&world, &key).await;
        world.pass("25 hours");
        let (project, execution) = world.store.removable_executions(DAY, 1).await.unwrap()[0];
        let remove = async {
            world.store.remove_execution(world.epoch, project, execution, DAY).await.map(|count| count == 1)
        };
        let wanted = retry_of(old, &format!("r-{key}"), true);
        let retry = async { world.store.retry(&wanted, PUBLISH).await.map(|_| false) };
        let hold = format!("SELECT 1 FROM builds WHERE id = '{}' FOR UPDATE", old.id);
        let (first, second) = match retry_first {
            true => stopped(&mut sessions, &hold, retry, remove).await,
            false => stopped(&mut sessions, &hold, remove, retry).await,
        };
        assert_eq!(first.unwrap(), !retry_first, "the first one has its way");
        assert!(matches!(second, Err(StoreError::Stale(_))), "{second:?}");
        assert_eq!(world.store.build_by_id(default_project(), old.id).await.is_ok(), retry_first);
        world.database.psql("UPDATE builds SET finished_at = farm_now() WHERE finished_at IS NOT NULL");
    }
}

#[tokio::test]
async fn a_source_stays_while_a_build_or_an_upload_wants_it_and_a_retry_without_it_is_refused() {
    let world = world().await;
    let remove = async || world.store.remove_snapshots(world.epoch, DAY, 10).await.unwrap();
    let build = world.submit("k", "linux/amd64", &[]).await;
    world.database.psql("UPDATE builds SET queue_deadline = farm_now() + interval '10 days'");
    world.database.psql("DELETE FROM uploads");
    world.pass("25 hours");
    assert_eq!(remove().await, 0, "a build waits that needs it");
    world.store.cancel(&tester(), default_project(), build.id, PUBLISH).await.unwrap();
    // Somebody is told that all of it is there, and takes days until he submits.
    let roots = [("dockerfile".to_owned(), farm_types::snapshot::Folder::default().tree_digest())].into();
    let opened = world.store.open_upload(default_project(), "test", DAY * 5, &roots).await.unwrap();
    assert!(opened.snapshot.is_some() && opened.missing.is_empty(), "{opened:?}");
    world.pass("49 hours");
    assert_eq!(remove().await, 0, "an upload was told of it");
    world.pass("100 hours");
    assert_eq!(remove().await, 1);
    let retry = world.store.retry(&retry_of(build, "r", false), PUBLISH).await;
    let Err(StoreError::Conflict(why)) = retry else { panic!("{retry:?}") };
    let short = world.build(build).await.short_id;
    assert!(why.contains(short.as_str()) && why.contains("submit it again"), "{why}");
    let submitted = world.store.submit(&world.new_build("k2", "linux/amd64", &[])).await;
    assert!(matches!(submitted, Err(StoreError::Conflict(_))), "{submitted:?}");
    // The build's record does without.
    assert_eq!(world.state(build).await, BuildState::Cancelled);
}

#[tokio::test]
async fn a_submission_and_the_removal_of_its_source_at_the_same_moment_leave_no_build_without_one() {
    let world = world().await;
    let mut sessions = [Session::open(world.database.url()), Session::open(world.database.url())];
    for submit_first in [true, false] {
        world.pass("25 hours");
        world.database.psql("DELETE FROM uploads");
        let new = world.new_build(&format!("k-{submit_first}"), "linux/amd64", &[]);
        let remove =
            async { world.store.remove_snapshots(world.epoch, DAY, 10).await.map(|count| count == 1) };
        let submit = async { world.store.submit(&new).await.map(|_| false) };
        // The removal doesn't wait for a row that somebody holds, so it is the one that is stopped: by the leader's row.
        let hold = "SELECT 1 FROM leader FOR UPDATE";
        let (removed, submitted) = match submit_first {
            true => {
                let (submitted, removed) = stopped(&mut sessions, hold, submit, remove).await;
                (removed, submitted)
            }
            false => (remove.await, submit.await),
        };
        assert_eq!(removed.unwrap(), !submit_first);
        assert_eq!(submitted.is_ok(), submit_first, "{submitted:?}");
        if submit_first {
            world.database.psql("UPDATE builds SET state = 'cancelled', finished_at = farm_now()");
        }
    }
}

#[tokio::test]
async fn the_removal_of_a_build_knows_all_that_hangs_on_one() {
    // A table that is new here has to be removed in retain.rs, or kept there for a reason.
    let world = world().await;
    let hangs = world.database.psql(
        "SELECT DISTINCT conrelid::regclass::text FROM pg_constraint WHERE contype = 'f' AND confrelid::regclass::text IN
         ('builds', 'executions', 'jobs', 'attempts', 'publications', 'destinations') ORDER BY 1",
    );
    let known = [
        "attempts",
        // With the build, if not before: its end erases them.
        "build_keys",
        "builds",
        "destinations",
        "hook_builds",
        "job_dependencies",
        "jobs",
        // With the build: the last run of a mirror is told without it.
        "mirror_builds",
        "outputs",
        "publications",
        "sealed_logs",
        "step_timings",
        "tags",
    ];
    assert_eq!(hangs.lines().collect::<Vec<_>>(), known);
}
