//! What builds that came to nothing have pushed leaves the registry again, and nothing that is of use to anybody.

use std::process::Command;

use farm_tests::farm::Farm;
use farm_tests::process::run;

use crate::gate::Gate;
use crate::retrying::{context, half, platform};
use crate::signing::{cosign, signatures, signed_by_hand};
use crate::support::*;

fn psql(farm: &Farm, sql: &str) -> String {
    run(Command::new(farm_tests::database::psql_program()).args([
        "-XAtq",
        "-d",
        farm.database_url(),
        "-c",
        sql,
    ]))
    .trim()
    .to_owned()
}

/// A cancelled build that has pushed linux/amd64, and that image's digest.
fn came_to_nothing(farm: &Farm, tag: &str) -> (String, String) {
    let gate = Gate::new();
    let id = half(farm, &context(&gate), &gate, tag);
    let digest = platform(&show(farm, &id), "linux/amd64")["digest"].as_str().unwrap().to_owned();
    (id, digest)
}

#[test]
fn what_nobody_needs_is_removed_and_what_a_tag_needs_stays_whoever_put_it() {
    let mut farm = small_farm();
    let repository = repository("cleaned");
    let tag = format!("{repository}:1");
    let (nothing, garbage) = came_to_nothing(&farm, &tag);
    let (_, of_use) = came_to_nothing(&farm, &tag);
    // Somebody else found a use for the one.
    let copy = [format!("docker://{repository}@{of_use}"), format!("docker://{repository}:theirs")];
    run(Command::new("skopeo")
        .args(["copy", "--src-tls-verify=false", "--dest-tls-verify=false"])
        .args(copy));
    // What is about an image goes with it, and only then.
    cosign(&farm, &["generate-key-pair"]).ok();
    for digest in [&garbage, &of_use] {
        signed_by_hand(&farm, "cosign.key", &format!("{repository}@{digest}"));
        assert_eq!(signatures(&tag, digest), [1, 1]);
    }
    let gate = Gate::new();
    let published = context(&gate);
    let args = ["submit", published.text(), "-t", &tag, "--platform", "linux/amd64,linux/arm64"];
    let mut cli = farm.cli_spawn("published", &args);
    gate.arrival().open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    let (index_before, children) = (raw(&tag).unwrap(), index(&tag)["manifests"].clone());

    psql(
        &farm,
        "UPDATE builds SET finished_at = finished_at - interval '25 hours';
         UPDATE pushed_digests SET pushed_at = pushed_at - interval '25 hours';
         UPDATE destinations SET settled_at = settled_at - interval '25 hours'",
    );
    // Who begins to lead looks at once.
    farm.stop_coordinator();
    farm.start_coordinator();
    until("the garbage is gone", LONG, || raw(&format!("{repository}@{garbage}")).is_none().then_some(()));
    until("it is noted", LONG, || {
        let fates = "SELECT string_agg(fate, ',' ORDER BY fate) FROM pushed_digests";
        (psql(&farm, fates) == "kept,kept,kept,removed").then_some(())
    });
    assert_eq!(digest_of(&raw(&format!("{repository}:theirs")).unwrap()), of_use);
    assert_eq!(signatures(&tag, &of_use), [1, 1]);
    assert_eq!(signatures(&tag, &garbage), [0, 0]);
    assert_eq!(raw(&format!("{repository}:{}", garbage.replace(':', "-"))), None);
    assert_eq!(raw(&tag).unwrap(), index_before);
    for child in children.as_array().unwrap() {
        assert!(raw(&format!("{repository}@{}", child["digest"].as_str().unwrap())).is_some());
    }
    says(&farm.coordinator().output(), &["removed=1 needed=1"]);

    // What was removed is seen to be gone, as anything that is.
    let retried = farm.cli(&["retry", &nothing, "--failed-only", "--detach"]).ok();
    let record = show(&farm, &build_id(&retried));
    assert_eq!(platform(&record, "linux/amd64")["taken_from"], serde_json::Value::Null, "{record:#}");
}

#[test]
fn nothing_is_removed_where_that_is_not_wanted() {
    let mut farm = Farm::builder()
        .config("[retention]\nunpublished_hours = 0\n")
        .worker(farm_tests::farm::WorkerSpec::new("w1").platforms(BOTH).slots(2))
        .start();
    let tag = format!("{}:1", repository("not-cleaned"));
    let (_, digest) = came_to_nothing(&farm, &tag);
    psql(&farm, "UPDATE builds SET finished_at = finished_at - interval '1 year'");
    farm.stop_coordinator();
    farm.start_coordinator();
    let context = Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY Dockerfile /\n", nonce()));
    submit(&farm, &context, &["-t", &tag, "--platform", "linux/amd64"]).ok();
    assert!(raw(&format!("{}@{digest}", tag.trim_end_matches(":1"))).is_some(), "0 keeps it for ever");
    assert_eq!(psql(&farm, "SELECT count(*) FROM cleanings"), "0");
}
