//! Whatever dies, no accepted build is lost and no tag goes wrong: a whole farm of real processes, a plan of builds and
//! faults drawn from a seed, and a verdict on what is there when all of it is over.
//!
//! [`plan`] says what happens, [`stage`] is the farm and what is done to it, [`builds`] its users, [`steps`] meets a
//! coordinator at a step of its publish pass, [`spoil`] makes rows unreadable, [`recovery`] measures how soon the farm is
//! well again, [`verdict`] is what must hold. Here: the plan is carried out, step by step, from one thread.
//!
//! The verdict is the invariants' own (docs/architecture.md). A fault that it can't take is a bug of farm's, or a limit
//! that the documentation has to name.

pub mod answers;
mod builds;
pub mod door;
mod facts;
pub mod fault;
pub mod kinds;
mod link;
mod part;
pub mod plan;
pub mod pressure;
mod recovery;
mod rows;
mod spoil;
mod stage;
mod steps;
pub mod trap;
mod verdict;

use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use builds::{Submitted, submit};
use fault::Fault;
use kinds::Kinds;
use plan::{Act, Step, Submission};
use recovery::Recovery;
use spoil::Canary;
use stage::{Stage, Target};

use crate::database::try_psql;

const TICK: Duration = Duration::from_millis(50);
/// With more builds than this open, the plan waits: else a slow machine would end with nothing but a queue.
const OPEN_BUILDS: usize = 14;
/// How long the plan waits for one step at most.
const HELD_UP: Duration = Duration::from_secs(60);
/// After the last fault, all builds must be final within this.
const SETTLE: Duration = Duration::from_secs(240);

/// A fault that was done.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    pub fault: Fault,
    pub target: Target,
    pub begun: SystemTime,
    pub ended: SystemTime,
}

/// All that happened.
#[derive(Debug)]
pub struct Run {
    pub stage: Stage,
    pub done: Vec<Done>,
    /// Faults that could not be done, as nobody came to their step, or no lock could be had.
    pub unmet: usize,
    pub recovery: Recovery,
    /// Builds that had to end while a row of another one was unreadable.
    pub canaries: usize,
    /// Those of them that did not.
    pub stood_still: Vec<String>,
    pub submitted: Vec<Submitted>,
    /// From a leader's death or pause to the next leader, seconds.
    pub leaders: Vec<f64>,
    /// Parts that ended by themselves, and were started again.
    pub ended: Vec<String>,
    /// What kept it from settling.
    pub unsettled: Option<String>,
}

/// Carries out the plan of a seed and prints the verdict; true when nothing was wrong. `named` is what the kinds were
/// called.
pub fn run(seed: u64, faults: usize, kinds: &Kinds, named: &str) -> bool {
    let steps = plan::plan(seed, faults, kinds);
    println!("faults seed={seed} faults={faults}: starting a farm");
    let mut driver = Driver::new(Stage::start(seed));
    driver.carry_out(&steps);
    judge(driver, seed, &format!("--seed {seed} --faults {faults} --kinds {named}"))
}

/// Goes through the steps of the publish pass, kills a coordinator at each, and stops one at each while another publishes a
/// newer build to the same tag; without `all` only kills, where most is at stake. Prints the verdict; true when nothing was
/// wrong.
pub fn walk(all: bool) -> bool {
    println!("faults at each step of the publish pass: starting a farm");
    let mut driver = Driver::new(Stage::start(1));
    let unmet = driver.walk(all);
    for point in &unmet {
        println!("VIOLATION nobody came to {point}");
    }
    judge(driver, 1, "--steps") && unmet.is_empty()
}

fn judge(driver: Driver, seed: u64, again: &str) -> bool {
    let run = driver.settle();
    let report = verdict::verdict(&run);
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for done in &run.done {
        *kinds.entry(done.fault.kind()).or_default() += 1;
    }
    let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{kind}={count}")).collect();
    println!("faults seed={seed} faults={} {} unmet={}", run.done.len(), kinds.join(" "), run.unmet);
    println!("{report}");
    for violation in &report.violations {
        println!("VIOLATION {violation}");
    }
    if !report.violations.is_empty() {
        let beside =
            std::env::var("FARM_TEST_BESIDE").map_or_else(|_| String::new(), |it| format!("--beside {it} "));
        println!("again: tests/run.sh faults {beside}{again}");
        println!("logs: {}", run.stage.folder().display());
    }
    report.violations.is_empty()
}

struct Broken {
    fault: Fault,
    target: Target,
    begun: SystemTime,
    until: Instant,
}

/// A leader that was taken away, and when.
struct Watch {
    epoch: u64,
    since: SystemTime,
}

struct Driver {
    stage: Stage,
    begin: Instant,
    broken: Vec<Broken>,
    done: Vec<Done>,
    users: Vec<JoinHandle<Submitted>>,
    watch: Option<Watch>,
    leaders: Vec<f64>,
    ended: Vec<String>,
    open: usize,
    looked: Instant,
    /// Faults at a step that nobody came to in time, and locks that could not be had.
    unmet: usize,
    recovery: Recovery,
    canary: Option<Canary>,
    canaries: usize,
    stood_still: Vec<String>,
}

impl Driver {
    fn new(stage: Stage) -> Driver {
        let now = Instant::now();
        Driver {
            stage,
            begin: now,
            broken: Vec::new(),
            done: Vec::new(),
            users: Vec::new(),
            watch: None,
            leaders: Vec::new(),
            ended: Vec::new(),
            open: 0,
            looked: now,
            unmet: 0,
            recovery: Recovery::default(),
            canary: None,
            canaries: 0,
            stood_still: Vec::new(),
        }
    }

    fn carry_out(&mut self, steps: &[Step]) {
        let mut held_up = Duration::ZERO;
        for step in steps {
            while self.begin.elapsed() < step.at + held_up {
                self.tick();
            }
            let begin = Instant::now();
            while self.open > OPEN_BUILDS && begin.elapsed() < HELD_UP {
                self.tick();
            }
            held_up += begin.elapsed();
            match step.act {
                Act::Submit(submission) => drop(self.submit(submission)),
                Act::Break { fault: Fault::AtStep(point, how), lasts } => {
                    let begin = Instant::now();
                    self.break_at_step(point, how, lasts);
                    held_up += begin.elapsed();
                }
                Act::Break { fault: Fault::SpoilRow(row), lasts } => {
                    let begin = Instant::now();
                    self.spoil_row(row, lasts);
                    held_up += begin.elapsed();
                }
                Act::Break { fault, lasts } => self.break_it(fault, lasts),
            }
        }
    }

    /// Gives its number.
    fn submit(&mut self, submission: Submission) -> usize {
        let number = self.users.len();
        self.users.push(submit(&self.stage, number, submission));
        self.open += 1;
        number
    }

    fn break_it(&mut self, fault: Fault, lasts: Duration) {
        let leader = if self.database_is_away() { None } else { self.stage.leader() };
        let mut target = self.stage.target(fault, leader.map(|(n, _)| n));
        if let Target::Coordinator(n) = target
            && self.is_broken(target)
        {
            target = Target::Coordinator(1 - n);
        }
        self.mend(|broken| broken.target == target);
        println!(
            "{:7.1} s  {fault}, {target:?}, {:.1} s",
            self.begin.elapsed().as_secs_f64(),
            lasts.as_secs_f64()
        );
        let begun = SystemTime::now();
        if !self.stage.harm(fault, target) {
            println!("{:7.1} s  it could not be done", self.begin.elapsed().as_secs_f64());
            self.unmet += 1;
            return;
        }
        if let Some(canary) = &mut self.canary {
            canary.calm = false;
        }
        if let (Some((n, epoch)), Target::Coordinator(harmed)) = (leader, target)
            && n == harmed
            && !self.broken.iter().any(|broken| matches!(broken.target, Target::Coordinator(_)))
        {
            self.watch = Some(Watch { epoch, since: begun });
        }
        self.broken.push(Broken { fault, target, begun, until: Instant::now() + lasts });
    }

    fn is_broken(&self, target: Target) -> bool {
        self.broken.iter().any(|broken| broken.target == target)
    }

    /// The driver's own questions would not be answered.
    fn database_is_away(&self) -> bool {
        self.is_broken(Target::Postgres) || self.is_broken(Target::Statement)
    }

    /// A moment of attention to all that goes on by itself.
    fn tick(&mut self) {
        let now = Instant::now();
        self.mend(|broken| broken.until <= now);
        let broken: Vec<Target> = self.broken.iter().map(|broken| broken.target).collect();
        for ended in self.stage.keep(|target| broken.contains(&target)) {
            println!("{:7.1} s  ended by itself: {ended}", self.begin.elapsed().as_secs_f64());
            self.ended.push(ended);
        }
        self.watch_recovery();
        if self.database_is_away() {
            // When the leader changes is no measure of leadership then.
            self.watch = None;
        } else {
            self.watch_leader();
            if self.looked.elapsed() > Duration::from_secs(1) {
                self.look();
            }
        }
        std::thread::sleep(TICK);
    }

    fn mend(&mut self, due: impl Fn(&Broken) -> bool) {
        let (due, broken): (Vec<_>, Vec<_>) = std::mem::take(&mut self.broken).into_iter().partition(due);
        self.broken = broken;
        // A row can be put back when Postgres is there again.
        let (rows, others): (Vec<_>, Vec<_>) = due.into_iter().partition(|due| due.target == Target::Row);
        for Broken { fault, target, begun, until } in others.into_iter().chain(rows) {
            match fault {
                Fault::SpoilRow(row) if !self.put_row_back(row) => {
                    self.broken.push(Broken { fault, target, begun, until });
                    continue;
                }
                Fault::SpoilRow(_) => {}
                _ => self.stage.mend(fault, target),
            }
            if kinds::is_new(fault.kind()) {
                self.recovers_from(fault);
            }
            self.done.push(Done { fault, target, begun, ended: SystemTime::now() });
        }
    }

    fn watch_leader(&mut self) {
        let Some(watch) = &self.watch else { return };
        let sql = "SELECT epoch, extract(epoch FROM taken_at) FROM leader";
        let Some(row) = try_psql(&self.stage.database_url(), sql) else { return };
        let Some((epoch, taken)) = row.split_once('|') else { return };
        if epoch.parse().is_ok_and(|epoch: u64| epoch > watch.epoch)
            && let Ok(taken) = taken.parse::<f64>()
        {
            let after = taken - facts::seconds(watch.since);
            println!("{:7.1} s  another leads, after {after:.1} s", self.begin.elapsed().as_secs_f64());
            self.leaders.push(after);
            self.watch = None;
        }
    }

    fn look(&mut self) {
        self.looked = Instant::now();
        let url = self.stage.database_url();
        let counted = try_psql(&url, "SELECT count(*) FROM builds WHERE finished_at IS NULL");
        if let Some(open) = counted.and_then(|count| count.parse::<usize>().ok()) {
            self.open = open + self.users.iter().filter(|user| !user.is_finished()).count();
        }
    }

    /// Everything is mended; then all must come to its end by itself.
    fn settle(mut self) -> Run {
        // An unreadable row is looked at in its whole time: that it stops nobody else.
        while self.is_broken(Target::Row) {
            self.tick();
        }
        self.mend(|_| true);
        println!("{:7.1} s  all faults are over", self.begin.elapsed().as_secs_f64());
        let begin = Instant::now();
        while self.users.iter().any(|user| !user.is_finished()) && begin.elapsed() < SETTLE {
            self.tick();
        }
        // It takes no longer than its bound.
        while !self.recovery.is_over() {
            self.tick();
        }
        let mut said = String::new();
        let unsettled = loop {
            let Some(open) = facts::unsettled(&self.stage.database_url()) else { break None };
            if begin.elapsed() > SETTLE {
                break Some(open);
            }
            if said != open {
                println!("{:7.1} s  {open}", self.begin.elapsed().as_secs_f64());
                said = open;
            }
            self.tick();
        };
        println!("{:7.1} s  settled", self.begin.elapsed().as_secs_f64());
        let (finished, waiting): (Vec<_>, Vec<_>) =
            self.users.into_iter().partition(|user| user.is_finished());
        let waiting =
            (!waiting.is_empty()).then(|| format!("{} users still wait for an answer", waiting.len()));
        Run {
            submitted: finished.into_iter().map(|user| user.join().expect("its panic is above")).collect(),
            stage: self.stage,
            done: self.done,
            unmet: self.unmet,
            recovery: self.recovery,
            canaries: self.canaries,
            stood_still: self.stood_still,
            leaders: self.leaders,
            ended: self.ended,
            unsettled: unsettled.or(waiting),
        }
    }
}
