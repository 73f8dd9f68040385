//! Postgres may go away: nothing is lost, and a coordinator that finds none says so.

use std::process::Command;
use std::time::Duration;

use farm_tests::bed::Bed;
use farm_tests::database::PrivatePostgres;
use farm_tests::farm::{Farm, binary, output};

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
fn a_coordinator_without_postgres_says_so_and_ends() {
    let bed = Bed::from_env();
    let folder = bed.test_folder();
    std::fs::write(folder.join("farm.toml"), "database_wait_seconds = 1\n").unwrap();
    let nowhere = "postgres://farm@localhost/farm?host=/nowhere";
    let mut command = Command::new(binary("farm-coordinator"));
    command.args(["--listen", "127.0.0.1:0", "--database-url", nowhere]);
    command.arg("--config").arg(folder.join("farm.toml")).arg("--state-dir").arg(&folder);
    let begin = std::time::Instant::now();
    let result = output(&mut command);
    assert_eq!(result.status, 1, "{result:?}");
    says(&result.stderr, &["the database did not answer within 1 s", "start Postgres", "--database-url"]);
    assert!(begin.elapsed() < Duration::from_secs(10));
    let last = result.stderr.lines().last().unwrap();
    assert!(last.starts_with("error: "), "{last}");

    let result = output(Command::new(binary("farm-coordinator")).args(["--state-dir"]).arg(&folder));
    assert_eq!(result.status, 2, "{result:?}");
    says(&result.stderr, &["error: ", "--database-url", "postgres://"]);
}
