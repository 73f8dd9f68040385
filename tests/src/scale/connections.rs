//! What a coordinator needs for the connections of workers that have nothing to do: memory for each, and CPU for all.
//!
//! A real coordinator; workers that are simulated but give their signs as real ones do. Each has two connections, as a real
//! one: one for its control stream, and one for what is large.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::worker;
use crate::client::{Client, hello};
use crate::farm::Farm;

/// Workers that connect at once.
const AT_ONCE: usize = 32;

/// What a coordinator needs.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    pub connections: usize,
    /// Until all were there.
    pub connected_in: Duration,
    /// In memory with all of them.
    pub resident_kib: u32,
    pub kib_each: u32,
    /// Of a CPU, while nothing happens but signs of life.
    pub cpu_percent: f64,
}

/// As many files as this process may have.
pub fn raise_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// Connects `workers`, with TLS or without, and looks for `while_idle` at what the coordinator needs for them.
pub async fn hold(workers: usize, tls: bool, while_idle: Duration) -> Needs {
    raise_files();
    let builder = if tls { Farm::builder().tls() } else { Farm::builder() };
    let limits = "[limits]\nfirst_call_seconds = 3600\nidle_connection_seconds = 3600";
    let mut farm = builder.config(limits).start();
    let pid = farm.coordinator().pid();
    let (before, _) = used(pid);
    let begin = Instant::now();
    let (events, _heard) = mpsc::unbounded_channel();
    let (mut connecting, mut connected) = (JoinSet::new(), Vec::with_capacity(workers));
    for n in 0..workers {
        let client = Client::connect(&farm).await;
        let bulk = Client::connect(&farm).await;
        let name = format!("w{n}");
        connecting.spawn(async move { (worker::connect(&client, hello(&name, 1)).await, bulk) });
        if connecting.len() > AT_ONCE {
            connected.push(connecting.join_next().await.unwrap().unwrap());
        }
    }
    connected.extend(connecting.join_all().await);
    let connected_in = begin.elapsed();
    let (mut beating, mut bulk) = (JoinSet::new(), Vec::with_capacity(workers));
    for (worker, other) in connected {
        beating.spawn(worker.work(events.clone()));
        bulk.push(other);
    }
    let from = used(pid).1;
    tokio::time::sleep(while_idle).await;
    let (resident_kib, to) = used(pid);
    assert!(beating.try_join_next().is_none(), "a worker's stream has ended");
    let connections = 2 * workers;
    Needs {
        connections,
        connected_in,
        resident_kib,
        kib_each: resident_kib.saturating_sub(before) / u32::try_from(connections).unwrap(),
        cpu_percent: 100.0 * (to - from).as_secs_f64() / while_idle.as_secs_f64(),
    }
}

/// What a process has in memory, KiB, and has used of a CPU.
fn used(pid: u32) -> (u32, Duration) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u32 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the name: state is the third field, user and system time are the 14th and the 15th, in hundredths.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    (kib, Duration::from_millis(ticks * 10))
}
