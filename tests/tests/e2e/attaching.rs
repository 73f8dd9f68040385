//! `farm attach`: the view of `farm submit` on a build that somebody else submitted, or that has ended.

use farm_tests::process::Child;
use rustix::process::Signal;

use crate::gate::Gate;
use crate::support::*;

#[test]
fn a_build_that_is_there_is_watched_as_if_one_had_submitted_it() {
    let farm = small_farm();
    let gate = Gate::new();
    let dockerfile =
        format!("FROM {BASE}\nRUN echo before {n}\n{}RUN echo after {n}\n", gate.step(), n = nonce());
    let context = Context::new(&dockerfile).with_gate();
    let tag = format!("{}:1", repository("attached"));
    let args = ["-t", &tag, "--platform", "linux/amd64", "--detach"];
    let id = build_id(&submit(&farm, &context, &args).ok());
    let step = gate.arrival();

    let mut plain = farm.cli_spawn("plain", &["attach", &id]);
    plain.wait_for_line("linux/amd64 | before", LONG);
    let mut object = farm.cli_spawn("json", &["attach", &id, "--json", "--progress", "quiet"]);
    step.open();
    assert_eq!(plain.wait_exit(LONG).code(), Some(0), "{}", plain.tail());
    let said = plain.output();
    says(
        &said,
        &[&format!("build {id}  running"), "native on w1 (attempt 1)", "linux/amd64 | after", "published"],
    );
    assert!(said.lines().last().unwrap().starts_with("built in "), "{said}");
    assert_eq!(object.wait_exit(LONG).code(), Some(0), "{}", object.tail());
    // Both streams are in there.
    let object = object.output().lines().find(|line| line.starts_with('{')).unwrap().to_owned();
    let object: serde_json::Value = serde_json::from_str(&object).unwrap();
    assert_eq!((&object["id"], &object["state"]), (&id.as_str().into(), &"succeeded".into()));

    // Once more, now that it has ended: all that it said, and how it ended.
    let again = farm.cli(&["attach", &id]).ok();
    says(&again, &["native on w1 (attempt 1)", "linux/amd64 | before", "linux/amd64 | after", "built in "]);
    let digest = show(&farm, &id)["index_digest"].as_str().unwrap().to_owned();
    assert_eq!(farm.cli(&["attach", &id, "-q"]).ok(), format!("{digest}\n"));
    refused(&farm.cli(&["attach", "zzzzz0"]), 2, &["there is no build zzzzz0"]);
}

#[test]
fn it_ends_as_the_build_ends() {
    let farm = small_farm();
    let broken = Context::new(&format!("FROM {BASE}\nRUN echo {}; exit 3\n", nonce()));
    let failed = build_id(&submit(&farm, &broken, &["--platform", "linux/amd64"]).stdout);
    let output = farm.cli(&["attach", &failed]);
    assert_eq!(output.status, 1, "{output:?}");
    says(&output.stdout, &["failed at step 2/2 on w1: exit code 3"]);

    let gate = Gate::new();
    let id = build_id(&submit(&farm, &gate.context(), &["--platform", "linux/amd64", "--detach"]).ok());
    let step = gate.arrival();
    let mut attached: Child = farm.cli_spawn("attach", &["attach", &id]);
    attached.wait_for_line("linux/amd64  native on w1", LONG);
    attached.signal(Signal::INT);
    step.wait_killed(LONG);
    assert_eq!(attached.wait_exit(LONG).code(), Some(130), "{}", attached.tail());
    says(&attached.output(), &[&format!("cancelling build {id}"), "cancelled after "]);
    assert_eq!(farm.cli(&["attach", &id]).status, 130);
}
