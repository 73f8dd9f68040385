//! Brings the database's schema up to date: at a coordinator's start, or by `farm-coordinator migrate`.

use std::future::Future;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use farm_proto::notify;
use farm_store::schema::{MigrationLimits, Progress, Standing, own_schema, this_farm};
use farm_store::{Store, StoreError};

use crate::config::{Config, Migrate, WhenToMigrate};

/// `migrate --check`: something has to run.
const PENDING: u8 = 3;

/// What the command does. Its exit code is a success when nothing is left to run, or with `--check` [`PENDING`].
///
/// # Errors
/// The database can't be reached in time or doesn't go together with this farm; a migration failed.
pub(crate) async fn command(config: &Config, migrate: &Migrate) -> anyhow::Result<ExitCode> {
    let store = crate::open_store(config)?;
    let standing = patiently(&store, config, || store.standing()).await?;
    say(&told(&standing));
    if standing.pending.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    if migrate.check {
        for step in &standing.pending {
            say(&format!("{step}: to run"));
        }
        if !standing.shut_out.is_empty() {
            say(&format!("coordinators that have to be stopped before: {}", standing.shut_out.join(", ")));
        }
        return Ok(ExitCode::from(PENDING));
    }
    let limits = MigrationLimits {
        migration: migrate.limit,
        patience: migrate.patience,
        ..MigrationLimits::default()
    };
    let tell = |progress: Progress<'_>| match progress {
        Progress::Waits => say("another one migrates this database; waiting for it"),
        Progress::Begins(step) => say(&format!("{step}: running")),
        Progress::Again(step, error) => say(&format!("{step}: no lock ({error}), trying again")),
        Progress::Done(step, took) => say(&format!("{step}: done in {:.1} s", took.as_secs_f64())),
    };
    let standing = store.migrate(limits, tell).await?;
    say(&told(&standing));
    Ok(ExitCode::SUCCESS)
}

/// What a start does: waits for the database, and brings its schema up to date if that isn't left to the command.
///
/// # Errors
/// As [`command`]; or the schema is older than this farm's, and that is left to the command.
pub(crate) async fn at_start(store: &Store, config: &Config) -> anyhow::Result<()> {
    let standing = match config.database_migrate {
        WhenToMigrate::Manual => patiently(store, config, || store.standing()).await?,
        WhenToMigrate::Start => {
            patiently(store, config, || store.migrate(MigrationLimits::default(), log)).await?
        }
    };
    if !standing.pending.is_empty() {
        anyhow::bail!(
            "{}, and `database_migrate` leaves that to you: run `farm-coordinator migrate` with this coordinator's \
             configuration, then start it again",
            told(&standing)
        );
    }
    if standing.schema > own_schema() {
        tracing::info!("{}", told(&standing));
    }
    Ok(())
}

/// Into the log, and to the service manager, which is not to end a start that migrates.
fn log(progress: Progress<'_>) {
    let limits = MigrationLimits::default();
    let told = match &progress {
        Progress::Waits => notify::starting(limits.patience, "another one migrates the database"),
        Progress::Begins(step) | Progress::Again(step, _) => {
            notify::starting(limits.migration + limits.patience, &format!("migration {step}"))
        }
        Progress::Done(..) => Ok(()),
    };
    crate::service_manager::told(told);
    match progress {
        Progress::Waits => tracing::info!("another one migrates the database; waiting for it"),
        Progress::Begins(step) => tracing::info!(migration = %step, "migration begins"),
        Progress::Again(step, error) => {
            tracing::warn!(migration = %step, error, "migration got no lock; trying again");
        }
        Progress::Done(step, took) => {
            tracing::info!(migration = %step, seconds = took.as_secs_f64(), "migrated")
        }
    }
}

/// One line on how the two stand to each other.
fn told(standing: &Standing) -> String {
    let itself = format!("{} has schema {}", this_farm(), own_schema());
    match standing.pending.len() {
        0 if standing.schema > own_schema() => {
            format!("the database has schema {}, {itself} and may run into it", standing.schema)
        }
        0 => format!("the database has schema {}, as {} needs it", standing.schema, this_farm()),
        1 => format!("the database has schema {}, {itself}: 1 migration has to run", standing.schema),
        count => {
            format!("the database has schema {}, {itself}: {count} migrations have to run", standing.schema)
        }
    }
}

fn say(line: &str) {
    // A closed stdout is no reason to stop in the middle.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Does it once the database answers, if that is soon enough.
async fn patiently<T, F: Future<Output = farm_store::Result<T>>>(
    store: &Store,
    config: &Config,
    mut task: impl FnMut() -> F,
) -> anyhow::Result<T> {
    let wait = Duration::from_secs(config.database_wait_seconds);
    let deadline = tokio::time::Instant::now() + wait;
    let mut told = false;
    loop {
        let done = match store.reach().await {
            Ok(()) => task().await,
            Err(error) => Err(error),
        };
        match done {
            Ok(done) => return Ok(done),
            Err(StoreError::Unavailable(error)) if tokio::time::Instant::now() < deadline => {
                if !told {
                    tracing::warn!(%error, "the database does not answer yet; waiting");
                    told = true;
                }
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            Err(StoreError::Unavailable(error)) => anyhow::bail!(
                "the database did not answer within {} s: {error}; start Postgres, or name another with \
                 --database-url",
                wait.as_secs()
            ),
            Err(error) => return Err(error.into()),
        }
    }
}
