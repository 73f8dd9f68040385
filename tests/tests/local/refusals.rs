//! What keeps a farm from being started or removed is told with its cure, and nothing is left running.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use farm_tests::bed::Bed;
use farm_tests::process::run;

use crate::support::{Local, on_a_machine_of_its_own, until};

/// `farm up` must end with 2 or 3 and say all of these.
fn refused(local: &Local, flags: &[&str], words: &[&str]) {
    let out = local.up_with(flags);
    assert!(matches!(out.status, 2 | 3), "{out:?}");
    for word in words {
        assert!(out.stderr.contains(word), "{word:?} is missing: {out:?}");
    }
    until("nothing is left running", || local.processes().is_empty());
}

#[test]
fn ports_that_are_taken_are_named_with_their_holder() {
    let local = Local::new();
    let me = format!("pid {}", std::process::id());
    for (port, flag) in [(local.registry_port, "--registry-port"), (local.port, "--port")] {
        let holder = TcpListener::bind(("127.0.0.1", port)).unwrap();
        refused(&local, &[], &[&port.to_string(), &me, flag]);
        assert!(!local.state().exists());
        drop(holder);
    }
}

#[test]
fn the_farm_of_another_user_is_not_taken() {
    let local = Local::new();
    assert_eq!(local.up_small().status, 0);
    assert_eq!(local.farm(&["down"]).status, 0);
    run(Command::new("chown").arg("12345").arg(local.state().join(".farm-state")));
    refused(&local, &[], &["the user with number 12345", "--state-dir"]);
}

#[test]
fn platforms_that_cannot_be_built_for_are_no_farm() {
    let local = Local::new();
    let engine = Bed::from_env().engine;
    refused(&local, &["--engine", &engine, "--platforms", "linux/mips64"], &["linux/mips64", "leave it out"]);
}

#[test]
fn a_missing_program_is_named_with_its_package() {
    if !on_a_machine_of_its_own("refusals::a_missing_program_is_named_with_its_package") {
        return;
    }
    let program = run(Command::new("sh").args(["-c", "command -v docker-registry"]));
    run(Command::new("mount").args(["--bind", "/dev/null", program.trim()]));
    let local = Local::new();
    let out = local.up_small();
    assert!(out.status == 2 && out.stderr.contains("docker-registry isn't installed"), "{out:?}");
    assert!(out.stderr.contains("apt-get install docker-registry") && !local.state().exists(), "{out:?}");
}

#[test]
fn folders_that_are_not_farms_are_left_alone() {
    let local = Local::new();
    fs::create_dir(local.state()).unwrap();
    let thesis = local.state().join("thesis.tex");
    fs::write(&thesis, "x").unwrap();
    refused(&local, &[], &["isn't empty", "choose another"]);
    let purge = local.farm(&["down", "--purge", "--yes"]);
    assert!(purge.status == 2 && purge.stderr.contains("not made by farm up"), "{purge:?}");
    assert!(thesis.exists());
}

#[test]
fn a_purge_never_crosses_a_mount() {
    let local = Local::new();
    let engine = Bed::from_env().engine;
    assert_eq!(local.up_with(&["--engine", &engine, "--no-emulation"]).status, 0);
    assert_eq!(local.farm(&["down"]).status, 0);
    let outside = Bed::from_env().short_folder("outside");
    fs::write(outside.path().join("thesis.tex"), "x").unwrap();
    let at = local.state().join("registry/mounted");
    fs::create_dir_all(&at).unwrap();
    run(Command::new("mount").arg("--bind").arg(outside.path()).arg(&at));
    let purge = local.farm(&["down", "--purge", "--yes"]);
    let is_there = outside.path().join("thesis.tex").exists();
    run(Command::new("umount").arg(&at));
    assert!(purge.status == 2 && purge.stderr.contains("umount"), "{purge:?}");
    assert!(is_there && local.state().join("postgres").exists());
    assert_eq!(local.farm(&["down", "--purge", "--yes"]).status, 0);
    assert!(!local.state().exists());
}

#[test]
fn data_of_another_postgres_is_not_touched() {
    let local = Local::new();
    let engine = Bed::from_env().engine;
    assert_eq!(local.up_with(&["--engine", &engine, "--no-emulation"]).status, 0);
    assert_eq!(local.farm(&["down"]).status, 0);
    let version = local.state().join("postgres/data/PG_VERSION");
    fs::write(&version, "9\n").unwrap();
    refused(&local, &[], &["Postgres 9", "postgresql-9", "pg_upgrade"]);
    assert_eq!(fs::read_to_string(version).unwrap(), "9\n");
}

#[test]
fn a_full_disk_is_told_before_anything_is_made() {
    let local = Local::new();
    fs::create_dir(local.state()).unwrap();
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=50m,mode=755", "small"]).arg(local.state()));
    let out = local.up_with(&[]);
    let made = fs::read_dir(local.state()).unwrap().count();
    run(Command::new("umount").arg("-l").arg(local.state()));
    assert_eq!((out.status, made), (2, 0), "{out:?}");
    assert!(out.stderr.contains("50 MB") || out.stderr.contains("MB left on its disk"), "{out:?}");
}

#[test]
fn without_overlayfs_the_own_engine_is_not_started() {
    let local = Local::new();
    // An overlay can't be the upper layer of another one.
    let base = Bed::from_env().short_folder("overlay");
    for name in ["lower", "upper", "work"] {
        fs::create_dir(base.path().join(name)).unwrap();
    }
    fs::create_dir(local.state()).unwrap();
    let layers = base.path().display();
    let options = format!("lowerdir={layers}/lower,upperdir={layers}/upper,workdir={layers}/work");
    run(Command::new("mount").args(["-t", "overlay", "-o", &options, "overlay"]).arg(local.state()));
    let out = local.up_with(&[]);
    until("nothing is left running", || local.processes().is_empty());
    run(Command::new("umount").arg("-l").arg(local.state()));
    assert_eq!(out.status, 3, "{out:?}");
    assert!(out.stderr.contains("overlayfs can't be mounted") && out.stderr.contains("--engine"), "{out:?}");
}

#[test]
fn an_ordinary_user_is_told_about_root_and_about_engines() {
    let local = Local::new();
    let (port, registry) = (local.port.to_string(), local.registry_port.to_string());
    let mut up = Command::new("setpriv");
    up.args(["--reuid", "12345", "--regid", "12345", "--clear-groups", "--"]);
    // farm's programs may lie where this user can't go; a copy can be run.
    let programs = Bed::from_env().short_folder("bin");
    for name in ["farm", "farm-local", "farm-coordinator", "farm-worker"] {
        fs::copy(farm_tests::farm::binary(name), programs.path().join(name)).unwrap();
    }
    run(Command::new("chmod").args(["-R", "755"]).arg(programs.path()));
    let home = Bed::from_env().short_folder("home");
    run(Command::new("chown").args(["-R", "12345"]).arg(home.path()));
    up.arg(programs.path().join("farm")).args(["up", "--port", &port, "--registry-port", &registry]);
    up.env("HOME", home.path()).env_remove("XDG_STATE_HOME");
    let out = farm_tests::farm::output(&mut up);
    assert_eq!(out.status, 2, "{out:?}");
    assert!(out.stderr.contains("sudo farm up") && out.stderr.contains("--engine"), "{out:?}");
    // It would hide root's farm from this user.
    assert!(!home.path().join(".local/state/farm").exists());
    let missing = local.up_with(&["--engine", "unix:///nonexistent/docker.sock"]);
    assert!(missing.status == 2 && missing.stderr.contains("leave --engine out"), "{missing:?}");
}
