//! One leader at a time, and nothing from an old one.

use std::time::{Duration, Instant};

use farm_store::StoreError;
use farm_store::machines::leader::{Leadership, Peer, Place};
use farm_store::machines::workers::{OVERTAKEN, Registration, Sign};
use farm_types::state::WorkerState;
use uuid::Uuid;

use crate::fixture::{LEASE, OUTAGE, PUBLISH, success, world};

const TTL: Duration = Duration::from_secs(2);

fn at<'a>(address: &'a str, machine: Option<&'a str>) -> Place<'a> {
    Place { address, machine }
}

#[tokio::test]
async fn another_coordinator_leads_only_after_the_first_was_silent_and_with_a_higher_epoch() {
    let world = world().await;
    let other = Uuid::now_v7();
    assert_eq!(world.store.lead(other, TTL, OUTAGE).await.unwrap(), Leadership::Other);
    let kept = Leadership::Kept { epoch: world.epoch, settling: None };
    assert_eq!(world.store.lead(world.coordinator, TTL, OUTAGE).await.unwrap(), kept);
    world.database.psql("UPDATE farm_clock SET shift = '3 s'");
    let taken = world.store.lead(other, TTL, OUTAGE).await.unwrap();
    assert!(
        matches!(taken, Leadership::Taken { epoch, settling: None } if epoch.0 > world.epoch.0),
        "{taken:?}"
    );
    assert_eq!(world.store.lead(world.coordinator, TTL, OUTAGE).await.unwrap(), Leadership::Other);
}

#[tokio::test]
async fn coordinators_know_each_other_while_they_give_signs() {
    let world = world().await;
    let (other, digest) = (Uuid::now_v7(), farm_types::Digest::of(b"another secret"));
    let silence = Duration::from_secs(5);
    assert_eq!(world.store.peers(world.coordinator, silence).await.unwrap(), []);
    world.store.register_coordinator(other, &at("http://b:7070", None), digest).await.unwrap();
    let known = world.store.peers(world.coordinator, silence).await.unwrap();
    assert_eq!(known, [Peer { id: other, address: "http://b:7070".to_owned(), token_digest: digest }]);
    world.database.psql("UPDATE farm_clock SET shift = '6 s'");
    assert_eq!(world.store.peers(world.coordinator, silence).await.unwrap(), []);
    world.store.register_coordinator(other, &at("http://b:7070", None), digest).await.unwrap();
    assert_eq!(world.store.peers(world.coordinator, silence).await.unwrap(), known);
    world.database.psql("UPDATE farm_clock SET shift = '2 days'");
    world
        .store
        .register_coordinator(world.coordinator, &at("test", None), farm_types::Digest::of(b"secret"))
        .await
        .unwrap();
    assert_eq!(world.store.forget_coordinators().await.unwrap(), 1);
}

#[tokio::test]
async fn which_keys_coordinators_have_is_known_while_they_give_signs() {
    let world = world().await;
    let (other, silence) = (Uuid::now_v7(), Duration::from_secs(5));
    let ids = |all: &[&str]| all.iter().map(|&id| id.to_owned()).collect::<Vec<_>>();
    let known = async || {
        let known = world.store.keys_of_coordinators(silence).await.unwrap();
        known.into_iter().map(|of| (of.coordinator, of.ids)).collect::<Vec<_>>()
    };
    // Of one that isn't there, or of before, nothing is known.
    world.store.note_keys(other, &ids(&["new"])).await.unwrap();
    assert_eq!(known().await, []);
    world.store.register_coordinator(other, &at("b", None), farm_types::Digest::of(b"b")).await.unwrap();
    world.store.note_keys(other, &ids(&["new", "old"])).await.unwrap();
    assert_eq!(known().await, [(other, ids(&["new", "old"]))]);
    world.store.note_keys(world.coordinator, &ids(&["old"])).await.unwrap();
    assert_eq!(known().await, [(other, ids(&["new", "old"])), (world.coordinator, ids(&["old"]))]);
    world.database.psql("UPDATE farm_clock SET shift = '6 s'");
    assert_eq!(known().await, []);
}

#[tokio::test]
async fn a_leader_is_succeeded_at_once_by_one_at_its_own_place_only() {
    let world = world().await;
    let here = at("http://127.0.0.1:7070", Some("machine 1"));
    // Who leads, who comes, whether that one need not wait.
    for (leader, next, succeeds) in [
        (here, here, true),
        (here, at("http://127.0.0.1:7070", Some("machine 2")), false),
        (here, at("http://127.0.0.1:7071", Some("machine 1")), false),
        // One of the version before, or one that doesn't know, says no machine.
        (at("http://127.0.0.1:7070", None), here, true),
        (here, at("http://127.0.0.1:7070", None), true),
        (at("http://127.0.0.1:7071", None), here, false),
    ] {
        world.database.psql("UPDATE leader SET expires_at = farm_now()");
        let [old, new] = [leader, next].map(|place| (Uuid::now_v7(), place));
        for (id, place) in [old, new] {
            world
                .store
                .register_coordinator(id, &place, farm_types::Digest::of(id.as_bytes()))
                .await
                .unwrap();
            if id == old.0 {
                let led = world.store.lead(id, LEASE, OUTAGE).await.unwrap();
                assert!(matches!(led, Leadership::Taken { .. }), "{led:?}");
                assert!(!world.store.succeed(id).await.unwrap(), "it unseated itself");
            }
        }
        assert_eq!(world.store.succeed(new.0).await.unwrap(), succeeds, "{leader:?} {next:?}");
        let led = world.store.lead(new.0, LEASE, OUTAGE).await.unwrap();
        assert_eq!(led != Leadership::Other, succeeds, "{leader:?} {next:?}");
        world.database.psql("DELETE FROM coordinators WHERE address LIKE 'http://127%'");
    }
}

#[tokio::test]
async fn after_an_outage_silence_is_held_against_nobody_whoever_leads_next() {
    let world = world().await;
    world.store.lead(world.coordinator, TTL, OUTAGE).await.unwrap();
    world.database.psql("UPDATE farm_clock SET shift = '1 min'");
    let Leadership::Taken { settling: Some(settling), .. } =
        world.store.lead(world.coordinator, TTL, OUTAGE).await.unwrap()
    else {
        panic!("all coordinators were silent for a minute")
    };
    assert!((settling.until - settling.silent_since).num_seconds() >= 80);
    world.store.resign(world.coordinator).await.unwrap();
    let next = world.store.lead(Uuid::now_v7(), TTL, OUTAGE).await.unwrap();
    assert!(matches!(next, Leadership::Taken { settling: Some(s), .. } if s == settling), "{next:?}");
}

#[tokio::test]
async fn what_an_old_leader_decides_changes_nothing() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    let build = world.submit("k", "linux/amd64", &["localhost:5002/app:1"]).await;
    let assignment = world.assignment(build, 0, worker).await;
    world.store.resign(world.coordinator).await.unwrap();
    let Leadership::Taken { epoch, .. } = world.store.lead(Uuid::now_v7(), LEASE, OUTAGE).await.unwrap()
    else {
        panic!("the leader resigned")
    };
    let stale = world.store.lease(world.epoch, assignment.clone(), LEASE).await;
    assert!(matches!(stale, Err(StoreError::NotLeading)), "{stale:?}");
    assert_eq!(world.slots_used(), 0);
    assert!(world.store.stop_overdue_attempts(world.epoch, LEASE).await.is_err());
    let attempt = world.store.lease(epoch, assignment, LEASE).await.unwrap();
    let token = world.database.psql("SELECT lease_token FROM attempts").parse().unwrap();
    let lease = farm_store::work::attempts::Lease { attempt, token, holder: None };
    // Workers' words need no leader.
    world.finish(lease, success("x")).await.unwrap();
    let due = world.store.due_merges(10).await.unwrap().remove(0);
    let kept = world.store.keep_publication(world.epoch, &due, &crate::fixture::index("i"), &[]).await;
    assert!(matches!(kept, Err(StoreError::NotLeading)), "{kept:?}");
    assert_eq!(world.store.reap(epoch, PUBLISH, 0.0).await.unwrap(), 0);
}

#[tokio::test]
async fn a_leader_whose_time_is_over_holds_silence_against_nobody() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    let build = world.submit("k", "linux/amd64", &["localhost:5002/app:1"]).await;
    let assignment = world.assignment(build, 0, worker).await;
    world.store.lease(world.epoch, assignment, LEASE).await.unwrap();
    // The database was away: neither the leader nor the worker could give a sign, and nobody else has taken over.
    world.database.psql("UPDATE farm_clock SET shift = '2 min'");
    let reaped = world.store.reap(world.epoch, PUBLISH, 0.0).await;
    assert!(matches!(reaped, Err(StoreError::NotLeading)), "{reaped:?}");
    assert_eq!(world.database.psql("SELECT state FROM attempts"), "offered");
    let next = world.store.lead(world.coordinator, TTL, OUTAGE).await.unwrap();
    assert!(matches!(next, Leadership::Taken { settling: Some(_), .. }), "{next:?}");
}

#[tokio::test]
async fn a_name_that_is_in_use_is_refused_until_its_worker_is_gone_or_silent() {
    let world = world().await;
    let suspect = Duration::from_secs(12);
    let (worker, boot) = world.worker("w", 1).await;
    let twin = world.registration("w", farm_types::BootId::generate(), 1);
    let Err(StoreError::Conflict(why)) = world.store.register_worker(&twin, suspect).await else {
        panic!("taken")
    };
    assert!(why.contains("--name"), "{why}");
    // The same life may come back on another stream at any time.
    let again = world.registration("w", boot, 1);
    assert_eq!(world.store.register_worker(&again, suspect).await.unwrap(), worker);
    world.pass("13 s");
    assert_eq!(world.store.register_worker(&twin, suspect).await.unwrap(), worker);
    // A killed one that comes back in the same folder needs no patience: nobody else can have that folder.
    let life = |home: &str| Registration {
        home: home.to_owned(),
        ..world.registration("v", farm_types::BootId::generate(), 1)
    };
    let killed = world.store.register_worker(&life("here"), suspect).await.unwrap();
    assert!(world.store.register_worker(&life("elsewhere"), suspect).await.is_err());
    assert_eq!(world.store.register_worker(&life("here"), suspect).await.unwrap(), killed);
}

#[tokio::test]
async fn the_workers_of_a_dead_coordinator_are_connected_to_nobody_until_they_are_heard_again() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    let silence = Duration::from_secs(5);
    let sign = Sign { worker, connection: world.connection(worker), tokens: Vec::new() };
    assert_eq!(world.store.disown_workers(silence).await.unwrap(), 0);
    world.pass("6 s");
    // A worker that was heard is not taken away, even if its coordinator's own sign is late.
    let heard = world.store.heartbeats(world.coordinator, std::slice::from_ref(&sign), LEASE).await;
    assert!(heard.unwrap().is_empty());
    assert_eq!(world.store.disown_workers(silence).await.unwrap(), 0);
    world.pass("6 s");
    assert_eq!(world.store.disown_workers(silence).await.unwrap(), 1);
    assert_eq!(world.store.workers().await.unwrap()[0].state, WorkerState::Offline);
    world.store.heartbeats(world.coordinator, &[sign], LEASE).await.unwrap();
    assert_eq!(world.store.workers().await.unwrap()[0].state, WorkerState::Online);
}

#[tokio::test]
async fn the_end_of_an_old_stream_does_not_undo_a_new_one() {
    let world = world().await;
    let (worker, boot) = world.worker("w", 1).await;
    let old = world.registration("w", boot, 1);
    let new = world.registration("w", boot, 1);
    for stream in [&old, &new] {
        world.store.register_worker(stream, Duration::from_secs(12)).await.unwrap();
    }
    world.store.worker_disconnected(worker, old.connection).await.unwrap();
    assert_eq!(world.store.workers().await.unwrap()[0].state, WorkerState::Online);
    world.store.worker_disconnected(worker, new.connection).await.unwrap();
    assert_eq!(world.store.workers().await.unwrap()[0].state, WorkerState::Offline);
    // Nor does a sign that came by it and is written late.
    let late = Sign { worker, connection: new.connection, tokens: Vec::new() };
    let over = world.store.heartbeats(world.coordinator, &[late], LEASE).await.unwrap();
    assert_eq!(over, [new.connection], "whoever hears a sign by it is told to end it");
    assert_eq!(world.store.workers().await.unwrap()[0].state, WorkerState::Offline);
}

#[tokio::test]
async fn a_stream_that_is_registered_after_a_later_one_changes_nothing() {
    let world = world().await;
    let boot = farm_types::BootId::generate();
    let stream = |boot, dial| Registration { dial, ..world.registration("w", boot, 1) };
    let register =
        async |stream: &Registration| world.store.register_worker(stream, Duration::from_secs(12)).await;
    let (early, late) = (stream(boot, 1), stream(boot, 2));
    let worker = register(&late).await.unwrap();
    let refused = register(&early).await.unwrap_err();
    assert!(matches!(refused, StoreError::Stale(OVERTAKEN)), "{refused:?}");
    assert_eq!(world.connection(worker), late.connection);
    // Its end is none of the later one's.
    world.store.worker_disconnected(worker, early.connection).await.unwrap();
    assert_eq!(world.store.workers().await.unwrap()[0].state, WorkerState::Online);
    // Also one that has gone since was there later.
    world.store.worker_disconnected(worker, late.connection).await.unwrap();
    assert!(register(&early).await.is_err());
    // Another life begins to count anew, and who doesn't count is as late as it comes.
    for next in [stream(farm_types::BootId::generate(), 1), stream(boot, 0), stream(boot, 1)] {
        world.pass("13 s");
        register(&next).await.unwrap();
        assert_eq!(world.connection(worker), next.connection);
    }
}

#[tokio::test]
async fn a_worker_that_offers_nothing_for_a_while_keeps_its_platforms_and_gets_no_job() {
    let world = world().await;
    let (_, boot) = world.worker("w", 1).await;
    let mut away = world.registration("w", boot, 1);
    away.offers.clear();
    let worker = world.store.register_worker(&away, Duration::from_secs(12)).await.unwrap();
    let record = world.store.workers().await.unwrap().remove(0);
    assert_eq!(record.state, WorkerState::Withdrawn);
    assert!(record.withdrawn_at.is_some() && !record.offers.is_empty());
    let build = world.submit("k", "linux/amd64", &[]).await;
    let view = world.store.schedule_state(10, &[]).await.unwrap().workers.remove(0);
    assert_eq!(view.state, WorkerState::Withdrawn);
    let assignment = world.assignment(build, 0, worker).await;
    assert!(world.store.lease(world.epoch, assignment.clone(), LEASE).await.is_err());
    let back = world.registration("w", boot, 1);
    world.store.register_worker(&back, Duration::from_secs(12)).await.unwrap();
    world.store.lease(world.epoch, assignment, LEASE).await.unwrap();
}

#[tokio::test]
async fn an_engine_has_the_slots_of_its_largest_worker_that_is_there() {
    let world = world().await;
    let mut small = world.registration("small", farm_types::BootId::generate(), 1);
    let mut large = world.registration("large", farm_types::BootId::generate(), 4);
    (small.engine_key, large.engine_key) = ("shared".to_owned(), "shared".to_owned());
    let suspect = Duration::from_secs(12);
    world.store.register_worker(&small, suspect).await.unwrap();
    let worker = world.store.register_worker(&large, suspect).await.unwrap();
    let slots = || async { world.store.workers().await.unwrap().iter().map(|w| w.slots).collect::<Vec<_>>() };
    assert_eq!(slots().await, [4, 4]);
    world.store.worker_disconnected(worker, large.connection).await.unwrap();
    assert_eq!(slots().await, [1, 1]);
}

#[tokio::test]
async fn a_leader_that_is_stopped_in_the_middle_of_a_transaction_is_followed_within_three_seconds() {
    let world = world().await;
    let (worker, _) = world.worker("w", 50).await;
    let begin = Instant::now();
    // A session of its own looks faster than the database ends what does nothing.
    let mut looker = farm_tests::session::Session::open(world.database.url());
    let mut count = |sql: &str| looker.ask(&format!("SELECT count(*) FROM ({sql}) AS found")) != "0";
    let works = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'
                 AND pid <> pg_backend_pid()";
    let mut through = 0;
    let lease = 'stopped: loop {
        let build = world.submit(&format!("k{through}"), "linux/amd64", &[]).await;
        let assignment = world.assignment(build, 0, worker).await;
        let mut lease = Box::pin(world.store.lease(world.epoch, assignment, LEASE));
        // Nobody polls it any more once it holds the leader's row: the session is as one of a process that was stopped.
        loop {
            assert!(begin.elapsed() < Duration::from_secs(20), "no lease was met holding the leader's row");
            if futures::poll!(&mut lease).is_ready() {
                // On a busy machine answers are there before they are waited for, and it is through at once.
                through += 1;
                break;
            }
            tokio::task::yield_now().await;
            // One answer at a time, so that it can't hold the row and be through with it between two looks.
            while count(works) {
                assert!(begin.elapsed() < Duration::from_secs(20), "a statement took too long");
            }
            if !count("SELECT FROM leader FOR UPDATE SKIP LOCKED") {
                break 'stopped lease;
            }
        }
    };
    // Renewed at the last moment.
    let kept = world.store.lead(world.coordinator, TTL, OUTAGE).await.unwrap();
    assert!(matches!(kept, Leadership::Kept { .. }), "{kept:?}");
    let stopped_at = Instant::now();
    let other = Uuid::now_v7();
    let epoch = loop {
        match world.store.lead(other, TTL, OUTAGE).await {
            Ok(Leadership::Taken { epoch, .. }) => break epoch,
            // As a coordinator does it: another look half a second later.
            Ok(_) | Err(StoreError::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(500)).await,
            Err(error) => panic!("{error}"),
        }
        assert!(stopped_at.elapsed() < Duration::from_secs(20), "nobody leads");
    };
    let took = stopped_at.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(epoch.0 > world.epoch.0);
    // When it goes on, its transaction is gone.
    assert!(lease.await.is_err());
    assert_eq!(world.slots_used(), through);
}

#[tokio::test]
async fn a_leader_that_waits_for_a_lock_delays_neither_its_renewal_nor_its_successor() {
    let world = world().await;
    let (worker, _) = world.worker("w", 1).await;
    let build = world.submit("k", "linux/amd64", &[]).await;
    let assignment = world.assignment(build, 0, worker).await;
    let mut holder = farm_tests::session::Session::open(world.database.url());
    holder.ask("BEGIN; SELECT 'held' FROM executions FOR UPDATE");
    let mut looker = farm_tests::session::Session::open(world.database.url());
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let seen = std::cell::Cell::new(Instant::now());
    let renewed = async {
        while looker.ask(waits) != "1" {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        seen.set(Instant::now());
        let kept = world.store.lead(world.coordinator, LEASE, OUTAGE).await.unwrap();
        assert!(matches!(kept, Leadership::Kept { .. }), "{kept:?}");
        assert_eq!(looker.ask(waits), "1", "it was renewed after the wait only");
    };
    let (lease, ()) = tokio::join!(world.store.lease(world.epoch, assignment, LEASE), renewed);
    assert!(lease.is_err());
    assert!(seen.get().elapsed() < Duration::from_secs(3), "{:?}", seen.get().elapsed());
}
