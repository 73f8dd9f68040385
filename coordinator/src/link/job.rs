//! What people know an attempt by. Workers name attempts by ids that nobody else has seen.

use std::collections::HashMap;

use farm_store::work::lease::OfferedAttempt;
use farm_types::{AttemptId, Platform, ShortId};
use tracing::Span;

/// A job, and which try of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    build: ShortId,
    platform: Platform,
    number: u32,
}

impl Job {
    /// The job of an attempt that is offered.
    pub fn of(offered: &OfferedAttempt) -> Self {
        Self { build: offered.build.clone(), platform: offered.platform.clone(), number: offered.number }
    }

    /// The span in which is logged what happens to it.
    pub fn span(&self) -> Span {
        tracing::error_span!("job", build = %self.build, platform = %self.platform, "try" = self.number)
    }
}

/// The jobs that were offered by a connection and, as far as it is known, run on.
#[derive(Debug, Default)]
pub struct Jobs(HashMap<AttemptId, Job>);

impl Jobs {
    /// Remembers what an attempt is of; true when that is news.
    pub fn learn(&mut self, attempt: AttemptId, job: Job) -> bool {
        self.0.insert(attempt, job).is_none()
    }

    /// The span of an attempt's job. One that was offered by another coordinator, or before this one was started, is known
    /// by the attempt's id only.
    pub fn span(&self, attempt: AttemptId) -> Span {
        self.0.get(&attempt).map_or_else(|| tracing::error_span!("job", %attempt), Job::span)
    }

    /// Forgets what has ended: all but those that the worker names, and those that it may not have heard of yet.
    pub fn keep(&mut self, stays: impl Fn(AttemptId) -> bool) {
        self.0.retain(|attempt, _| stays(*attempt));
    }
}
