//! Whoever writes the rows of many workers at once locks them in the order of their ids, so that no two wait for each other.

use std::time::{Duration, Instant};

use farm_store::machines::workers::Sign;
use farm_tests::session::Session;
use farm_types::WorkerId;

use crate::fixture::{LEASE, World, world};

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
    let [mut holder, mut looker] = [(); 2].map(|()| Session::open(world.database.url()));
    let [first, second] = workers;
    holder.ask(&format!("BEGIN; SELECT name FROM workers WHERE id = '{first}' FOR UPDATE"));
    let look = async {
        let limit = Instant::now() + Duration::from_secs(20);
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while looker.ask(waits) != "1" {
            assert!(Instant::now() < limit, "it doesn't wait for the first worker's row");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let row = format!("SELECT FROM workers WHERE id = '{second}' FOR UPDATE SKIP LOCKED");
        let free = looker.ask(&format!("SELECT count(*) FROM ({row}) AS free"));
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
