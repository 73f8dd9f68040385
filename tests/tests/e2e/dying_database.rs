//! Postgres may go away: nothing is lost, and a coordinator that finds none says so.

use std::time::Duration;

use farm_tests::bed::Bed;
use farm_tests::database::{PrivatePostgres, psql};
use farm_tests::farm::{Farm, WorkerSpec, output, program};
use rustix::process::Signal;

use crate::gate::Gate;
use crate::support::*;

#[test]
fn a_build_lives_through_a_crash_of_postgres() {
    let mut postgres = PrivatePostgres::start();
    let farm = with_worker(Farm::builder().database_url(&postgres.url()).config(QUICK_LEASES));
    let gate = Gate::new();
    let context = gate.context();
    let tag = format!("{}:1", repository("no-postgres"));
    let mut cli =
        farm.cli_spawn("submit", &["submit", context.text(), "-t", &tag, "--platform", "linux/amd64"]);
    let step = gate.arrival();
    postgres.kill9();
    // Asked meanwhile, the farm says what is the matter, and that it is the farm's.
    let asked = farm.cli(&["builds"]);
    refused(&asked, 3, &[&farm.url(), "can't answer now: the farm's database does not answer; try again"]);
    let other = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    let submitted = submit(&farm, &other, &["--platform", "linux/amd64"]);
    refused(
        &submitted,
        3,
        &[&farm.url(), "can't answer now: the farm's database does not answer; try again"],
    );
    step.open();
    postgres.start();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    let record = show(&farm, &build_id(&cli.output()));
    assert_eq!(record["platforms"][0]["attempts"], 1, "{record:#}");
    assert_eq!(record["index_digest"], digest_of(&raw(&tag).unwrap()));
}

#[test]
fn builds_live_through_restarts_of_postgres_under_load() {
    let mut postgres = PrivatePostgres::start();
    let worker = WorkerSpec::new("w1").platforms(BOTH).slots(4);
    let farm = Farm::builder().database_url(&postgres.url()).config(QUICK_LEASES).worker(worker).start();
    let (gate, repository) = (Gate::new(), repository("restarts"));
    // Some write all the time, some wait at the gate, and some are over in a moment.
    let chatty = |n: usize| {
        let lines = "i=0; while [ $i -lt 60 ]; do i=$((i+1)); echo \"this is line $i.\"; sleep 0.1; done";
        Context::new(&format!("FROM {BASE}\nRUN echo {n}{}; {lines}\n", nonce()))
    };
    let mut contexts: Vec<Context> = (0..2).map(chatty).collect();
    contexts.push(gate.context());
    let start = |n: usize, context: &Context| {
        let tag = format!("{repository}:{n}");
        let args = ["submit", context.text(), "-t", &tag, "--platform", "linux/amd64"];
        farm.cli_spawn(&format!("build-{n}"), &args)
    };
    let mut builds: Vec<_> = contexts.iter().enumerate().map(|(n, context)| start(n, context)).collect();
    builds[0].wait_until("line", LONG, |build| build.output().contains("line 3.").then_some(()));
    let step = gate.arrival();
    for (n, signal) in [Signal::INT, Signal::QUIT, Signal::TERM].into_iter().enumerate() {
        let context = Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY Dockerfile /\n", nonce()));
        let mut quick = start(3 + n, &context);
        quick.wait_for_line("build ", LONG);
        postgres.ask_to_end(signal);
        if signal == Signal::TERM {
            // Whoever is connected may stay, and nobody else comes in: for some seconds farm lives on what it has.
            let asked = || farm.cli(&["builds"]);
            until("an answer, of whatever kind", LONG, || [0, 3].contains(&asked().status).then_some(()));
        }
        postgres.stop();
        postgres.start();
        assert_eq!(quick.wait_exit(LONG).code(), Some(0), "{signal:?}: {}", quick.tail());
        contexts.push(context);
        builds.push(quick);
    }
    step.open();
    for (n, build) in builds.iter_mut().enumerate() {
        assert_eq!(build.wait_exit(LONG).code(), Some(0), "{}", build.tail());
        let record = show(&farm, &build_id(&build.output()));
        assert_eq!(record["platforms"][0]["attempts"], 1, "{record:#}");
        assert_eq!(record["index_digest"], digest_of(&raw(&format!("{repository}:{n}")).unwrap()));
    }
    for build in &builds[..2] {
        let log = farm.cli(&["logs", &build_id(&build.output())]).ok();
        let lines = log.lines().filter_map(|line| line.split("this is line ").nth(1));
        // Not the instruction's own text.
        let lines: Vec<&str> = lines.filter(|line| !line.starts_with('$')).collect();
        let wanted: Vec<String> = (1..=60).map(|n| format!("{n}.")).collect();
        assert_eq!(lines, wanted, "{log}");
    }
    assert_eq!(psql(&postgres.url(), "SELECT sum(used) FROM engines"), "0");
}

#[test]
fn a_coordinator_without_postgres_says_so_and_ends() {
    let bed = Bed::from_env();
    let folder = bed.test_folder();
    std::fs::write(folder.join("farm.toml"), "database_wait_seconds = 1\n").unwrap();
    let nowhere = "postgres://farm@localhost/farm?host=/nowhere";
    let mut command = program("farm-coordinator");
    command.args(["--listen", "127.0.0.1:0", "--database-url", nowhere]);
    command.arg("--config").arg(folder.join("farm.toml")).arg("--state-dir").arg(&folder);
    let begin = std::time::Instant::now();
    let result = output(&mut command);
    assert_eq!(result.status, 1, "{result:?}");
    says(&result.stderr, &["the database did not answer within 1 s", "start Postgres", "--database-url"]);
    assert!(begin.elapsed() < Duration::from_secs(10));
    let last = result.stderr.lines().last().unwrap();
    assert!(last.starts_with("error: "), "{last}");

    let result = output(program("farm-coordinator").args(["--state-dir"]).arg(&folder));
    assert_eq!(result.status, 2, "{result:?}");
    says(&result.stderr, &["error: ", "--database-url", "postgres://"]);
}
