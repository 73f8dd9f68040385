use farm_proto::v1::attempt_event::Event;
use farm_proto::v1::{
    Attempt, AttemptEvent, AttemptEvents, Build, BuildSpec, Job, JobResult, StepLog, StepUpdate, Transfer,
};
use proptest::prelude::*;

use super::*;

fn job(platform: &str, state: &str, attempts: Vec<Attempt>, waiting: &str) -> Job {
    Job {
        id: platform.into(),
        kind: "build".into(),
        platform: platform.into(),
        state: state.into(),
        attempts,
        waiting: waiting.into(),
        result: (state == "succeeded")
            .then(|| JobResult { digest: farm_types::Digest::of(b"x").to_string(), ..Default::default() }),
        ..Default::default()
    }
}

fn attempt(platform: &str, worker: &str, reason: &str) -> Attempt {
    Attempt {
        id: format!("attempt of {platform}"),
        number: 1,
        worker: worker.into(),
        state: "running".into(),
        support: if reason.is_empty() { "native" } else { "emulated" }.into(),
        started_ms: 1,
        support_reason: reason.into(),
        ..Default::default()
    }
}

fn build(jobs: Vec<Job>) -> Build {
    let platforms = jobs.iter().map(|job| job.platform.clone()).collect();
    let spec = BuildSpec { platforms, tags: vec!["localhost:5002/app:1".into()], ..Default::default() };
    Build { id: "7f3k2m".into(), state: "running".into(), spec: Some(spec), jobs, ..Default::default() }
}

fn events(platform: &str, list: Vec<Event>) -> AttemptEvents {
    AttemptEvents {
        attempt_id: format!("attempt of {platform}"),
        platform: platform.into(),
        attempt_number: 1,
        removed_ms: 0,
        events: list.into_iter().map(|event| AttemptEvent { at_ms: 0, event: Some(event) }).collect(),
    }
}

fn step(digest: &str, name: &str, started: bool, ended: bool) -> Event {
    Event::Step(StepUpdate {
        digest: digest.into(),
        name: name.into(),
        number: u32::from(name.contains('/')),
        started_ms: started.into(),
        finished_ms: ended.into(),
        ..Default::default()
    })
}

fn log(digest: &str, text: &str) -> Event {
    Event::Log(StepLog { step_digest: digest.into(), stream: 1, data: text.to_owned().into_bytes().into() })
}

/// One that builds natively, one that is emulated, one that waits.
fn some() -> View {
    let mut view = View::default();
    let arm = attempt("linux/arm64", "w-qemu", "no native linux/arm64 worker is connected; policy fallback");
    view.build(
        &build(vec![
            job("linux/amd64", "running", vec![attempt("linux/amd64", "w-amd64", "")], ""),
            job("linux/arm64", "running", vec![arm], ""),
            job("linux/riscv64", "ready", Vec::new(), "no worker for linux/riscv64 is connected"),
        ]),
        1_000,
    );
    let steps = |ended| {
        vec![
            step("i", "[internal] load build definition", true, true),
            step("1", "[1/4] FROM base", true, true),
            step("2", "[2/4] COPY . .", true, ended),
            step("3", "[3/4] RUN make", ended, false),
            step("4", "[4/4] RUN chmod +x app.py", false, false),
            log(if ended { "3" } else { "2" }, "first\nsecond\n\n\x1b[31mthird\x1b[0m\tword\nnot ended"),
        ]
    };
    view.events(&events("linux/amd64", steps(true)));
    view.events(&events("linux/arm64", steps(false)));
    view
}

fn texts(view: &View, width: usize, height: usize) -> Vec<String> {
    frame(view, Size { width, height }, 4_800).into_iter().map(|line| line.text).collect()
}

#[test]
fn a_wide_terminal_shows_all_of_it() {
    assert_eq!(
        texts(&some(), 100, 24),
        [
            "  linux/amd64    native    w-amd64  ███████         2/4  3.8 s  [3/4] RUN make",
            "      | first",
            "      | second",
            "      | third    word",
            "  linux/arm64    emulated  w-qemu   ███▌            1/4  3.8 s  [2/4] COPY . .",
            "                 no native linux/arm64 worker is connected; policy fallback",
            "      | first",
            "      | second",
            "      | third    word",
            "  linux/riscv64  waiting   no worker for linux/riscv64 is connected",
        ]
    );
}

#[test]
fn a_narrow_one_shows_what_matters_most() {
    assert_eq!(
        texts(&some(), 60, 8),
        [
            "  linux/amd64    native    2/4  3.8 s  [3/4] RUN make",
            "      | third    word",
            "  linux/arm64    emulated  1/4  3.8 s  [2/4] COPY . .",
            "                 no native linux/arm64 worker is connected…",
            "      | third    word",
            "  linux/riscv64  waiting   no worker for linux/riscv64 is …",
        ]
    );
    assert_eq!(
        texts(&some(), 40, 4),
        [
            "  linux/amd64    native    3.8 s  [3/4…",
            "  linux/arm64    emulated  3.8 s  [2/4…",
            "  linux/riscv64  waiting   no worker f…",
        ]
    );
    assert_eq!(texts(&some(), 40, 3), ["  linux/amd64    native    3.8 s  [3/4…", "  and 2 more platforms"]);
}

#[test]
fn ends_are_shown_until_all_have_come() {
    let mut view = some();
    let done = |platform: &str| Attempt { finished_ms: 2_001, ..attempt(platform, "w-amd64", "") };
    let stay = view.build(
        &build(vec![
            job("linux/amd64", "succeeded", vec![done("linux/amd64")], ""),
            job("linux/arm64", "failed", vec![done("linux/arm64")], ""),
            job("linux/riscv64", "cancelled", Vec::new(), ""),
        ]),
        3_000,
    );
    assert_eq!(stay, [""; 0]);
    let lines = frame(&view, Size { width: 100, height: 24 }, 90_000);
    let digest = farm_types::Digest::of(b"x").short();
    assert_eq!(lines[0].tone, Tone::Good);
    assert!(lines[0].text.ends_with(&format!("██████████████  2/4  2.0 s  built {digest}")), "{lines:?}");
    assert!(lines[1].tone == Tone::Bad && lines[1].text.ends_with("2.0 s  failed"), "{lines:?}");
    assert!(lines[2].tone == Tone::Dim && lines[2].text.ends_with("cancelled"), "{lines:?}");
}

#[test]
fn a_lost_worker_is_a_line_that_stays_and_its_steps_are_forgotten() {
    let mut view = some();
    let lost = Attempt { state: "lost".into(), finished_ms: 41_001, ..attempt("linux/amd64", "w-amd64", "") };
    let again = Attempt { id: "another".into(), number: 2, ..attempt("linux/amd64", "w2", "") };
    let jobs = || vec![job("linux/amd64", "running", vec![lost.clone(), again.clone()], "")];
    let stay = view.build(&build(jobs()), 5_000);
    assert_eq!(stay, ["linux/amd64  w-amd64 was lost after 41 s; it will run again"]);
    assert_eq!(view.build(&build(jobs()), 5_000), [""; 0]);
    let first = texts(&view, 100, 24).remove(0);
    assert!(first.contains("w2") && !first.contains("RUN make"), "{first}");
    // What still comes from the lost one is old.
    view.events(&events("linux/amd64", vec![step("9", "[9/9] RUN old", true, false)]));
    assert!(!texts(&view, 100, 24).concat().contains("RUN old"));
}

#[test]
fn an_instruction_that_the_engine_has_twice_is_one_step() {
    let mut view = some();
    view.events(&events("linux/amd64", vec![step("2b", "[2/4] COPY . .", false, false)]));
    let first = texts(&view, 100, 24).remove(0);
    assert!(first.contains(" 2/4 "), "{first}");
}

#[test]
fn bytes_on_their_way_steps_side_by_side_and_the_ending_lines() {
    let mut view = some();
    let moved = Event::Transfer(Transfer {
        step_digest: "5".into(),
        name: "pushing layers".into(),
        current: 12_000_000,
        total: 80_000_000,
        done: false,
    });
    let both = vec![step("5", "exporting to image", true, false), moved, log("5", "layer\n")];
    view.events(&events("linux/amd64", both));
    view.publishing = Some("localhost:5002/app:1".into());
    view.away = Some("connection refused".into());
    view.question = Some("what now?".into());
    let lines = texts(&view, 130, 24);
    assert!(lines[0].ends_with("exporting to image  12.0 MB of 80.0 MB  (and 1 more)"), "{lines:?}");
    assert_eq!(lines[1..3], ["      exporting to image | layer", "      [3/4] RUN make | third    word"]);
    let last = &lines[lines.len() - 3..];
    assert_eq!(last[0], "  publishing localhost:5002/app:1");
    assert!(last[1].contains("connection refused") && last[2] == "  what now?", "{lines:?}");
}

proptest! {
    #[test]
    fn whatever_it_shows_it_fits(
        platforms in 0usize..12, width in 1usize..220, height in 1usize..40,
        names in proptest::collection::vec("[a-z木\u{301}\t]{0,60}", 1..6), ended in any::<bool>(),
    ) {
        let mut view = View::default();
        let names_of: Vec<String> = (0..platforms).map(|n| format!("linux/p{n}")).collect();
        let run = |platform: &String| job(platform, "running", vec![attempt(platform, &names[0], &names[0])], "");
        view.build(&build(names_of.iter().map(run).collect()), 0);
        for platform in &names_of {
            for (n, name) in names.iter().enumerate() {
                let digest = n.to_string();
                view.events(&events(platform, vec![step(&digest, name, true, ended && n == 0), log(&digest, &format!("{name}\n"))]));
            }
        }
        let lines = frame(&view, Size { width, height }, 123_456);
        prop_assert!(lines.len() <= height.saturating_sub(1).max(1));
        for line in &lines {
            prop_assert!(line.text.width() <= width.saturating_sub(1).max(1), "{:?}", line.text);
            prop_assert!(!line.text.contains(['\n', '\t', '\x1b']));
        }
    }
}
