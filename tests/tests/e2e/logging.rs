//! The logs of coordinator and workers name what people know: builds, platforms, tries, workers by name, and who asked.

use std::time::Duration;

use farm_tests::farm::{Farm, WorkerSpec};
use farm_tests::process::lines_with_uuids;

use crate::gate::Gate;
use crate::support::*;

/// The line of a log that holds all of these.
#[track_caller]
fn line<'a>(log: &'a str, parts: &[&str]) -> &'a str {
    let found = log.lines().find(|line| parts.iter().all(|part| line.contains(part)));
    found.unwrap_or_else(|| panic!("no line with {parts:?} in:\n{log}"))
}

#[test]
fn a_build_a_lost_worker_and_a_cancel_are_logged_by_the_names_that_people_know() {
    let spec = |name: &str| WorkerSpec::new(name).platforms("linux/amd64").slots(2);
    let mut farm = Farm::builder().config(QUICK_LEASES).worker(spec("w1")).worker(spec("w2")).start();
    let (gate, repository) = (Gate::new(), repository("logging"));
    let tag = format!("{repository}:1");
    let context = gate.context();
    let mut cli =
        farm.cli_spawn("submit", &["submit", context.text(), "-t", &tag, "--platform", "linux/amd64"]);
    let step = gate.arrival();
    let id = build_id(&cli.output());
    let job = &show(&farm, &id)["platforms"][0];
    let (first, second) = if job["worker"] == "w1" { ("w1", "w2") } else { ("w2", "w1") };
    let lost = farm.worker(first).log_path().to_owned();
    farm.kill_worker(first);
    step.wait_killed(LONG);
    gate.arrival().open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());

    let waits = gate.context();
    let mut cli = farm.cli_spawn("second", &["submit", waits.text(), "--platform", "linux/amd64"]);
    let step = gate.arrival();
    let cancelled = build_id(&cli.output());
    farm.cli(&["cancel", &cancelled]).ok();
    step.wait_killed(LONG);
    assert_eq!(cli.wait_exit(LONG).code(), Some(130), "{}", cli.tail());
    let stopped = format!("job{{build={cancelled} platform=linux/amd64 try=1}}");
    let worker = farm.worker(second).wait_until("the end of the job", Duration::from_secs(5), |worker| {
        worker.output().contains(&format!("{stopped}: farm_worker::runner: stopped")).then(|| worker.output())
    });

    let coordinator = farm.coordinator().output();
    let job = |number: u32| format!("job{{build={id} platform=linux/amd64 try={number}}}");
    for parts in [
        &["INFO rpc{method=SubmitBuild who=admin project=default}:", "build accepted", &id, "by=\"admin\""][..],
        &["INFO", "dispatch", &job(1), "offered", first],
        &["WARN", "house", "lost", &id, first],
        &["INFO", "dispatch", &job(2), "offered", second],
        &["INFO publish:merge", &id, "merged"],
        &["INFO publish:put", &id, &repository, "published", "tag=\"1\""],
        &[
            "INFO rpc{method=CancelBuild who=admin project=default}:",
            "cancel asked for",
            &cancelled,
            "by=\"admin\"",
        ],
        &[&format!("INFO rpc{{method=Control who=admin worker={second}}}:"), "worker connected"],
    ] {
        line(&coordinator, parts);
    }
    for parts in [
        [&format!("INFO {}:", job(2)), "started"],
        [&format!("INFO {}:", job(2)), "built"],
        [&format!("INFO {stopped}:"), "asked to stop reason=Cancelled"],
    ] {
        line(&worker, &parts.map(|part: &str| part));
    }
    for log in [coordinator, worker, std::fs::read_to_string(lost).unwrap()] {
        assert_eq!(lines_with_uuids(&log), Vec::<&str>::new());
    }
}
