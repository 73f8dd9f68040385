//! Who comes while a farm starts or stops is told so, and gets what it wants.

use std::fs;
use std::process::{Child, Command, Stdio};

use farm_tests::bed::Bed;
use farm_tests::farm::{Output, output};
use farm_tests::process::run;

use crate::support::{Local, held_back, is, kill9, path_with, until};

/// `farm up` on the bed's engine with this PATH, and its output for [`end`].
fn begin_up(local: &Local, path: &str) -> Child {
    let engine = Bed::from_env().engine;
    let mut up = local.up_command(&["--engine", &engine, "--no-emulation"]);
    up.env("PATH", path).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn begin_down(local: &Local) -> Child {
    local.command(&["down"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn end(child: Child) -> Output {
    let out = child.wait_with_output().unwrap();
    Output {
        status: out.status.code().unwrap_or(-1),
        stdout: String::from_utf8(out.stdout).unwrap(),
        stderr: String::from_utf8(out.stderr).unwrap(),
    }
}

#[test]
fn a_second_up_looks_on_while_the_first_one_starts() {
    let local = Local::new();
    let held = held_back("docker-registry");
    let first = begin_up(&local, &path_with(&held));
    until("it starts", || is(&local, "starting"));
    let status = local.farm(&["status"]);
    assert!(status.status == 1 && status.stdout.contains("the farm is starting"), "{status:?}");
    let second = begin_up(&local, &path_with(&held));
    until("postgres is ready", || local.pids().contains_key("postgres"));
    fs::write(held.path().join("go"), "").unwrap();
    let (first, second) = (end(first), end(second));
    assert!(first.status == 0 && second.status == 0, "{first:?} {second:?}");
    // It was told all of the start, also what came before it.
    for part in ["postgres", "registry", "coordinator", "w-amd64", "the farm is up"] {
        assert!(second.stdout.contains(part), "{part}: {second:?}");
    }
    assert!(second.stdout.contains("another farm up is starting it"), "{second:?}");
}

#[test]
fn a_start_is_stopped_by_down_and_by_a_signal() {
    let local = Local::new();
    let held = held_back("docker-registry");
    for by_signal in [false, true] {
        let up = begin_up(&local, &path_with(&held));
        until("it starts", || is(&local, "starting"));
        if by_signal {
            run(Command::new("kill").arg(local.supervisor().to_string()));
        } else {
            let down = local.farm(&["down"]);
            assert!(down.status == 0 && down.stdout.contains("the farm is down"), "{down:?}");
        }
        let up = end(up);
        assert!(up.status == 3 && up.stderr.contains("told to stop while it started"), "{up:?}");
        assert!(local.processes().is_empty(), "{:?}", local.processes());
    }
}

#[test]
fn who_comes_while_it_stops_hears_of_it_and_a_new_start_waits_for_the_end() {
    let local = Local::new();
    assert_eq!(local.up_small().status, 0);
    // A registry that is stopped can't end before it is killed, ten seconds later.
    let registry = local.pids()["registry"];
    run(Command::new("kill").args(["-STOP", &registry.to_string()]));
    let first = begin_down(&local);
    until("it stops", || is(&local, "stopping"));
    let second = begin_down(&local);
    let status = local.farm(&["status"]);
    assert!(status.status == 1 && status.stdout.contains("the farm is stopping"), "{status:?}");
    let up = begin_up(&local, &std::env::var("PATH").unwrap());
    run(Command::new("kill").args(["-CONT", &registry.to_string()]));
    for down in [end(first), end(second)] {
        assert!(down.status == 0 && down.stdout.contains("the farm is down"), "{down:?}");
        assert!(down.stdout.contains("postgres"), "{down:?}");
    }
    let up = end(up);
    assert!(up.status == 0 && up.stdout.contains("the farm is up ("), "{up:?}");
}

#[test]
fn a_supervisor_that_is_killed_while_it_stops_leaves_nothing() {
    let local = Local::new();
    assert_eq!(local.up_small().status, 0);
    let (registry, supervisor) = (local.pids()["registry"], local.supervisor());
    run(Command::new("kill").args(["-STOP", &registry.to_string()]));
    let down = begin_down(&local);
    until("it stops", || is(&local, "stopping"));
    kill9(supervisor);
    let down = end(down);
    assert!(down.status == 0 && down.stdout.contains("the supervisor was killed meanwhile"), "{down:?}");
    until("no process is left", || local.processes().is_empty());
    assert_eq!(local.farm(&["status"]).status, 3);
    assert_eq!(local.up_small().status, 0);
}

#[test]
fn a_part_that_hangs_is_shown_until_it_answers_again() {
    let local = Local::new();
    assert_eq!(local.up_small().status, 0);
    for part in ["registry", "coordinator", "postgres"] {
        let pid = local.pids()[part].to_string();
        run(Command::new("kill").args(["-STOP", &pid]));
        until("it is shown", || {
            let out = local.farm(&["status"]);
            let line = out.stdout.lines().find(|line| line.starts_with(part)).unwrap_or_default().to_owned();
            out.status == 1 && line.contains("unresponsive")
        });
        run(Command::new("kill").args(["-CONT", &pid]));
        until("all is well", || local.farm(&["status"]).status == 0);
    }
}

#[test]
fn flags_are_kept_until_they_are_taken_back() {
    let local = Local::new();
    let config = local.state().with_file_name("farm.toml");
    fs::write(&config, "[limits]\nmax_platforms = 1\n").unwrap();
    let engine = Bed::from_env().engine;
    let config = config.to_str().unwrap();
    let allow = ["--allow", "network.host"];
    let up =
        local.up_with(&[&["--engine", &engine, "--no-emulation", "--config", config][..], &allow].concat());
    assert_eq!(up.status, 0, "{up:?}");
    let context = Bed::from_env().folder("context");
    fs::write(context.path().join("Dockerfile"), "FROM scratch\n").unwrap();
    let context = context.path().to_str().unwrap();
    let two = ["submit", context, "-t", &local.tag(), "--platform", "linux/amd64,linux/arm64"];
    let refused = local.farm(&two);
    assert!(refused.status == 2 && refused.stderr.contains("platforms"), "{refused:?}");
    assert_eq!(local.farm(&["down"]).status, 0);

    let again = output(&mut local.command(&["up"]));
    assert_eq!(again.status, 0, "{again:?}");
    let engine_kept = format!("--engine is {engine}");
    for kept in [&engine_kept, "--registry-port is", "what is native", config, "--allow is network.host"] {
        assert!(again.stdout.contains(kept), "{kept}: {again:?}");
    }
    assert!(!local.pids().contains_key("engine"));
    let shown = local.farm(&["project", "show", "default"]).stdout + &local.farm(&["workers"]).stdout;
    assert!(
        shown.contains("may ask    for network.host") && shown.contains("grants network.host"),
        "{shown}"
    );
    assert_eq!(local.farm(&["down"]).status, 0);
    fs::write(config, "[limits]\nmax_platfroms = 1\n").unwrap();
    let wrong = output(&mut local.command(&["up"]));
    assert!(wrong.status == 3 && wrong.stderr.contains("max_platfroms"), "{wrong:?}");
    let none = output(&mut local.command(&["up", "--config", "none", "--allow", "none"]));
    assert!(
        none.status == 0 && !none.stdout.contains("--config") && !none.stdout.contains("--allow"),
        "{none:?}"
    );
    let shown = local.farm(&["project", "show", "default"]).stdout + &local.farm(&["workers"]).stdout;
    assert!(!shown.contains("network.host"), "{shown}");
}

#[test]
fn files_that_the_caller_had_open_are_not_kept_open() {
    let local = Local::new();
    let file = local.state().with_file_name("lock-of-another");
    let up = local.up_command(&["--engine", &Bed::from_env().engine, "--no-emulation"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 9>\"$1\"; shift; exec \"$@\"", "sh"]).arg(&file);
    shell.arg(up.get_program()).args(up.get_args());
    shell.envs(up.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let out = output(&mut shell);
    assert_eq!(out.status, 0, "{out:?}");
    let held = |pid: u64| {
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        fds.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|to| to == file)
    };
    assert!(!held(local.supervisor()) && local.pids().values().all(|pid| !held(*pid)));
}
