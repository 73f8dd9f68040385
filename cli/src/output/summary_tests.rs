use farm_proto::v1::{BuildSpec, Destination, JobResult, Publication, SourceExcerpt, Warning};
use farm_types::Digest;

use super::*;
use crate::output::json::BuildJson;

fn digest(text: &str) -> String {
    Digest::of(text.as_bytes()).to_string()
}

fn job(platform: &str, worker: &str, support: &str, result: Result<(u64, u32, u32), Failure>) -> Job {
    let state = if result.is_ok() { "succeeded" } else { "failed" };
    let attempt = |number, state: &str, worker: &str| Attempt {
        id: format!("{platform} {number}"),
        number,
        worker: worker.into(),
        state: state.into(),
        support: support.into(),
        offered_ms: 900,
        started_ms: 1_000,
        finished_ms: 3_100,
        failure: None,
        support_reason: String::new(),
    };
    Job {
        id: platform.into(),
        kind: "build".into(),
        platform: platform.into(),
        state: state.into(),
        attempts: vec![attempt(1, "lost", "w-gone"), attempt(2, state, worker)],
        failure: result.as_ref().err().cloned(),
        result: result.ok().map(|(image_bytes, steps, steps_cached)| JobResult {
            digest: digest(platform),
            image_bytes,
            steps,
            steps_cached,
            ..Default::default()
        }),
        waiting: String::new(),
        ..Default::default()
    }
}

fn build(state: &str, jobs: Vec<Job>) -> Build {
    let spec = BuildSpec {
        platforms: vec!["linux/amd64".into(), "linux/arm64".into()],
        tags: vec!["localhost:5002/app:latest".into()],
        ..Default::default()
    };
    Build {
        id: "7f3k2m".into(),
        state: state.into(),
        spec: Some(spec),
        created_ms: 1_000,
        finished_ms: 7_400,
        jobs,
        ..Default::default()
    }
}

fn publication(tags: &[(&str, &str, &str)]) -> Option<Publication> {
    let tags = tags.iter().map(|(tag, state, previous)| Tag {
        tag: (*tag).into(),
        state: (*state).into(),
        previous_digest: (*previous).into(),
        failure: (*state == "failed").then(|| Failure { message: "denied".into(), ..Default::default() }),
    });
    let destination = Destination {
        repository: "localhost:5002/app".into(),
        state: "pushed".into(),
        failure: None,
        tags: tags.collect(),
    };
    Some(Publication {
        state: "published".into(),
        index_digest: digest("index"),
        index_media_type: String::new(),
        index_size: 0,
        destinations: vec![destination],
    })
}

fn failure() -> Failure {
    Failure {
        cause: "user".into(),
        code: "run_failed".into(),
        message: "the command ended with exit code 100".into(),
        step: "[final 5/9] RUN apt-get install -y libfoo".into(),
        exit_code: Some(100),
        source: Some(SourceExcerpt {
            file: "Dockerfile".into(),
            first_line: 11,
            lines: vec!["COPY . .".into(), "RUN apt-get install -y libfoo".into()],
            marked_from: 12,
            marked_to: 12,
        }),
        log_tail: vec![
            "Reading package lists...".into(),
            "E: Unable to locate package \u{1b}[1mlibfoo".into(),
        ],
    }
}

#[test]
fn a_published_build_says_what_each_platform_gave_and_where_it_is() {
    let jobs = vec![
        job("linux/arm64", "w-qemu", "emulated", Ok((25_000_000, 9, 2))),
        job("linux/amd64", "w-amd64", "native", Ok((24_100_000, 9, 6))),
    ];
    let mut build = build("succeeded", jobs);
    build.publication = publication(&[("latest", "verified", &digest("before")), ("v1", "superseded", "")]);
    let warning = Warning {
        rule: "RedundantTargetPlatform".into(),
        message: "it is the target already".into(),
        source_line: "FROM --platform=$TARGETPLATFORM base".into(),
        file: "Dockerfile".into(),
        line: 17,
        ..Default::default()
    };
    let platforms = vec!["linux/amd64".to_owned()];
    let seen = SeenWarning { warning, of_use: platforms.clone(), platforms };
    let short = |text: &str| Digest::of(text.as_bytes()).short();
    let lines = summary(&build, &[seen], 0);
    assert_eq!(
        lines,
        [
            format!(
                "linux/amd64  {}  24.1 MB  native on w-amd64   2.1 s (6 of 9 steps cached)",
                short("linux/amd64")
            ),
            format!(
                "linux/arm64  {}  25.0 MB  emulated on w-qemu  2.1 s (2 of 9 steps cached)",
                short("linux/arm64")
            ),
            "warning  Dockerfile:17  RedundantTargetPlatform: it is the target already (linux/amd64)"
                .to_owned(),
            " > 17 | FROM --platform=$TARGETPLATFORM base".to_owned(),
            "  harmless: a FROM means the target platform already; leave the flag out".to_owned(),
            format!(
                "published  localhost:5002/app:latest  {}  (2 platforms, was {})",
                short("index"),
                short("before")
            ),
            "not moved  localhost:5002/app:v1      a newer build has this tag, or will have it".to_owned(),
            "built in 6.4 s   farm show 7f3k2m".to_owned(),
        ]
    );
}

#[test]
fn a_failing_step_shows_its_place_its_output_and_what_was_not_published() {
    let jobs = vec![
        job("linux/amd64", "w-amd64", "native", Ok((1, 1, 0))),
        job("linux/arm64", "w-arm1", "native", Err(failure())),
    ];
    let lines = summary(&build("failed", jobs), &[], 0);
    assert_eq!(lines[..7], [
        "linux/arm64 failed at step 5/9 on w-arm1: exit code 100",
        "  Dockerfile:12",
        "   11 | COPY . .",
        " > 12 | RUN apt-get install -y libfoo",
        "  Reading package lists...",
        "  E: Unable to locate package libfoo    (last lines; all: farm logs 7f3k2m --platform linux/arm64)",
        "linux/amd64  sha256:6a11…e9ba  1 B  native on w-amd64  2.1 s (0 of 1 steps cached)",
    ]
    .map(|line| line.replace("sha256:6a11…e9ba", &Digest::of(b"linux/amd64").short())));
    assert_eq!(
        lines[7..],
        [
            "linux/amd64 was built; nothing was published, tags are as before.",
            "failed after 6.4 s   farm show 7f3k2m",
        ]
    );
}

#[test]
fn platforms_that_failed_alike_are_told_together() {
    let jobs = vec![
        job("linux/amd64", "w1", "native", Err(failure())),
        job("linux/arm64", "w2", "native", Err(failure())),
    ];
    let lines = summary(&build("failed", jobs), &[], 0);
    assert_eq!(lines[0], "linux/amd64, linux/arm64 failed at step 5/9 on w1, w2: exit code 100");
    assert_eq!(lines.len(), 8);
}

#[test]
fn a_tag_that_could_not_be_put_is_not_called_published() {
    let jobs = vec![job("linux/amd64", "w1", "native", Ok((1, 1, 0)))];
    let mut build = build("failed", jobs);
    build.failure = Some(Failure { message: "the registry refuses".into(), ..Default::default() });
    build.publication =
        publication(&[("latest", "failed", ""), ("v1", "verified", ""), ("v2", "wanted", "")]);
    let text = summary(&build, &[], 0).join("\n");
    assert!(text.starts_with("the build failed: the registry refuses\n"), "{text}");
    assert!(text.contains("not published  localhost:5002/app:latest  denied"), "{text}");
    assert!(text.contains("not published  localhost:5002/app:v2"), "{text}");
    assert!(text.contains("not every tag was published.") && !text.contains("as before"), "{text}");
}

#[test]
fn a_cancelled_and_an_unpublished_build_say_so() {
    let mut cancelled = build("cancelled", Vec::new());
    assert_eq!(
        summary(&cancelled, &[], 0),
        ["nothing was published, tags are as before.", "cancelled after 6.4 s   farm show 7f3k2m"]
    );
    cancelled.state = "succeeded".into();
    cancelled.spec.as_mut().unwrap().tags.clear();
    assert_eq!(summary(&cancelled, &[], 0)[0], "nothing was published, since no tag was given (-t)");
}

#[test]
fn the_steps_number_is_found_where_there_is_one() {
    assert_eq!(step_number("[5/9] RUN x"), Some("5/9"));
    assert_eq!(step_number("[linux/arm64 final 5/9] RUN x"), Some("5/9"));
    assert_eq!(step_number("[internal] load x"), None);
    assert_eq!(step_number("exporting to image"), None);
}

#[test]
fn the_json_has_the_same_facts_under_stable_names() {
    let jobs = vec![
        job("linux/amd64", "w-amd64", "native", Ok((24_100_000, 9, 6))),
        job("linux/arm64", "w-arm1", "native", Err(failure())),
    ];
    let mut build = build("failed", jobs);
    build.publication = publication(&[("latest", "wanted", "")]);
    let json = serde_json::to_value(BuildJson::new(&build, None, &[])).unwrap();
    assert_eq!(json["id"], "7f3k2m");
    assert_eq!(json["created"], "1970-01-01T00:00:01.000Z");
    assert_eq!(json["total_seconds"], 6.4);
    assert_eq!(json["platforms"][0]["digest"], digest("linux/amd64"));
    assert_eq!(json["platforms"][0]["seconds"], 2.1);
    assert_eq!(json["platforms"][0]["attempts"], 2);
    assert_eq!(json["platforms"][1]["failure"]["line"], 12);
    assert_eq!(json["platforms"][1]["digest"], serde_json::Value::Null);
    assert_eq!(json["tags"][0]["reference"], "localhost:5002/app:latest");
    assert_eq!(json["upload"], serde_json::Value::Null);
}
