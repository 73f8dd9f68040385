//! What a job waits for, and the words for that. To add a reason: a variant, its words here and in [`aside`](super::aside).

use std::fmt;

use farm_types::{Platform, RunMode};

/// For what a worker is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The platform that is built for.
    Platform(Platform),
    /// Others, whose programs run in the build.
    Programs(Vec<Platform>),
    /// Nothing in particular.
    Any,
}

impl fmt::Display for Wanted {
    /// What follows "worker": nothing, or a blank and for what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Platform(platform) => write!(f, " for {platform}"),
            Self::Programs(platforms) => {
                let names: Vec<String> = platforms.iter().map(ToString::to_string).collect();
                write!(f, " for {} (programs of which the build runs)", names.join(" and "))
            }
            Self::Any => Ok(()),
        }
    }
}

/// What a job waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waiting {
    /// Its turn to be tried again.
    Backoff,
    /// What builds that came to nothing have pushed to its repository is being removed there.
    Cleaning,
    /// Somebody who mends its record.
    Unreadable,
    /// All slots of the workers that could run it are taken.
    Slots {
        /// What runs it there; any of them, if that is not needed.
        support: RunMode,
        /// Taken slots.
        used: u32,
        /// All slots.
        total: u32,
    },
    /// Nobody offers what is wanted in a way that its policy allows.
    NoWorker {
        /// What that is.
        wanted: Wanted,
        /// An emulating worker is there, but the policy doesn't allow it (yet).
        emulated_refused: bool,
    },
    /// Its native workers are silent; they may come back.
    Silent {
        /// Native for what.
        wanted: Wanted,
    },
    /// All who could run it are on probation.
    Probation {
        /// What is wanted of them.
        wanted: Wanted,
    },
}

impl Waiting {
    /// The reason in words, for the job's owner.
    pub fn words(&self) -> String {
        match self {
            Self::Backoff => "a moment before it is tried again".to_owned(),
            Self::Cleaning => "the cleaning of the repository that it pushes to".to_owned(),
            Self::Unreadable => "its record can't be read; tell whoever runs the farm".to_owned(),
            Self::Slots { support: RunMode::Unneeded, used, total } => {
                format!("all {SLOTS_WORDS} ({used} of {total})")
            }
            Self::Slots { support, used, total } => {
                format!("all {support} {SLOTS_WORDS} ({used} of {total})")
            }
            Self::NoWorker { wanted, emulated_refused: false } => {
                format!(
                    "no worker{wanted} takes jobs now: see `farm workers`, or start one with `farm-worker`"
                )
            }
            Self::NoWorker { wanted, emulated_refused: true } => {
                format!("no native worker{wanted} is connected, and the policy does not allow emulation")
            }
            Self::Silent { wanted: Wanted::Any } => {
                "the workers, silent for a moment, to come back".to_owned()
            }
            Self::Silent { wanted } => {
                format!("the native workers{wanted}, silent for a moment, to come back")
            }
            Self::Probation { wanted: Wanted::Any } => {
                "a trial build to succeed: all workers are on probation".to_owned()
            }
            Self::Probation { wanted } => {
                format!("a trial build{wanted} to succeed: all workers for it are on probation")
            }
        }
    }
}

/// What the words of a job that waits for nothing but a slot have in them: such a job has a place in the queue.
pub const SLOTS_WORDS: &str = "slots are in use";
