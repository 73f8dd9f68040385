//! Runs migrations, on a connection of its own: with limits of its own, and a lock that goes when the connection does.

use std::fmt::Display;
use std::time::Duration;

use sqlx::migrate::{Migrate as _, MigrateError, Migration, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::time::Instant;

use super::{APPLIED, MigrationLimits, Progress, Standing, Step, look};
use crate::{Result, StoreError};

/// What isn't a migration takes no longer, or the database is away.
pub(super) const ANSWER: Duration = Duration::from_secs(20);
/// Between two looks whether a lock is free.
const PAUSE: Duration = Duration::from_millis(500);

/// Brings the database to the schema of `own`, if anything is left to run.
pub(super) async fn run(
    options: &PgConnectOptions,
    own: &Migrator,
    limits: MigrationLimits,
    mut tell: impl FnMut(Progress<'_>) + Send,
) -> Result<Standing> {
    let options = options.clone().application_name("farm-coordinator migrate").options([
        ("statement_timeout", milliseconds(limits.migration)),
        ("lock_timeout", milliseconds(limits.lock)),
        ("idle_in_transaction_session_timeout", "60s".to_owned()),
        // What runs for a command that was killed ends, and with it its lock.
        ("client_connection_check_interval", "5s".to_owned()),
    ]);
    let mut connection = within(ANSWER, async { Ok(PgConnection::connect_with(&options).await?) }).await?;
    let (standing, _) = within(ANSWER, look(&mut connection, own)).await?;
    if standing.pending.is_empty() {
        return Ok(standing);
    }
    lock(&mut connection, limits.patience, &mut tell).await?;
    let session: Session = within(ANSWER, async {
        let own = "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()";
        Ok(sqlx::query_as(own).fetch_one(&mut connection).await?)
    })
    .await?;
    // A migration may take an hour; that a link has fallen silent meanwhile is found out beside it.
    tokio::select! {
        done = steps(&mut connection, own, limits, &mut tell) => done?,
        error = silence(&options, &session, limits.look) => return Err(error),
    }
    within(ANSWER, async {
        let (standing, _) = look(&mut connection, own).await?;
        // Not only with the session, which ends some time after the link is closed: the next one may come at once.
        sqlx::query("SELECT pg_advisory_unlock(hashtext('farm_migrations'))")
            .execute(&mut connection)
            .await?;
        connection.close().await?;
        Ok(standing)
    })
    .await
}

/// A session's process, and when that began: its number alone may be another's by now.
type Session = (i32, String);

/// Looks from time to time, by connections of its own, whether the database still works for this session.
/// Ends when it doesn't, twice in a row, or when it can't be asked: then nobody will hear how that session's statement
/// ended. The session is ended, so that its lock keeps nobody waiting.
async fn silence(options: &PgConnectOptions, (pid, begun): &Session, look: Duration) -> StoreError {
    let mut misses = 0;
    loop {
        tokio::time::sleep(look).await;
        let works = within(ANSWER, async {
            let mut connection = PgConnection::connect_with(options).await?;
            // A session that waits between two tries for a lock is idle for a moment; and a server may not tell states.
            let works: bool = sqlx::query_scalar(
                "SELECT coalesce((SELECT state IN ('active', 'disabled') OR state_change > clock_timestamp() - $2::interval
                                  FROM pg_stat_activity WHERE pid = $1 AND backend_start::text = $3), false)",
            )
            .bind(pid)
            .bind(format!("{} ms", look.as_millis()))
            .bind(begun)
            .fetch_one(&mut connection)
            .await?;
            if !works && misses > 0 {
                sqlx::query(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE pid = $1 AND backend_start::text = $2",
                )
                .bind(pid)
                .bind(begun)
                .execute(&mut connection)
                .await?;
            }
            connection.close().await?;
            Ok(works)
        });
        misses = match works.await {
            Ok(false) => misses + 1,
            // It has answered, if only that it takes no more connections now.
            Ok(true) => 0,
            Err(error) if error.is_answered() => 0,
            Err(_) => misses + 1,
        };
        if misses > 1 {
            return StoreError::Unavailable(sqlx::Error::PoolTimedOut);
        }
    }
}

/// A database that says nothing for so long is away. The connection is of no more use then.
pub(super) async fn within<T>(limit: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(done) => done,
        Err(_) => Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut)),
    }
}

/// Only one migrates at a time. Not by waiting in the database: a session that waits there holds up the indexes that are made
/// CONCURRENTLY, which wait for every other session's statement.
async fn lock(
    connection: &mut PgConnection,
    patience: Duration,
    tell: &mut impl FnMut(Progress<'_>),
) -> Result<()> {
    let deadline = Instant::now() + patience;
    let mut told = false;
    loop {
        let ask = sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtext('farm_migrations'))");
        if within(ANSWER, async { Ok(ask.fetch_one(&mut *connection).await?) }).await? {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(StoreError::Conflict(format!(
                "another one has been migrating this database for {patience:?}; see what it does in its log or in \
                 pg_stat_activity (application_name \"farm-coordinator migrate\")"
            )));
        }
        if !std::mem::replace(&mut told, true) {
            tell(Progress::Waits);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn steps(
    connection: &mut PgConnection,
    own: &Migrator,
    limits: MigrationLimits,
    tell: &mut impl FnMut(Progress<'_>),
) -> Result<()> {
    let (standing, pending) = within(ANSWER, async {
        connection.ensure_migrations_table(APPLIED).await?;
        look(connection, own).await
    })
    .await?;
    if let Some(last) = pending.last()
        && !standing.shut_out.is_empty()
    {
        return Err(StoreError::Conflict(format!(
            "the schema would be {} then, which shuts out coordinators that run now: {}; stop them first",
            last.version,
            standing.shut_out.join(", ")
        )));
    }
    for migration in &pending {
        step(connection, migration, limits, tell).await?;
    }
    if !pending.is_empty() {
        let note = sqlx::query("UPDATE schema_compat SET migrated_by = $1").bind(super::this_farm());
        within(ANSWER, async { Ok(note.execute(connection).await?) }).await?;
    }
    Ok(())
}

/// One migration, tried again while it gets no lock.
async fn step(
    connection: &mut PgConnection,
    migration: &Migration,
    limits: MigrationLimits,
    tell: &mut impl FnMut(Progress<'_>),
) -> Result<()> {
    let step = Step::from(migration);
    tell(Progress::Begins(&step));
    let begun = Instant::now();
    loop {
        if migration.no_tx {
            // It waits for others' transactions, and nobody waits behind it.
            set_lock_timeout(connection, limits.migration).await?;
            within(limits.migration, remove_invalid_indexes(connection, migration)).await?;
        }
        // The server's own limit is for a statement; and it may be the server that says nothing.
        let limit = limits.migration + Duration::from_secs(5);
        let Ok(applied) = tokio::time::timeout(limit, connection.apply(APPLIED, migration)).await else {
            return Err(too_long(&step, limits));
        };
        let Err(error) = applied else { break };
        match sqlstate(&error).as_deref() {
            // No lock in time, or chosen to break a tie.
            Some("55P03" | "40P01") if begun.elapsed() < limits.patience => {
                tell(Progress::Again(&step, &error.to_string()));
                tokio::time::sleep(PAUSE).await;
            }
            Some("55P03" | "40P01") => {
                return Err(failed(
                    &step,
                    &format_args!(
                        "it got no lock in {:?} ({error}); see who holds one in pg_stat_activity",
                        limits.patience
                    ),
                ));
            }
            Some("57014") => return Err(too_long(&step, limits)),
            _ => return Err(error.into()),
        }
    }
    if migration.no_tx {
        set_lock_timeout(connection, limits.lock).await?;
    }
    tell(Progress::Done(&step, begun.elapsed()));
    Ok(())
}

/// What a `CREATE INDEX CONCURRENTLY` that failed has left behind; `IF NOT EXISTS` would take it for the index.
async fn remove_invalid_indexes(connection: &mut PgConnection, migration: &Migration) -> Result<()> {
    let invalid: Vec<(String, String)> = sqlx::query_as(
        "SELECT c.relname::text, i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
         WHERE NOT i.indisvalid",
    )
    .fetch_all(&mut *connection)
    .await?;
    let is_named = |name: &str| {
        migration.sql.as_str().split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == name)
    };
    for (_, index) in invalid.iter().filter(|(name, _)| is_named(name)) {
        sqlx::query(AssertSqlSafe(format!("DROP INDEX CONCURRENTLY {index}")))
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

async fn set_lock_timeout(connection: &mut PgConnection, limit: Duration) -> Result<()> {
    let set = sqlx::query("SELECT set_config('lock_timeout', $1, false)").bind(milliseconds(limit));
    within(ANSWER, async { Ok(set.execute(connection).await?) }).await?;
    Ok(())
}

fn milliseconds(duration: Duration) -> String {
    duration.as_millis().to_string()
}

fn sqlstate(error: &MigrateError) -> Option<String> {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else {
        return None;
    };
    Some(error.as_database_error()?.code()?.into_owned())
}

fn failed(step: &Step, why: &dyn Display) -> StoreError {
    StoreError::Conflict(format!("migration {step} did not run, and is undone: {why}"))
}

fn too_long(step: &Step, limits: MigrationLimits) -> StoreError {
    failed(
        step,
        &format_args!(
            "it was not done in {:?}; give it longer with `farm-coordinator migrate --limit`",
            limits.migration
        ),
    )
}
