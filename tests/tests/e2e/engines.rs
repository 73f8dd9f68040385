//! Every way to a BuildKit: Docker's socket, a buildkitd's socket, and a port with mutual TLS; what can't be used is refused
//! with the cure.

use std::time::Duration;

use farm_tests::bed::Bed;
use farm_tests::bridge::Bridge;
use farm_tests::engine::PrivateEngine;
use farm_tests::farm::{Farm, WorkerSpec, program};
use farm_tests::process::Child;

use crate::support::*;

/// What a worker says that doesn't come up, and its exit code.
fn refused_worker(farm: &Farm, engine: &str, more: &[&str]) -> (Option<i32>, String) {
    let folder = Bed::from_env().folder("refused");
    let mut command = program("farm-worker");
    command.args(["--coordinator", &farm.url(), "--name", "w-no", "--engine", engine]);
    command.arg("--token-file").arg(farm.token_file()).arg("--state-dir").arg(folder.path()).args(more);
    let mut child = Child::spawn("refused", &command, &Bed::from_env().test_folder());
    let code = child.wait_exit(Duration::from_secs(40)).code();
    (code, child.output())
}

#[test]
fn two_engines_side_by_side_behind_a_buildkitds_doors_make_one_image() {
    let second = PrivateEngine::start();
    let socket = Bridge::socket(Bed::from_env().engine_socket());
    // A buildkitd that was built with a recent Go does not answer ALPN.
    let tls = Bridge::tls(&second.socket(), false);
    let farm = Farm::builder()
        .worker(WorkerSpec::new("w-socket").engine(socket.address()).platforms("linux/amd64"))
        .worker(WorkerSpec::new("w-tls").engine(tls.address()).platforms("linux/arm64=emulated"))
        .start();
    let workers = farm.cli(&["workers"]).ok();
    assert_eq!(workers.matches("buildkitd ").count(), 2, "{workers}");
    let context =
        Context::new(&format!("FROM {BASE}\nCOPY a /a\nRUN : {}; uname -m >/arch\n", nonce())).file("a", "1");
    let tag = format!("{}:1", repository("doors"));
    let out = submit(&farm, &context, &["-t", &tag, "--platform", "linux/amd64,linux/arm64"]).ok();
    says(&out, &["native on w-socket", "emulated on w-tls", "(2 platforms)"]);
    assert_eq!(run_image("linux/amd64", &tag, &["cat", "/arch"]).trim(), "x86_64");
    assert_eq!(
        farm.cli(&["run", &tag, "-q", "--platform", "linux/arm64", "--", "cat", "/arch"]).ok(),
        "aarch64\n"
    );
    // A mistake has its place through these doors, too, and a Dockerfile can be checked.
    let bad = Context::new(&format!("FROM {BASE}\nRUN exit 5\n"));
    let out = submit(&farm, &bad, &["--platform", "linux/arm64"]);
    assert_eq!(out.status, 1, "{out:?}");
    says(&out.stdout, &["Dockerfile:2", "exit code 5"]);
    let check = farm.cli(&["check", bad.text(), "--platform", "linux/amd64,linux/arm64"]);
    assert!(check.status == 0 && check.stdout.contains("nothing found"), "{check:?}");
}

#[test]
fn an_engine_behind_tls_that_is_restarted_is_used_again() {
    let mut engine = PrivateEngine::start();
    let tls = Bridge::tls(&engine.socket(), true);
    let spec = WorkerSpec::new("w-tls").engine(tls.address()).platforms("linux/amd64");
    let mut farm = Farm::builder().config(QUICK_LEASES).worker(spec).start();
    let gate = crate::gate::Gate::new();
    let context = gate.context();
    let mut cli = farm.cli_spawn("submit", &["submit", context.text(), "--platform", "linux/amd64"]);
    let step = gate.arrival();
    engine.kill9();
    drop(step);
    engine.start_again();
    gate.arrival().open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    says(&cli.output(), &["failed on w-tls", "running again on w-tls"]);
    farm.stop_worker("w-tls");
}

#[test]
fn what_cannot_be_used_as_an_engine_is_refused_with_the_cure() {
    let farm = Farm::builder().start();
    let tls = Bridge::tls(Bed::from_env().engine_socket(), true);
    let (code, said) = refused_worker(&farm, &tls.stranger(), &[]);
    assert_eq!(code, Some(1), "{said}");
    says(&said, &["127.0.0.1:", "does not answer", "certificate"]);
    let lacking = tls.address().replace("/ca.pem", "/none.pem");
    let (code, said) = refused_worker(&farm, &lacking, &[]);
    assert_eq!(code, Some(1), "{said}");
    says(&said, &["none.pem"]);
    let bare = tls.address().split_once('?').unwrap().0.to_owned();
    let (code, said) = refused_worker(&farm, &bare, &[]);
    assert_eq!(code, Some(2), "{said}");
    says(&said, &["ca, cert and key are needed"]);
    // An engine without the containerd store can't push by digest.
    let old = PrivateEngine::start_with(|config| {
        config["features"] = serde_json::json!({"containerd-snapshotter": false})
    });
    let (code, said) = refused_worker(&farm, &old.url(), &[]);
    assert_eq!(code, Some(1), "{said}");
    says(&said, &["old store", "\"containerd-snapshotter\": true"]);
}
