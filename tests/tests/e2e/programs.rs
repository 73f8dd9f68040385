//! Images of which no program runs while they are built: any worker builds them, for any platform.

use std::process::Command;

use farm_tests::farm::{Farm, WorkerSpec, output};

use crate::support::*;

/// Nobody here runs any of these.
const FOREIGN: [&str; 3] = ["linux/s390x", "linux/arm/v6", "linux/amd64/v2"];

fn amd64_farm() -> Farm {
    Farm::builder().worker(WorkerSpec::new("w1").platforms("linux/amd64").slots(2)).start()
}

/// The same build by buildx, on the same engine.
fn buildx(context: &Context, tag: &str, platforms: &str) {
    let mut command = Command::new("docker");
    command.args(["buildx", "build", "--push", "--provenance=false", "--platform", platforms, "-t", tag]);
    output(command.arg(context.path())).ok();
}

/// Per platform of an index, what its config says: all but times.
fn configs(tag: &str) -> Vec<(String, serde_json::Value)> {
    let repository = tag.rsplit_once(':').unwrap().0;
    let manifests = index(tag)["manifests"].as_array().unwrap().clone();
    let of = |entry: &serde_json::Value| {
        let child = format!("docker://{repository}@{}", entry["digest"].as_str().unwrap());
        let mut command = Command::new("skopeo");
        let shown = output(command.args(["inspect", "--config", "--raw", "--tls-verify=false", &child])).ok();
        let mut config: serde_json::Value = serde_json::from_str(&shown).unwrap();
        config.as_object_mut().unwrap().remove("created");
        for step in config["history"].as_array_mut().unwrap() {
            step.as_object_mut().unwrap().remove("created");
        }
        (entry["platform"].to_string(), config)
    };
    let mut configs: Vec<_> = manifests.iter().map(of).collect();
    configs.sort_by(|a, b| a.0.cmp(&b.0));
    configs
}

#[test]
fn what_only_copies_is_built_for_platforms_that_nobody_runs_as_buildx_builds_it() {
    let farm = amd64_farm();
    let repository = repository("copies");
    let (ours, theirs) = (format!("{repository}:ours"), format!("{repository}:theirs"));
    let context =
        Context::new("FROM scratch\nCOPY hello /\nWORKDIR /w\nCMD [\"/hello\"]\n").file("hello", "hi");
    let platforms = format!("linux/amd64,{}", FOREIGN.join(","));
    let stdout =
        submit(&farm, &context, &["-t", &ours, "--platform", &platforms, "--emulation", "never"]).ok();
    says(&stdout, &["native on w1", "(4 platforms)"]);
    let record = show(&farm, &build_id(&stdout));
    assert_eq!(record["platforms"][0]["support"], "native");
    for (i, platform) in (1..).zip(FOREIGN) {
        says(&stdout, &[&format!("on w1, no program of {platform} ran")]);
        let row = &record["platforms"][i];
        assert_eq!((&row["platform"], &row["support"]), (&platform.into(), &"unneeded".into()), "{row:#}");
        assert_eq!(row["support_reason"], format!("no program of {platform} runs"));
    }
    says(&farm.cli(&["inspect", &ours]).ok(), &["on w1, no program of linux/s390x ran"]);
    buildx(&context, &theirs, &platforms);
    assert_eq!(configs(&ours), configs(&theirs));

    // On top of a base that has the platform, and by way of a link to the Dockerfile.
    let above = Context::empty().file("docker/real", format!("FROM {ours}\nCOPY real /more\n"));
    std::os::unix::fs::symlink("real", above.path().join("docker/Dockerfile")).unwrap();
    let file = above.path().join("docker/Dockerfile");
    let folder = above.path().join("docker");
    let args =
        ["submit", folder.to_str().unwrap(), "-f", file.to_str().unwrap(), "--platform", "linux/s390x"];
    says(&farm.cli(&args).ok(), &["on w1, no program of linux/s390x ran"]);
}

#[test]
fn what_is_cross_compiled_on_the_engines_platform_is_built_for_any_other() {
    let farm = amd64_farm();
    let repository = repository("cross");
    let (ours, theirs) = (format!("{repository}:ours"), format!("{repository}:theirs"));
    let context = Context::new(&format!(
        "FROM --platform=$BUILDPLATFORM {BASE} AS build\nARG TARGETPLATFORM\nARG BUILDPLATFORM\n\
         RUN echo \"$BUILDPLATFORM makes $TARGETPLATFORM\" >/made; touch -d @0 /made\n\
         FROM scratch\nCOPY --from=build /made /made\n"
    ));
    let platforms = FOREIGN.join(",");
    let args = ["-t", &ours, "--platform", &platforms, "--emulation", "never", "--progress", "plain"];
    let stdout = submit(&farm, &context, &args).ok();
    for platform in FOREIGN {
        says(&stdout, &[&format!("on w1 (attempt 1): no program of {platform} runs")]);
        says(&stdout, &[&format!("on w1, no program of {platform} ran")]);
    }
    buildx(&context, &theirs, &platforms);
    assert_eq!(configs(&ours), configs(&theirs));
}

#[test]
fn programs_of_another_platform_are_run_by_who_offers_it() {
    let farm = Farm::builder()
        .worker(WorkerSpec::new("w-riscv").platforms("linux/riscv64"))
        .worker(WorkerSpec::new("w-arm").platforms("linux/amd64,linux/arm64=emulated"))
        .start();
    let context = |nonce: &str| {
        Context::new(&format!(
            "FROM --platform=linux/arm64 {BASE} AS build\nRUN : {nonce}; uname -m >/made\n\
             FROM scratch\nCOPY --from=build /made /made\n"
        ))
    };
    let refused = context(&nonce());
    let args = ["submit", refused.text(), "--platform", "linux/s390x", "--emulation", "never"];
    let mut waits = farm.cli_spawn("waits", &args);
    let why = "no native worker for linux/arm64 (programs of which the build runs) is connected";
    waits.wait_for_line(&format!("linux/s390x  waiting  {why}"), LONG);
    farm.cli(&["cancel", &build_id(&waits.output())]).ok();
    waits.wait_exit(LONG);

    let stdout = submit(&farm, &context(&nonce()), &["--platform", "linux/s390x"]).ok();
    says(&stdout, &["emulated on w-arm"]);
    let record = show(&farm, &build_id(&stdout));
    says(
        record["platforms"][0]["support_reason"].as_str().unwrap(),
        &["programs of linux/arm64 run in the build"],
    );
}

#[test]
fn what_runs_a_program_of_a_platform_that_nobody_runs_waits_and_says_why() {
    let farm = amd64_farm();
    let context = Context::new("FROM scratch\nCOPY Dockerfile /x\nRUN [\"/x\"]\n");
    for platform in FOREIGN {
        let args = ["submit", context.text(), "--platform", platform];
        let mut cli = farm.cli_spawn("waits", &args);
        cli.wait_for_line(&format!("{platform}  waiting  no worker for {platform} takes jobs now"), LONG);
        farm.cli(&["cancel", &build_id(&cli.output())]).ok();
        cli.wait_exit(LONG);
    }
    // A frontend is asked on any machine.
    farm.cli(&["check", context.text(), "--platform", "linux/s390x"]).ok();
}

#[test]
fn a_program_that_a_base_image_brings_along_makes_the_build_wait_for_who_runs_it() {
    let farm = amd64_farm();
    let base = format!("{}:1", repository("onbuild"));
    // No kernel runs this.
    let context =
        Context::new("FROM scratch\nCOPY --chmod=755 foreign /foreign\nONBUILD RUN [\"/foreign\"]\n")
            .file("foreign", b"\x7fELF of another machine");
    submit(&farm, &context, &["-t", &base, "--platform", "linux/s390x"]).ok();

    let above = Context::new(&format!("FROM {base}\nCOPY Dockerfile /\n"));
    let mut cli = farm.cli_spawn("above", &["submit", above.text(), "--platform", "linux/s390x"]);
    cli.wait_for_line("linux/s390x  waiting  no worker for linux/s390x takes jobs now", LONG);
    let id = build_id(&cli.output());
    let record = show(&farm, &id);
    let row = &record["platforms"][0];
    assert_eq!((&record["state"], &row["attempts"]), (&"running".into(), &1.into()), "{record:#}");
    assert_eq!(row["history"][0]["failure"]["code"], "emulator_missing", "{record:#}");
    // Nothing is held against the worker that showed it.
    let workers = farm.cli(&["workers", "--json"]).json();
    assert_eq!(workers["workers"][0]["state"], "online", "{workers:#}");
    farm.cli(&["cancel", &id]).ok();
    cli.wait_exit(LONG);
    // A retry knows it from the start.
    let again = farm.cli(&["retry", &id, "--detach"]).ok();
    let again = build_id(&again);
    until("its reason", LONG, || {
        let row = &show(&farm, &again)["platforms"][0];
        (row["attempts"] == 0 && row["waiting"].as_str()?.starts_with("no worker for linux/s390x"))
            .then_some(())
    });
}

#[test]
fn the_feature_levels_of_a_cpu_are_offered_as_the_engine_lists_them() {
    let farm = Farm::builder().worker(WorkerSpec::new("w1")).start();
    let workers = farm.cli(&["workers", "--json"]).json();
    let offers = workers["workers"][0]["platforms"].as_array().unwrap().clone();
    let mut offered: Vec<&str> = offers
        .iter()
        .map(|o| o["platform"].as_str().unwrap())
        .filter(|p| p.starts_with("linux/amd64"))
        .collect();
    let listed = output(Command::new("docker").args(["buildx", "inspect"])).ok();
    let platforms = listed.lines().find_map(|line| line.trim().strip_prefix("Platforms:")).unwrap();
    let mut listed: Vec<&str> =
        platforms.split(',').map(str::trim).filter(|p| p.starts_with("linux/amd64")).collect();
    offered.sort_unstable();
    listed.sort_unstable();
    assert_eq!(offered, listed);
    let highest = listed.last().unwrap();
    let native = offers.iter().find(|o| o["platform"] == **highest).unwrap();
    assert_eq!(native["support"], "native");
    // People see one platform.
    let shown = farm.cli(&["workers"]).ok();
    assert_eq!(shown.matches("linux/amd64").count(), 1, "{shown}");
    let context = Context::new(&format!("FROM {BASE}\nRUN : {}\n", nonce()));
    says(&submit(&farm, &context, &["--platform", highest]).ok(), &["native on w1"]);
    // Without a platform nobody means those.
    assert_eq!(farm.cli(&["submit", context.text()]).ok().matches("native on w1").count(), 2);
}
