//! The states that each thing passes through, and which may follow which.
//!
//! SQL `CHECK`s hold the same words. The steps themselves are functions of `farm-core`.

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
    /// The states that may follow this one.
    fn followers(self) -> &'static [Self];
}

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident, $thing:literal { $($(#[$vdoc:meta])* $variant:ident = $word:literal => [$($next:ident),*];)* })*) => {$(
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

            /// The states that may follow this one.
            pub fn next(self) -> &'static [Self] {
                match self { $(Self::$variant => &[$(Self::$next),*]),* }
            }

            /// True when nothing may follow.
            pub fn is_final(self) -> bool {
                self.next().is_empty()
            }
        }

        impl State for $name {
            fn word(self) -> &'static str {
                self.as_str()
            }

            fn all() -> &'static [Self] {
                Self::ALL
            }

            fn followers(self) -> &'static [Self] {
                self.next()
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
        Queued = "queued" => [Running, Publishing, Cancelling, Failed, Cancelled];
        /// At least one of its jobs was started.
        Running = "running" => [Publishing, Cancelling, Failed, Cancelled];
        /// Every required platform is built; the index is on its way.
        Publishing = "publishing" => [Succeeded, Failed, Cancelled];
        /// A cancel was asked for; attempts are being stopped.
        Cancelling = "cancelling" => [Cancelled];
        /// Published.
        Succeeded = "succeeded" => [];
        /// Ended with a cause.
        Failed = "failed" => [];
        /// Ended because somebody asked.
        Cancelled = "cancelled" => [];
    }

    /// The state of an execution: the work of one or more equal builds.
    ExecutionState, "execution state" {
        /// Some of its jobs are not decided.
        Open = "open" => [Built, Failed, Cancelled];
        /// Every required job succeeded.
        Built = "built" => [];
        /// A required job failed.
        Failed = "failed" => [];
        /// Nobody wants it any more.
        Cancelled = "cancelled" => [];
    }

    /// The state of a job: a node of an execution's graph.
    JobState, "job state" {
        /// Waits for jobs that it depends on.
        Blocked = "blocked" => [Ready, Cancelled];
        /// Waits for a worker.
        Ready = "ready" => [Leased, Failed, Cancelled];
        /// A worker was chosen and told.
        Leased = "leased" => [Running, Ready, Succeeded, Failed, Cancelled];
        /// A worker is at it.
        Running = "running" => [Ready, Succeeded, Failed, Cancelled];
        /// It has a result.
        Succeeded = "succeeded" => [];
        /// It has a cause.
        Failed = "failed" => [];
        /// Nobody wants it any more.
        Cancelled = "cancelled" => [];
    }

    /// The state of an attempt: one try of a job by one worker.
    AttemptState, "attempt state" {
        /// The worker was told, or will be.
        Offered = "offered" => [Running, Succeeded, Failed, Lost, Released, Cancelled];
        /// The worker has said that it runs.
        Running = "running" => [Succeeded, Failed, Lost, Released, Cancelled];
        /// It gave a result.
        Succeeded = "succeeded" => [];
        /// It gave a cause.
        Failed = "failed" => [];
        /// Its lease ended, or its worker lost it.
        Lost = "lost" => [];
        /// Its worker gave it back unharmed.
        Released = "released" => [];
        /// It was stopped because somebody asked.
        Cancelled = "cancelled" => [];
    }

    /// The state of a publication: an index on its way.
    PublicationState, "publication state" {
        /// Some destination is not settled.
        Pending = "pending" => [Published, Failed];
        /// Every tag is verified or superseded.
        Published = "published" => [];
        /// A destination or a tag failed.
        Failed = "failed" => [];
    }

    /// The state of a destination: the index in one repository.
    DestinationState, "destination state" {
        /// The index isn't known to be there.
        Pending = "pending" => [Pushed, Failed];
        /// The index is there, by its digest.
        Pushed = "pushed" => [];
        /// It can't be put there.
        Failed = "failed" => [];
    }

    /// The state of a tag row: one tag on its way to one index.
    TagState, "tag state" {
        /// It ought to point to the index.
        Wanted = "wanted" => [Put, Superseded, Failed];
        /// It was put; not looked at again yet.
        Put = "put" => [Verified, Superseded, Failed];
        /// It was seen to point to the index.
        Verified = "verified" => [];
        /// A newer intention has the tag, or will.
        Superseded = "superseded" => [];
        /// It can't be put.
        Failed = "failed" => [];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_reads_back_and_every_life_can_end() {
        fn check<S: Copy + PartialEq + fmt::Debug + 'static>(
            all: &'static [S],
            next: fn(S) -> &'static [S],
            reads_back: impl Fn(S) -> bool,
        ) {
            for &state in all {
                assert!(reads_back(state), "{state:?}");
                let mut reached = vec![state];
                let mut i = 0;
                while i < reached.len() {
                    for &n in next(reached[i]) {
                        if !reached.contains(&n) {
                            reached.push(n);
                        }
                    }
                    i += 1;
                }
                assert!(reached.iter().any(|&s| next(s).is_empty()), "{state:?} never ends");
            }
        }
        macro_rules! check_all {
            ($($name:ident),*) => {$(
                check($name::ALL, $name::next, |s| s.as_str().parse::<$name>() == Ok(s));
            )*};
        }
        check_all!(
            BuildState,
            ExecutionState,
            JobState,
            AttemptState,
            PublicationState,
            DestinationState,
            TagState
        );
    }
}
