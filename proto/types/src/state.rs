//! The states that each thing passes through. SQL `CHECK`s hold the same words; a worker's are those of the SQL function
//! `farm_worker_state`.
//!
//! Which may follow which is said in one place: the transitions of `farm_core::life`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Invalid;

/// What all the states below have in common.
pub trait State: fmt::Debug + Copy + PartialEq + 'static {
    /// The state's one word.
    fn word(self) -> &'static str;
    /// Every state, in the order of a life.
    fn all() -> &'static [Self];
    /// True when nothing may follow.
    fn is_final(self) -> bool;
}

/// The mark of a state after which nothing comes.
macro_rules! is_marked {
    (final) => {
        true
    };
}

/// Declares states with their words; those after which nothing comes are marked `final`.
macro_rules! states {
    ($($(#[$doc:meta])* $name:ident, $thing:literal { $($(#[$vdoc:meta])* $variant:ident = $word:literal $(, $final:ident)?;)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $word)] $variant,)* }

        impl $name {
            /// Every state, in the order of a life.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The state's one word, as SQL, wire and people have it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            /// True when nothing may follow.
            pub const fn is_final(self) -> bool {
                match self { $(Self::$variant => false $(|| is_marked!($final))?),* }
            }
        }

        impl State for $name {
            fn word(self) -> &'static str {
                self.as_str()
            }

            fn all() -> &'static [Self] {
                Self::ALL
            }

            fn is_final(self) -> bool {
                self.is_final()
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                Self::ALL.iter().copied().find(|state| state.as_str() == text)
                    .ok_or_else(|| Invalid::new($thing, text, "no such state"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )*};
}

states! {
    /// The state of a build: one request.
    BuildState, "build state" {
        /// Accepted; none of its jobs was started. (A worker's end may come without its start.)
        Queued = "queued";
        /// At least one of its jobs was started.
        Running = "running";
        /// Every required platform is built; the index is on its way.
        Publishing = "publishing";
        /// A cancel was asked for; attempts are being stopped.
        Cancelling = "cancelling";
        /// Published.
        Succeeded = "succeeded", final;
        /// Ended with a cause.
        Failed = "failed", final;
        /// Ended because somebody asked.
        Cancelled = "cancelled", final;
    }

    /// The state of an execution: the work of one or more equal builds.
    ExecutionState, "execution state" {
        /// Some of its jobs are not decided.
        Open = "open";
        /// Every required job succeeded.
        Built = "built", final;
        /// A required job failed.
        Failed = "failed", final;
        /// Nobody wants it any more.
        Cancelled = "cancelled", final;
    }

    /// The state of a job: a node of an execution's graph.
    JobState, "job state" {
        /// Waits for jobs that it depends on.
        Blocked = "blocked";
        /// Waits for a worker.
        Ready = "ready";
        /// A worker was chosen and told.
        Leased = "leased";
        /// A worker is at it.
        Running = "running";
        /// It has a result.
        Succeeded = "succeeded", final;
        /// It has a cause.
        Failed = "failed", final;
        /// Nobody wants it any more.
        Cancelled = "cancelled", final;
    }

    /// The state of an attempt: one try of a job by one worker.
    AttemptState, "attempt state" {
        /// The worker was told, or will be.
        Offered = "offered";
        /// The worker has said that it runs.
        Running = "running";
        /// It gave a result.
        Succeeded = "succeeded", final;
        /// It gave a cause.
        Failed = "failed", final;
        /// Its lease ended, or its worker lost it.
        Lost = "lost", final;
        /// Its worker gave it back unharmed.
        Released = "released", final;
        /// It was stopped because somebody asked.
        Cancelled = "cancelled", final;
    }

    /// The state of a publication: an index on its way.
    PublicationState, "publication state" {
        /// Some destination is not settled.
        Pending = "pending";
        /// Every tag is verified or superseded.
        Published = "published", final;
        /// A destination or a tag failed.
        Failed = "failed", final;
    }

    /// The state of a destination: the index in one repository.
    DestinationState, "destination state" {
        /// The index isn't known to be there.
        Pending = "pending";
        /// The index is there, by its digest.
        Pushed = "pushed", final;
        /// It can't be put there.
        Failed = "failed", final;
    }

    /// The state of a tag row: one tag on its way to one index.
    TagState, "tag state" {
        /// It ought to point to the index.
        Wanted = "wanted";
        /// It was put; not looked at again yet.
        Put = "put";
        /// It was seen to point to the index.
        Verified = "verified", final;
        /// A newer intention has the tag, or will.
        Superseded = "superseded", final;
        /// It can't be put.
        Failed = "failed", final;
    }

    /// Whether a worker takes jobs, or what keeps it from them.
    WorkerState, "worker state" {
        /// It takes jobs.
        Online = "online";
        /// It failed several jobs for reasons of its own: it gets trial builds, and a job only as the last resort.
        Probation = "probation";
        /// Its engine is away, or its disk is full.
        Withdrawn = "withdrawn";
        /// It takes nothing new and ends, or is drained, when what it runs is done.
        Draining = "draining";
        /// An administrator wants it to take nothing new.
        Drained = "drained";
        /// It did not stop what it was told to.
        Quarantined = "quarantined";
        /// It is connected, but was silent for too long. Only who knows the time sees this, never the database.
        Suspect = "suspect";
        /// No coordinator holds its control stream.
        Offline = "offline";
        /// It has joined and not connected yet. Only who asks for what it joined as sees this.
        Joined = "joined";
        /// Its certificate has ended and can't be renewed any more: it has to be invited again. Only who asks for what it joined as
        /// sees this.
        Expired = "expired";
        /// An administrator, or time, took it out of the farm.
        Removed = "removed";
    }
}

impl WorkerState {
    /// Those in which a worker may be given a job at all: on probation, too, if there is nobody else.
    pub const LEASABLE: &'static [Self] = &[Self::Online, Self::Probation];

    /// Whether a worker may be given a job at all.
    pub fn is_leasable(self) -> bool {
        Self::LEASABLE.contains(&self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_reads_back() {
        fn check<S: State + FromStr<Err = Invalid>>() {
            for &state in S::all() {
                assert_eq!(state.word().parse(), Ok(state));
            }
            assert!("".parse::<S>().is_err());
        }
        check::<BuildState>();
        check::<ExecutionState>();
        check::<JobState>();
        check::<AttemptState>();
        check::<PublicationState>();
        check::<DestinationState>();
        check::<TagState>();
        check::<WorkerState>();
    }
}
