//! Mirrors that the farm repeats, by the command line and the protocol: what is refused, and what is shown. That they are copied is in
//! `e2e/mirroring.rs`.

use farm_tests::farm::{Farm, Output, output};

const FROM: &str = "registry.example/base/python:3.11";
const TO: &str = "127.0.0.1:9/python:3.11";

fn farm() -> Farm {
    let farm = Farm::builder().arg("--shared-registry").arg("127.0.0.1:9").start();
    farm.cli(&["project", "create", "web", "--admin", "ada"]).ok();
    for (who, role) in [("bob", "builder"), ("vera", "viewer")] {
        farm.cli(&["member", "set", who, "--role", role, "--project", "web"]).ok();
    }
    farm
}

fn token(farm: &Farm, who: &str) -> String {
    farm.cli(&["token", "create", "--for", who]).ok().trim().to_owned()
}

fn by(farm: &Farm, token: &str, args: &[&str]) -> Output {
    output(farm.command(args).env_remove("FARM_TOKEN_FILE").env("FARM_TOKEN", token))
}

#[track_caller]
fn refused(said: Output, status: i32, words: &[&str]) {
    assert_eq!((said.status, said.stdout.as_str()), (status, ""), "{said:?}");
    for part in words {
        assert!(said.stderr.contains(part), "`{part}` is missing in {said:?}");
    }
}

#[test]
fn whoever_may_copy_has_it_repeated_and_everybody_in_the_project_sees_that() {
    let farm = farm();
    let [ada, bob, vera] = ["ada", "bob", "vera"].map(|who| token(&farm, who));
    let mirror = ["mirror", FROM, TO, "--every", "24h", "--detach"];
    let none = by(&farm, &bob, &["mirror", "ls"]).ok();
    assert!(none.contains("project web has nothing mirrored again and again"), "{none}");
    refused(by(&farm, &vera, &mirror), 3, &["vera is viewer of project web", "needs builder"]);
    refused(
        by(&farm, &bob, &["mirror", FROM, TO, "--every", "5m", "--detach"]),
        2,
        &["every 10 minutes at most"],
    );
    for (args, why) in [
        (&["--every", "never"][..], "24h"),
        (&["--every", "24h", "--if-unchanged"], "cannot be used with"),
        (&["--every", "24h", "--idempotency-key", "k"], "cannot be used with"),
    ] {
        refused(by(&farm, &bob, &[&["mirror", FROM, TO][..], args].concat()), 2, &[why]);
    }
    let elsewhere = ["mirror", FROM, "registry.example/not-ours:1", "--every", "24h", "--detach"];
    refused(by(&farm, &bob, &elsewhere), 3, &["project web may not push to registry.example/not-ours"]);
    // Protected tags are moved by whoever may move them, also by the farm in their name.
    by(&farm, &ada, &["project", "protect", "3.*", "--role", "publisher"]).ok();
    refused(by(&farm, &bob, &mirror), 3, &["bob may not move"]);
    by(&farm, &ada, &["project", "unprotect", "3.*"]).ok();

    let added = by(&farm, &bob, &mirror);
    assert!(
        added.stderr.contains(&format!("the farm copies {FROM} to {TO} every 1 d from now on")),
        "{added:?}"
    );
    let listed = by(&farm, &vera, &["mirror", "ls", "--json"]).json();
    let one = &listed["mirrors"][0];
    assert_eq!(
        (&listed["project"], &one["created_by"], &one["source"]),
        (&"web".into(), &"bob".into(), &FROM.into())
    );
    assert_eq!((&one["destination"], &one["every_seconds"]), (&TO.into(), &86_400.into()));
    let table = by(&farm, &vera, &["mirror", "ls"]).ok();
    assert!(table.starts_with("DESTINATION") && table.contains(TO) && table.contains("1 d"), "{table}");
    assert_eq!(
        by(&farm, &vera, &["mirror", "ls", "--format", "{{ destination }} {{ every_seconds }}"]).ok(),
        format!("{TO} 86400\n")
    );
    refused(by(&farm, &vera, &["mirror", "rm", TO]), 3, &["needs builder"]);
    refused(by(&farm, &bob, &["mirror", "rm", "127.0.0.1:9/other:1"]), 2, &["repeats no mirror to this tag"]);
    // Of another project nobody sees it.
    assert_eq!(farm.cli(&["mirror", "ls", "--json"]).json()["mirrors"].as_array().unwrap().len(), 0);
    let removed = by(&farm, &ada, &["mirror", "rm", TO]).ok();
    assert_eq!(removed, format!("{TO} is mirrored from {FROM} no more\n"));
    let audit = by(&farm, &ada, &["audit"]).ok();
    assert!(audit.contains("mirror.add") && audit.contains("mirror.remove"), "{audit}");
}
