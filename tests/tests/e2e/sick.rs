//! Engines that hang, and disks that are full: what a worker does about it, and what the farm does about the worker.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use farm_tests::database;
use farm_tests::engine::PrivateEngine;
use farm_tests::farm::{Farm, WorkerSpec};
use farm_tests::process::run;
use serde_json::Value;

use crate::gate::Gate;
use crate::support::*;

fn spec(name: &str) -> WorkerSpec {
    WorkerSpec::new(name).platforms("linux/amd64")
}

fn worker(farm: &Farm, name: &str) -> Value {
    let workers = farm.cli(&["workers", "--json"]).json();
    let workers = workers["workers"].as_array().unwrap();
    workers.iter().find(|worker| worker["name"] == name).unwrap().clone()
}

/// Waits until a worker's state is this; gives it.
#[track_caller]
fn becomes(farm: &Farm, name: &str, state: &str) -> Value {
    until(&format!("{name} {state}"), LONG * 2, || Some(worker(farm, name)).filter(|w| w["state"] == state))
}

/// A disk of memory, of so many MiB.
fn small_disk(at: &Path, mib: u32) {
    fs::create_dir_all(at).unwrap();
    let size = format!("size={mib}m,mode=711");
    run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "farm-test"]).arg(at));
}

/// Fills a disk but for so many MiB.
fn fill(disk: &Path, but: u64) -> PathBuf {
    let free = rustix::fs::statvfs(disk).unwrap();
    let filler = disk.join("filler");
    let bytes = free.f_bavail * free.f_frsize - (but << 20);
    run(Command::new("fallocate").args(["-l", &bytes.to_string()]).arg(&filler));
    filler
}

/// An engine on a disk of so many MiB, and where that is.
fn engine_on_small_disk(mib: u32) -> (PrivateEngine, PathBuf) {
    let mut root = PathBuf::new();
    let engine = PrivateEngine::start_with(|config| {
        root = config["data-root"].as_str().unwrap().into();
        small_disk(&root, mib);
    });
    (engine, root)
}

/// Something small to build that nobody has built.
fn small() -> Context {
    Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY Dockerfile /\n", nonce()))
}

#[test]
fn a_silent_command_goes_on_and_an_engine_that_hangs_behind_its_answers_is_given_up() {
    let engine = PrivateEngine::start();
    let config = "[limits]\nprogress_deadline_seconds = 6\n";
    let mut farm = Farm::builder().config(config).worker(spec("w-hung").engine(&engine.url())).start();
    let gate = Gate::new();
    let context = gate.context();
    let mut cli = farm.cli_spawn("submit", &["submit", context.text(), "--platform", "linux/amd64"]);
    let step = gate.arrival();
    // Far beyond the limit, a word of the worker's own is still heard: it has built something else there.
    let vouched = "SELECT 1 FROM attempts WHERE progress_at > started_at + interval '10 s'";
    until("vouching", LONG, || (database::psql(farm.database_url(), vouched) == "1").then_some(()));
    farm.add_worker(spec("w-sound"));
    // What runs containers stands still; the engine goes on answering.
    let containerd = engine.containerd();
    run(Command::new("kill").args(["-STOP", &containerd.to_string()]));
    let ended = gate.arrival_within(LONG * 2);
    run(Command::new("kill").args(["-CONT", &containerd.to_string()]));
    drop(step);
    ended.expect("the step never came to another worker").open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    says(&cli.output(), &["attempt 1 failed on w-hung", "running again on w-sound, native (attempt 2)"]);
    let code = "SELECT failure ->> 'code' FROM attempts WHERE number = 1";
    assert_eq!(database::psql(farm.database_url(), code), "no_progress");
}

/// A registry that takes whatever it is sent, and never answers.
fn silent_registry() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || std::io::copy(&mut stream.unwrap(), &mut std::io::sink()));
        }
    });
    address
}

#[test]
fn a_registry_that_takes_a_push_and_never_answers_is_given_up_and_named() {
    // Long enough for an engine to come from the last step to the push while much else is built.
    let config = "[limits]\nprogress_deadline_seconds = 8\n";
    let farm = Farm::builder().config(config).worker(spec("w1")).start();
    let registry = silent_registry();
    let tag = format!("{registry}/silent:1");
    let context = small();
    let mut cli =
        farm.cli_spawn("push", &["submit", context.text(), "--platform", "linux/amd64", "-t", &tag]);
    let failure =
        "SELECT failure ->> 'code' || ': ' || (failure ->> 'message') FROM attempts WHERE number = 1";
    let told = until("the push is given up", LONG, || {
        Some(database::psql(farm.database_url(), failure)).filter(|told| !told.is_empty())
    });
    says(&told, &["registry_unavailable: ", &format!("the push to {registry}"), "progress_deadline_seconds"]);
    let again = "SELECT 1 FROM attempts WHERE number = 2";
    until("another try", LONG, || (database::psql(farm.database_url(), again) == "1").then_some(()));
    says(&cli.output(), &["attempt 1 failed on w1", &format!("the push to {registry}")]);
    // The machine builds: nothing is held against it.
    let found = "SELECT self_check FROM attempts WHERE number = 1";
    assert_eq!(database::psql(farm.database_url(), found), "");
    cli.kill9();
}

#[test]
fn a_build_that_fills_the_disk_is_made_elsewhere_and_the_worker_goes_on() {
    let (engine, root) = engine_on_small_disk(600);
    let spec = |name: &str| spec(name).arg("--min-free=0").arg("--prune-below=0");
    let mut farm = Farm::builder().worker(spec("w-small").engine(&engine.url())).start();
    let big = Context::new(&format!(
        "FROM {BASE}\nRUN python3 -c \"f = open('/big', 'wb'); [f.write(bytes(1 << 20)) for _ in range(800)]; \
         f.close()\" && rm /big # {}\n",
        nonce()
    ));
    let mut cli = farm.cli_spawn("big", &["submit", big.text(), "--platform", "linux/amd64"]);
    until("attempt", LONG, || (!worker(&farm, "w-small")["running"].as_array()?.is_empty()).then_some(()));
    farm.add_worker(spec("w-large"));
    assert_eq!(cli.wait_exit(LONG * 2).code(), Some(0), "{}", cli.tail());
    says(&cli.output(), &["attempt 1 failed on w-small", "on w-large, native (attempt 2)"]);
    let code = "SELECT failure ->> 'code' FROM attempts WHERE number = 1";
    assert_eq!(database::psql(farm.database_url(), code), "no_space");
    // It made room, and is of use.
    let log = farm.worker("w-small").log_path().to_owned();
    until("pruning", LONG, || {
        fs::read_to_string(&log).unwrap().contains("build cache was pruned").then_some(())
    });
    assert!(rustix::fs::statvfs(&root).unwrap().f_bavail > 0);
    farm.stop_worker("w-large");
    submit(&farm, &small(), &["--platform", "linux/amd64"]).ok();
}

#[test]
fn what_is_kept_of_former_builds_is_dropped_before_the_disk_is_full() {
    let (engine, root) = engine_on_small_disk(400);
    let spec = spec("w1").engine(&engine.url()).arg("--min-free=20MiB").arg("--prune-below=120MiB");
    let mut farm = Farm::builder().worker(spec).start();
    let context = Context::new("FROM scratch\nCOPY large /\n").file("large", vec![7; 50 << 20]);
    submit(&farm, &context, &["--platform", "linux/amd64"]).ok();
    // Less than wanted, more than the least.
    let _filler = fill(&root, 60);
    let free = || {
        let disk = rustix::fs::statvfs(&root).unwrap();
        (disk.f_bavail * disk.f_frsize) >> 20
    };
    until("room", LONG, || (free() > 100).then_some(()));
    assert_eq!(worker(&farm, "w1")["state"], "online");
    says(&farm.worker("w1").output(), &["there is little room: the engine's build cache was pruned"]);
    submit(&farm, &small(), &["--platform", "linux/amd64"]).ok();
}

#[test]
fn a_worker_without_room_takes_no_jobs_says_so_and_comes_back() {
    let (engine, root) = engine_on_small_disk(400);
    let spec = spec("w1").engine(&engine.url()).arg("--min-free=100MiB").arg("--prune-below=150MiB");
    let farm = Farm::builder().worker(spec).start();
    let filler = fill(&root, 50);
    let withdrawn = becomes(&farm, "w1", "withdrawn");
    let reason = withdrawn["reason"].as_str().unwrap();
    says(reason, &["its engine's disk", root.to_str().unwrap(), "100 MiB is the least (--min-free)"]);
    assert!(withdrawn["since"].is_string(), "{withdrawn}");
    says(&farm.cli(&["workers"]).ok(), &["w1 takes no jobs", "its engine's disk"]);
    let id = build_id(&submit(&farm, &small(), &["--platform", "linux/amd64", "--detach"]).ok());
    until("reason", LONG, || {
        let why = show(&farm, &id)["platforms"][0]["waiting"].as_str()?.to_owned();
        why.contains("w1 has withdrawn: its engine's disk").then_some(())
    });
    fs::remove_file(filler).unwrap();
    becomes(&farm, "w1", "online");
    until("build", LONG, || (show(&farm, &id)["state"] == "succeeded").then_some(()));
}

#[test]
fn a_worker_that_fails_job_after_job_is_on_probation_until_it_can_build_again() {
    let mut farm = Farm::builder().start();
    let own = farm.folder().join("w-sick");
    small_disk(&own, 64);
    let spec = |name: &str| spec(name).arg("--min-free=0").arg("--prune-below=0");
    // Of two on one engine the one that came first is taken first.
    farm.add_worker(spec("w-sick"));
    farm.add_worker(spec("w-sound"));
    let filler = fill(&own, 3);
    // The first time it is trusted again after a trial build at once, the second time after 10 s.
    for n in 0..6_u8 {
        let context = Context::new(&format!("FROM scratch\nCOPY large /{n}\nLABEL n={}\n", nonce()))
            .file("large", vec![n; 6 << 20]);
        until("online", LONG, || (worker(&farm, "w-sick")["state"] == "online").then_some(()));
        submit(&farm, &context, &["--platform", "linux/amd64"]).ok();
        let tried = "SELECT count(DISTINCT a.job_id) FROM attempts a JOIN workers w ON w.id = a.worker_id \
                     WHERE w.name = 'w-sick' AND a.failure ->> 'code' = 'worker_disk'";
        assert_eq!(database::psql(farm.database_url(), tried), (n + 1).to_string());
    }
    let sick = becomes(&farm, "w-sick", "probation");
    says(
        sick["reason"].as_str().unwrap(),
        &["3 jobs in a row failed there for its own reasons (worker_disk 3 times)"],
    );
    assert!(sick["since"].is_string() && sick["next_probe"].is_string(), "{sick}");
    says(&farm.cli(&["workers"]).ok(), &["w-sick is on probation", "next trial build "]);
    let other = build_id(&submit(&farm, &small(), &["--platform", "linux/amd64"]).ok());
    assert_eq!(show(&farm, &other)["platforms"][0]["worker"], "w-sound");
    fs::remove_file(filler).unwrap();
    becomes(&farm, "w-sick", "online");
    let well = build_id(&submit(&farm, &small(), &["--platform", "linux/amd64"]).ok());
    assert_eq!(show(&farm, &well)["platforms"][0]["worker"], "w-sick");
    farm.stop_worker("w-sick");
    farm_tests::engine::unmount_below(&own);
}

#[test]
fn a_worker_whose_own_disk_is_full_loses_no_result_and_fails_for_want_of_room_only() {
    let mut farm = Farm::builder().start();
    let own = farm.folder().join("w-full");
    small_disk(&own, 64);
    let spec = |name: &str| spec(name).arg("--min-free=0").arg("--prune-below=0");
    farm.add_worker(spec("w-full"));
    // A result that can't be kept on disk is told all the same.
    let gate = Gate::new();
    let context = gate.context();
    let mut cli = farm.cli_spawn("kept", &["submit", context.text(), "--platform", "linux/amd64"]);
    let step = gate.arrival();
    let filler = fill(&own, 0);
    step.open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    // A source that has no room is fetched by another worker.
    let large = small().file("large", vec![7; 6 << 20]);
    let mut cli = farm.cli_spawn("large", &["submit", large.text(), "--platform", "linux/amd64"]);
    let code = "SELECT failure ->> 'code' FROM attempts WHERE state = 'failed' LIMIT 1";
    until("failure", LONG, || (database::psql(farm.database_url(), code) == "worker_disk").then_some(()));
    farm.add_worker(spec("w-sound"));
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    farm.stop_worker("w-sound");
    fs::remove_file(filler).unwrap();
    becomes(&farm, "w-full", "online");
    submit(&farm, &small(), &["--platform", "linux/amd64"]).ok();
    farm.stop_worker("w-full");
    farm_tests::engine::unmount_below(&own);
}
