//! What a registry holds is shown, run and compared; Dockerfiles are checked without being built.

use std::fs;
use std::process::Command;

use farm_tests::bed::Bed;
use farm_tests::farm::{Farm, WorkerSpec};
use farm_tests::process::run;
use rustix::process::Signal;

use crate::support::*;

/// An image for both platforms whose program says what it runs on, and its reference.
fn published(farm: &Farm, more: &[&str]) -> String {
    let context = Context::new(&format!(
        "FROM {BASE}\nLABEL team=web\nENV GREETING=hello\nWORKDIR /app\nUSER 1000\nENTRYPOINT [\"/bin/sh\", \"-c\"]\n\
         CMD [\"echo $GREETING; uname -m; id -u; pwd\"]\n"
    ));
    let tag = format!("{}:1", repository("images"));
    let mut args = vec!["-t", &tag, "--platform", "linux/amd64,linux/arm64"];
    args.extend(more);
    submit(farm, &context, &args).ok();
    tag
}

#[test]
fn an_image_is_shown_with_its_platforms_and_where_they_came_from() {
    let farm = small_farm();
    let tag = published(&farm, &["--provenance"]);
    let shown = farm.cli(&["inspect", &tag]).ok();
    says(&shown, &["OCI index, 2 platforms", "built here", "farm show ", "├─ linux/amd64", "└─ linux/arm64"]);
    let unneeded = "on w1, no program of linux/arm64 ran";
    says(&shown, &["native on w1", unneeded, "provenance", "/bin/sh -c echo $GREETING"]);

    let index = raw(&tag).unwrap();
    assert_eq!(farm.cli(&["inspect", &tag, "--raw"]).ok(), index);
    assert_eq!(farm.cli(&["inspect", &tag, "-q"]).ok().trim(), digest_of(&index));
    let json = farm.cli(&["inspect", &tag, "--json"]).json();
    assert_eq!(json["platforms"][1]["config"]["architecture"], "arm64");
    assert_eq!(json["platforms"][1]["support"], "unneeded");
    assert_eq!(json["platforms"][0]["config"]["config"]["Labels"]["team"], "web");
    assert!(!json["build"]["id"].as_str().unwrap().is_empty());
    assert_eq!(json["platforms"][0]["attestations"].as_array().unwrap().len(), 1);
    let digest = farm.cli(&["inspect", &tag, "--format", "{{ platforms[0].digest }}"]).ok();
    let child = tag.replace(":1", &format!("@{}", digest.trim()));
    let one = farm.cli(&["inspect", &child]).ok();
    says(
        &one,
        &[
            "linux/amd64",
            "OCI image",
            "entrypoint",
            "GREETING=hello",
            "team=web",
            "1000",
            "/app",
            "built here",
        ],
    );
    let arm = farm.cli(&["inspect", &tag, "--platform", "linux/arm64"]).ok();
    assert!(arm.contains("linux/arm64") && !arm.contains("linux/amd64"), "{arm}");

    // What was not built here, and what is no index.
    let base = farm.cli(&["inspect", BASE]).ok();
    assert!(base.contains("2 platforms") && !base.contains("built here"), "{base}");
    refused(&farm.cli(&["inspect", &tag.replace(":1", ":2")]), 2, &["there is no", "its only tag is 1"]);
    refused(&farm.cli(&["inspect", &tag, "--platform", "linux/s390x"]), 2, &["linux/amd64, linux/arm64"]);
    refused(&farm.cli(&["inspect", "localhost:5999/x:1"]), 3, &["localhost:5999"]);
    refused(&farm.cli(&["inspect", "https://r/x"]), 2, &["image \"https"]);
}

#[test]
fn an_image_that_is_not_what_its_index_says_is_told() {
    let farm = small_farm();
    let tag = published(&farm, &[]);
    let (registry, name) = tag.split_once('/').unwrap();
    let name = name.split(':').next().unwrap();
    // An index that swaps the two.
    let swapped = raw(&tag)
        .unwrap()
        .replace("\"arm64\"", "\"x\"")
        .replace("\"amd64\"", "\"arm64\"")
        .replace("\"x\"", "\"amd64\"");
    let folder = Bed::from_env().folder("swapped");
    let file = folder.path().join("index.json");
    fs::write(&file, swapped).unwrap();
    run(Command::new("curl")
        .args(["-sfX", "PUT", "-H", "Content-Type: application/vnd.oci.image.index.v1+json"])
        .args([
            "--data-binary",
            &format!("@{}", file.display()),
            &format!("http://{registry}/v2/{name}/manifests/swapped"),
        ]));
    let shown = farm.cli(&["inspect", &format!("{registry}/{name}:swapped")]).ok();
    says(&shown, &["it is not what the index says: its config says linux/arm64"]);
}

#[test]
fn a_variant_runs_on_a_worker_of_its_platform_as_the_image_says() {
    let farm = small_farm();
    let tag = published(&farm, &[]);
    let arm = farm.cli(&["run", &tag, "--platform", "linux/arm64"]);
    assert_eq!((arm.status, arm.stdout.as_str()), (0, "hello\naarch64\n1000\n/app\n"), "{arm:?}");
    says(&arm.stderr, &["linux/arm64", "emulated on w1: no native linux/arm64 worker"]);
    // What is native here is meant when nothing is said.
    let native = farm.cli(&["run", &tag, "-q"]);
    assert_eq!((native.stdout.lines().nth(1), native.stderr.as_str()), (Some("x86_64"), ""), "{native:?}");
    // Never cached: each run has a name of its own for the machine, and runs.
    let names: Vec<String> = (0..2).map(|_| farm.cli(&["run", &tag, "-q", "--", "uname -n"]).ok()).collect();
    assert_ne!(names[0], names[1]);

    let code = farm.cli(&["run", &tag, "-e", "GREETING=it's $X", "--", "echo \"$GREETING\" >&2; exit 7"]);
    assert_eq!((code.status, code.stdout.as_str()), (7, ""), "{code:?}");
    says(&code.stderr, &["it's $X\n"]);
    let other = farm.cli(&["run", &tag, "-q", "--entrypoint", "python3", "--", "-c", "print(6 * 7)"]);
    assert_eq!((other.status, other.stdout.as_str()), (0, "42\n"), "{other:?}");
    let absent = farm.cli(&["run", &tag, "-q", "--entrypoint", "/nope"]);
    assert_eq!(absent.status, 125, "{absent:?}");
    says(&absent.stderr, &["error: ", "/nope", "farm logs "]);
    let long = farm.cli(&["run", &tag, "--timeout", "3s", "--", "sleep 60"]);
    assert_eq!(long.status, 124, "{long:?}");
    let none = farm.cli(&["run", &tag, "--platform", "linux/s390x"]);
    assert_eq!(none.status, 125, "{none:?}");
    says(&none.stderr, &["linux/amd64, linux/arm64"]);
    // It is a build like others.
    says(&farm.cli(&["builds"]).ok(), &[&format!("(run {tag})")]);
}

#[test]
fn ctrl_c_ends_a_run_and_what_it_runs() {
    let farm = small_farm();
    let tag = published(&farm, &[]);
    let mark = nonce();
    let program = format!("import time; time.sleep(55) # {mark}");
    let args = ["run", &tag, "--entrypoint", "python3", "--platform", "linux/amd64", "--", "-c", &program];
    let mut cli = farm.cli_spawn("run", &args);
    let running = || {
        processes_with(&format!("time.sleep(55) # {mark}"))
            .iter()
            .any(|process| fs::read(process.join("cmdline")).is_ok_and(|line| line.starts_with(b"python3")))
    };
    until("the program runs", LONG, || running().then_some(()));
    cli.signal(Signal::INT);
    assert_eq!(cli.wait_exit(LONG).code(), Some(130), "{}", cli.tail());
    until("the program is gone", LONG, || (!running()).then_some(()));
}

#[test]
fn all_variants_are_run_and_what_differs_is_shown() {
    let farm = small_farm();
    let tag = published(&farm, &[]);
    let same = farm.cli(&["test", &tag]);
    assert_eq!(same.status, 0, "{same:?}");
    says(
        &same.stdout,
        &["linux/amd64", "linux/arm64", "native on w1", "emulated on w1", "x86_64", "| aarch64"],
    );
    says(&same.stdout, &["both platforms ended with exit code 0, different output (|)"]);
    let one = farm.cli(&["test", &tag, "--", "test $(uname -m) = x86_64"]);
    assert_eq!(one.status, 1, "{one:?}");
    says(&one.stdout, &["exit code 0", "exit code 1", "linux/arm64 not as the others", "farm logs "]);
    let json = farm.cli(&["test", &tag, "--json", "--", "uname -m; exit 3"]);
    assert_eq!(json.status, 1, "{json:?}");
    let json: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&json["passed"], &json["platforms"][1]["exit_code"]), (&false.into(), &3.into()), "{json}");
    assert_eq!(json["platforms"][1]["lines"], serde_json::json!(["aarch64"]));
    let chosen = farm.cli(&["test", &tag, "--platform", "linux/amd64"]).ok();
    assert!(chosen.contains("its only platform") && !chosen.contains("arm64"), "{chosen}");
}

#[test]
fn a_dockerfile_is_checked_and_nothing_is_built() {
    let farm = small_farm();
    let bad = Context::new(&format!("FROM {BASE} as base\nRUN exit 1\nmaintainer me\n"));
    let out = farm.cli(&["check", bad.text(), "--platform", "linux/amd64,linux/arm64"]);
    assert_eq!(out.status, 1, "{out:?}");
    says(&out.stdout, &["Dockerfile:3  MaintainerDeprecated", ">  3 | maintainer me"]);
    says(&out.stdout, &["harmless: write LABEL", "warnings"]);
    assert_eq!(out.stdout.matches("MaintainerDeprecated").count(), 1, "{out:?}");
    let same = submit(&farm, &bad, &["--check", "--platform", "linux/amd64"]);
    assert_eq!(same.status, 1, "{same:?}");
    let broken = Context::new("FORM scratch\n");
    let out = farm.cli(&["check", broken.text(), "--platform", "linux/amd64"]);
    assert_eq!(out.status, 1, "{out:?}");
    says(&out.stderr, &["unknown instruction: FORM"]);
    let good = Context::new(&format!("FROM {BASE}\nRUN exit 1\n"));
    let out = farm.cli(&["check", good.text(), "--platform", "linux/amd64"]);
    assert!(out.status == 0 && out.stdout.contains("nothing found"), "{out:?}");
}

#[test]
fn a_warning_about_a_stage_that_the_platform_does_not_use_is_told_to_be_harmless() {
    let farm = small_farm();
    // The seed's way to choose a final stage by its architecture.
    let bases = format!(
        "FROM {BASE}-amd64 AS final_amd64\nFROM {BASE}-arm64 AS final_arm64\nFROM final_$TARGETARCH\n"
    );
    let seed = Context::new(&bases);
    let out = farm.cli(&["check", seed.text(), "--platform", "linux/amd64,linux/arm64"]);
    assert_eq!(out.status, 0, "{out:?}");
    says(
        &out.stdout,
        &["Dockerfile:2  InvalidBaseImagePlatform", "harmless: this stage isn't used for linux/amd64"],
    );
    assert_eq!(out.stdout.matches("InvalidBaseImagePlatform").count(), 1, "{out:?}");
    // The same where it is used.
    let used = Context::new(&format!("FROM {BASE}-arm64\nRUN --network=none true\n"));
    let out = farm.cli(&["check", used.text(), "--platform", "linux/amd64"]);
    assert_eq!(out.status, 1, "{out:?}");
    says(&out.stdout, &["InvalidBaseImagePlatform", "look: "]);
    // What is emulated is checked for its own platform, too.
    let used = Context::new(&format!("FROM {BASE}-amd64\nRUN --network=none true\n"));
    let out = farm.cli(&["check", used.text(), "--platform", "linux/amd64,linux/arm64"]);
    assert_eq!(out.status, 1, "{out:?}");
    says(&out.stdout, &["expected \"linux/arm64\" for current build (linux/arm64)"]);
    assert_eq!(out.stdout.matches("InvalidBaseImagePlatform").count(), 1, "{out:?}");
    let redundant = Context::new(&format!("FROM --platform=$TARGETPLATFORM {BASE}\n"));
    let out = submit(&farm, &redundant, &["--platform", "linux/amd64"]);
    assert_eq!(out.status, 0, "{out:?}");
    says(&out.stdout, &["Dockerfile:1  RedundantTargetPlatform", "harmless: "]);
}

#[test]
fn rules_that_are_errors_are_found_by_a_check_and_fail_a_build() {
    let farm = small_farm();
    let amd64 = ["--platform", "linux/amd64"];
    let by_arg = ["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=error=true"];
    let plain = format!("FROM {BASE} as base\nRUN exit 1\nMAINTAINER me\n");
    for (text, args, rules) in [
        (format!("# check=error=true\n{plain}"), &[][..], &["FromAsCasing", "MaintainerDeprecated"][..]),
        (format!("# check=skip=FromAsCasing;error=true\n{plain}"), &[], &["MaintainerDeprecated"]),
        (plain, &by_arg, &["FromAsCasing", "MaintainerDeprecated"]),
        // What is found in a stage that isn't used keeps the image from being made, too.
        (
            format!("# check=error=true\nFROM {BASE} as unused\nFROM {BASE}\nRUN true\n"),
            &[],
            &["FromAsCasing"],
        ),
    ] {
        let context = Context::new(&text);
        let checked = farm.cli(&[&["check", context.text()], &amd64[..], args].concat());
        let mut buildx = Command::new("docker");
        buildx.args(["buildx", "build", "--check"]).args(args).arg(context.path());
        let theirs = farm_tests::farm::output(&mut buildx);
        assert_eq!((checked.status, theirs.status), (1, 1), "{checked:?} {theirs:?}");
        for rule in rules {
            assert!(theirs.stdout.contains(rule), "{theirs:?}");
            says(&checked.stdout, &[&format!("  {rule}: "), "error  Dockerfile:", "fails the build"]);
        }
        assert_eq!(checked.stdout.matches("fails the build: ").count(), rules.len(), "{checked:?}");
        assert!(!checked.stdout.contains("harmless"), "{checked:?}");
        says(&checked.stdout, &["check=error=true", "checked in "]);

        let built = submit(&farm, &context, &[&amd64[..], args].concat());
        assert_eq!(built.status, 1, "{built:?}");
        let sentence = format!("lint violation found for rules: {}", rules.join(", "));
        says(&built.stdout, &[&sentence, "take error=true out", "fails the build"]);
        assert!(!built.stdout.contains("harmless"), "{built:?}");
        let failure = &show(&farm, &build_id(&built.stdout))["failure"];
        assert_eq!((&failure["code"], &failure["cause"]), (&"dockerfile_check".into(), &"user".into()));
    }
    // For machines: what the frontend says, with the same end.
    let context = Context::new(&format!("# check=error=true\nFROM {BASE}\nMAINTAINER me\n"));
    let json = submit(&farm, &context, &[&amd64[..], &["--call", "check,format=json"]].concat());
    let object: serde_json::Value = serde_json::from_str(&json.stdout).unwrap_or_else(|_| panic!("{json:?}"));
    assert_eq!((json.status, &object["warnings"][0]["ruleName"]), (1, &"MaintainerDeprecated".into()));
    let json = farm.cli(&["check", context.text(), "--json", "--platform", "linux/amd64,linux/arm64"]);
    let object: serde_json::Value = serde_json::from_str(&json.stdout).unwrap_or_else(|_| panic!("{json:?}"));
    assert_eq!((json.status, &object["warnings"][0]["weight"]), (1, &"error".into()), "{object:#}");
    // Nothing found: no error.
    let clean = Context::new(&format!("# check=error=true\nFROM {BASE}\nRUN true\n"));
    says(&farm.cli(&["check", clean.text(), "--platform", "linux/amd64"]).ok(), &["nothing found"]);
    submit(&farm, &clean, &amd64).ok();
}

#[test]
fn the_frontend_answers_what_can_be_set_and_what_can_be_built() {
    let farm = small_farm();
    let context = Context::new(&format!(
        "ARG VERSION=1\nFROM {BASE} AS base\nARG VERSION\nRUN exit $VERSION\nFROM base AS final\n"
    ));
    let outline = submit(&farm, &context, &["--call", "outline", "--platform", "linux/amd64"]).ok();
    says(&outline, &["VERSION"]);
    let targets = submit(&farm, &context, &["--call", "targets,format=json", "--platform", "linux/amd64"]);
    let targets: serde_json::Value =
        serde_json::from_str(&targets.stdout).unwrap_or_else(|_| panic!("{targets:?}"));
    assert_eq!(targets["targets"][0]["name"], "base", "{targets}");
}

#[test]
fn a_dry_run_says_who_would_build_what_and_sends_nothing() {
    let farm =
        Farm::builder().worker(WorkerSpec::new("w1").platforms("linux/amd64,linux/arm64=emulated")).start();
    let context = Context::new(&format!("FROM {BASE}\nCOPY a /a\nRUN true\n")).file("a", "12345");
    let tag = format!("{}:1", repository("dry"));
    let args = ["-t", &tag, "--platform", "linux/amd64,linux/arm64,linux/s390x", "--dry-run"];
    let out = submit(&farm, &context, &args).ok();
    says(
        &out,
        &[
            "2 files",
            "native on w1",
            "emulated on w1: no native linux/arm64 worker",
            "would wait: no worker for linux/s390x",
        ],
    );
    says(&out, &[&format!("would publish {tag}"), "nothing was sent"]);
    let json = submit(
        &farm,
        &context,
        &["--dry-run", "--platform", "linux/arm64", "--emulation", "never", "--json"],
    )
    .json();
    assert_eq!(json["platforms"][0]["support"], serde_json::Value::Null);
    // What runs no program of a platform needs no machine of it.
    let copies = Context::new(&format!("FROM {BASE}\nCOPY a /a\n")).file("a", "12345");
    let args = ["--platform", "linux/amd64,linux/s390x", "--emulation", "never", "--dry-run"];
    let out = submit(&farm, &copies, &args).ok();
    says(&out, &["linux/amd64  native on w1", "linux/s390x  on w1: no program of linux/s390x runs"]);
    assert_eq!(builds(&farm), 0);
}

#[test]
fn the_farm_that_is_used_and_defaults_of_flags_are_set_once() {
    let farm = small_farm();
    let home = Bed::from_env().folder("home");
    let with = |args: &[&str]| {
        let mut command = farm.command(args);
        command.env("HOME", home.path()).env_remove("FARM_URL").env_remove("FARM_TOKEN_FILE");
        farm_tests::farm::output(&mut command)
    };
    let token = farm.token_file();
    with(&["config", "add", "team", &farm.url(), "--token-file", token.to_str().unwrap()]).ok();
    let nobody = with(&["builds", "--context", "taem"]);
    refused(&nobody, 2, &["--context \"taem\"", "did you mean team?"]);
    says(&with(&["builds", "--context", "team"]).ok(), &["no builds yet"]);
    with(&["config", "use", "team"]).ok();
    with(&["config", "set", "platform", "linux/arm64"]).ok();
    refused(&with(&["config", "set", "platform", "linux/arm46"]), 2, &["did you mean arm64?"]);
    let context = Context::new(&format!("FROM {BASE}\n"));
    let built = with(&["submit", context.text(), "--json"]).json();
    assert_eq!(built["requested"]["platforms"], serde_json::json!(["linux/arm64"]));
    // What is said counts more.
    let built = with(&["submit", context.text(), "--json", "--platform", "linux/amd64"]).json();
    assert_eq!(built["requested"]["platforms"], serde_json::json!(["linux/amd64"]));
    says(&with(&["config"]).ok(), &["*  team", &farm.url(), "--platform  linux/arm64", "config.toml"]);
    says(&with(&["builds", "--format", "{{ id }} is {{ state }}"]).ok(), &[" is succeeded"]);
    refused(&with(&["builds", "--format", "{{ name }}"]), 2, &["--format", "with a NAME of"]);
    with(&["config", "remove", "team"]).ok();
    let json = with(&["config", "--json"]).json();
    assert_eq!(json["used"]["from"], "default", "{json}");
}
