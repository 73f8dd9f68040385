//! An engine that dies takes its builds along; they are made again on another.

use farm_tests::engine::PrivateEngine;
use farm_tests::farm::{Farm, WorkerSpec};

use crate::gate::Gate;
use crate::support::*;

#[test]
fn a_build_whose_engine_is_killed_is_built_on_another_and_the_engine_is_used_again_when_it_is_back() {
    let mut engine = PrivateEngine::start();
    let spec = |name: &str| WorkerSpec::new(name).platforms("linux/amd64");
    let mut farm = Farm::builder().config(QUICK_LEASES).worker(spec("w-frail").engine(&engine.url())).start();
    let gate = Gate::new();
    let context = gate.context();
    let tag = format!("{}:1", repository("killed-engine"));
    let mut cli =
        farm.cli_spawn("submit", &["submit", context.text(), "-t", &tag, "--platform", "linux/amd64"]);
    let step = gate.arrival();
    farm.add_worker(spec("w-sound"));
    engine.kill9();
    gate.arrival().open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    says(
        &cli.output(),
        &["attempt 1 failed on w-frail", "went away", "running again on w-sound, native (attempt 2)"],
    );
    let record = show(&farm, &build_id(&cli.output()));
    assert_eq!(record["platforms"][0]["attempts"], 2);
    assert_eq!(record["index_digest"], digest_of(&raw(&tag).unwrap()));
    // A crash leaves the step running; that is the engine's, not farm's.
    drop(step);

    // A worker without its engine takes no jobs, and is of use again afterwards.
    farm.stop_worker("w-sound");
    let waiting = Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY Dockerfile /\n", nonce()));
    let mut cli = farm.cli_spawn("waiting", &["submit", waiting.text(), "--platform", "linux/amd64"]);
    cli.wait_for_line("linux/amd64  waiting", LONG);
    let workers = farm.cli(&["workers", "--json"]).json();
    assert!(workers["workers"].as_array().unwrap().iter().all(|w| w["state"] != "online"), "{workers:#}");
    engine.start_again();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    assert_eq!(show(&farm, &build_id(&cli.output()))["platforms"][0]["attempts"], 1);
}

#[test]
fn an_engine_that_hangs_is_given_up_and_the_build_is_made_on_another() {
    let mut engine = PrivateEngine::start();
    let spec = |name: &str| WorkerSpec::new(name).platforms("linux/amd64");
    let mut farm = Farm::builder().config(QUICK_LEASES).worker(spec("w-hung").engine(&engine.url())).start();
    let gate = Gate::new();
    let context = gate.context();
    let mut cli = farm.cli_spawn("submit", &["submit", context.text(), "--platform", "linux/amd64"]);
    let _step = gate.arrival();
    farm.add_worker(spec("w-sound"));
    engine.child().pause();
    gate.arrival().open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    says(&cli.output(), &["on w-hung", "running again on w-sound, native (attempt 2)"]);
}
