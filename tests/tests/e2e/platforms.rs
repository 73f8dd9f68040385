//! Which worker builds a platform: native first, emulated by policy, and waiting is explained.

use farm_tests::farm::{Farm, WorkerSpec};

use crate::gate::Gate;
use crate::support::*;

fn tiny() -> Context {
    Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY Dockerfile /\n", nonce()))
}

/// One that runs a program of its platform.
fn running() -> Context {
    Context::new(&format!("FROM {BASE}\nRUN : {}\n", nonce()))
}

#[test]
fn a_build_that_may_not_be_emulated_waits_for_a_native_worker_and_says_so() {
    let mut farm =
        Farm::builder().worker(WorkerSpec::new("w-qemu").platforms("linux/arm64=emulated")).start();
    let context = running();
    let args = ["submit", context.text(), "--platform", "linux/arm64", "--emulation", "never"];
    let mut cli = farm.cli_spawn("submit", &args);
    let why = "no native worker for linux/arm64 is connected, and the policy does not allow emulation";
    cli.wait_for_line(&format!("linux/arm64  waiting  {why}"), LONG);
    let id = build_id(&cli.output());
    says(&farm.cli(&["show", &id]).ok(), &["queued", "waiting", why]);
    assert_eq!(show(&farm, &id)["platforms"][0]["waiting"], why);
    farm.add_worker(WorkerSpec::new("w-native").platforms("linux/arm64"));
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    says(&cli.output(), &["native on w-native (attempt 1)"]);
    // While it is there, it comes first, for those who would take an emulated one too.
    for context in [running(), tiny()] {
        let stdout = submit(&farm, &context, &["--platform", "linux/arm64"]).ok();
        says(&stdout, &["native on w-native"]);
    }
}

#[test]
fn a_build_that_nobody_can_take_ends_at_its_deadline() {
    let farm = Farm::builder()
        .config("[limits]\nqueue_deadline_seconds = 2\n")
        .worker(WorkerSpec::new("w1").platforms("linux/amd64"))
        .start();
    let tag = format!("{}:1", repository("nobody"));
    // Only for one of them does it run anything: the other is done in time.
    let context = Context::new(
        "ARG TARGETARCH\nFROM scratch AS for-amd64\nCOPY Dockerfile /\n\
         FROM scratch AS for-riscv64\nCOPY Dockerfile /x\nRUN [\"/x\"]\nFROM for-$TARGETARCH\n",
    );
    let result = submit(&farm, &context, &["-t", &tag, "--platform", "linux/amd64,linux/riscv64"]);
    assert_eq!(result.status, 1, "{result:?}");
    says(
        &result.stdout,
        &[
            "linux/riscv64  waiting  no worker for linux/riscv64 takes jobs now",
            "linux/riscv64 failed",
            "linux/amd64 was built; nothing was published, tags are as before.",
        ],
    );
    let record = show(&farm, &build_id(&result.stdout));
    assert_eq!(record["failure"]["cause"], "deadline", "{record:#}");
    // What it waited for all the time is in the reason.
    let message = record["failure"]["message"].as_str().unwrap();
    says(message, &["queue deadline", "no worker for linux/riscv64 takes jobs now"]);
    assert_eq!(record["platforms"][1]["attempts"], 0);
    assert_eq!(raw(&tag), None);
}

#[test]
fn two_workers_on_one_engine_share_its_slots() {
    let spec = |name: &str| WorkerSpec::new(name).platforms("linux/amd64").slots(2);
    let farm = Farm::builder().worker(spec("w1")).worker(spec("w2")).start();
    let gate = Gate::new();
    let contexts = [gate.context(), gate.context(), gate.context()];
    let mut clis: Vec<_> = (0..3)
        .map(|i| {
            let args = ["submit", contexts[i].text(), "--platform", "linux/amd64"];
            farm.cli_spawn(&format!("submit{i}"), &args)
        })
        .collect();
    let running = [gate.arrival(), gate.arrival()];
    let waits = |text: &str| {
        text.contains("linux/amd64  waiting  place 1 in the queue: all native slots are in use (2 of 2)")
    };
    until("a third build that waits", LONG, || clis.iter().any(|cli| waits(&cli.output())).then_some(()));
    let workers = farm.cli(&["workers", "--json"]).json();
    for worker in workers["workers"].as_array().unwrap() {
        assert_eq!(worker["slots_free"], 0, "{workers:#}");
    }
    let [first, second] = running;
    first.open();
    // Only now is there room for the third.
    gate.arrival().open();
    second.open();
    for cli in &mut clis {
        assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    }
}

#[test]
fn a_job_that_waits_for_a_slot_knows_its_place_in_the_queue() {
    let farm = Farm::builder().worker(WorkerSpec::new("w1").platforms("linux/amd64")).start();
    let gate = crate::gate::Gate::new();
    let context = gate.context();
    let mut first = farm.cli_spawn("first", &["submit", context.text(), "--platform", "linux/amd64"]);
    let step = gate.arrival();
    let ids =
        [(), ()].map(|()| build_id(&submit(&farm, &tiny(), &["--platform", "linux/amd64", "--detach"]).ok()));
    for (id, place) in
        ids.iter().zip(["place 1 in the queue: all native slots", "place 2 in the queue: all native slots"])
    {
        until(place, LONG, || {
            let shown = show(&farm, id);
            shown["platforms"][0]["waiting"].as_str()?.starts_with(place).then_some(())
        });
    }
    // Who looks on is told when those in front are gone.
    let third = tiny();
    let mut last =
        farm.cli_spawn("last", &["submit", third.text(), "--platform", "linux/amd64", "--progress", "json"]);
    let waits = |cli: &farm_tests::process::Child, place: &str| cli.output().contains(place).then_some(());
    last.wait_until("its place", LONG, |cli| waits(cli, "place 3 in the queue"));
    farm.cli(&["cancel", &ids[0]]).ok();
    last.wait_until("its better place", LONG, |cli| waits(cli, "place 2 in the queue"));
    step.open();
    assert_eq!(first.wait_exit(LONG).code(), Some(0), "{}", first.tail());
    assert_eq!(last.wait_exit(LONG).code(), Some(0), "{}", last.tail());
}
