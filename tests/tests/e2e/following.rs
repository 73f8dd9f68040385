//! Builds that nobody watches: submitted, looked at later, in words and in JSON.

use std::process::Stdio;

use crate::gate::Gate;
use farm_tests::farm::program;

use crate::support::*;

#[test]
fn a_detached_build_can_be_followed_shown_and_listed() {
    let farm = small_farm();
    let gate = Gate::new();
    let dockerfile =
        format!("FROM {BASE}\nRUN echo before {n}\n{}RUN echo after {n}\n", gate.step(), n = nonce());
    let context = Context::new(&dockerfile).with_gate();
    let tag = format!("{}:1", repository("detached"));
    let stdout = submit(&farm, &context, &["-t", &tag, "--platform", "linux/amd64", "--detach"]).ok();
    let id = build_id(&stdout);
    assert_eq!(stdout.lines().last().unwrap(), format!("submitted   farm logs {id} -f"));
    let step = gate.arrival();

    says(
        &farm.cli(&["show", &id]).ok(),
        &[&format!("build {id}  running"), "native on w1", &format!("farm logs {id} -f")],
    );
    let row = farm.cli(&["builds"]).ok();
    assert!(row.lines().nth(1).unwrap().starts_with(&format!("{id}  running")), "{row}");
    // Without -f the log ends where the build is.
    let so_far = farm.cli(&["logs", &id]).ok();
    assert!(so_far.contains("linux/amd64 | before") && !so_far.contains("| after"), "{so_far}");

    let mut logs = farm.cli_spawn("logs", &["logs", &id, "-f"]);
    logs.wait_for_line("linux/amd64 | before", LONG);
    let opened = chrono::Utc::now().to_rfc3339();
    step.open();
    assert_eq!(logs.wait_exit(LONG).code(), Some(0), "{}", logs.tail());
    says(&logs.output(), &["linux/amd64 | after"]);
    // What came before the gate opened is older.
    let recent = farm.cli(&["logs", &id, "--from", &opened]).ok();
    assert!(recent.contains("native on w1") && recent.contains("| after"), "{recent}");
    assert!(!recent.contains("| before"), "{recent}");
    let recent = farm.cli(&["logs", &id, "--from", &opened, "--json"]).ok();
    assert!(recent.contains("after") && !recent.contains("before "), "{recent}");
    says(&farm.cli(&["logs", &id, "--from", "1h"]).ok(), &["| before", "| after"]);
    refused(&farm.cli(&["logs", &id, "--from", "monday"]), 2, &["--from \"monday\"", "10m"]);

    until("end", LONG, || (show(&farm, &id)["state"] == "succeeded").then_some(()));
    let shown = farm.cli(&["show", &id]).ok();
    says(&shown, &["succeeded", "published", &tag, "native on w1"]);
    let listed = farm.cli(&["builds", "-n", "1", "--json"]).json();
    assert_eq!(listed["builds"][0]["id"], id.as_str());
    for line in farm.cli(&["logs", &id, "--json"]).ok().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["platform"], &line["attempt"]), (&"linux/amd64".into(), &1.into()));
    }
    refused(&farm.cli(&["logs", &id, "--platform", "linux/arm64"]), 2, &["linux/arm64", &id, "linux/amd64"]);
    // A reader that goes away is no error.
    let mut pipe = farm.command(&["logs", &id]);
    let mut child = pipe.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn json_is_one_object_on_standard_output_whatever_becomes_of_the_build() {
    let farm = small_farm();
    let tag = format!("{}:1", repository("json"));
    let good = Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY Dockerfile /\n", nonce()));
    let result = submit(&farm, &good, &["-t", &tag, "--platform", "linux/amd64", "--json"]);
    says(&result.stderr, &["build ", "published", "built in "]);
    let record = result.json();
    assert_eq!(record["state"], "succeeded");
    assert_eq!(record["tags"][0]["reference"], tag.as_str());
    assert_eq!(record["index_digest"], digest_of(&raw(&tag).unwrap()));
    assert_eq!(record["upload"]["files"], 1);
    assert!(record["total_seconds"].as_f64().unwrap() > 0.0);
    // What `show` says later is the same.
    let later = show(&farm, record["id"].as_str().unwrap());
    for name in ["id", "state", "platforms", "tags", "index_digest", "snapshot", "finished"] {
        assert_eq!(later[name], record[name], "{name}");
    }
    let bad = Context::new(&format!("FROM {BASE}\nRUN echo {} && exit 3\n", nonce()));
    let result = submit(&farm, &bad, &["-t", &tag, "--platform", "linux/amd64", "--json"]);
    assert_eq!(result.status, 1);
    let record: serde_json::Value = serde_json::from_str(&result.stdout).unwrap();
    assert_eq!(
        (&record["failure"]["exit_code"], &record["failure"]["line"]),
        (&3.into(), &2.into()),
        "{record:#}"
    );
    let detached = submit(&farm, &good, &["--platform", "linux/amd64", "--json", "--detach"]).json();
    let id = detached["id"].as_str().unwrap().to_owned();
    until("end", LONG, || (show(&farm, &id)["state"] == "succeeded").then_some(()));
    let help = program("farm").args(["submit", "--help"]).output().unwrap();
    says(
        &String::from_utf8(help.stdout).unwrap(),
        &["Exit codes:", "Examples:", "Provenance is attached only"],
    );
}
