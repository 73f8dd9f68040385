//! Webhooks over their own listener, as a forge delivers: who is taken, who is refused, and what is kept whatever dies.

use std::time::{Duration, Instant};

use farm_tests::farm::{Farm, output};
use farm_tests::forge::{Forge, post_raw};
use farm_tests::ports::free_port;
use farm_tests::session::Session;
use serde_json::{Value, json};

/// A branch was deleted: of that nothing is fetched, and there is no worker here that could.
fn push(repository: u64) -> Value {
    json!({
        "ref": "refs/heads/old", "before": "1".repeat(40), "after": "0".repeat(40), "deleted": true,
        "head_commit": null, "commits": [],
        "repository": {"id": repository, "full_name": "acme/app", "clone_url": "https://github.com/acme/app.git"},
        "sender": {"id": 7, "login": "ada"}
    })
}

/// What became of a delivery, once it is over.
pub fn over(farm: &Farm, id: &str) -> Value {
    let begin = Instant::now();
    loop {
        let listed = farm.cli(&["hook", "deliveries", "app", "--json"]).json();
        let all = listed["deliveries"].as_array().unwrap();
        let found =
            all.iter().find(|one| one["id"] == id).unwrap_or_else(|| panic!("{id} is not in {all:?}"));
        if found["state"] != "received" {
            return found.clone();
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{found} waits for ever");
    }
}

#[test]
fn what_a_forge_signs_is_kept_once_and_who_else_knocks_is_told_nothing() {
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let mut farm = Farm::builder().arg("--hooks-listen").arg(&listen).start();
    let made = farm.cli(&["hook", "add", "github", "acme/app", "--json"]).json();
    let mut hook = Forge::of(port, &made);

    // A ping, then what is the hook's: kept, and processed.
    let ping = json!({"zen": "…", "hook_id": 1, "repository": push(42)["repository"], "sender": {"id": 7, "login": "ada"}});
    let (status, said) = hook.deliver("ping", "ping", &ping);
    assert!(status == 200 && said.contains("\"ignored\"") && said.contains("a ping"), "{status} {said}");
    assert_eq!(farm.cli(&["hook", "show", "app", "--json"]).json()["hook"]["repository_id"], "42");
    let (status, said) = hook.deliver("one", "push", &push(42));
    assert!(status == 202 && said.contains("\"received\""), "{status} {said}");
    let became = over(&farm, "one");
    assert_eq!(
        (&became["state"], &became["reason"]),
        (&json!("ignored"), &json!("refs/heads/old was deleted, so there is nothing to build"))
    );
    // The same once more is answered with what became of it; another body under its id isn't taken.
    let (status, said) = hook.deliver("one", "push", &push(42));
    assert!(status == 200 && said.contains("nothing to build"), "{status} {said}");
    assert_eq!(hook.deliver("one", "push", &json!({"repository": 1})).0, 409);
    farm.cli(&["hook", "redeliver", "app", "one"]).ok();
    let none = farm.cli(&["hook", "redeliver", "app", "eins"]);
    assert!(
        none.status == 2 && none.stderr.contains("delivery \"eins\": hook app has no such delivery"),
        "{none:?}"
    );
    over(&farm, "one");
    // Another repository of the same name, an event from which nothing follows, and what can't be read.
    let (status, said) = hook.deliver("other", "push", &push(43));
    assert!(status == 200 && said.contains("it is about repository 43"), "{status} {said}");
    assert_eq!(hook.deliver("star", "star", &ping).0, 200);
    let (status, said) = hook.deliver("bad", "push", &json!({"ref": "--upload-pack=id"}));
    assert!(status == 422 && said.contains("failed"), "{status} {said}");

    // Who isn't the forge gets one answer, whether there is a hook or not.
    let forged = [("x-github-event", "push"), ("x-hub-signature-256", "sha256=00")];
    let nowhere = format!("/hooks/{}", "a".repeat(32));
    let refused = post_raw(port, &hook.path, &forged, b"{}");
    assert_eq!(refused.1, (401, String::new()));
    assert_eq!(post_raw(port, &nowhere, &forged, b"{}"), refused);
    assert_eq!(post_raw(port, "/hooks/%00'", &[], b""), refused);
    assert_eq!(hook.deliver_as("x", "push", &push(42), "another secret").0, 401);
    let gitea = [("x-gitea-event", "push"), ("x-github-event", "push")];
    assert_eq!(post_raw(port, &hook.path, &gitea, b"{}"), refused);
    assert_eq!(post_raw(port, "/", &[], b"").1.0, 404);
    let long = (25 * 1024 * 1024 + 1).to_string();
    for path in [&hook.path, &nowhere] {
        assert_eq!(post_raw(port, path, &[("content-length", &long)], b"").1, (413, String::new()));
    }

    // Another secret: both count, then one.
    assert!(farm.cli(&["hook", "test", "app"]).ok().contains("takes what its secret has signed"));
    let rotated = farm.cli(&["hook", "rotate", "app", "--json"]).json();
    let old = std::mem::replace(&mut hook.secret, rotated["secret"].as_str().unwrap().to_owned());
    assert_eq!(hook.deliver_as("by-old", "ping", &ping, &old).0, 200);
    assert_eq!(hook.deliver("by-new", "ping", &ping).0, 200);
    assert!(farm.cli(&["hook", "rotate", "app"]).stderr.contains("--finish"));
    farm.cli(&["hook", "rotate", "app", "--finish"]).ok();
    assert_eq!(hook.deliver_as("by-old", "ping", &ping, &old).0, 401);

    // A viewer sees what there is, and not where it is delivered to.
    farm.cli(&["member", "set", "vera", "--role", "viewer"]).ok();
    let vera = farm.cli(&["token", "create", "--for", "vera"]).ok();
    let by_vera = |args: &[&str]| output(farm.command(args).env("FARM_TOKEN", vera.trim()));
    assert_eq!(by_vera(&["hook", "ls", "--json"]).json()["hooks"][0]["url"], Value::Null);
    by_vera(&["hook", "deliveries", "app"]).ok();
    assert_eq!(by_vera(&["hook", "rm", "app"]).status, 3);

    // While the database keeps nothing the sender is told to come back, and then it is kept; what was kept outlives the coordinator.
    let mut session = Session::open(farm.database_url());
    session.ask("BEGIN; LOCK TABLE deliveries IN ACCESS EXCLUSIVE MODE; SELECT 1");
    assert_eq!(hook.deliver("two", "push", &push(42)).0, 503);
    session.ask("ROLLBACK; SELECT 1");
    assert_eq!(hook.deliver("two", "push", &push(42)).0, 202);
    farm.kill_coordinator();
    farm.start_coordinator();
    assert_eq!(over(&farm, "two")["state"], "ignored");
    assert_eq!(hook.deliver("two", "push", &push(42)).0, 200);
    farm.cli(&["hook", "rm", "app"]).ok();
    assert_eq!(hook.deliver("three", "push", &push(42)), (401, String::new()));
    let told = farm.cli(&["audit", "--json"]).ok();
    assert!(told.contains("\"hook.repository\"") && told.contains("hook:default/app"), "{told}");
    assert!(!told.contains(&hook.secret));
}
