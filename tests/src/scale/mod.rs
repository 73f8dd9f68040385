//! What a job costs the database: the load of `tests/bench.sh scale`, and of the bounds in the suite.
//!
//! A real coordinator on a Postgres of its own ([`server`]); workers that are simulated ([`worker`]) but speak the real
//! protocol over connections of their own, and answer at once. Builds have one platform and no tags. First all workers
//! are connected and drained, and all builds are submitted; what is counted begins when the workers may take jobs, and ends
//! when all builds have: of each job its lease, offer, start and end, and the end of its build.
//!
//! Counts are to say something of farm, not of the machine. What farm does by the clock alone (signs of workers and
//! coordinators, looks that find nothing) is counted first while nothing can run, and then taken off for as long as the
//! jobs took: a machine that is half as fast doesn't make a job dearer. What remains of the machine: jobs that come in, or
//! end, at the same time may share a pass.

use std::time::{Duration, Instant};

use farm_proto::v1;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::client::{Client, hello};
use crate::farm::Farm;
use crate::session::Session;

pub mod connections;
mod server;
mod worker;

use server::{Reading, Server};
use worker::Event;

/// Longer than Postgres's sessions keep for themselves what they have counted (a second, while they are in use).
const SETTLE: Duration = Duration::from_secs(2);
/// How long is looked at what farm does by the clock.
const IDLE: Duration = Duration::from_secs(3);
/// Nothing has ended for so long: something is wrong.
const STUCK: Duration = Duration::from_secs(60);
/// A statement that comes less often than that for each job isn't named.
const SELDOM: f64 = 0.05;
/// Builds that are submitted at once.
const SUBMITTERS: usize = 8;

#[derive(Clone, Copy, Debug)]
pub struct Form {
    pub workers: usize,
    pub jobs: usize,
    /// Postgres's files are on the disk. Without, in memory, where to flush takes no time: for counts.
    pub on_disk: bool,
}

#[derive(Clone, Debug)]
pub struct Figures {
    /// For one job, without what farm does by the clock.
    pub per_job: Cost,
    /// How often each statement was run for one job, with what farm does by the clock; the most frequent first.
    pub statements: Vec<(f64, String)>,
    /// In a second, while no job can run.
    pub idle: Cost,
    /// From the first job to the last build's end.
    pub seconds: f64,
    pub cycles_per_second: f64,
    /// From what a worker says of a job's end until it hears of the next one, milliseconds.
    pub offer_p50: f64,
    pub offer_p99: f64,
}

#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub statements: f64,
    pub commits: f64,
    pub wal_bytes: f64,
}

impl Cost {
    fn between(from: &Reading, to: &Reading) -> Cost {
        Cost {
            statements: to.statements - from.statements,
            commits: to.commits - from.commits,
            wal_bytes: to.wal_bytes - from.wal_bytes,
        }
    }

    fn map(self, other: Cost, change: impl Fn(f64, f64) -> f64) -> Cost {
        Cost {
            statements: change(self.statements, other.statements),
            commits: change(self.commits, other.commits),
            wal_bytes: change(self.wal_bytes, other.wal_bytes),
        }
    }
}

/// Panics when a build fails or a job is done twice.
pub async fn run(form: Form) -> Figures {
    let server = Server::start(form.on_disk);
    let farm = Farm::builder().database_url(server.database_url()).start();
    let mut client = Client::connect(&farm).await;
    let names: Vec<String> = (0..form.workers).map(|number| format!("sim-{number}")).collect();
    let (events, mut heard) = mpsc::unbounded_channel();
    let mut workers = JoinSet::new();
    for name in &names {
        let sim = worker::connect(&Client::connect(&farm).await, hello(name, 1)).await;
        workers.spawn(sim.work(events.clone()));
    }
    drop(events);
    let drain = v1::DrainWorkersRequest { names: names.clone(), within_ms: 0 };
    client.farm.drain_workers(drain).await.unwrap();
    submit(&client, form.jobs).await;

    let mut look = Session::open(&server.watcher_url());
    assert_eq!(ended(&mut look), 0, "drained workers get no jobs");
    tokio::time::sleep(SETTLE).await;
    let begin = server.read();
    tokio::time::sleep(IDLE).await;
    let from = server.read();
    let statements_before = server.statements();
    let idle = Cost::between(&begin, &from);
    let idle_seconds = (from.at - begin.at).as_secs_f64();
    let idle = idle.map(idle, |count, _| count / idle_seconds);

    client.farm.resume_workers(v1::ResumeWorkersRequest { names }).await.unwrap();
    let mut offers = Vec::new();
    let mut done = 0;
    while done < form.jobs {
        let event = tokio::select! {
            event = heard.recv() => event,
            ended = workers.join_next() => panic!("a worker's stream has ended: {ended:?}"),
            () = tokio::time::sleep(STUCK) => panic!("{done} of {} jobs were done, and then nothing", form.jobs),
        };
        match event.unwrap() {
            Event::Offered(after) => offers.push(after.as_secs_f64() * 1000.0),
            Event::Done => done += 1,
        }
    }
    let (mut looks, mut before, mut last) = (0.0, 0, Instant::now());
    loop {
        let builds = ended(&mut look);
        looks += 1.0;
        if builds == form.jobs {
            break;
        }
        if builds > before {
            (before, last) = (builds, Instant::now());
        }
        assert!(last.elapsed() < STUCK, "all jobs are done, but only {builds} of {} builds", form.jobs);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let seconds = from.at.elapsed().as_secs_f64();
    assert_eq!(look.ask("SELECT count(*) FROM attempts"), form.jobs.to_string(), "a job was done twice");
    looks += 1.0;
    tokio::time::sleep(SETTLE).await;
    let to = server.read();
    let counted_seconds = (to.at - from.at).as_secs_f64();
    let all = Cost::between(&from, &to);
    let all = Cost { commits: all.commits - looks, ..all };
    let jobs = count(form.jobs);
    let mut statements: Vec<(f64, String)> = server
        .statements()
        .into_iter()
        .map(|(text, calls)| ((calls - statements_before.get(&text).unwrap_or(&0.0)) / jobs, text))
        .filter(|(calls, _)| *calls >= SELDOM)
        .collect();
    statements.sort_by(|a, b| b.0.total_cmp(&a.0));
    offers.sort_by(f64::total_cmp);
    Figures {
        per_job: all.map(idle, |all, idle| (all - idle * counted_seconds) / jobs),
        idle,
        statements,
        seconds,
        cycles_per_second: jobs / seconds,
        offer_p50: part(&offers, 50),
        offer_p99: part(&offers, 99),
    }
}

/// Builds that have succeeded; panics when another one has ended.
fn ended(look: &mut Session) -> usize {
    let found = look.ask(
        "SELECT count(*) FILTER (WHERE state = 'succeeded') || ' ' || \
         count(*) FILTER (WHERE state IN ('failed', 'cancelled')) FROM builds",
    );
    let (succeeded, other) = found.split_once(' ').unwrap();
    assert_eq!(other, "0", "builds have failed");
    succeeded.parse().unwrap()
}

async fn submit(client: &Client, jobs: usize) {
    let snapshot = client.clone().upload("FROM scratch").await;
    let mut submitters = JoinSet::new();
    for first in 0..SUBMITTERS {
        let (mut client, snapshot) = (client.clone(), snapshot.clone());
        submitters.spawn(async move {
            for number in (first..jobs).step_by(SUBMITTERS) {
                client.submit(&snapshot, &number.to_string(), &["linux/amd64"]).await;
            }
        });
    }
    while let Some(submitter) = submitters.join_next().await {
        submitter.unwrap();
    }
}

/// The value that so many of a hundred are not above.
fn part(sorted: &[f64], percent: usize) -> f64 {
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap())
}
