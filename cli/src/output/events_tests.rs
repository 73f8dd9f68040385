use farm_proto::v1::{Attempt, AttemptEvent, BuildSpec, Job, Notice, StepLog, StepUpdate, Transfer, Warning};

use super::*;

fn parsed(lines: &[String]) -> Vec<Value> {
    lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn each_change_is_a_line_and_nothing_is_said_twice() {
    let mut lines = EventLines::default();
    let attempt = Attempt {
        id: "a".into(),
        number: 1,
        worker: "w".into(),
        support: "native".into(),
        ..Default::default()
    };
    let job = Job {
        id: "j".into(),
        platform: "linux/amd64".into(),
        state: "running".into(),
        attempts: vec![attempt],
        ..Default::default()
    };
    let mut build = Build {
        id: "7f3k2m".into(),
        state: "running".into(),
        spec: Some(BuildSpec::default()),
        jobs: vec![job],
        ..Default::default()
    };
    let first = parsed(&lines.build(&build));
    assert_eq!(first[0], json!({"type": "build", "id": "7f3k2m", "state": "running"}));
    assert_eq!(first[1], json!({"type": "job", "id": "j", "platform": "linux/amd64", "state": "running"}));
    assert_eq!(first[2]["worker"], "w");
    assert_eq!(lines.build(&build), [""; 0]);
    build.jobs[0].attempts[0].state = "lost".into();
    let second = parsed(&lines.build(&build));
    assert_eq!((second.len(), &second[0]["state"]), (1, &json!("lost")));
}

#[test]
fn output_comes_as_whole_lines_with_where_it_is_from() {
    let mut lines = EventLines::default();
    let event = |event: Event| AttemptEvent { at_ms: 7, event: Some(event) };
    let log = |data: &[u8]| {
        event(Event::Log(StepLog { step_digest: "s".into(), stream: 2, data: data.to_vec().into() }))
    };
    let events = AttemptEvents {
        attempt_id: "a".into(),
        platform: "linux/amd64".into(),
        attempt_number: 1,
        removed_ms: 0,
        events: vec![
            event(Event::Step(StepUpdate {
                digest: "s".into(),
                name: "[1/1] RUN x".into(),
                started_ms: 5,
                ..Default::default()
            })),
            log(b"one\n\ntw"),
            log(b"o\nrest"),
            event(Event::Warning(Warning {
                rule: "R".into(),
                message: "m".into(),
                line: 3,
                ..Default::default()
            })),
            event(Event::Transfer(Transfer {
                step_digest: "s".into(),
                current: 0,
                total: 0,
                ..Default::default()
            })),
            event(Event::Notice(Notice { text: "\x1b[31mfetching".into() })),
        ],
    };
    let said = parsed(&lines.events(&events));
    let kinds: Vec<&str> = said.iter().map(|line| line["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["step", "log", "log", "log", "warning", "transfer", "notice"]);
    assert_eq!(
        said[1],
        json!({"type": "log", "platform": "linux/amd64", "attempt": 1, "step": "s", "stream": "stderr", "text": "one"})
    );
    // An empty line is a line, nothing known is left out.
    assert_eq!((&said[2]["text"], &said[3]["text"]), (&json!(""), &json!("two")));
    assert_eq!((said[5]["current_bytes"].as_u64(), said[5].get("total_bytes")), (Some(0), None));
    assert_eq!((&said[4]["line"], &said[6]["text"]), (&json!(3), &json!("fetching")));
    assert_eq!(parsed(&lines.finish())[0]["text"], "rest");
    assert_eq!(lines.warnings().len(), 1);
}
