//! A worker that dies is no user's problem, and is not hidden.

use std::time::{Duration, Instant};

use farm_tests::engine::PrivateEngine;
use farm_tests::farm::{Farm, WorkerSpec};
use rustix::process::Signal;

use crate::gate::Gate;
use crate::support::*;

fn two_workers() -> Farm {
    let spec = |name: &str| WorkerSpec::new(name).platforms("linux/amd64").slots(2);
    Farm::builder().config(QUICK_LEASES).worker(spec("w1")).worker(spec("w2")).start()
}

/// Who runs the build's only job now.
fn runner(farm: &Farm, id: &str) -> String {
    until("running job", LONG, || {
        let record = show(farm, id);
        let job = &record["platforms"][0];
        (job["state"] == "running").then(|| job["worker"].as_str().unwrap().to_owned())
    })
}

/// The attempts of the build's only job: who tried, and how it ended.
fn tries(record: &serde_json::Value) -> Vec<(&str, &str)> {
    let history = record["platforms"][0]["history"].as_array().unwrap();
    history.iter().map(|a| (a["worker"].as_str().unwrap(), a["state"].as_str().unwrap())).collect()
}

#[test]
fn a_build_whose_worker_is_killed_is_built_on_another() {
    let mut farm = two_workers();
    let gate = Gate::new();
    let context = gate.context();
    let tag = format!("{}:1", repository("killed-worker"));
    let mut cli =
        farm.cli_spawn("submit", &["submit", context.text(), "-t", &tag, "--platform", "linux/amd64"]);
    let step = gate.arrival();
    let id = build_id(&cli.output());
    let first = runner(&farm, &id);
    farm.kill_worker(&first);
    // The engine ends what nobody waits for, so two attempts never run at once.
    step.wait_killed(LONG);
    gate.arrival().open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    let second = if first == "w1" { "w2" } else { "w1" };
    says(
        &cli.output(),
        &[
            &format!("{first} was lost after "),
            "it will run again",
            &format!("running again on {second}, native (attempt 2)"),
            &format!("native on {second}"),
            "published",
        ],
    );
    let record = show(&farm, &id);
    assert_eq!(
        (&record["platforms"][0]["attempts"], &record["platforms"][0]["worker"]),
        (&2.into(), &second.into())
    );
    assert_eq!(record["index_digest"], digest_of(&raw(&tag).unwrap()));
    let workers = farm.cli(&["workers", "--json"]).json();
    let dead = workers["workers"].as_array().unwrap().iter().find(|w| w["name"] == first.as_str()).unwrap();
    assert_eq!(dead["state"], "offline", "{workers:#}");
}

#[test]
fn a_worker_that_is_told_to_stop_ends_what_it_runs_and_gives_it_back_when_told_again() {
    let mut farm = two_workers();
    let gate = Gate::new();
    let context = gate.context();
    let args = ["submit", context.text(), "--platform", "linux/amd64"];
    let mut cli = farm.cli_spawn("first", &args);
    let step = gate.arrival();
    let first = runner(&farm, &build_id(&cli.output()));
    farm.worker(&first).signal(Signal::TERM);
    until("draining worker", LONG, || {
        let workers = farm.cli(&["workers", "--json"]).json();
        let mut workers = workers["workers"].as_array().unwrap().iter();
        workers.any(|w| w["name"] == first.as_str() && w["state"] == "draining").then_some(())
    });
    // Its job goes on, new ones go elsewhere.
    let other = Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY Dockerfile /\n", nonce()));
    let second = if first == "w1" { "w2" } else { "w1" };
    says(&submit(&farm, &other, &["--platform", "linux/amd64"]).ok(), &[&format!("native on {second}")]);
    assert!(farm.worker(&first).is_running());
    farm.stop_worker(&first);
    step.wait_killed(LONG);
    gate.arrival().open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    says(
        &cli.output(),
        &["the worker was stopped", &format!("running again on {second}, native (attempt 2)")],
    );
}

#[test]
fn a_worker_that_is_stalled_beyond_its_lease_does_not_win_against_its_successor() {
    // Two engines, since one alone would let the second attempt join the step that runs already.
    let engine = PrivateEngine::start();
    let spec = |name: &str| WorkerSpec::new(name).platforms("linux/amd64");
    let mut farm = Farm::builder().config(QUICK_LEASES).worker(spec("w1").engine(&engine.url())).start();
    let gate = Gate::new();
    let context = gate.context();
    let tag = format!("{}:1", repository("stalled"));
    let mut cli =
        farm.cli_spawn("submit", &["submit", context.text(), "-t", &tag, "--platform", "linux/amd64"]);
    let first = gate.arrival();
    farm.add_worker(spec("w2"));
    farm.worker("w1").pause();
    let second = gate.arrival();
    farm.worker("w1").cont();
    // It comes back without its lease, and must let go of what it runs.
    first.wait_killed(LONG);
    second.open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    let record = show(&farm, &build_id(&cli.output()));
    assert_eq!(tries(&record), [("w1", "lost"), ("w2", "succeeded")], "{record:#}");
    assert_eq!(record["index_digest"], digest_of(&raw(&tag).unwrap()));
}

#[test]
fn a_worker_that_crashes_and_comes_back_at_once_takes_its_job_up_again_without_waiting_for_the_lease() {
    // Default leases: 25 s.
    let mut farm = Farm::builder().worker(WorkerSpec::new("w1").platforms("linux/amd64")).start();
    let gate = Gate::new();
    let context = gate.context();
    let mut cli = farm.cli_spawn("submit", &["submit", context.text(), "--platform", "linux/amd64"]);
    gate.arrival();
    farm.kill_worker("w1");
    let begin = Instant::now();
    farm.start_worker("w1");
    gate.arrival().open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    assert!(begin.elapsed() < Duration::from_secs(15), "it took {:?}", begin.elapsed());
    let record = show(&farm, &build_id(&cli.output()));
    assert_eq!(tries(&record), [("w1", "lost"), ("w1", "succeeded")], "{record:#}");
}
