//! How far a delivery has come.

use farm_store::StoreError;

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Begun {
    /// These builds go on, by their short ids; or what else there was to do is done.
    Done { builds: Vec<String>, reason: String },
    /// Nothing follows from it.
    Ignored(String),
    /// What follows can't be done, and nobody but people can change that.
    Failed(String),
    /// It can't be done now.
    Later(String),
    /// What was begun goes on, and more follows from its end: what that is, in words.
    Goes(String),
    /// It may come right by itself, if what was begun is begun anew.
    Anew(String),
}

/// A step that was taken, or how the delivery stands without it.
pub(super) type Step<T> = Result<T, Stop>;

/// Why no further step is taken.
#[derive(Debug)]
pub(super) enum Stop {
    /// It stands so.
    So(Begun),
    /// The database.
    Store(StoreError),
}

impl From<Begun> for Stop {
    fn from(begun: Begun) -> Self {
        Self::So(begun)
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
