//! Several coordinators on one database: any serves any call, and the death of one is seen by nobody.

use farm_tests::farm::{Farm, WorkerSpec, output};
use farm_tests::process::Child;

use crate::gate::{Arrival, Gate};
use crate::support::*;

/// Two coordinators; the worker knows both, or one.
fn farm(of_worker: Option<usize>) -> Farm {
    let mut worker = WorkerSpec::new("w1").platforms(BOTH).slots(2);
    worker.coordinator = of_worker;
    Farm::builder().coordinators(2).config(QUICK_LEASES).worker(worker).start()
}

/// Submits a step that waits, and returns when it runs.
fn submitted_by(farm: &Farm, urls: &str, tag: &str) -> (Child, Arrival) {
    let gate = Gate::new();
    let context = gate.context();
    let args = ["submit", context.text(), "-t", tag, "--platform", "linux/amd64"];
    let cli = Child::spawn("submit", &farm.command_by(urls, &args), farm.folder());
    (cli, gate.arrival())
}

#[test]
fn what_a_worker_tells_one_coordinator_is_seen_at_the_other() {
    let farm = farm(Some(1));
    let tag = format!("{}:1", repository("two-coordinators"));
    let (mut cli, step) = submitted_by(&farm, &farm.url_of(0), &tag);
    let id = build_id(&cli.output());
    let follow = |place: usize| {
        let command = farm.command_by(&farm.url_of(place), &["logs", &id, "-f"]);
        Child::spawn(&format!("follower-{place}"), &command, farm.folder())
    };
    let mut followers = [follow(0), follow(1)];
    step.open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    let seen = followers.each_mut().map(|follower| {
        assert_eq!(follower.wait_exit(LONG).code(), Some(0), "{}", follower.tail());
        follower.output()
    });
    says(&seen[0], &["gate.py"]);
    assert_eq!(seen[0], seen[1]);
    for place in [0, 1] {
        let record = output(&mut farm.command_by(&farm.url_of(place), &["show", &id, "--json"])).json();
        assert_eq!(record["state"], "succeeded");
    }
}

#[test]
fn a_killed_coordinator_is_missed_by_neither_worker_nor_user() {
    let mut farm = farm(None);
    let tag = format!("{}:1", repository("killed-one-of-two"));
    let (mut cli, step) = submitted_by(&farm, &farm.urls(), &tag);
    // The first one leads and has the command's call; the worker may be at either.
    farm.kill_coordinator_at(0);
    until("the worker at the other one", LONG, || {
        let workers = output(&mut farm.command_by(&farm.urls(), &["workers", "--json"]));
        (workers.json()["workers"][0]["state"] == "online").then_some(())
    });
    step.open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    says(&cli.output(), &["published", &tag]);
    assert!(!cli.output().contains("doesn't answer"), "{}", cli.output());
    let id = build_id(&cli.output());
    let record = output(&mut farm.command_by(&farm.urls(), &["show", &id, "--json"])).json();
    assert_eq!(record["platforms"][0]["attempts"], 1, "{record:#}");
    // Back and forth: now the other one.
    farm.start_coordinator_at(0);
    farm.stop_coordinator_at(1);
    let context = Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY Dockerfile /\n", nonce()));
    let args = ["submit", context.text(), "--platform", "linux/amd64"];
    output(&mut farm.command_by(&farm.urls(), &args)).ok();
}

#[test]
fn coordinators_that_cannot_call_each_other_still_serve_one_farm() {
    // Nobody listens there: what one doesn't tell, the other finds.
    let worker = WorkerSpec::new("w1").platforms(BOTH).slots(2).coordinator(1);
    let builder = Farm::builder().coordinators(2).arg("--advertise").arg("http://127.0.0.1:1");
    let mut farm = builder.worker(worker).start();
    let context = Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY Dockerfile /\n", nonce()));
    says(&submit(&farm, &context, &["--platform", "linux/amd64"]).ok(), &["built in"]);
    for place in [0, 1] {
        let says_so =
            |child: &mut Child| child.output().contains("can't be told what happens here").then_some(());
        farm.coordinator_at(place).wait_until("word of the other", LONG, says_so);
    }
}
