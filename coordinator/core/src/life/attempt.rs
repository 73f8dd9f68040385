//! The life of an attempt, and what its end means for its job.

use std::str::FromStr;

use farm_types::state::{AttemptState, JobState};
use farm_types::{Cause, Failure, FailureCode, Invalid};

use super::{Transition, job, transitions};
use crate::work::again::Ending;

transitions! { AttemptState:
    /// Its worker says that it runs.
    START = Offered => Running;
    /// Its worker has a result.
    SUCCEED = Offered | Running => Succeeded;
    /// Its worker has a failure, or stopped it at its deadline.
    FAIL = Offered | Running => Failed;
    /// Its lease ended, or its worker came back without it.
    LOSE = Offered | Running => Lost;
    /// Its worker gave it back unharmed.
    RELEASE = Offered | Running => Released;
    /// Its worker stopped it, since nobody wants it any more.
    CANCEL = Offered | Running => Cancelled;
    /// Nobody wants it any more, and its worker hasn't begun.
    WITHDRAW = Offered => Cancelled;
}

/// Why a worker is to stop an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Somebody cancelled the last build that wanted it.
    Cancelled,
    /// A required platform of the same execution failed.
    FailedElsewhere,
    /// It goes on for longer than a try may.
    Deadline,
    /// Nothing was heard of its progress for too long.
    NoProgress,
    /// Its worker has to leave; another one is to run it.
    Released,
}

impl StopReason {
    pub const ALL: [Self; 5] =
        [Self::Cancelled, Self::FailedElsewhere, Self::Deadline, Self::NoProgress, Self::Released];

    /// As SQL and the wire have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::FailedElsewhere => "failed elsewhere",
            Self::Deadline => "deadline",
            Self::NoProgress => "no progress",
            Self::Released => "released",
        }
    }

    /// Nobody wants the result any more.
    fn is_unwanted(self) -> bool {
        matches!(self, Self::Cancelled | Self::FailedElsewhere)
    }
}

impl FromStr for StopReason {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL
            .into_iter()
            .find(|reason| reason.as_str() == text)
            .ok_or_else(|| Invalid::new("stop reason", text, "no such reason"))
    }
}

/// What is heard of an attempt's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Its worker has a result.
    Succeeded,
    /// Its worker has a failure.
    Failed(Failure),
    /// Its worker stopped it, as it was told to or because it leaves.
    Stopped,
    /// Its worker has not begun it.
    Released {
        /// The worker refused it: another one is asked first.
        declined: bool,
    },
    /// Nothing: the lease ended, or the worker lives another life.
    Silence {
        /// It never said that it runs.
        unanswered: bool,
    },
}

/// What an end comes to, for the attempt and for its job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub transition: Transition<AttemptState>,
    /// The failure that is kept with it.
    pub failure: Option<Failure>,
    pub job: JobFate,
}

/// What an attempt's end means for its job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobFate {
    /// The job has its result and succeeded.
    Result,
    /// The job is cancelled with it: no build wants the result any more.
    Cancelled,
    /// No result: whether the job is tried again [`crate::work::again::after`] decides.
    Ending(Ending),
}

impl JobFate {
    /// The job's transition, where it is known without asking how often it was tried.
    pub fn transition(&self) -> Option<Transition<JobState>> {
        match self {
            Self::Result => Some(job::SUCCEED),
            Self::Cancelled => Some(job::STOPPED),
            Self::Ending(_) => None,
        }
    }
}

/// What the end of an attempt comes to that was told to stop for this reason, if it was.
///
/// A result counts even if nobody wanted it any more: it is there. A failure doesn't, if it came of being stopped.
pub fn end(stop: Option<StopReason>, said: Said) -> Ended {
    let unwanted = stop.is_some_and(StopReason::is_unwanted);
    let late = match stop {
        Some(StopReason::Deadline) => Some(deadline()),
        Some(StopReason::NoProgress) => Some(no_progress()),
        _ => None,
    };
    let given_back = stop == Some(StopReason::Released);
    let failed = |failure: Failure| Ended {
        transition: FAIL,
        failure: Some(failure.clone()),
        job: JobFate::Ending(Ending::Failed(failure)),
    };
    let ended = |transition, job| Ended { transition, failure: None, job };
    match (said, late) {
        (Said::Succeeded, _) => ended(SUCCEED, JobFate::Result),
        (Said::Failed(_) | Said::Stopped, _) if unwanted => ended(CANCEL, JobFate::Cancelled),
        (Said::Failed(_) | Said::Stopped, Some(late)) => failed(late),
        // What dies of being stopped looks like a failure.
        (Said::Failed(_), None) if given_back => {
            ended(RELEASE, JobFate::Ending(Ending::Released { declined: false }))
        }
        (Said::Failed(failure), None) => failed(failure),
        (Said::Stopped, None) => ended(RELEASE, JobFate::Ending(Ending::Released { declined: false })),
        (Said::Released { .. }, _) if unwanted => ended(RELEASE, JobFate::Cancelled),
        (Said::Released { declined }, _) => ended(RELEASE, JobFate::Ending(Ending::Released { declined })),
        (Said::Silence { .. }, _) if unwanted => ended(LOSE, JobFate::Cancelled),
        (Said::Silence { .. }, Some(late)) => ended(LOSE, JobFate::Ending(Ending::Failed(late))),
        // Nothing ever ran, so no worker was lost by it.
        (Said::Silence { unanswered: true }, None) => {
            ended(LOSE, JobFate::Ending(Ending::Released { declined: true }))
        }
        // The worker had been told to leave, and left without a word.
        (Said::Silence { .. }, None) if given_back => {
            ended(LOSE, JobFate::Ending(Ending::Released { declined: false }))
        }
        (Said::Silence { unanswered: false }, None) => ended(LOSE, JobFate::Ending(Ending::Lost)),
    }
}

/// The failure of an attempt that was stopped since nothing was heard of its progress.
fn no_progress() -> Failure {
    Failure::new(
        Cause::Infrastructure,
        FailureCode::NoProgress,
        "nothing was heard of its progress for too long (progress_deadline_seconds in the coordinator's configuration)",
    )
}

/// The failure of an attempt that was stopped since it took longer than a try may.
fn deadline() -> Failure {
    Failure::new(
        Cause::Deadline,
        FailureCode::AttemptDeadline,
        "it took longer than a try may (attempt_deadline_seconds in the coordinator's configuration)",
    )
}
