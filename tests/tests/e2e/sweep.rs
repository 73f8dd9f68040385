//! What the farm builds of its own accord: a push whose delivery was lost, what a schedule wants, and what is built upon an image that has
//! moved; hooks that build upon each other's images end. (The registry's notifications are posted by the test, as the registry documents
//! them: the bed's has none to configure.)

use farm_tests::database::psql;
use farm_tests::farm::{Farm, WorkerSpec};
use farm_tests::forge::{Forge, post_raw};
use farm_tests::git::GitHost;
use farm_tests::ports::free_port;
use serde_json::{Value, json};

use crate::support::*;

fn push(host: &GitHost, name: &str, commit: &str) -> Value {
    json!({
        "ref": "refs/heads/main", "before": "0".repeat(40), "after": commit, "created": true, "forced": false,
        "head_commit": {"id": commit, "message": "a change"}, "commits": [],
        "repository": {"id": 42, "full_name": format!("acme/{name}"), "clone_url": host.url(), "default_branch": "main"},
        "sender": {"id": 7, "login": "ada"}
    })
}

fn deliveries(farm: &Farm, hook: &str) -> Vec<Value> {
    let listed = farm.cli(&["hook", "deliveries", hook, "--json"]).json();
    listed["deliveries"].as_array().unwrap().clone()
}

/// The newest delivery of this kind, once it is over.
fn became(farm: &Farm, hook: &str, event: &str) -> Value {
    until("the delivery is over", 2 * LONG, || {
        let found = deliveries(farm, hook).into_iter().find(|one| one["event"] == event);
        found.filter(|one| one["state"] != "received")
    })
}

/// Its only build, once it is published.
fn published(farm: &Farm, delivery: &Value) -> Value {
    assert_eq!(delivery["state"], "done", "{delivery:#}");
    until("the build is published", 2 * LONG, || {
        let record = show(farm, delivery["builds"][0].as_str().unwrap());
        assert!(record["failure"].is_null(), "{record:#}");
        (record["state"] == "succeeded").then_some(record)
    })
}

/// Has all hooks be looked at now, and waits until they were.
fn look(farm: &Farm) {
    let url = farm.database_url();
    until("looks are planned", LONG, || {
        (psql(url, "SELECT count(*) FROM hook_looks WHERE begun_at IS NULL") == "2").then_some(())
    });
    let before = psql(
        url,
        "UPDATE hook_looks SET due_at = farm_now(); SELECT coalesce(sum(looks), 0) FROM hook_looks",
    );
    let before: u64 = before.lines().last().unwrap().parse().unwrap();
    until("the looks are over", 2 * LONG, || {
        let over =
            "SELECT sum(looks) FROM hook_looks HAVING count(*) FILTER (WHERE begun_at IS NOT NULL) = 0";
        psql(url, over).parse::<u64>().ok().filter(|now| *now >= before + 2)
    });
}

struct Registry {
    port: u16,
    path: String,
    secret: String,
    repository: String,
}

impl Registry {
    fn add(farm: &Farm, port: u16, name: &str, image: &str) -> Self {
        let made = farm.cli(&["hook", "add", "distribution", image, "--name", name, "--json"]).json();
        let Forge { path, secret, .. } = Forge::of(port, &made);
        let (_, repository) = image.split_once('/').unwrap();
        Self { port, path, secret, repository: repository.to_owned() }
    }

    fn notify(&self, tag: &str, digest: &str) {
        let bearer = format!("Bearer {}", self.secret);
        let headers = [
            ("content-type", "application/vnd.docker.distribution.events.v1+json"),
            ("authorization", &bearer),
        ];
        let target = json!({"repository": self.repository, "tag": tag, "digest": digest});
        let body =
            json!({"events": [{"id": "1", "action": "push", "target": target, "actor": {"name": "ci"}}]});
        let (_, answer) = post_raw(self.port, &self.path, &headers, body.to_string().as_bytes());
        assert_eq!(answer.0, 202, "{answer:?}");
    }
}

#[test]
fn a_lost_push_a_schedule_and_a_base_image_are_built_and_hooks_that_build_upon_each_other_end() {
    let (a, b, port, at) = (GitHost::start(), GitHost::start(), free_port(), repository("sweep"));
    let rules = |name: &str, more: &str| {
        format!(
            "version: 1\nimages:\n  {name}:\n    on:\n      push: {{branches: [main]}}\n{more}    platforms: [linux/amd64]\n    \
             destinations: [{at}/{name}]\n    tags: [\"{{branch}}\"]\n"
        )
    };
    let dockerfile = format!("FROM scratch\nLABEL of={}\nCOPY file /\n", nonce());
    let of_a =
        format!("      schedule: {{nightly: \"0 3 * * *\"}}\n      base_image: [{at}/base:1, {at}/b:main]\n");
    let of_b = format!("      base_image: [{at}/a:main]\n");
    let files = |rules: &str, host: &GitHost| {
        host.commit(&[(".farm.yaml", rules), ("Dockerfile", &dockerfile), ("file", "one\n")])
    };
    let (first_a, first_b) = (files(&rules("a", &of_a), &a), files(&rules("b", &of_b), &b));
    let open = format!("{},{}", a.place(), b.place());
    let worker = WorkerSpec::new("w1").platforms("linux/amd64").arg("--fetch-from").arg(&open);
    let listen = format!("127.0.0.1:{port}");
    let builder =
        Farm::builder().arg("--hooks-listen").arg(&listen).config("[hooks]\nbase_image_seconds = 0\n");
    let farm = builder.worker(worker).start();
    let add = |name: &str, host: &GitHost| {
        let (full, place, url) = (format!("acme/{name}"), host.place(), host.url());
        let add = [
            "hook",
            "add",
            "github",
            &full,
            "--host",
            &place,
            "--clone-url",
            &url,
            "--publish",
            "refs/heads/main",
            "--json",
        ];
        Forge::of(port, &farm.cli(&add).json())
    };
    let (forge_a, forge_b) = (add("a", &a), add("b", &b));
    forge_a.deliver("one", "push", &push(&a, "a", &first_a));
    forge_b.deliver("one", "push", &push(&b, "b", &first_b));
    published(&farm, &became(&farm, "a", "push"));
    published(&farm, &became(&farm, "b", "push"));

    // The first look only notes where refs are. What is pushed then without a word is found by the next one, once.
    look(&farm);
    assert_eq!((deliveries(&farm, "a").len(), deliveries(&farm, "b").len()), (1, 1));
    says(&farm.cli(&["hook", "show", "a"]).ok(), &["1 branch or tag noted", "nightly (0 3 * * *), next in"]);
    let second = a.commit(&[("file", "two\n")]);
    look(&farm);
    // Its only branch has moved, so nothing of that list was known: it is looked once more, with the history.
    look(&farm);
    // Its delivery might be late only.
    let waits = psql(
        farm.database_url(),
        "SELECT count(*) FROM deliveries WHERE own LIKE 'sweep %' AND due_at > farm_now() + interval '30 seconds'",
    );
    assert_eq!(waits, "1");
    psql(farm.database_url(), "UPDATE deliveries SET due_at = farm_now() WHERE own LIKE 'sweep %'");
    let swept = became(&farm, "a", "sweep");
    let built = published(&farm, &swept);
    assert_eq!(
        (&built["origins"][0]["commit"], &built["because"], &built["created_by"]),
        (&json!(second), &json!("sweep refs/heads/main"), &json!("hook:default/a"))
    );
    says(
        &farm.cli(&["show", swept["builds"][0].as_str().unwrap()]).ok(),
        &["because of sweep refs/heads/main"],
    );
    says(&farm.cli(&["hook", "show", "a"]).ok(), &["made up for refs/heads/main"]);
    look(&farm);
    assert_eq!(deliveries(&farm, "a").len(), 2);
    says(&farm.cli(&["hook", "show", "a"]).ok(), &["nothing was missed"]);
    // Looks are none of the builds of a list.
    assert_eq!(farm.cli(&["builds", "--json"]).json()["builds"].as_array().unwrap().len(), 3);

    // A schedule's time has passed three times: it is built once, and comes again tomorrow.
    psql(farm.database_url(), "UPDATE hook_schedules SET next_at = farm_now() - interval '3 days'");
    let nightly = published(&farm, &became(&farm, "a", "schedule"));
    assert_eq!(
        (&nightly["because"], &nightly["origins"][0]["commit"]),
        (&json!("schedule nightly (0 3 * * *)"), &json!(second))
    );
    assert_eq!(deliveries(&farm, "a").len(), 3);

    // A base image moves: a is built upon it, b upon a, and there it ends, as a is built upon b.
    let base = Registry::add(&farm, port, "base", &format!("{at}/base"));
    let (of_a, of_b) = (
        Registry::add(&farm, port, "image-a", &format!("{at}/a")),
        Registry::add(&farm, port, "image-b", &format!("{at}/b")),
    );
    base.notify("1", &format!("sha256:{}", "1".repeat(64)));
    assert_eq!(became(&farm, "base", "notification")["state"], "done");
    let upon = published(&farm, &became(&farm, "a", "base_image"));
    assert_eq!(upon["because"], json!(format!("base_image {at}/base:1")));
    of_a.notify("main", upon["index_digest"].as_str().unwrap());
    let upon = published(&farm, &became(&farm, "b", "base_image"));
    of_b.notify("main", upon["index_digest"].as_str().unwrap());
    let ended = became(&farm, "image-b", "notification");
    assert_eq!(ended["state"], "ignored", "{ended:#}");
    says(ended["reason"].as_str().unwrap(), &["a: ", "has come of what it has built itself"]);
    // Somebody else's push of b's image is none of the farm's.
    of_b.notify("main", &format!("sha256:{}", "2".repeat(64)));
    until("a is built upon it", LONG, || {
        (deliveries(&farm, "a").iter().filter(|one| one["event"] == "base_image").count() == 2).then_some(())
    });

    // Its deliveries are processed once more like any other.
    farm.cli(&["hook", "redeliver", "a", swept["id"].as_str().unwrap()]).ok();
    let again = until("it is over once more", LONG, || {
        let found = deliveries(&farm, "a").into_iter().find(|one| one["id"] == swept["id"]);
        found.filter(|one| one["state"] != "received" && one["builds"] != swept["builds"])
    });
    published(&farm, &again);
}
