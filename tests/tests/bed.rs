//! The test bed itself: every part answers, and the harness's own parts start, stop and vanish.
#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use std::process::Command;
use std::time::Duration;

use farm_tests::bed::Bed;
use farm_tests::database::{Database, PrivatePostgres, psql};
use farm_tests::engine::PrivateEngine;
use farm_tests::environment::is_allowed;
use farm_tests::hang::HangingFolder;
use farm_tests::ports::http_status;
use farm_tests::process::{Child, run};
use farm_tests::registry::{Login, PrivateRegistry};

fn port_of(address: &str) -> u16 {
    address.rsplit_once(':').unwrap().1.parse().unwrap()
}

#[test]
fn the_shared_registries_ask_for_a_login_or_do_not() {
    let bed = Bed::from_env();
    assert_eq!(http_status(port_of(&bed.registry), "/v2/"), Some(200));
    assert_eq!(http_status(port_of(&bed.auth_registry), "/v2/"), Some(401));
}

#[test]
fn the_base_images_are_there_as_the_example_names_them() {
    let bed = Bed::from_env();
    for (repository, tag) in [
        ("python", "3.11-slim-amd64"),
        ("python", "3.11-slim-arm64"),
        ("python", "3.11-slim"),
        ("library/python", "3.11-slim"),
    ] {
        let path = format!("/v2/{repository}/tags/list");
        assert_eq!(http_status(port_of(&bed.registry), &path), Some(200), "{repository}:{tag}");
        let image = format!("docker://{}/{repository}:{tag}", bed.registry);
        run(Command::new("skopeo").args(["inspect", "--raw", "--tls-verify=false", &image]));
    }
}

#[test]
fn nothing_of_the_machines_environment_gets_here() {
    let foreign: Vec<String> =
        std::env::vars().map(|(name, _)| name).filter(|name| !is_allowed(name)).collect();
    assert_eq!(foreign, [""; 0]);
    assert_eq!(std::env::var("HOME").unwrap(), "/run/farm-test-home");
    assert_eq!(std::env::var("DOCKER_HOST").unwrap(), Bed::from_env().engine);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap();
    assert_eq!(umask.trim(), "0022");
}

/// What farm, Docker and skopeo look at by themselves is a file system of the bed's own, whatever the machine has there;
/// a farm's state folder even where it has none.
#[test]
fn what_is_on_the_machine_is_hidden() {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let own = |path: &str| {
        let last = mounts.lines().rfind(|line| line.split(' ').nth(4) == Some(path));
        last.is_some_and(|line| line.contains(" - tmpfs farm-test "))
    };
    for path in ["/run", "/var/lib/farm"] {
        assert!(own(path), "{path} is the machine's:\n{mounts}");
    }
    for path in ["/etc/docker", "/etc/containers"] {
        assert!(own(path) || !std::path::Path::new(path).exists(), "{path} is the machine's:\n{mounts}");
    }
    assert!(!std::path::Path::new("/run/docker.sock").exists());
    assert_eq!(std::fs::read("/etc/gitconfig").unwrap_or_default(), b"");
}

#[test]
fn each_test_has_a_database_of_its_own() {
    let (one, two) = (Database::empty(), Database::empty());
    one.psql("CREATE TABLE t (n int); INSERT INTO t VALUES (7)");
    assert_eq!(one.psql("SELECT n FROM t"), "7");
    assert_eq!(two.psql("SELECT to_regclass('t')"), "");
    let name = one.psql("SELECT current_database()");
    drop(one);
    let left = psql(
        &Bed::from_env().database_url,
        &format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'"),
    );
    assert_eq!(left, "0");
}

#[test]
fn a_private_postgres_keeps_its_data_over_a_crash() {
    let mut postgres = PrivatePostgres::start();
    psql(&postgres.url(), "CREATE TABLE t (n int); INSERT INTO t VALUES (7); CHECKPOINT");
    postgres.kill9();
    postgres.start();
    assert_eq!(psql(&postgres.url(), "SELECT n FROM t"), "7");
    postgres.stop();
    postgres.start();
    assert_eq!(psql(&postgres.url(), "SELECT n FROM t"), "7");
}

#[test]
fn a_private_registry_comes_back_on_its_port() {
    let mut registry = PrivateRegistry::start();
    let port = port_of(&registry.address());
    registry.stop();
    assert_eq!(http_status(port, "/v2/"), None);
    registry.start_again();
    assert_eq!(http_status(port, "/v2/"), Some(200));
    let closed = PrivateRegistry::start_with(Some(Login { user: "u", password: "p" }));
    assert_eq!(http_status(port_of(&closed.address()), "/v2/"), Some(401));
}

#[test]
fn a_private_engine_builds_and_survives_a_crash() {
    let bed = Bed::from_env();
    let mut engine = PrivateEngine::start();
    let build = |engine: &PrivateEngine, run_line: &str| {
        let folder = bed.folder("context");
        let dockerfile = format!("FROM python:3.11-slim\nRUN {run_line}\n");
        std::fs::write(folder.path().join("Dockerfile"), dockerfile).unwrap();
        let mut command = Command::new("docker");
        command.args([
            "--host",
            &engine.url(),
            "buildx",
            "build",
            "--progress=plain",
            "--platform=linux/arm64",
        ]);
        command.arg(folder.path());
        (command, folder)
    };
    run(&mut build(&engine, "test $(uname -m) = aarch64").0);

    let (command, _folder) = build(&engine, "sleep 300");
    let mut building = Child::spawn("building", &command, &bed.test_folder());
    building.wait_until("running step", Duration::from_secs(30), |_| {
        let names = engine.build_processes().into_iter();
        let mut names = names.filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok());
        names.any(|name| name == "sleep\n").then_some(())
    });
    engine.kill9();
    assert!(!building.wait_exit(Duration::from_secs(20)).success());
    assert!(!engine.build_processes().is_empty(), "a crash leaves its steps running");
    engine.start_again();
    assert!(engine.build_processes().is_empty());
    run(&mut build(&engine, "test -x /bin/sh").0);
}

#[test]
fn a_process_can_be_paused_and_killed_and_its_output_read() {
    let folder = Bed::from_env().test_folder();
    let mut command = Command::new("sh");
    command.args(["-c", "echo ready $$; echo oops >&2; exec sleep 100"]);
    let mut child = Child::spawn("sleeper", &command, &folder);
    let line = child.wait_for_line("ready ", Duration::from_secs(5));
    assert_eq!(line, format!("ready {}", child.pid()), "the wrapper keeps the process id");
    child.wait_for_line("oops", Duration::from_secs(5));
    let state = |child: &Child| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.pid())).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    };
    child.pause();
    child.wait_until("stop", Duration::from_secs(5), |child| (state(child) == 'T').then_some(()));
    child.cont();
    child.wait_until("sleep", Duration::from_secs(5), |child| (state(child) == 'S').then_some(()));
    assert!(child.is_running());
    child.kill9();
    assert!(!child.is_running());
}

#[test]
fn in_a_folder_that_hangs_whoever_opens_a_file_waits_until_it_goes_on() {
    let bed = Bed::from_env();
    let (folder, logs) = (bed.folder("hang"), bed.test_folder());
    let mut hanging = HangingFolder::at(folder.path());
    std::fs::write(folder.path().join("old"), "what was there").unwrap();
    hanging.hang();
    let mut reads = Command::new("cat");
    reads.arg(folder.path().join("old"));
    let mut writes = Command::new("touch");
    writes.arg(folder.path().join("new"));
    let mut children = [Child::spawn("reads", &reads, &logs), Child::spawn("writes", &writes, &logs)];
    let mut waiting = Vec::new();
    for child in &mut children {
        // It panics when the child ends instead.
        child.wait_until("wait for the folder", Duration::from_secs(5), |child| {
            waiting.extend(hanging.who_waits());
            waiting.contains(&child.pid()).then_some(())
        });
    }
    assert!(children.iter_mut().all(Child::is_running));
    hanging.go_on();
    for child in &mut children {
        assert!(child.wait_exit(Duration::from_secs(5)).success());
    }
    assert_eq!(children[0].output(), "what was there");
}
