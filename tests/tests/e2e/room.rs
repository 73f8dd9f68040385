//! What takes room, and making some: `farm du`, `farm prune`.

use farm_tests::farm::{Farm, WorkerSpec};
use serde_json::Value;

use crate::support::*;

fn measured(farm: &Farm) -> Value {
    let usage = farm.cli(&["du", "--no-registries", "--json"]).json();
    usage["workers"][0].clone()
}

#[test]
fn what_takes_room_is_told_by_workers_the_store_and_registries() {
    let farm = small_farm();
    let repository = repository("room");
    let context = Context::new("FROM scratch\nCOPY data /\n").file("data", nonce().repeat(40_000));
    let args = ["--platform", "linux/amd64,linux/arm64"];
    for name in ["1", "2"] {
        submit(&farm, &context, &[&["-t", &format!("{repository}:{name}")][..], &args].concat()).ok();
    }
    let usage = farm.cli(&["du", "--json"]).json();
    assert_eq!(
        (&usage["workers"][0]["worker"], &usage["workers"][0]["state"]),
        (&"w1".into(), &"done".into())
    );
    assert!(usage["workers"][0]["bytes"].as_u64().unwrap() > 0, "{usage:#}");
    assert!(usage["source_bytes"].as_u64().unwrap() >= 300_000, "{usage:#}");
    let there = &usage["repositories"][0];
    assert_eq!((&there["repository"], &there["tags"]), (&repository.clone().into(), &2.into()));
    // One index and two images; what both tags reach counts once, and the images' layer, too.
    assert_eq!(there["manifests"], 3, "{usage:#}");
    let raw_bytes = raw(&format!("{repository}:1")).unwrap().len();
    let bytes = there["bytes"].as_u64().unwrap();
    assert!(bytes > u64::try_from(raw_bytes).unwrap() && bytes < 400_000, "{usage:#}");
    let text = farm.cli(&["du", &repository, &format!("{repository}-none")]).ok();
    says(&text, &["build cache of w1", "the project's sources", "2 tags, 3 manifests", "it has no tags"]);
}

#[test]
fn engines_drop_what_they_keep_at_an_admins_wish_and_say_before_what_that_is() {
    let mut farm = with_worker(Farm::builder());
    let context = Context::new(&format!("FROM {BASE}\nRUN head -c 3000000 /dev/urandom > /r{}\n", nonce()));
    submit(&farm, &context, &["--platform", "linux/amd64"]).ok();
    // Nothing is that old: other tests use this engine as well.
    let dry = farm.cli(&["prune", "--workers", "--older-than", "20d", "--dry-run"]).ok();
    says(&dry, &["w1  would drop about 0 B of its build cache"]);
    let before = measured(&farm)["bytes"].as_u64().unwrap();
    assert!(before >= 3_000_000, "{before}");
    let keep = before.to_string();
    let all = farm.cli(&["prune", "--workers", "w1", "--keep-size", "1", "--dry-run", "--json"]).json();
    assert_eq!(all["dry_run"], true);
    assert!(all["workers"][0]["freed_bytes"].as_u64().unwrap() >= 3_000_000, "{all:#}");
    // Nobody is there to be asked whether.
    refused(&farm.cli(&["prune", "--workers", "--keep-size", "0"]), 2, &["there is no terminal", "--yes"]);
    refused(&farm.cli(&["prune", "--workers"]), 2, &["say what is to go"]);
    refused(
        &farm.cli(&["prune", "--workers", "w9", "--keep-size", "1gb", "--yes"]),
        2,
        &["there is no worker w9"],
    );
    let wet = farm
        .cli(&["prune", "--workers", "--older-than", "20d", "--keep-size", &keep, "--yes", "--json"])
        .json();
    assert_eq!((&wet["workers"][0]["state"], &wet["workers"][0]["freed_bytes"]), (&"done".into(), &0.into()));
    says(&farm.cli(&["audit", "--all"]).ok(), &["worker.prune", "w1"]);
    // A build goes on as before.
    submit(&farm, &context, &["--platform", "linux/amd64"]).ok();

    // The wish outlives the coordinator that took it; of a worker that is away it is said.
    farm.kill_coordinator();
    farm.start_coordinator();
    until("w1 is back", LONG, || {
        let said = farm.cli(&["prune", "--workers", "w1", "--older-than", "20d", "--dry-run"]);
        said.stdout.contains("would drop").then_some(())
    });
    farm.kill_worker("w1");
    until("w1 is known to be gone", LONG, || {
        let said = farm.cli(&["prune", "--workers", "w1", "--older-than", "20d", "--dry-run"]);
        (said.status == 1 && said.stdout.contains("it isn't connected")).then_some(())
    });
}

#[test]
fn a_wish_is_carried_out_once_by_the_worker_that_it_is_about_and_two_on_one_engine_are_one() {
    let farm = Farm::builder()
        .worker(WorkerSpec::new("w1").platforms(BOTH).slots(1))
        .worker(WorkerSpec::new("w2").platforms(BOTH).slots(1))
        .start();
    let dry = farm.cli(&["prune", "--workers", "--older-than", "20d", "--dry-run"]).ok();
    assert_eq!(dry.lines().count(), 1, "they share an engine:\n{dry}");
    let named = farm.cli(&["prune", "--workers", "w2", "--older-than", "20d", "--dry-run"]).ok();
    says(&named, &["w2  would drop"]);
}
