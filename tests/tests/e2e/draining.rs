//! An administrator drains a worker, lets it take jobs again, removes it.

use farm_tests::farm::{Farm, WorkerSpec};

use crate::gate::Gate;
use crate::support::*;

fn state(farm: &Farm, name: &str) -> Option<String> {
    let workers = farm.cli(&["workers", "--json"]).json();
    let mut workers = workers["workers"].as_array().unwrap().iter();
    workers.find(|worker| worker["name"] == name).map(|worker| worker["state"].as_str().unwrap().to_owned())
}

#[test]
fn a_drained_worker_ends_what_it_runs_and_stays_drained_until_it_is_resumed() {
    let mut farm = Farm::builder().worker(WorkerSpec::new("w1").platforms("linux/amd64").slots(2)).start();
    let gate = Gate::new();
    let context = gate.context();
    let args = ["submit", context.text(), "--platform", "linux/amd64"];
    let mut first = farm.cli_spawn("first", &args);
    let step = gate.arrival();
    says(
        &farm.cli(&["workers", "drain", "w1"]).ok(),
        &["w1 is draining: it gets nothing new and still runs "],
    );
    assert_eq!(state(&farm, "w1").unwrap(), "draining");
    let mut idle = farm.cli_spawn("idle", &["workers", "drain", "w1", "--wait"]);

    let other = Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY Dockerfile /\n", nonce()));
    let waiting = submit(&farm, &other, &["--platform", "linux/amd64", "--detach"]);
    let waiting = build_id(&waiting.ok());
    until("reason", LONG, || {
        let why = show(&farm, &waiting)["platforms"][0]["waiting"].as_str()?.to_owned();
        why.contains("w1 is drained; `farm workers resume w1`").then_some(())
    });
    step.open();
    assert_eq!(first.wait_exit(LONG).code(), Some(0), "{}", first.tail());
    assert_eq!(idle.wait_exit(LONG).code(), Some(0), "{}", idle.tail());
    says(&idle.output(), &["w1 runs nothing any more"]);
    assert_eq!(state(&farm, "w1").unwrap(), "drained");

    refused(&farm.cli(&["workers", "remove", "w1"]), 2, &["w1 is connected", "farm workers drain w1 --wait"]);
    farm.stop_coordinator();
    farm.start_coordinator();
    farm.stop_worker("w1");
    farm.start_worker("w1");
    until("drained worker", LONG, || (state(&farm, "w1")? == "drained").then_some(()));
    assert_eq!(show(&farm, &waiting)["state"], "queued");
    assert_eq!(farm.cli(&["workers", "resume", "w1"]).ok(), "w1 takes jobs\n");
    until("build", LONG, || (show(&farm, &waiting)["state"] == "succeeded").then_some(()));

    farm.stop_worker("w1");
    until("offline worker", LONG, || (state(&farm, "w1")? == "offline").then_some(()));
    assert_eq!(farm.cli(&["workers", "remove", "w1"]).ok(), "w1 is removed\n");
    assert_eq!(state(&farm, "w1"), None);
    assert_eq!(show(&farm, &waiting)["platforms"][0]["worker"], "w1");
    farm.start_worker("w1");
    until("new worker", LONG, || (state(&farm, "w1")? == "online").then_some(()));
}
