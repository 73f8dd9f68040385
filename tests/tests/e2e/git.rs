//! Builds whose source is in git: a worker fetches it, from git's own server.

use std::io::Write as _;
use std::process::Stdio;

use farm_tests::farm::{Farm, Output, WorkerSpec};
use farm_tests::git::{COMMITTED, GitHost};
use serde_json::Value;

use crate::support::*;

/// As git-lfs writes it.
const POINTER: &str = "version https://git-lfs.github.com/spec/v1\n\
    oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";

fn submit_from(farm: &Farm, address: &str, args: &[&str]) -> Output {
    let mut all = vec!["submit", address, "--platform", "linux/amd64"];
    all.extend(args);
    farm.cli(&all)
}

/// `farm git login`, by a token.
fn login(farm: &Farm, place: &str, token: &str) -> Output {
    let mut command = farm.command(&["git", "login", place, "--token-stdin"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{token}").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Output { status: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[test]
fn a_branch_and_a_folder_of_a_repository_are_built_and_what_is_missing_there_is_named() {
    let host = GitHost::start();
    let dockerfile = format!(
        "FROM {BASE}\nARG SOURCE_DATE_EPOCH\nCOPY . /app/\nCOPY --from=lib /lib.txt /\n\
         RUN test \"$(echo $(ls /app))\" = 'Dockerfile file' && cat /app/file /lib.txt && echo epoch $SOURCE_DATE_EPOCH {}\n",
        nonce()
    );
    let first = host.commit(&[
        ("app/Dockerfile", dockerfile.as_str()),
        ("app/.dockerignore", "secret\n.dockerignore\n"),
        ("app/secret", POINTER),
        ("app/file", "one\n"),
        ("lib/lib.txt", "of the library\n"),
    ]);
    let open = WorkerSpec::new("w1").platforms("linux/amd64").arg("--fetch-from").arg(&host.place());
    let mut farm = Farm::builder().tls().start();
    let (address, lib) = (format!("{}#main:app", host.url()), format!("lib={}#main:lib", host.url()));
    let dry = submit_from(&farm, &address, &["--dry-run", "--json"]).json();
    assert_eq!((&dry["fetches"]["context"], &dry["tree_id"]), (&address.clone().into(), &Value::Null));

    // While nobody can fetch it, both who waits and who looks hear why.
    let args = ["submit", &address, "--platform", "linux/amd64", "--build-context", &lib];
    let args = [&args[..], &["--source-date-epoch", "commit"]].concat();
    let mut submitting = farm.cli_spawn("submit", &args);
    let why = submitting.wait_for_line("fetching ", LONG);
    says(&why, &[&host.url(), "  waiting  no trusted worker with git"]);
    let waiting = farm.cli(&["builds", "--fetches", "--json"]).json();
    let fetch = waiting["builds"][0]["id"].as_str().unwrap();
    says(&farm.cli(&["show", fetch]).ok(), &["source  waiting  no trusted worker with git"]);
    farm.add_worker(open);
    assert!(submitting.wait_exit(LONG).success(), "{}", submitting.output());
    let output = submitting.output();
    says(&output, &["fetched ", "refs/heads/main is commit", &first[..7], "one", "of the library"]);
    says(&output, &[&format!("epoch {COMMITTED}")]);
    let id = build_id(&output);
    let shown = show(&farm, &id);
    let origin = &shown["origins"][0];
    assert_eq!((&origin["commit"], &origin["subdir"]), (&first.clone().into(), &"app".into()), "{shown:#}");
    assert_eq!(
        (&origin["ref"], &shown["origins"][1]["root"]),
        (&"refs/heads/main".into(), &"context:lib".into())
    );
    says(&farm.cli(&["show", &id]).ok(), &[&format!("commit {first}"), "refs/heads/main"]);
    says(&farm.cli(&["builds"]).ok(), &["SOURCE", "app.git main"]);
    // The fetches are builds of their own, which nobody sees who doesn't ask.
    assert_eq!(builds(&farm), 1);
    let all = farm.cli(&["builds", "--fetches", "--json"]).json();
    let fetches: Vec<&Value> =
        all["builds"].as_array().unwrap().iter().filter(|b| !b["fetch"].is_null()).collect();
    assert_eq!(fetches.len(), 2, "{all:#}");
    says(&farm.cli(&["show", fetches[0]["id"].as_str().unwrap()]).ok(), &["from http://", "fetched in"]);

    // The branch moves, and what is built is what it is at then; the build before is still made again from what it was.
    let second = host.commit(&[("app/file", "two\n"), ("lib/large", POINTER)]);
    // A pointer of Git LFS that isn't left out isn't built from, unless that is meant.
    let lib = ["--build-context", &lib];
    let pointing = submit_from(&farm, &address, &[&lib[..], &["--json"]].concat());
    let failure: Value = serde_json::from_str(&pointing.stdout).unwrap();
    assert_eq!((pointing.status, &failure["failure"]["code"]), (1, &"git_lfs".into()), "{pointing:?}");
    says(
        failure["failure"]["message"].as_str().unwrap(),
        &["large is a pointer", ".dockerignore", "--lfs pointers"],
    );
    let lib = [&lib[..], &["--lfs", "pointers"]].concat();
    let moved = submit_from(&farm, &address, &lib).ok();
    says(&moved, &[&second[..7], "two"]);
    let again = show(&farm, &build_id(&farm.cli(&["retry", &id]).ok()));
    assert_eq!(again["origins"][0]["commit"], first.clone(), "{again:#}");
    let by_commit = submit_from(&farm, &format!("{}#{first}:app", host.url()), &["--call", "targets"]).ok();
    says(&by_commit, &["TARGET"]);

    for (address, args, code) in [
        (format!("{}#nowhere", host.url()), vec![], "git_ref_missing"),
        (format!("{}#main:nowhere", host.url()), vec![], "git_subdir_missing"),
        (host.url(), vec![], "dockerfile_missing"),
        (address.clone(), vec!["-f", "web.Dockerfile"], "dockerfile_missing"),
    ] {
        let args: Vec<&str> = args.into_iter().chain(["--json"]).collect();
        let output = submit_from(&farm, &address, &args);
        assert_eq!(output.status, 1, "{output:?}");
        let build: Value = serde_json::from_str(&output.stdout).unwrap();
        let failure = &build["failure"];
        assert_eq!((&failure["code"], &failure["cause"]), (&code.into(), &"user".into()), "{failure:#}");
    }

    // A private one: by the project's login for a place above it, which is told to nobody.
    host.close("x-access-token", "hush-of-git");
    let refused = submit_from(&farm, &address, &lib);
    assert_eq!(refused.status, 1, "{refused:?}");
    says(&refused.stdout, &["is for those that sign in", "farm git login"]);
    let given = login(&farm, &host.place(), "hush-of-git").ok();
    says(&given, &["a token of x-access-token", &host.place()]);
    let lib = [&lib[..], &["--no-cache"]].concat();
    let private = submit_from(&farm, &address, &lib).ok();
    says(&private, &[&second[..7], "two"]);
    let listed = farm.cli(&["git", "ls", "--json"]).ok();
    crate::schemas::fits("git_logins", &listed);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert!(listed["logins"][0]["last_used"].is_string(), "{listed:#}");
    for log in ["coordinator.log", "w1.log"] {
        let log = std::fs::read_to_string(farm.folder().join(log)).unwrap();
        assert!(!log.contains("hush-of-git"));
    }
    farm.cli(&["git", "rm", &host.place()]).ok();
    assert_eq!(submit_from(&farm, &address, &lib).status, 1);
}
