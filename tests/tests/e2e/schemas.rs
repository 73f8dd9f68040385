//! What `--json` prints fits `docs/reference/json-schema.json`, and has nothing in it that isn't written down there.

use boon::{Compiler, SchemaIndex, Schemas};
use farm_tests::bed::Bed;
use farm_tests::farm::{Farm, output, program};
use serde_json::Value;

use crate::support::*;

/// The schema of one definition, strict: what is not named is an error.
fn schema(name: &str) -> (Schemas, SchemaIndex) {
    let text = include_str!("../../../docs/reference/json-schema.json");
    let mut whole: Value = serde_json::from_str(text).unwrap();
    close(&mut whole["$defs"]);
    whole["$ref"] = format!("#/$defs/{name}").into();
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.enable_format_assertions();
    compiler.add_resource("schema.json", whole).unwrap();
    let index = compiler.compile("schema.json", &mut schemas).unwrap_or_else(|e| panic!("{e:#}"));
    (schemas, index)
}

fn close(part: &mut Value) {
    if let Value::Object(object) = part {
        if object.contains_key("properties") && !object.contains_key("additionalProperties") {
            object.insert("additionalProperties".to_owned(), false.into());
        }
        object.values_mut().for_each(close);
    } else if let Value::Array(list) = part {
        list.iter_mut().for_each(close);
    }
}

#[track_caller]
pub fn fits(name: &str, text: &str) {
    let (schemas, schema) = schema(name);
    let lines: Vec<&str> = text.lines().collect();
    assert!(!lines.is_empty(), "{name}: nothing was printed");
    for line in lines {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{name}: {e}: {line}"));
        if let Err(wrong) = schemas.validate(&value, schema) {
            panic!("{name}: {wrong:#}\n{value:#}");
        }
    }
}

#[test]
fn what_json_prints_is_what_the_schema_says() {
    let farm = small_farm();
    let context = Context::new(&format!("FROM {BASE} as base\nRUN echo {}\n", nonce()));
    let tag = format!("{}:1", repository("schemas"));
    let both = ["-t", &tag, "--platform", "linux/amd64,linux/arm64", "--provenance"];
    let with = |more: &[&'static str]| [&both[..], more].concat();
    fits("build", &submit(&farm, &context, &with(&["--json"])).ok());
    fits("build", &submit(&farm, &context, &with(&["--json", "--detach"])).ok());
    fits("event", &submit(&farm, &context, &with(&["--progress", "json", "--no-cache"])).ok());
    fits("dry-run", &submit(&farm, &context, &with(&["--dry-run", "--json"])).ok());
    let broken = Context::new(&format!("FROM {BASE}\nRUN echo {}; exit 3\n", nonce()));
    let failed = submit(&farm, &broken, &["--json", "--platform", "linux/amd64"]);
    fits("build", &failed.stdout);
    let failed: Value = serde_json::from_str(&failed.stdout).unwrap();
    let id = failed["id"].as_str().unwrap();
    fits("build", &farm.cli(&["show", id, "--json"]).ok());
    fits("log", &farm.cli(&["logs", id, "--json"]).ok());
    fits("build", &farm.cli(&["attach", id, "--json"]).stdout);
    fits("build", &farm.cli(&["retry", id, "--json"]).stdout);
    fits("build", &farm.cli(&["show", id, "--json"]).ok());
    fits("event", &farm.cli(&["retry", id, "--failed-only", "--progress", "json"]).stdout);
    let events = submit(&farm, &broken, &["--progress", "json", "--platform", "linux/amd64"]);
    fits("event", &events.stdout);
    fits("build", &farm.cli(&["check", context.text(), "--json", "--platform", "linux/arm64"]).stdout);
    fits("builds", &farm.cli(&["builds", "--json"]).ok());
    fits("workers", &farm.cli(&["workers", "--json"]).ok());
    let file = context.path().join("rules.yaml");
    let images = "{a: {on: [push], destinations: [r.example/a], tags: [x, latest], secrets: [s], sign: k}, b: {on: [tag]}}";
    std::fs::write(&file, format!("{{version: 1, images: {images}}}")).unwrap();
    let explain = ["rules", "explain", "-f", file.to_str().unwrap(), "--ref", "refs/heads/x", "--json"];
    fits("rules-plan", &farm.cli(&explain).ok());
    fits("image", &farm.cli(&["inspect", &tag, "--json"]).ok());
    fits("image", &farm.cli(&["inspect", BASE, "--json"]).ok());
    fits("build", &farm.cli(&["tag", &tag, "2", "--json"]).ok());
    fits("history", &farm.cli(&["history", &tag, "--json"]).ok());
    let repository = tag.trim_end_matches(":1");
    fits("usage", &farm.cli(&["du", "--json"]).ok());
    fits("pruned", &farm.cli(&["prune", "--workers", "--older-than", "20d", "--dry-run", "--json"]).ok());
    fits("tags", &farm.cli(&["ls", repository, "--json"]).ok());
    farm.cli(&["tag", &tag, "3"]).ok();
    fits("removed", &farm.cli(&["rm", &format!("{repository}:3"), "--dry-run", "--json"]).ok());
    farm.cli(&["rm", &format!("{repository}:3"), &format!("{repository}:2"), "--json"]);
    fits("history", &farm.cli(&["history", &format!("{repository}:2"), "--json"]).ok());
    fits("test", &farm.cli(&["test", &tag, "--json"]).stdout);
    fits("test", &farm.cli(&["test", &tag, "--json", "--entrypoint", "/nope"]).stdout);
    fits("config", &farm.cli(&["config", "--json"]).ok());
}

#[test]
fn what_json_prints_of_people_is_what_the_schema_says() {
    let farm = Farm::builder().arg("--insecure-secrets").start();
    fits("whoami", &farm.cli(&["whoami", "--json"]).ok());
    farm.cli(&["project", "create", "web", "--admin", "ada"]).ok();
    let made = farm.cli(&["token", "create", "--for", "ada", "--expires", "never", "--json"]).ok();
    fits("token-created", &made);
    let made: Value = serde_json::from_str(&made).unwrap();
    let by_ada =
        |args: &[&str]| output(farm.command(args).env("FARM_TOKEN", made["secret"].as_str().unwrap())).ok();
    fits("whoami", &by_ada(&["whoami", "--json"]));
    fits(
        "token-created",
        &by_ada(&["token", "create", "--only-project", "web", "--role", "viewer", "--json"]),
    );
    farm.cli(&["token", "revoke", made["token"]["id"].as_str().unwrap()]).ok();
    fits("tokens", &farm.cli(&["token", "ls", "--json"]).ok());
    fits("projects", &farm.cli(&["project", "ls", "--json"]).ok());
    fits("signing_keys", &farm.cli(&["signing-key", "ls", "--json"]).ok());
    farm.cli(&["signing-key", "generate", "release", "--ref", "refs/heads/main"]).ok();
    fits("signing_keys", &farm.cli(&["signing-key", "ls", "--json"]).ok());
    fits("project", &farm.cli(&["project", "show", "web", "--json"]).ok());
    fits("members", &farm.cli(&["member", "ls", "--project", "web", "--json"]).ok());
    fits("audit", &farm.cli(&["audit", "--all", "--json"]).ok());
    fits("audit", &farm.cli(&["audit", "--project", "web", "--since", "1h", "--json"]).ok());
    fits("audit-verified", &farm.cli(&["audit", "--verify", "--json"]).ok());
    let unknown = "0".repeat(64);
    fits("audit-verified", &farm.cli(&["audit", "--verify", "--head", &unknown, "--json"]).stdout);
    let ids = ["--repository-id", "74", "--owner-id", "65", "--ref", "refs/heads/main", "--role", "builder"];
    farm.cli(&[&["trust", "add", "github", "acme/app"][..], &ids].concat()).ok();
    fits("trusts", &farm.cli(&["trust", "ls", "--json"]).ok());
    fits("hook-secret", &farm.cli(&["hook", "add", "github", "acme/app", "--json"]).ok());
    fits("hook-secret", &farm.cli(&["hook", "rotate", "app", "--json"]).ok());
    farm.cli(&["hook", "test", "app"]).ok();
    fits("hooks", &farm.cli(&["hook", "ls", "--json"]).ok());
    fits("hook-shown", &farm.cli(&["hook", "show", "app", "--json"]).ok());
    fits("deliveries", &farm.cli(&["hook", "deliveries", "app", "--json"]).ok());
    // Nobody is there to be told.
    let notice = ["notice", "add", "ops", "--webhook", "https://127.0.0.1:9/farm", "--hook", "app", "--json"];
    fits("notice-secret", &output(farm.command(&notice).env("FARM_INSECURE_HTTP", "1")).ok());
    fits(
        "notice-secret",
        &output(farm.command(&["notice", "rotate", "ops", "--json"]).env("FARM_INSECURE_HTTP", "1")).ok(),
    );
    fits("notices", &farm.cli(&["notice", "ls", "--json"]).ok());
    fits("notice-shown", &farm.cli(&["notice", "show", "ops", "--json"]).ok());
    farm.cli(&["admin", "add", "ada"]).ok();
    fits("admins", &farm.cli(&["admin", "ls", "--json"]).ok());
    let config = ["config", "add", "team", "http://x", "--project", "web"];
    farm.cli(&config).ok();
    fits("config", &farm.cli(&["config", "--json"]).ok());
}

#[test]
fn the_status_of_a_farm_on_this_machine_fits_its_schema() {
    let bed = Bed::from_env();
    let folder = bed.short_folder("status");
    let engine = bed.engine.clone();
    let ports = [farm_tests::ports::free_port(), farm_tests::ports::free_port()].map(|port| port.to_string());
    let farm = |args: &[&str]| {
        let mut command = program("farm");
        command.args(args).arg("--state-dir").arg(folder.path().join("farm"));
        output(&mut command)
    };
    farm(&["up", "--engine", &engine, "--no-emulation", "--port", &ports[0], "--registry-port", &ports[1]])
        .ok();
    let status = farm(&["status", "--json"]);
    farm(&["down", "--purge", "--yes"]).ok();
    fits("status", &status.ok());
}
