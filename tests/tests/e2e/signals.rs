//! What signals do to the command and to its build: a wish to end cancels it, a terminal that goes away doesn't, and who only
//! looks on only stops looking.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use farm_tests::bed::Bed;
use farm_tests::farm::Farm;
use farm_tests::process::{Child, run};
use portable_pty::{CommandBuilder, PtySize, native_pty_system};
use rustix::process::Signal;

use crate::gate::Gate;
use crate::support::*;

const AT_ONCE: Duration = Duration::from_secs(5);

/// Waits until the command has taken the signal over: until then it does what the system does.
fn heeds(child: &mut Child, signal: Signal) {
    let path = format!("/proc/{}/status", child.pid());
    child.wait_until("handler", LONG, |_| {
        let status = std::fs::read_to_string(&path).ok()?;
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?.trim().to_owned();
        (u64::from_str_radix(&mask, 16).unwrap() >> (signal.as_raw() - 1) & 1 == 1).then_some(())
    });
}

#[test]
fn a_signal_before_anything_is_submitted_leaves_no_build() {
    let mut farm = Farm::builder().start();
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        farm.coordinator().pause();
        let mut cli = farm.cli_spawn("submit", &["submit", context.text(), "--platform", "linux/amd64"]);
        heeds(&mut cli, signal);
        cli.signal(signal);
        assert_eq!(cli.wait_exit(AT_ONCE).code(), Some(130), "{}", cli.tail());
        says(&cli.output(), &["cancelled; nothing was submitted"]);
        farm.coordinator().cont();
    }
    assert_eq!(builds(&farm), 0);
}

#[test]
fn a_signal_while_standard_input_is_read_leaves_nothing_on_the_disk() {
    let farm = Farm::builder().start();
    // The begin of an archive, in the middle of a file.
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1 << 20);
    header.set_mode(0o644);
    archive.append_data(&mut header, "Dockerfile", std::io::repeat(b'#').take(1 << 20)).unwrap();
    let archive = archive.into_inner().unwrap();
    let dockerfile = b"FROM scratch\n";
    let context = Context::new("FROM scratch\n");
    for (args, begin) in [
        (vec!["submit", "-", "--platform", "linux/amd64"], &archive[..100_000]),
        (vec!["submit", "-", "--platform", "linux/amd64"], dockerfile),
        (vec!["submit", context.text(), "-f", "-", "--platform", "linux/amd64"], dockerfile),
    ] {
        let folder = Bed::from_env().folder("stdin");
        let mut command = farm.command(&args);
        command.env("TMPDIR", folder.path()).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut cli = command.spawn().unwrap();
        let mut input = cli.stdin.take().unwrap();
        input.write_all(begin).unwrap();
        let left = || std::fs::read_dir(folder.path()).unwrap().count();
        until("it reads", LONG, || (left() > 0).then_some(()));
        rustix::process::kill_process(rustix::process::Pid::from_child(&cli), Signal::INT).unwrap();
        let mut said = String::new();
        cli.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(cli.wait().unwrap().code(), Some(130), "{args:?}: {said}");
        says(&said, &["cancelled; nothing was submitted"]);
        assert_eq!(left(), 0, "{args:?}");
        drop(input);
    }
}

#[test]
fn what_the_farm_accepts_after_a_signal_is_cancelled() {
    let farm = small_farm();
    let context = Context::new(&format!("FROM {BASE}\nRUN sleep 50; : {}\n", nonce()));
    let psql = |sql: &str| {
        let mut command = Command::new(farm_tests::database::psql_program());
        command.args(["-XAtq", "-d", farm.database_url(), "-c", sql]);
        command
    };
    // Nobody can write a build while this holds.
    let hold = psql("BEGIN; LOCK TABLE builds IN EXCLUSIVE MODE; SELECT pg_sleep(50)");
    let mut held = Child::spawn("hold", &hold, farm.folder());
    let asked = |sql: &str| run(&mut psql(sql)).trim().to_owned();
    let locked = "SELECT count(*) FROM pg_locks WHERE relation = 'builds'::regclass AND mode = 'ExclusiveLock' AND granted";
    until("the lock", LONG, || (asked(locked) == "1").then_some(()));
    let mut cli = farm.cli_spawn("submit", &["submit", context.text(), "--platform", "linux/amd64"]);
    let accepting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                     AND wait_event_type = 'Lock' AND query LIKE 'INSERT INTO builds%'";
    until("it is being accepted", LONG, || (asked(accepting) != "0").then_some(()));
    cli.signal(Signal::TERM);
    asked(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(50)%' AND pid <> pg_backend_pid()",
    );
    held.wait_exit(LONG);
    assert_eq!(cli.wait_exit(LONG).code(), Some(130), "{}", cli.tail());
    assert_eq!(show(&farm, &build_id(&cli.output()))["state"], "cancelled");
}

#[test]
fn a_second_sigterm_leaves_at_once_even_when_the_farm_does_not_answer() {
    let mut farm = Farm::builder().start();
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    let mut cli = farm.cli_spawn("submit", &["submit", context.text(), "--platform", "linux/amd64"]);
    cli.wait_for_line("linux/amd64  waiting", LONG);
    let id = build_id(&cli.output());
    farm.coordinator().pause();
    cli.signal(Signal::TERM);
    cli.wait_for_line(&format!("cancelling build {id}"), AT_ONCE);
    cli.signal(Signal::TERM);
    assert_eq!(cli.wait_exit(AT_ONCE).code(), Some(130), "{}", cli.tail());
    farm.coordinator().cont();
}

#[test]
fn a_terminal_that_goes_away_leaves_the_build_running_and_attach_is_the_way_back() {
    let farm = small_farm();
    let gate = Gate::new();
    let context = gate.context();
    let tag = format!("{}:1", repository("hangup"));
    let pair = native_pty_system()
        .openpty(PtySize { rows: 24, cols: 100, pixel_width: 0, pixel_height: 0 })
        .unwrap();
    let like = farm.command(&["submit", context.text(), "-t", &tag, "--platform", "linux/amd64"]);
    let mut command = CommandBuilder::new(like.get_program());
    command.args(like.get_args());
    for (name, value) in like.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.env("TERM", "xterm-256color");
    let mut child = pair.slave.spawn_command(command).unwrap();
    drop(pair.slave);
    let mut reader = pair.master.try_clone_reader().unwrap();
    let (mut seen, mut piece) = (String::new(), [0; 4096]);
    while !seen.contains("native on w1") && !seen.contains("RUN python3") {
        let read = reader.read(&mut piece).unwrap();
        seen.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    let start = seen.find("build ").map(|at| at + "build ".len()).unwrap();
    let id = seen[start..start + 6].to_owned();
    let arrival = gate.arrival();
    // Now nobody has the other end: as when a window is closed, or a line breaks.
    drop(reader);
    drop(pair.master);
    assert_eq!(child.wait().unwrap().exit_code(), 129, "{seen}");
    assert_eq!(show(&farm, &id)["state"], "running");
    let mut back = farm.cli_spawn("attach", &["attach", &id]);
    back.wait_for_line("linux/amd64  native on w1", LONG);
    arrival.open();
    assert_eq!(back.wait_exit(LONG).code(), Some(0), "{}", back.tail());
    assert!(raw(&tag).is_some());
}

#[test]
fn a_signal_ends_the_watching_of_attach_and_not_the_build() {
    let farm = small_farm();
    let gate = Gate::new();
    let id = build_id(&submit(&farm, &gate.context(), &["--platform", "linux/amd64", "--detach"]).ok());
    let arrival = gate.arrival();
    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut attached = farm.cli_spawn("attach", &["attach", &id]);
        attached.wait_for_line("linux/amd64  native on w1", LONG);
        attached.signal(signal);
        assert_eq!(attached.wait_exit(AT_ONCE).code(), Some(code), "{}", attached.tail());
        says(&attached.output(), &[&format!("left running   farm attach {id}")]);
        assert_eq!(show(&farm, &id)["state"], "running");
    }
    arrival.open();
    until("its end", LONG, || (show(&farm, &id)["state"] == "succeeded").then_some(()));
}

#[test]
fn what_nohup_started_takes_no_notice_of_a_hangup() {
    let farm = small_farm();
    let gate = Gate::new();
    let context = gate.context();
    let like = farm.command(&["submit", context.text(), "--platform", "linux/amd64"]);
    let mut command = Command::new("nohup");
    command.arg(like.get_program()).args(like.get_args());
    command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut cli = Child::spawn("nohup", &command, farm.folder());
    let arrival = gate.arrival();
    heeds(&mut cli, Signal::TERM);
    cli.signal(Signal::HUP);
    arrival.open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    says(&cli.output(), &["built in "]);
}

#[test]
fn a_reader_that_has_had_enough_ends_no_build_and_is_no_error() {
    let farm = small_farm();
    let context =
        Context::new(&format!("FROM {BASE}\nRUN echo {n}; sleep 1\nRUN echo more {n}\n", n = nonce()));
    let tag = format!("{}:1", repository("head"));
    let piped = |filter: &str, args: &[&str]| {
        let like = farm.command(args);
        let mut command = Command::new("bash");
        command.args(["-c", &format!("set -o pipefail; \"$@\" | {filter}"), "bash"]);
        command.arg(like.get_program()).args(like.get_args());
        command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        farm_tests::farm::output(&mut command)
    };
    let submitted = piped("head -n 1", &["submit", context.text(), "-t", &tag, "--platform", "linux/amd64"]);
    assert_eq!((submitted.status, submitted.stderr.as_str()), (0, ""), "{submitted:?}");
    let id = build_id(&submitted.stdout);
    assert!(raw(&tag).is_some());
    // Closed at once, so that nothing can be written at all.
    for args in [
        &["builds"][..],
        &["show", &id],
        &["logs", &id],
        &["inspect", &tag, "--raw"],
        &["inspect", &tag],
        &["submit", "--help"],
        &["completions", "bash"],
    ] {
        let out = piped("true", args);
        assert_eq!((out.status, out.stderr.as_str()), (0, ""), "{args:?}: {out:?}");
    }
}
