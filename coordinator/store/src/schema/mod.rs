//! The schema: what this farm brings, what the database has, and whether the two go together.
//!
//! A farm's schema is the number of its newest migration. A coordinator runs into a database with a newer schema than its own
//! as long as the database says so: the row of `schema_compat` has the oldest schema that may. A migration that shuts older
//! coordinators out raises it in its own transaction, and its first line says the same (`-- breaks: N`). sqlx's own runner only
//! knows to refuse every unknown migration or none, so the order of things is ours ([`run`]).
//!
//! Queries here are no macros: they run before it is known which tables there are.

#[cfg(test)]
mod rules;
mod run;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use sqlx::migrate::{AppliedMigration, Migrate as _, Migration, Migrator};
use sqlx::{Connection as _, PgConnection, PgExecutor};

use crate::{Result, Store, StoreError, Tx};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Where sqlx notes what has run.
const APPLIED: &str = "_sqlx_migrations";
/// The migration that brought `schema_compat` and `coordinators.runs_schema`.
const FIRST_COMPAT: i64 = 23;
/// A coordinator that was seen so lately runs.
const RUNS: &str = "10 seconds";

/// The schema of this farm: the number of its newest migration.
pub fn own_schema() -> i64 {
    newest(&MIGRATIONS)
}

/// This farm, as messages name it.
pub fn this_farm() -> String {
    format!("farm-coordinator {}", env!("CARGO_PKG_VERSION"))
}

/// A migration that is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its number.
    pub number: i64,
    /// What its file is called.
    pub words: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04} ({})", self.number, self.words)
    }
}

impl From<&Migration> for Step {
    fn from(migration: &Migration) -> Self {
        Self { number: migration.version, words: migration.description.to_string() }
    }
}

/// How a database stands to this farm, if the two go together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The database's schema: the number of the newest migration that has run; 0: none has.
    pub schema: i64,
    /// The oldest schema whose coordinators may run into it; `None`: it doesn't say yet.
    pub oldest: Option<i64>,
    /// What this farm has to run, in order.
    pub pending: Vec<Step>,
    /// Coordinators that run now and may not any more when that is done: their addresses and schemas.
    pub shut_out: Vec<String>,
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct MigrationLimits {
    /// One migration.
    pub migration: Duration,
    /// One wait for the lock of a table; whoever wants the same table waits behind it for so long.
    pub lock: Duration,
    /// All tries of one migration that gets no lock; and the wait for another one who migrates.
    pub patience: Duration,
    /// Between two looks whether the database still works at a migration.
    pub look: Duration,
}

impl Default for MigrationLimits {
    fn default() -> Self {
        Self {
            migration: Duration::from_secs(3600),
            lock: Duration::from_secs(3),
            patience: Duration::from_secs(600),
            look: Duration::from_secs(30),
        }
    }
}

/// What happens while migrations run.
#[derive(Debug)]
pub enum Progress<'a> {
    /// Another coordinator or command migrates; it is waited for.
    Waits,
    /// A migration begins.
    Begins(&'a Step),
    /// It got no lock, in Postgres' words, and is tried again.
    Again(&'a Step, &'a str),
    /// It has run, and took so long.
    Done(&'a Step, Duration),
}

impl Store {
    /// Looks how the database stands to this farm, and changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: the two don't go together. Else the database can't be reached.
    pub async fn standing(&self) -> Result<Standing> {
        run::within(run::ANSWER, async {
            let mut connection = PgConnection::connect_with(&self.options).await?;
            let (standing, _) = look(&mut connection, &MIGRATIONS).await?;
            connection.close().await?;
            Ok(standing)
        })
        .await
    }

    /// Brings the schema up to date; safe from several coordinators at once. Dropped or killed, it leaves the migration that
    /// was running undone.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: database and farm don't go together, a migration failed or took too long, or coordinators run
    /// that it would shut out. Else the database can't be reached.
    pub async fn migrate(
        &self,
        limits: MigrationLimits,
        tell: impl FnMut(Progress<'_>) + Send,
    ) -> Result<Standing> {
        run::run(&self.options, &MIGRATIONS, limits, tell).await
    }
}

/// Whether a coordinator of this farm may still run into a database that says so.
pub(crate) fn may_run(oldest: i64) -> Result<()> {
    if oldest <= own_schema() {
        return Ok(());
    }
    Err(StoreError::Conflict(format!(
        "{}: the database was migrated meanwhile and takes coordinators of schema {oldest} or newer only; start a newer \
         farm-coordinator",
        itself(&MIGRATIONS)
    )))
}

/// What the row of `schema_compat` says.
struct Compat {
    oldest: i64,
    migrated_by: String,
}

/// Reads what has run and compares.
async fn look<'m>(
    connection: &mut PgConnection,
    own: &'m Migrator,
) -> Result<(Standing, Vec<&'m Migration>)> {
    let is_there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(APPLIED)
        .fetch_one(&mut *connection)
        .await?;
    let applied = if is_there { connection.list_applied_migrations(APPLIED).await? } else { Vec::new() };
    let compat = if applied.iter().any(|a| a.version == FIRST_COMPAT) {
        let (oldest, migrated_by): (i32, String) =
            sqlx::query_as("SELECT oldest, migrated_by FROM schema_compat")
                .fetch_one(&mut *connection)
                .await?;
        Some(Compat { oldest: oldest.into(), migrated_by })
    } else {
        None
    };
    let pending = compare(own, &applied, compat.as_ref())?;
    let shut_out = match pending.iter().filter_map(|m| breaks(m.sql.as_str())).max() {
        Some(oldest) if compat.is_some() => running_below(&mut *connection, oldest).await?,
        _ => Vec::new(),
    };
    let standing = Standing {
        schema: applied.iter().map(|a| a.version).max().unwrap_or(0),
        oldest: compat.map(|compat| compat.oldest),
        pending: pending.iter().map(|&m| Step::from(m)).collect(),
        shut_out,
    };
    Ok((standing, pending))
}

/// What has to run, if the two go together.
fn compare<'m>(
    own: &'m Migrator,
    applied: &[AppliedMigration],
    compat: Option<&Compat>,
) -> Result<Vec<&'m Migration>> {
    let applied_as = |version| applied.iter().find(|a| a.version == version);
    let changed = own.iter().find(|m| applied_as(m.version).is_some_and(|a| a.checksum != m.checksum));
    if let Some(changed) = changed {
        return Err(StoreError::Conflict(format!(
            "{}: migration {} of the database is not this farm's: it has run with another text; start the farm that made \
             the database",
            itself(own),
            Step::from(changed)
        )));
    }
    let pending: Vec<&Migration> = own.iter().filter(|m| applied_as(m.version).is_none()).collect();
    let unknown: Vec<i64> =
        applied.iter().map(|a| a.version).filter(|version| !own.version_exists(*version)).collect();
    let Some(newest_unknown) = unknown.iter().max() else { return Ok(pending) };
    let by = match compat {
        Some(Compat { migrated_by, .. }) if !migrated_by.is_empty() => format!(", migrated by {migrated_by}"),
        _ => String::new(),
    };
    match compat {
        Some(compat) if compat.oldest <= newest(own) && pending.is_empty() => Ok(pending),
        Some(compat) if compat.oldest <= newest(own) => Err(StoreError::Conflict(format!(
            "{}: the database has migrations that this farm doesn't know ({unknown:?}{by}) and lacks some that it has \
             ({}): it belongs to another line of farm; start that one",
            itself(own),
            pending.iter().map(|&m| Step::from(m).to_string()).collect::<Vec<_>>().join(", ")
        ))),
        _ => {
            let oldest = compat.map_or(*newest_unknown, |compat| compat.oldest);
            Err(StoreError::Conflict(format!(
                "{}: the database has schema {newest_unknown}{by}, which takes coordinators of schema {oldest} or newer \
                 only; start a newer farm-coordinator. A schema is never taken back: to stay with this one, restore the \
                 database from a copy of before its upgrade, or name an empty one",
                itself(own)
            )))
        }
    }
}

/// The oldest schema that may run into the database after this migration, if it shuts any out: its first line says so.
fn breaks(sql: &str) -> Option<i64> {
    let said = sql.lines().find_map(|line| line.strip_prefix("-- breaks:"))?;
    said.trim_start().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Coordinators that run, with an older schema than this.
async fn running_below(connection: impl PgExecutor<'_>, oldest: i64) -> Result<Vec<String>> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT address, coalesce(runs_schema, 0)::bigint FROM coordinators
         WHERE last_seen > farm_now() - $1::interval AND coalesce(runs_schema, 0) < $2 ORDER BY address",
    )
    .bind(RUNS)
    .bind(oldest)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(address, schema)| format!("{address} (schema {schema})")).collect())
}

/// Keeps coordinators below a schema out of this database from now on, for something of which they would do the wrong thing and which
/// isn't there as long as nobody wants it.
///
/// # Errors
/// [`StoreError::Older`]: some run; `what` says what they don't know.
pub(crate) async fn shut_out(tx: &mut Tx, below: i32, what: &str) -> Result<()> {
    let older = running_below(&mut **tx, below.into()).await?;
    if !older.is_empty() {
        return Err(StoreError::Older(format!(
            "older coordinators that know nothing of {what} run beside this one, and would do without: {}; have them updated first",
            older.join(", ")
        )));
    }
    sqlx::query("UPDATE schema_compat SET oldest = $1 WHERE oldest < $1")
        .bind(below)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

fn newest(migrations: &Migrator) -> i64 {
    migrations.iter().map(|m| m.version).max().unwrap_or(0)
}

fn itself(own: &Migrator) -> String {
    format!("this is {} with schema {}", this_farm(), newest(own))
}
