//! Commands that can't be taken: each is answered with the thing, the value and the cure before any build is accepted.

use std::process::Command;

use farm_tests::farm::{Farm, output};
use farm_tests::ports::free_port;

use crate::support::*;

#[test]
fn a_mistake_in_the_command_is_told_with_its_cure_and_makes_no_build() {
    let farm = Farm::builder().start();
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    let refuses = |args: &[&str], parts: &[&str]| {
        let platform: &[&str] =
            if args.contains(&"--platform") { &[] } else { &["--platform", "linux/amd64"] };
        // Detached, so that what is taken by mistake does not wait for a worker.
        refused(&submit(&farm, &context, &[args, platform, &["--detach"]].concat()), 2, parts);
    };
    refuses(&["--platform", "linux/arm46"], &["--platform", "linux/arm46", "did you mean arm64?"]);
    refuses(&["--platform", "windows/amd64"], &["windows", "linux"]);
    refuses(&["-t", "latest"], &["\"latest\"", "no repository", "REGISTRY/REPO:TAG"]);
    refuses(&["-t", "localhost:5002/App:1"], &["localhost:5002/App:1", "localhost:5002/app:1"]);
    refuses(&["-t", "localhost:5002/"], &["\"localhost:5002/\"", "no repository"]);
    refuses(&["--emulation", "sometimes"], &["--emulation", "sometimes", "never, fallback"]);
    refuses(&["--provenance=always"], &["--provenance", "always", "mode=min"]);
    refuses(&["--build-arg", "BUILDKIT_SYNTAX=x"], &["--build-arg", "BUILDKIT_SYNTAX", "farm"]);
    refuses(&["--label", "=x"], &["--label", "NAME=VALUE"]);
    refuses(&["--build-context", "lib"], &["--build-context", "NAME=FOLDER"]);
    refuses(&["--build-context", "lib=/nowhere"], &["lib", "/nowhere", "no such folder"]);
    refuses(&["-f", "Dokerfile"], &["Dokerfile", "-f FILE"]);
    // No worker is there, so nothing can be chosen.
    refused(&submit(&farm, &context, &[]), 2, &["--platform", "no native worker", "farm workers"]);

    let submit_folder = |folder: &str, parts: &[&str]| {
        refused(&farm.cli(&["submit", folder, "--platform", "linux/amd64"]), 2, parts);
    };
    submit_folder("/nowhere/at/all", &["/nowhere/at/all", "no such folder", "farm submit ."]);
    let file = context.path().join("Dockerfile");
    submit_folder(file.to_str().unwrap(), &["this is a file", "-f FILE"]);
    let other = Context::empty().file("docker/web.Dockerfile", "FROM scratch\n").file("Dockerfile.dev", "");
    submit_folder(other.text(), &["no Dockerfile", other.text(), "Dockerfile.dev"]);
    let empty = Context::new("");
    submit_folder(empty.text(), &[empty.text(), "is empty", "FROM"]);

    submit_folder("git://example.com/app", &["git://example.com/app", "https://HOST/PATH.git"]);
    submit_folder("https://me:pw@example.com/a.git", &["leave USER:PASSWORD@ out"]);
    let web = "http://example.com/context.tar.gz";
    submit_folder(web, &[web, "by https only"]);
    refuses(
        &["-f", "http://example.com/Dockerfile"],
        &[
            "-f \"http://example.com/Dockerfile\"",
            "no Dockerfiles from addresses",
            "farm submit CONTEXT -f -",
        ],
    );
    refuses(
        &["--build-context", "x=http://example.com/x.tgz"],
        &["http://example.com/x.tgz", "by https only"],
    );
    refuses(&["--keep-git"], &["--keep-git", "none is named"]);
    refuses(&["--source-date-epoch", "commit"], &["git log -1"]);
    // What is there is no address, whatever it looks like.
    let odd = Context::empty().file("github.com/x/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let mut command = farm.command(&["submit", "github.com/x", "--platform", "linux/amd64", "--dry-run"]);
    says(&output(command.current_dir(odd.path())).ok(), &["would build github.com/x"]);

    for verb in ["show", "logs", "cancel"] {
        refused(&farm.cli(&[verb, "zzzzzz"]), 2, &["zzzzzz", "farm builds"]);
    }
    assert_eq!(builds(&farm), 0);
    // What clap refuses is as well exit code 2.
    assert_eq!(farm.cli(&["submit", "--frobnicate"]).status, 2);
    assert_eq!(farm.cli(&["sumbit"]).status, 2);
}

#[test]
fn a_folder_or_file_that_cannot_be_read_is_named_with_a_way_out() {
    let farm = Farm::builder().start();
    let context = Context::new("FROM scratch\nCOPY . /\n").file("private/key", "k").file("open", "");
    let mode = |path: &str, mode: u32| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(context.path().join(path), mode).unwrap();
    };
    // Root reads everything, unless it may not.
    let unprivileged = |context: &Context| {
        let inner = farm.command(&["submit", context.text(), "--platform", "linux/amd64", "--detach"]);
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-dac_override,-dac_read_search", "--"]);
        command.arg(inner.get_program()).args(inner.get_args());
        for (key, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        output(&mut command)
    };
    mode("private", 0);
    refused(&unprivileged(&context), 2, &["private", "permission denied", ".dockerignore", "chmod"]);
    mode("private", 0o755);
    mode("private/key", 0);
    refused(&unprivileged(&context), 2, &["private/key", "permission denied", ".dockerignore"]);
    assert_eq!(builds(&farm), 0);
    let context = context.file(".dockerignore", "private\n");
    unprivileged(&context).ok();
    assert_eq!(builds(&farm), 1);
}

#[test]
fn a_farm_that_does_not_answer_or_does_not_know_the_token_is_exit_3() {
    let farm = Farm::builder().start();
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    let nobody = format!("http://127.0.0.1:{}", free_port());
    for args in [vec!["submit", context.text(), "--platform", "linux/amd64"], vec!["builds"], vec!["workers"]]
    {
        let away = output(farm.command(&args).env("FARM_URL", &nobody));
        refused(&away, 3, &[&format!("no farm at {nobody} (connection refused)"), "FARM_URL"]);
        let stranger = output(farm.command(&args).env("FARM_TOKEN", "farm_wrong"));
        refused(&stranger, 3, &[&farm.url(), "token", "FARM_TOKEN"]);
        assert!(!stranger.stderr.contains("farm_wrong"), "a token is printed: {stranger:?}");
    }
    // A mistake in the command is told even then.
    let both = output(farm.command(&["submit", context.text(), "-t", "latest"]).env("FARM_URL", &nobody));
    refused(&both, 2, &["no repository"]);
    refused(&output(farm.command(&["builds"]).env("FARM_URL", "localhost:7070")), 2, &["http://HOST:PORT"]);
    assert_eq!(builds(&farm), 0);
}

#[test]
fn an_idempotency_key_makes_one_build_and_no_other() {
    let farm = Farm::builder().start();
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    let with = |args: &[&str]| {
        let fixed = ["--idempotency-key", "release-7", "--platform", "linux/amd64", "--detach"];
        submit(&farm, &context, &[&fixed, args].concat())
    };
    let first = build_id(&with(&[]).ok());
    let again = with(&[]).ok();
    assert_eq!(build_id(&again), first);
    says(&again, &["this is the build that was submitted before with this idempotency key"]);
    refused(&with(&["--no-cache"]), 2, &["release-7", "another", &first]);
    assert_eq!(builds(&farm), 1);
}
