//! What can happen, and its effect.

use farm_core::life::attempt::{Said, StopReason};
use farm_types::state::AttemptState;
use farm_types::{Cause, Failure, FailureCode, Platform, Support};
use proptest::prelude::*;

use crate::world::*;

/// One thing that happens. Numbers choose among what is there.
#[derive(Debug, Clone)]
pub enum Op {
    Submit {
        platforms: u8,
        tag: Option<u8>,
    },
    /// The same work for one more caller.
    Join(u8),
    Cancel(u8),
    /// One that has ended is built once more.
    Retry(u8),
    /// Its tag goes back to what it has published there.
    Rollback(u8),
    Pass(i64),
    // Coordinators.
    Lead(bool),
    Plan(bool),
    House(bool),
    /// The publisher looks for what is due, from the `n`th build on.
    Look(bool, u8),
    /// It stands still, or goes on.
    Stop(bool),
    /// It dies, and comes back with nothing in mind.
    Crash(bool),
    Write(u8),
    Step(u8),
    /// A step that the registry answers with an error: the task is taken up anew later.
    Trouble(u8),
    Land(u8),
    // Workers.
    Poll {
        worker: u8,
        tell: bool,
    },
    Beat(u8),
    End {
        worker: u8,
        which: u8,
        how: How,
    },
    Deliver {
        worker: u8,
        which: u8,
        acknowledged: bool,
    },
    Kill {
        worker: u8,
        noticed: bool,
    },
    Restart(u8),
    Disconnect(u8),
    /// An attempt is told to stop: its worker has to leave, or nothing is heard of its progress.
    Tell {
        which: u8,
        leaves: bool,
    },
    /// A worker does no longer what it is told to, or does it again.
    Deaf(u8),
    /// A while in which all goes well with the jobs, so that there is something to publish.
    Work(u8),
}

#[derive(Debug, Clone, Copy)]
pub enum How {
    Success,
    Mistake,
    Trouble,
    Killed,
    GivenBack,
    Declined,
}

impl Arbitrary for Op {
    type Parameters = ();
    type Strategy = BoxedStrategy<Self>;

    fn arbitrary_with((): ()) -> BoxedStrategy<Self> {
        let n = any::<u8>;
        let which = || prop::bool::weighted(0.3);
        let how = prop_oneof![
            8 => Just(How::Success), 1 => Just(How::Mistake), 2 => Just(How::Trouble), 1 => Just(How::Killed),
            1 => Just(How::GivenBack), 1 => Just(How::Declined)
        ];
        let seconds = prop_oneof![10 => 0..3_i64, 6 => 3..30_i64, 2 => 30..90_i64, 1 => Just(4000_i64), 1 => -30..0_i64];
        prop_oneof![
            6 => (1..4_u8, prop::option::weighted(0.8, 0..2_u8)).prop_map(|(platforms, tag)| Op::Submit { platforms, tag }),
            1 => n().prop_map(Op::Join),
            1 => n().prop_map(Op::Cancel),
            1 => n().prop_map(Op::Retry),
            2 => n().prop_map(Op::Rollback),
            8 => seconds.prop_map(Op::Pass),
            8 => which().prop_map(Op::Lead),
            6 => which().prop_map(Op::Plan),
            4 => which().prop_map(Op::House),
            6 => (which(), n()).prop_map(|(which, from)| Op::Look(which, from)),
            2 => any::<bool>().prop_map(Op::Stop),
            1 => which().prop_map(Op::Crash),
            10 => n().prop_map(Op::Write),
            20 => n().prop_map(Op::Step),
            1 => n().prop_map(Op::Trouble),
            5 => n().prop_map(Op::Land),
            8 => (n(), prop::bool::weighted(0.8)).prop_map(|(worker, tell)| Op::Poll { worker, tell }),
            6 => n().prop_map(Op::Beat),
            8 => (n(), n(), how).prop_map(|(worker, which, how)| Op::End { worker, which, how }),
            10 => (n(), n(), prop::bool::weighted(0.8))
                .prop_map(|(worker, which, acknowledged)| Op::Deliver { worker, which, acknowledged }),
            1 => (n(), any::<bool>()).prop_map(|(worker, noticed)| Op::Kill { worker, noticed }),
            2 => n().prop_map(Op::Restart),
            1 => n().prop_map(Op::Disconnect),
            1 => (n(), any::<bool>()).prop_map(|(which, leaves)| Op::Tell { which, leaves }),
            1 => n().prop_map(Op::Deaf),
            4 => n().prop_map(Op::Work),
        ]
        .boxed()
    }
}

/// Two native workers for amd64, one for arm64, and one that emulates it: one to two slots each.
pub fn start() -> World {
    let mut world = World::default();
    let platform = |text: &str| text.parse::<Platform>().unwrap();
    for (slots, offers) in [
        (2, vec![("linux/amd64", Support::Native)]),
        (1, vec![("linux/amd64", Support::Native), ("linux/arm64", Support::Emulated)]),
        (1, vec![("linux/arm64", Support::Native)]),
        (2, vec![("linux/riscv64", Support::Emulated), ("linux/arm64", Support::Emulated)]),
    ] {
        world.workers.push(Worker {
            slots,
            used: 0,
            offers: offers.into_iter().map(|(name, support)| (platform(name), support)).collect(),
            connected: true,
            last_seen: 0,
            known_boot: 0,
            booted_at: 0,
            quarantine: None,
            deaf: false,
            alive: true,
            boot: 0,
            running: Vec::new(),
            spool: Vec::new(),
        });
    }
    world
}

/// The `n`th of so many, if there is any.
fn pick(n: u8, of: usize) -> Option<usize> {
    (of > 0).then(|| usize::from(n) % of)
}

pub fn apply(world: &mut World, op: &Op) {
    match *op {
        Op::Submit { platforms, tag } => {
            let all =
                ["linux/amd64", "linux/arm64", "linux/riscv64"].map(|text| text.parse::<Platform>().unwrap());
            world.submit(&all[..usize::from(platforms)], tag);
        }
        Op::Join(n) => {
            if let Some(build) = pick(n, world.builds.len()) {
                world.join(build);
            }
        }
        Op::Cancel(n) => {
            if let Some(build) = pick(n, world.builds.len()) {
                world.cancel(build);
            }
        }
        Op::Retry(n) => {
            if let Some(build) = pick(n, world.builds.len()) {
                world.retry(build);
            }
        }
        Op::Rollback(n) => {
            if let Some(build) = pick(n, world.builds.len()) {
                world.rollback(build);
            }
        }
        Op::Pass(seconds) => world.pass(seconds),
        Op::Lead(which) => world.lead(which.into()),
        Op::Stop(which) => world.stopped[usize::from(which)] ^= true,
        Op::Plan(which) => world.propose(which.into()),
        Op::House(which) => {
            if let Some(epoch) = world.coordinators[usize::from(which)] {
                world.keep_house(epoch);
            }
        }
        Op::Look(which, from) => world.look(which.into(), from.into()),
        Op::Crash(which) => {
            let which = usize::from(which);
            world.coordinators[which] = None;
            world.stopped[which] = false;
            world.writes.retain(|write| write.1 != which);
            world.tasks.retain(|task| task.coordinator != which);
        }
        Op::Write(n) => {
            if let Some(index) = pick(n, world.writes.len()) {
                world.write(index);
            }
        }
        Op::Step(n) => {
            if let Some(index) =
                pick(n, world.tasks.len()).filter(|index| !world.stopped[world.tasks[*index].coordinator])
            {
                world.step(index);
            }
        }
        Op::Trouble(n) => {
            if let Some(index) = pick(n, world.tasks.len()) {
                world.tasks.remove(index);
            }
        }
        Op::Land(n) => {
            if let Some(index) = pick(n, world.puts.len()) {
                world.land(index);
            }
        }
        Op::Poll { worker, tell } => world.poll(worker, tell),
        Op::Beat(worker) => world.beat(worker),
        Op::End { worker, which, how } => world.end(worker, which, how),
        Op::Deliver { worker, which, acknowledged } => world.deliver(worker, which, acknowledged),
        Op::Kill { worker, noticed } => {
            let worker = world.worker(worker);
            worker.alive = false;
            worker.running.clear();
            worker.connected &= !noticed;
        }
        Op::Restart(n) => {
            let now = world.now;
            let worker = world.worker(n);
            if !worker.alive {
                worker.boot += 1;
            }
            worker.alive = true;
            worker.connected = true;
            worker.last_seen = now;
            if worker.known_boot != worker.boot {
                worker.quarantine = None;
                worker.deaf = false;
                worker.known_boot = worker.boot;
                worker.booted_at = now;
            }
        }
        Op::Work(from) => world.work(from.into()),
        Op::Disconnect(n) => world.worker(n).connected = false,
        Op::Deaf(n) => world.worker(n).deaf ^= true,
        Op::Tell { which, leaves } => {
            let live = world.live();
            if let Some(index) = pick(which, live.len()) {
                let why = if leaves { StopReason::Released } else { StopReason::NoProgress };
                world.tell_to_stop(live[index], why);
            }
        }
    }
}

impl World {
    fn worker(&mut self, n: u8) -> &mut Worker {
        let index = usize::from(n) % self.workers.len();
        &mut self.workers[index]
    }

    /// Time passes; coordinators that don't stand still lead, or try to, twice a second.
    fn pass(&mut self, seconds: i64) {
        for _ in 0..seconds.min(120) {
            self.now += 1;
            for coordinator in 0..2 {
                if !self.stopped[coordinator] {
                    self.lead(coordinator);
                }
            }
        }
        // A jump of the clock, forwards or backwards.
        self.now += seconds - seconds.clamp(0, 120);
    }

    fn work(&mut self, from: usize) {
        for coordinator in 0..2 {
            self.propose(coordinator);
        }
        while !self.writes.is_empty() {
            self.write(0);
        }
        for n in 0..4 {
            self.beat(n);
            self.poll(n, true);
            while !self.workers[usize::from(n)].running.is_empty() {
                self.end(n, 0, How::Success);
            }
            for _ in 0..self.workers[usize::from(n)].spool.len() {
                self.deliver(n, 0, true);
            }
        }
        for coordinator in 0..2 {
            self.look(coordinator, from);
        }
        while !self.writes.is_empty() {
            self.write(0);
        }
    }

    pub fn write(&mut self, index: usize) {
        let (epoch, _, write) = self.writes.remove(index);
        match write {
            Write::Lease { job, worker } => self.lease(epoch, job, worker),
            Write::Merge { build } => self.merge(epoch, build),
        }
    }

    /// The worker is told what it was chosen for, and begins it.
    pub fn poll(&mut self, n: u8, tell: bool) {
        let index = usize::from(n) % self.workers.len();
        let worker = &self.workers[index];
        if !worker.alive || !worker.connected {
            return;
        }
        let offers = |attempt: &Row| {
            let row = &self.attempts[*attempt];
            row.worker == index
                && row.boot == worker.boot
                && row.stop.is_none()
                && row.state == AttemptState::Offered
        };
        let known = |attempt: &Row| {
            worker.running.contains(attempt) || worker.spool.iter().any(|(ended, _)| ended == attempt)
        };
        let offered: Vec<Row> = self.live().into_iter().filter(|a| offers(a) && !known(a)).collect();
        self.workers[index].running.extend(&offered);
        if tell {
            for attempt in self.workers[index].running.clone() {
                self.started(attempt);
            }
        }
    }

    /// A sign of life, with all that runs or has ended unacknowledged; the answer says what is to be stopped.
    pub fn beat(&mut self, n: u8) {
        let (index, now) = (usize::from(n) % self.workers.len(), self.now);
        let worker = &mut self.workers[index];
        if !worker.alive || !worker.connected {
            return;
        }
        worker.last_seen = now;
        let named: Vec<Row> =
            worker.running.iter().copied().chain(worker.spool.iter().map(|(a, _)| *a)).collect();
        if self.workers[index].quarantine.is_some_and(|unheeded| !named.contains(&unheeded)) {
            self.workers[index].quarantine = None;
        }
        for attempt in named {
            if !self.is_live(attempt) {
                // Superseded.
                if !self.workers[index].deaf {
                    self.workers[index].running.retain(|running| *running != attempt);
                }
                continue;
            }
            self.attempts[attempt].lease_expires = now + LEASE;
            let stop = self.attempts[attempt].stop.is_some();
            let worker = &mut self.workers[index];
            if stop && !worker.deaf && worker.running.contains(&attempt) {
                worker.running.retain(|running| *running != attempt);
                worker.spool.push((attempt, Said::Stopped));
            }
        }
    }

    pub fn end(&mut self, n: u8, which: u8, how: How) {
        let worker = self.worker(n);
        let Some(index) = pick(which, worker.running.len()) else { return };
        let attempt = worker.running.remove(index);
        let failed = |cause, code| Said::Failed(Failure::new(cause, code, "it failed"));
        let said = match how {
            How::Success => Said::Succeeded,
            How::Mistake => failed(Cause::User, FailureCode::RunFailed),
            How::Trouble => failed(Cause::Infrastructure, FailureCode::EngineLost),
            How::Killed => failed(Cause::Killed, FailureCode::RunKilled),
            How::GivenBack => Said::Released { declined: false },
            How::Declined => Said::Released { declined: true },
        };
        worker.spool.push((attempt, said));
    }

    /// An end is told, and acknowledged or not: then it is told again.
    pub fn deliver(&mut self, n: u8, which: u8, acknowledged: bool) {
        let worker = self.worker(n);
        if !worker.alive || !worker.connected {
            return;
        }
        let Some(index) = pick(which, worker.spool.len()) else { return };
        let (attempt, said) = worker.spool[index].clone();
        if acknowledged {
            worker.spool.remove(index);
        }
        self.finish(attempt, said);
    }
}
