//! How far a delivery has come.

use farm_hooks::Delivery;
use farm_store::StoreError;
use farm_store::hooks::deliveries::Waiting;
use farm_store::hooks::forks::Proposal;

/// A delivery from which something may follow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delivered<'a> {
    /// Its row, and its hook: whose it is and where the repository is fetched. What is done is done as that hook
    /// (`farm_store::hooks::registered::by_hook`).
    pub of: &'a Waiting,
    /// What it says.
    pub delivery: &'a Delivery,
    /// Of a schedule of the farm's own: when it comes. What comes at other times under the same name isn't built.
    pub line: Option<&'a str>,
}

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
    /// Nothing more is done until somebody has approved it.
    Held(Box<Held>),
}

/// What waits for an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    /// What a fork proposes.
    pub proposal: Proposal,
    /// The images that would be built.
    pub images: Vec<String>,
    /// How it is approved, in words.
    pub what: String,
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
