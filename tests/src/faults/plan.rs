//! What is built and what is broken, and when: all of it drawn from one seed, before anything starts.
//!
//! The same seed gives the same plan. When a step comes is a wish: the driver holds the plan up while the farm has too
//! much to do. One more kind of fault: a case of [`Fault`], a weight in [`draw_fault`], and what it does in `stage.rs`.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::trap::{How, Point};
use crate::network::Weather;

pub const ENGINES: usize = 2;
/// Two on each engine, the native ones first: `Worker(n)` is on engine `n % ENGINES`.
pub const WORKERS: usize = 2 * ENGINES;
/// The one in a network of its own.
pub const FAR: usize = WORKERS - 1;
/// Few, so that builds meet on them.
pub const TAGS: usize = 6;

/// A build: what its Dockerfile does, and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Copies a file: over in a moment.
    Copies,
    /// Writes this many bursts of lines, with pauses.
    Writes { bursts: u32 },
    /// The same, and ends with an exit code: a user's error.
    Fails { bursts: u32 },
    /// Would write for long, and is cancelled so long after it was accepted.
    Cancelled { after: Duration },
}

#[derive(Clone, Copy, Debug)]
pub struct Submission {
    pub kind: Kind,
    /// Which of [`TAGS`].
    pub tag: usize,
}

/// Which of the coordinators, as things are when the fault comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Leader,
    Other,
}

/// How the door of the registry misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Answers 500.
    Errors,
    /// Answers 429.
    Busy,
    /// Holds each request up.
    Slow,
    /// Breaks answers off in the middle.
    Truncates,
    /// The registry does as it is told, and the answer is lost.
    LosesAnswers,
}

/// The three ways in which Postgres is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Nobody new is let in, and it ends when all have left: which a coordinator's connections don't by themselves.
    Smart,
    /// Sessions are rolled back and told.
    Fast,
    /// As a crash, but said.
    Immediate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    KillWorker(usize),
    PauseWorker(usize),
    KillCoordinator(Role),
    PauseCoordinator(Role),
    KillEngine(usize),
    PauseEngine(usize),
    KillPostgres,
    PausePostgres,
    /// An administrator's shutdown.
    ShutPostgres(Shutdown),
    /// At a step of a publish pass, the coordinator that is at it.
    AtStep(Point, How),
    KillRegistry,
    Registry(Trouble),
    /// Connections of a worker are cut, and new ones refused.
    CutLink(usize),
    /// Nothing comes through any more, in either direction, and nobody is told.
    FreezeLink(usize),
    /// Of the worker that has a network of its own.
    Network(Weather),
}

impl Fault {
    /// What it is done to: which kind of part, and which of them.
    fn place(self) -> (u8, usize) {
        match self {
            Fault::KillWorker(n) | Fault::PauseWorker(n) => (0, n),
            Fault::KillCoordinator(_) | Fault::PauseCoordinator(_) | Fault::AtStep(..) => (1, 0),
            Fault::KillEngine(n) | Fault::PauseEngine(n) => (2, n),
            Fault::KillPostgres | Fault::PausePostgres | Fault::ShutPostgres(_) => (3, 0),
            Fault::KillRegistry => (4, 0),
            Fault::Registry(_) => (5, 0),
            Fault::CutLink(n) | Fault::FreezeLink(n) => (6, n),
            Fault::Network(_) => (7, 0),
        }
    }

    /// Its kind, for counting.
    pub fn kind(self) -> &'static str {
        match self {
            Fault::KillWorker(_) => "worker_kill",
            Fault::PauseWorker(_) => "worker_pause",
            Fault::KillCoordinator(_) => "coordinator_kill",
            Fault::PauseCoordinator(_) => "coordinator_pause",
            Fault::KillEngine(_) => "engine_kill",
            Fault::PauseEngine(_) => "engine_pause",
            Fault::KillPostgres => "postgres_kill",
            Fault::PausePostgres => "postgres_pause",
            Fault::ShutPostgres(Shutdown::Smart) => "postgres_smart",
            Fault::ShutPostgres(Shutdown::Fast) => "postgres_fast",
            Fault::ShutPostgres(Shutdown::Immediate) => "postgres_immediate",
            Fault::AtStep(_, How::Kill) => "step_kill",
            Fault::AtStep(_, How::Stop) => "step_stop",
            Fault::KillRegistry => "registry_kill",
            Fault::Registry(Trouble::Errors) => "registry_500",
            Fault::Registry(Trouble::Busy) => "registry_429",
            Fault::Registry(Trouble::Slow) => "registry_slow",
            Fault::Registry(Trouble::Truncates) => "registry_truncated",
            Fault::Registry(Trouble::LosesAnswers) => "registry_answer_lost",
            Fault::CutLink(_) => "link_cut",
            Fault::FreezeLink(_) => "link_frozen",
            Fault::Network(Weather::Lossy) => "network_lossy",
            Fault::Network(Weather::HalfOpen) => "network_half_open",
            Fault::Network(Weather::Down) => "network_down",
            Fault::Network(Weather::Silent | Weather::Fair) => "network_silent",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::KillWorker(n)
            | Fault::PauseWorker(n)
            | Fault::KillEngine(n)
            | Fault::PauseEngine(n)
            | Fault::CutLink(n)
            | Fault::FreezeLink(n) => write!(out, "{} {n}", self.kind()),
            Fault::KillCoordinator(role) | Fault::PauseCoordinator(role) => {
                write!(out, "{} {role:?}", self.kind())
            }
            Fault::AtStep(point, _) => write!(out, "{} {point}", self.kind()),
            _ => out.write_str(self.kind()),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Act {
    Submit(Submission),
    Break {
        fault: Fault,
        /// Then it is mended.
        lasts: Duration,
    },
}

#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Counted from the begin.
    pub at: Duration,
    pub act: Act,
}

/// The plan of a seed: `faults` faults, and builds before, between and after them.
pub fn plan(seed: u64, faults: usize) -> Vec<Step> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut steps = Vec::new();
    // Something to do before the first fault.
    let mut at = Duration::ZERO;
    for _ in 0..6 {
        steps.push(Step { at, act: Act::Submit(draw_submission(&mut rng)) });
    }
    at += milliseconds(&mut rng, 2_000..4_000);
    let mut broken: Vec<(Fault, Duration)> = Vec::new();
    for _ in 0..faults {
        broken.retain(|(_, until)| *until > at);
        let (fault, lasts) = draw_possible(&mut rng, &broken);
        broken.push((fault, at + lasts));
        steps.push(Step { at, act: Act::Break { fault, lasts } });
        for _ in 0..rng.random_range(1..=2) {
            let after = at + milliseconds(&mut rng, 0..2_500);
            steps.push(Step { at: after, act: Act::Submit(draw_submission(&mut rng)) });
        }
        at += milliseconds(&mut rng, 1_000..4_500);
    }
    // Stable: what falls together stays in the order of drawing.
    steps.sort_by_key(|step| step.at);
    steps
}

fn draw_submission(rng: &mut StdRng) -> Submission {
    let kind = match rng.random_range(0..10) {
        0..4 => Kind::Copies,
        4..7 => Kind::Writes { bursts: rng.random_range(2..16) },
        7..8 => Kind::Fails { bursts: rng.random_range(1..6) },
        _ => Kind::Cancelled { after: milliseconds(rng, 0..6_000) },
    };
    Submission { kind, tag: rng.random_range(0..TAGS) }
}

/// One of something that isn't broken at that moment. (The coordinators may be so both.)
fn draw_possible(rng: &mut StdRng, broken: &[(Fault, Duration)]) -> (Fault, Duration) {
    for _ in 0..50 {
        let (fault, lasts) = draw_fault(rng);
        let meets = broken.iter().filter(|(other, _)| other.place() == fault.place()).count();
        let room =
            if matches!(fault, Fault::KillCoordinator(_) | Fault::PauseCoordinator(_)) { 2 } else { 1 };
        // Nobody comes to a step while the database or the registry is away.
        let away = |other: Fault| matches!(other.place().0, 1 | 3 | 4 | 5);
        if matches!(fault, Fault::AtStep(..)) && broken.iter().any(|(other, _)| away(*other)) {
            continue;
        }
        if meets < room {
            return (fault, lasts);
        }
    }
    draw_fault(rng) // so much is never broken at once; and the driver mends first what is
}

/// Pauses are longer than a lease, or they would be no more than a slow moment. Outages of the registry are shorter
/// than four attempts of a job take, for the most part.
fn draw_fault(rng: &mut StdRng) -> (Fault, Duration) {
    let worker = rng.random_range(0..WORKERS);
    let engine = rng.random_range(0..ENGINES);
    let role = if rng.random_range(0..3) < 2 { Role::Leader } else { Role::Other };
    let short = milliseconds(rng, 300..4_000);
    let long = milliseconds(rng, 7_000..12_000);
    let point = Point::PASS[rng.random_range(0..Point::PASS.len())];
    let weather = [Weather::Lossy, Weather::Silent, Weather::HalfOpen, Weather::Down][rng.random_range(0..4)];
    match rng.random_range(0..127) {
        0..18 => (Fault::KillWorker(worker), short),
        18..26 => (Fault::PauseWorker(worker), long),
        26..42 => (Fault::KillCoordinator(role), short),
        42..50 => (Fault::PauseCoordinator(role), long),
        50..57 => (Fault::KillEngine(engine), short),
        57..61 => (Fault::PauseEngine(engine), long),
        61..69 => (Fault::KillPostgres, short),
        69..72 => (Fault::PausePostgres, short * 2),
        72..76 => (Fault::KillRegistry, short),
        76..78 => (Fault::Registry(Trouble::Errors), short),
        78..80 => (Fault::Registry(Trouble::Busy), short),
        80..82 => (Fault::Registry(Trouble::Slow), short * 2),
        82..84 => (Fault::Registry(Trouble::Truncates), short),
        84..86 => (Fault::Registry(Trouble::LosesAnswers), short),
        86..94 => (Fault::CutLink(worker), short / 2),
        94..100 => (Fault::FreezeLink(worker), long),
        100..102 => (Fault::ShutPostgres(Shutdown::Smart), short),
        102..105 => (Fault::ShutPostgres(Shutdown::Fast), short),
        105..107 => (Fault::ShutPostgres(Shutdown::Immediate), short),
        107..114 => (Fault::AtStep(point, How::Kill), short),
        114..120 => (Fault::AtStep(point, How::Stop), long),
        _ => (Fault::Network(weather), long),
    }
}

fn milliseconds(rng: &mut StdRng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.random_range(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_plan_and_another_seed_another() {
        let text = |seed| format!("{:?}", plan(seed, 50));
        assert_eq!(text(7), text(7));
        assert_ne!(text(7), text(8));
    }

    #[test]
    fn a_plan_has_the_faults_that_were_asked_for() {
        let faults = plan(1, 30).iter().filter(|step| matches!(step.act, Act::Break { .. })).count();
        assert_eq!(faults, 30);
    }
}
