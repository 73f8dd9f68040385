use clap::Parser;
use farm_types::Digest;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

/// A plan for a context with a Dockerfile, from a command line.
fn plan(line: &[&str]) -> Result<Plan> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Dockerfile"), "FROM x").unwrap();
    let context = dir.path().to_str().unwrap();
    let args =
        Line::try_parse_from(["submit", context].iter().chain(line)).unwrap_or_else(|e| panic!("{e}")).args;
    Plan::new(args, |name| Ok((name == "HOME_MADE").then(|| "yes".to_owned())))
}

fn spec(line: &[&str]) -> farm_types::BuildSpec {
    let plan = plan(line).unwrap_or_else(|e| panic!("{e}"));
    let snapshot = SnapshotRef { tree_id: Digest::of(b"t"), content_key: Digest::of(b"c") };
    plan.spec(snapshot, plan.platforms.clone())
}

fn error(line: &[&str]) -> String {
    let Err(error) = plan(line) else { panic!("{line:?} was taken") };
    assert_eq!(error.exit().code(), 2);
    error.to_string()
}

#[test]
fn flags_mean_what_they_mean_to_buildx() {
    let spec = spec(&[
        "-t",
        "localhost:5002/app",
        "-t",
        "localhost:5002/app:latest",
        "--platform",
        "linux/arm64/v8,linux/amd64",
        "--platform",
        "arm64",
        "--build-arg",
        "A=b=c",
        "--build-arg",
        "HOME_MADE",
        "--build-arg",
        "NOT_SET",
        "--label",
        "k=v",
        "--label",
        "empty",
        "--no-cache",
        "--pull",
        "--provenance",
        "--build-context",
        "Base=docker-image://localhost:5002/base:1",
        "--emulation",
        "fallback=10m",
        "--target",
        "final",
        "--push",
    ]);
    assert_eq!(
        spec.platforms.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["linux/arm64", "linux/amd64"]
    );
    assert_eq!(spec.tags.len(), 1);
    assert_eq!(
        spec.build_args.into_iter().collect::<Vec<_>>(),
        [("A".to_owned(), "b=c".to_owned()), ("HOME_MADE".to_owned(), "yes".to_owned())]
    );
    assert_eq!(spec.labels["empty"], "");
    assert!(spec.no_cache && spec.pull == farm_types::PullMode::Always);
    assert_eq!(spec.provenance, farm_types::Provenance::Min);
    assert_eq!(spec.emulation.to_string(), "fallback=600s");
    assert_eq!(spec.target.as_deref(), Some("final"));
    assert!(spec.named_contexts.contains_key("base"));
    assert_eq!(spec.dockerfile, "Dockerfile");
    assert_eq!(self::spec(&["--provenance=mode=max"]).provenance, farm_types::Provenance::Max);
    assert_eq!(self::spec(&[]).provenance, farm_types::Provenance::Off);
}

#[test]
fn a_mistake_is_answered_with_thing_value_and_cure() {
    assert_eq!(
        error(&["--platform", "linux/arm46"]),
        "--platform \"linux/arm46\": unknown architecture \"arm46\"; did you mean arm64?"
    );
    assert!(error(&["-t", "latest"]).starts_with("-t \"latest\": it has no repository"));
    assert!(error(&["--build-arg", "BUILDKIT_SYNTAX=x"]).contains("farm sets this one itself"));
    assert!(error(&["--build-arg", "=x"]).contains("NAME=VALUE"));
    assert!(error(&["--label", "=x"]).contains("--label"));
    assert!(error(&["--provenance=sure"]).contains("mode=max"));
    assert!(error(&["--emulation", "always"]).contains("never, fallback"));
    assert!(error(&["--idempotency-key", ""]).contains("--idempotency-key"));
    assert!(error(&["--idempotency-key", &"k".repeat(129)]).contains("128"));
    for context in ["x", "=x", "x=", "x=https://example.com/a.git", "x=target:y", "a b=.", "context=."] {
        assert!(error(&["--build-context", context]).contains("--build-context"), "{context}");
    }
    assert!(error(&["--build-context", "x=/nowhere/at/all"]).contains("no such folder"));
    assert!(
        error(&["--build-context", "x=docker-image://a", "--build-context", "X=docker-image://b"])
            .contains("twice")
    );
    assert!(error(&["-f", "/nowhere/Dockerfile"]).contains("-f FILE"));
}

#[test]
fn each_invocation_has_a_key_of_its_own_unless_it_names_one() {
    let key = |line: &[&str]| plan(line).unwrap_or_else(|e| panic!("{e}")).idempotency_key;
    assert_ne!(key(&[]), key(&[]));
    assert_eq!(key(&["--idempotency-key", "k"]), "k");
}

#[test]
fn without_a_native_worker_a_platform_must_be_named() {
    let text = native(&[]).unwrap_err().to_string();
    assert!(text.contains("--platform linux/amd64"), "{text}");
    assert_eq!(native(&["linux/amd64".to_owned()]).unwrap().len(), 1);
}

#[test]
fn the_first_line_says_what_was_read_and_sent() {
    let uploaded = Uploaded {
        upload_id: String::new(),
        tree_id: Digest::of(b"t"),
        content_key: Digest::of(b"c"),
        new_files: 3,
        sent_bytes: 4_120,
    };
    assert_eq!(
        first_line("7f3k2m", "app", &uploaded, 12),
        "build 7f3k2m  app @ snapshot e3b9…  12 files, 3 new (4.1 kB sent)"
    );
    let nothing = Uploaded { new_files: 0, sent_bytes: 0, ..uploaded };
    assert!(first_line("7f3k2m", "app", &nothing, 1).ends_with("1 file, all known to the farm"));
}
