//! What `.dockerignore` leaves out is not in the image, and a Dockerfile may lie elsewhere.

use crate::support::*;

const LIST: &str = "RUN cd /src && find . -type f | sort | sed 's/^/has /'\n";

/// The files that the build's listing shows.
fn listed(stdout: &str) -> Vec<&str> {
    stdout.lines().filter_map(|line| line.split_once("| has ./").map(|(_, name)| name)).collect()
}

#[test]
fn files_that_are_left_out_are_not_in_the_image() {
    let farm = small_farm();
    let amd64 = ["--platform", "linux/amd64"];
    let context = Context::new(&format!("FROM {BASE}\nARG N={}\nCOPY . /src\n{LIST}", nonce()))
        .file(".dockerignore", "# comment\n*.log\nnode_modules\n!keep.log\nsecret\nDockerfile\n")
        .file("app.py", "")
        .file("a.log", "")
        .file("keep.log", "")
        .file("deep/b.log", "")
        .file("node_modules/x.js", "")
        .file("secret/key", "k");
    let stdout = submit(&farm, &context, &amd64).ok();
    assert_eq!(listed(&stdout), [".dockerignore", "app.py", "deep/b.log", "keep.log"], "{stdout}");

    // A Dockerfile's own file of patterns counts instead of the folder's.
    let context = context
        .file("docker/web.Dockerfile", format!("FROM {BASE}\nARG N={}\nCOPY . /src\n{LIST}", nonce()))
        .file("docker/web.Dockerfile.dockerignore", "**\n!deep\n");
    let web = context.path().join("docker/web.Dockerfile");
    let stdout = submit(&farm, &context, &[&amd64[..], &["-f", web.to_str().unwrap()]].concat()).ok();
    assert_eq!(listed(&stdout), ["deep/b.log"], "{stdout}");

    // COPY of what is left out says where to look.
    let context = context.file("Dockerfile", "FROM scratch\nCOPY secret/key /\n");
    let result = submit(&farm, &context, &amd64);
    assert_eq!(result.status, 1, "{result:?}");
    says(&result.stdout, &["\"/secret/key\" is not there", ".dockerignore", "Dockerfile:2"]);
}

#[test]
fn a_dockerfile_may_lie_outside_of_the_context() {
    let farm = small_farm();
    let context = Context::empty().file("only.txt", "");
    let elsewhere =
        Context::empty().file("x.Dockerfile", format!("FROM {BASE}\nARG N={}\nCOPY . /src\n{LIST}", nonce()));
    let file = elsewhere.path().join("x.Dockerfile");
    let args = ["-f", file.to_str().unwrap(), "--platform", "linux/amd64"];
    let stdout = submit(&farm, &context, &args).ok();
    assert_eq!(listed(&stdout), ["only.txt"], "{stdout}");
}
