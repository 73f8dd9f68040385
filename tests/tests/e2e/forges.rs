//! From `git push` to the green commit at a GitLab and a Forgejo, with nobody in between, as [`crate::pushed`] has it of GitHub: the host signs
//! and posts as these do, and their APIs, which are fakes, are told how the build stands.

use farm_tests::farm::{Farm, WorkerSpec};
use farm_tests::forge::Forge;
use farm_tests::forge::api::{Api, ForgeApi};
use farm_tests::git::GitHost;
use farm_tests::ports::free_port;

use crate::pushing::{Clone, delivered, give_token, post_receive, shown};
use crate::support::*;

fn pushed(provider: &str, api: Api, failure: &str) {
    let (host, port, at, api) = (GitHost::start(), free_port(), repository(provider), ForgeApi::of(api));
    let worker = WorkerSpec::new("w1").platforms("linux/amd64").arg("--fetch-from").arg(&host.place());
    let builder = Farm::builder().arg("--hooks-listen").arg(&format!("127.0.0.1:{port}"));
    let builder = builder.arg("--public-url").arg("https://farm.example").arg("--insecure-secrets");
    let farm = builder.worker(worker).start();
    let (place, url, api_url) = (host.place(), host.url(), api.url());
    let add = [
        "hook",
        "add",
        provider,
        "acme/app",
        "--host",
        &place,
        "--clone-url",
        &url,
        "--api-url",
        &api_url,
        "--json",
    ];
    let forge = Forge::of(port, &farm.cli(&add).json());
    give_token(&farm, &["--create"]);
    assert_eq!(Forge::made(port, forge.form, &api).secret, forge.secret);
    host.take_pushes(&post_receive(&forge, &url));

    let clone = Clone::of(&host.url(), &[]);
    clone.git(&["checkout", "-q", "-b", "main"], &clone.path());
    let rules = format!(
        "version: 1\nimages:\n  app:\n    on: {{push: {{branches: [main]}}}}\n    platforms: [linux/amd64]\n    destinations: [{at}]\n    tags: \
         [\"{{branch}}\"]\n"
    );
    let word = nonce();
    let dockerfile = format!("FROM scratch\nLABEL of={word}\nCOPY Dockerfile /\n");
    let first = clone.commit(&[(".farm.yaml", &rules), ("Dockerfile", &dockerfile)], "first");
    clone.push(&["main"]);
    let done = delivered(&farm, "done", &|one| one["git_ref"] == "refs/heads/main");
    let green = shown(&api, &first, "farm/app", "success");
    let before = api.taken().into_iter().find(|one| one.commit == first).unwrap();
    assert_eq!((before.context.as_str(), before.state.as_str()), ("farm/app", "pending"));
    says(green.target.as_str().unwrap(), &["https://farm.example/b/"]);
    let build = show(&farm, done["builds"][0].as_str().unwrap());
    assert_eq!(
        (&build["origins"][0]["commit"], &build["state"]),
        (&first.into(), &"succeeded".into()),
        "{build:#}"
    );
    assert_eq!(config(&format!("{at}:main"), "amd64")["config"]["Labels"]["of"], word);

    // What doesn't build is red, with the step that fails.
    let second = clone.commit(&[("Dockerfile", &format!("{dockerfile}COPY nothing /\n"))], "second");
    clone.push(&["main"]);
    let red = shown(&api, &second, "farm/app", failure);
    says(&red.description, &["nothing"]);
    assert_eq!(config(&format!("{at}:main"), "amd64")["config"]["Labels"]["of"], word);
}

#[test]
fn a_push_to_a_gitlab_that_signs_is_a_green_commit() {
    pushed("gitlab", Api::Gitlab, "failed");
}

#[test]
fn a_push_to_a_forgejo_is_a_green_commit() {
    pushed("forgejo", Api::Gitea, "failure");
}
