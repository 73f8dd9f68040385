//! What attempts say: never lost, doubled or reordered once acknowledged.

use farm_store::work::attempts::Lease;
use farm_store::{StoreError, default_project};
use farm_types::LeaseToken;

use crate::fixture::{success, world};

#[tokio::test]
async fn chunks_are_stored_once_in_order_and_without_gaps() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    let build = world.submit("k", "linux/amd64", &[]).await;
    let lease = world.lease(build, 0, worker).await;
    let append = |seq: u64, payload: &'static [u8]| world.store.append_chunk(lease, seq, payload);
    assert_eq!(append(1, b"one").await.unwrap(), 1);
    assert_eq!(append(1, b"one").await.unwrap(), 1, "a repeated one is acknowledged");
    assert_eq!(append(3, b"three").await.unwrap(), 1, "one after a gap is not taken");
    assert_eq!(append(2, b"two").await.unwrap(), 2);
    assert_eq!(append(3, b"three").await.unwrap(), 3);
    // A stream may still be flushed after the attempt's end.
    world.finish(lease, success("x")).await.unwrap();
    assert_eq!(append(4, b"four").await.unwrap(), 4);
    let stranger = Lease { token: LeaseToken::generate(), ..lease };
    let refused = world.store.append_chunk(stranger, 5, b"forged").await;
    assert!(matches!(refused, Err(StoreError::Stale(_))), "{refused:?}");
    let chunks = world.store.open_chunks(default_project(), lease.attempt, 0, 100).await.unwrap();
    let payloads: Vec<&[u8]> = chunks.iter().map(|chunk| chunk.payload.as_slice()).collect();
    assert_eq!(payloads, [b"one".as_slice(), b"two", b"three", b"four"]);
    let rest = world.store.open_chunks(default_project(), lease.attempt, 2, 1).await.unwrap();
    assert_eq!(rest.iter().map(|chunk| chunk.seq).collect::<Vec<_>>(), [3]);
}

#[tokio::test]
async fn the_same_chunk_sent_at_once_on_two_streams_is_stored_once() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    let build = world.submit("k", "linux/amd64", &[]).await;
    let lease = world.lease(build, 0, worker).await;
    for seq in 1..=20 {
        let twice = (0..2).map(|_| world.store.append_chunk(lease, seq, b"x"));
        for acked in futures::future::join_all(twice).await {
            // Also the one that came second and waited: an answer of one less would never be followed by another.
            assert_eq!(acked.unwrap(), seq);
        }
    }
    assert_eq!(world.database.psql("SELECT count(*) FROM attempt_chunks"), "20");
}

#[tokio::test]
async fn chunks_go_to_the_partition_of_their_attempts_day_whenever_they_come() {
    let world = world().await;
    assert_eq!(world.store.make_log_partitions().await.unwrap(), 3);
    assert_eq!(world.store.make_log_partitions().await.unwrap(), 0);
    let (worker, _) = world.worker("w", 1).await;
    let build = world.submit("k", "linux/amd64", &[]).await;
    let lease = world.lease(build, 0, worker).await;
    world.store.append_chunk(lease, 1, b"today").await.unwrap();
    world.pass("1 day");
    world.store.append_chunk(lease, 2, b"tomorrow").await.unwrap();
    world.store.append_chunk(lease, 2, b"tomorrow").await.unwrap();
    assert_eq!(world.database.psql("SELECT count(DISTINCT tableoid) FROM attempt_chunks"), "1");
    assert_eq!(world.database.psql("SELECT count(*) FROM attempt_chunks_rest"), "0");
}

#[tokio::test]
async fn events_are_numbered_without_gaps_whoever_writes_them() {
    let world = world().await;
    let (worker, _) = world.worker("w", 2).await;
    let build = world.submit("k", "linux/amd64,linux/arm64", &[]).await;
    let leases = [world.lease(build, 0, worker).await, world.lease(build, 1, worker).await];
    let both = leases.map(|lease| world.store.attempt_started(lease));
    futures::future::try_join_all(both).await.unwrap();
    let both = leases.map(|lease| world.finish(lease, success(&lease.attempt.to_string())));
    futures::future::try_join_all(both).await.unwrap();
    let gaps =
        "SELECT count(*) FROM (SELECT seq, row_number() OVER (PARTITION BY stream_id ORDER BY seq) AS n
                FROM events) AS e WHERE seq <> n";
    assert_eq!(world.database.psql(gaps), "0");
    assert!(world.database.psql("SELECT count(*) FROM events").parse::<u32>().unwrap() >= 8);
}
