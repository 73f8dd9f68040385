use farm_proto::v1::{AttemptEvent, BuildSpec, Failure, JobResult, Notice};

use super::*;

fn attempt(number: u32, worker: &str, state: &str, started_ms: i64, finished_ms: i64) -> Attempt {
    Attempt {
        id: format!("attempt {number} of {worker}"),
        number,
        worker: worker.into(),
        state: state.into(),
        support: "native".into(),
        offered_ms: 1,
        started_ms,
        finished_ms,
        failure: None,
        support_reason: String::new(),
    }
}

fn build(state: &str, job_state: &str, attempts: &[Attempt], waiting: &str) -> Build {
    let job = Job {
        id: "j".into(),
        kind: "build".into(),
        platform: "linux/amd64".into(),
        state: job_state.into(),
        attempts: attempts.to_vec(),
        waiting: waiting.into(),
        result: (job_state == "succeeded")
            .then(|| JobResult { digest: farm_types::Digest::of(b"x").to_string(), ..Default::default() }),
        ..Default::default()
    };
    let spec = BuildSpec {
        platforms: vec!["linux/amd64".into(), "linux/arm/v7".into()],
        tags: vec!["localhost:5002/app:latest".into()],
        ..Default::default()
    };
    Build {
        id: "7f3k2m".into(),
        state: state.into(),
        spec: Some(spec),
        jobs: vec![job],
        ..Default::default()
    }
}

fn events(list: Vec<Event>) -> AttemptEvents {
    AttemptEvents {
        attempt_id: "a".into(),
        platform: "linux/amd64".into(),
        attempt_number: 1,
        removed_ms: 0,
        events: list.into_iter().map(|event| AttemptEvent { at_ms: 0, event: Some(event) }).collect(),
    }
}

fn step(digest: &str, name: &str, started_ms: i64, finished_ms: i64) -> StepUpdate {
    StepUpdate { digest: digest.into(), name: name.into(), started_ms, finished_ms, ..Default::default() }
}

fn log(digest: &str, stream: u32, data: &[u8]) -> Event {
    Event::Log(StepLog { step_digest: digest.into(), stream, data: data.to_vec().into() })
}

#[test]
fn a_life_from_waiting_to_built_is_told_once() {
    let mut progress = Progress::new(None);
    let mut told = Vec::new();
    let running = attempt(1, "w1", "running", 1_000, 0);
    let done = attempt(1, "w1", "succeeded", 1_000, 3_100);
    for build in [
        build("queued", "ready", &[], "2nd in the queue, starts in about 40 s"),
        build("queued", "ready", &[], "1st in the queue, starts in about 20 s"),
        build("running", "leased", &[attempt(1, "w1", "offered", 0, 0)], ""),
        build("running", "running", std::slice::from_ref(&running), ""),
        build("running", "running", &[running], ""),
        build("publishing", "succeeded", std::slice::from_ref(&done), ""),
        build("succeeded", "succeeded", &[done], ""),
    ] {
        told.extend(progress.build(&build));
    }
    assert_eq!(
        told,
        [
            "linux/amd64   waiting  2nd in the queue, starts in about 40 s",
            "linux/amd64   waiting  1st in the queue, starts in about 20 s",
            "linux/amd64   native on w1 (attempt 1)",
            "linux/amd64   built  sha256:2d71…4881  2.1 s",
            "publishing localhost:5002/app:latest",
        ]
    );
}

#[test]
fn a_lost_worker_and_the_next_attempt_are_told() {
    let mut progress = Progress::new(None);
    let mut lost = attempt(1, "w1", "lost", 1_000, 42_000);
    lost.failure = Some(Failure { message: "no heartbeat for 25 s".into(), ..Default::default() });
    let mut told = progress.build(&build("running", "running", &[attempt(1, "w1", "running", 1_000, 0)], ""));
    told.extend(progress.build(&build("running", "ready", std::slice::from_ref(&lost), "")));
    told.extend(progress.build(&build(
        "running",
        "running",
        &[lost, attempt(2, "w2", "running", 43_000, 0)],
        "",
    )));
    assert_eq!(
        told,
        [
            "linux/amd64   native on w1 (attempt 1)",
            "linux/amd64   w1 was lost after 41 s (no heartbeat for 25 s); it will run again",
            "linux/amd64   running again on w2, native (attempt 2)",
        ]
    );
}

#[test]
fn counting_down_is_not_news() {
    let mut progress = Progress::new(None);
    assert_eq!(progress.build(&build("queued", "ready", &[], "starts in about 40 s")).len(), 1);
    assert!(progress.build(&build("queued", "ready", &[], "starts in about 39 s")).is_empty());
    assert_eq!(progress.build(&build("queued", "ready", &[], "no worker for linux/amd64")).len(), 1);
}

#[test]
fn steps_and_their_output_are_told_in_lines() {
    let mut progress = Progress::new(None);
    progress.build(&build("running", "running", &[], ""));
    let cached = StepUpdate { cached: true, ..step("s1", "[base 1/2] FROM x", 1, 1) };
    let failed = StepUpdate { error: "exit code: 2".into(), ..step("s4", "[4/4] RUN false", 1_000, 1_500) };
    let told = progress.events(&events(vec![
        Event::Step(step("s0", "[internal] load build definition", 1, 20)),
        Event::Step(cached.clone()),
        Event::Step(cached),
        Event::Step(step("s2", "[base 2/2] RUN make", 1_000, 0)),
        log("s2", 1, b"one\ntw"),
        log("s2", 2, b"\x1b[31merr\x1b[0m\n"),
        log("s2", 1, b"o\nrest"),
        Event::Step(step("s2", "[base 2/2] RUN make", 1_000, 1_312)),
        Event::Step(step("s2", "[base 2/2] RUN make", 1_000, 1_312)),
        Event::Notice(Notice { text: "fetching the source".into() }),
        Event::Step(failed),
    ]));
    assert_eq!(
        told,
        [
            "linux/amd64   [base 1/2] FROM x  CACHED",
            "linux/amd64   [base 2/2] RUN make",
            "linux/amd64  | one",
            "linux/amd64  | err",
            "linux/amd64  | two",
            "linux/amd64  | rest",
            "linux/amd64   [base 2/2] RUN make  0.3 s",
            "linux/amd64   fetching the source",
            "linux/amd64   [4/4] RUN false  failed after 0.5 s: exit code: 2",
        ]
    );
    assert!(progress.finish().is_empty());
}

#[test]
fn what_has_no_line_break_at_the_end_is_told_at_the_end() {
    let mut progress = Progress::new(None);
    assert!(progress.events(&events(vec![log("s", 1, b"last words")])).is_empty());
    assert_eq!(progress.finish(), ["linux/amd64 | last words"]);
}

#[test]
fn only_the_platform_that_was_asked_for_is_told() {
    let mut progress = Progress::new(Some("linux/arm/v7".into()));
    assert!(progress.events(&events(vec![log("s", 1, b"x\n")])).is_empty());
    assert!(progress.build(&build("publishing", "ready", &[], "waits")).is_empty());
}

#[test]
fn a_warning_of_several_platforms_is_kept_once() {
    let mut progress = Progress::new(None);
    let warning = Warning { rule: "R".into(), line: 3, message: "m".into(), ..Default::default() };
    let mut other = events(vec![Event::Warning(warning.clone())]);
    other.platform = "linux/arm/v7".into();
    progress.events(&events(vec![Event::Warning(warning.clone()), Event::Warning(warning)]));
    progress.events(&other);
    assert_eq!(progress.warnings().len(), 1);
    assert_eq!(progress.warnings()[0].platforms, ["linux/amd64", "linux/arm/v7"]);
}

#[test]
fn a_replay_introduces_each_attempt_before_its_output_and_not_again_at_the_end() {
    let mut progress = Progress::new(None);
    let done = attempt(1, "w1", "succeeded", 1_000, 3_100);
    let build = build("succeeded", "succeeded", std::slice::from_ref(&done), "");
    progress.introduce(&build);
    let mut output = events(vec![log("s", 1, b"x\n")]);
    output.attempt_id = done.id;
    let mut told = progress.events(&output);
    told.extend(progress.build(&build));
    assert_eq!(
        told,
        [
            "linux/amd64   native on w1 (attempt 1)",
            "linux/amd64  | x",
            "linux/amd64   built  sha256:2d71…4881  2.1 s",
        ]
    );
}
