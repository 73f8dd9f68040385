//! What a job waits for: a value, which is stored as it is, and the words that are made of it for people.
//!
//! To add a reason: a variant, its words in [`Waiting::words`], and its example in the tests, which write
//! `docs/reference/waiting.md`.

use std::fmt;

use farm_types::entitlement::{listed, words};
use farm_types::{Entitlements, Platform, RunMode};
use serde::{Deserialize, Serialize};

use crate::machines::engine::UNFENCED_WORDS;

/// For what a worker is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// The platform that is built for.
    Platform(Platform),
    /// Other platforms than that of the build, of which it runs programs.
    Programs(Vec<Platform>),
    /// Any worker would do.
    Any,
    /// One whose machine is trusted and has git.
    Git,
    /// One whose machine is trusted and that fetches archives.
    Archives,
    /// One for this platform that runs gates.
    Gates(Box<Platform>),
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
            Self::Git => f.write_str(" with git"),
            Self::Archives => f.write_str(" that fetches archives"),
            Self::Gates(platform) => write!(f, " for {platform} that runs gates"),
        }
    }
}

/// Why a worker gets no ordinary jobs; the texts are for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// An administrator drained it (`farm workers drain`).
    Drained,
    /// It went on with an attempt that it was told to stop.
    Quarantined(String),
    /// It failed several jobs for reasons of its own.
    Probation(String),
    /// It says so itself: its disk is full, its engine is away.
    Withdrawn(String),
    /// Its machine isn't trusted, so it gets nothing that mounts secrets or moves a protected tag, and without a staging registry nothing that pushes.
    Untrusted,
    /// Nor is its machine trusted, nor its engine new enough for that: it gets nothing.
    EngineTooOld(String),
    /// Nor is its machine trusted, nor has anybody said that its engine is fenced off: it gets nothing.
    Unfenced,
}

impl Reason {
    /// Only a worker whose machine isn't trusted is set aside for it.
    pub(crate) fn is_of_untrusted(&self) -> bool {
        matches!(self, Self::EngineTooOld(_) | Self::Unfenced)
    }
}

/// A worker that could run the job, if it were not set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// The worker's name.
    pub name: String,
    /// What keeps it from the job.
    pub reason: Reason,
}

/// What a job waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "for", rename_all = "snake_case")]
pub enum Waiting {
    /// Its turn to be tried again.
    Backoff,
    /// What builds that came to nothing have pushed to its repository is being removed there.
    Cleaning,
    /// Its record can't be read, until somebody mends the database.
    Unreadable,
    /// The rest of its source, of which only a part was sent.
    Source,
    /// All slots of the workers that could run it are taken. Only such a job has a place in the queue.
    Slots {
        /// What runs it there; any of them, if that is not needed.
        support: RunMode,
        /// How many of these slots are taken.
        used: u32,
        /// How many slots these workers have in all.
        total: u32,
    },
    /// A fetch: those who could run it run as many as they may at once.
    Fetches {
        /// How many they run.
        used: u32,
        /// How many these workers run at most.
        total: u32,
    },
    /// Its project holds all the slots that it may (`farm project set --max-running-slots`), whatever is free besides.
    Quota {
        /// How many slots the project's jobs hold.
        used: u32,
        /// How many it may hold.
        total: u32,
    },
    /// Nobody offers what is wanted in a way that its policy allows.
    NoWorker {
        /// For what no worker is there.
        wanted: Wanted,
        /// An emulating worker is there, but the policy doesn't allow it (yet).
        emulated_refused: bool,
        /// Workers that could run it, but are set aside.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        aside: Vec<SetAside>,
    },
    /// Its project may not ask for these any more (`farm project set --allow`).
    Forbidden {
        /// What it may not.
        entitlements: Entitlements,
    },
    /// Who offers what is wanted may not grant what it asks for (`farm-worker --allow`).
    Ungranted {
        /// For what a worker is wanted.
        wanted: Wanted,
        /// What it asks for.
        entitlements: Entitlements,
    },
    /// A fork's pull request proposes it, and nobody whose machine isn't trusted takes jobs.
    Untrusted {
        /// Workers of that kind that take nothing.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        aside: Vec<SetAside>,
    },
    /// Its native workers are silent; they may come back.
    Silent {
        /// For what the silent workers were native.
        wanted: Wanted,
        /// Workers that are heard of and could run it, but are set aside.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        aside: Vec<SetAside>,
    },
    /// All who could run it are on probation.
    Probation {
        /// For what they are wanted.
        wanted: Wanted,
        /// The workers on probation.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        aside: Vec<SetAside>,
    },
    /// What a coordinator of another version wrote down, which only its own words are known of. It is never stored.
    #[serde(skip)]
    Told(String),
}

impl Waiting {
    /// The reason in words, for the job's owner; names the workers that could run the job and are set aside, if there are
    /// any.
    pub fn words(&self) -> String {
        match self {
            Self::Backoff => "a moment before it is tried again".to_owned(),
            Self::Cleaning => "the cleaning of the repository that it pushes to".to_owned(),
            Self::Unreadable => "its record can't be read; tell whoever runs the farm".to_owned(),
            Self::Source => "the rest of its source, which farm submit sends".to_owned(),
            Self::Slots { support: RunMode::Unneeded, used, total } => {
                format!("all slots are in use ({used} of {total})")
            }
            Self::Slots { support, used, total } => {
                format!("all {support} slots are in use ({used} of {total})")
            }
            Self::Fetches { used, total } => {
                format!(
                    "the workers that could fetch it fetch as much as they may at once ({used} of {total})"
                )
            }
            Self::Quota { used, total } => {
                format!("the project's own limit: {used} of the {total} slots that it may have are in use")
            }
            Self::Forbidden { entitlements } => format!(
                "its project may not use {} any more; an admin of the farm can allow it: farm project set NAME --allow {}",
                words(entitlements),
                listed(entitlements)
            ),
            Self::Ungranted { wanted, entitlements } => {
                let list = listed(entitlements);
                format!(
                    "no worker{wanted} may grant {}: whoever runs one can start it with `farm-worker --allow {list}`, or this \
                     machine's farm with `farm up --allow {list}`",
                    words(entitlements)
                )
            }
            Self::Untrusted { aside } => {
                let begin = "an untrusted worker: pull requests of forks run on those only";
                match keeps(aside) {
                    Some(kept) => format!("{begin}, and {kept}"),
                    None => format!(
                        "{begin}; invite one (`farm workers invite --trust untrusted`, where the farm has a staging registry), or start one on this machine (`farm up --untrusted`)"
                    ),
                }
            }
            Self::NoWorker { wanted, emulated_refused, aside } => no_worker(wanted, *emulated_refused, aside),
            Self::Silent { wanted, aside } => silent(wanted, aside),
            Self::Probation { wanted, aside } => match keeps(aside) {
                Some(kept) => format!("a trial build{wanted} to succeed: {kept}"),
                None if *wanted == Wanted::Any => {
                    "a trial build to succeed: all workers are on probation".to_owned()
                }
                None => format!("a trial build{wanted} to succeed: all workers for it are on probation"),
            },
            Self::Told(words) => words.clone(),
        }
    }
}

fn no_worker(wanted: &Wanted, emulated_refused: bool, aside: &[SetAside]) -> String {
    match (emulated_refused, keeps(aside)) {
        (_, None) if *wanted == Wanted::Git => {
            "no trusted worker with git takes jobs now: install git on a worker's machine and start the worker again; `farm workers` \
             shows them"
                .to_owned()
        }
        (_, None) if *wanted == Wanted::Archives => {
            "no trusted worker that fetches archives takes jobs now: they are of before there were such fetches, so update one; `farm \
             workers` shows them"
                .to_owned()
        }
        (_, None) if matches!(wanted, Wanted::Gates(_)) => {
            format!("no worker{wanted} takes jobs now: they are of before there were gates, so update one; `farm workers` shows them")
        }
        (false, Some(kept)) => format!("no worker{wanted} takes jobs now: {kept}"),
        (false, None) => {
            format!("no worker{wanted} takes jobs now: see `farm workers`, or start one with `farm-worker`")
        }
        (true, Some(kept)) => format!(
            "no native worker{wanted} takes jobs now, and the policy does not allow emulation: {kept}"
        ),
        (true, None) => {
            format!("no native worker{wanted} is connected, and the policy does not allow emulation")
        }
    }
}

/// To the owner of a job whose native workers were set aside "silent" would be a riddle, and the cure is another one.
fn silent(wanted: &Wanted, aside: &[SetAside]) -> String {
    match (wanted, keeps(aside)) {
        (Wanted::Any, Some(kept)) => format!("no worker takes jobs now: {kept}"),
        (Wanted::Any, None) => "the workers, silent for a moment, to come back".to_owned(),
        (wanted, Some(kept)) => format!("no native worker{wanted} takes jobs now: {kept}"),
        (wanted, None) => format!("the native workers{wanted}, silent for a moment, to come back"),
    }
}

/// What keeps each of these from the job; `None` for none.
fn keeps(aside: &[SetAside]) -> Option<String> {
    let is_drained = |worker: &&SetAside| worker.reason == Reason::Drained;
    let drained: Vec<&str> = aside.iter().filter(is_drained).map(|worker| worker.name.as_str()).collect();
    let are = if drained.len() == 1 { "is" } else { "are" };
    let drained = (!drained.is_empty()).then(|| {
        let (names, same) = (drained.join(", "), drained.join(" "));
        format!("{names} {are} drained; `farm workers resume {same}` takes that back")
    });
    let others = aside.iter().filter_map(|SetAside { name, reason }| match reason {
        Reason::Drained => None,
        Reason::Quarantined(why) => Some(format!("{name} is quarantined: {why}")),
        Reason::Probation(why) => Some(format!("{name} is on probation: {why}")),
        Reason::Withdrawn(why) => Some(format!("{name} has withdrawn: {why}")),
        Reason::Untrusted => {
            Some(format!(
                "{name} is on a machine that isn't trusted, and builds nothing that mounts secrets or moves a protected tag, and \
                 what pushes only where the farm has a staging registry"
            ))
        }
        Reason::Unfenced => {
            Some(format!("{name} takes nothing: its machine isn't trusted, and {UNFENCED_WORDS}"))
        }
        Reason::EngineTooOld(why) => Some(format!("{name} takes nothing: its machine isn't trusted, and {why}")),
    });
    let all: Vec<String> = drained.into_iter().chain(others).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

#[cfg(test)]
#[path = "waiting_tests.rs"]
mod tests;
