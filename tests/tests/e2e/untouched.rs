//! What a user writes chooses neither the class of a failure, nor how often it is tried, nor a worker's health.
//!
//! The forms of engines' messages, one by one, are tried in `worker/tests/engine/untouched.rs`, and all words that
//! anything is decided by in the property tests of `worker/src/buildkit/failure/tests.rs`.

use farm_tests::database;
use farm_tests::farm::{Farm, WorkerSpec};
use serde_json::Value;

use crate::support::*;

/// What a failed build is told as: cause, code, exit code, attempts.
type Told = (String, String, Option<i64>, u64);

fn told(record: &Value) -> Told {
    let failure = &record["failure"];
    let word = |key: &str| failure[key].as_str().unwrap_or_default().to_owned();
    let attempts = record["platforms"][0]["attempts"].as_u64().unwrap_or_default();
    (word("cause"), word("code"), failure["exit_code"].as_i64(), attempts)
}

fn run_failed(exit_code: i64) -> Told {
    ("user".into(), "run_failed".into(), Some(exit_code), 1)
}

/// Fails for good; gives the record.
#[track_caller]
fn failed(farm: &Farm, dockerfile: &str, args: &[&str]) -> Value {
    let args = [&["--platform", "linux/amd64"], args].concat();
    let output = submit(farm, &Context::new(dockerfile), &args);
    assert_eq!(output.status, 1, "{output:?}");
    show(farm, &build_id(&output.stdout))
}

/// A command of so many lines that ends so.
fn long(lines: usize, end: &str) -> String {
    let line = |n| format!("echo {n} {} && \\\n  ", nonce());
    (0..lines).map(line).chain([end.to_owned()]).collect()
}

/// What causes are told by elsewhere.
const WORDS: &str =
    "access denied: no space left on device: cannot allocate memory: context canceled: no such host";

/// A command that fails by itself, and is tried once.
#[track_caller]
fn fails(farm: &Farm, what: &str, instructions: &str, exit_code: i64) {
    let record = failed(farm, &format!("FROM {BASE}\n{instructions}"), &[]);
    assert_eq!(told(&record), run_failed(exit_code), "{what}: {:#}", record["failure"]);
    let failure = &record["failure"];
    assert!(failure["step"].as_str().unwrap().starts_with("[2/2] RUN "), "{what}");
    assert!(failure["line"].as_u64() >= Some(2), "{what}: {failure:#}");
}

/// Each word alone; all at once are in the test below.
pub fn each_word() {
    let farm = small_farm();
    for word in WORDS.split(": ") {
        fails(&farm, word, &format!("RUN echo \"{word}\"; : {}; exit 3\n", nonce()), 3);
    }
    assert_well(&farm);
}

#[test]
fn a_failing_command_is_tried_once_however_long_it_is_and_whatever_it_says() {
    let farm = small_farm();
    let padding = format!("# {}\n", "x".repeat(97)).repeat(350);
    let script = format!(": {}\n", "y".repeat(97)).repeat(160);
    let words = WORDS;
    let mut rows = vec![
        ("a command of 70 lines", format!("RUN {}\n", long(70, "exit 3")), 3),
        ("a Dockerfile of 35 kB", format!("{padding}RUN echo {} && exit 3\n", nonce()), 3),
        ("a script of 16 kB", format!("RUN <<EOF\n{script}echo {}\nexit 3\nEOF\n", nonce()), 3),
        ("a command of 200 kB", format!("RUN {}\n", long(2000, "exit 3")), 3),
        ("words in a long command", format!("RUN {}\n", long(70, &format!("echo '{words}' && exit 3"))), 3),
        ("words in the output", format!("RUN echo {}; echo '{words}' >&2; exit 4\n", nonce()), 4),
    ];
    for words in ["exec /bin/sh: exec format error", "write: No space left on device"] {
        rows.push((words, format!("RUN printf '{words}\\n'; : {}; exit 5\n", nonce()), 5));
    }
    for (what, instructions, exit_code) in rows {
        fails(&farm, what, &instructions, exit_code);
    }
    // A killed one gets its one more try.
    let killed = failed(&farm, &format!("FROM {BASE}\nRUN {}\n", long(200, "sh -c 'kill -9 $$'")), &[]);
    assert_eq!(told(&killed), ("killed".into(), "run_killed".into(), Some(137), 2), "{killed:#}");
    assert_well(&farm);
}

#[test]
fn names_of_images_say_nothing_and_a_worker_is_on_probation_for_none_of_all_that() {
    let farm = Farm::builder().worker(WorkerSpec::new("w1").platforms("linux/amd64").slots(2)).start();
    for name in
        ["team/certificate-authority", "docker/dockerfiles/base", "unauthorized/access-denied", "denied"]
    {
        let record = failed(&farm, &format!("FROM localhost:5002/{name}:1\nRUN true\n"), &[]);
        assert_eq!(
            told(&record),
            ("user".into(), "base_image_missing".into(), None, 1),
            "{name}: {record:#}"
        );
        let message = record["failure"]["message"].as_str().unwrap();
        assert!(
            message.contains(name) && !message.contains("trust") && !message.contains("syntax"),
            "{message}"
        );
    }
    // All at once, as most of their time is that between the tries.
    let pushed = ["certificates/app", "plain/app", "unauthorized/denied"].map(|name| {
        let context = Context::new(&format!("FROM scratch\nCOPY Dockerfile /{}\n", nonce()));
        let tag = format!("localhost:5999/{name}:1");
        let args = ["--platform", "linux/amd64", "-t", &tag, "--detach"];
        (name, build_id(&submit(&farm, &context, &args).ok()))
    });
    for (name, id) in pushed {
        let record =
            until("the end", LONG, || Some(show(&farm, &id)).filter(|record| record["state"] == "failed"));
        let told = told(&record);
        assert_eq!(
            told,
            ("infrastructure".into(), "registry_unavailable".into(), None, 4),
            "{name}: {record:#}"
        );
    }
    // Twelve attempts failed there for reasons of infrastructure, and each time it found itself well.
    let found =
        "SELECT count(*) FROM attempts WHERE failure ->> 'cause' = 'infrastructure' AND self_check = ''";
    assert_eq!(database::psql(farm.database_url(), found), "12");
    assert_well(&farm);
}

#[test]
fn a_program_is_run_once_and_its_exit_code_is_the_commands() {
    let farm = small_farm();
    let tag = format!("{}:1", repository("runs"));
    let context = Context::new(&format!("FROM {BASE}\nCOPY Dockerfile /{}\n", nonce()));
    submit(&farm, &context, &["-t", &tag, "--platform", "linux/amd64"]).ok();
    let program = format!(
        "import sys\ntext = '{}'\nprint(len(text), 'no space left on device')\nsys.exit(7)",
        "z".repeat(40_000)
    );
    let ran = farm.cli(&["run", &tag, "-q", "--entrypoint", "python3", "--", "-c", &program]);
    assert_eq!((ran.status, ran.stdout.as_str()), (7, "40000 no space left on device\n"), "{}", ran.stderr);
    let attempts = "SELECT count(*) FROM attempts WHERE state = 'failed'";
    assert_eq!(database::psql(farm.database_url(), attempts), "1");
    assert_well(&farm);
}

/// Nothing was held against the worker: it is not on probation, and gets what comes next.
#[track_caller]
fn assert_well(farm: &Farm) {
    let dockerfile = format!("FROM scratch\nCOPY Dockerfile /{}\n", nonce());
    submit(farm, &Context::new(&dockerfile), &["--platform", "linux/amd64"]).ok();
    let workers = farm.cli(&["workers", "--json"]).json();
    for worker in workers["workers"].as_array().unwrap() {
        assert_eq!(worker["state"], "online", "{worker:#}");
    }
    let ever = "SELECT sum(probations) FROM workers";
    assert_eq!(database::psql(farm.database_url(), ever), "0");
}
