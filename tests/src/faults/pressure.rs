//! A build that takes all of the machine: four busy loops a core and some memory, in an engine without limits. The worker
//! has to stay alive for the farm.

use std::time::{Duration, Instant};

use crate::bed::Bed;
use crate::database::psql;
use crate::farm::{Farm, WorkerSpec};

const LOOK: Duration = Duration::from_millis(200);
/// A worker that is silent for longer gets no new jobs (the coordinator's default).
const SUSPECT: f64 = 12.0;

/// Runs it for so many seconds, and prints how long the worker was silent at worst; true when that was never so long that
/// it would have been noticed.
pub fn pressure(seconds: u32) -> bool {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let farm = Farm::builder().worker(WorkerSpec::new("w1").platforms("linux/amd64")).start();
    let context = Bed::from_env().folder("pressure");
    // `tail` keeps what has no line's end: memory that is really used.
    let script = format!(
        "n=0; while [ $n -lt {} ]; do (while :; do :; done) & n=$((n + 1)); done\n\
         for hog in 1 2; do (head -c 400000000 /dev/zero | tail -c 399999999 | sleep {seconds}) & done\n\
         i=0; while [ $i -lt {seconds} ]; do echo under pressure $i; sleep 1; i=$((i + 1)); done\n\
         kill 0 2>/dev/null || true\n",
        4 * cores
    );
    let dockerfile = format!(
        "FROM {}/python:3.11-slim\nCOPY press.sh /\nRUN timeout {} sh /press.sh || true\nRUN echo {}\n",
        Bed::from_env().registry,
        seconds + 60,
        std::process::id()
    );
    std::fs::write(context.path().join("Dockerfile"), dockerfile).unwrap();
    std::fs::write(context.path().join("press.sh"), script).unwrap();
    let folder = context.path().to_str().unwrap();
    let begin = Instant::now();
    let mut build =
        farm.cli_spawn("pressure", &["submit", folder, "--platform", "linux/amd64", "--no-cache"]);
    let (mut worst, mut looks) = (0.0_f64, 0);
    while build.is_running() {
        let silent = psql(
            farm.database_url(),
            "SELECT extract(epoch FROM farm_now() - last_seen) FROM workers WHERE name = 'w1'",
        );
        worst = worst.max(silent.parse().unwrap());
        looks += 1;
        std::thread::sleep(LOOK);
    }
    let took = begin.elapsed().as_secs_f64();
    let attempts = psql(farm.database_url(), "SELECT count(*) || ' ' || max(state) FROM attempts");
    let id = psql(farm.database_url(), "SELECT short_id FROM builds");
    let log = farm.cli(&["logs", &id]).stdout;
    let lines = log.lines().filter(|line| line.contains("under pressure") && !line.contains("$i")).count();
    println!(
        "pressure seconds={seconds} loops={} took={took:.1} s silent_at_worst={worst:.1} s (of {looks} looks) \
         attempts={attempts:?} lines={lines}",
        4 * cores
    );
    let good = build.wait_exit(Duration::from_secs(1)).success() && attempts == "1 succeeded";
    if !good {
        println!("VIOLATION {}", build.tail());
    }
    let all = usize::try_from(seconds).is_ok_and(|seconds| lines == seconds);
    good && all && worst < SUSPECT && took > f64::from(seconds)
}
