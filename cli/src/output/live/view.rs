//! What the live view knows of a build: a row for each platform, and in it what runs.
//!
//! Invariant: it holds the last lines of output only, however much there is.

use std::collections::{HashMap, VecDeque};

use farm_proto::v1::attempt_event::Event;
use farm_proto::v1::{Attempt, AttemptEvents, Build, Job, StepLog, StepUpdate, Transfer};

use crate::output::progress::{SeenWarning, UNNEEDED, note, setback};
use crate::output::summary::platform_jobs;
use crate::output::text::{first_line, harmless, short_digest};
use farm_types::lines::Lines;

/// Lines of output that are kept of each step.
const TAIL: usize = 4;

/// The state of a build, as the live view shows it.
#[derive(Debug, Default)]
pub struct View {
    /// In the order in which the platforms were asked for.
    pub rows: Vec<Row>,
    /// What is done before there is a build.
    pub preparing: Option<String>,
    /// What is being published.
    pub publishing: Option<String>,
    /// Why the farm doesn't answer.
    pub away: Option<String>,
    /// What the user is asked.
    pub question: Option<String>,
    warnings: Vec<SeenWarning>,
    /// The state of each attempt that was last told of.
    told: HashMap<String, String>,
}

/// A platform.
#[derive(Debug)]
pub struct Row {
    /// The platform as it was asked for.
    pub platform: String,
    /// How far it is.
    pub state: State,
    /// The attempt that runs, or ran last.
    pub run: Option<Run>,
}

/// How far a platform is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It waits for a worker, or for another job.
    Waiting {
        /// What it waits for, in words.
        why: String,
        /// When it is likely to start, milliseconds since 1970; 0 = nobody can tell.
        starts_ms: i64,
    },
    /// It runs on a worker.
    Running,
    /// It is built; this digest was pushed.
    Built(String),
    /// It failed; the summary says why.
    Failed,
    /// It was cancelled by somebody, or since another platform failed.
    Cancelled,
}

/// An attempt.
#[derive(Debug)]
pub struct Run {
    id: String,
    /// The name of its worker.
    pub worker: String,
    /// `native` or `emulated`.
    pub support: String,
    /// Why it is emulated.
    pub reason: String,
    /// What the worker said last that belongs to no step.
    pub notice: String,
    /// When it was first seen to run, on this machine's clock, milliseconds: clocks of others may differ.
    since_ms: i64,
    /// How long it took, once it has ended.
    took_ms: Option<i64>,
    steps: Vec<Step>,
    places: HashMap<String, usize>,
    /// Counts what was written, to know who wrote last.
    written: u64,
}

/// A step of an attempt.
#[derive(Debug, Default)]
pub struct Step {
    /// The step as people read it (`[2/5] RUN make`).
    pub name: String,
    internal: bool,
    /// Whether it stands in the Dockerfile, and so counts for the bar.
    counts: bool,
    started: bool,
    ended: bool,
    /// Bytes on their way: so many, of so many (0: not known).
    pub transfer: Option<(u64, u64)>,
    streams: HashMap<u32, Lines>,
    /// The last lines that it wrote.
    pub tail: VecDeque<String>,
    wrote_at: u64,
}

impl View {
    /// The warnings so far, each once.
    pub fn warnings(&self) -> &[SeenWarning] {
        &self.warnings
    }

    /// The build as it is now, seen at `now_ms` on this machine's clock. Answers what is worth a line that stays.
    pub fn build(&mut self, build: &Build, now_ms: i64) -> Vec<String> {
        let mut out = Vec::new();
        self.away = None;
        for job in platform_jobs(build) {
            out.extend(self.setbacks(job));
            let row = match self.rows.iter().position(|row| row.platform == job.platform) {
                Some(at) => &mut self.rows[at],
                None => {
                    let state = State::Waiting { why: String::new(), starts_ms: 0 };
                    self.rows.push(Row { platform: job.platform.clone(), state, run: None });
                    // It was pushed just now.
                    let last = self.rows.len() - 1;
                    &mut self.rows[last]
                }
            };
            row.state = match (job.state.as_str(), &job.result) {
                ("succeeded", result) => {
                    State::Built(result.as_ref().map(|r| short_digest(&r.digest)).unwrap_or_default())
                }
                ("failed", _) => State::Failed,
                ("cancelled", _) => State::Cancelled,
                ("leased" | "running", _) => State::Running,
                _ => State::Waiting { why: harmless(&job.waiting), starts_ms: job.starts_ms },
            };
            // What was taken over ran for another build.
            let mut attempts = job.attempts.iter().rev().filter(|_| job.taken_from.is_empty());
            if let Some(attempt) = attempts.find(|attempt| attempt.started_ms > 0) {
                row.attempt(attempt, now_ms);
            }
        }
        self.publishing = (build.state == "publishing")
            .then(|| build.spec.as_ref().map(|spec| spec.tags.join(", ")).unwrap_or_default())
            .filter(|tags| !tags.is_empty())
            .map(|tags| match build.publish_trouble.as_str() {
                "" => tags,
                trouble => format!("{tags}: {}; trying again", first_line(trouble, 300)),
            });
        out
    }

    fn setbacks(&mut self, job: &Job) -> Vec<String> {
        let decided = matches!(job.state.as_str(), "succeeded" | "failed" | "cancelled");
        let mut out = Vec::new();
        for attempt in job.attempts.iter().filter(|_| job.taken_from.is_empty()) {
            let told = self.told.insert(attempt.id.clone(), attempt.state.clone());
            if told.as_ref() != Some(&attempt.state)
                && let Some(text) = setback(attempt, decided)
            {
                out.push(format!("{}  {text}", job.platform));
            }
        }
        out
    }

    /// A piece of an attempt's stream. What isn't of the attempt that runs is old.
    pub fn events(&mut self, events: &AttemptEvents) {
        let row = self.rows.iter_mut().find(|row| row.platform == events.platform);
        let mut run = row.and_then(|row| row.run.as_mut()).filter(|run| run.id == events.attempt_id);
        for event in events.events.iter().filter_map(|event| event.event.as_ref()) {
            match (event, run.as_mut()) {
                (Event::Warning(warning), _) => note(&mut self.warnings, &events.platform, warning),
                (Event::Step(step), Some(run)) => run.step(step),
                (Event::Log(log), Some(run)) => run.log(log),
                (Event::Transfer(transfer), Some(run)) => run.transfer(transfer),
                (Event::Notice(notice), Some(run)) => run.notice = harmless(&notice.text),
                (_, None) => {}
            }
        }
    }
}

impl Row {
    fn attempt(&mut self, attempt: &Attempt, now_ms: i64) {
        if self.run.as_ref().is_none_or(|run| run.id != attempt.id) {
            self.run = Some(Run {
                id: attempt.id.clone(),
                worker: harmless(&attempt.worker),
                support: match attempt.support.as_str() {
                    UNNEEDED => "no program".to_owned(),
                    support => harmless(support),
                },
                reason: harmless(&attempt.support_reason),
                notice: String::new(),
                since_ms: now_ms,
                took_ms: None,
                steps: Vec::new(),
                places: HashMap::new(),
                written: 0,
            });
        }
        if let Some(run) = &mut self.run
            && attempt.finished_ms > 0
        {
            run.took_ms = Some(attempt.finished_ms - attempt.started_ms);
        }
    }
}

impl Run {
    /// How long it runs, or ran, milliseconds.
    pub fn took_ms(&self, now_ms: i64) -> i64 {
        self.took_ms.unwrap_or(now_ms - self.since_ms)
    }

    /// Steps of the Dockerfile that have ended, and all that are known. The engine may have several vertices for one
    /// instruction (a COPY is one per way to reach its result): it is one step, and ends with the first of them.
    pub fn steps(&self) -> (usize, usize) {
        let mut steps: HashMap<&str, bool> = HashMap::new();
        for step in self.steps.iter().filter(|step| step.counts) {
            *steps.entry(&step.name).or_default() |= step.ended;
        }
        (steps.values().filter(|ended| **ended).count(), steps.len())
    }

    /// What runs now, the one that wrote last (or began last) first.
    pub fn running(&self) -> Vec<&Step> {
        let mut running: Vec<&Step> =
            self.steps.iter().rev().filter(|step| step.started && !step.ended).collect();
        // Housekeeping matters when there is nothing else.
        if running.iter().any(|step| !step.internal) {
            running.retain(|step| !step.internal);
        }
        running.sort_by_key(|step| std::cmp::Reverse(step.wrote_at));
        running
    }

    fn place(&mut self, digest: &str) -> &mut Step {
        let next = self.steps.len();
        let at = *self.places.entry(digest.to_owned()).or_insert(next);
        if at == next {
            self.steps.push(Step::default());
        }
        &mut self.steps[at]
    }

    fn step(&mut self, update: &StepUpdate) {
        let step = self.place(&update.digest);
        step.name = harmless(update.name.lines().next().unwrap_or_default());
        step.internal = step.name.starts_with("[internal]");
        step.counts = update.number > 0;
        step.started = update.started_ms > 0;
        step.ended = update.finished_ms > 0 || update.cached || !update.error.is_empty();
        if step.ended {
            step.transfer = None;
        }
    }

    fn log(&mut self, log: &StepLog) {
        self.written += 1;
        let written = self.written;
        let step = self.place(&log.step_digest);
        step.wrote_at = written;
        for line in step.streams.entry(log.stream).or_default().push(&log.data) {
            if line.trim().is_empty() {
                continue;
            }
            if step.tail.len() == TAIL {
                step.tail.pop_front();
            }
            step.tail.push_back(line);
        }
    }

    fn transfer(&mut self, transfer: &Transfer) {
        let step = self.place(&transfer.step_digest);
        step.transfer = (!transfer.done).then_some((transfer.current, transfer.total));
    }
}
