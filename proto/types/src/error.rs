//! What is wrong with a value that a person wrote.

/// A value that cannot be taken: which thing, the value, and the cure, in one sentence for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{thing} {value:?}: {cure}")]
pub struct Invalid {
    /// What the value was meant to be, for example `platform`.
    pub thing: String,
    /// The value as it was written.
    pub value: String,
    /// What is wrong and what to write instead.
    pub cure: String,
}

impl Invalid {
    /// Makes the error; `cure` is a sentence without a full stop.
    pub fn new(thing: impl Into<String>, value: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { thing: thing.into(), value: value.into(), cure: cure.into() }
    }
}
