//! Whether a worker is sick: it fails several jobs in a row for reasons of its own, while others don't.
//!
//! A worker that is found sick goes **on probation**: it gets no ordinary jobs, only trial builds of its own (probes),
//! until one succeeds. The evidence is what ended on it lately, and was found to be its fault: by its own look at itself
//! after the failure ([`SelfCheck`]), or by the coordinator, which heard nothing of it. Pure; the store brings the records
//! and keeps what is decided.
//!
//! Invariants: a failure's code alone is no evidence, as what a user builds has its part in it; one job alone puts nobody
//! on probation, however often it fails; what all engines suffer alike is held against none. To add a measurement: of
//! the worker's in its `aftermath`; of the coordinator's in [`evidence`].

pub mod engine;
pub mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use farm_types::{EngineId, FailureCode, JobId, Waits, WorkerId};

/// So many different jobs in a row.
pub const SEVERAL: usize = 3;
/// What ended longer ago is forgotten.
pub const WINDOW: TimeDelta = TimeDelta::minutes(30);
/// The waits after probes that failed.
const PROBE_WAITS: Waits = Waits::new(Duration::from_secs(10), Duration::from_secs(600));

/// What a worker found when it looked at itself after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelfCheck {
    /// It did not look: an older worker, or one that was lost.
    Missing,
    /// Nothing: its engine builds, its disks have room.
    Passed,
    /// Something that would fail other jobs as well.
    Failed,
}

/// What a failure says about the worker that it happened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// It, or its engine, is in trouble.
    Machine,
    /// Its way to the coordinator is: only if others have it better.
    Way,
    /// Nothing: it may be the user's own doing.
    None,
}

/// What a failure of this code says, with what the worker then found.
pub fn evidence(code: &FailureCode, found: SelfCheck) -> Evidence {
    match (code, found) {
        (_, SelfCheck::Failed) => Evidence::Machine,
        // No job can make these up: nothing was heard of the worker, or of the job; or the worker lost it by itself.
        (FailureCode::WorkerLost | FailureCode::NoProgress | FailureCode::StoppedUnasked, _) => {
            Evidence::Machine
        }
        // The worker's own connection.
        (FailureCode::SourceUnreachable, _) => Evidence::Way,
        _ => Evidence::None,
    }
}

/// A job that failed on a worker for infrastructure's reasons, or whose worker was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    pub job: JobId,
    /// When the attempt ended.
    pub at: DateTime<Utc>,
    pub code: FailureCode,
    /// What the worker found when it looked at itself afterwards.
    pub found: SelfCheck,
}

/// What ended on a worker lately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub worker: WorkerId,
    /// Workers on one engine suffer alike for its reasons.
    pub engine: EngineId,
    /// What was before this is forgiven: it passed a probe, or an administrator resumed it.
    pub trusted_at: DateTime<Utc>,
    /// Since when it is on probation, if it is.
    pub probation_at: Option<DateTime<Utc>>,
    /// When it last finished an ordinary job.
    pub succeeded_at: Option<DateTime<Utc>>,
    /// What failed on it lately, in any order.
    pub failures: Vec<Failed>,
}

/// What is to be done with a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on probation: no ordinary jobs, only trial builds.
    Probation {
        worker: WorkerId,
        /// Why, for people.
        why: String,
    },
    /// It finished an ordinary job since it is on probation: it is well again.
    Well { worker: WorkerId },
}

/// Looks at all workers at `now`. Gives the changes only.
pub fn judge(records: &[Record], now: DateTime<Utc>) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for record in records {
        match record.probation_at {
            Some(since) if record.succeeded_at.is_some_and(|at| at > since) => {
                verdicts.push(Verdict::Well { worker: record.worker });
            }
            Some(_) => {}
            None => {
                if let Some(why) = suspicion(record, records, now) {
                    verdicts.push(Verdict::Probation { worker: record.worker, why });
                }
            }
        }
    }
    verdicts
}

/// Why this worker is to go on probation, if it is.
fn suspicion(record: &Record, all: &[Record], now: DateTime<Utc>) -> Option<String> {
    let recent = recent(record, now);
    let others: Vec<&Record> = all.iter().filter(|other| other.engine != record.engine).collect();
    let evidence: Vec<&Failed> = recent
        .iter()
        .copied()
        .filter(|failed| match evidence(&failed.code, failed.found) {
            Evidence::Machine => true,
            // Another worker succeeded after that: the coordinator could be reached.
            Evidence::Way => others.iter().any(|o| o.succeeded_at.is_some_and(|at| at > failed.at)),
            Evidence::None => false,
        })
        .collect();
    let jobs: BTreeSet<JobId> = evidence.iter().map(|failed| failed.job).collect();
    if jobs.len() < SEVERAL {
        return None;
    }
    let first = evidence.iter().map(|failed| failed.at).min()?;
    let codes: BTreeSet<&str> = evidence.iter().map(|failed| failed.code.as_str()).collect();
    // Of those elsewhere that had anything to do since: does any fare better?
    let heard = others.iter().filter_map(|other| fares(other, first, &codes, now));
    let heard: Vec<bool> = heard.collect();
    if !heard.is_empty() && !heard.contains(&true) {
        return None;
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for failed in &evidence {
        *counts.entry(failed.code.as_str()).or_default() += 1;
    }
    let counts: Vec<String> = counts
        .into_iter()
        .map(|(code, n)| if n == 1 { code.to_owned() } else { format!("{code} {n} times") })
        .collect();
    Some(format!("{} jobs in a row failed there for its own reasons ({})", jobs.len(), counts.join(", ")))
}

/// The failures that nothing has made up for.
fn recent(record: &Record, now: DateTime<Utc>) -> Vec<&Failed> {
    let since =
        [Some(record.trusted_at), record.succeeded_at, Some(now - WINDOW)].into_iter().flatten().max();
    record.failures.iter().filter(|failed| since.is_none_or(|since| failed.at > since)).collect()
}

/// Whether a worker elsewhere fares better since `first`: `None` when it had nothing to do.
fn fares(other: &Record, first: DateTime<Utc>, codes: &BTreeSet<&str>, now: DateTime<Utc>) -> Option<bool> {
    if other.succeeded_at.is_some_and(|at| at >= first) {
        return Some(true);
    }
    let alike = recent(other, now).iter().any(|failed| {
        codes.contains(failed.code.as_str()) && evidence(&failed.code, failed.found) != Evidence::None
    });
    alike.then_some(false)
}

/// The wait before the next probe, after so many failed ones, or probations without a success between: 10 s, doubling to
/// 10 min; none after none.
pub fn probe_wait(failures: u32) -> Duration {
    PROBE_WAITS.after(failures)
}

#[cfg(test)]
#[path = "machines_tests.rs"]
mod tests;
