//! The legal transitions of every life: of builds, executions, jobs, attempts, publications, destinations and tags.
//!
//! A transition is a value: the states that it leads from, and the one that it leads to. The store states the first as the
//! premise in `WHERE` and writes the second, so that what SQL does is what stands here; a test holds the transitions, the words of
//! `farm_types::state` and the diagrams in `docs/architecture.md` against each other.
//!
//! What decides *which* transition is taken is beside them, as pure functions: [`attempt::end`] for an attempt's end,
//! [`build::after_execution`] for a build when its execution has ended, [`publication::outcome`] for a publication.

pub mod attempt;
pub mod build;
pub mod execution;
pub mod job;
pub mod publication;

use std::fmt;

use farm_types::state::State;

/// One legal transition of a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition<S: 'static> {
    name: &'static str,
    from: &'static [S],
    to: S,
}

/// A transition that doesn't lead from the state at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Illegal {
    transition: &'static str,
    state: &'static str,
}

impl fmt::Display for Illegal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is no transition from {}", self.transition, self.state)
    }
}

impl std::error::Error for Illegal {}

impl<S: State> Transition<S> {
    const fn new(name: &'static str, from: &'static [S], to: S) -> Self {
        Self { name, from, to }
    }

    /// The state after the transition.
    ///
    /// # Errors
    /// It doesn't lead from `state`.
    pub fn take(&self, state: S) -> Result<S, Illegal> {
        if self.from.contains(&state) {
            Ok(self.to)
        } else {
            Err(Illegal { transition: self.name, state: state.word() })
        }
    }

    /// The transition's name, as in the diagrams of the architecture.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The states that it leads from.
    pub const fn from(&self) -> &'static [S] {
        self.from
    }

    /// The state that it leads to.
    pub const fn to(&self) -> S {
        self.to
    }

    /// [`Self::from`] as SQL has it, for `state = ANY($n)`.
    pub fn premise(&self) -> Vec<String> {
        self.from.iter().map(|state| state.word().to_owned()).collect()
    }

    /// [`Self::to`] as SQL has it.
    pub fn word(&self) -> &'static str {
        self.to.word()
    }
}

/// The states that one of these transitions leads to from `state`.
pub fn next<S: State>(state: S, transitions: &[Transition<S>]) -> impl Iterator<Item = S> {
    transitions.iter().filter_map(move |transition| transition.take(state).ok())
}

/// Declares the transitions of one life, and the list of them all.
macro_rules! transitions {
    ($state:ident: $($(#[$doc:meta])* $name:ident = $($from:ident)|+ => $to:ident;)*) => {
        $($(#[$doc])* pub const $name: Transition<$state> =
            Transition::new(stringify!($name), &[$($state::$from),+], $state::$to);)*
        /// Every transition of this life: what the tests and the diagrams go through.
        pub const ALL: &[Transition<$state>] = &[$($name),*];
    };
}
use transitions;

#[cfg(test)]
mod tests;
