//! What a dead farm, or somebody else, has left in the folder is no reason to lose anything.

use std::fs;
use std::process::{Command, Stdio};

use farm_tests::bed::Bed;
use farm_tests::farm::output;
use farm_tests::process::run;

use crate::support::{Local, is, kill9, until};

#[test]
fn a_database_is_never_made_over_one_that_is_there() {
    let local = Local::new();
    assert_eq!(local.up_small().status, 0);
    let context = Bed::from_env().folder("context");
    fs::write(context.path().join("Dockerfile"), "FROM scratch\nCOPY . /\n").unwrap();
    let tag = local.tag();
    let built = local.farm(&["submit", context.path().to_str().unwrap(), "-t", &tag]);
    assert_eq!(built.status, 0, "{built:?}");
    let builds = local.farm(&["builds"]).stdout;
    assert_eq!(local.farm(&["down"]).status, 0);

    let id = builds.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let version = local.state().join("postgres/data/PG_VERSION");
    let text = fs::read_to_string(&version).unwrap();
    for damage in [None, Some("")] {
        match damage {
            None => fs::remove_file(&version).unwrap(),
            Some(text) => fs::write(&version, text).unwrap(),
        }
        let up = local.up_small();
        assert!(up.status == 2 && up.stderr.contains("damaged"), "{up:?}");
    }
    fs::write(&version, &text).unwrap();
    run(Command::new("chown").arg("--reference").arg(version.parent().unwrap()).arg(&version));
    assert_eq!(local.up_small().status, 0);
    assert!(local.farm(&["builds"]).stdout.contains(&id));
    assert_eq!(local.farm(&["down"]).status, 0);

    // What a first start that was killed halfway would have left: nothing in the place, something beside it.
    let data = version.parent().unwrap();
    fs::remove_dir_all(data).unwrap();
    fs::create_dir(data.with_extension("new")).unwrap();
    fs::write(data.with_extension("new").join("PG_VERSION"), text).unwrap();
    assert_eq!(local.up_small().status, 0);
    assert!(!local.farm(&["builds"]).stdout.contains(&id));
}

#[test]
fn a_pid_file_of_a_dead_postgres_keeps_nobody_from_starting() {
    let local = Local::new();
    assert_eq!(local.up_small().status, 0);
    // The number has gone to another process of the same user, whose name says Postgres, too.
    let mut other = Command::new("setpriv");
    other.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups", "--pdeathsig", "KILL"]);
    let mut other = other.args(["sleep", "600"]).stdin(Stdio::null()).spawn().unwrap();
    let file = local.state().join("postgres/data/postmaster.pid");
    let real = fs::read_to_string(&file).unwrap();
    let reused = real.replacen(real.lines().next().unwrap(), &other.id().to_string(), 1);
    for text in [reused.as_str(), "", "nonsense\n"] {
        kill9(local.supervisor());
        until("postgres has ended", || local.processes().is_empty());
        fs::write(&file, text).unwrap();
        let up = local.up_small();
        assert_eq!(up.status, 0, "{text:?}: {up:?}");
    }
    assert!(other.try_wait().unwrap().is_none(), "it is nobody's to end");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn an_environment_that_is_meant_for_others_changes_nothing() {
    let local = Local::new();
    let elsewhere = local.state().with_file_name("elsewhere");
    let mut up = local.up_command(&["--engine", &Bed::from_env().engine, "--no-emulation"]);
    for (name, value) in [
        ("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", elsewhere.to_str().unwrap()),
        ("REGISTRY_HTTP_ADDR", "127.0.0.1:1"),
        ("PGPORT", "abc"),
        ("PGOPTIONS", "-c foo=1"),
        ("PGSERVICE", "foo"),
        ("DOCKER_HOST", "tcp://127.0.0.1:1"),
        ("FARM_CONFIG", "/nonexistent/farm.toml"),
        ("TMPDIR", "/nonexistent"),
        // An ordinary user's, without the folders of system programs.
        ("PATH", "/usr/bin:/bin"),
    ] {
        up.env(name, value);
    }
    let out = output(&mut up);
    assert_eq!(out.status, 0, "{out:?}");
    local.bring_base();
    assert!(local.state().join("registry/data/docker").exists() && !elsewhere.exists());
}

#[test]
fn what_an_admin_has_mounted_in_the_folder_stays_mounted() {
    let local = Local::new();
    assert_eq!(local.up_small().status, 0);
    assert_eq!(local.farm(&["down"]).status, 0);
    let disk = local.state().join("engine/data");
    fs::create_dir_all(&disk).unwrap();
    run(Command::new("mount").args(["-t", "tmpfs", "disk"]).arg(&disk));
    assert_eq!(local.up_small().status, 0);
    kill9(local.supervisor());
    until("all have ended", || local.processes().is_empty());
    let up = local.up_small();
    let down = local.farm(&["down"]);
    let is_mounted = Command::new("mountpoint").arg("-q").arg(&disk).status().unwrap().success();
    run(Command::new("umount").arg("-l").arg(&disk));
    assert!(is_mounted && up.status == 0 && down.status == 0, "{up:?} {down:?}");
}

#[test]
fn a_strict_umask_shuts_nobody_out() {
    let local = Local::new();
    let up = local.up_command(&["--engine", &Bed::from_env().engine, "--no-emulation"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(up.get_program()).args(up.get_args());
    shell.envs(up.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let out = output(&mut shell);
    assert_eq!(out.status, 0, "{out:?}");
    let mut other = Command::new("setpriv");
    other.args(["--reuid", "12345", "--regid", "12345", "--clear-groups", "cat"]);
    run(other.arg(local.state().join("logs/coordinator.log")));
}

#[test]
fn who_called_sudo_may_use_the_farm_without_it() {
    let local = Local::new();
    let mut up = local.up_command(&["--engine", &Bed::from_env().engine, "--no-emulation"]);
    let out = output(up.env("SUDO_UID", "12345").env("SUDO_GID", "12345"));
    assert_eq!(out.status, 0, "{out:?}");
    let programs = Bed::from_env().short_folder("bin");
    fs::copy(farm_tests::farm::binary("farm"), programs.path().join("farm")).unwrap();
    run(Command::new("chmod").args(["-R", "755"]).arg(programs.path()));
    let as_caller = |uid: &str, args: &[&str]| {
        let like = local.command(args);
        let mut command = Command::new("setpriv");
        command.args(["--reuid", uid, "--regid", uid, "--clear-groups"]).arg(programs.path().join("farm"));
        command.args(like.get_args()).stdin(Stdio::null());
        command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        output(&mut command)
    };
    let other = as_caller("12346", &["status"]);
    assert!(other.status == 2 && other.stderr.contains("another user's; use sudo"), "{other:?}");
    assert_eq!(as_caller("12345", &["status"]).status, 0);
    assert_eq!(as_caller("12345", &["builds"]).status, 0);
    let down = as_caller("12345", &["down"]);
    assert!(down.status == 0 && down.stdout.contains("the farm is down"), "{down:?}");
    let again = as_caller("12345", &["down"]);
    assert!(again.status == 0 && again.stdout.contains("no farm is up"), "{again:?}");
    // Without sudo it is root's own again.
    assert_eq!(local.up_small().status, 0);
    assert_eq!(as_caller("12345", &["status"]).status, 2);
    assert_ne!(as_caller("12345", &["builds"]).status, 0);
}

#[test]
fn an_up_that_meets_a_purge_finds_all_or_nothing() {
    meet(2);
}

/// An `up` meets a `down --purge` so many times.
pub fn meet(rounds: usize) {
    let local = Local::new();
    for round in 0..rounds {
        assert_eq!(local.up_small().status, 0, "round {round}");
        let begin =
            |args: &[&str]| local.command(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let purge = begin(&["down", "--purge", "--yes"]);
        until("it stops", || !is(&local, "up"));
        let (port, registry) = (local.port.to_string(), local.registry_port.to_string());
        let engine = Bed::from_env().engine;
        let up = ["up", "--no-emulation", "--engine", &engine, "--port", &port, "--registry-port", &registry];
        let (up, purge) = (begin(&up), purge.wait_with_output().unwrap());
        let up = up.wait_with_output().unwrap();
        // Either may be first; who comes second finds a whole farm, or none.
        let said = String::from_utf8_lossy(&purge.stderr);
        assert!(up.status.success(), "round {round}: {up:?} {said}");
        assert!(purge.status.success() || said.contains("try again"), "round {round}: {said}");
        assert_eq!(local.farm(&["status"]).status, 0);
    }
}

#[test]
fn a_build_goes_on_when_the_engines_containerd_is_killed() {
    let local = Local::new();
    assert_eq!(local.up_with(&["--no-emulation"]).status, 0);
    local.bring_base();
    let context = local.context("sleep 3.0625; echo done");
    let tag = local.tag();
    let submit = ["submit", context.path().to_str().unwrap(), "-t", &tag, "--detach"];
    let id = local.farm(&submit);
    assert_eq!(id.status, 0, "{id:?}");
    let id = id.stdout.split_whitespace().nth(1).unwrap().to_owned();
    // The number tells it from what other tests run.
    until("its command runs", || {
        Command::new("pgrep").args(["-f", "^sleep 3.0625"]).stdout(Stdio::null()).status().unwrap().success()
    });
    // It is the child of dockerd, which is the child of the first process in the engine's namespaces.
    let mut at = local.pids()["engine"];
    for program in ["farm-local", "dockerd", "containerd"] {
        let children = Command::new("pgrep").args(["-P", &at.to_string(), "-x", program]).output().unwrap();
        at = String::from_utf8(children.stdout).unwrap().trim().parse().unwrap();
    }
    kill9(at);
    let shown = local.farm(&["logs", &id, "-f"]);
    let build = local.farm(&["show", &id]);
    assert!(build.stdout.contains("succeeded"), "{shown:?} {build:?}");
    assert!(shown.stdout.contains("it will run again"), "the kill came too late: {shown:?}");
}
