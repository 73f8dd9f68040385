//! A cancelled build is over at once: its step is killed, nothing of it stays in the engine, no tag moves.

use std::time::{Duration, Instant};

use farm_tests::farm::{Farm, WorkerSpec};
use farm_tests::process::Child;
use farm_tests::process::run;
use rustix::process::Signal;

use crate::gate::Gate;
use crate::support::*;

const AT_ONCE: Duration = Duration::from_secs(2);

/// Submits a step that never ends, for two platforms, and ends it by `how`.
fn cancelled_by(farm: &Farm, how: impl FnOnce(&str, &mut Child)) -> String {
    let gate = Gate::new();
    // The number is unique, so the step's processes can be told from all others.
    let endless = format!("600.{}", u32::from_str_radix(&nonce(), 16).unwrap());
    let dockerfile = format!("FROM {BASE}\n{}RUN sleep {endless}\n", gate.step());
    let context = Context::new(&dockerfile).with_gate();
    let tag = format!("{}:1", repository("cancelled"));
    let args = ["submit", context.text(), "-t", &tag, "--platform", "linux/amd64,linux/arm64"];
    let mut cli = farm.cli_spawn("submit", &args);
    gate.arrival().open();
    gate.arrival().open();
    // The shells that started them have a blank there.
    let sleeping = format!("sleep\0{endless}");
    until("two sleeping steps", LONG, || (processes_with(&sleeping).len() == 2).then_some(()));
    let id = build_id(&cli.output());
    let called = Instant::now();
    how(&id, &mut cli);
    until("end of the steps", AT_ONCE, || processes_with(&endless).is_empty().then_some(()));
    assert!(called.elapsed() < AT_ONCE, "it took {:?}", called.elapsed());
    assert_eq!(cli.wait_exit(AT_ONCE).code(), Some(130), "{}", cli.tail());
    let text = cli.output();
    says(&text, &["nothing was published, tags are as before."]);
    assert!(text.lines().last().unwrap().starts_with("cancelled after "), "{text}");
    let record = show(farm, &id);
    assert_eq!(record["state"], "cancelled");
    for platform in record["platforms"].as_array().unwrap() {
        assert_eq!(
            (&platform["state"], &platform["attempts"]),
            (&"cancelled".into(), &1.into()),
            "{record:#}"
        );
    }
    assert_eq!(raw(&tag), None);
    // Its slots are free again.
    until("free slots", AT_ONCE, || {
        let workers = farm.cli(&["workers", "--json"]).json();
        (workers["workers"][0]["slots_free"] == 2
            && workers["workers"][0]["running"] == serde_json::json!([]))
        .then_some(())
    });
    id
}

#[test]
fn farm_cancel_ends_a_running_step_within_two_seconds_and_leaves_nothing() {
    let farm = small_farm();
    let id = cancelled_by(&farm, |id, _| {
        says(&farm.cli(&["cancel", id]).ok(), &[&format!("build {id} is being cancelled")]);
    });
    says(&farm.cli(&["cancel", &id]).ok(), &["is cancelled"]);
    // The worker is as good as before.
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    submit(&farm, &context, &["--platform", "linux/amd64"]).ok();
}

#[test]
fn a_cancel_at_another_coordinator_than_the_workers_ends_the_step_as_fast() {
    let worker = WorkerSpec::new("w1").platforms(BOTH).slots(2).coordinator(1);
    let farm = Farm::builder().coordinators(2).worker(worker).start();
    cancelled_by(&farm, |id, _| {
        farm.cli(&["cancel", id]).ok();
    });
}

#[test]
fn ctrl_c_cancels_the_build_and_waits_for_its_end() {
    let farm = small_farm();
    cancelled_by(&farm, |id, cli| {
        cli.signal(Signal::INT);
        cli.wait_for_line(&format!("cancelling build {id}"), AT_ONCE);
    });
}

#[test]
fn sigterm_cancels_the_build_and_so_does_sighup_where_there_is_no_terminal() {
    let farm = small_farm();
    for signal in [Signal::TERM, Signal::HUP] {
        cancelled_by(&farm, |id, cli| {
            cli.signal(signal);
            cli.wait_for_line(&format!("cancelling build {id}"), AT_ONCE);
        });
    }
}

#[test]
fn a_build_that_waits_is_cancelled_without_ever_having_run() {
    let farm = Farm::builder().start();
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    let mut cli = farm.cli_spawn("submit", &["submit", context.text(), "--platform", "linux/amd64"]);
    cli.wait_for_line("linux/amd64  waiting", LONG);
    let id = build_id(&cli.output());
    farm.cli(&["cancel", &id]).ok();
    assert_eq!(cli.wait_exit(AT_ONCE).code(), Some(130));
    assert_eq!(show(&farm, &id)["platforms"][0]["attempts"], 0);
}

#[test]
fn a_second_ctrl_c_leaves_at_once_while_the_farm_has_not_said_what_it_accepted() {
    let farm = small_farm();
    let context = Context::new(&format!("FROM {BASE}\nENTRYPOINT [\"uname\"]\n"));
    let tag = format!("{}:1", repository("leaving"));
    submit(&farm, &context, &["-t", &tag, "--platform", "linux/amd64"]).ok();
    let psql = |sql: &str| {
        let mut command = std::process::Command::new(farm_tests::database::psql_program());
        command.args(["-XAtq", "-d", farm.database_url(), "-c", sql]);
        command
    };
    // Nobody can write a build while this holds.
    let hold = psql("BEGIN; LOCK TABLE builds IN EXCLUSIVE MODE; SELECT pg_sleep(50)");
    let mut held = farm_tests::process::Child::spawn("hold", &hold, farm.folder());
    let locks = |sql: &str| {
        run(&mut psql(&format!(
            "SELECT count(*) FROM pg_locks WHERE relation = 'builds'::regclass AND {sql}"
        )))
    };
    until("the lock", LONG, || (locks("mode = 'ExclusiveLock' AND granted").trim() == "1").then_some(()));
    // Others wait for the table, too; only a submission writes a build.
    let accepting = || -> u32 {
        let count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                     AND wait_event_type = 'Lock' AND query LIKE 'INSERT INTO builds%'";
        run(&mut psql(count)).trim().parse().unwrap()
    };
    for args in
        [vec!["submit", context.text(), "--platform", "linux/amd64"], vec!["run", &tag], vec!["test", &tag]]
    {
        // The one before goes on at the coordinator, until it is told that there is no lock to be had.
        until("nothing is being accepted", LONG, || (accepting() == 0).then_some(()));
        let mut cli = farm.cli_spawn(args[0], &args);
        until("it is being accepted", LONG, || (accepting() > 0).then_some(()));
        // Presses that come while one is pending are one, so it is pressed until that was heard.
        until("it leaves", AT_ONCE, || {
            let is_there = cli.is_running();
            if is_there {
                cli.signal(Signal::INT);
            }
            (!is_there).then_some(())
        });
        assert_eq!(cli.wait_exit(AT_ONCE).code(), Some(130), "{args:?}: {}", cli.tail());
        says(&cli.output(), &["the farm may have accepted it"]);
    }
    held.kill9();
}

#[test]
fn a_second_ctrl_c_leaves_at_once_even_when_the_farm_does_not_answer() {
    let mut farm = Farm::builder().start();
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    let iidfile = farm.folder().join("iid");
    std::fs::write(&iidfile, "of an earlier build").unwrap();
    let to = repository("second-press");
    let iid = iidfile.to_str().unwrap();
    let args = ["submit", context.text(), "--platform", "linux/amd64", "-t", &to, "--iidfile", iid];
    let mut cli = farm.cli_spawn("submit", &args);
    cli.wait_for_line("linux/amd64  waiting", LONG);
    let id = build_id(&cli.output());
    farm.coordinator().pause();
    cli.signal(Signal::INT);
    cli.wait_for_line(&format!("cancelling build {id}; Ctrl-C again to leave at once"), AT_ONCE);
    cli.signal(Signal::INT);
    assert_eq!(cli.wait_exit(AT_ONCE).code(), Some(130));
    says(&cli.output(), &["left; the farm still ends the build"]);
    // What it had begun to write goes, as at any other end.
    assert!(!iidfile.exists());
    farm.coordinator().cont();
}

#[test]
fn a_build_that_takes_longer_than_its_timeout_fails_and_its_step_is_killed() {
    let farm = small_farm();
    let gate = Gate::new();
    let context = gate.context();
    let tag = format!("{}:1", repository("timeout"));
    let args = ["submit", context.text(), "-t", &tag, "--platform", "linux/amd64", "--timeout", "5s"];
    let mut cli = farm.cli_spawn("submit", &args);
    gate.arrival().wait_killed(LONG);
    assert_eq!(cli.wait_exit(LONG).code(), Some(1), "{}", cli.tail());
    says(&cli.output(), &["it was not built within the 5 s that --timeout gave it"]);
    assert_eq!(show(&farm, &build_id(&cli.output()))["failure"]["code"], "build_timeout");
    assert_eq!(raw(&tag), None);
}
