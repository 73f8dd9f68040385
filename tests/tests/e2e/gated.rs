//! `--gate`: no tag points at an image that hasn't passed it, on any platform that counts.

use farm_tests::database::psql;
use farm_tests::engine::PrivateEngine;
use farm_tests::farm::{Farm, Output, WorkerSpec};
use farm_tests::registry::PrivateRegistry;
use farm_tests::token_service::TokenService;
use serde_json::Value;

use crate::gate::Gate;
use crate::support::*;

const BOTH_ASKED: &[&str] = &["--platform", "linux/amd64,linux/arm64"];

/// Fails on arm64 with exit code 7, and says where it runs.
const NOT_ON_ARM: &str = "python3 -SE -c \"import os, sys; print('it is', os.uname().machine); sys.exit(0 if os.uname().machine == 'x86_64' else 7)\"";

/// Builds for both platforms, gated.
fn gated(farm: &Farm, context: &Context, tag: &str, gate: &str, more: &[&str]) -> Output {
    submit(farm, context, &[&["-t", tag, "--gate", gate], BOTH_ASKED, more].concat())
}

/// An image that runs nothing when it is built, and that nobody else has.
fn context() -> Context {
    Context::new(&format!(
        "FROM {BASE}\nENV WORD=hello\nCOPY Dockerfile /srv/{}\nWORKDIR /srv\nUSER 1000\n",
        nonce()
    ))
}

/// A platform of a record.
fn platform<'a>(record: &'a Value, name: &str) -> &'a Value {
    let platforms = record["platforms"].as_array().unwrap();
    platforms.iter().find(|platform| platform["platform"] == name).unwrap_or_else(|| panic!("{record:#}"))
}

/// The smallest program for amd64: it ends with as many as it was given arguments.
fn counter() -> Vec<u8> {
    let code = [0x8b, 0x3c, 0x24, 0xff, 0xcf, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    let (base, head) = (0x40_0000_u64, 64 + 56);
    let mut bytes = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for word in [base + head, 64, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    bytes.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    let length = head + u64::try_from(code.len()).unwrap();
    for word in [0, base, base, length, length, 0x1000] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(code);
    bytes
}

#[test]
fn what_passes_on_each_platform_is_published_and_the_gate_ran_as_the_image_has_it() {
    let farm = small_farm();
    let tag = format!("{}:1", repository("gated"));
    let gate = "python3 -SE -c \"import os; assert os.getcwd() == '/srv' and os.getuid() == 1000; print('gate says', \
                os.environ['WORD'], os.uname().machine)\" &&\n  : \\\n RUN false";
    let context = context();
    let text = gated(&farm, &context, &tag, gate, &[]).ok();
    says(&text, &["gate says hello x86_64", "gate says hello aarch64", "[gate] python3 -SE", "published"]);
    assert_eq!(index(&tag)["manifests"].as_array().unwrap().len(), 2);
    let id = build_id(&text);
    let record = show(&farm, &id);
    assert_eq!(record["gate"], gate, "{record:#}");
    for name in ["linux/amd64", "linux/arm64"] {
        let platform = platform(&record, name);
        assert_eq!((&platform["gate"], &platform["state"]), (&"passed".into(), &"succeeded".into()));
        // Nothing of it is in the image, nor among the Dockerfile's steps.
        assert_eq!(platform["steps"], 3, "{record:#}");
    }
    says(&farm.cli(&["show", &id]).ok(), &["gate python3 -SE", "passed on linux/amd64, linux/arm64"]);
    says(&farm.cli(&["logs", &id]).ok(), &["gate says hello x86_64", "gate says hello aarch64"]);

    // What is in the cache, the gate's own result included, is run again.
    let again = gated(&farm, &context, &tag, gate, &[]).ok();
    says(&again, &["gate says hello x86_64", "gate says hello aarch64"]);

    // Of an index with attestations, too.
    let args = ["-t", &tag, "--platform", "linux/amd64", "--provenance", "--gate", gate];
    says(&submit(&farm, &context, &args).ok(), &["gate says hello x86_64"]);
}

#[test]
fn what_fails_on_one_platform_moves_no_tag_and_says_where_what_and_how() {
    let farm = small_farm();
    let tag = format!("{}:1", repository("gated"));
    submit(&farm, &context(), &[&["-t", &tag], BOTH_ASKED].concat()).ok();
    let before = raw(&tag);
    let refused = gated(&farm, &context(), &tag, NOT_ON_ARM, &[]);
    assert_eq!(refused.status, 1, "{refused:?}");
    says(
        &refused.stdout,
        &[
            "linux/arm64 failed",
            "the gate failed on linux/arm64 with exit code 7: python3",
            "it is aarch64",
            "as before.",
        ],
    );
    assert_eq!(raw(&tag), before, "the old tag stands");
    let id = build_id(&refused.stdout);
    let record = show(&farm, &id);
    let arm = platform(&record, "linux/arm64");
    let failure = &arm["failure"];
    assert_eq!((&failure["code"], &failure["cause"]), (&"gate_failed".into(), &"user".into()), "{failure}");
    assert_eq!(
        (&failure["exit_code"], &arm["gate"], &arm["attempts"]),
        (&7.into(), &"failed".into(), &1.into())
    );
    assert_eq!(failure["log_tail"][0], "it is aarch64", "{failure}");
    says(failure["step"].as_str().unwrap(), &["[gate] python3"]);
    says(&farm.cli(&["show", &id]).ok(), &["failed on linux/arm64", "it is aarch64"]);
    // What was pushed is known, so that it leaves the registry in its time.
    let kept = "SELECT count(*) FROM pushed_digests p JOIN attempts a ON a.id = p.attempt_id WHERE a.state = 'failed'";
    assert_eq!(psql(farm.database_url(), kept), "1");

    // Only what has failed is tried again, by the same gate.
    let again = farm.cli(&["retry", &id, "--failed-only"]);
    assert_eq!(again.status, 1, "{again:?}");
    says(&again.stdout, &["the gate failed on linux/arm64 with exit code 7"]);
    assert_eq!(raw(&tag), before);
}

#[test]
fn an_optional_platform_that_fails_its_gate_is_missing() {
    let farm = small_farm();
    let tag = format!("{}:1", repository("gated"));
    let text = gated(&farm, &context(), &tag, NOT_ON_ARM, &["--optional", "linux/arm64"]).ok();
    says(&text, &["the gate failed on linux/arm64", "without linux/arm64, which is optional", "published"]);
    let published = index(&tag);
    assert_eq!(published["manifests"].as_array().unwrap().len(), 1, "{published:#}");
    assert_eq!(published["annotations"]["farm.platforms.missing"], "linux/arm64");
    let record = show(&farm, &build_id(&text));
    assert_eq!(platform(&record, "linux/amd64")["gate"], "passed", "{record:#}");
    assert_eq!(platform(&record, "linux/arm64")["gate"], "failed", "{record:#}");
}

#[test]
fn an_image_without_a_shell_is_asked_by_an_array_and_what_cant_be_started_is_told_with_the_cure() {
    let farm = small_farm();
    let tag = format!("{}:1", repository("gated"));
    let dockerfile = format!("FROM scratch\nCOPY --chmod=755 app /app\nLABEL n={}\n", nonce());
    let context = Context::new(&dockerfile).file("app", counter());
    let gated =
        |gate: &str| submit(&farm, &context, &["-t", &tag, "--platform", "linux/amd64", "--gate", gate]);
    gated("[\"/app\"]").ok();
    let published = raw(&tag);
    assert!(published.is_some());
    let failed = |gate: &str, parts: &[&str]| {
        let output = gated(gate);
        assert_eq!(output.status, 1, "{output:?}");
        let record = show(&farm, &build_id(&output.stdout));
        assert_eq!(record["failure"]["code"], "gate_failed", "{record:#}");
        says(record["failure"]["message"].as_str().unwrap(), parts);
        assert_eq!(raw(&tag), published);
        output.stdout
    };
    failed("[\"/app\", \"$HOME\", \"<<EOF\"]", &["exit code 2: [\"/app\",\"$HOME\",\"<<EOF\"]"]);
    failed("/app", &["linux/amd64", "has no /bin/sh", "as an array"]);
    let other = failed("[\"/other\"]", &["linux/amd64", "[\"/other\"]"]);
    says(&other, &["/other: no such file or directory"]);
    // What an image does to whatever stands on it, it does to its gate.
    let onbuild = Context::new(&format!("{dockerfile}ONBUILD COPY missing /\n")).file("app", counter());
    let output = submit(&farm, &onbuild, &["-t", &tag, "--platform", "linux/amd64", "--gate", "[\"/app\"]"]);
    assert_eq!(output.status, 1, "{output:?}");
    let record = show(&farm, &build_id(&output.stdout));
    assert_eq!(record["failure"]["code"], "gate_failed", "{record:#}");
    says(record["failure"]["message"].as_str().unwrap(), &["ONBUILD triggers", "missing"]);
}

#[test]
fn a_gate_that_cant_be_is_refused_before_anything_is_sent() {
    let farm = small_farm();
    let context = context();
    let tag = format!("{}:1", repository("gated"));
    for (args, says) in [
        (&["--gate", "true"][..], &["--gate", "pushes nothing", "name a tag (-t)"][..]),
        (
            &["--gate", "true", "-t", &tag, "--output", "type=tar,dest=/nowhere.tar"],
            &["--gate", "pushes nothing"],
        ),
        (&["--gate", "", "-t", &tag], &["--gate", "it is empty"]),
        (&["--gate", "[\"/app\", 1]", "-t", &tag], &["--gate", "begins as a JSON array"]),
    ] {
        refused(&submit(&farm, &context, args), 2, says);
    }
    assert_eq!(builds(&farm), 0);
    let dry = submit(
        &farm,
        &context,
        &["--gate", "make test", "-t", &tag, "--platform", "linux/amd64", "--dry-run"],
    );
    says(&dry.ok(), &["would have to pass make test", "would publish"]);
}

/// An image that has the program at which a test waits, and a command that runs it.
fn waiting(gate: &Gate) -> (Context, String) {
    let context =
        Context::new(&format!("FROM {BASE}\nCOPY gate.py /gate.py\nLABEL n={}\n", nonce())).with_gate();
    (context, format!("python3 -SE /gate.py {}", gate.port()))
}

#[test]
fn a_worker_that_dies_in_the_gate_costs_a_try() {
    let spec = |name: &str| WorkerSpec::new(name).platforms("linux/amd64").slots(2);
    let mut farm = Farm::builder().config(QUICK_LEASES).worker(spec("w1")).worker(spec("w2")).start();
    let gate = Gate::new();
    let (context, command) = waiting(&gate);
    let tag = format!("{}:1", repository("gated"));
    let args = ["submit", context.text(), "-t", &tag, "--platform", "linux/amd64", "--gate", &command];
    let mut cli = farm.cli_spawn("submit", &args);
    let step = gate.arrival();
    let id = build_id(&cli.output());
    let record = show(&farm, &id);
    let first = record["platforms"][0]["worker"].as_str().unwrap().to_owned();
    assert_eq!((raw(&tag), &record["platforms"][0]["state"]), (None, &"running".into()));
    farm.kill_worker(&first);
    step.wait_killed(LONG);
    gate.arrival().open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    let record = show(&farm, &id);
    let platform = platform(&record, "linux/amd64");
    assert_eq!((&platform["attempts"], &platform["gate"]), (&2.into(), &"passed".into()), "{record:#}");
    assert_ne!(platform["worker"], first.as_str());
    assert_eq!(record["index_digest"], digest_of(&raw(&tag).unwrap()));
}

#[test]
fn an_engine_that_dies_in_the_gate_is_no_failure_of_the_image() {
    let mut engine = PrivateEngine::start();
    let spec = |name: &str| WorkerSpec::new(name).platforms("linux/amd64");
    let mut farm = Farm::builder().config(QUICK_LEASES).worker(spec("w-frail").engine(&engine.url())).start();
    let gate = Gate::new();
    let (context, command) = waiting(&gate);
    let tag = format!("{}:1", repository("gated"));
    let args = ["submit", context.text(), "-t", &tag, "--platform", "linux/amd64", "--gate", &command];
    let mut cli = farm.cli_spawn("submit", &args);
    let _step = gate.arrival();
    farm.add_worker(spec("w-sound"));
    engine.kill9();
    gate.arrival().open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    let record = show(&farm, &build_id(&cli.output()));
    let platform = platform(&record, "linux/amd64");
    let first = &platform["history"][0]["failure"];
    assert_eq!(
        (&first["code"], &first["cause"]),
        (&"engine_lost".into(), &"infrastructure".into()),
        "{record:#}"
    );
    says(first["message"].as_str().unwrap(), &["the gate on linux/amd64: ", "went away"]);
    assert_eq!((&platform["worker"], &platform["gate"]), (&"w-sound".into(), &"passed".into()));
}

#[test]
fn a_cancel_in_the_gate_ends_it_and_what_was_pushed_is_known() {
    let farm = small_farm();
    let gate = Gate::new();
    let (context, command) = waiting(&gate);
    let tag = format!("{}:1", repository("gated"));
    let args = ["submit", context.text(), "-t", &tag, "--platform", "linux/amd64", "--gate", &command];
    let mut cli = farm.cli_spawn("submit", &args);
    let step = gate.arrival();
    let id = build_id(&cli.output());
    farm.cli(&["cancel", &id]).ok();
    step.wait_killed(LONG);
    assert_eq!(cli.wait_exit(LONG).code(), Some(130), "{}", cli.tail());
    let record = show(&farm, &id);
    assert_eq!((&record["state"], raw(&tag)), (&"cancelled".into(), None), "{record:#}");
    assert!(record["platforms"][0]["gate"].is_null(), "{record:#}");
    let kept = "SELECT count(*) FROM pushed_digests p JOIN attempts a ON a.id = p.attempt_id WHERE a.state = 'cancelled'";
    assert_eq!(psql(farm.database_url(), kept), "1");
    // Too slow is too slow, in the gate as in the build.
    let (context, command) = waiting(&gate);
    let args = ["-t", &tag, "--platform", "linux/amd64", "--gate", &command, "--timeout", "20s"];
    let late = submit(&farm, &context, &args);
    assert_eq!(late.status, 1, "{late:?}");
    let record = show(&farm, &build_id(&late.stdout));
    assert_eq!((&record["failure"]["cause"], raw(&tag)), (&"deadline".into(), None), "{record:#}");
    gate.arrival().wait_killed(LONG);
}

#[test]
fn where_images_are_bounded_the_gate_gets_at_what_its_build_has_pushed_and_has_no_secrets() {
    let service = TokenService::start();
    let registry = PrivateRegistry::start_with_tokens(&service);
    let at = registry.address();
    // As secrets go over no other connections.
    let farm = with_worker(Farm::builder().tls().config(&service.settings(&at)));
    farm.cli(&["project", "create", "web"]).ok();
    farm.cli(&["project", "allow", "web", "--push", &format!("{at}/web")]).ok();
    let context = Context::new(&format!(
        "FROM {BASE}\nCOPY Dockerfile /{}\nRUN --mount=type=secret,id=word cat /run/secrets/word\n",
        nonce()
    ))
    .file("word", "a very secret word");
    let tag = format!("{at}/web/app:1");
    let secret = format!("id=word,src={}", context.path().join("word").display());
    let gate = "test ! -e /run/secrets/word && echo gate: a very secret word";
    let args =
        ["--project", "web", "-t", &tag, "--platform", "linux/amd64", "--secret", &secret, "--gate", gate];
    let text = submit(&farm, &context, &args).ok();
    says(&text, &["published", "| gate: "]);
    let id = build_id(&text);
    let log = farm.cli(&["logs", &id, "--project", "web"]).ok();
    says(&log, &["gate: "]);
    assert!(!log.contains("very secret"), "{log}");
}
