//! Builds over TLS, workers that don't believe a coordinator, and a login on a terminal.

use farm_tests::bed::Bed;
use farm_tests::farm::{Farm, WorkerSpec, program};
use farm_tests::pki::Authority;
use farm_tests::process::Child;

use crate::support::*;
use crate::terminal::Terminal;

#[test]
fn a_build_goes_over_tls_from_end_to_end() {
    let farm = with_worker(Farm::builder().tls());
    let tag = format!("{}:1", repository("tls"));
    let context = Context::new(&format!("FROM {BASE}\nLABEL n={}\nRUN echo over TLS\n", nonce()));
    let said = submit(&farm, &context, &["-t", &tag, "--platform", "linux/amd64,linux/arm64"]).ok();
    says(&said, &["published", &tag, "over TLS"]);
}

#[test]
fn a_worker_goes_only_to_whom_its_ca_vouches_for_and_says_why_not() {
    let mut farm = Farm::builder().tls().start();
    let folder = Bed::from_env().folder("other-ca");
    let other = folder.path().join("ca.pem");
    std::fs::write(&other, Authority::new("other").certificate).unwrap();
    let other = other.to_str().unwrap();
    farm.spawn_worker(WorkerSpec::new("w1").platforms(BOTH).arg("--ca").arg(other));
    let says_so = |child: &mut Child| child.output().contains("no CA that is trusted here").then_some(());
    farm.worker("w1").wait_until("why it isn't believed", LONG, says_so);
    assert_eq!(farm.cli(&["workers", "--json"]).json()["workers"].as_array().map(Vec::len), Some(0));
    farm.kill_worker("w1");
    farm.add_worker(WorkerSpec::new("w1").platforms(BOTH));
}

#[test]
fn a_login_on_a_terminal_shows_the_fingerprint_asks_and_hides_the_token() {
    let farm = Farm::builder().tls().start();
    let home = Bed::from_env().folder("home");
    let run = |args: &[&str]| {
        let mut command = program("farm");
        command.args(args).env("HOME", home.path());
        Terminal::run_like(&command, 100, 24, &[])
    };
    let pem = std::fs::read_to_string(farm.ca_file().unwrap()).unwrap();
    let fingerprint = farm_client::Trust::from_pem(&pem, "").unwrap().fingerprints()[0].to_string();

    let mut no = run(&["login", &farm.url(), "--name", "team"]);
    no.shows(&fingerprint);
    no.shows("[yes/no]");
    no.press(b"maybe\r");
    no.shows("Write yes or no");
    no.press(b"no\r");
    assert_eq!(no.end(), 3);
    assert!(!home.path().join(".config").exists());

    let mut yes = run(&["login", &farm.url(), "--name", "team"]);
    yes.shows("[yes/no]");
    yes.press(b"yes\r");
    yes.shows("Your token for");
    yes.press(format!("{}\r", farm.token()).as_bytes());
    yes.shows("you are admin, admin of the farm");
    assert_eq!(yes.end(), 0);
    assert!(!yes.raw().contains(&farm.token()), "the token isn't shown");
    let mut workers = run(&["workers"]);
    assert_eq!(workers.end(), 0);

    // Ctrl-C leaves the terminal as it was, and nothing changed.
    let mut left = run(&["login", &farm.url(), "--name", "again"]);
    left.shows("[yes/no]");
    left.press(b"yes\r");
    left.shows("Your token for");
    left.press(b"\x03");
    assert_eq!(left.end(), 130);
    assert!(!home.path().join(".config/farm/again.token").exists());
}
