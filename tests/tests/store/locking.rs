//! Whoever writes the rows of many workers at once locks them in the order of their ids, so that no two wait
//! for each other; and so does whoever writes those of many attempts.

use std::time::{Duration, Instant};

use farm_store::builds::submit::Submitted;
use farm_store::default_project;
use farm_store::machines::workers::Sign;
use farm_store::work::attempts::Lease;
use farm_store::work::finish::Outcome;
use farm_tests::session::Session;
use farm_types::{Cause, Failure, FailureCode, WorkerId};

use crate::fixture::{LEASE, PUBLISH, World, tester, world};

/// Two workers, the lower id first. Neither lie their rows in that order, nor need they be named in it.
async fn two_workers(world: &World) -> [WorkerId; 2] {
    let mut workers = [world.worker("a", 1).await.0, world.worker("b", 1).await.0];
    workers.sort();
    // What is written goes behind what is there.
    world.database.psql(&format!("UPDATE workers SET name = name WHERE id = '{}'", workers[0]));
    workers
}

/// Runs `write` while another session holds the first worker's row, until it waits for that; and says whether the second one's
/// row is free then.
async fn is_second_free<T>(
    world: &World,
    workers: [WorkerId; 2],
    write: impl Future<Output = T>,
) -> (T, bool) {
    is_free(world, workers.map(|worker| format!("workers WHERE id = '{worker}'")), write).await
}

/// The same of any two rows, each as what stands behind FROM.
async fn is_free<T>(world: &World, [held, looked]: [String; 2], write: impl Future<Output = T>) -> (T, bool) {
    let [mut holder, mut looker] = [(); 2].map(|()| Session::open(world.database.url()));
    holder.ask(&format!("BEGIN; SELECT 1 FROM {held} FOR UPDATE"));
    let look = async {
        let limit = Instant::now() + Duration::from_secs(20);
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while looker.ask(waits) != "1" {
            assert!(Instant::now() < limit, "it doesn't wait for {held}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let free = looker
            .ask(&format!("SELECT count(*) FROM (SELECT FROM {looked} FOR UPDATE SKIP LOCKED) AS free"));
        holder.ask("COMMIT; SELECT 'done'");
        free == "1"
    };
    tokio::join!(write, look)
}

#[tokio::test]
async fn a_round_of_signs_locks_workers_in_the_order_of_their_ids() {
    let world = world().await;
    let workers = two_workers(&world).await;
    let signs: Vec<Sign> = workers
        .into_iter()
        .rev()
        .map(|worker| Sign { worker, connection: world.connection(worker), tokens: Vec::new() })
        .collect();
    world.pass("5 seconds");
    let writes = world.store.heartbeats(world.coordinator, &signs, LEASE);
    let (written, free) = is_second_free(&world, workers, writes).await;
    assert!(written.unwrap().is_empty(), "one of the connections doesn't count");
    assert!(
        free,
        "it holds the second and waits for the first: whoever goes by the ids waits for it in turn"
    );
    let seen = "SELECT count(*) FROM workers WHERE last_seen > farm_now() - interval '2 seconds'";
    assert_eq!(world.database.psql(seen), "2");
}

#[tokio::test]
async fn workers_of_a_coordinator_that_is_gone_are_disowned_in_the_order_of_their_ids() {
    let world = world().await;
    let workers = two_workers(&world).await;
    world.pass("1 hour");
    let (gone, free) =
        is_second_free(&world, workers, world.store.disown_workers(Duration::from_secs(60))).await;
    assert_eq!(gone.unwrap(), 2);
    assert!(free, "it holds the second and waits for the first");
}

#[tokio::test]
async fn workers_that_dont_stop_are_quarantined_in_the_order_of_their_ids() {
    let world = world().await;
    let workers = two_workers(&world).await;
    for (worker, key) in workers.into_iter().zip(["a", "b"]) {
        let build = world.submit(key, "linux/amd64", &[]).await;
        let lease = world.lease(build, 0, worker).await;
        world.store.attempt_started(lease).await.unwrap();
        world.store.cancel(&tester(), default_project(), build.id, PUBLISH).await.unwrap();
    }
    world.pass("61 s");
    let write = world.store.quarantine_unheeding(world.epoch);
    let (mut quarantined, free) = is_second_free(&world, workers, write).await;
    quarantined.as_mut().unwrap().sort();
    assert_eq!(quarantined.unwrap(), ["a", "b"]);
    assert!(free, "it holds the second and waits for the first");
}

#[tokio::test]
async fn trial_builds_are_asked_for_in_the_order_of_the_workers_ids() {
    let world = world().await;
    let workers = two_workers(&world).await;
    // The lower id is written last.
    for worker in workers.into_iter().rev() {
        let sql = format!(
            "UPDATE workers SET probation_at = farm_now(), probe_at = farm_now() WHERE id = '{worker}'"
        );
        world.database.psql(&sql);
    }
    let (asked, free) = is_second_free(&world, workers, world.store.probes_via(world.coordinator)).await;
    assert_eq!(asked.unwrap().len(), 2);
    assert!(free, "it holds the second and waits for the first");
}

/// A build that two workers run: its attempts, the lower id first, which lies behind the other.
async fn two_attempts(world: &World) -> (Submitted, [Lease; 2]) {
    let workers = two_workers(world).await;
    let build = world.submit("both", "linux/amd64,linux/arm64", &[]).await;
    let mut leases = [world.lease(build, 0, workers[0]).await, world.lease(build, 1, workers[1]).await];
    for lease in leases {
        world.store.attempt_started(lease).await.unwrap();
    }
    leases.sort_by_key(|lease| lease.attempt);
    world.database.psql(&format!("UPDATE attempts SET number = number WHERE id = '{}'", leases[0].attempt));
    (build, leases)
}

fn rows(leases: [Lease; 2]) -> [String; 2] {
    leases.map(|lease| format!("attempts WHERE id = '{}'", lease.attempt))
}

#[tokio::test]
async fn what_an_execution_runs_is_told_to_stop_in_the_order_of_its_ids() {
    let world = world().await;
    let (build, leases) = two_attempts(&world).await;
    let tester = tester();
    let write = world.store.cancel(&tester, default_project(), build.id, PUBLISH);
    let (cancelled, free) = is_free(&world, rows(leases), write).await;
    cancelled.unwrap();
    assert!(
        free,
        "it holds the second attempt and waits for the first, as signs of life do the other way round"
    );
    assert_eq!(world.store.stops_via(world.coordinator).await.unwrap().len(), 2);
}

#[tokio::test]
async fn whoever_ends_the_later_attempt_locks_the_earlier_one_first() {
    let world = world().await;
    let (_, leases) = two_attempts(&world).await;
    let failed = Outcome::Failed(Failure::new(Cause::User, FailureCode::RunFailed, "it broke"));
    let (ended, free) = is_free(&world, rows(leases), world.finish(leases[1], failed)).await;
    ended.unwrap();
    assert!(free, "it holds its own attempt and waits for the one that it stops");
    let stops = world.store.stops_via(world.coordinator).await.unwrap();
    assert_eq!(stops.iter().map(|(_, attempt, _)| *attempt).collect::<Vec<_>>(), [leases[0].attempt]);
}

#[tokio::test]
async fn a_worker_that_comes_again_is_locked_before_its_engine_as_who_gives_it_a_job_does() {
    let world = world().await;
    let (worker, boot) = world.worker("a", 1).await;
    let held = format!("workers WHERE id = '{worker}'");
    let engine = format!("engines WHERE id = (SELECT engine_id FROM {held})");
    let again = world.registration("a", boot, 1);
    let (registered, free) =
        is_free(&world, [held, engine], world.store.register_worker(&again, Duration::ZERO)).await;
    assert_eq!(registered.unwrap(), worker);
    assert!(free, "it holds the engine and waits for the worker");
}
