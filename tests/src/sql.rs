//! SQL of tests, over connections that are kept: a program and a backend for each statement cost more than most tests do.
//!
//! Answers are what `psql -XqAt` prints. Each statement finds a session as it is at its start, and has it alone.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection as _, Either, Executor as _, PgConnection, Row as _};
use tokio::runtime::{Builder, Runtime};
use tokio_stream::StreamExt as _;

/// Connections that nobody uses just now, by URL.
static IDLE: Mutex<Option<HashMap<String, Vec<Kept>>>> = Mutex::new(None);

/// A connection, with what drives it.
struct Kept {
    connection: PgConnection,
    runtime: Runtime,
}

/// Runs SQL at `url`: its rows, one a line, columns separated by `|`; or what went wrong.
pub(crate) fn ask(url: &str, sql: &str) -> Result<String, String> {
    // In a thread of its own, as the caller may be part of a runtime, and those can't be nested.
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let mut kept = take(url)?;
            let answer = kept.runtime.block_on(rows(&mut kept.connection, sql));
            // A session is only good for the next one when nothing of this one is left in it.
            if kept.runtime.block_on(kept.connection.execute(sqlx::raw_sql("DISCARD ALL"))).is_ok() {
                idle(|idle| idle.entry(url.to_owned()).or_default().push(kept));
            }
            answer
        });
        asked.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Closes the connections to a database that nobody uses just now.
pub(crate) fn close(url: &str) {
    let kept = idle(|idle| idle.remove(url)).unwrap_or_default();
    // A runtime can't end inside of another.
    std::thread::scope(|scope| drop(scope.spawn(|| drop(kept))));
}

fn idle<T>(with: impl FnOnce(&mut HashMap<String, Vec<Kept>>) -> T) -> T {
    with(IDLE.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default())
}

/// One that is there, or a new one.
fn take(url: &str) -> Result<Kept, String> {
    while let Some(mut kept) = idle(|idle| idle.get_mut(url).and_then(Vec::pop)) {
        if kept.runtime.block_on(kept.connection.ping()).is_ok() {
            return Ok(kept);
        }
    }
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let connection = runtime.block_on(PgConnection::connect(url)).map_err(|error| error.to_string())?;
    Ok(Kept { connection, runtime })
}

async fn rows(connection: &mut PgConnection, sql: &str) -> Result<String, String> {
    let mut lines = Vec::new();
    let mut answers = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_many(connection);
    while let Some(answer) = answers.next().await {
        match answer.map_err(|error| error.to_string())? {
            Either::Left(_done) => {}
            Either::Right(row) => lines.push(line(&row).map_err(|error| error.to_string())?),
        }
    }
    Ok(lines.join("\n").trim_end().to_owned())
}

/// A row as psql prints it: in this protocol values come as texts, and nothing is NULL's.
fn line(row: &PgRow) -> Result<String, sqlx::Error> {
    let texts = (0..row.len()).map(|column| {
        let value = row.try_get_raw(column)?;
        value.as_str().map(str::to_owned).or_else(|error| {
            let is_null = sqlx::ValueRef::is_null(&value);
            if is_null { Ok(String::new()) } else { Err(sqlx::Error::Decode(error)) }
        })
    });
    Ok(texts.collect::<Result<Vec<_>, _>>()?.join("|"))
}
