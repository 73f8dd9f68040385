//! What can go wrong with the store, by what the caller does next.

use std::fmt;
use std::time::Duration;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Try again: the database can't be reached, or it chose this transaction to break a tie.
    #[error("the database did not answer: {0}")]
    Unavailable(sqlx::Error),
    /// There is no such thing.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// The premise of the write doesn't hold any more: somebody else was first. Nothing was changed.
    #[error("superseded: {0}")]
    Stale(&'static str),
    /// This coordinator leads no more, so it decides nothing. Nothing was changed.
    #[error("superseded: this coordinator leads no more")]
    NotLeading,
    /// What is asked for contradicts what is there; the text is for a person.
    #[error("{0}")]
    Conflict(String),
    /// Older coordinators run, which would do the wrong thing with it; the text is for a person. Once they are updated it can be done.
    #[error("{0}")]
    Older(String),
    /// There is too much of it already; what that is, is for a person.
    #[error("{what}")]
    Exhausted {
        /// Which limit, whose, and what helps.
        what: String,
        /// When there is room again, if that can be told.
        wait: Option<Duration>,
    },
    /// A row that makes no sense, or SQL that is wrong: a bug.
    #[error("the database holds what it must not: {0}")]
    Corrupt(String),
}

impl StoreError {
    /// A row that can't be read.
    pub fn corrupt(error: impl fmt::Display) -> Self {
        Self::Corrupt(error.to_string())
    }

    /// True when the database has said something to it: then it isn't the database that is away.
    pub fn is_answered(&self) -> bool {
        !matches!(self, Self::Unavailable(error) if !matches!(error, sqlx::Error::Database(_)))
    }

    /// True when somebody else was first, or leads: what is there now is theirs.
    pub fn is_superseded(&self) -> bool {
        matches!(self, Self::Stale(_) | Self::NotLeading)
    }

    /// True when the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::RowNotFound => Self::NotFound("row"),
            sqlx::Error::Database(database) => {
                let code = database.code().unwrap_or_default();
                // Class 08 connection, 53 resources, 57 operator (shutdown), 40 tie broken (SQLSTATE,
                // PostgreSQL documentation, appendix A).
                // 55P03: no lock in time; 25P03: it did nothing within a transaction for too long.
                if ["08", "53", "57", "40", "55P03", "25P03"].iter().any(|class| code.starts_with(class)) {
                    Self::Unavailable(error)
                } else {
                    Self::corrupt(error)
                }
            }
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::Protocol(_)
            | sqlx::Error::WorkerCrashed => Self::Unavailable(error),
            _ => Self::corrupt(error),
        }
    }
}

impl From<sqlx::migrate::MigrateError> for StoreError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        match error {
            sqlx::migrate::MigrateError::Execute(error) => error.into(),
            sqlx::migrate::MigrateError::ExecuteMigration(error, number) => match error.into() {
                Self::Corrupt(why) => Self::Conflict(format!(
                    "migration {number:04} did not run, and is undone: {why}; nothing newer has run either"
                )),
                other => other,
            },
            other => Self::corrupt(other),
        }
    }
}
