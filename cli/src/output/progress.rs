//! A build's events as plain lines, in the order in which they come.
//!
//! Every line begins with its platform. Lines of a step's output stand behind a bar
//! (`linux/amd64 | text`), the farm's own behind two blanks (`linux/amd64  [2/5] RUN make  3.1 s`).
//!
//! Invariant: what was said is not said again when the farm sends the same state once more.

use std::collections::HashMap;

use farm_proto::v1::attempt_event::Event;
use farm_proto::v1::{Attempt, AttemptEvents, Build, Job, StepLog, StepUpdate, Warning};

use super::rules::{Weight, advice};
use super::text::{first_line, harmless, short_digest, span};
use farm_types::lines::Lines;

/// A step's name is shown up to so many characters.
const NAME_WIDTH: usize = 100;
/// The engine's own housekeeping is told only when it takes that long, milliseconds.
const HOUSEKEEPING_MS: i64 = 1000;
/// A step that ended once more is told of again when it took so much longer than was told.
const PAUSED_MS: i64 = 500;

/// What was said of a build so far.
#[derive(Debug, Default)]
pub struct Progress {
    only: Option<String>,
    width: usize,
    build_state: String,
    /// Why it isn't published yet, as it was last told.
    trouble: String,
    jobs: HashMap<String, SeenJob>,
    /// The state that was last told, by attempt.
    attempts: HashMap<String, String>,
    /// What to say before the first line of an attempt.
    introductions: HashMap<String, String>,
    steps: HashMap<(String, String), SeenStep>,
    /// The step whose output was printed last, by attempt.
    talking: HashMap<String, String>,
    warnings: Vec<SeenWarning>,
}

#[derive(Debug, Default)]
struct SeenJob {
    waiting: String,
    ended: bool,
}

#[derive(Debug, Default)]
struct SeenStep {
    platform: String,
    name: String,
    /// 0 until its end was told.
    finished_ms: i64,
    /// How long it took when its end was told last.
    took_ms: Option<i64>,
    streams: HashMap<u32, Lines>,
}

/// What an attempt's `support` says of one that no program of the platform ran in, away from native workers.
pub const UNNEEDED: &str = "unneeded";

/// A warning, once over all platforms that gave it.
#[derive(Debug, Clone)]
pub struct SeenWarning {
    /// As the engine gave it.
    pub warning: Warning,
    /// In the order in which they gave it.
    pub platforms: Vec<String>,
    /// Those of them whose image is made of what it is about.
    pub of_use: Vec<String>,
}

impl SeenWarning {
    /// Whether no image is made of what it is about.
    pub fn is_void(&self) -> bool {
        self.of_use.is_empty()
    }

    /// The platforms that it concerns.
    pub fn concerned(&self) -> &[String] {
        if self.is_void() { &self.platforms } else { &self.of_use }
    }

    /// Whether it matters, if that is known, and what to do; for people.
    pub fn advice(&self) -> (Option<Weight>, String) {
        if self.is_void() {
            let stage = format!("this stage isn't used for {}", self.platforms.join(", "));
            return (Some(Weight::Harmless), stage);
        }
        advice(&self.warning.rule)
            .map_or((None, String::new()), |(weight, cure)| (Some(weight), cure.to_owned()))
    }
}

impl Progress {
    /// Follows all platforms, or `only` this one.
    pub fn new(only: Option<String>) -> Self {
        Self { only, ..Self::default() }
    }

    /// The warnings so far, each once.
    pub fn warnings(&self) -> &[SeenWarning] {
        &self.warnings
    }

    /// Tells of a build whose output is to be replayed: each attempt is then introduced before its output.
    pub fn introduce(&mut self, build: &Build) {
        if let Some(spec) = &build.spec {
            self.width = spec.platforms.iter().map(String::len).max().unwrap_or(0);
        }
        let made_here = build.jobs.iter().filter(|job| job.taken_from.is_empty());
        for (job, attempt) in made_here.flat_map(|job| job.attempts.iter().map(move |a| (job, a))) {
            if attempt.started_ms > 0 {
                let line = format!("{}  {}", self.label(&job.platform), start(attempt));
                self.introductions.insert(attempt.id.clone(), line);
            }
        }
    }

    /// The build as it is now; answers the lines for what changed.
    pub fn build(&mut self, build: &Build) -> Vec<String> {
        let mut out = Vec::new();
        if let Some(spec) = &build.spec {
            self.width = spec.platforms.iter().map(String::len).max().unwrap_or(0);
        }
        for job in &build.jobs {
            if self.wants(&job.platform) {
                self.job(job, &mut out);
            }
        }
        if build.state != self.build_state {
            self.build_state.clone_from(&build.state);
            if build.state == "publishing" && self.only.is_none() {
                let tags = build.spec.as_ref().map(|spec| spec.tags.join(", ")).unwrap_or_default();
                if !tags.is_empty() {
                    out.push(format!("publishing {tags}"));
                }
            }
        }
        if build.publish_trouble != self.trouble && self.only.is_none() {
            self.trouble.clone_from(&build.publish_trouble);
            if !self.trouble.is_empty() {
                out.push(format!("not published yet: {}; trying again", first_line(&self.trouble, 300)));
            }
        }
        out
    }

    fn wants(&self, platform: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == platform)
    }

    fn job(&mut self, job: &Job, out: &mut Vec<String>) {
        let decided = matches!(job.state.as_str(), "succeeded" | "failed" | "cancelled");
        let label = self.label(&job.platform);
        if !job.taken_from.is_empty() {
            if !std::mem::replace(&mut self.jobs.entry(job.id.clone()).or_default().ended, true) {
                let digest = job.result.as_ref().map(|r| short_digest(&r.digest)).unwrap_or_default();
                let line = format!("{label}  taken over from {}  {digest}", harmless(&job.taken_from));
                out.push(line.trim_end().to_owned());
            }
            return;
        }
        for attempt in &job.attempts {
            self.attempt(job, attempt, decided, out);
        }
        let seen = self.jobs.entry(job.id.clone()).or_default();
        if job.state == "ready" {
            // Counting down isn't news.
            let words: String = job.waiting.chars().filter(|c| !c.is_ascii_digit()).collect();
            if words != seen.waiting {
                seen.waiting = words;
                if !job.waiting.is_empty() {
                    out.push(format!("{label}  waiting  {}", harmless(&job.waiting)));
                }
            }
        } else {
            seen.waiting.clear();
        }
        if decided && !std::mem::replace(&mut seen.ended, true) {
            let time = job.attempts.last().map(|a| span(a.finished_ms - a.started_ms.max(a.offered_ms)));
            match (job.state.as_str(), &job.result, &job.failure) {
                ("succeeded", Some(result), _) => {
                    let time = time.unwrap_or_default();
                    let digest = match result.digest.as_str() {
                        "" => String::new(),
                        digest => format!("{}  ", short_digest(digest)),
                    };
                    let done = match (job.kind.as_str(), &result.answer) {
                        ("run", _) => "ran",
                        (_, Some(_)) => "answered",
                        _ => "built",
                    };
                    out.push(format!("{label}  {done}  {digest}{time}"));
                }
                ("failed", _, Some(failure)) => {
                    out.push(format!("{label}  failed  {}", first_line(&failure.message, 200)));
                }
                (state, ..) => out.push(format!("{label}  {state}")),
            }
        }
    }

    fn attempt(&mut self, job: &Job, attempt: &Attempt, decided: bool, out: &mut Vec<String>) {
        let state = attempt.state.as_str();
        let told = self.attempts.entry(attempt.id.clone()).or_insert_with(|| "offered".to_owned());
        if *told == state {
            return;
        }
        let before = std::mem::replace(told, state.to_owned());
        let label = self.label(&job.platform);
        if before == "offered" && attempt.started_ms > 0 {
            self.introductions.remove(&attempt.id);
            out.push(format!("{label}  {}", start(attempt)));
        }
        out.extend(setback(attempt, decided).map(|text| format!("{label}  {text}")));
    }

    /// A piece of an attempt's stream; answers its lines.
    pub fn events(&mut self, events: &AttemptEvents) -> Vec<String> {
        let mut out = Vec::new();
        if !self.wants(&events.platform) {
            return out;
        }
        self.width = self.width.max(events.platform.len());
        if let Some(line) = self.introductions.remove(&events.attempt_id) {
            self.attempts.insert(events.attempt_id.clone(), "running".to_owned());
            out.push(line);
        }
        for event in events.events.iter().filter_map(|event| event.event.as_ref()) {
            match event {
                Event::Step(step) => self.step(events, step, &mut out),
                Event::Log(log) => self.log(events, log, &mut out),
                Event::Warning(warning) => note(&mut self.warnings, &events.platform, warning),
                Event::Notice(notice) => {
                    out.push(format!("{}  {}", self.label(&events.platform), harmless(&notice.text)));
                }
                Event::Transfer(_) => {}
            }
        }
        out
    }

    /// Takes note of a piece that isn't shown: what its steps are called, and lines whose end is still to come.
    pub fn skip(&mut self, events: &AttemptEvents) {
        let introduction = self.introductions.remove(&events.attempt_id);
        self.events(events);
        if let Some(line) = introduction {
            self.introductions.insert(events.attempt_id.clone(), line);
        }
        // Whose output it is has to be said anew.
        self.talking.remove(&events.attempt_id);
    }

    fn step(&mut self, events: &AttemptEvents, step: &StepUpdate, out: &mut Vec<String>) {
        let label = self.label(&events.platform);
        let key = (events.attempt_id.clone(), step.digest.clone());
        let seen = self.steps.entry(key).or_default();
        seen.name = first_line(&step.name, NAME_WIDTH);
        let done = step.finished_ms > 0 || step.cached || !step.error.is_empty();
        let finished_ms = step.finished_ms.max(1);
        if !done || seen.finished_ms == finished_ms {
            return;
        }
        seen.finished_ms = finished_ms;
        for rest in seen.streams.values_mut().filter_map(Lines::finish) {
            out.push(format!("{label} | {rest}"));
        }
        let took = step.finished_ms - step.started_ms;
        // A step that the engine pauses ends more than once, each time a little later.
        let again = seen.took_ms.is_some_and(|told| took - told < PAUSED_MS);
        if again && step.error.is_empty() {
            return;
        }
        seen.took_ms = Some(took);
        let name = &seen.name;
        if !step.error.is_empty() {
            // The engine's words for a step that farm stopped.
            if step.error.ends_with("context canceled") {
                out.push(format!("{label}  {name}  stopped after {}", span(took)));
            } else {
                let error = first_line(&step.error, 200);
                out.push(format!("{label}  {name}  failed after {}: {error}", span(took)));
            }
        } else if step.cached {
            out.push(format!("{label}  {name}  CACHED"));
        } else if !name.starts_with("[internal]") || took >= HOUSEKEEPING_MS {
            out.push(format!("{label}  {name}  {}", span(took)));
        }
    }

    fn log(&mut self, events: &AttemptEvents, log: &StepLog, out: &mut Vec<String>) {
        let label = self.label(&events.platform);
        let key = (events.attempt_id.clone(), log.step_digest.clone());
        let seen = self.steps.entry(key).or_default();
        seen.platform = harmless(&events.platform);
        let lines = seen.streams.entry(log.stream).or_default().push(&log.data);
        if lines.is_empty() {
            return;
        }
        // Whose output it is, when it isn't that of the step that spoke last.
        let talking = self.talking.entry(events.attempt_id.clone()).or_default();
        if *talking != log.step_digest {
            talking.clone_from(&log.step_digest);
            if !seen.name.is_empty() {
                out.push(format!("{label}  {}", seen.name));
            }
        }
        out.extend(lines.into_iter().map(|line| format!("{label} | {line}")));
    }

    /// What stood without a line break when all was over.
    pub fn finish(&mut self) -> Vec<String> {
        let mut out = Vec::new();
        let width = self.width;
        for seen in self.steps.values_mut() {
            let rests = seen.streams.values_mut().filter_map(Lines::finish);
            out.extend(rests.map(|rest| format!("{:<width$} | {rest}", seen.platform)));
        }
        out
    }

    fn label(&self, platform: &str) -> String {
        // What is for no platform is a fetch.
        let platform = if platform.is_empty() { "fetch" } else { platform };
        format!("{:<width$}", harmless(platform), width = self.width)
    }
}

/// Notes a warning once over all platforms.
pub(super) fn note(warnings: &mut Vec<SeenWarning>, platform: &str, warning: &Warning) {
    let place = |w: &Warning| (w.rule.clone(), w.message.clone(), w.file.clone(), w.line);
    let known = warnings.iter().position(|seen| place(&seen.warning) == place(warning));
    let at = known.unwrap_or_else(|| {
        warnings.push(SeenWarning { warning: warning.clone(), platforms: Vec::new(), of_use: Vec::new() });
        warnings.len() - 1
    });
    let seen = &mut warnings[at];
    if seen.platforms.iter().any(|p| p == platform) {
        return;
    }
    seen.platforms.push(platform.to_owned());
    if !warning.stage_unused {
        seen.of_use.push(platform.to_owned());
    }
}

/// What became of an attempt that didn't make it; `decided`: its job won't be tried again.
pub(super) fn setback(attempt: &Attempt, decided: bool) -> Option<String> {
    let (worker, number) = (harmless(&attempt.worker), attempt.number);
    let why = attempt.failure.as_ref().map(|f| first_line(&f.message, 200)).unwrap_or_default();
    let time = span(attempt.finished_ms - attempt.started_ms.max(attempt.offered_ms));
    let again = if decided { "" } else { "; it will run again" };
    match attempt.state.as_str() {
        "lost" if why.is_empty() => Some(format!("{worker} was lost after {time}{again}")),
        "lost" => Some(format!("{worker} was lost after {time} ({why}){again}")),
        "released" => Some(format!("{worker} gave the job back{again}")),
        // Of a decided job the reason is told once, by the job.
        "failed" if !decided => {
            Some(format!("attempt {number} failed on {worker} after {time}: {why}{again}"))
        }
        _ => None,
    }
}

/// Where an attempt runs.
fn start(attempt: &Attempt) -> String {
    let (worker, number, support) = (harmless(&attempt.worker), attempt.number, harmless(&attempt.support));
    let why = match attempt.support_reason.as_str() {
        "" => String::new(),
        reason => format!(": {}", harmless(reason)),
    };
    match (number, support.as_str()) {
        (0 | 1, UNNEEDED) => format!("on {worker} (attempt {number}){why}"),
        (_, UNNEEDED) => format!("running again on {worker} (attempt {number}){why}"),
        (0 | 1, _) => format!("{support} on {worker} (attempt {number}){why}"),
        _ => format!("running again on {worker}, {support} (attempt {number}){why}"),
    }
}

#[cfg(test)]
#[path = "progress_tests.rs"]
mod tests;
