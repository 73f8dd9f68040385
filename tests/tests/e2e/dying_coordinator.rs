//! The coordinator can be killed at any moment: builds go on, and their users see it through.

use crate::gate::Gate;
use crate::support::*;

#[test]
fn a_killed_coordinator_costs_no_build_and_the_command_follows_on() {
    let mut farm = small_farm();
    let gate = Gate::new();
    let context = gate.context();
    let tag = format!("{}:1", repository("killed-coordinator"));
    let mut cli =
        farm.cli_spawn("submit", &["submit", context.text(), "-t", &tag, "--platform", "linux/amd64"]);
    let step = gate.arrival();
    farm.kill_coordinator();
    cli.wait_for_line("the farm doesn't answer", LONG);
    // The step ends while nobody is there to hear of it.
    step.open_and_see_it_end();
    farm.start_coordinator();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    let text = cli.output();
    says(&text, &["the farm is back", "published", &tag]);
    let id = build_id(&text);
    let record = show(&farm, &id);
    assert_eq!(record["platforms"][0]["attempts"], 1, "the result was delivered, not made again: {record:#}");
    assert_eq!(record["index_digest"], digest_of(&raw(&tag).unwrap()));
    // What was written meanwhile is not lost either.
    says(&farm.cli(&["logs", &id]).ok(), &["gate.py"]);
}

#[test]
fn builds_that_wait_or_are_submitted_while_it_restarts_are_built() {
    let mut farm = farm_tests::farm::Farm::builder().start();
    let context = Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY Dockerfile /\n", nonce()));
    let args = ["submit", context.text(), "--platform", "linux/amd64"];
    let mut cli = farm.cli_spawn("waiting", &args);
    cli.wait_for_line("linux/amd64  waiting", LONG);
    farm.stop_coordinator();
    farm.start_coordinator();
    farm.add_worker(farm_tests::farm::WorkerSpec::new("w1").platforms("linux/amd64"));
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
}

#[test]
fn one_that_was_killed_leads_at_once_when_it_is_back_on_its_machine() {
    // Nobody could wait for that.
    let mut farm = farm_tests::farm::Farm::builder().config("[leadership]\nlease_seconds = 300\n").start();
    let url = farm.database_url().to_owned();
    let leader = || {
        let leader = farm_tests::database::psql(
            &url,
            "SELECT l.epoch || ' ' || c.machine FROM leader l JOIN coordinators c ON c.id = l.coordinator_id
             WHERE l.expires_at > farm_now()",
        );
        let (epoch, machine) = leader.split_once(' ')?;
        Some((epoch.parse::<u64>().unwrap(), machine.to_owned()))
    };
    let (before, machine) = until("the first one leads", LONG, leader);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(machine, kernel.trim());
    farm.kill_coordinator();
    farm.start_coordinator();
    until("the next one leads", LONG, || leader().filter(|(epoch, _)| *epoch > before));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut farm = small_farm();
    // What it waits for when it stops: a database that doesn't answer.
    let hold = "BEGIN; LOCK TABLE leader IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(50)";
    let mut psql = std::process::Command::new(farm_tests::database::psql_program());
    psql.args(["-XAtq", "-d", farm.database_url(), "-c", hold]);
    let mut held = farm_tests::process::Child::spawn("hold", &psql, farm.folder());
    until("the lock", LONG, || {
        let held = "SELECT count(*) FROM pg_locks WHERE relation = 'leader'::regclass AND granted AND mode = 'AccessExclusiveLock'";
        let mut psql = std::process::Command::new(farm_tests::database::psql_program());
        (farm_tests::process::run(psql.args(["-XAtq", "-d", farm.database_url(), "-c", held])).trim() == "1")
            .then_some(())
    });
    let coordinator = farm.coordinator();
    coordinator.signal(rustix::process::Signal::TERM);
    let told = |child: &mut farm_tests::process::Child| {
        child.output().contains("a second signal ends it").then_some(())
    };
    coordinator.wait_until("word of stopping", LONG, told);
    let ended = coordinator.stop_with(rustix::process::Signal::TERM, std::time::Duration::from_secs(2));
    assert_eq!(ended.code(), Some(1));
    held.kill9();
}
