//! A push becomes an image: a forge tells a hook, and what the repository's rules want is fetched, built and published.

use farm_tests::farm::{Farm, WorkerSpec, output};
use farm_tests::forge::Forge;
use farm_tests::forge::api::{ForgeApi, TOKEN, Taken};
use farm_tests::git::GitHost;
use farm_tests::ports::free_port;
use serde_json::{Value, json};

use crate::support::*;

/// What GitHub posts after a push.
fn push(host: &GitHost, commit: &str) -> Value {
    json!({
        "ref": "refs/heads/main", "before": "1".repeat(40), "after": commit, "created": false, "forced": false,
        "head_commit": {"id": commit, "message": "a change"}, "commits": [],
        "repository": {"id": 42, "full_name": "acme/app", "clone_url": host.url(), "default_branch": "main"},
        "sender": {"id": 7, "login": "ada"}
    })
}

fn became(farm: &Farm, id: &str) -> Value {
    until("the delivery is over", LONG, || {
        let listed = farm.cli(&["hook", "deliveries", "app", "--json"]).json();
        let found = listed["deliveries"].as_array().unwrap().iter().find(|one| one["id"] == id).cloned();
        found.filter(|one| one["state"] != "received")
    })
}

fn published(farm: &Farm, id: &Value) -> Value {
    until("the build is published", LONG, || {
        let record = show(farm, id.as_str().unwrap());
        assert!(record["failure"].is_null(), "{record:#}");
        (record["state"] == "succeeded").then_some(record)
    })
}

fn rules(at: &str, more: &str) -> String {
    format!(
        "version: 1\ndefaults:\n  on: {{push: {{branches: [main]}}}}\n  platforms: [linux/amd64, linux/arm64]\nimages:\n  app:\n    \
         context: app\n    dockerfile: app/Dockerfile\n    destinations: [{at}/app]\n    tags: [\"{{branch}}\", latest]\n  web:\n    needs: [app]\n    \
         destinations: [{at}/web]\n    tags: [\"{{sha7}}\"]\n{more}"
    )
}

#[test]
fn a_push_is_built_by_the_rules_of_its_commit_and_a_late_one_moves_nothing_back() {
    let (host, port, at, api) = (GitHost::start(), free_port(), repository("hooks"), ForgeApi::start());
    let dockerfile = format!("FROM scratch\nLABEL of={}\nCOPY file /\n", nonce());
    let first = host.commit(&[
        (".farm.yaml", rules(&at, "").as_str()),
        (".dockerignore", ".farm.yaml\n"),
        ("Dockerfile", &dockerfile),
        ("file", "one\n"),
        ("app/Dockerfile", &dockerfile),
        ("app/file", "one\n"),
    ]);
    // Nothing runs in these images, so one machine makes both.
    let worker = WorkerSpec::new("w1").platforms("linux/amd64").arg("--fetch-from").arg(&host.place());
    let listen = format!("127.0.0.1:{port}");
    let builder = Farm::builder().arg("--hooks-listen").arg(&listen).arg("--insecure-secrets");
    let farm = builder.worker(worker).start();
    let (place, url, api_url) = (host.place(), host.url(), api.url());
    let add = [
        "hook",
        "add",
        "github",
        "acme/app",
        "--host",
        &place,
        "--clone-url",
        &url,
        "--publish",
        "refs/heads/main",
        "--api-url",
        &api_url,
        "--json",
    ];
    let forge = Forge::of(port, &farm.cli(&add).json());
    let file = farm.folder().join("hook-token");
    std::fs::write(&file, TOKEN).unwrap();
    let mut give = farm.command(&["hook", "token", "app", "--file", file.to_str().unwrap()]);
    output(give.env("FARM_INSECURE_HTTP", "1")).ok();

    assert_eq!(forge.deliver("one", "push", &push(&host, &first)).0, 202);
    let done = became(&farm, "one");
    assert_eq!((&done["state"], done["builds"].as_array().unwrap().len()), (&json!("done"), 2), "{done:#}");
    let app = published(&farm, &done["builds"][0]);
    assert_eq!(
        (&app["origins"][0]["commit"], &app["created_by"]),
        (&json!(first), &json!("hook:default/app"))
    );
    let web = published(&farm, &done["builds"][1]);
    assert_eq!(web["tags"][0]["reference"], format!("{at}/web:{}", &first[..7]));
    for context in ["farm/app", "farm/web"] {
        let is_green = |one: &Taken| {
            (&one.commit, one.context.as_str(), one.state.as_str()) == (&first, context, "success")
        };
        api.wait("the green commit", is_green);
    }
    let before = raw(&format!("{at}/app:latest")).unwrap();
    let both = index(&format!("{at}/app:latest"));
    assert_eq!(both["manifests"].as_array().unwrap().len(), 2, "{both:#}");
    assert_eq!(raw(&format!("{at}/app:main")), raw(&format!("{at}/app:latest")));
    // The same once more is answered with its builds.
    let (status, said) = forge.deliver("one", "push", &push(&host, &first));
    assert!(status == 200 && said.contains(done["builds"][0].as_str().unwrap()), "{status} {said}");

    // Two pushes whose deliveries come the wrong way round: the newest is built once, the late one not at all.
    let second = host.commit(&[("app/file", "two\n")]);
    let third = host.commit(&[("app/file", "three\n")]);
    forge.deliver("three", "push", &push(&host, &third));
    forge.deliver("two", "push", &push(&host, &second));
    let (newest, late) = (became(&farm, "three"), became(&farm, "two"));
    published(&farm, &newest["builds"][0]);
    assert_eq!(late["state"], "ignored", "{late:#}");
    says(late["reason"].as_str().unwrap(), &["moved on", &third[..7]]);
    let after = raw(&format!("{at}/app:latest")).unwrap();
    assert!(after != before && Some(&after) == raw(&format!("{at}/app:main")).as_ref());

    // What is wrong in the file, or more than the project allows, builds nothing.
    for (file, said) in [
        (rules(&at, "  bad:\n    contxt: x\n"), ".farm.yaml: 16:5: images.bad"),
        (rules(&at, "  key:\n    secrets: {npm: npm}\n"), "no such secret"),
    ] {
        let commit = host.commit(&[(".farm.yaml", &file)]);
        forge.deliver(&commit, "push", &push(&host, &commit));
        let failed = became(&farm, &commit);
        assert_eq!((&failed["state"], &failed["builds"]), (&json!("failed"), &json!([])), "{failed:#}");
        says(failed["reason"].as_str().unwrap(), &[said]);
        let red = api.wait("the red commit", |one| one.commit == commit && one.state == "failure");
        assert_eq!(red.context, "farm");
        says(&red.description, &[said]);
    }
    assert_eq!(raw(&format!("{at}/app:latest")), Some(after));
}
