//! Streams that move into the object store: every chunk is in one of both places, whoever looks, and whenever.

use std::time::Duration;

use farm_store::logs::events::{Chunk, Frame, Piece, StreamPart};
use farm_store::logs::seal::{BlobKind, Unsealed};
use farm_store::work::attempts::Lease;
use farm_store::work::finish::Outcome;
use farm_store::{StoreError, default_project};
use farm_types::{Cause, Failure, FailureCode};

use crate::fixture::{World, world};

const SETTLED: Duration = Duration::from_secs(300);

/// An attempt that has ended, of a build that has, with these chunks.
pub async fn ended(world: &World, key: &str, chunks: &[&'static [u8]]) -> Lease {
    let (worker, _) = world.worker(&format!("w-{key}"), 1).await;
    let build = world.submit(key, "linux/amd64", &[]).await;
    let lease = world.lease(build, 0, worker).await;
    world.store.attempt_started(lease).await.unwrap();
    for (seq, chunk) in (1..).zip(chunks) {
        world.store.append_chunk(lease, seq, chunk).await.unwrap();
    }
    world
        .finish(lease, Outcome::Failed(Failure::new(Cause::User, FailureCode::RunFailed, "x")))
        .await
        .unwrap();
    assert!(world.state(build).await.is_final());
    lease
}

/// A piece of one frame.
pub async fn piece(world: &World, first_seq: u64, last_seq: u64) -> Piece {
    let blob = world.store.name_blob(default_project(), BlobKind::Log).await.unwrap();
    Piece { blob, last_seq, frames: vec![Frame { first_seq, start: 0 }], bytes: 10, raw_bytes: 20 }
}

async fn unsealed(world: &World) -> Vec<Unsealed> {
    world.store.unsealed(SETTLED, &[], 10).await.unwrap()
}

async fn part(world: &World, lease: Lease, after: u64) -> StreamPart {
    world.store.stream_part(default_project(), lease.attempt, after, 10).await.unwrap()
}

fn chunk(seq: u64, payload: &[u8]) -> Chunk {
    Chunk { seq, payload: payload.to_vec() }
}

#[tokio::test]
async fn one_that_is_put_off_gives_its_place_to_the_next() {
    let world = world().await;
    let (first, second) = (ended(&world, "k1", &[b"x"]).await, ended(&world, "k2", &[b"x"]).await);
    world.pass("6 minutes");
    let due = async |put_off: &[_]| {
        let unsealed = world.store.unsealed(SETTLED, put_off, 1).await.unwrap();
        unsealed.into_iter().map(|unsealed| unsealed.attempt).collect::<Vec<_>>()
    };
    assert_eq!(due(&[]).await, [first.attempt]);
    assert_eq!(due(&[first.attempt]).await, [second.attempt]);
    assert_eq!(due(&[first.attempt, second.attempt]).await, []);
}

#[tokio::test]
async fn only_what_has_ended_for_a_while_is_sealed_and_then_its_chunks_are_gone() {
    let world = world().await;
    let (worker, _) = world.worker("running", 1).await;
    let running = world.submit("running", "linux/amd64", &[]).await;
    let running = world.lease(running, 0, worker).await;
    world.store.append_chunk(running, 1, b"x").await.unwrap();
    let lease = ended(&world, "k", &[b"one", b"two", b"three"]).await;
    assert_eq!(unsealed(&world).await, [], "its build has just ended");
    world.pass("6 minutes");
    let attempt = Unsealed { project: default_project(), attempt: lease.attempt, sealed_seq: 0 };
    assert_eq!(unsealed(&world).await, [attempt]);
    assert!(!world.store.close_stream(world.epoch, &attempt).await.unwrap(), "it has chunks");

    let first = piece(&world, 1, 2).await;
    assert!(!world.store.seal(world.epoch, &attempt, &first).await.unwrap(), "there is more");
    assert_eq!(part(&world, lease, 0).await, StreamPart::Sealed(first.clone()));
    assert_eq!(part(&world, lease, 1).await, StreamPart::Sealed(first.clone()));
    assert_eq!(part(&world, lease, 2).await, StreamPart::Chunks(vec![chunk(3, b"three")]));
    // Whoever was stopped in between and comes with the same piece, or with a gap, changes nothing.
    for (first_seq, last_seq) in [(1, 2), (1, 3), (4, 4), (3, 4)] {
        let late = piece(&world, first_seq, last_seq).await;
        let sealed = world.store.seal(world.epoch, &attempt, &late).await;
        assert!(matches!(sealed, Err(StoreError::Stale(_))), "{sealed:?}");
    }
    let rest = Unsealed { sealed_seq: 2, ..attempt };
    assert_eq!(unsealed(&world).await, [rest]);
    assert!(world.store.seal(world.epoch, &rest, &piece(&world, 3, 3).await).await.unwrap());
    assert_eq!(unsealed(&world).await, []);
    assert_eq!(part(&world, lease, 3).await, StreamPart::Chunks(Vec::new()));
    assert_eq!(world.database.psql("SELECT count(*) FROM attempt_chunks"), "1", "the running one's");
}

#[tokio::test]
async fn a_chunk_that_comes_after_sealing_is_neither_lost_nor_doubled() {
    let world = world().await;
    let lease = ended(&world, "k", &[b"one"]).await;
    world.pass("6 minutes");
    let attempt = unsealed(&world).await[0];
    assert!(world.store.seal(world.epoch, &attempt, &piece(&world, 1, 1).await).await.unwrap());
    // The answer to the first one was lost, so it is sent again, and the rest behind it.
    assert_eq!(world.store.append_chunk(lease, 1, b"one").await.unwrap(), 1);
    assert_eq!(world.store.append_chunk(lease, 2, b"two").await.unwrap(), 2);
    assert_eq!(world.store.append_chunk(lease, 2, b"two").await.unwrap(), 2);
    assert_eq!(part(&world, lease, 1).await, StreamPart::Chunks(vec![chunk(2, b"two")]));
    let again = unsealed(&world).await;
    assert_eq!(again, [Unsealed { sealed_seq: 1, ..attempt }]);
    assert!(world.store.seal(world.epoch, &again[0], &piece(&world, 2, 2).await).await.unwrap());
    assert_eq!(world.database.psql("SELECT sum(last_seq - first_seq + 1) FROM sealed_logs"), "2");
}

#[tokio::test]
async fn a_chunk_at_the_same_moment_as_sealing_is_in_one_of_both_places() {
    let world = world().await;
    for round in 0..8 {
        let lease = ended(&world, &format!("k{round}"), &[b"one"]).await;
        world.pass("6 minutes");
        let attempt = unsealed(&world).await[0];
        let piece = piece(&world, 1, 1).await;
        let (sealed, acked) = tokio::join!(
            world.store.seal(world.epoch, &attempt, &piece),
            world.store.append_chunk(lease, 2, b"two")
        );
        assert_eq!(acked.unwrap(), 2);
        sealed.unwrap();
        assert!(matches!(part(&world, lease, 0).await, StreamPart::Sealed(_)));
        assert_eq!(part(&world, lease, 1).await, StreamPart::Chunks(vec![chunk(2, b"two")]));
        let rest = unsealed(&world).await;
        assert_eq!(rest, [Unsealed { sealed_seq: 1, ..attempt }]);
        world.store.remove_logs(world.epoch, Duration::ZERO, 10).await.unwrap();
    }
}

#[tokio::test]
async fn a_leader_no_more_seals_nothing() {
    let world = world().await;
    ended(&world, "k", &[b"one"]).await;
    world.pass("6 minutes");
    let attempt = unsealed(&world).await[0];
    let piece = piece(&world, 1, 1).await;
    world.database.psql("UPDATE leader SET epoch = epoch + 1");
    assert!(world.store.seal(world.epoch, &attempt, &piece).await.is_err());
    assert_eq!(world.database.psql("SELECT count(*) FROM attempt_chunks"), "1");
}

#[tokio::test]
async fn partitions_are_dropped_when_they_lie_behind_and_all_in_them_is_sealed() {
    let world = world().await;
    world.store.make_log_partitions().await.unwrap();
    let lease = ended(&world, "k", &[b"one"]).await;
    let quiet = ended(&world, "quiet", &[]).await;
    assert_eq!(world.store.past_log_partitions().await.unwrap(), [], "never today's");
    world.pass("2 days");
    world.store.make_log_partitions().await.unwrap();
    let days = world.store.past_log_partitions().await.unwrap();
    assert_eq!(days.len(), 1);
    let drop = async || world.store.drop_log_partition(world.epoch, days[0]).await.unwrap();
    assert!(!drop().await, "there is a chunk in it");
    for attempt in unsealed(&world).await {
        match attempt.attempt == quiet.attempt {
            true => assert!(world.store.close_stream(world.epoch, &attempt).await.unwrap()),
            false => {
                assert!(world.store.seal(world.epoch, &attempt, &piece(&world, 1, 1).await).await.unwrap())
            }
        }
    }
    assert_eq!(unsealed(&world).await, []);
    // Somebody who writes chunks is not waited for, and does not wait for long.
    let mut writer = farm_tests::session::Session::open(world.database.url());
    writer.ask("BEGIN; LOCK TABLE attempt_chunks IN ROW EXCLUSIVE MODE; SELECT 'held'");
    let begin = std::time::Instant::now();
    assert!(!drop().await, "it is being written to");
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    writer.ask("COMMIT; SELECT 'let go'");
    assert!(drop().await);
    assert!(!drop().await, "it is gone");
    assert_eq!(world.store.past_log_partitions().await.unwrap(), []);
    // A late chunk of that day lies in the rest, is read and sealed as any other, and doesn't bring the day back.
    world.store.append_chunk(lease, 2, b"late").await.unwrap();
    assert_eq!(world.database.psql("SELECT count(*) FROM attempt_chunks_rest"), "1");
    assert_eq!(part(&world, lease, 1).await, StreamPart::Chunks(vec![chunk(2, b"late")]));
    let late = unsealed(&world).await;
    assert!(world.store.seal(world.epoch, &late[0], &piece(&world, 2, 2).await).await.unwrap());
    assert_eq!(world.database.psql("SELECT count(*) FROM attempt_chunks"), "0");
}
