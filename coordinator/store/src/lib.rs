//! farm's state in Postgres. The only crate that speaks SQL.
//!
//! Rooms by what a query is about: [`builds`], [`work`] (what is queued and runs), [`publish`], [`sources`], [`logs`],
//! [`machines`], [`people`] and [`hooks`]; in each one file per aggregate. The other layers of farm have rooms of the same names.
//!
//! Rules: every write repeats its premise in `WHERE` (state, lease token, epoch)
//! and looks at the row count; nothing is decided on a snapshot and written by id; time is `farm_now()`.
//! What a write needs the transaction to hold (leadership, an execution's lock) is a type, and the order of locks is told with
//! them: [`proof`]. Every call has a limit ([`pool`]). To add a query: the macro in its aggregate's file, then refresh `.sqlx`
//! (`docs/development.md`).

pub mod builds;
pub mod error;
pub mod hooks;
pub mod logs;
pub mod machines;
pub mod notices;
pub mod people;
mod pool;
mod proof;
pub mod publish;
pub mod schema;
pub mod sources;
mod unreadable;
pub mod work;

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_core::machines::engine::PatchedEngines;
use farm_types::{Digest, Invalid, ProjectId};
use sqlx::Connection as _;
use sqlx::postgres::PgConnectOptions;
use tokio::time::timeout;
use uuid::Uuid;

pub use error::StoreError;
pub(crate) use pool::Tx;
use pool::{Bounds, Leader, Pool};

/// What every call answers.
pub type Result<T> = std::result::Result<T, StoreError>;

/// The project that is there from the start.
pub fn default_project() -> ProjectId {
    ProjectId::from(Uuid::from_u128(0x0000_0000_0000_7000_8000_0000_0000_0001))
}

/// How long the store may take and how much it may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once for calls. Two for leadership and signs of life, and those of the leader's loops, come on top.
    pub connections: u32,
    /// Connections at once for the leader's loops.
    pub loops: u32,
    /// A call waits so long for a connection.
    pub acquire: Duration,
    /// Postgres gives one statement up after so long.
    pub statement: Duration,
    /// It has so much longer to say so; after that it counts as silent.
    pub grace: Duration,
    /// A leader that couldn't renew its leadership for so long decides nothing until it has.
    pub leader_fresh: Duration,
    /// One statement of a leader's transaction may take so long. What a leader that died was in the middle of holds the
    /// next one up for no longer.
    pub leader_statement: Duration,
    /// A worker that was silent for so long takes no jobs.
    pub suspect_after: Duration,
}

/// Of leadership and signs of life one statement may take so long.
const VITAL: Duration = Duration::from_secs(2);
/// One connection is made within this time.
const CONNECT: Duration = Duration::from_secs(5);

/// The database. Cheap to clone; all clones share the connections.
#[derive(Debug, Clone)]
pub struct Store {
    pool: Pool,
    /// For leadership and signs of life, which wait behind nobody's queries.
    vital: Pool,
    /// For the leader's loops.
    loops: Pool,
    options: PgConnectOptions,
    suspect_after: Duration,
    /// Engines on which what isn't trusted may run besides new ones.
    patched: PatchedEngines,
}

impl Store {
    /// Engines that count as mended, though their versions are old.
    pub fn with_patched_engines(self, patched: PatchedEngines) -> Self {
        Self { patched, ..self }
    }

    /// The same for the leader's loops: calls and loops never wait for each other's connections.
    pub fn of_loops(&self) -> Self {
        Self { pool: self.loops.clone(), ..self.clone() }
    }

    /// Makes the pools; connects when first used.
    ///
    /// # Errors
    /// The URL is no Postgres URL.
    pub fn open(url: &str, limits: Limits) -> std::result::Result<Self, Invalid> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|e| Invalid::new("database URL", "…", format!("{e}; write postgres://USER@HOST/DB")))?
            .application_name("farm-coordinator")
            .options([
                // Whoever stops in the middle of a transaction must not hold the others up.
                ("idle_in_transaction_session_timeout", "3s"),
                // A process that has died wants no answer any more.
                ("client_connection_check_interval", "1s"),
                // Nor does a machine; of that the server hears nothing.
                ("tcp_keepalives_idle", "10"),
                ("tcp_keepalives_interval", "5"),
                ("tcp_keepalives_count", "3"),
                ("tcp_user_timeout", "20s"),
            ]);
        let pool = Bounds {
            connections: limits.connections,
            acquire: limits.acquire,
            lock: Duration::from_secs(5),
            statement: limits.statement,
            answer: limits.statement + limits.grace,
            leader: Leader { fresh: limits.leader_fresh, statement: limits.leader_statement },
        };
        let vital = Bounds {
            connections: 2,
            acquire: limits.acquire.min(VITAL),
            lock: Duration::from_secs(1),
            statement: limits.statement.min(VITAL),
            answer: limits.statement.min(VITAL) + limits.grace.min(Duration::from_secs(1)),
            ..pool
        };
        let suspect_after = limits.suspect_after;
        Ok(Self {
            pool: Pool::new(&options, pool),
            vital: Pool::new(&options, vital),
            loops: Pool::new(&options, Bounds { connections: limits.loops, ..pool }),
            options,
            suspect_after,
            patched: PatchedEngines::default(),
        })
    }

    /// Tries one connection, and tells what is in its way: a pool would only say that none came in time.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn reach(&self) -> Result<()> {
        let reached = async { sqlx::PgConnection::connect_with(&self.options).await?.close().await };
        match timeout(CONNECT, reached).await {
            Ok(reached) => Ok(reached?),
            Err(_) => Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut)),
        }
    }

    /// The farm's time.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn now(&self) -> Result<DateTime<Utc>> {
        let now = sqlx::query_scalar!(r#"SELECT farm_now() AS "now!""#).fetch_one(&self.pool).await?;
        Ok(now)
    }

    /// Makes the log partitions of today and the next days.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn make_log_partitions(&self) -> Result<i32> {
        let made = sqlx::query_scalar!(
            r#"SELECT farm_make_log_partitions((farm_now() AT TIME ZONE 'UTC')::date, 3) AS "made!""#
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(made)
    }

    /// Analyses the tables of which much has changed since they last were, by what Postgres has counted: a young farm's are
    /// planned for wrongly else until autovacuum comes to them, and that takes minutes. Gives their names.
    ///
    /// # Errors
    /// The database can't be reached, or a table is held for long.
    pub async fn analyse_what_grew(&self) -> Result<Vec<String>> {
        let grown = sqlx::query_scalar!(
            r#"SELECT quote_ident(c.relname) AS "name!" FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid
               WHERE s.schemaname = current_schema() AND c.relkind = 'r'
                 AND s.n_mod_since_analyze >= greatest(200, c.reltuples / 5)
               ORDER BY c.relname"#
        )
        .fetch_all(&self.pool)
        .await?;
        for table in &grown {
            // The name comes from the catalogue, quoted.
            sqlx::query(sqlx::AssertSqlSafe(format!("ANALYZE {table}"))).execute(&self.pool).await?;
        }
        Ok(grown)
    }

    pub(crate) async fn begin(&self) -> Result<Tx> {
        Ok(self.pool.begin().await?)
    }
}

/// A state's word from a row.
pub(crate) fn state<S: FromStr<Err = Invalid>>(text: &str) -> Result<S> {
    text.parse().map_err(StoreError::corrupt)
}

/// How words stand in a row.
pub(crate) fn words<T: ToString>(all: &[T]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

/// A digest from a row.
pub(crate) fn digest(bytes: &[u8]) -> Result<Digest> {
    Digest::try_from(bytes).map_err(StoreError::corrupt)
}

/// A JSON column.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T> {
    serde_json::from_value(value).map_err(StoreError::corrupt)
}

/// A JSON column, if it is set.
pub(crate) fn from_json_opt<T: serde::de::DeserializeOwned>(
    value: Option<serde_json::Value>,
) -> Result<Option<T>> {
    value.map(from_json).transpose()
}

/// The JSON of one of our own types.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(StoreError::corrupt)
}

/// A count or number from a row that has to fit.
pub(crate) fn fit<A, B>(value: A) -> Result<B>
where
    B: TryFrom<A>,
    B::Error: std::fmt::Display,
{
    B::try_from(value).map_err(StoreError::corrupt)
}
