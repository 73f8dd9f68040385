//! `farm up --untrusted`: a worker that isn't trusted, and what it doesn't reach.

use std::fs::File;
use std::net::TcpListener;
use std::process::Command;

use farm_tests::bed::Bed;
use farm_tests::engine::named;
use farm_tests::ports::{free_port, http_status};
use farm_tests::process::run;
use serde_json::Value;

use crate::support::{Local, on_a_machine_of_its_own};

/// Somebody who listens at an address of this machine's, which stands for another's.
fn neighbour(address: &str) -> TcpListener {
    run(Command::new("ip").args(["addr", "add", &format!("{address}/32"), "dev", "lo"]));
    TcpListener::bind((address, 0)).unwrap()
}

/// The bed's base image as one archive: the engine reaches no registry that has it.
fn base(path: &std::path::Path) {
    let bed = Bed::from_env();
    let docker = |args: &[&str]| {
        let mut docker = Command::new("docker");
        docker.args(["--host", &bed.engine]).args(args);
        docker
    };
    let image = format!("{}/python:3.11-slim", bed.registry);
    let id = run(&mut docker(&["create", "--platform", "linux/amd64", &image]));
    let status = docker(&["export", id.trim()]).stdout(File::create(path).unwrap()).status().unwrap();
    assert!(status.success());
    run(&mut docker(&["rm", id.trim()]));
}

#[test]
fn an_untrusted_worker_builds_what_is_published_and_reaches_nothing_that_isnt_public() {
    if !on_a_machine_of_its_own(
        "untrusted::an_untrusted_worker_builds_what_is_published_and_reaches_nothing_that_isnt_public",
    ) {
        return;
    }
    let closed = ["10.98.0.1", "169.254.169.254", "198.51.100.7"].map(neighbour);
    let local = Local::new();
    let staging = free_port();
    // It is the system's, and has its distribution's fixes, or none of this.
    let engine = named(&Bed::from_env().engine);
    let port = staging.to_string();
    let up = local.up_with(&[
        "--no-emulation",
        "--untrusted",
        "--staging-port",
        &port,
        "--patched-engine",
        &engine,
    ]);
    assert_eq!(up.status, 0, "{up:?}");
    let parts = local.pids();
    let parts: Vec<&str> = parts.keys().map(String::as_str).collect();
    let all = ["coordinator", "engine", "network", "postgres", "registry", "staging"];
    assert_eq!(
        parts,
        [&all[..], &["untrusted-engine", "untrusted-network", "w-amd64", "w-untrusted"]].concat()
    );
    // Not the machine's when its engine started, and public as far as anybody knows.
    let open = neighbour("203.0.113.1");
    assert_eq!(http_status(staging, "/v2/"), Some(401));

    let listed = local.farm(&["workers", "--json"]);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    let worker =
        listed["workers"].as_array().unwrap().iter().find(|worker| worker["name"] == "w-untrusted").unwrap();
    assert_eq!(
        (worker["trust"].as_str(), worker["machine"].as_str()),
        (Some("untrusted"), Some("w-untrusted"))
    );
    let drained = local.farm(&["workers", "drain", "w-amd64"]);
    assert_eq!(drained.status, 0, "{drained:?}");

    let context = Bed::from_env().folder("context");
    base(&context.path().join("base.tar"));
    let address = |listener: &TcpListener| {
        let address = listener.local_addr().unwrap();
        format!("('{}', {})", address.ip(), address.port())
    };
    let mut unreached: Vec<String> = closed.iter().map(address).collect();
    for port in [local.port, local.registry_port, staging] {
        unreached.extend(["127.0.0.1", "10.0.2.2", "172.17.0.1"].map(|host| format!("('{host}', {port})")));
    }
    let probe = format!(
        "import socket, sys\nsocket.setdefaulttimeout(2)\nreached = lambda at: not socket.socket().connect_ex(at)\n\
         sys.exit(not reached({}) or [at for at in [{}] if reached(at)] or 0)\n",
        address(&open),
        unreached.join(", ")
    );
    std::fs::write(context.path().join("probe.py"), probe).unwrap();
    let dockerfile = "FROM scratch\nADD base.tar /\nCOPY probe.py /\nRUN python3 /probe.py\n";
    std::fs::write(context.path().join("Dockerfile"), dockerfile).unwrap();
    // `latest` is protected, and waits for who is trusted.
    let (folder, tag) = (context.path().to_str().unwrap(), local.tag().replace(":latest", ":dev"));
    let submit = ["submit", folder, "-t", &tag, "--platform", "linux/amd64"];
    let built = local.farm(&submit);
    assert!(built.status == 0 && built.stdout.contains("w-untrusted"), "{built:?}");
    let inspected = local.farm(&["inspect", &tag]);
    assert!(inspected.status == 0 && inspected.stdout.contains("linux/amd64"), "{inspected:?}");
    // What the engine itself would fetch for a build.
    let line = format!("ADD http://{}/x /x", closed[0].local_addr().unwrap());
    std::fs::write(context.path().join("Dockerfile"), format!("FROM scratch\n{line}\n")).unwrap();
    let built = local.farm(&submit);
    assert_eq!(built.status, 1, "{built:?}");
    let down = local.farm(&["down", "--purge", "--yes"]);
    assert_eq!(down.status, 0, "{down:?}");
    assert!(!local.state().exists());
}
