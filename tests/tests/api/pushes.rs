//! What a push may move and what it ends. The worker is one that the test plays.

use std::time::{Duration, Instant};

use farm_proto::v1::{self, finished::Outcome};
use farm_tests::farm::{Farm, output};
use farm_tests::forge::Forge;
use farm_tests::ports::free_port;
use serde_json::{Value, json};

use crate::client::{Client, Sim, hello};
use crate::statuses::{RULES, fetch, fetch_at, push};

const PLACE: [&str; 4] = ["--clone-url", "https://git.example/acme/app.git", "--host", "git.example"];

/// A hook `app` of a project, and who delivers to it.
fn hook(farm: &Farm, port: u16, more: &[&str]) -> Forge {
    let add = ["hook", "add", "github", "acme/app", "--json"];
    Forge::of(port, &farm.cli(&[&add[..], &PLACE, more].concat()).json())
}

async fn over(farm: &Farm, project: &str, id: &str) -> Value {
    let begin = Instant::now();
    loop {
        let listed = farm.cli(&["hook", "deliveries", "app", "--project", project, "--json"]).json();
        let found = listed["deliveries"].as_array().unwrap().iter().find(|one| one["id"] == id).cloned();
        let found = found.unwrap_or_else(|| panic!("{id} is not in {listed}"));
        if found["state"] != "received" {
            return found;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{found} waits for ever");
        tokio::task::yield_now().await;
    }
}

async fn worker(farm: &Farm) -> Sim {
    let mut greeting = hello("w", 2);
    greeting.features.push("git".to_owned());
    Sim::connect(&Client::connect(farm).await, greeting).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_gets_no_tag_no_place_and_no_secret_that_its_project_doesnt_give_to_that_ref() {
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let farm = Farm::builder().arg("--hooks-listen").arg(&listen).arg("--insecure-secrets").start();
    farm.cli(&["project", "create", "web", "--admin", "ada"]).ok();
    farm.cli(&["project", "allow", "web", "--push", "r.example/web"]).ok();
    let file = farm.folder().join("secret");
    std::fs::write(&file, "hush").unwrap();
    let set = ["secret", "set", "key", "--file", file.to_str().unwrap(), "--project", "web"];
    let mut secret = farm.command(&[&set[..], &["--ref", "refs/tags/v*"]].concat());
    output(secret.env("FARM_INSECURE_HTTP", "1")).ok();
    let forge = hook(&farm, port, &["--project", "web", "--publish", "refs/heads/release"]);
    let mut sim = worker(&farm).await;
    let image = |destination: &str, tag: &str, more: &str| {
        format!("{RULES}    destinations: [{destination}]\n    tags: [\"{tag}\"]\n{more}")
    };
    for (id, rules, said) in [
        ("latest", image("r.example/web/app", "latest", ""), "latest"),
        ("release", image("r.example/web/app", "v1", ""), "v1"),
        ("elsewhere", image("r.example/shop/app", "main", ""), "r.example/shop/app"),
        ("near", image("r.example/website", "main", ""), "r.example/website"),
        ("secret", image("r.example/web/app", "main", "    secrets: [key]\n"), "key"),
    ] {
        let commit = format!("{id:0>40}").bytes().map(|byte| format!("{:x}", byte % 16)).collect::<String>();
        assert_eq!(forge.deliver(id, "push", &push(&commit)).0, 202);
        fetch(&mut sim, &commit, (".farm.yaml", &rules)).await;
        let cut = over(&farm, "web", id).await;
        assert_eq!((&cut["state"], &cut["builds"]), (&json!("failed"), &json!([])), "{cut:#}");
        let reason = cut["reason"].as_str().unwrap();
        assert!(reason.starts_with(".farm.yaml: ") && reason.contains(said), "{id}: {reason}");
    }
    // The ref that the hook's admin has named moves what is protected.
    let commit = "c".repeat(40);
    let mut named = push(&commit);
    named["ref"] = json!("refs/heads/release");
    assert_eq!(forge.deliver("named", "push", &named).0, 202);
    let rules = image("r.example/web/app", "latest", "").replace("[main]", "[release]");
    fetch_at(&mut sim, "refs/heads/release", &commit, (".farm.yaml", &rules)).await;
    fetch(&mut sim, &commit, ("Dockerfile", "FROM scratch\n")).await;
    let done = over(&farm, "web", "named").await;
    assert_eq!((&done["state"], done["builds"].as_array().unwrap().len()), (&json!("done"), 1), "{done:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_push_ends_what_an_older_one_of_its_branch_has_built_so_far() {
    let port = free_port();
    let farm = Farm::builder().arg("--hooks-listen").arg(&format!("127.0.0.1:{port}")).start();
    let forge = hook(&farm, port, &[]);
    let mut sim = worker(&farm).await;
    let mut begin = async |id: &str, commit: &str| {
        assert_eq!(forge.deliver(id, "push", &push(commit)).0, 202);
        fetch(&mut sim, commit, (".farm.yaml", RULES)).await;
        fetch(&mut sim, commit, ("Dockerfile", "FROM scratch\n")).await;
        let offered = sim.offer().await;
        let lease = offered.lease.unwrap();
        sim.start(&lease).await;
        (offered.build_id, lease)
    };
    let (first, lease) = begin("one", &"a".repeat(40)).await;
    let (second, newer) = begin("two", &"b".repeat(40)).await;
    // It runs, and is told to stop, soon after the newer one was submitted.
    let since = Instant::now();
    let stopped = loop {
        let stopped = sim.beat(&[lease.clone(), newer.clone()]).await;
        if !stopped.is_empty() || since.elapsed() > Duration::from_secs(60) {
            break stopped;
        }
    };
    assert!(stopped.iter().any(|stop| stop.attempt_id == lease.attempt_id), "{stopped:?}");
    assert!(stopped.iter().all(|stop| stop.attempt_id != newer.attempt_id), "{stopped:?}");
    sim.finish(&lease, Outcome::Stopped(v1::Stopped::default())).await;
    let state = |build: &str| farm.cli(&["show", build, "--json"]).json()["state"].clone();
    assert_eq!((state(&first), state(&second)), (json!("cancelled"), json!("running")));
    // Another branch's is left alone.
    let mut other = push(&"c".repeat(40));
    other["ref"] = json!("refs/heads/other");
    let rules = RULES.replace("[main]", "[main, other]");
    assert_eq!(forge.deliver("three", "push", &other).0, 202);
    fetch_at(&mut sim, "refs/heads/other", &"c".repeat(40), (".farm.yaml", &rules)).await;
    fetch(&mut sim, &"c".repeat(40), ("Dockerfile", "FROM scratch\n")).await;
    assert_eq!(over(&farm, "default", "three").await["state"], "done");
    assert_eq!(state(&second), "running");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_platforms_is_built_for_those_of_the_project_else_for_all_that_are_native() {
    let port = free_port();
    let farm = Farm::builder().arg("--hooks-listen").arg(&format!("127.0.0.1:{port}")).start();
    let forge = hook(&farm, port, &[]);
    let mut sim = worker(&farm).await;
    let rules = RULES.replace("    platforms: [linux/amd64]\n", "");
    let mut built_for = async |id: &str| {
        let commit = id.repeat(40);
        assert_eq!(forge.deliver(id, "push", &push(&commit)).0, 202);
        fetch(&mut sim, &commit, (".farm.yaml", &rules)).await;
        fetch(&mut sim, &commit, ("Dockerfile", "FROM scratch\n")).await;
        let done = over(&farm, "default", id).await;
        assert_eq!(done["state"], "done", "{done}");
        let build = farm.cli(&["show", done["builds"][0].as_str().unwrap(), "--json"]).json();
        let platforms = build["platforms"].as_array().unwrap().iter();
        platforms.map(|one| one["platform"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    // The worker has none of these, so it gets nothing to build.
    farm.cli(&["project", "set", "default", "--default-platforms", "linux/arm64,linux/s390x"]).ok();
    assert_eq!(built_for("a").await, ["linux/arm64", "linux/s390x"]);
    farm.cli(&["project", "set", "default", "--default-platforms", "none"]).ok();
    assert_eq!(built_for("b").await, ["linux/amd64"]);
}
