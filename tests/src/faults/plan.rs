//! What is built and what is broken, and when: all of it drawn from one seed, before anything starts.
//!
//! The same seed gives the same plan. When a step comes is a wish: the driver holds the plan up while the farm has too
//! much to do. One more kind of fault: a case of [`Fault`], its name in `kinds.rs`, a weight in [`draw_new`], and what it
//! does in `stage.rs`.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::fault::{Fault, Role, Shutdown, Trouble, Whose};
use super::kinds::{self, Kinds};
use super::rows::{Held, Row};
use super::trap::{How, Point};
use crate::line::{Way, Wrong};
use crate::network::Weather;

pub const ENGINES: usize = 2;
/// Two on each engine, the native ones first: `Worker(n)` is on engine `n % ENGINES`.
pub const WORKERS: usize = 2 * ENGINES;
/// The one in a network of its own.
pub const FAR: usize = WORKERS - 1;
/// Few, so that builds meet on them.
pub const TAGS: usize = 6;
/// Tags of builds whose rows are made unreadable begin here, one each.
pub const SPOILED_TAG: usize = 200;

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
    /// Which of [`TAGS`], or one of a build's own.
    pub tag: usize,
}

impl Submission {
    /// Whether one of its rows is made unreadable.
    pub fn is_spoiled(self) -> bool {
        self.tag >= SPOILED_TAG
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

/// The plan of a seed: `faults` faults of these kinds, and builds before, between and after them.
pub fn plan(seed: u64, faults: usize, kinds: &Kinds) -> Vec<Step> {
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
        let (fault, lasts) = draw_possible(&mut rng, &broken, kinds);
        if matches!(fault, Fault::SpoilRow(_)) {
            // What else stands still meanwhile is to be laid to nothing but the row.
            at = broken.iter().map(|(_, until)| *until).fold(at, Duration::max);
        }
        broken.push((fault, at + lasts));
        steps.push(Step { at, act: Act::Break { fault, lasts } });
        for _ in 0..rng.random_range(1..=2) {
            let after = at + milliseconds(&mut rng, 0..2_500);
            steps.push(Step { at: after, act: Act::Submit(draw_submission(&mut rng)) });
        }
        at += match fault {
            Fault::SpoilRow(_) => lasts + milliseconds(&mut rng, 500..2_000),
            // A third of them end before the next one, so that it is seen how soon the farm is well again.
            _ if kinds::is_new(fault.kind()) && rng.random_range(0..3) == 0 => {
                lasts + milliseconds(&mut rng, 500..4_000)
            }
            _ => milliseconds(&mut rng, 1_000..4_500),
        };
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
fn draw_possible(rng: &mut StdRng, broken: &[(Fault, Duration)], kinds: &Kinds) -> (Fault, Duration) {
    for _ in 0..50 {
        let (fault, lasts) = draw_kind(rng, kinds);
        let meets = broken.iter().filter(|(other, _)| other.place() == fault.place()).count();
        let room =
            if matches!(fault, Fault::KillCoordinator(_) | Fault::PauseCoordinator(_)) { 2 } else { 1 };
        // Nobody comes to a step, or to a table, while the database or the registry is away.
        let away = |other: Fault| matches!(other.place().0, 1 | 3 | 4 | 5 | 8 | 9);
        let waits = matches!(fault, Fault::AtStep(..) | Fault::HangStatement(_));
        if waits && broken.iter().any(|(other, _)| away(*other)) {
            continue;
        }
        if meets < room {
            return (fault, lasts);
        }
    }
    draw_kind(rng, kinds) // so much is never broken at once; and the driver mends first what is
}

/// One of these kinds.
fn draw_kind(rng: &mut StdRng, kinds: &Kinds) -> (Fault, Duration) {
    loop {
        let is_new = match kinds {
            Kinds::Old => false,
            Kinds::New => true,
            Kinds::All | Kinds::Named(_) => rng.random_range(0..WEIGHT + NEW_WEIGHT) >= WEIGHT,
        };
        let (fault, lasts) = if is_new { draw_new(rng) } else { draw_fault(rng) };
        if kinds.has(fault.kind()) {
            return (fault, lasts);
        }
    }
}

/// Hangs and silences are longer than a lease. Half of the silences are of one coordinator's link alone, so that the
/// other one has to take over.
fn draw_new(rng: &mut StdRng) -> (Fault, Duration) {
    let long = milliseconds(rng, 7_000..11_000);
    let role = if rng.random_range(0..3) < 2 { Role::Leader } else { Role::Other };
    let whose = if rng.random_range(0..4) == 0 { Whose::Both } else { Whose::One(role) };
    let way = if rng.random() { Way::There } else { Way::Back };
    let forgets = rng.random();
    let held = Held::ALL[rng.random_range(0..Held::ALL.len())];
    let row = Row::ALL[rng.random_range(0..Row::ALL.len())];
    let link = |wrong| Fault::PostgresLink { wrong, whose, forgets };
    match rng.random_range(0..NEW_WEIGHT) {
        0..6 => (link(Wrong::Silent), long),
        6..12 => (link(Wrong::HalfOpen(way)), long),
        12..16 => (link(Wrong::Slow), long),
        16..22 => (Fault::HangStatement(held), long * 2 / 3),
        22..24 => (Fault::SpoilRow(row), long),
        24..30 => (Fault::HangBlobs, long),
        _ => (Fault::Registry(Trouble::Endless), long * 2 / 3),
    }
}

/// What the weights below come to.
const WEIGHT: u32 = 127;
/// Those of [`draw_new`].
const NEW_WEIGHT: u32 = 35;

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
    match rng.random_range(0..WEIGHT) {
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
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_has_one_plan_and_another_seed_another() {
        for kinds in [Kinds::Old, Kinds::New, Kinds::All] {
            let text = |seed| format!("{:?}", plan(seed, 50, &kinds));
            assert_eq!(text(7), text(7));
            assert_ne!(text(7), text(8));
        }
    }

    #[test]
    fn a_plan_has_the_faults_that_were_asked_for() {
        assert_eq!(drawn(1, 30, &Kinds::Old).len(), 30);
        assert_eq!(drawn(1, 30, &Kinds::All).len(), 30);
    }

    #[test]
    fn every_kind_is_drawn_and_none_that_was_not_asked_for() {
        let of = |kinds: &Kinds| drawn(1, 600, kinds).into_iter().collect::<BTreeSet<_>>();
        let set = |names: &[&'static str]| names.iter().copied().collect::<BTreeSet<_>>();
        let (old, new) = (set(kinds::OLD), set(kinds::NEW));
        assert_eq!(of(&Kinds::Old), old);
        assert_eq!(of(&Kinds::New), new);
        assert_eq!(of(&Kinds::All), &old | &new);
        let two: Kinds = "blob_hang,worker_kill".parse().unwrap();
        assert_eq!(of(&two), set(&["blob_hang", "worker_kill"]));
    }

    #[test]
    fn nothing_else_is_broken_while_a_row_is_unreadable() {
        let mut over = Duration::ZERO;
        let mut row_until = Duration::ZERO;
        for step in plan(3, 300, &Kinds::New) {
            let Act::Break { fault, lasts } = step.act else { continue };
            assert!(step.at >= row_until, "{fault} at {:?}", step.at);
            if matches!(fault, Fault::SpoilRow(_)) {
                assert!(step.at >= over, "{fault} at {:?}", step.at);
                row_until = step.at + lasts;
            }
            over = over.max(step.at + lasts);
        }
        assert_ne!(row_until, Duration::ZERO);
    }

    fn drawn(seed: u64, faults: usize, kinds: &Kinds) -> Vec<&'static str> {
        let steps = plan(seed, faults, kinds).into_iter();
        let kind = |step: Step| match step.act {
            Act::Break { fault, .. } => Some(fault.kind()),
            Act::Submit(_) => None,
        };
        steps.filter_map(kind).collect()
    }
}
