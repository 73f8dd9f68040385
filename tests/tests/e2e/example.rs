//! The main job: one command, one image for two architectures, and a record that tells how it came about.

use farm_tests::farm::{Farm, WorkerSpec};

use crate::support::*;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/multiarch");

#[test]
fn the_example_becomes_one_image_for_two_platforms_and_the_record_says_which_was_emulated() {
    let farm = Farm::builder()
        .worker(WorkerSpec::new("w-amd64").platforms("linux/amd64"))
        .worker(WorkerSpec::new("w-qemu").platforms("linux/arm64=emulated"))
        .start();
    let tag = format!("{}:latest", repository("multiarch-example"));
    let platforms = "linux/amd64,linux/arm64";
    let stdout = farm.cli(&["submit", EXAMPLE, "-t", &tag, "--platform", platforms]).ok();
    let id = build_id(&stdout);
    let last = stdout.lines().last().unwrap();
    assert!(last.starts_with("built in ") && last.ends_with(&format!("farm show {id}")), "{last}");
    says(&stdout, &["native on w-amd64", "emulated on w-qemu", "published", &tag, "(2 platforms)"]);

    let stored = raw(&tag).unwrap();
    let index: serde_json::Value = serde_json::from_str(&stored).unwrap();
    assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
    let children = index["manifests"].as_array().unwrap();
    let architectures: Vec<_> =
        children.iter().map(|c| c["platform"]["architecture"].as_str().unwrap()).collect();
    assert_eq!(architectures, ["amd64", "arm64"]);

    for (platform, machine) in [("linux/amd64", "x86_64"), ("linux/arm64", "aarch64")] {
        let printed = run_image(platform, &tag, &[]);
        says(
            &printed,
            &[&format!("Architecture: {machine}"), "amd64 stage: x86_64:", "arm64 stage: aarch64:"],
        );
    }

    let record = show(&farm, &id);
    assert_eq!(record["state"], "succeeded");
    assert_eq!(record["index_digest"], digest_of(&stored));
    for (platform, support, worker) in
        [(0, "native", "w-amd64"), (1, "emulated", "w-qemu")].map(|(i, s, w)| (&record["platforms"][i], s, w))
    {
        assert_eq!(
            (&platform["support"], &platform["worker"]),
            (&support.into(), &worker.into()),
            "{record:#}"
        );
        assert_eq!(platform["attempts"], 1);
        let child = children.iter().find(|c| c["digest"] == platform["digest"]);
        assert!(child.is_some(), "{platform:#} is not in {index:#}");
        assert!(platform["image_bytes"].as_u64().unwrap() > 1_000_000);
    }
    assert_eq!(record["platforms"][0]["support_reason"], serde_json::Value::Null);
    says(record["platforms"][1]["support_reason"].as_str().unwrap(), &["no native"]);
    assert_eq!(record["tags"][0]["state"], "verified");

    // A second time: the same image, all of it cached, and the tag is where it was.
    let again = farm.cli(&["submit", EXAMPLE, "-t", &tag, "--platform", platforms]).ok();
    says(&again, &["all known to the farm", "as before"]);
    assert_eq!(raw(&tag).unwrap(), stored);
}

#[test]
fn the_seeds_dockerfile_builds_unmodified_on_a_worker_that_found_its_platforms_itself() {
    let seed = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/seed");
    let mut farm = Farm::builder().start();
    farm.spawn_worker(WorkerSpec::new("w1").slots(2));
    says(&farm.wait_worker("w1"), &["linux/amd64", "linux/arm64"]);
    let workers = farm.cli(&["workers", "--json"]).json();
    let offers = workers["workers"][0]["platforms"].as_array().unwrap().clone();
    let support =
        |platform: &str| offers.iter().find(|o| o["platform"] == platform).map(|o| o["support"].clone());
    assert_eq!(support("linux/amd64"), Some("native".into()), "{workers:#}");
    assert_eq!(support("linux/arm64"), Some("emulated".into()), "{workers:#}");

    let tag = format!("{}:latest", repository("seed"));
    // Without --platform it is what the farm builds natively; the first line says so.
    let stdout = farm.cli(&["submit", seed, "-t", &tag]).ok();
    let first = stdout.lines().next().unwrap();
    assert!(first.contains("linux/amd64") && !first.contains("arm64"), "{first}");
    assert_eq!(index(&tag)["manifests"].as_array().unwrap().len(), 1);

    farm.cli(&["submit", seed, "-t", &tag, "--platform", "linux/amd64,linux/arm64"]).ok();
    for (platform, machine) in [("linux/amd64", "x86_64"), ("linux/arm64", "aarch64")] {
        let printed = run_image(platform, &tag, &[]);
        let stages = ["amd64_arch.txt: Building for AMD64", "arm64_message.txt: Hello from ARM64!"];
        says(&printed, &[&format!("runs on {machine}"), stages[0], stages[1]]);
    }
}

#[test]
fn a_syntax_line_needs_no_docker_hub_and_a_hub_image_comes_through_the_mirror() {
    let farm = small_farm();
    let context = Context::new("# syntax=docker/dockerfile:1\nFROM python:3.11-slim\nCMD [\"true\"]\n");
    let tag = format!("{}:1", repository("syntax"));
    let stdout = submit(&farm, &context, &["-t", &tag, "--platform", "linux/amd64,linux/arm64"]).ok();
    says(&stdout, &["# syntax=docker/dockerfile:1 was replaced by the engine's own"]);
    says(&farm.cli(&["show", &build_id(&stdout)]).ok(), &["syntax=docker/dockerfile:1 was replaced"]);
    let record = show(&farm, &build_id(&stdout));
    assert_eq!(record["platforms"][0]["syntax_replaced"], "docker/dockerfile:1", "{record:#}");
    assert_eq!(index(&tag)["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(config(&tag, "arm64")["architecture"], "arm64");
}
