//! `farm retry`: a build that ended, once more; with `--failed-only` only what failed of it.

use std::process::Command;

use farm_tests::farm::Farm;
use farm_tests::process::run;
use serde_json::Value;

use crate::gate::Gate;
use crate::support::*;

/// A context whose build for linux/arm64 waits at the gate.
pub fn context(gate: &Gate) -> Context {
    let dockerfile = format!("FROM {BASE}\nARG TARGETARCH\nCOPY gate.py /gate.py\n");
    let step = gate.step();
    let gated = step.lines().last().unwrap().strip_prefix("RUN ").unwrap();
    Context::new(&format!("{dockerfile}RUN if [ $TARGETARCH = arm64 ]; then {gated}; fi\n")).with_gate()
}

pub fn platform(record: &Value, platform: &str) -> Value {
    let mut platforms = record["platforms"].as_array().unwrap().iter();
    platforms.find(|p| p["platform"] == platform).unwrap().clone()
}

/// A build that was cancelled when linux/amd64 was built and linux/arm64 was not.
pub fn half(farm: &Farm, context: &Context, gate: &Gate, tag: &str) -> String {
    let args = ["-t", tag, "--platform", "linux/amd64,linux/arm64", "--detach"];
    let id = build_id(&submit(farm, context, &args).ok());
    let step = gate.arrival();
    until("linux/amd64", LONG, || {
        (platform(&show(farm, &id), "linux/amd64")["state"] == "succeeded").then_some(())
    });
    refused(&farm.cli(&["retry", &id]), 2, &[&id, "only one that has ended", &format!("farm cancel {id}")]);
    farm.cli(&["cancel", &id]).ok();
    step.wait_killed(LONG);
    until("cancelled build", LONG, || (show(farm, &id)["state"] == "cancelled").then_some(()));
    id
}

#[test]
fn only_what_failed_runs_again_and_the_rest_is_taken_over() {
    let farm = small_farm();
    let gate = Gate::new();
    let context = context(&gate);
    let tag = format!("{}:1", repository("retried"));
    let old = half(&farm, &context, &gate, &tag);
    // The source is the farm's; what has become of the folder doesn't matter.
    std::fs::remove_file(context.path().join("Dockerfile")).unwrap();

    let mut cli = farm.cli_spawn("retry", &["retry", &old, "--failed-only"]);
    gate.arrival().open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    let said = cli.output();
    let new = build_id(&said);
    says(
        &said,
        &[
            &format!("build {new}  retry of {old} for linux/arm64; linux/amd64 is taken over"),
            &format!("linux/amd64  taken over from {old}"),
            &format!("native on w1, taken over from {old}"),
            "published",
        ],
    );
    let (before, record) = (show(&farm, &old), show(&farm, &new));
    let digest = |record: &Value, name: &str| platform(record, name)["digest"].clone();
    assert_eq!(digest(&record, "linux/amd64"), digest(&before, "linux/amd64"));
    assert_eq!(record["index_digest"], digest_of(&raw(&tag).unwrap()));
    assert_eq!(
        (&record["retry_of"], &before["retried_by"]),
        (&old.as_str().into(), &Value::from(vec![new.as_str()]))
    );
    says(&farm.cli(&["show", &new]).ok(), &[&format!("retry of {old}")]);
    says(&farm.cli(&["show", &old]).ok(), &[&format!("retried as {new}")]);
    let refusal = farm.cli(&["retry", &new, "--failed-only"]);
    refused(&refusal, 2, &[&new, "no platform of it has failed", "without --failed-only"]);

    // All of it, by nobody watched; the same key makes no second one.
    let again = ["retry", &new, "--detach", "--idempotency-key", &old];
    let whole = build_id(&farm.cli(&again).ok());
    says(&farm.cli(&again).ok(), &[&format!("build {whole}"), "this is the build that was made before"]);
    until("end", LONG, || {
        if let Some(step) = gate.arrival_within(std::time::Duration::ZERO) {
            step.open();
        }
        (show(&farm, &whole)["state"] == "succeeded").then_some(())
    });
    assert_eq!(platform(&show(&farm, &whole), "linux/amd64")["taken_from"], Value::Null);
}

#[test]
fn a_result_that_is_gone_from_the_registry_is_built_again_and_never_published_as_a_hole() {
    let farm = small_farm();
    let gate = Gate::new();
    let context = context(&gate);
    let repository = repository("gone");
    let tag = format!("{repository}:1");
    let old = half(&farm, &context, &gate, &tag);
    let built = platform(&show(&farm, &old), "linux/amd64")["digest"].as_str().unwrap().to_owned();

    // It goes when it was taken over already.
    let mut cli = farm.cli_spawn("first", &["retry", &old, "--failed-only"]);
    let step = gate.arrival();
    let mut delete = Command::new("skopeo");
    run(delete.args(["delete", "--tls-verify=false"]).arg(format!("docker://{repository}@{built}")));
    step.open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(1), "{}", cli.tail());
    let first = build_id(&cli.output());
    assert_eq!(show(&farm, &first)["failure"]["code"], "pushed_image_missing");
    assert_eq!(raw(&tag), None);

    // Nothing failed but the publishing, and what is gone is seen before.
    let mut cli = farm.cli_spawn("second", &["retry", &first, "--failed-only"]);
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    let second = show(&farm, &build_id(&cli.output()));
    says(&cli.output(), &["for linux/amd64; linux/arm64 is taken over"]);
    assert_eq!(platform(&second, "linux/arm64")["taken_from"], first.as_str());
    assert_eq!(index(&tag)["manifests"].as_array().unwrap().len(), 2);
}
