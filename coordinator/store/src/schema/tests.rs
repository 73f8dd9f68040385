//! The order of things, with migrations that are made for it; on the test bed's Postgres.

use std::borrow::Cow;
use std::str::FromStr as _;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::migrate::MigrationType;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Executor as _, SqlSafeStr as _};

use super::*;

const COMPAT: &str =
    "CREATE FUNCTION farm_now() RETURNS timestamptz LANGUAGE sql AS 'SELECT clock_timestamp()';
    CREATE TABLE coordinators (address text, last_seen timestamptz, runs_schema integer);
    CREATE TABLE things (id integer, told text);
    CREATE TABLE schema_compat (oldest integer NOT NULL, migrated_by text NOT NULL DEFAULT '');
    INSERT INTO schema_compat (oldest) VALUES (23);";

fn farm(more: &[(i64, &str)]) -> Migrator {
    let all = [&[(FIRST_COMPAT, COMPAT)], more].concat();
    let migrations = all.into_iter().map(|(number, sql)| {
        let no_tx = sql.starts_with("-- no-transaction");
        let text = AssertSqlSafe(sql.to_owned()).into_sql_str();
        Migration::new(number, Cow::Owned(format!("number {number}")), MigrationType::Simple, text, no_tx)
    });
    Migrator::with_migrations(migrations.collect())
}

/// An empty database in the test bed, which goes as a whole.
async fn database() -> PgConnectOptions {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let url =
        std::env::var("FARM_TEST_DATABASE_URL").expect("these tests need the test bed: tests/run.sh store");
    let server = PgConnectOptions::from_str(&url).unwrap();
    let name = format!("schema_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let mut connection = PgConnection::connect_with(&server).await.unwrap();
    connection.execute(AssertSqlSafe(format!("CREATE DATABASE {name} STRATEGY wal_log"))).await.unwrap();
    server.database(&name)
}

async fn session(database: &PgConnectOptions) -> PgConnection {
    PgConnection::connect_with(database).await.unwrap()
}

const QUICK: MigrationLimits = MigrationLimits {
    migration: Duration::from_secs(20),
    lock: Duration::from_millis(50),
    patience: Duration::from_secs(20),
    look: Duration::from_secs(30),
};

async fn migrate(database: &PgConnectOptions, own: &Migrator) -> Result<Standing> {
    run::run(database, own, QUICK, |_| {}).await
}

fn refusal<T: std::fmt::Debug>(result: Result<T>) -> String {
    match result {
        Err(StoreError::Conflict(text)) => text,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn an_older_farm_runs_into_a_newer_schema_that_lets_it() {
    let database = database().await;
    let older = farm(&[]);
    let newer = farm(&[(24, "ALTER TABLE things ADD COLUMN more text")]);
    let made = migrate(&database, &newer).await.unwrap();
    assert_eq!((made.schema, made.oldest, made.pending.len()), (24, Some(23), 0));
    let standing = migrate(&database, &older).await.unwrap();
    assert_eq!((standing.schema, standing.pending.len()), (24, 0));
}

#[tokio::test]
async fn one_that_is_shut_out_is_told_its_own_schema_the_databases_the_oldest_and_the_cure() {
    let database = database().await;
    let breaking =
        "-- breaks: 24, things are told elsewhere\nUPDATE schema_compat SET oldest = greatest(oldest, 24);
                    ALTER TABLE things DROP COLUMN told";
    migrate(&database, &farm(&[(24, "SELECT 1"), (25, breaking)])).await.unwrap();
    let text = refusal(migrate(&database, &farm(&[])).await);
    let by = format!("schema 25, migrated by {}", this_farm());
    for part in ["schema 23", &by, "coordinators of schema 24 or newer", "start a newer farm-coordinator"] {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
    let between = migrate(&database, &farm(&[(24, "SELECT 1")])).await.unwrap();
    assert_eq!((between.schema, between.oldest), (25, Some(24)));
}

#[tokio::test]
async fn another_line_of_farm_and_a_changed_migration_are_refused() {
    let database = database().await;
    migrate(&database, &farm(&[(25, "SELECT 25")])).await.unwrap();
    let text = refusal(migrate(&database, &farm(&[(24, "SELECT 24")])).await);
    assert!(text.contains("another line of farm") && text.contains("0024 (number 24)"), "{text}");
    let text = refusal(migrate(&database, &farm(&[(25, "SELECT 26")])).await);
    assert!(text.contains("0025 (number 25)") && text.contains("another text"), "{text}");
}

#[tokio::test]
async fn coordinators_that_run_are_not_shut_out_under_way() {
    let database = database().await;
    migrate(&database, &farm(&[])).await.unwrap();
    let mut session = session(&database).await;
    let lives = "INSERT INTO coordinators VALUES ('http://old:7070', farm_now(), 23), ('http://gone:7070', \
                 farm_now() - interval '1 minute', 23)";
    session.execute(lives).await.unwrap();
    let newer = farm(&[(24, "-- breaks: 24, why\nUPDATE schema_compat SET oldest = greatest(oldest, 24)")]);
    let text = refusal(migrate(&database, &newer).await);
    assert!(text.contains("http://old:7070 (schema 23)") && !text.contains("gone"), "{text}");
    session.execute("UPDATE coordinators SET runs_schema = 24").await.unwrap();
    assert_eq!(migrate(&database, &newer).await.unwrap().schema, 24);
}

#[tokio::test]
async fn a_migration_waits_for_a_lock_in_short_tries_and_gives_up_in_the_end() {
    let database = database().await;
    migrate(&database, &farm(&[])).await.unwrap();
    let newer = farm(&[(24, "ALTER TABLE things ADD COLUMN more text")]);
    let mut holder = session(&database).await;
    let mut holding = holder.begin().await.unwrap();
    holding.execute("LOCK TABLE things IN ACCESS SHARE MODE").await.unwrap();
    let impatient = MigrationLimits { patience: Duration::ZERO, ..QUICK };
    let text = refusal(run::run(&database, &newer, impatient, |_| {}).await);
    assert!(text.contains("0024 (number 24)") && text.contains("got no lock"), "{text}");
    // The first try that gets no lock lets the holder go.
    let (tried, mut again) = tokio::sync::mpsc::unbounded_channel();
    let release = async {
        again.recv().await.unwrap();
        holding.commit().await.unwrap();
    };
    let migrated = run::run(&database, &newer, QUICK, |progress| {
        if matches!(progress, Progress::Again(..)) {
            let _ = tried.send(());
        }
    });
    let (migrated, ()) = tokio::join!(migrated, release);
    assert_eq!(migrated.unwrap().schema, 24);
}

#[tokio::test]
async fn a_migration_that_takes_too_long_or_fails_is_undone_and_named() {
    let database = database().await;
    migrate(&database, &farm(&[])).await.unwrap();
    let slow = farm(&[(24, "ALTER TABLE things ADD COLUMN more text; SELECT pg_sleep(60)")]);
    let limits = MigrationLimits { migration: Duration::from_millis(200), ..QUICK };
    let text = refusal(run::run(&database, &slow, limits, |_| {}).await);
    assert!(text.contains("0024 (number 24)") && text.contains("--limit"), "{text}");
    let wrong = farm(&[(24, "ALTER TABLE things ADD COLUMN more text; SELECT nothing_of_the_kind()")]);
    let text = refusal(migrate(&database, &wrong).await);
    assert!(text.contains("migration 0024") && text.contains("nothing_of_the_kind"), "{text}");
    let right = farm(&[(24, "ALTER TABLE things ADD COLUMN more text")]);
    assert_eq!(migrate(&database, &right).await.unwrap().schema, 24);
}

#[tokio::test]
async fn an_index_that_failed_half_way_is_made_anew() {
    let database = database().await;
    migrate(&database, &farm(&[])).await.unwrap();
    let mut session = session(&database).await;
    session.execute("INSERT INTO things VALUES (1), (1)").await.unwrap();
    let newer = farm(&[(
        24,
        "-- no-transaction\nCREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS things_by_id ON things (id)",
    )]);
    let text = refusal(migrate(&database, &newer).await);
    assert!(text.contains("migration 0024"), "{text}");
    session.execute("DELETE FROM things").await.unwrap();
    assert_eq!(migrate(&database, &newer).await.unwrap().schema, 24);
    let is_valid: bool =
        sqlx::query_scalar("SELECT indisvalid FROM pg_index WHERE indexrelid = 'things_by_id'::regclass")
            .fetch_one(&mut session)
            .await
            .unwrap();
    assert!(is_valid);
}

#[tokio::test]
async fn two_that_migrate_at_once_run_each_migration_once() {
    let database = database().await;
    let own = farm(&[(24, "SELECT pg_sleep(0.3)"), (25, "ALTER TABLE things ADD COLUMN more text")]);
    let (one, other) = tokio::join!(migrate(&database, &own), migrate(&database, &own));
    assert_eq!((one.unwrap().schema, other.unwrap().schema), (25, 25));
}

#[test]
fn the_first_line_says_what_a_migration_breaks() {
    assert_eq!(breaks("-- breaks: 24, why\nSELECT 1"), Some(24));
    assert_eq!(breaks("-- no-transaction\n-- breaks:  7"), Some(7));
    assert_eq!(breaks("SELECT 1 -- breaks: 24"), None);
    assert!(may_run(own_schema()).is_ok());
    let text = refusal(may_run(own_schema() + 1));
    assert!(text.contains(&format!("schema {} or newer", own_schema() + 1)), "{text}");
}
