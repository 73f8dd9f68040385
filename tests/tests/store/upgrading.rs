//! A database of an older farm, with rows in every table: migrated, then read and written by this one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use farm_store::builds::record::BuildRecord;
use farm_store::builds::submit::Submitted;
use farm_store::logs::events::{Chunk, StreamPart};
use farm_store::machines::workers::Sign;
use farm_store::publish::destinations::Claim;
use farm_store::publish::garbage::Cleaned;
use farm_store::schema::{MigrationLimits, own_schema};
use farm_store::work::attempts::Lease;
use farm_store::work::finish::Outcome;
use farm_store::{Limits, Store, StoreError, default_project};
use farm_tests::database::Database;
use farm_tests::line::Line;
use farm_tests::session::Session;
use farm_types::state::{BuildState, JobState, TagState};
use farm_types::{Digest, WorkerId};

use crate::fixture::{LEASE, LIMITS, PUBLISH, World, index, success, tester, world_in};
use crate::publishing::put;
use crate::retrying::retry_of;
use crate::sealing::piece;

/// The schema of commit 9c3ec52.
const OLD: i64 = 13;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A database as that farm left it, a moment ago.
fn old_database() -> Database {
    let database = Database::empty();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let migrations = std::fs::read_dir(folder.join("../coordinator/store/migrations")).unwrap();
    let mut migrations: Vec<PathBuf> = migrations.map(|entry| entry.unwrap().path()).collect();
    migrations.sort();
    let number =
        |path: &PathBuf| -> i64 { path.file_name().unwrap().to_str().unwrap()[..4].parse().unwrap() };
    migrations.retain(|path| number(path) <= OLD);
    database.psql_files(&migrations);
    database.psql(
        "CREATE TABLE _sqlx_migrations (version bigint PRIMARY KEY, description text NOT NULL,
             installed_on timestamptz NOT NULL DEFAULT now(), success boolean NOT NULL, checksum bytea NOT NULL,
             execution_time bigint NOT NULL);
         TRUNCATE farm_clock, leader, projects CASCADE",
    );
    database.psql_files(&[folder.join("fixtures/schema-0013.sql")]);
    assert_eq!(empty_tables(&database), BTreeSet::new(), "a table without rows proves nothing");
    database.psql(
        "UPDATE farm_clock SET shift = (SELECT max(at) FROM events) - clock_timestamp();
         UPDATE leader SET expires_at = farm_now()",
    );
    database
}

fn empty_tables(database: &Database) -> BTreeSet<String> {
    let tables = database.psql(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition
         AND relnamespace = 'public'::regnamespace",
    );
    let each = tables.lines().map(|table| format!("SELECT '{table}' WHERE NOT EXISTS (SELECT FROM {table})"));
    let empty = database.psql(&each.collect::<Vec<_>>().join(" UNION ALL "));
    empty.lines().map(str::to_owned).collect()
}

async fn upgraded() -> World {
    world_in(old_database()).await
}

/// The build of this key of idempotency.
async fn build(world: &World, key: &str) -> BuildRecord {
    world.store.build_by_id(default_project(), submitted(world, key).id).await.unwrap()
}

fn submitted(world: &World, key: &str) -> Submitted {
    let row = world.database.psql(&format!("SELECT id FROM builds WHERE idempotency_key = '{key}'"));
    Submitted { id: row.parse().unwrap(), replayed: true }
}

/// The live lease of a build's only attempt.
fn lease_of(world: &World, build: &BuildRecord) -> Lease {
    let attempt = build.jobs[0].attempts[0].id;
    let token = world.database.psql(&format!("SELECT lease_token FROM attempts WHERE id = '{attempt}'"));
    Lease { attempt, token: token.parse().unwrap(), holder: None }
}

/// Merges and publishes what is due of a build, as `what`.
async fn publish(world: &World, key: &str, what: &str) {
    let id = submitted(world, key).id;
    if let Some(due) = world.store.due_merges(100).await.unwrap().into_iter().find(|due| due.build == id) {
        if due.spec.tags.is_empty() {
            return world.store.finish_unpublished(world.epoch, due.project, id).await.unwrap();
        }
        world.store.keep_publication(world.epoch, &due, &index(what), &[]).await.unwrap();
    }
    let destinations = world.store.due_destinations(100).await.unwrap();
    for destination in destinations.iter().filter(|d| d.bytes == what.as_bytes()) {
        world.store.destination_pushed(world.epoch, destination).await.unwrap();
        for tag in &destination.tags {
            put(world, destination, tag).await;
        }
    }
}

/// Before, it was waited for as long as a migration may take: an hour.
#[tokio::test]
async fn a_link_that_falls_silent_within_a_migration_is_found_out_and_the_next_one_does_it() {
    let database = old_database();
    let mut holder = Session::open(database.url());
    holder.ask("BEGIN; LOCK TABLE builds, jobs, attempts, executions; SELECT 1");
    let line = Line::to(database.url());
    let store = Store::open(&line.url(database.url()), LIMITS).unwrap();
    let limits = MigrationLimits {
        lock: Duration::from_secs(60),
        look: Duration::from_millis(300),
        ..MigrationLimits::default()
    };
    let migration = tokio::spawn(async move { store.migrate(limits, |_| {}).await });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
                 AND datname = current_database() AND application_name = 'farm-coordinator migrate'";
    let deadline = Instant::now() + Duration::from_secs(60);
    while database.psql(waits) == "0" {
        assert!(Instant::now() < deadline && !migration.is_finished(), "no migration needs these tables");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    line.die_after(0);
    line.mend(true);
    holder.ask("COMMIT; SELECT 1");
    let ended = tokio::time::timeout(Duration::from_secs(60), migration).await.expect("it waits on").unwrap();
    assert!(matches!(ended, Err(StoreError::Unavailable(_))), "{ended:?}");
    let store = Store::open(database.url(), LIMITS).unwrap();
    let standing = store.migrate(MigrationLimits::default(), |_| {}).await.unwrap();
    assert_eq!((standing.pending.len(), standing.schema), (0, own_schema()));
}

#[tokio::test]
async fn all_of_an_older_database_is_read() {
    let database = old_database();
    let before = database.psql("SELECT id, state FROM builds ORDER BY id DESC");
    let store = Store::open(database.url(), Limits { connections: 2, ..LIMITS }).unwrap();
    let standing = store.standing().await.unwrap();
    assert_eq!((standing.schema, standing.oldest), (OLD, None));
    assert_eq!(standing.pending.last().map(|step| step.number), Some(own_schema()));

    let world = world_in(database).await;
    let standing = store.standing().await.unwrap();
    assert!(standing.schema == own_schema() && standing.pending.is_empty() && standing.oldest.is_some());
    let project = default_project();
    let builds = world.store.builds(project, (&[], true), None, 100).await.unwrap().builds;
    let after: Vec<String> = builds.iter().map(|b| format!("{}|{}", b.id, b.state)).collect();
    assert_eq!(after.join("\n"), before);
    for listed in &builds {
        let record = world.store.build_by_id(project, listed.id).await.unwrap();
        assert!(!record.jobs.is_empty() && record.spec == listed.spec);
        assert_eq!(world.store.version(project, record.id).await.unwrap().1, record.state);
        for stream in world.store.streams(project, record.id).await.unwrap() {
            world.store.stream_part(project, stream.attempt, 0, 10).await.unwrap();
        }
        assert!(record.state != BuildState::Failed || record.failure.is_some());
    }

    let part = async |key: &str, after| {
        let attempt = build(&world, key).await.jobs[0].attempts[0].id;
        world.store.stream_part(project, attempt, after, 10).await.unwrap()
    };
    let chunks = |of: &[(u64, &str)]| {
        StreamPart::Chunks(
            of.iter().map(|(seq, text)| Chunk { seq: *seq, payload: (*text).into() }).collect(),
        )
    };
    assert!(matches!(part("sealed", 0).await, StreamPart::Sealed(piece) if piece.last_seq == 2));
    assert_eq!(part("sealed", 2).await, chunks(&[(3, "three")]));
    assert_eq!(part("unsealed", 0).await, chunks(&[(1, "one"), (2, "two")]));
    assert_eq!(part("running", 0).await, chunks(&[(1, "as far as this")]));
    assert!(matches!(part("log-removed", 0).await, StreamPart::Removed(_)));

    let published = build(&world, "published").await;
    let destinations = &published.publication.as_ref().unwrap().destinations;
    let tags: Vec<_> = destinations.iter().flat_map(|d| &d.tags).collect();
    assert_eq!(destinations.len(), 2);
    assert!(tags.len() == 3 && tags.iter().all(|tag| tag.state == TagState::Verified));
    let made = world.store.build_that_made(project, Digest::of(b"published")).await.unwrap().unwrap();
    assert_eq!(made.id, published.id);
    let capitals = build(&world, "capitals").await.publication.unwrap();
    assert_eq!(capitals.destinations[0].repository, "localhost:5002/app");
    let retry = build(&world, "retry-queued").await;
    assert_eq!(retry.retry_of, Some(build(&world, "half").await.short_id));
    assert!(retry.jobs[0].taken_from.is_some() && retry.jobs[1].state == JobState::Ready);
    let lent = &build(&world, "offered").await.jobs[0].attempts[0];
    assert_eq!(lent.support.to_string(), "emulated");

    let workers = world.store.workers().await.unwrap();
    let worker = |name: &str| workers.iter().find(|worker| worker.name == name);
    assert!(worker("w-removed").is_none() && worker("w-drained").unwrap().drained_at.is_some());
    assert!(worker("w-quarantined").unwrap().quarantined_at.is_some());
    assert_eq!(worker("w-probation").unwrap().probation_why, "it failed");
    assert_eq!(worker("w-away").unwrap().withdrawn_why, "its engine is away");
    assert!(workers.iter().all(|worker| worker.offers.len() == 2));
    let tree = published.spec.snapshot.tree_id;
    assert_eq!(world.store.roots(project, tree).await.unwrap()[0].name, "dockerfile");
    let file = Digest::of(b"file");
    assert_eq!(world.store.locate(project, &[file]).await.unwrap()[&file].size, 4);
}

#[tokio::test]
async fn what_was_under_way_goes_on_and_new_work_comes_in() {
    let world = upgraded().await;
    // What runs is known again by its worker's next sign, and ends.
    let running = build(&world, "running").await;
    let lease = lease_of(&world, &running);
    let worker: WorkerId =
        world.database.psql("SELECT id FROM workers WHERE name = 'w-busy'").parse().unwrap();
    let sign = Sign { worker, connection: world.connection(worker), tokens: vec![lease.token.as_uuid()] };
    world.store.heartbeats(world.coordinator, &[sign], LEASE).await.unwrap();
    assert_eq!(world.store.append_chunk(lease, 2, b"and on").await.unwrap(), 2);
    world.finish(lease, success("running")).await.unwrap();
    publish(&world, "running", "running").await;
    let lease = lease_of(&world, &build(&world, "offered").await);
    world.store.attempt_started(lease).await.unwrap();
    world.finish(lease, success("offered")).await.unwrap();
    publish(&world, "offered", "offered").await;
    let lease = lease_of(&world, &build(&world, "cancelling").await);
    world.finish(lease, Outcome::Stopped).await.unwrap();
    // What was built is published; what waits is scheduled.
    publish(&world, "merging", "merging").await;
    publish(&world, "publishing", "publishing").await;
    let waiting = world.store.schedule_state(10, &[]).await.unwrap().waiting;
    let wanted: BTreeSet<_> = waiting.iter().map(|job| job.job).collect();
    let (idle, _) = world.worker("w-new", 8).await;
    for (key, jobs) in [("queued", &[0, 1][..]), ("retry-queued", &[1]), ("again", &[0])] {
        for job in jobs {
            let build = submitted(&world, key);
            let id = world.build(build).await.jobs[*job].id;
            assert!(wanted.contains(&id) || key == "again", "{key}: it waits for its next try");
            let lease = world.lease(build, *job, idle).await;
            world.finish(lease, success(key)).await.unwrap();
        }
        publish(&world, key, key).await;
    }
    for key in ["running", "offered", "merging", "publishing", "queued", "retry-queued", "again"] {
        assert_eq!(build(&world, key).await.state, BuildState::Succeeded, "{key}");
    }
    assert_eq!(build(&world, "cancelling").await.state, BuildState::Cancelled);
    // A tag that an older put may still come to is looked at.
    world.pass("61 s");
    let recheck = world.store.due_rechecks(10).await.unwrap().into_iter().find(|r| r.tag == "8").unwrap();
    assert_eq!(recheck.wanted.as_ref().map(|wanted| wanted.digest), Some(Digest::of(b"newer")));
    world.store.rechecked(world.epoch, &recheck, false, None, LEASE).await.unwrap();

    // What has ended stays as it is, and a new build passes its tags.
    let tags = ["localhost:5002/app:1"];
    world
        .store
        .cancel(&tester(), default_project(), submitted(&world, "published").id, PUBLISH)
        .await
        .unwrap();
    assert_eq!(build(&world, "published").await.state, BuildState::Succeeded);
    let new = world.submit("new", "linux/amd64", &tags).await;
    let lease = world.lease(new, 0, idle).await;
    world.finish(lease, success("new")).await.unwrap();
    let due = world.store.due_merges(10).await.unwrap().into_iter().find(|due| due.build == new.id).unwrap();
    world.store.keep_publication(world.epoch, &due, &index("new"), &[]).await.unwrap();
    let destinations = world.store.due_destinations(10).await.unwrap();
    let destination = destinations.iter().find(|d| d.bytes == b"new").unwrap();
    world.store.destination_pushed(world.epoch, destination).await.unwrap();
    assert_eq!(put(&world, destination, "1").await, Claim::Granted);
    assert_eq!(world.state(new).await, BuildState::Succeeded);
    let again = world.store.retry(&retry_of(submitted(&world, "half"), "r", true), PUBLISH).await.unwrap();
    assert!(world.build(again).await.jobs[0].taken_from.is_some());
    world.store.resume_workers(&tester(), &["w-drained".to_owned()]).await.unwrap().unwrap();
    world.worker("w-busy", 2).await;
}

#[tokio::test]
async fn what_is_old_goes_from_an_older_database_as_from_a_new_one() {
    let world = upgraded().await;
    let (epoch, project) = (world.epoch, default_project());
    let attempts = world.store.unsealed(Duration::ZERO, &[], 100).await.unwrap();
    let sealed = build(&world, "unsealed").await.jobs[0].attempts[0].id;
    let attempt = attempts.iter().find(|attempt| attempt.attempt == sealed).unwrap();
    world.store.seal(epoch, attempt, &piece(&world, 1, 2).await).await.unwrap();
    // Nobody does anything any more.
    world.pass("30 days");
    while world.store.reap(epoch, PUBLISH, 0.0).await.unwrap() > 0 {}
    world.store.end_overdue_queues(epoch, PUBLISH).await.unwrap();
    world.store.end_overdue_builds(epoch).await.unwrap();
    for due in world.store.due_merges(100).await.unwrap() {
        world.store.finish_unpublished(epoch, project, due.build).await.unwrap();
    }
    world.store.end_overdue_publications(epoch).await.unwrap();
    let open = world.database.psql("SELECT idempotency_key, state FROM builds WHERE finished_at IS NULL");
    assert_eq!(open, "");
    world.pass("30 days");
    let repository = "localhost:5002/app".parse().unwrap();
    let cleaning = world.store.begin_cleaning(epoch, &repository, DAY, LEASE, LEASE).await.unwrap().unwrap();
    assert!(cleaning.garbage.contains(&Digest::of(b"half")), "it failed, and nobody took it over to its end");
    let cleaned = Cleaned { removed: cleaning.garbage, ..Cleaned::default() };
    world.store.end_cleaning(epoch, &repository, &cleaned, LEASE).await.unwrap();
    while world.store.remove_logs(epoch, DAY, 100).await.unwrap() > 0 {}
    world.database.psql("UPDATE tag_heads SET recheck_at = NULL");
    loop {
        let mut removed = 0;
        for (project, execution) in world.store.removable_executions(DAY, 100).await.unwrap() {
            removed += world.store.remove_execution(epoch, project, execution, DAY).await.unwrap();
        }
        if removed == 0 {
            break;
        }
    }
    world.store.forget_uploads(epoch, DAY, 100).await.unwrap();
    world.store.remove_snapshots(epoch, DAY, 100).await.unwrap();
    let objects = world.store.all_objects(project).await.unwrap();
    for object in &objects {
        world.store.remove_objects(epoch, project, &[object.digest]).await.unwrap();
    }
    world.store.doom_unneeded(epoch, DAY, 100).await.unwrap();
    let doomed = world.store.doomed(&[], 100).await.unwrap();
    world.store.buried(&doomed).await.unwrap();
    for day in world.store.past_log_partitions().await.unwrap() {
        world.store.drop_log_partition(epoch, day).await.unwrap();
    }
    world.store.forget_coordinators().await.unwrap();
    let empty = empty_tables(&world.database);
    let gone = "attempt_chunks attempts blobs builds destinations doomed_blobs events executions job_dependencies jobs \
                objects publications sealed_logs snapshot_roots snapshots step_timings tags upload_pins uploads";
    let left: Vec<&str> = gone.split(' ').filter(|table| !empty.contains(*table)).collect();
    assert!(left.is_empty(), "{left:?}");
    // What was put in registries stays known.
    assert!(["pushed_digests", "put_indexes", "tag_heads", "cleanings"].iter().all(|t| !empty.contains(*t)));
}
