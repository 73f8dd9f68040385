//! Steps that ask for the engine's network, or for no walls: by a real engine that gives both, and one that gives one.

use farm_tests::engine::PrivateEngine;
use farm_tests::farm::{Farm, WorkerSpec};

use crate::support::*;

const AMD64: [&str; 2] = ["--platform", "linux/amd64"];
const BOTH_OF_THEM: &str = "network.host,security.insecure";

/// A step that tells which links it sees.
fn links(how: &str) -> String {
    format!(
        "FROM {BASE}\nRUN {how} : {}; cut -d: -f1 /proc/net/dev | tail -n +3 | tr -d ' ' | sort | tr '\\n' ' '\n",
        nonce()
    )
}

#[test]
fn what_a_step_asks_for_is_given_where_project_and_worker_may_and_nowhere_else() {
    let engine = PrivateEngine::start_with(|config| {
        config["builder"] = serde_json::json!({"entitlements": {"security-insecure": true}});
    });
    let mut farm = Farm::builder().worker(WorkerSpec::new("plain").platforms("linux/amd64")).start();
    let asking = Context::new(&links("--network=host"));
    let submitted = |context: &Context, args: &[&str]| submit(&farm, context, &[&AMD64[..], args].concat());

    // As with buildx the engine says so, and farm what to do.
    let out = submitted(&asking, &[]);
    assert_eq!(out.status, 1, "{out:?}");
    let failure = show(&farm, &build_id(&out.stdout))["failure"].clone();
    assert_eq!(failure["code"], "entitlement_missing", "{failure:#}");
    let message = failure["message"].as_str().unwrap();
    says(message, &["network.host is not allowed", "submit it with --allow network.host"]);

    // The project first, then a worker.
    for args in [&["--allow", "network.host"][..], &["--network", "host"]] {
        let out = submitted(&asking, args);
        assert_ne!(out.status, 0, "{out:?}");
        says(
            &out.stderr,
            &["which project default may not use", "farm project set default --allow network.host"],
        );
    }
    farm.cli(&["project", "set", "default", "--allow", BOTH_OF_THEM]).ok();
    let waiting = submitted(&asking, &["--allow", "network.host", "--detach"]).ok();
    let waiting = build_id(&waiting);
    let words = until("reason", LONG, || {
        let record = show(&farm, &waiting);
        let words = record["platforms"][0]["waiting"].as_str().unwrap_or_default().to_owned();
        words.contains("may grant network.host").then_some(words)
    });
    says(&words, &["farm-worker --allow network.host"]);

    let entitled = WorkerSpec::new("entitled").engine(&engine.url()).platforms("linux/amd64");
    farm.add_worker(entitled.arg("--allow").arg(BOTH_OF_THEM));
    let watched = farm.cli(&["attach", &waiting]).ok();
    says(&watched, &["on entitled"]);
    // The engine's network is the bed's here, where the first engine's bridge is.
    says(&farm.cli(&["logs", &waiting]).ok(), &["docker0"]);
    let submitted =
        |text: &str, args: &[&str]| submit(&farm, &Context::new(text), &[&AMD64[..], args].concat());
    says(&submitted(&links(""), &["--network", "host"]).ok(), &["docker0", "on entitled"]);
    let walled = submitted(&links(""), &["--allow", BOTH_OF_THEM]).ok();
    assert!(!walled.contains("docker0"), "{walled}");

    // A mount is what no step may else. A frontend before Dockerfile 1.20 doesn't know the flag, and says so.
    let mount = |how: &str| {
        format!("FROM {BASE}\nRUN {how} : {}; mkdir /m && mount -t tmpfs x /m && echo mounted\n", nonce())
    };
    let insecure = submitted(&mount("--security=insecure"), &["--allow", "security.insecure"]);
    if insecure.stdout.contains("unknown flag: --security") {
        println!("the engine's frontend knows no RUN --security: only that the engine gives it was tried");
    } else {
        says(&insecure.ok(), &["linux/amd64 | mounted", "on entitled"]);
        let out = submitted(&mount("--security=insecure"), &["--allow", "network.host"]);
        says(&out.stdout, &["security.insecure is not allowed", "--allow security.insecure"]);
    }
    let unasked = submitted(&mount(""), &["--allow", "security.insecure"]);
    assert_eq!(unasked.status, 1, "{unasked:?}");
    says(&unasked.stdout, &["on entitled", "exit code"]);

    // What its engine doesn't give, a worker doesn't say that it may.
    farm.add_worker(WorkerSpec::new("half").platforms("linux/amd64").arg("--allow").arg(BOTH_OF_THEM));
    let workers = farm.cli(&["workers", "--json"]).json();
    let grants = |name: &str| {
        let workers = workers["workers"].as_array().unwrap();
        workers.iter().find(|worker| worker["name"] == name).unwrap()["entitlements"].to_string()
    };
    assert_eq!(grants("entitled"), r#"["network.host","security.insecure"]"#);
    assert_eq!((grants("half"), grants("plain")), (r#"["network.host"]"#.to_owned(), "[]".to_owned()));
}
