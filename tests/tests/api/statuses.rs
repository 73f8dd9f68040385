//! What a forge shows at a commit of what the farm makes of it. The forge's API is a fake ([`farm_tests::forge::api`]), which answers as
//! GitHub's documentation says, and as networks do; the worker is one that the test plays.

use std::time::{SystemTime, UNIX_EPOCH};

use farm_proto::v1::{self, finished::Outcome};
use farm_tests::farm::{Farm, Output, output};
use farm_tests::forge::Forge;
use farm_tests::forge::api::{ForgeApi, Says, TOKEN, Taken};
use farm_tests::ports::free_port;
use farm_tests::session::Session;
use farm_types::Digest;
use farm_types::snapshot::{Entry, Folder, Node};
use serde_json::{Value, json};

use crate::client::{Client, Sim, hello, success};
use crate::fetches::bring;

pub fn push(commit: &str) -> Value {
    json!({
        "ref": "refs/heads/main", "before": "1".repeat(40), "after": commit,
        "head_commit": {"id": commit, "message": "a change"}, "commits": [],
        "repository": {"id": 42, "full_name": "acme/app", "clone_url": "https://git.example/acme/app.git", "default_branch": "main"},
        "sender": {"id": 7, "login": "ada"}
    })
}

/// A folder with one file.
fn folder(name: &str, text: &str) -> (Vec<v1::PackedObject>, Digest, String) {
    let file = Node::File { size: text.len().try_into().unwrap(), digest: Digest::of(text.as_bytes()) };
    let root = Folder::new(vec![Entry { name: name.to_owned(), mode: 0o644, mtime: 0, node: file }]).unwrap();
    let packed = |data: Vec<u8>, kind: v1::ObjectKind| v1::PackedObject {
        digest: Digest::of(&data).as_bytes().to_vec().into(),
        kind: kind.into(),
        data: data.into(),
    };
    let objects = vec![
        packed(text.as_bytes().to_vec(), v1::ObjectKind::File),
        packed(root.encode(), v1::ObjectKind::Folder),
    ];
    (objects, root.tree_digest(), root.content_digest().to_string())
}

/// Does the next fetch that is offered: brings a folder with this file, of this commit.
pub async fn fetch(sim: &mut Sim, commit: &str, file: (&str, &str)) {
    let offered = sim.offer().await;
    fetched(sim, offered, ("refs/heads/main", commit), file).await;
}

/// The same of the source of a folder of the repository.
pub async fn fetch_folder(sim: &mut Sim, commit: &str, subdir: &str, file: (&str, &str)) {
    let offered = sim.offer().await;
    let asked = offered.spec.as_ref().unwrap().fetch.as_ref().unwrap().git.as_ref().unwrap();
    assert_eq!(asked.subdir, subdir);
    fetched(sim, offered, ("refs/heads/main", commit), file).await;
}

/// The same, and it is of this ref, which has to be at the commit unless that is zeros.
pub async fn fetch_at(sim: &mut Sim, git_ref: &str, commit: &str, file: (&str, &str)) {
    let offered = sim.offer().await;
    let asked = offered.spec.clone().unwrap().fetch.unwrap().git.unwrap();
    let expected = if commit.bytes().all(|digit| digit == b'0') { "" } else { commit };
    assert_eq!(
        (asked.repository.as_str(), asked.r#ref.as_str()),
        ("https://git.example/acme/app.git", git_ref)
    );
    assert_eq!(asked.expected_commit, expected);
    fetched(sim, offered, (git_ref, commit), file).await;
}

async fn fetched(
    sim: &mut Sim,
    offered: v1::Offered,
    (git_ref, commit): (&str, &str),
    (name, text): (&str, &str),
) {
    let subdir = offered.spec.unwrap().fetch.unwrap().git.unwrap().subdir;
    let lease = offered.lease.unwrap();
    sim.start(&lease).await;
    let (objects, root, content) = folder(name, text);
    let named = bring(sim, &lease, (objects, root)).await.unwrap();
    let known =
        |name: &str| v1::FetchedRoot { name: name.into(), tree: root.to_string(), content: content.clone() };
    let fetched = v1::Fetched {
        snapshot: Some(v1::SnapshotRef {
            tree_id: named.tree_id.clone(),
            content_key: named.content_key.clone(),
            upload_id: String::new(),
        }),
        roots: vec![known("context"), known("dockerfile")],
        origin: Some(v1::GitOrigin {
            repository: "https://git.example/acme/app.git".into(),
            r#ref: git_ref.into(),
            commit: commit.into(),
            committed: 1_700_000_000,
            subdir,
        }),
        archive: None,
        tags: Vec::new(),
        refs: None,
        dockerfile: if name == "Dockerfile" { name.into() } else { String::new() },
        files: 1,
        bytes: text.len().try_into().unwrap(),
    };
    let result = v1::JobResult { fetched: Some(fetched), ..Default::default() };
    assert!(sim.finish(&lease, Outcome::Result(result)).await);
}

fn give_token(farm: &Farm, token: &str) -> Output {
    give(farm, token, &[])
}

pub fn give(farm: &Farm, token: &str, more: &[&str]) -> Output {
    let file = farm.folder().join("hook-token");
    std::fs::write(&file, format!("{token}\n")).unwrap();
    let args = ["hook", "token", "app", "--file", file.to_str().unwrap()];
    let mut command = farm.command(&[&args[..], more].concat());
    // There is no TLS here, as the test forges what is delivered by hand.
    output(command.env("FARM_INSECURE_HTTP", "1"))
}

pub const RULES: &str =
    "version: 1\nimages:\n  app:\n    on: {push: {branches: [main]}}\n    platforms: [linux/amd64]\n";

pub fn no(status: u16, headers: &[(&'static str, String)], message: &str) -> Says {
    Says::No(status, headers.to_vec(), json!({ "message": message }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_is_green_in_the_end_whatever_the_forge_says_and_red_where_the_rules_are_wrong() {
    let (port, api) = (free_port(), ForgeApi::start());
    let (listen, page) = (format!("127.0.0.1:{port}"), "https://farm.example/");
    let builder = Farm::builder().arg("--hooks-listen").arg(&listen).arg("--public-url").arg(page);
    let mut farm = builder.arg("--insecure-secrets").start();
    let add = [
        "hook",
        "add",
        "github",
        "acme/app",
        "--clone-url",
        "https://git.example/acme/app.git",
        "--host",
        "git.example",
        "--api-url",
        &api.url(),
        "--json",
    ];
    let forge = Forge::of(port, &farm.cli(&add).json());
    // A token is tried at the forge before it is kept.
    let refused = give_token(&farm, "ghp_another");
    assert!(refused.status != 0 && refused.stderr.contains("Bad credentials"), "{refused:?}");
    assert!(!refused.stderr.contains("ghp_another"), "{refused:?}");
    assert_eq!(farm.cli(&["hook", "show", "app", "--json"]).json()["hook"]["token"], Value::Null);
    assert!(give_token(&farm, TOKEN).ok().contains("has a token now"));
    assert!(farm.cli(&["hook", "show", "app"]).ok().contains("none was sent yet"));

    // By the token the webhook is made, once.
    assert!(give(&farm, TOKEN, &["--create"]).ok().contains("delivers to it now"));
    assert!(give(&farm, TOKEN, &["--create"]).ok().contains("delivers to it now"));
    let [made] = &api.hooks()[..] else { panic!("{:?}", api.hooks()) };
    let url = format!("http://{listen}{}", forge.path);
    assert_eq!((&made["config"]["url"], &made["config"]["secret"]), (&json!(url), &json!(forge.secret)));

    // What is wrong in the rules is red, with its line and what to do.
    let client = Client::connect(&farm).await;
    let mut greeting = hello("w", 1);
    greeting.features.push("git".to_owned());
    let mut sim = Sim::connect(&client, greeting).await.unwrap();
    let wrong = "a".repeat(40);
    assert_eq!(forge.deliver("wrong", "push", &push(&wrong)).0, 202);
    let rules = format!("{RULES}    platfroms: [linux/arm64]\n");
    fetch(&mut sim, &wrong, (".farm.yaml", &rules)).await;
    let red = tokio::task::block_in_place(|| api.wait("the red one", |one| one.commit == wrong));
    assert_eq!((red.context.as_str(), red.state.as_str()), ("farm", "failure"), "{red:?}");
    assert!(
        red.description.starts_with(".farm.yaml: 6:5: ") && red.description.contains("did you mean"),
        "{red:?}"
    );

    // A token that may too little is no use to ask with again; another one takes up what it has left.
    let other = "c".repeat(40);
    api.says([no(403, &[], "Resource not accessible by personal access token")]);
    assert_eq!(forge.deliver("other", "push", &push(&other)).0, 202);
    fetch(&mut sim, &other, (".farm.yaml", &rules)).await;
    let begin = std::time::Instant::now();
    let shown = loop {
        let shown = farm.cli(&["hook", "show", "app"]).ok();
        if shown.contains("not accessible") {
            break shown;
        }
        assert!(begin.elapsed().as_secs() < 60, "{shown}");
    };
    assert!(!shown.contains(TOKEN), "{shown}");
    give_token(&farm, TOKEN).ok();
    tokio::task::block_in_place(|| {
        api.wait("what was left", |one| one.commit == other && one.state == "failure")
    });

    // It is pending while the farm builds it: as soon as the forge's API knows the commit, wherever that is by then.
    let commit = "b".repeat(40);
    api.says([no(404, &[], "Not Found"), no(422, &[], "No commit found for SHA"), Says::Elsewhere]);
    assert_eq!(forge.deliver("right", "push", &push(&commit)).0, 202);
    fetch(&mut sim, &commit, (".farm.yaml", RULES)).await;
    fetch(&mut sim, &commit, ("Dockerfile", "FROM scratch\n")).await;
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    let is_pending = |one: &Taken| one.commit == commit && one.state == "pending" && !one.target.is_null();
    let pending = tokio::task::block_in_place(|| api.wait("the pending one", is_pending));
    assert_eq!(pending.context, "farm/app");
    let build = pending.target.as_str().unwrap().strip_prefix("https://farm.example/b/").unwrap();
    let build = build.strip_suffix("?project=default").unwrap().to_owned();
    assert!(api.has_said_all());

    // It is green in the end: after each limit in GitHub's order, what fails on the way, and an answer that the coordinator doesn't live to hear.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let (soon, none, far) =
        (("retry-after", "1".to_owned()), ("x-ratelimit-remaining", "0".to_owned()), now + 3000);
    api.says([
        no(
            403,
            &[soon.clone(), none.clone(), ("x-ratelimit-reset", far.to_string())],
            "API rate limit exceeded",
        ),
        no(429, &[soon], "slow down"),
        no(403, &[none.clone(), ("x-ratelimit-reset", (now + 1).to_string())], "API rate limit exceeded"),
        no(503, &[], "no server is available"),
        Says::Hangs,
    ]);
    assert!(sim.finish(&lease, success()).await);
    let is_green = |one: &Taken| one.commit == commit && one.state == "success";
    let green = tokio::task::block_in_place(|| api.wait("the green one", is_green));
    assert_eq!((green.context.as_str(), green.target.as_str()), ("farm/app", pending.target.as_str()));
    assert!(green.description.starts_with("built in ") && api.has_said_all(), "{green:?}");
    assert_eq!(farm.cli(&["show", &build, "--json"]).json()["state"], "succeeded");
    farm.kill_coordinator();
    api.go_on();
    let asked = api.asked();
    farm.start_coordinator();
    // Nobody knows that it was taken, so it is said again; not before the request that was under way can't come any more.
    let mut session = Session::open(farm.database_url());
    session.ask("UPDATE statuses SET claimed_until = claimed_until - interval '1 hour'; SELECT 1");
    let is_sent = || {
        let shown = farm.cli(&["hook", "show", "app", "--json"]).json();
        shown["hook"]["token"]["waiting"] == 0
    };
    let begin = std::time::Instant::now();
    while !is_sent() {
        assert!(begin.elapsed().as_secs() < 60, "it is never sent again");
    }
    assert_eq!(api.asked(), asked + 1);
    let last = api.taken().into_iter().rfind(|one| one.commit == commit).unwrap();
    assert_eq!((last.state.as_str(), &last.target), ("success", &pending.target));

    assert!(farm.cli(&["hook", "token", "app", "--rm"]).ok().contains("no token any more"));
    assert!(!farm.cli(&["audit", "--json"]).ok().contains(TOKEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projects_own_rules_count_in_the_place_of_the_repositorys_file() {
    let port = free_port();
    let farm = Farm::builder().arg("--hooks-listen").arg(&format!("127.0.0.1:{port}")).start();
    let (url, host) = ("https://git.example/acme/app.git", "git.example");
    let add = ["hook", "add", "github", "acme/app", "--clone-url", url, "--host", host, "--json"];
    let forge = Forge::of(port, &farm.cli(&add).json());
    let file = farm.folder().join("own.yaml");
    let set = |text: &str| {
        std::fs::write(&file, text).unwrap();
        farm.cli(&["hook", "rules", "app", "--file", file.to_str().unwrap()])
    };
    let own = RULES.replace("  app:", "  own:");
    // What is wrong in them is told as it is of the file, here and by the farm.
    let wrong = set(&format!("{own}    platfroms: []\n"));
    assert!(wrong.status == 2 && wrong.stderr.contains("own.yaml:6:5: images.own"), "{wrong:?}");
    let mut client = Client::connect(&farm).await;
    let request = v1::SetHookRulesRequest { name: "app".into(), rules: format!("{own}    platfroms: []\n") };
    let refused = client.hooks.set_hook_rules(request).await.unwrap_err();
    assert!(refused.message().contains("the rules for hook app: 6:5: images.own"), "{refused:?}");
    assert!(farm.cli(&["hook", "rules", "app", "--rm"]).ok().contains("has no rules of its own"));
    assert!(set(&own).ok().contains("with 1 image; its repository's .farm.yaml isn't read"));
    assert_eq!(farm.cli(&["hook", "rules", "app"]).ok(), own);

    let mut greeting = hello("w", 1);
    greeting.features.push("git".to_owned());
    let mut sim = Sim::connect(&client, greeting).await.unwrap();
    let became = async |id: &str| loop {
        let listed = farm.cli(&["hook", "deliveries", "app", "--json"]).json();
        let found = listed["deliveries"].as_array().unwrap().iter().find(|one| one["id"] == id).cloned();
        if let Some(one) = found.filter(|one| one["state"] != "received") {
            break one;
        }
        tokio::task::yield_now().await;
    };
    // The repository's file is wrong, and nobody reads it. What counts is what counted when the delivery was begun.
    let first = "a".repeat(40);
    assert_eq!(forge.deliver("first", "push", &push(&first)).0, 202);
    fetch(&mut sim, &first, (".farm.yaml", "no rules at all")).await;
    let offered = sim.offer().await;
    assert_eq!(offered.spec.unwrap().fetch.unwrap().take, "build");
    assert!(farm.cli(&["hook", "rules", "app", "--rm"]).ok().contains(".farm.yaml counts"));
    let lease = offered.lease.unwrap();
    sim.start(&lease).await;
    let (objects, root, content) = folder("Dockerfile", "FROM scratch\n");
    let named = bring(&mut sim, &lease, (objects, root)).await.unwrap();
    let known =
        |name: &str| v1::FetchedRoot { name: name.into(), tree: root.to_string(), content: content.clone() };
    let fetched = v1::Fetched {
        snapshot: Some(v1::SnapshotRef {
            tree_id: named.tree_id,
            content_key: named.content_key,
            ..Default::default()
        }),
        roots: vec![known("context"), known("dockerfile")],
        origin: Some(v1::GitOrigin {
            repository: url.into(),
            r#ref: "refs/heads/main".into(),
            commit: first.clone(),
            committed: 1_700_000_000,
            subdir: String::new(),
        }),
        dockerfile: "Dockerfile".into(),
        files: 1,
        bytes: 13,
        ..Default::default()
    };
    let result = v1::JobResult { fetched: Some(fetched), ..Default::default() };
    assert!(sim.finish(&lease, Outcome::Result(result)).await);
    let done = became("first").await;
    assert_eq!((&done["state"], done["builds"].as_array().unwrap().len()), (&json!("done"), 1), "{done:#}");

    // From then on the repository's counts again.
    let second = "b".repeat(40);
    assert_eq!(forge.deliver("second", "push", &push(&second)).0, 202);
    let build = sim.offer().await.lease.unwrap();
    sim.start(&build).await;
    assert!(sim.finish(&build, success()).await);
    fetch(&mut sim, &second, (".farm.yaml", "no rules at all")).await;
    let failed = became("second").await;
    assert_eq!(failed["state"], "failed", "{failed:#}");
    assert!(failed["reason"].as_str().unwrap().starts_with(".farm.yaml: "), "{failed:#}");
    let audit = farm.cli(&["audit", "--json"]).ok();
    assert!(audit.contains("hook.rules") && audit.contains("hook.rules.remove"), "{audit}");
}
