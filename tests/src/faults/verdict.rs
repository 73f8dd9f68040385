//! What must hold when all is over. Each check gives violations, and what it counted.

mod images;
mod logs;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::builds::Submitted;
use super::facts::{self, Attempt, Build, seconds};
use super::fault::Fault;
use super::plan::Kind;
use super::stage::{SLOTS, Target};
use super::{Done, Run};
use crate::farm::output;

/// What a fault has begun may show so long after it: a lease, a backoff, an engine that gets to its feet.
const AFTERMATH: f64 = 15.0;

/// What is known of a run.
pub struct Case<'a> {
    pub run: &'a Run,
    /// By id.
    pub builds: BTreeMap<String, Build>,
    pub attempts: Vec<Attempt>,
    pub tags: Vec<facts::Tag>,
    /// By id.
    pub submitted: BTreeMap<String, &'a Submitted>,
}

#[derive(Debug, Default)]
pub struct Report {
    pub builds: usize,
    states: BTreeMap<String, usize>,
    /// Failed for reasons of the machines, after as many attempts as there may be, each hit by a fault.
    given_up: usize,
    lost: usize,
    pub published_twice: usize,
    pub stale_tags: usize,
    pub log_bytes_wrong: usize,
    pub log_lines: u64,
    /// Puts of an older index after a newer one was settled, which farm then mended.
    pub late_puts: usize,
    requeue: Vec<f64>,
    leader: Vec<f64>,
    ended_by_themselves: usize,
    /// Builds one of whose rows was unreadable for a while; they count here only. And those of them that succeeded.
    spoiled: (usize, usize),
    canaries: usize,
    recovery: Vec<f64>,
    pub violations: Vec<String>,
}

impl Report {
    pub fn violation(&mut self, what: impl Into<String>) {
        self.violations.push(what.into());
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let states: Vec<String> =
            self.states.iter().map(|(state, count)| format!("{state}={count}")).collect();
        write!(
            out,
            "builds={} ({}, given_up={}), lost={}, published_twice={}, stale_tags={}, log_bytes_wrong={} of {} lines, \
             late_puts_mended={}, parts_ended_by_themselves={}, spoiled={} (succeeded={}), canaries={}, requeue {}, leader {}, recovery {}",
            self.builds,
            states.join(" "),
            self.given_up,
            self.lost,
            self.published_twice,
            self.stale_tags,
            self.log_bytes_wrong,
            self.log_lines,
            self.late_puts,
            self.ended_by_themselves,
            self.spoiled.0,
            self.spoiled.1,
            self.canaries,
            median_and_worst(&self.requeue),
            median_and_worst(&self.leader),
            median_and_worst(&self.recovery),
        )
    }
}

fn median_and_worst(values: &[f64]) -> String {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.last() {
        None => "not measured".to_owned(),
        Some(worst) => format!("{:.1}/{worst:.1} s (n={})", sorted[sorted.len() / 2], sorted.len()),
    }
}

pub fn verdict(run: &Run) -> Report {
    let url = run.stage.database_url();
    let mut report = Report { leader: run.leaders.clone(), ..Report::default() };
    report.ended_by_themselves = run.ended.len();
    report.canaries = run.canaries;
    report.recovery.clone_from(&run.recovery.took);
    report.violations.extend(run.recovery.failed.iter().map(|failed| format!("not well: {failed}")));
    report.violations.extend(run.stood_still.iter().cloned());
    if let Some(open) = &run.unsettled {
        report.violation(format!("it did not settle: {open}"));
    }
    let case = Case {
        run,
        builds: facts::builds(&url).into_iter().map(|build| (build.id.clone(), build)).collect(),
        attempts: facts::attempts(&url),
        tags: facts::tags(&url),
        submitted: run.submitted.iter().filter_map(|user| Some((user.id.clone()?, user))).collect(),
    };
    accepted(&case, &mut report);
    ends(&case, &mut report);
    images::check(&case, &mut report);
    logs::check(&case, &mut report);
    machines(&case, &mut report);
    report.requeue = requeue(&case);
    report
}

/// Nobody was refused; each submission is one build, and none is lost.
fn accepted(case: &Case<'_>, report: &mut Report) {
    report.builds = case.submitted.values().filter(|user| !user.is_spoiled()).count();
    for user in &case.run.submitted {
        if !user.trouble.is_empty() {
            report.violation(format!(
                "{} got no answer in {} tries: {}",
                user.name(),
                user.tries,
                user.trouble
            ));
        }
        let Some(id) = &user.id else { continue };
        match case.builds.get(id) {
            Some(build) if build.key == user.name() => {}
            _ => {
                report.lost += 1;
                report.violation(format!("{} was accepted as {id}, which isn't there", user.name()));
            }
        }
    }
    // Who began to submit after another was told that it is accepted, comes after it.
    for (tag, users) in by_tag(case) {
        for earlier in &users {
            for later in &users {
                if earlier.0.ended < later.0.begun && earlier.1.order_key > later.1.order_key {
                    report.violation(format!("{tag}: {} is before {}", later.0.name(), earlier.0.name()));
                }
            }
        }
    }
}

fn by_tag<'a>(case: &'a Case<'a>) -> BTreeMap<&'a str, Vec<(&'a Submitted, &'a Build)>> {
    let mut tags: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for (id, user) in &case.submitted {
        if let Some(build) = case.builds.get(id) {
            tags.entry(&user.tag).or_default().push((*user, build));
        }
    }
    tags
}

/// Every build is final, and ended as it had to.
fn ends(case: &Case<'_>, report: &mut Report) {
    for (id, build) in &case.builds {
        let user = case.submitted.get(id);
        if user.is_some_and(|user| user.is_spoiled()) {
            report.spoiled.0 += 1;
            report.spoiled.1 += usize::from(build.state == "succeeded");
            if !matches!(build.state.as_str(), "succeeded" | "failed") {
                report.lost += 1;
                report.violation(format!("{id}, of which a row was unreadable, is {}", build.state));
            }
            continue;
        }
        *report.states.entry(build.state.clone()).or_default() += 1;
        let Some(user) = user else { continue };
        let kind = user.submission.kind;
        let good = match build.state.as_str() {
            "succeeded" => !matches!(kind, Kind::Fails { .. }),
            "cancelled" => matches!(kind, Kind::Cancelled { .. }),
            "failed" => matches!(kind, Kind::Fails { .. }) && build.cause.as_deref() == Some("user"),
            _ => {
                report.lost += 1;
                false
            }
        };
        if good {
            continue;
        }
        match unexplained(case, build) {
            None => report.given_up += 1,
            Some(why) => {
                let failure = format!("{:?} {:?} {:?}", build.cause, build.code, build.message);
                report.violation(format!("{id} ({kind:?}) is {}: {failure}; {why}", build.state));
                for attempt in case.attempts.iter().filter(|attempt| attempt.build == *id) {
                    report.violation(format!("  {attempt:?}"));
                }
            }
        }
    }
}

/// Why a build's end can't be laid to the faults; nothing if it can: all attempts that a job may have are used up, and
/// each of them was hit.
fn unexplained(case: &Case<'_>, build: &Build) -> Option<String> {
    if build.state != "failed" || !matches!(build.cause.as_deref(), Some("infrastructure" | "killed")) {
        return Some("that is no end for it".to_owned());
    }
    let attempts: Vec<&Attempt> = case.attempts.iter().filter(|attempt| attempt.build == build.id).collect();
    let platforms: BTreeSet<&str> =
        attempts.iter().filter(|a| a.job_state == "failed").map(|a| a.platform.as_str()).collect();
    let used_up = platforms.iter().any(|platform| {
        let tried = attempts.iter().filter(|a| a.platform == *platform && a.state != "released");
        let (count, lost) = tried.fold((0, 0), |(n, lost), a| (n + 1, lost + usize::from(a.state == "lost")));
        let killed = build.cause.as_deref() == Some("killed") && count >= 2;
        count >= 4 || lost >= 3 || killed
    });
    if !used_up {
        return Some("it had attempts left".to_owned());
    }
    let failed = attempts.iter().filter(|a| matches!(a.state.as_str(), "failed" | "lost"));
    failed
        .filter(|a| !case.run.done.iter().any(|done| explains(done, a)))
        .map(|a| format!("no fault explains attempt {} of {}", a.number, a.platform))
        .next()
}

/// Whether this fault can have ended this attempt so.
fn explains(done: &Done, attempt: &Attempt) -> bool {
    let (from, to) = (seconds(done.begun), seconds(done.ended) + AFTERMATH);
    let finished = attempt.finished.unwrap_or(f64::MAX);
    if to < attempt.offered || from > finished {
        return false;
    }
    match attempt.code.as_deref() {
        Some("registry_unavailable") => matches!(done.target, Target::Registry | Target::Door),
        // Whoever can't be heard of is lost.
        Some("worker_lost" | "poison") => !matches!(
            done.target,
            Target::Registry | Target::Door | Target::Engine(_) | Target::Row | Target::Blobs
        ),
        Some("source_unreachable" | "source_missing") => {
            matches!(
                done.target,
                Target::Coordinator(_)
                    | Target::Postgres
                    | Target::Link(_)
                    | Target::Network
                    | Target::Line(_)
                    | Target::Lines
                    | Target::Statement
                    | Target::Blobs
            )
        }
        _ => matches!(done.target, Target::Engine(_)),
    }
}

/// Slots are free, leases are over, workers are there, nobody panicked.
fn machines(case: &Case<'_>, report: &mut Report) {
    let stage = &case.run.stage;
    report.violations.extend(facts::leftovers(&stage.database_url()));
    let said = output(&mut stage.command(&["workers", "--json"]));
    let workers: serde_json::Value = serde_json::from_str(&said.stdout).unwrap_or_default();
    let workers = workers["workers"].as_array().cloned().unwrap_or_default();
    if workers.len() != stage.workers.len() {
        report.violation(format!("{} workers: {said:?}", workers.len()));
    }
    for worker in &workers {
        let idle = worker["slots_free"] == SLOTS && worker["running"].as_array().is_some_and(Vec::is_empty);
        if worker["state"] != "online" || !idle {
            report.violation(format!("worker: {worker}"));
        }
    }
    for part in stage.workers.iter().chain(&stage.coordinators) {
        let log = std::fs::read_to_string(part.log_path()).unwrap_or_default();
        for line in log.lines().filter(|line| line.contains("panicked at")) {
            report.violation(format!("{}: {line}", part.name()));
        }
    }
}

/// From a worker's kill until each job that it ran runs again, seconds.
fn requeue(case: &Case<'_>) -> Vec<f64> {
    let mut found = Vec::new();
    for done in case.run.done.iter().filter(|done| matches!(done.fault, Fault::KillWorker(_))) {
        let Target::Worker(n) = done.target else { continue };
        let (name, killed) = (case.run.stage.workers[n].name(), seconds(done.begun));
        let hit = case.attempts.iter().filter(|attempt| {
            let ran = attempt.started.is_some_and(|started| started < killed);
            attempt.worker == name && attempt.state == "lost" && ran && attempt.finished > Some(killed)
        });
        for hit in hit {
            let same =
                |a: &&Attempt| a.build == hit.build && a.platform == hit.platform && a.number > hit.number;
            let again = case.attempts.iter().filter(same).filter_map(|a| a.started);
            let Some(started) = again.reduce(f64::min) else { continue };
            println!(
                "{} {} runs again {:.1} s after {name} was killed",
                hit.build,
                hit.platform,
                started - killed
            );
            found.push(started - killed);
        }
    }
    found
}
