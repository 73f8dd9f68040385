//! The connections to Postgres: the one place where they are made, borrowed and given back, and where a call to the
//! database gets its limit.
//!
//! A link may fall silent without a word, and then nobody but this side's clock ends the wait. So each statement has a
//! limit here ([`Bounds::answer`]), above the one that the server itself keeps to: normally the server answers, if only that
//! it took too long. A session whose answer didn't come, or that somebody stopped waiting for, is closed and never
//! used again: what it was in the middle of is not known. (sqlx's own `begin` may leave a transaction open on a connection
//! that goes back to its pool, when it is dropped before the answer; whoever got that connection next would write into a
//! transaction that nobody commits.)
//!
//! Connections are opened as the need for them shows: a few at once, each further one only when somebody has waited ([`Turns`]).
//!
//! Queries run on `&Pool` or `&mut Session`, as they do on sqlx's own types; sqlx's pool is in nobody's hands but this file's.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, TryStreamExt as _};
use sqlx::postgres::{
    PgConnectOptions, PgDatabaseError, PgPool, PgPoolOptions, PgQueryResult, PgRow, PgSeverity, PgStatement,
    PgTypeInfo, Postgres,
};
use sqlx::{Connection as _, Either, Execute, Executor, SqlStr};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::StoreError;

/// A connection that gave an answer so lately is taken without asking whether it is there: it was asked when it was given back.
const FRESH: Duration = Duration::from_secs(2);

/// So many connections are opened as soon as somebody wants them.
const AT_ONCE: u32 = 3;

/// Whoever has waited so long for one of those that are there opens one more.
const PATIENCE: Duration = Duration::from_millis(100);

type Result<T> = std::result::Result<T, sqlx::Error>;

/// How long the two sides wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Connections at once.
    pub connections: u32,
    /// For a connection, a new one included.
    pub acquire: Duration,
    /// For a lock; the server ends the statement.
    pub lock: Duration,
    /// For one statement; the server ends it.
    pub statement: Duration,
    /// For the answer to one statement, from this side.
    pub answer: Duration,
    /// For what a leader does.
    pub leader: Leader,
}

/// What holds for a leader's transactions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leader {
    /// One that couldn't renew its leadership for so long decides nothing until it has.
    pub fresh: Duration,
    /// For one statement; the server ends it.
    pub statement: Duration,
}

/// The connections. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pool {
    pool: PgPool,
    turns: Arc<Turns>,
    /// Who waits for a turn and a connection waits so long.
    acquire: Duration,
    link: Arc<Link>,
}

/// How many may have connections at once, which grows with need. At a start all loops ask together, each for a moment; one
/// connection for each would cost both sides far more than that moment, and then lie idle.
#[derive(Debug)]
struct Turns {
    free: Arc<Semaphore>,
    /// How many more there may be.
    further: AtomicU32,
}

impl Turns {
    fn new(most: u32) -> Self {
        let first = most.min(AT_ONCE);
        let free = Semaphore::new(first.try_into().unwrap_or(Semaphore::MAX_PERMITS));
        Self { free: Arc::new(free), further: AtomicU32::new(most - first) }
    }

    /// Waits for a turn. Dropping what comes of it gives it back.
    async fn take(&self) -> Result<OwnedSemaphorePermit> {
        let mut turn = pin!(Arc::clone(&self.free).acquire_owned());
        let taken = match timeout(PATIENCE, &mut turn).await {
            Ok(taken) => taken,
            Err(_) => {
                let one_less = |further: u32| further.checked_sub(1);
                if self.further.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
                    self.free.add_permits(1);
                }
                turn.await
            }
        };
        taken.map_err(|_| sqlx::Error::PoolClosed)
    }
}

/// What all connections to one server have in common.
#[derive(Debug)]
struct Link {
    answer: Duration,
    /// For the answer to a mere question whether a connection is there. Short: whoever waits for a connection waits for it.
    ping: Duration,
    leader: Leader,
    /// When an answer was last missed, or a connection was last found broken.
    broken: Mutex<Option<Instant>>,
}

impl Link {
    /// Notes that a connection is of no use any more: whatever lies idle since before may be as dead.
    fn broke(&self) {
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Notes that an answer didn't come.
    fn fell_silent(&self) -> sqlx::Error {
        self.broke();
        let why = format!("no answer within {:?}", self.answer);
        sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, why))
    }

    /// Whether a connection broke within this time.
    fn broke_within(&self, time: Duration) -> bool {
        let broken = *self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.is_some_and(|at| at.elapsed() <= time)
    }
}

impl Pool {
    /// Connects when first used.
    pub(crate) fn new(options: &PgConnectOptions, bounds: Bounds) -> Self {
        let milliseconds = |time: Duration| format!("{}ms", time.as_millis());
        let options = options.clone().options([
            ("lock_timeout", milliseconds(bounds.lock)),
            ("statement_timeout", milliseconds(bounds.statement)),
        ]);
        let link = Arc::new(Link {
            answer: bounds.answer,
            // Then there is time for a new connection.
            ping: bounds.acquire / 2,
            leader: bounds.leader,
            broken: Mutex::default(),
        });
        let of_idle = Arc::clone(&link);
        let pool = PgPoolOptions::new()
            .max_connections(bounds.connections)
            .acquire_timeout(bounds.acquire)
            // Without a limit of its own; the next lines have one.
            .test_before_acquire(false)
            .before_acquire(move |connection, meta| {
                let link = Arc::clone(&of_idle);
                Box::pin(async move {
                    if link.broke_within(meta.idle_for) {
                        return Ok(false);
                    }
                    // One that was just being given back when another broke may be as dead.
                    if meta.idle_for < FRESH && !link.broke_within(FRESH) {
                        return Ok(true);
                    }
                    match timeout(link.ping, connection.ping()).await {
                        Ok(answer) => Ok(answer.is_ok()),
                        Err(_) => {
                            link.fell_silent();
                            Ok(false)
                        }
                    }
                })
            })
            .connect_lazy_with(options);
        Self { pool, turns: Arc::new(Turns::new(bounds.connections)), acquire: bounds.acquire, link }
    }

    /// A connection for several statements that need no transaction.
    pub(crate) async fn acquire(&self) -> Result<Session> {
        let acquired = timeout(self.acquire, async {
            let turn = self.turns.take().await?;
            Ok::<_, sqlx::Error>((self.pool.acquire().await?, turn))
        });
        let (connection, turn) = acquired.await.map_err(|_| sqlx::Error::PoolTimedOut)??;
        Ok(Session {
            connection: Some(connection),
            turn: Some(turn),
            link: Arc::clone(&self.link),
            is_waiting: false,
            is_open: false,
        })
    }

    /// A transaction. Dropped without [`Tx::commit`] it is rolled back.
    pub(crate) async fn begin(&self) -> Result<Tx> {
        let mut session = self.acquire().await?;
        session.is_open = true;
        session.execute("BEGIN").await?;
        Ok(Tx(session))
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("size", &self.pool.size()).finish_non_exhaustive()
    }
}

/// A connection that is borrowed.
pub struct Session {
    /// Gone only while it is dropped.
    connection: Option<sqlx::pool::PoolConnection<Postgres>>,
    /// The same; it ends when the next one finds the connection.
    turn: Option<OwnedSemaphorePermit>,
    link: Arc<Link>,
    /// A statement is under way: until its answer is read to the end nobody else may use the connection.
    is_waiting: bool,
    /// A transaction may be open.
    is_open: bool,
}

impl Session {
    /// The connection with the mark of what is under way.
    fn parts(&mut self) -> Result<(&mut sqlx::PgConnection, &mut bool, &Link)> {
        match &mut self.connection {
            Some(connection) => Ok((&mut **connection, &mut self.is_waiting, &self.link)),
            None => Err(sqlx::Error::PoolClosed),
        }
    }

    /// Runs one call within the limit.
    async fn bounded<'c, T>(
        &'c mut self,
        call: impl FnOnce(&'c mut sqlx::PgConnection) -> BoxFuture<'c, Result<T>>,
    ) -> Result<T> {
        let (connection, is_waiting, link) = self.parts()?;
        *is_waiting = true;
        match timeout(link.answer, call(connection)).await {
            Ok(answer) => {
                *is_waiting = answer.as_ref().is_err_and(is_no_answer);
                if *is_waiting {
                    link.broke();
                }
                answer
            }
            Err(_) => Err(link.fell_silent()),
        }
    }
}

/// Whether the connection is of no use after this error. Else the server has answered, and waits for the next statement.
fn is_no_answer(error: &sqlx::Error) -> bool {
    match error {
        // With such an error the server ends the session.
        sqlx::Error::Database(said) => said
            .try_downcast_ref::<PgDatabaseError>()
            .is_some_and(|said| matches!(said.severity(), PgSeverity::Fatal | PgSeverity::Panic)),
        sqlx::Error::RowNotFound
        | sqlx::Error::Encode(_)
        | sqlx::Error::Decode(_)
        | sqlx::Error::ColumnDecode { .. } => false,
        _ => true,
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("is_waiting", &self.is_waiting)
            .field("is_open", &self.is_open)
            .finish_non_exhaustive()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            drop(connection.detach());
            return;
        };
        if self.is_waiting {
            connection.close_on_drop();
            return;
        }
        let (link, is_open, turn) = (Arc::clone(&self.link), self.is_open, self.turn.take());
        runtime.spawn(async move {
            let _until_the_end = turn;
            if is_open {
                let rolled_back = timeout(link.ping, connection.execute("ROLLBACK")).await;
                if !matches!(rolled_back, Ok(Ok(_))) {
                    connection.close_on_drop();
                    return;
                }
            }
            // It asks whether the connection is there, and without this limit would wait for the answer for ever.
            if timeout(link.ping, connection.return_to_pool()).await.is_err() {
                link.fell_silent();
            }
        });
    }
}

/// A transaction.
#[derive(Debug)]
pub struct Tx(Session);

impl Tx {
    /// Commits. After an error that is [`StoreError::Unavailable`] it isn't known whether it was.
    ///
    /// # Errors
    /// The database doesn't answer, or has ended the transaction.
    pub(crate) async fn commit(mut self) -> std::result::Result<(), StoreError> {
        self.0.execute("COMMIT").await?;
        self.0.is_open = false;
        Ok(())
    }
}

impl Tx {
    /// Undoes all of it. Dropping it does the same a moment later.
    ///
    /// # Errors
    /// The database doesn't answer.
    pub(crate) async fn rollback(mut self) -> std::result::Result<(), StoreError> {
        self.0.execute("ROLLBACK").await?;
        self.0.is_open = false;
        Ok(())
    }

    /// What holds for a leader's transactions.
    pub(crate) fn leader(&self) -> Leader {
        self.0.link.leader
    }
}

impl Deref for Tx {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.0
    }
}

/// What a query answers, one by one.
type Answers<'e> = BoxStream<'e, Result<Either<PgQueryResult, PgRow>>>;

impl<'c> Executor<'c> for &'c mut Session {
    type Database = Postgres;

    fn fetch_many<'e, 'q, E>(self, query: E) -> Answers<'e>
    where
        'c: 'e,
        E: Execute<'q, Postgres>,
        'q: 'e,
        E: 'q,
    {
        Box::pin(async_stream::try_stream! {
            let (connection, is_waiting, link) = self.parts()?;
            *is_waiting = true;
            let deadline = Instant::now() + link.answer;
            let mut answers = connection.fetch_many(query);
            loop {
                match timeout_at(deadline, answers.try_next()).await {
                    Ok(Ok(Some(answer))) => yield answer,
                    Ok(Ok(None)) => {
                        *is_waiting = false;
                        break;
                    }
                    Ok(Err(error)) => {
                        *is_waiting = is_no_answer(&error);
                        if *is_waiting {
                            link.broke();
                        }
                        Err(error)?;
                    }
                    Err(_) => Err(link.fell_silent())?,
                }
            }
        })
    }

    fn fetch_optional<'e, 'q, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>>>
    where
        'c: 'e,
        E: Execute<'q, Postgres>,
        'q: 'e,
        E: 'q,
    {
        Box::pin(self.bounded(move |connection| connection.fetch_optional(query)))
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, Result<PgStatement>>
    where
        'c: 'e,
    {
        Box::pin(self.bounded(move |connection| connection.prepare_with(sql, parameters)))
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>>>
    where
        'c: 'e,
    {
        Box::pin(self.bounded(move |connection| connection.describe(sql)))
    }
}

impl<'c> Executor<'c> for &Pool {
    type Database = Postgres;

    fn fetch_many<'e, 'q, E>(self, query: E) -> Answers<'e>
    where
        'c: 'e,
        E: Execute<'q, Postgres>,
        'q: 'e,
        E: 'q,
    {
        let pool = self.clone();
        Box::pin(async_stream::try_stream! {
            let mut session = pool.acquire().await?;
            let mut answers = session.fetch_many(query);
            while let Some(answer) = answers.try_next().await? {
                yield answer;
            }
        })
    }

    fn fetch_optional<'e, 'q, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>>>
    where
        'c: 'e,
        E: Execute<'q, Postgres>,
        'q: 'e,
        E: 'q,
    {
        let pool = self.clone();
        Box::pin(async move { pool.acquire().await?.fetch_optional(query).await })
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, Result<PgStatement>>
    where
        'c: 'e,
    {
        let pool = self.clone();
        Box::pin(async move { pool.acquire().await?.prepare_with(sql, parameters).await })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<sqlx::Describe<Postgres>>>
    where
        'c: 'e,
    {
        let pool = self.clone();
        Box::pin(async move { pool.acquire().await?.describe(sql).await })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is the report")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_more_may_have_a_connection_for_each_who_waited_in_vain_up_to_the_limit() {
        for most in [1, AT_ONCE, AT_ONCE + 2] {
            let turns = Turns::new(most);
            let begin = Instant::now();
            let mut taken = Vec::new();
            for _ in 0..most {
                taken.push(turns.take().await.unwrap());
            }
            assert!(
                begin.elapsed() >= PATIENCE * most.saturating_sub(AT_ONCE),
                "{most}: {:?}",
                begin.elapsed()
            );
            let mut waits = pin!(turns.take());
            assert!(timeout(2 * PATIENCE, &mut waits).await.is_err(), "{most}: one too many");
            taken.pop();
            // Whoever has waited is the first.
            drop(waits.await.unwrap());
        }
    }
}
