//! Machines that are taken away: what runs is finished in time, or given back and run elsewhere, which is no failed try.

use farm_tests::database;
use farm_tests::farm::{Farm, WorkerSpec};

use crate::gate::Gate;
use crate::support::*;

/// Tries that count, over all jobs of this farm.
fn counted(farm: &Farm) -> String {
    database::psql(farm.database_url(), "SELECT sum(attempt_count) FROM jobs")
}

fn spec(name: &str) -> WorkerSpec {
    WorkerSpec::new(name).platforms("linux/amd64")
}

#[test]
fn a_worker_whose_machine_goes_away_gives_back_what_does_not_end_in_time() {
    let mut farm = Farm::builder().worker(spec("w-spot").arg("--release-after=2s")).start();
    let gate = Gate::new();
    let context = gate.context();
    let mut cli = farm.cli_spawn("submit", &["submit", context.text(), "--platform", "linux/amd64"]);
    let taken = gate.arrival();
    farm.add_worker(spec("w-stays"));
    farm.stop_worker("w-spot");
    // The step was killed, and runs again elsewhere.
    taken.wait_killed(LONG);
    gate.arrival().open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    says(&cli.output(), &["w-stays, native (attempt 2)"]);
    assert_eq!(counted(&farm), "1");
}

#[test]
fn a_worker_that_is_drained_with_a_limit_gives_back_what_does_not_end_in_time() {
    let mut farm = Farm::builder().worker(spec("w-spot").slots(2)).start();
    let (slow, quick) = (Gate::new(), Gate::new());
    let (slow_context, quick_context) = (slow.context(), quick.context());
    let mut given_back =
        farm.cli_spawn("slow", &["submit", slow_context.text(), "--platform", "linux/amd64"]);
    let taken = slow.arrival();
    let mut in_time = farm.cli_spawn("quick", &["submit", quick_context.text(), "--platform", "linux/amd64"]);
    let ends = quick.arrival();
    farm.add_worker(spec("w-stays"));
    says(
        &farm.cli(&["workers", "drain", "w-spot", "--within", "5s"]).ok(),
        &["w-spot is draining", "what does not end within 5 s is given back"],
    );
    says(&farm.cli(&["workers"]).ok(), &["w-spot gives back what it still runs in "]);
    ends.open();
    assert_eq!(in_time.wait_exit(LONG).code(), Some(0), "{}", in_time.tail());
    taken.wait_killed(LONG);
    slow.arrival().open();
    assert_eq!(given_back.wait_exit(LONG).code(), Some(0), "{}", given_back.tail());
    says(&given_back.output(), &["w-stays, native (attempt 2)"]);
    assert_eq!(counted(&farm), "2");
    let words = ["--within", "soon", "90s, 10m or 2h"];
    refused(&farm.cli(&["workers", "drain", "w-spot", "--within", "soon"]), 2, &words);
    // The worker itself is none the worse.
    assert_eq!(farm.cli(&["workers", "resume", "w-spot"]).ok(), "w-spot takes jobs\n");
}
