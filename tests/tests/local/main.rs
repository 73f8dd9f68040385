//! `farm up` and its kin: a whole farm on one machine, as people have it. Runs in the test bed, whose namespaces stand
//! for the machine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests: a panic is the report")]

mod first_steps;
mod full;
mod leftovers;
mod moments;
mod refusals;
mod support;
mod untrusted;

use std::net::TcpListener;
use std::process::{Command, Stdio};

use farm_tests::bed::Bed;
use farm_tests::farm::{binary, output};
use farm_tests::git::GitHost;
use farm_tests::process::run;
use support::{Local, kill9, on_a_machine_of_its_own, traces, until};

const BOTH: &str = "linux/amd64,linux/arm64";

#[test]
fn a_farm_carries_on_after_any_kill_and_leaves_nothing_behind() {
    if !on_a_machine_of_its_own("a_farm_carries_on_after_any_kill_and_leaves_nothing_behind") {
        return;
    }
    let before = traces();
    let local = Local::new();
    let said = local.up();
    assert!(said.contains("the farm is up ("), "{said}");
    assert_eq!(
        local.pids().keys().map(String::as_str).collect::<Vec<_>>(),
        ["coordinator", "engine", "network", "postgres", "registry", "w-amd64", "w-qemu"]
    );
    let again = local.up();
    assert!(again.contains("the farm is up already") && again.contains("postgres"), "{again}");
    let other = local.up_with(&["--no-emulation"]);
    assert!(other.status == 0 && other.stdout.contains("--platforms is what is found"), "{other:?}");
    let untrusted = local.up_with(&["--untrusted"]);
    assert!(
        untrusted.status == 2
            && untrusted.stderr.starts_with("error: the farm is up without an untrusted worker; farm down,"),
        "{untrusted:?}"
    );
    let workers = local.farm(&["workers"]).stdout;
    assert!(
        workers.contains("linux/arm64 (emulated)") && !workers.contains("linux/amd64 (emulated)"),
        "{workers}"
    );

    local.workers_show_certificates_only(&["w-amd64", "w-qemu"]);

    local.bring_base();
    let context = local.context("uname -m >/arch");
    let (context, tag) = (context.path().to_str().unwrap(), local.tag());
    let submit = ["submit", context, "-t", &tag, "--platform", BOTH];
    let built = local.farm(&submit);
    assert_eq!(built.status, 0, "{built:?}");
    assert!(!local.groups().is_empty());
    let index = local.index();
    assert!(index.contains("amd64") && index.contains("arm64"), "{index}");

    for part in ["registry", "coordinator", "w-amd64", "w-qemu", "network", "postgres", "engine"] {
        let pid = local.pids()[part];
        kill9(pid);
        until(&format!("{part} runs again"), || local.pids().get(part).is_some_and(|now| *now != pid));
    }
    until("all parts run", || local.pids().len() == 7);
    // They joined once.
    assert_eq!(local.joins(), 2);
    assert!(local.farm(&["builds"]).stdout.contains("succeeded"));
    let warm = local.farm(&submit);
    assert!(warm.status == 0 && warm.stdout.contains("as before"), "{warm:?}");
    assert_eq!(local.index(), index);

    // The whole of it at once, in the middle of a build.
    let slow = local.context("sleep 8; uname -m >/slow");
    let id =
        local.farm(&["submit", slow.path().to_str().unwrap(), "-t", &tag, "--platform", BOTH, "--detach"]);
    assert_eq!(id.status, 0, "{id:?}");
    let id = id.stdout.split_whitespace().nth(1).unwrap().to_owned();
    let group = |wanted: &str| {
        let find = Command::new("pgrep").args(["-f", wanted]).output().unwrap();
        String::from_utf8(find.stdout).unwrap().lines().count()
    };
    until("both platforms run", || {
        group("^/bin/sh -c sleep 8; uname -m >/slow") >= 1 && group("sleep 8") >= 3
    });
    kill9(local.supervisor());
    until("what the build ran is gone", || group("sleep 8") == 0);
    assert_eq!(local.farm(&["status"]).status, 3);
    let said = local.up();
    assert!(said.contains("the farm is up ("), "{said}");
    let shown = local.farm(&["logs", &id, "-f"]);
    assert_eq!(shown.status, 0, "{shown:?}");
    let shown = local.farm(&["show", &id]);
    assert!(shown.stdout.contains("succeeded"), "{shown:?}");
    assert_ne!(local.index(), index);

    let down = local.farm(&["down"]);
    assert_eq!(down.status, 0, "{down:?}");
    let order: Vec<&str> = down.stdout.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let place = |part: &str| order.iter().position(|name| *name == part).unwrap();
    for pair in ["w-qemu", "engine", "coordinator", "registry", "postgres"].windows(2) {
        assert!(place(pair[0]) < place(pair[1]), "{order:?}");
    }
    until("no process is left", || local.processes().is_empty());
    assert_eq!(traces(), before);
    assert_eq!(local.groups(), [""; 0]);
    let down = local.farm(&["down"]);
    assert!(down.status == 0 && down.stdout.contains("no farm is up"), "{down:?}");

    // The same state once more; then it is forgotten.
    local.up();
    assert!(local.farm(&["show", &id]).stdout.contains("succeeded"));
    let purge = local.farm(&["down", "--purge"]);
    assert!(purge.status == 2 && purge.stderr.contains("--yes"), "{purge:?}");
    assert_eq!(local.pids().len(), 7);
    let purge = local.farm(&["down", "--purge", "--yes"]);
    assert_eq!(purge.status, 0, "{purge:?}");
    assert!(!local.state().exists());
    until("no process is left", || local.processes().is_empty());
    assert_eq!(traces(), before);
}

#[test]
fn an_engine_that_is_there_is_used_as_it_is() {
    let local = Local::new();
    let engine = Bed::from_env().engine;
    // A registry on this machine that isn't the farm's own has to be named.
    let config = local.state().with_file_name("coordinator.toml");
    std::fs::write(&config, "[registries.'localhost:5002']\n").unwrap();
    let config = config.display().to_string();
    let git = GitHost::start();
    let flags = ["--engine", &engine, "--no-emulation", "--slots", "1", "--config", &config];
    let up = local.up_with(&[&flags[..], &["--fetch-from", &git.place()]].concat());
    assert_eq!(up.status, 0, "{up:?}");
    assert_eq!(
        local.pids().keys().cloned().collect::<Vec<_>>(),
        ["coordinator", "postgres", "registry", "w-amd64"]
    );
    let workers = local.farm(&["workers"]).stdout;
    assert!(workers.contains("1 of 1") && !workers.contains("emulated"), "{workers}");
    let context = Bed::from_env().folder("context");
    std::fs::write(context.path().join("Dockerfile"), "FROM localhost:5002/python:3.11-slim\n").unwrap();
    let tag = local.tag();
    let built =
        local.farm(&["submit", context.path().to_str().unwrap(), "-t", &tag, "--platform", "linux/amd64"]);
    assert_eq!(built.status, 0, "{built:?}");
    // Git's own user has to pass all of the farm's folders.
    git.commit(&[("Dockerfile", "FROM localhost:5002/python:3.11-slim\n")]);
    let fetched = local.farm(&["submit", &git.url(), "-t", &tag, "--platform", "linux/amd64"]);
    assert_eq!(fetched.status, 0, "{fetched:?}");
}

#[test]
fn a_worker_that_was_revoked_or_has_lost_its_certificate_is_in_the_farm_again_at_the_next_start() {
    let local = Local::new();
    let up = local.up_small();
    assert_eq!(up.status, 0, "{up:?}");
    local.workers_show_certificates_only(&["w-amd64"]);
    let revoked = local.farm(&["workers", "revoke", "w-amd64"]);
    assert_eq!(revoked.status, 0, "{revoked:?}");
    // The farm goes on without it, and says why.
    until("it is out", || {
        let status = local.status();
        let parts = status["parts"].as_array().unwrap();
        let worker = parts.iter().find(|part| part["name"] == "w-amd64").unwrap();
        worker["state"] == "restarting" && worker["detail"].as_str().unwrap().contains("was revoked")
    });
    assert_eq!(local.joins(), 1);
    let again = || {
        assert_eq!(local.farm(&["down"]).status, 0);
        let up = local.up_small();
        assert_eq!(up.status, 0, "{up:?}");
        local.workers_show_certificates_only(&["w-amd64"]);
    };
    again();
    assert_eq!(local.joins(), 2);
    std::fs::remove_dir_all(local.state().join("workers/w-amd64")).unwrap();
    again();
    assert_eq!(local.joins(), 3);
    again();
    assert_eq!(local.joins(), 3);
}

#[test]
fn several_at_once_make_one_farm() {
    let local = Local::new();
    let spawn = || {
        local.up_command(&["--no-emulation"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let ends = [spawn(), spawn(), spawn(), spawn()].map(|child| child.wait_with_output().unwrap());
    assert!(ends.iter().all(|end| end.status.success()), "{ends:?}");
    assert_eq!(local.processes().iter().filter(|words| words.contains("farm-local supervise")).count(), 1);
    until("all parts run", || local.pids().len() == 6);
}

#[test]
fn builds_reach_other_addresses_of_the_machine_but_not_its_localhost() {
    if !on_a_machine_of_its_own("builds_reach_other_addresses_of_the_machine_but_not_its_localhost") {
        return;
    }
    // A neighbour stands for all that the machine's network leads to.
    run(Command::new("ip").args(["addr", "add", "10.98.0.1/32", "dev", "lo"]));
    let neighbour = TcpListener::bind("10.98.0.1:0").unwrap();
    let port = neighbour.local_addr().unwrap().port();
    let local = Local::new();
    local.up_with(&["--no-emulation"]);
    local.bring_base();
    let probe = format!(
        "python3 -c \"import socket, sys; socket.setdefaulttimeout(2); \
         reached = lambda host, port: not socket.socket().connect_ex((host, port)); \
         sys.exit(not reached('10.98.0.1', {port}) or any(reached(h, {}) for h in ('127.0.0.1', '10.0.2.2', '172.17.0.1')))\"",
        local.port,
    );
    let context = local.context(&probe);
    let tag = local.tag();
    let built =
        local.farm(&["submit", context.path().to_str().unwrap(), "-t", &tag, "--platform", "linux/amd64"]);
    assert_eq!(built.status, 0, "{built:?}");
}

#[test]
fn the_logs_of_parts_are_read_by_name() {
    let local = Local::new();
    let up = local.up_with(&["--engine", &Bed::from_env().engine, "--no-emulation"]);
    assert_eq!(up.status, 0, "{up:?}");
    let log = local.farm(&["logs", "--of", "coordinator"]);
    assert!(log.status == 0 && log.stdout.contains("farm-coordinator ready on"), "{log:?}");
    let wrong = local.farm(&["logs", "--of", "postgers"]);
    assert!(wrong.status == 2 && wrong.stderr.contains("did you mean postgres?"), "{wrong:?}");
    let both = output(&mut local.command(&["logs", "--of", "postgres", "7f3k2m"]));
    assert_eq!(both.status, 2, "{both:?}");
}

#[test]
fn the_quickstart_runs_again_with_what_is_built() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/quickstart.sh");
    let folder = Bed::from_env().short_folder("quick");
    run(Command::new("chmod").arg("755").arg(folder.path()));
    let built = binary("farm");
    // Its registry must be localhost:5002, where the bed's own is: so it gets a network of its own.
    let mut command = Command::new("unshare");
    command.args([
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child=SIGKILL",
        "--mount-proc",
        "sh",
        "-euc",
    ]);
    command.arg(
        "ip link set lo up; \"$0\" --bin-dir \"$1\" --prefix \"$2/usr\" --state-dir \"$2/farm\"; \
         echo AGAIN; \"$0\" --bin-dir \"$1\" --prefix \"$2/usr\" --state-dir \"$2/farm\"; \
         \"$2/usr/bin/farm\" down --purge --yes --state-dir \"$2/farm\"",
    );
    command.arg(script).arg(built.parent().unwrap()).arg(folder.path()).stdin(Stdio::null());
    let out = output(&mut command);
    assert_eq!(out.status, 0, "{out:?}");
    let (first, again) = out.stdout.split_once("AGAIN").unwrap();
    for text in [first, again] {
        assert!(text.contains("Architecture: x86_64") && text.contains("Architecture: aarch64"), "{text}");
        assert!(text.contains("linux/amd64") && text.contains("linux/arm64"), "{text}");
    }
    assert!(!folder.path().join("farm").exists());
}
