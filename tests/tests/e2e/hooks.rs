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

/// A farm that fetches from this host, with a hook for its repository; and who delivers to that.
fn hooked(host: &GitHost, port: u16, flags: &[&str]) -> (Farm, Forge) {
    let worker = WorkerSpec::new("w1").platforms("linux/amd64").arg("--fetch-from").arg(&host.place());
    let listen = format!("127.0.0.1:{port}");
    let builder = Farm::builder().arg("--hooks-listen").arg(&listen).arg("--insecure-secrets");
    let farm = builder.worker(worker).start();
    let (place, url) = (host.place(), host.url());
    let add = ["hook", "add", "github", "acme/app", "--host", &place, "--clone-url", &url, "--json"];
    let forge = Forge::of(port, &farm.cli(&[&add[..], flags].concat()).json());
    (farm, forge)
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
    let (farm, forge) = hooked(&host, port, &["--publish", "refs/heads/main", "--api-url", &api.url()]);
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
        (
            rules(&at, &format!("  own:\n    sign: release\n    destinations: [{at}/own]\n    tags: [x]\n")),
            "no such signing key",
        ),
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

/// One image, with a name of its own for each kind of ref.
fn by_refs(at: &str) -> String {
    format!(
        "version: 1\nimages:\n  app:\n    on:\n      push: {{branches: [main]}}\n      tag: {{semver: \"*\"}}\n      release:\n      \
         pull_request: {{branches: [main]}}\n    platforms: [linux/amd64]\n    destinations: [{at}/app]\n    tags:\n      - \"{{branch}}\"\n      \
         - {{tag: \"{{semver}}\", on: [tag]}}\n      - {{tag: \"{{semver.major}}.{{semver.minor}}\", on: [tag]}}\n      \
         - {{tag: \"of-{{tag}}\", on: [release]}}\n      - \"pr-{{pr}}\"\n"
    )
}

/// What GitHub posts of a tag. `object` is where its ref is: at the tag itself, if that is an object of its own.
fn tagged(host: &GitHost, name: &str, object: &str, commit: &str) -> Value {
    let mut body = push(host, commit);
    (body["ref"], body["after"]) = (json!(format!("refs/tags/{name}")), json!(object));
    (body["before"], body["created"]) = (json!("0".repeat(40)), json!(true));
    body
}

/// What GitHub posts of pull request 7 from the branch `change` of the same repository.
fn proposed(host: &GitHost, action: &str, head: &str) -> Value {
    let mut body = push(host, head);
    let repo = json!({"id": 42});
    (body["action"], body["number"]) = (json!(action), json!(7));
    body["pull_request"] = json!({
        "title": "a change", "merged": false, "head": {"ref": "change", "sha": head, "label": "acme:change", "repo": repo},
        "base": {"ref": "main", "sha": "1".repeat(40), "repo": repo}
    });
    body
}

/// The references that a build has published to.
fn references(build: &Value) -> Vec<&str> {
    build["tags"].as_array().unwrap().iter().map(|tag| tag["reference"].as_str().unwrap()).collect()
}

/// A webhook by way of real git to published tags, for each kind of ref; `all` has an annotated tag and a pull request.
pub fn each_kind_of_ref(all: bool) {
    let (host, port, at) = (GitHost::start(), free_port(), repository("refs"));
    let dockerfile = format!("FROM scratch\nLABEL of={}\nCOPY file /\n", nonce());
    let first =
        host.commit(&[(".farm.yaml", by_refs(&at).as_str()), ("Dockerfile", &dockerfile), ("file", "one\n")]);
    let (farm, forge) = hooked(&host, port, &[]);
    let built = |id: &str, event: &str, body: &Value| {
        assert_eq!(forge.deliver(id, event, body).0, 202);
        let done = became(&farm, id);
        assert_eq!(
            (&done["state"], done["builds"].as_array().unwrap().len()),
            (&json!("done"), 1),
            "{done:#}"
        );
        published(&farm, &done["builds"][0])
    };
    let ignored = |id: &str, event: &str, body: &Value, said: &str| {
        forge.deliver(id, event, body);
        let over = became(&farm, id);
        assert_eq!((&over["state"], &over["builds"]), (&json!("ignored"), &json!([])), "{over:#}");
        says(over["reason"].as_str().unwrap(), &[said]);
    };
    let name = |tag: &str| format!("{at}/app:{tag}");

    // An annotated tag is an object of its own; what is built is the commit that it is of.
    host.git(&["tag", "-a", "-m", "the first", "v1.2.3"]);
    let object = host.git(&["rev-parse", "v1.2.3"]);
    assert_ne!(object, first);
    let version = built("tag", "push", &tagged(&host, "v1.2.3", &object, &first));
    assert_eq!(references(&version), [name("1.2"), name("1.2.3")]);
    let origin = &version["origins"][0];
    assert_eq!(origin["commit"], first, "{version:#}");
    let image = raw(&name("1.2.3")).unwrap();
    assert_eq!(raw(&name("1.2")), Some(image.clone()));

    // What a proposal says in its rules doesn't count, and its tag has its number.
    host.git(&["checkout", "-q", "-b", "change"]);
    let head = host.commit(&[("file", "two\n"), (".farm.yaml", &by_refs(&format!("{at}/elsewhere")))]);
    host.git(&["update-ref", "refs/pull/7/head", &head]);
    host.git(&["checkout", "-q", "main"]);
    let proposal = built("pull", "pull_request", &proposed(&host, "opened", &head));
    assert_eq!(
        (references(&proposal), &proposal["origins"][0]["commit"]),
        (vec![name("pr-7").as_str()], &json!(head))
    );
    assert!(raw(&name("pr-7")).unwrap() != image && raw(&name("main")).is_none());
    if !all {
        return;
    }

    // A release is of the commit that its tag is of, which the forge doesn't say.
    let mut release = push(&host, &first);
    release["action"] = json!("published");
    release["release"] = json!({"tag_name": "v1.2.3", "prerelease": false});
    let released = built("release", "release", &release);
    assert_eq!(
        (references(&released), &released["origins"][0]["commit"]),
        (vec![name("of-v1.2.3").as_str()], &json!(first))
    );
    // A version that is mended later has its own name, and moves nothing back.
    let second = host.commit(&[("file", "mended\n")]);
    host.git(&["tag", "v1.2.1"]);
    let mended = built("mended", "push", &tagged(&host, "v1.2.1", &second, &second));
    assert_eq!(references(&mended), [name("1.2.1")]);
    assert_eq!(raw(&name("1.2")), Some(image));

    // A pull request's head moves, and it is closed.
    host.git(&["checkout", "-q", "change"]);
    let moved = host.commit(&[("file", "three\n")]);
    host.git(&["update-ref", "refs/pull/7/head", &moved]);
    host.git(&["checkout", "-q", "main"]);
    let before = raw(&name("pr-7"));
    assert_eq!(
        built("moved", "pull_request", &proposed(&host, "synchronize", &moved))["origins"][0]["commit"],
        moved
    );
    assert!(raw(&name("pr-7")).is_some_and(|after| Some(after) != before));
    ignored("closed", "pull_request", &proposed(&host, "closed", &moved), "is closed");

    // A branch is pushed, and then put elsewhere by force: what it was before isn't built any more, and moves nothing back.
    built("pushed", "push", &push(&host, &second));
    let pushed = raw(&name("main")).unwrap();
    host.git(&["reset", "-q", "--hard", &first]);
    let forced = host.commit(&[("file", "by force\n")]);
    let mut body = push(&host, &forced);
    (body["before"], body["forced"]) = (json!(second), json!(true));
    assert_eq!(built("forced", "push", &body)["origins"][0]["commit"], forced);
    let after = raw(&name("main")).unwrap();
    assert_ne!(after, pushed);
    ignored("late", "push", &push(&host, &second), "moved on");
    assert_eq!(raw(&name("main")), Some(after));

    // Nothing follows from a branch that is gone.
    host.git(&["branch", "-q", "-D", "change"]);
    let mut gone = push(&host, &"0".repeat(40));
    (gone["ref"], gone["deleted"]) = (json!("refs/heads/change"), json!(true));
    (gone["before"], gone["head_commit"]) = (json!(moved), Value::Null);
    ignored("gone", "push", &gone, "refs/heads/change was deleted");
}

#[test]
fn an_annotated_tag_and_a_pull_request_are_published_by_names_of_their_own() {
    each_kind_of_ref(false);
}
