//! Sources from git by ssh: a project's key, and the keys by which the host is known.

use farm_tests::environment::command;
use farm_tests::farm::{Farm, Output, WorkerSpec};
use farm_tests::process::run;
use serde_json::Value;

use crate::ssh_server::SshServer;
use crate::support::*;

/// `farm git login PLACE --ssh-key KEY`, by a file of the host's keys.
fn login(farm: &Farm, place: &str, key: &str, known_hosts: &str) -> Output {
    farm.cli(&["git", "login", place, "--ssh-key", key, "--known-hosts", known_hosts])
}

#[test]
fn a_repository_by_ssh_is_built_by_the_projects_key_from_the_host_that_it_knows_and_no_other() {
    let server = SshServer::start();
    let word = nonce();
    let (key, address) = server.repository(&word);
    server.commit(&[("Dockerfile", &format!("FROM {BASE}\nCOPY file /\nRUN cat /file # {word}\n"))]);
    let worker = WorkerSpec::new("w1").platforms("linux/amd64").arg("--fetch-from").arg("127.0.0.1");
    let farm = Farm::builder().tls().worker(worker).start();
    let place = format!("127.0.0.1:{}", server.port);
    let submitted = || farm.cli(&["submit", &address, "--platform", "linux/amd64", "--json"]);
    let failed = |code: &str, parts: &[&str]| {
        let output = submitted();
        let record: Value = serde_json::from_str(&output.stdout).unwrap();
        let failure = &record["failure"];
        assert_eq!(
            (output.status, &failure["code"], &failure["cause"]),
            (1, &code.into(), &"user".into()),
            "{record:#}"
        );
        says(failure["message"].as_str().unwrap(), parts);
    };
    failed("git_login_missing", &["needs a deploy key", &place]);

    // Whom nobody knows no key is given for; and one who shows another key than the one that is known gets nothing.
    let file = |name: &str, text: &str| {
        let path = server.path(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let unknown = login(&farm, &place, &key, &file("empty", ""));
    refused(&unknown, 2, &[&format!("it has no key of [127.0.0.1]:{}", server.port), "ssh-keyscan"]);
    let strangers = server.key("stranger", &["-t", "ed25519"], "false");
    let stranger = std::fs::read_to_string(format!("{strangers}.pub")).unwrap();
    let entry = |key: &str| format!("[127.0.0.1]:{} {key}\n", server.port);
    login(&farm, &place, &key, &file("other", &entry(&stranger))).ok();
    failed("git_host_key", &["shows another host key", "ssh-keyscan"]);

    let known = server.known_hosts();
    login(&farm, &place, &key, &known).ok();
    let done = farm.cli(&["submit", &address, "--platform", "linux/amd64"]).ok();
    says(&done, &["fetched ssh://git@127.0.0.1:", "refs/heads/main is commit", &word]);
    let record = show(&farm, &build_id(&done));
    assert_eq!(record["origins"][0]["repository"], address, "{record:#}");

    // A key that the host doesn't take, and none any more. Of keys nothing is in a log.
    let folder = farm_tests::bed::Bed::from_env().folder("keys");
    let other = folder.path().join("other").display().to_string();
    run(command("ssh-keygen").args(["-q", "-N", "", "-t", "ed25519", "-f", &other]));
    login(&farm, &place, &other, &known).ok();
    failed("git_login_refused", &["refuses the project's login"]);
    farm.cli(&["git", "rm", &place]).ok();
    failed("git_login_missing", &["needs a deploy key"]);
    for log in ["coordinator.log", "w1.log"] {
        let log = std::fs::read_to_string(farm.folder().join(log)).unwrap();
        assert!(!log.contains("PRIVATE KEY"));
    }
}
