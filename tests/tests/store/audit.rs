//! The chain over what was done: every row is sealed once, whenever its transaction commits, and what is done to it is found.

use std::time::Duration;

use farm_store::machines::leader::Leadership;
use farm_store::people::seals::Sealed;
use farm_store::people::trail::{Asked, Verified};
use farm_store::{StoreError, default_project};
use farm_tests::database::try_psql;
use farm_tests::session::Session;
use farm_types::Digest;
use uuid::Uuid;

use crate::fixture::{LEASE, OUTAGE, PUBLISH, World, tester, world};

const INSERT: &str = "INSERT INTO audit (principal, token_hint, address, action, subject)";
/// A deed in a transaction of the session's.
fn deed(session: &mut Session, subject: &str) {
    session.ask(&format!("{INSERT} VALUES ('test', '', '', 'test', '{subject}') RETURNING 1"));
}

async fn seal(world: &World) -> Option<Sealed> {
    world.store.seal_audit(world.epoch, 1_000).await.unwrap()
}

async fn verified(world: &World, outside: &[Digest]) -> Verified {
    world.store.verify_audit(outside).await.unwrap()
}

/// Seals all that is there; other tests' transactions on this server may hold it up for a moment. The last head.
async fn sealed(world: &World) -> Digest {
    loop {
        seal(world).await;
        let found = verified(world, &[]).await;
        if found.unsealed == 0 {
            return found.head.unwrap();
        }
        tokio::task::yield_now().await;
    }
}

/// Rows that aren't in exactly one seal.
fn astray(world: &World) -> String {
    world.database.psql(
        "SELECT a.id, count(s.seal) FROM audit a LEFT JOIN audit_seals s
             ON s.cluster = a.cluster AND s.from_xid <= a.xid AND a.xid < s.below_xid
         GROUP BY a.id HAVING count(s.seal) <> 1",
    )
}

fn rows(world: &World) -> i64 {
    world.database.psql("SELECT count(*) FROM audit").parse().unwrap()
}

/// Runs SQL as somebody who may do everything to the database.
fn by_force(world: &World, sql: &str) {
    world.database.psql(&format!(
        "SET session_replication_role = replica; {sql}; SET session_replication_role = origin"
    ));
}

#[tokio::test]
async fn what_is_in_flight_while_others_commit_is_neither_left_out_nor_sealed_twice() {
    let world = world().await;
    assert_eq!(seal(&world).await, None);
    let open = || Session::open(world.database.url());
    let (mut first, mut second, mut third) = (open(), open(), open());
    first.ask("BEGIN; SELECT 1");
    deed(&mut first, "begun first");
    world.submit("k1", "linux/amd64", &[]).await;
    // Later in number and committed, but something before it is under way.
    assert_eq!(seal(&world).await, None);
    // It has its transaction's number now, and writes later.
    second.ask("BEGIN; SELECT pg_current_xact_id()");
    // It has drawn its row's number, and no transaction's.
    let drawn = third.ask("BEGIN; SELECT nextval(pg_get_serial_sequence('audit', 'id'))");
    first.ask("COMMIT; SELECT 1");
    world.submit("k2", "linux/amd64", &[]).await;
    // What is before the open one is sealed; what has ended after it isn't.
    let before = loop {
        seal(&world).await;
        let found = verified(&world, &[]).await;
        if found.unsealed == 1 {
            break found;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(before.rows, 2, "{before:?}");
    let before = before.head.unwrap();
    assert_eq!(seal(&world).await, None);
    deed(&mut second, "had its number before");
    second.ask("ROLLBACK; SELECT 1");
    sealed(&world).await;
    assert_eq!(astray(&world), "");
    third.ask(&format!(
        "{INSERT_WITH_ID} OVERRIDING SYSTEM VALUE VALUES ({drawn}, 'test', '', '', 'test', 'late') RETURNING 1"
    ));
    world.submit("k3", "linux/amd64", &[]).await;
    assert_eq!(seal(&world).await, None);
    third.ask("COMMIT; SELECT 1");
    let head = sealed(&world).await;
    assert_eq!(astray(&world), "");
    let found = verified(&world, &[head, before]).await;
    assert_eq!((found.rows, found.broken), (5, vec![]));
    let places: Vec<_> = found.outside.iter().map(|outside| outside.found.unwrap()).collect();
    assert!(places.iter().all(|place| place.is_whole), "{places:?}");
    assert_eq!(places.iter().map(|place| place.rows_after).collect::<Vec<_>>(), [0, 3]);
    assert_eq!(seal(&world).await, None, "there is nothing more");
}

const INSERT_WITH_ID: &str = "INSERT INTO audit (id, principal, token_hint, address, action, subject)";

#[tokio::test]
async fn each_row_is_sealed_once_while_many_write_and_the_leader_changes() {
    const WRITERS: usize = 6;
    const EACH: usize = 5;
    let world = world().await;
    let write = async |writer: usize| {
        for n in 0..EACH {
            let build = world.submit(&format!("{writer} {n}"), "linux/amd64", &[]).await;
            if n % 2 == 0 {
                world.store.cancel(&tester(), default_project(), build.id, PUBLISH).await.unwrap();
            }
        }
    };
    let is_written = std::cell::Cell::new(false);
    let writing = async {
        futures::future::join_all((0..WRITERS).map(write)).await;
        is_written.set(true);
    };
    let sealing = async {
        let mut epoch = world.epoch;
        for turn in 1.. {
            // Small batches, so that there are many.
            let _sealed = world.store.seal_audit(epoch, 2).await.unwrap();
            if is_written.get() {
                break;
            }
            if turn % 7 == 0 {
                world.database.psql("UPDATE leader SET expires_at = farm_now()");
                let led = world.store.lead(Uuid::now_v7(), LEASE, OUTAGE).await.unwrap();
                let Leadership::Taken { epoch: next, .. } = led else { panic!("{led:?}") };
                world.submit(&format!("turn {turn}"), "linux/amd64", &[]).await;
                // Who led before seals nothing any more; it may have nothing to seal, as far as it can tell.
                let late = world.store.seal_audit(epoch, 2).await;
                assert!(matches!(late, Err(StoreError::NotLeading) | Ok(None)), "{late:?}");
                epoch = next;
            }
        }
        epoch
    };
    // Both go on all the time: the database ends transactions that do nothing for seconds.
    let ((), epoch) = futures::join!(writing, sealing);
    while verified(&world, &[]).await.unsealed > 0 {
        world.store.seal_audit(epoch, 2).await.unwrap();
    }
    assert_eq!(astray(&world), "");
    let found = verified(&world, &[]).await;
    assert_eq!((found.rows, found.broken), (rows(&world), vec![]));
    let done: i64 = world
        .database
        .psql("SELECT count(*) FROM audit WHERE action IN ('build.submit', 'build.cancel')")
        .parse()
        .unwrap();
    assert!(done >= i64::try_from(WRITERS * (EACH + 3)).unwrap(), "{done}");
}

#[tokio::test]
async fn rows_and_seals_are_not_changed_and_who_does_it_by_force_is_found() {
    let world = world().await;
    let mut heads = Vec::new();
    for key in ["k1", "k2", "k3"] {
        world.submit(key, "linux/amd64", &[]).await;
        heads.push(sealed(&world).await);
    }
    for refused in [
        "UPDATE audit SET principal = 'nobody'",
        "DELETE FROM audit",
        "TRUNCATE audit",
        "UPDATE audit_seals SET head = sha256('x')",
        "UPDATE audit_seals SET removed_at = farm_now(), row_count = 7",
        "DELETE FROM audit_seals",
        "TRUNCATE audit_seals",
    ] {
        assert_eq!(try_psql(world.database.url(), refused), None, "{refused}");
    }
    let good = verified(&world, &heads).await;
    assert_eq!((good.rows, good.seals, good.broken.len()), (3, 3, 0));
    assert!(good.outside.iter().all(|outside| outside.found.is_some_and(|found| found.is_whole)));
    world.database.psql(
        "CREATE TABLE kept AS SELECT * FROM audit; CREATE TABLE kept_seals AS SELECT * FROM audit_seals",
    );
    // What is done, how many seals are broken by it, and whether a link is.
    for (force, broken, is_link) in [
        ("UPDATE audit SET principal = 'nobody' WHERE id = 2", 1, false),
        ("UPDATE audit SET detail = '{}' WHERE id = 2", 1, false),
        ("UPDATE audit SET at = at - interval '1 microsecond' WHERE id = 2", 1, false),
        ("DELETE FROM audit WHERE id = 2", 1, false),
        (
            "INSERT INTO audit (principal, token_hint, address, action, subject, xid)
             SELECT 'somebody', '', '', 'build.submit', 'never', xid FROM audit WHERE id = 2",
            1,
            false,
        ),
        ("UPDATE audit a SET xid = b.xid FROM audit b WHERE (a.id, b.id) IN ((2, 3), (3, 2))", 2, false),
        ("DELETE FROM audit WHERE id = 2; DELETE FROM audit_seals WHERE seal = 2", 1, true),
    ] {
        by_force(&world, force);
        let found = verified(&world, &heads).await;
        assert_eq!(found.broken.len(), broken, "{force}: {found:?}");
        assert_eq!(found.broken[0].is_link, is_link, "{force}");
        let whole: Vec<bool> =
            found.outside.iter().map(|outside| outside.found.is_some_and(|found| found.is_whole)).collect();
        assert_eq!(whole, [true, false, false], "{force}");
        by_force(
            &world,
            "DELETE FROM audit; INSERT INTO audit OVERRIDING SYSTEM VALUE SELECT * FROM kept;
             DELETE FROM audit_seals; INSERT INTO audit_seals SELECT * FROM kept_seals",
        );
        assert_eq!(verified(&world, &heads).await, good, "{force}");
    }
    by_force(&world, "UPDATE audit_seals SET from_xid = from_xid + 1 WHERE seal = 2");
    assert!(verified(&world, &heads).await.broken[0].is_link, "there is room between two seals");
    by_force(&world, "UPDATE audit_seals SET from_xid = from_xid - 1 WHERE seal = 2");
    // Whoever reckons the whole chain anew leaves nothing that the chain itself could tell.
    by_force(
        &world,
        "UPDATE audit SET principal = 'nobody' WHERE id = 2; DELETE FROM audit_seals WHERE seal >= 2",
    );
    sealed(&world).await;
    let found = verified(&world, &heads).await;
    assert_eq!((found.rows, found.broken.len()), (3, 0));
    let there: Vec<bool> = found.outside.iter().map(|outside| outside.found.is_some()).collect();
    assert_eq!(there, [true, false, false], "only heads that were kept elsewhere do");
}

#[tokio::test]
async fn what_is_old_goes_by_whole_seals_and_the_chain_goes_on() {
    let world = world().await;
    let kept = Duration::from_secs(400 * 24 * 3600);
    let remove = async || world.store.remove_audit(world.epoch, kept, 100).await.unwrap();
    world.submit("k1", "linux/amd64", &[]).await;
    world.submit("k2", "linux/amd64", &[]).await;
    let old = sealed(&world).await;
    let in_old = rows(&world);
    assert_eq!(remove().await, 0);
    world.pass("401 days");
    world.submit("k3", "linux/amd64", &[]).await;
    let new = sealed(&world).await;
    assert_eq!(remove().await, u64::try_from(in_old).unwrap());
    assert_eq!((remove().await, rows(&world)), (0, 1));
    assert_eq!(try_psql(world.database.url(), "DELETE FROM audit"), None);
    let found = verified(&world, &[old, new]).await;
    assert_eq!((found.rows, found.broken.len(), found.unsealed), (1, 0, 0));
    assert_eq!(found.removed.map(|(rows, _)| rows), Some(in_old));
    assert!(found.outside.iter().all(|outside| outside.found.is_some_and(|found| found.is_whole)));
    // No force is needed for this one: a row that pretends to be older than all that is kept.
    world.database.psql(
        "INSERT INTO audit (principal, token_hint, address, action, subject, cluster, xid)
         SELECT 'somebody', '', '', 'build.submit', 'never', cluster, from_xid FROM audit_seals WHERE seal = 1",
    );
    assert_eq!(verified(&world, &[]).await.broken.len(), 1);
    by_force(&world, "UPDATE audit SET principal = 'nobody'");
    assert_eq!(verified(&world, &[]).await.broken.len(), 2);
}

#[tokio::test]
async fn a_dump_that_is_read_into_another_cluster_goes_on_with_the_chain() {
    let world = world().await;
    let cluster = |number: u32| {
        world.database.psql(&format!(
            "CREATE OR REPLACE FUNCTION farm_cluster() RETURNS bigint LANGUAGE sql STABLE AS $$ SELECT {number}::bigint $$"
        ))
    };
    cluster(1);
    world.submit("k1", "linux/amd64", &[]).await;
    let before = sealed(&world).await;
    // Its transactions' numbers are higher than those to come: what it had not sealed is sealed first.
    by_force(
        &world,
        "INSERT INTO audit (principal, token_hint, address, action, subject, xid)
         VALUES ('test', '', '', 'test', 'the last there', 9000000000000)",
    );
    cluster(2);
    world.submit("k2", "linux/amd64", &[]).await;
    let rest = seal(&world).await.unwrap();
    assert_eq!(rest.rows, 1, "{rest:?}");
    sealed(&world).await;
    let found = verified(&world, &[before]).await;
    assert_eq!((found.rows, found.broken.len()), (3, 0));
    assert_eq!((astray(&world), found.outside[0].found.unwrap().rows_after), (String::new(), 2));
}

#[tokio::test]
async fn a_deed_has_one_row_and_what_comes_to_nothing_none() {
    let world = world().await;
    let (store, by) = (&world.store, tester());
    let new = world.new_build("k", "linux/amd64,linux/arm64", &["localhost:5002/app:1"]);
    let build = store.submit(&new).await.unwrap();
    assert!(store.submit(&new).await.unwrap().replayed);
    let mut other = new.clone();
    other.spec.no_cache = true;
    store.submit(&other).await.unwrap_err();
    for _ in 0..2 {
        store.cancel(&by, default_project(), build.id, PUBLISH).await.unwrap();
    }
    store.cancel(&by, default_project(), farm_types::BuildId::generate(), PUBLISH).await.unwrap_err();
    let retry = crate::retrying::retry_of(build, "r", false);
    let again = store.retry(&retry, PUBLISH).await.unwrap();
    assert!(store.retry(&retry, PUBLISH).await.unwrap().replayed);
    let snapshot = new.spec.snapshot.clone();
    assert!(!store.provide_source(&by, default_project(), again.id, &snapshot, LEASE).await.unwrap());
    world.worker("w1", 1).await;
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    store.drain_workers(&by, &names(&["w1", "w2"]), None).await.unwrap().unwrap_err();
    store.drain_workers(&by, &names(&["w1"]), Some(Duration::from_secs(60))).await.unwrap().unwrap();
    store.resume_workers(&by, &names(&["w1"])).await.unwrap().unwrap();
    store.remove_workers(&by, &names(&["w1"])).await.unwrap().unwrap_err();

    let all = Asked { project: None, since: chrono::DateTime::UNIX_EPOCH, before: None, most: 100 };
    let entries = store.audit(&all).await.unwrap();
    let ids: Vec<String> = [build, again]
        .map(|b| world.database.psql(&format!("SELECT short_id FROM builds WHERE id = '{}'", b.id.as_uuid())))
        .into();
    let deeds: Vec<(&str, &str)> =
        entries.iter().rev().map(|entry| (entry.action.as_str(), entry.subject.as_str())).collect();
    assert_eq!(
        deeds,
        [
            ("build.submit", ids[0].as_str()),
            ("build.cancel", &ids[0]),
            ("build.retry", &ids[1]),
            ("worker.drain", "w1"),
            ("worker.resume", "w1"),
        ]
    );
    for entry in &entries {
        assert_eq!(
            (&entry.principal, &entry.token_hint, &entry.address),
            (&by.name, &by.token_hint, &by.address)
        );
        let project = entry.action.starts_with("build").then_some("default");
        assert_eq!(entry.project.as_deref(), project);
    }
    let detail: serde_json::Value = serde_json::from_str(&entries[4].detail).unwrap();
    assert_eq!(detail["platforms"], serde_json::json!(["linux/amd64", "linux/arm64"]));
    assert_eq!(detail["tags"], serde_json::json!(["localhost:5002/app:1"]));
    // Page by page, and of one project.
    let first = store.audit(&Asked { most: 2, ..all }).await.unwrap();
    let before = first.last().map(|entry| (entry.at, entry.id));
    let rest = store.audit(&Asked { before, ..all }).await.unwrap();
    assert_eq!([first, rest].concat(), entries);
    let own = store.audit(&Asked { project: Some(default_project()), ..all }).await.unwrap();
    assert_eq!(own, entries[2..]);
    let late = store.audit(&Asked { since: entries[1].at, ..all }).await.unwrap();
    assert_eq!(late, entries[..2]);
}
