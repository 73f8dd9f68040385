//! The farm that is troubled, all of it real processes: Postgres, a registry behind a [`Door`], two engines, two
//! coordinators on one database, two workers on each engine. Workers and users reach the coordinators by a [`Link`], and
//! they Postgres by a [`Line`] each.
//!
//! Everything is started from one thread, as processes end with the thread that started them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::door::Door;
use super::fault::{Fault, Role, Shutdown, Whose};
use super::link::{Link, Mode};
use super::part::Part;
use super::plan::{ENGINES, FAR, SPOILED_TAG, WORKERS};
use super::rows;
use super::trap::How;
use crate::bed::Bed;
use crate::database::{PrivatePostgres, try_psql};
use crate::engine::PrivateEngine;
use crate::environment;
use crate::farm::{ALLOW_LOOPBACK, binary, client, program};
use crate::hang::HangingFolder;
use crate::line::Line;
use crate::network::{Network, Weather};
use crate::ports::free_port;
use crate::registry::PrivateRegistry;
use crate::session::Session;

const READY: Duration = Duration::from_secs(60);

/// Leases of seconds, so that a fault that outlives one is over soon; a registry that is given up soon, so that what it
/// may still do late is over soon as well.
const SETTINGS: &str = "[leadership]\nlease_seconds = 2\nrenew_milliseconds = 500\nstatement_seconds = 1\n\
                        [limits]\nheartbeat_milliseconds = 1000\nsuspect_seconds = 3\nlease_seconds = 6\n\
                        native_grace_seconds = 3\nregistry_timeout_seconds = 4\n\
                        [retention]\nseal_after_seconds = 2\n";

pub const SLOTS: u32 = 3;

/// What a fault is done to: there is one fault at a time for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Worker(usize),
    Coordinator(usize),
    Engine(usize),
    Postgres,
    Registry,
    Door,
    Link(usize),
    Network,
    /// What lies between a coordinator and Postgres.
    Line(usize),
    Lines,
    Statement,
    Row,
    Blobs,
}

/// Fields are dropped in order: those who use others first.
#[derive(Debug)]
pub struct Stage {
    pub workers: Vec<Part>,
    links: Vec<Link>,
    network: Network,
    front: Link,
    pub coordinators: Vec<Part>,
    ports: Vec<u16>,
    blobs: HangingFolder,
    lines: Vec<Line>,
    engines: Vec<PrivateEngine>,
    pub door: Door,
    registry: PrivateRegistry,
    /// Holds what a statement hangs on.
    holder: Option<Session>,
    postgres: PrivatePostgres,
    folder: PathBuf,
}

impl Stage {
    pub fn start(seed: u64) -> Stage {
        let bed = Bed::from_env();
        let folder = bed.test_folder();
        let postgres = PrivatePostgres::start();
        let registry = PrivateRegistry::start();
        let door = Door::to(registry.port(), seed);
        let engines: Vec<PrivateEngine> = (0..ENGINES).map(|_| PrivateEngine::start()).collect();

        std::fs::write(folder.join("coordinator.toml"), SETTINGS).unwrap();
        let ports = vec![free_port(), free_port()];
        let blobs = HangingFolder::at(&folder.join("coordinator/blobs"));
        let lines: Vec<Line> = ports.iter().map(|_| Line::to(&postgres.url())).collect();
        let mut coordinators = Vec::new();
        for (n, port) in ports.iter().enumerate() {
            let older = if n == 0 { beside() } else { None };
            let mut command =
                older.as_ref().map_or_else(|| program("farm-coordinator"), environment::command);
            command.args([
                "--listen",
                &format!("127.0.0.1:{port}"),
                "--database-url",
                &lines[n].url(&postgres.url()),
            ]);
            command.env(ALLOW_LOOPBACK.0, ALLOW_LOOPBACK.1);
            command.arg("--state-dir").arg(folder.join("coordinator"));
            command.arg("--token-file").arg(folder.join("token"));
            command.arg("--config").arg(folder.join("coordinator.toml"));
            let mut part = Part::start(&format!("coordinator-{n}"), command, &folder);
            // One after the other: the first makes schema and token.
            part.wait_for_line("farm-coordinator ready on ", READY);
            coordinators.push(part);
        }
        if beside().is_some() {
            // It made the schema, the newer one has migrated it meanwhile: now it has to start with that.
            coordinators[0].kill9();
            coordinators[0].start_again();
            coordinators[0].wait_for_line("farm-coordinator ready on ", READY);
        }
        rows::prepare(&postgres.url(), SPOILED_TAG);
        door.know_coordinators(coordinators.iter().filter_map(Part::pid).collect());
        let front = Link::to(&ports);
        let links: Vec<Link> = (0..WORKERS).map(|_| Link::to(&ports)).collect();
        let network = Network::make();
        let start =
            |n: usize| worker(n, &links[n], &engines[n % ENGINES], &folder, (n == FAR).then_some(&network));
        let mut workers: Vec<Part> = (0..WORKERS).map(start).collect();
        for part in &mut workers {
            let line = format!("farm-worker {} ready: ", part.name());
            part.wait_for_line(&line, READY);
        }
        Stage {
            workers,
            links,
            network,
            front,
            coordinators,
            ports,
            blobs,
            lines,
            engines,
            door,
            registry,
            holder: None,
            postgres,
            folder,
        }
    }

    /// `farm ARGS` against whichever coordinator answers.
    pub fn command(&self, args: &[&str]) -> Command {
        client(&self.front.url(), &self.folder.join("token"), &self.folder, args)
    }

    /// `farm ARGS` against one coordinator.
    pub fn command_of(&self, n: usize, args: &[&str]) -> Command {
        let url = format!("http://127.0.0.1:{}", self.ports[n]);
        client(&url, &self.folder.join("token"), &self.folder, args)
    }

    pub fn database_url(&self) -> String {
        self.postgres.url()
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Which coordinator leads, and its epoch. Nothing when nobody does, or the database doesn't answer.
    pub fn leader(&self) -> Option<(usize, u64)> {
        let row = try_psql(
            &self.database_url(),
            "SELECT c.address, l.epoch FROM leader l JOIN coordinators c ON c.id = l.coordinator_id
             WHERE l.expires_at > farm_now()",
        )?;
        let (address, epoch) = row.split_once('|')?;
        let port: u16 = address.rsplit_once(':')?.1.parse().ok()?;
        Some((self.ports.iter().position(|p| *p == port)?, epoch.parse().ok()?))
    }

    /// What a fault is done to, as things are now.
    pub fn target(&self, fault: Fault, leader: Option<usize>) -> Target {
        let coordinator = |role| {
            let leader = leader.unwrap_or(0);
            if role == Role::Leader { leader } else { self.ports.len() - 1 - leader }
        };
        match fault {
            Fault::KillWorker(n) | Fault::PauseWorker(n) => Target::Worker(n),
            Fault::KillCoordinator(role) | Fault::PauseCoordinator(role) => {
                Target::Coordinator(coordinator(role))
            }
            Fault::KillEngine(n) | Fault::PauseEngine(n) => Target::Engine(n),
            Fault::KillPostgres | Fault::PausePostgres | Fault::ShutPostgres(_) => Target::Postgres,
            Fault::AtStep(..) => unreachable!("who comes to the step is the target"),
            Fault::KillRegistry => Target::Registry,
            Fault::Registry(_) => Target::Door,
            Fault::CutLink(n) | Fault::FreezeLink(n) => Target::Link(n),
            Fault::Network(_) => Target::Network,
            Fault::PostgresLink { whose: Whose::One(role), .. } => Target::Line(coordinator(role)),
            Fault::PostgresLink { whose: Whose::Both, .. } => Target::Lines,
            Fault::HangStatement(_) => Target::Statement,
            Fault::SpoilRow(_) => Target::Row,
            Fault::HangBlobs => Target::Blobs,
        }
    }

    /// False: it could not be done.
    pub fn harm(&mut self, fault: Fault, target: Target) -> bool {
        match (fault, target) {
            (Fault::KillWorker(_), Target::Worker(n)) => self.workers[n].kill9(),
            (Fault::PauseWorker(_), Target::Worker(n)) => self.workers[n].pause(),
            (Fault::KillCoordinator(_), Target::Coordinator(n)) => self.coordinators[n].kill9(),
            (Fault::PauseCoordinator(_), Target::Coordinator(n)) => self.coordinators[n].pause(),
            (Fault::KillEngine(_), Target::Engine(n)) => self.engines[n].kill9(),
            (Fault::PauseEngine(_), Target::Engine(n)) => self.engines[n].child().pause(),
            (Fault::KillPostgres, _) => self.postgres.kill9(),
            (Fault::PausePostgres, _) => self.signal_postgres(Signal::STOP),
            (Fault::ShutPostgres(how), _) => self.postgres.ask_to_end(match how {
                Shutdown::Smart => Signal::TERM,
                Shutdown::Fast => Signal::INT,
                Shutdown::Immediate => Signal::QUIT,
            }),
            (Fault::AtStep(_, How::Kill), Target::Coordinator(n)) => self.coordinators[n].kill9(),
            (Fault::AtStep(_, How::Stop), Target::Coordinator(n)) => self.coordinators[n].pause(),
            (Fault::KillRegistry, _) => self.registry.kill9(),
            (Fault::Registry(trouble), _) => self.door.set(Some(trouble)),
            (Fault::CutLink(_), Target::Link(n)) => self.links[n].set(Mode::Cut),
            (Fault::FreezeLink(_), Target::Link(n)) => self.links[n].set(Mode::Frozen),
            (Fault::Network(weather), _) => self.network.set(weather),
            (Fault::PostgresLink { wrong, .. }, target) => {
                self.lines_of(target).for_each(|line| line.harm(wrong));
            }
            (Fault::HangStatement(held), _) => {
                self.holder = held.hold(&self.postgres.url());
                return self.holder.is_some();
            }
            (Fault::HangBlobs, _) => self.blobs.hang(),
            (fault, target) => unreachable!("{fault} of {target:?}"),
        }
        true
    }

    fn lines_of(&self, target: Target) -> impl Iterator<Item = &Line> {
        let is_it = move |n| target == Target::Lines || target == Target::Line(n);
        self.lines.iter().enumerate().filter(move |(n, _)| is_it(*n)).map(|(_, line)| line)
    }

    /// Ends what [`Stage::harm`] began. Waits for what is started to answer, except for farm's own parts.
    pub fn mend(&mut self, fault: Fault, target: Target) {
        match (fault, target) {
            (Fault::PauseWorker(_), Target::Worker(n)) => self.workers[n].cont(),
            (_, Target::Worker(n)) => self.workers[n].start_again(),
            (Fault::AtStep(_, How::Stop), Target::Coordinator(n)) => {
                // What it had sent gets there while it still stands; then it goes on.
                self.door.let_go();
                self.coordinators[n].cont();
            }
            (Fault::PauseCoordinator(_), Target::Coordinator(n)) => self.coordinators[n].cont(),
            (_, Target::Coordinator(n)) => self.start_coordinator(n),
            (Fault::PauseEngine(_), Target::Engine(n)) => self.engines[n].child().cont(),
            (_, Target::Engine(n)) => self.engines[n].start_again(),
            (Fault::PausePostgres, _) => self.signal_postgres(Signal::CONT),
            (Fault::ShutPostgres(_), _) => {
                // A smart one waits for those who are connected, until somebody has enough.
                self.postgres.stop();
                self.postgres.start();
            }
            (_, Target::Postgres) => self.postgres.start(),
            (_, Target::Registry) => self.registry.start_again(),
            (_, Target::Door) => self.door.set(None),
            (_, Target::Link(n)) => self.links[n].set(Mode::Open),
            (_, Target::Network) => self.network.set(Weather::Fair),
            (Fault::PostgresLink { forgets, .. }, target) => {
                self.lines_of(target).for_each(|line| line.mend(forgets));
            }
            (_, Target::Statement) => self.holder = None,
            (_, Target::Blobs) => self.blobs.go_on(),
            (fault, Target::Row | Target::Line(_) | Target::Lines) => unreachable!("{fault} of {target:?}"),
        }
    }

    /// Starts again what ended by itself, as a service manager does, and says what it was. Not those that `broken`
    /// holds: they are to be away.
    pub fn keep(&mut self, broken: impl Fn(Target) -> bool) -> Vec<String> {
        let mut ended = Vec::new();
        let workers = self.workers.iter_mut().enumerate().map(|(n, part)| (Target::Worker(n), part));
        let coordinators = self.coordinators.iter_mut().enumerate();
        let coordinators = coordinators.map(|(n, part)| (Target::Coordinator(n), part));
        for (target, part) in workers.chain(coordinators) {
            if !broken(target)
                && let Some(how) = part.keep()
            {
                ended.push(format!("{}: {how}", part.name()));
            }
        }
        self.know_coordinators();
        ended
    }

    fn start_coordinator(&mut self, n: usize) {
        self.coordinators[n].start_again();
        self.know_coordinators();
    }

    fn know_coordinators(&self) {
        self.door.know_coordinators(self.coordinators.iter().filter_map(Part::pid).collect());
    }

    /// Which coordinator has this process.
    pub fn coordinator_of(&self, pid: u32) -> Option<usize> {
        self.coordinators.iter().position(|part| part.pid() == Some(pid))
    }

    /// The postmaster alone would go on serving whom it serves already.
    fn signal_postgres(&mut self, signal: Signal) {
        let postmaster = self.postgres.child().pid();
        for pid in children_of(postmaster).into_iter().chain([postmaster]) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // One that just ended is no loss.
                let _ = kill_process(pid, signal);
            }
        }
    }
}

/// What `tests/run.sh faults --beside` has compiled: the coordinator of another commit, which is the first one then.
fn beside() -> Option<PathBuf> {
    let name = std::env::var("FARM_TEST_BESIDE").ok()?;
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' }).collect();
    let path = PathBuf::from("target/beside").join(name).join("farm-coordinator");
    Some(std::path::absolute(path).unwrap())
}

fn worker(
    number: usize,
    link: &Link,
    engine: &PrivateEngine,
    folder: &Path,
    network: Option<&Network>,
) -> Part {
    let (kind, platforms) =
        if number < ENGINES { ("native", "linux/amd64") } else { ("qemu", "linux/arm64=emulated") };
    let name = format!("w{}-{kind}", number % ENGINES);
    let (mut command, url) = match network {
        None => (program("farm-worker"), link.url()),
        Some(network) => (network.command(&binary("farm-worker")), link.url_at(&network.gateway())),
    };
    command.args(["--coordinator", &url]).arg("--token-file").arg(folder.join("token"));
    command.args(["--name", &name, "--engine", &engine.url(), "--slots", &SLOTS.to_string()]);
    command.args(["--platforms", platforms]).arg("--state-dir").arg(folder.join(&name));
    Part::start(&name, command, folder)
}

fn children_of(parent: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // "PID (NAME) STATE PPID …"; the name may hold anything.
        let ppid = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        ppid == Some(parent)
    })
    .collect()
}
