//! A link to Postgres that falls silent: every call ends within its limit, loses nothing that it acknowledged, and once the
//! link is back all goes on. The same for a call that nobody waits for any more.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use farm_store::machines::leader::Leadership;
use farm_store::{Limits, Store, StoreError, default_project};
use farm_tests::line::Line;
use farm_tests::session::Session;
use farm_types::snapshot::{Entry, Folder, Node};
use futures::future::join_all;
use uuid::Uuid;

use crate::fixture::{LEASE, LIMITS, OUTAGE, World, upload, world};

/// Long enough for whatever a busy machine takes to answer.
const QUICK: Limits = Limits {
    suspect_after: Duration::from_secs(12),
    connections: 1,
    acquire: Duration::from_secs(3),
    statement: Duration::from_secs(2),
    grace: Duration::from_secs(1),
    ..LIMITS
};
/// A call waits for a connection, and for one answer that doesn't come; more than that is this machine's doing.
const ENDS: Duration = Duration::from_secs(3 + 3 + 2);
/// What a session holds that fell silent, the server holds for 3 s; whoever needs it waits for that.
const PATIENT: Limits =
    Limits { acquire: Duration::from_secs(8), statement: Duration::from_secs(8), ..QUICK };

/// A line of its own to the world's database, and a store behind it.
fn by_line(world: &World, limits: Limits) -> (Line, Store) {
    let line = Line::to(world.database.url());
    let store = Store::open(&line.url(world.database.url()), limits).unwrap();
    (line, store)
}

#[tokio::test]
async fn a_submission_that_meets_silence_anywhere_ends_in_time_and_is_made_once() {
    let world = world().await;
    let cases = (0..48).map(|pieces| {
        let world = &world;
        async move {
            let (line, store) = by_line(world, PATIENT);
            let mut build = world.new_build(&format!("k{pieces}"), "linux/amd64", &["localhost:5002/app:1"]);
            // A source of its own, or they all wait for one row.
            let link = Node::Symlink { target: pieces.to_string() };
            let entry = Entry { name: "link".to_owned(), mode: 0o777, mtime: 0, node: link };
            build.spec.snapshot = upload(&world.store, Folder::new(vec![entry]).unwrap()).await;
            line.die_after(pieces);
            let begin = Instant::now();
            let first = store.submit(&build).await;
            assert!(
                begin.elapsed() < ENDS + PATIENT.acquire + PATIENT.statement,
                "after {pieces}: {:?}",
                begin.elapsed()
            );
            if !line.is_dead() {
                first.unwrap();
                return true;
            }
            // The one piece after the submission is the question whether the connection is there.
            assert!(matches!(&first, Ok(_) | Err(StoreError::Unavailable(_))), "after {pieces}: {first:?}");
            line.mend(pieces % 2 == 0);
            let again = store.submit(&build).await.unwrap();
            if let Ok(first) = first {
                assert_eq!(first.id, again.id, "after {pieces}");
            }
            let count = format!("SELECT count(*) FROM builds WHERE idempotency_key = 'k{pieces}'");
            assert_eq!(world.database.psql(&count), "1", "after {pieces}");
            false
        }
    });
    let got_through = join_all(cases).await;
    assert!(
        !got_through[0] && got_through.contains(&true),
        "not all of a submission was met: {got_through:?}"
    );
}

#[tokio::test]
async fn a_statement_of_its_own_ends_in_time_and_the_pool_recovers() {
    let world = world().await;
    let (line, store) = by_line(&world, Limits { connections: 4, ..QUICK });
    for forgets in [false, true] {
        // All connections are there, and idle.
        join_all((0..4).map(|_| store.now())).await.into_iter().for_each(|now| assert!(now.is_ok()));
        line.die_after(0);
        let begin = Instant::now();
        for silent in join_all((0..8).map(|_| store.now())).await {
            assert!(matches!(silent, Err(StoreError::Unavailable(_))), "{silent:?}");
        }
        assert!(begin.elapsed() < ENDS, "{:?}", begin.elapsed());
        // The leadership has connections of its own.
        let begin = Instant::now();
        let lead = store.lead(world.coordinator, LEASE, OUTAGE).await;
        assert!(matches!(lead, Err(StoreError::Unavailable(_))), "{lead:?}");
        assert!(begin.elapsed() < ENDS, "{:?}", begin.elapsed());
        line.mend(forgets);
        let begin = Instant::now();
        for found in join_all((0..8).map(|_| store.now())).await {
            found.unwrap();
        }
        assert!(begin.elapsed() < ENDS, "{:?}", begin.elapsed());
        let kept = store.lead(world.coordinator, LEASE, OUTAGE).await.unwrap();
        assert!(matches!(kept, Leadership::Kept { .. }), "{kept:?}");
    }
}

#[tokio::test]
async fn calls_the_leaders_loops_and_the_leadership_never_wait_for_each_others_connections() {
    let world = world().await;
    let store = Store::open(world.database.url(), Limits { connections: 2, loops: 2, ..LIMITS }).unwrap();
    let loops = store.of_loops();
    let mut holder = Session::open(world.database.url());
    for (held, free) in [(&store, &loops), (&loops, &store)] {
        holder.ask("BEGIN; LOCK TABLE coordinators; SELECT 1");
        let mut waiting = Box::pin(join_all((0..3).map(|_| held.peers(world.coordinator, LEASE))));
        let others = async {
            let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
            while world.database.psql(waits) != "2" {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            free.now().await.unwrap();
            store.lead(world.coordinator, LEASE, OUTAGE).await.unwrap()
        };
        let kept = tokio::select! {
            ended = &mut waiting => panic!("they didn't wait: {ended:?}"),
            kept = others => kept,
        };
        assert!(matches!(kept, Leadership::Kept { .. }), "{kept:?}");
        holder.ask("ROLLBACK; SELECT 1");
        waiting.await.into_iter().for_each(|peers| assert!(peers.is_ok(), "{peers:?}"));
    }
}

#[tokio::test]
async fn whoever_takes_over_does_not_wait_for_a_leader_that_fell_silent() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    let build = world.submit("k", "linux/amd64", &["localhost:5002/app:1"]).await;
    world.lease(build, 0, worker).await;
    // It has connected, and its transaction holds the epoch.
    let mut watcher = Session::open(world.database.url());
    let holds = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'";
    for pieces in 1.. {
        let (line, store) = by_line(&world, QUICK);
        line.die_after(pieces);
        let silent = store.stop_overdue_attempts(world.epoch, Duration::ZERO);
        let taken = async {
            let begin = Instant::now();
            while watcher.ask(holds) == "0" {
                if begin.elapsed() > Duration::from_secs(1) {
                    return false;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            true
        };
        let (ended, was_held) = tokio::join!(silent, taken);
        if !line.is_dead() {
            ended.unwrap();
            break;
        }
        if !was_held {
            continue;
        }
        world.database.psql("UPDATE leader SET expires_at = farm_now()");
        let begin = Instant::now();
        let epoch = loop {
            match world.store.lead(world.coordinator, LEASE, OUTAGE).await {
                Ok(Leadership::Taken { epoch, .. }) => break epoch,
                Ok(other) => panic!("{other:?}"),
                Err(StoreError::Unavailable(_)) => {}
                Err(error) => panic!("{error:?}"),
            }
            assert!(begin.elapsed() < Duration::from_secs(4), "{pieces}: {:?}", begin.elapsed());
        };
        assert_ne!(epoch, world.epoch);
        return;
    }
    panic!("the leader was never met while it held its epoch");
}

#[tokio::test]
async fn a_statement_of_a_leader_that_hangs_ends_by_its_limit() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    let build = world.submit("k", "linux/amd64", &["localhost:5002/app:1"]).await;
    world.lease(build, 0, worker).await;
    world.database.psql(
        "CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NEW; END';
         CREATE TRIGGER hang BEFORE UPDATE ON attempts FOR EACH ROW EXECUTE FUNCTION hang()",
    );
    let limits = Limits { leader_statement: Duration::from_secs(1), ..LIMITS };
    let (_line, store) = by_line(&world, limits);
    let begin = Instant::now();
    let ended = store.stop_overdue_attempts(world.epoch, Duration::ZERO).await;
    assert!(matches!(ended, Err(StoreError::Unavailable(_))), "{ended:?}");
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_transaction_that_the_database_ends_for_idling_may_be_tried_again() {
    let world = world().await;
    let limits = Limits { statement: Duration::from_secs(15), ..QUICK };
    let mut was_ended = 0;
    for pieces in 1.. {
        let (line, store) = by_line(&world, limits);
        line.die_after(pieces);
        let late = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            line.mend(false);
        };
        let (ended, ()) = tokio::join!(store.stop_overdue_attempts(world.epoch, Duration::ZERO), late);
        match ended {
            Ok(_) if was_ended > 0 => break,
            Ok(_) => {}
            Err(StoreError::Unavailable(error)) => {
                was_ended += usize::from(error.to_string().contains("idle-in-transaction"));
            }
            Err(error) => panic!("{pieces}: {error:?}"),
        }
        assert!(pieces < 40, "no transaction was ended for idling");
    }
}

/// Polls a call so often, and drops it then; gives its answer if that came before.
async fn polled<T>(call: impl Future<Output = T>, times: usize) -> Option<T> {
    let mut call = Box::pin(call);
    let mut left = times;
    poll_fn(|context| match call.as_mut().poll(context) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending => {
            left -= 1;
            if left == 0 { Poll::Ready(None) } else { Poll::Pending }
        }
    })
    .await
}

#[tokio::test]
async fn a_call_that_is_dropped_anywhere_leaves_no_transaction_to_the_next() {
    let world = world().await;
    let project = default_project();
    let upload = world.store.open_upload(project, "test", LEASE, &BTreeMap::new()).await.unwrap().upload;
    // The only connection is the one that was dropped in the middle, or its successor.
    let store = Store::open(world.database.url(), Limits { connections: 1, ..LIMITS }).unwrap();
    let (mut dropped, mut made) = (0, 0);
    for round in 0..2 {
        for times in 1.. {
            let build =
                world.new_build(&format!("{round}-{times}"), "linux/amd64", &["localhost:5002/app:1"]);
            let ended = polled(store.submit(&build), times).await;
            // Acknowledged, so another session sees it.
            store.renew_upload(project, upload, LEASE * u32::try_from(times + 1).unwrap()).await.unwrap();
            let left = format!(
                "SELECT round(extract(epoch FROM expires_at - farm_now()) / 60) FROM uploads WHERE id = '{upload}'"
            );
            assert_eq!(world.database.psql(&left), (times + 1).to_string(), "{round}: {times}");
            let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                          AND state LIKE 'idle in transaction%' AND state_change < clock_timestamp() - interval '1 s'";
            assert_eq!(world.database.psql(open), "0", "{round}: {times}");
            if let Some(ended) = ended {
                ended.unwrap();
                made += 1;
                break;
            }
            dropped += 1;
        }
    }
    // Of each at least BEGIN, a statement and COMMIT are waited for.
    assert!(dropped >= 6 && made == 2, "{dropped} calls were dropped, {made} ended");
    // What was dropped was made whole or not at all, and can be made again.
    let build = world.new_build("0-1", "linux/amd64", &["localhost:5002/app:1"]);
    store.submit(&build).await.unwrap();
    assert_eq!(world.store.lead(Uuid::now_v7(), LEASE, OUTAGE).await.unwrap(), Leadership::Other);
}

#[tokio::test]
async fn a_server_that_ends_all_connections_costs_one_statement_and_not_one_for_each() {
    let world = world().await;
    for answer in join_all((0..4).map(|_| world.store.now())).await {
        answer.unwrap();
    }
    world.database.psql(
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    );
    let mut failed = 0;
    for _ in 0..10 {
        failed += usize::from(world.store.now().await.is_err());
    }
    assert!(failed <= 1, "{failed} of 10");
}
