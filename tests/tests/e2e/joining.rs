//! Workers that join: invited, certified, in the farm by nothing but their state folder, with certificates that are exchanged
//! while they build, and out again when they are revoked.

use std::path::Path;

use farm_tests::bed::Bed;
use farm_tests::farm::{Farm, Output, WorkerSpec, output, program};
use farm_tests::process::Child;

use crate::gate::Gate;
use crate::support::*;

/// Runs the line that `farm workers invite` has printed, for this folder.
pub fn join(farm: &Farm, invite: &[&str], folder: &Path, more: &[&str]) -> Output {
    let line = farm.cli(&[&["workers", "invite"], invite].concat()).ok();
    let mut words = line.split_whitespace();
    let mut command = program(words.next().unwrap());
    command.args(words).arg("--state-dir").arg(folder).args(more);
    output(&mut command)
}

pub fn start(farm: &Farm, name: &str, folder: &Path) -> Child {
    start_with(farm, name, folder, &[])
}

/// The same, with more flags.
pub fn start_with(farm: &Farm, name: &str, folder: &Path, more: &[&str]) -> Child {
    let mut command = program("farm-worker");
    command
        .args(["--engine", &Bed::from_env().engine, "--platforms", "linux/amd64", "--state-dir"])
        .arg(folder)
        .args(more);
    Child::spawn(name, &command, farm.folder())
}

/// How often the worker got another certificate.
fn renewals(worker: &Child) -> usize {
    worker.output().matches("the certificate was renewed").count()
}

#[test]
fn a_worker_that_joined_builds_with_one_certificate_after_another_until_it_is_revoked() {
    let mut farm = Farm::builder().config("[limits]\nworker_certificate_seconds = 6\n").start();
    let folder = farm.folder().join("joined");
    says(
        &join(&farm, &["--name", "w1"], &folder, &[]).ok(),
        &["w1, on machine w1", "farm-worker --state-dir"],
    );
    let again = join(&farm, &["--name", "w1"], &folder, &[]);
    refused(&again, 1, &["has joined", "as w1 already", "--again"]);
    let mut worker = start(&farm, "w1", &folder);
    worker.wait_for_line("farm-worker w1 ready: ", LONG);

    let gate = Gate::new();
    let context = gate.context();
    let mut cli = farm.cli_spawn("submit", &["submit", context.text(), "--platform", "linux/amd64"]);
    let runs = gate.arrival();
    let before = renewals(&worker);
    until("two more certificates", LONG, || (renewals(&worker) >= before + 2).then_some(()));
    // The farm is away until the newest has ended.
    farm.kill_coordinator();
    until("it can't be renewed", LONG, || worker.output().contains("ended=true").then_some(()));
    farm.start_coordinator();
    let before = renewals(&worker);
    until("it is renewed after its end", LONG, || (renewals(&worker) > before).then_some(()));
    runs.open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    says(&cli.output(), &["native on w1"]);

    says(&farm.cli(&["workers", "revoke", "w1"]).ok(), &["w1 is revoked"]);
    assert_eq!(worker.wait_exit(LONG).code(), Some(5), "{}", worker.tail());
    says(&worker.output(), &["was revoked on", "farm workers invite --name w1"]);
    says(&join(&farm, &["--name", "w1"], &folder, &["--again"]).ok(), &["w1, on machine w1"]);
    let mut worker = start(&farm, "w1", &folder);
    worker.wait_for_line("farm-worker w1 ready: ", LONG);
}

#[test]
fn an_invitation_to_a_machine_that_may_not_be_there_is_to_another_one_then() {
    let farm = Farm::builder().start();
    let folder = |name: &str| farm.folder().join(name);
    let invite = ["--name", "w1", "--machine", "m1"];
    refused(&farm.cli(&[&["workers", "invite"][..], &invite].concat()), 2, &["no worker ever joined", "m1"]);
    let if_known = |name| ["--name", name, "--machine", "w1", "--if-known"];
    says(&join(&farm, &if_known("w1"), &folder("w1"), &[]).ok(), &["w1, on machine w1"]);
    says(&join(&farm, &if_known("w2"), &folder("w2"), &[]).ok(), &["w2, on machine w1"]);
    // What else is refused is no reason to ask for less.
    let text = farm.cli(&["workers", "invite", "--machine", "m 1", "--if-known"]);
    refused(&text, 2, &["machine", "m 1"]);
    refused(&farm.cli(&["workers", "invite", "--if-known"]), 2, &["--machine"]);
}

#[test]
fn a_worker_of_before_joins_under_its_name_and_needs_its_token_no_more() {
    let mut farm = Farm::builder().worker(WorkerSpec::new("w-old").platforms("linux/amd64")).start();
    let folder = farm.folder().join("joined");
    // Nobody else gets its name by chance.
    let other = join(&farm, &[], &folder, &["--name", "w-old"]);
    refused(&other, 1, &["w-old", "farm workers invite --name w-old"]);
    farm.stop_worker("w-old");
    join(&farm, &["--name", "w-old"], &folder, &[]).ok();
    let mut worker = start(&farm, "w-new", &folder);
    worker.wait_for_line("farm-worker w-old ready: ", LONG);
    let workers = farm.cli(&["workers", "--json"]).json();
    let workers = workers["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 1, "{workers:?}");
    assert!(workers[0]["certificate_ends"].is_string(), "{workers:?}");
}
