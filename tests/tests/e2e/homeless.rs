//! The command without a home: in CI's containers HOME is often missing, empty, or leads nowhere.

use std::process::Command;

use farm_tests::farm::{Farm, Output, binary, output};

use crate::support::*;

/// `farm ARGS` with nothing in its environment but this.
fn bare(farm: &Farm, folder: &Context, env: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = Command::new(binary("farm"));
    command.args(args).env_clear().current_dir(folder.path());
    command.env("FARM_URL", farm.url()).env("FARM_TOKEN", farm.token());
    output(command.envs(env.iter().copied()))
}

#[test]
fn all_works_without_a_home_and_leaves_nothing_anywhere() {
    let farm = small_farm();
    let context = Context::new(&format!("FROM {BASE}\nRUN echo {}\nENTRYPOINT [\"true\"]\n", nonce()));
    let tag = format!("{}:1", repository("homeless"));
    let folder = Context::empty();
    let build = ["submit", context.text(), "-t", &tag, "--platform", "linux/amd64"];
    let id = build_id(&bare(&farm, &folder, &[], &build).ok());
    for (args, said) in [
        (&["show", &id][..], "succeeded"),
        (&["logs", &id], "linux/amd64 | "),
        (&["builds"], &id),
        (&["workers"], "w1"),
        (&["attach", &id], "built in "),
        (&["inspect", &tag], "1 platform"),
        (&["check", context.text(), "--platform", "linux/amd64"], "nothing found"),
        (&["run", &tag], ""),
        (&["retry", &id], "built in "),
        (&["config"], "from FARM_URL"),
        (&["config", "--json"], "\"file\":null"),
        (&["submit", context.text(), "--dry-run", "--platform", "linux/amd64"], "nothing was sent"),
    ] {
        says(&bare(&farm, &folder, &[], args).ok(), &[said]);
    }
    let nowhere = format!("{}/not/there", context.text());
    for env in [
        &[("HOME", "")][..],
        &[("HOME", &nowhere)],
        &[("HOME", "/dev/null")],
        &[("HOME", ".")],
        &[("XDG_CONFIG_HOME", "config"), ("XDG_CACHE_HOME", "cache"), ("XDG_STATE_HOME", "state")],
        &[("HOME", "/dev/null"), ("FARM_CONFIG", "/dev/null")],
    ] {
        let out = bare(&farm, &folder, env, &build);
        assert_eq!((out.status, out.stderr.as_str()), (0, ""), "{env:?}: {out:?}");
    }
    assert!(!context.path().join("not").exists(), "a home was made");
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        0,
        "something was left in the working folder"
    );
}

#[test]
fn what_needs_a_home_or_an_address_says_so() {
    let farm = Farm::builder().start();
    let folder = Context::empty();
    let change = bare(&farm, &folder, &[], &["config", "set", "emulation", "never"]);
    refused(&change, 2, &["HOME", "FARM_CONFIG"]);
    let own = folder.path().join("own.toml");
    bare(&farm, &folder, &[("FARM_CONFIG", own.to_str().unwrap())], &["config", "set", "emulation", "never"])
        .ok();
    assert!(own.is_file());
    // No farm is on this machine, and none is named.
    let nowhere = bare(&farm, &folder, &[("FARM_URL", "")], &["builds"]);
    refused(&nowhere, 3, &["no farm at http://127.0.0.1:7070", "farm up", "FARM_URL"]);
    let nobody = bare(&farm, &folder, &[("FARM_TOKEN", "")], &["builds"]);
    refused(&nobody, 3, &["FARM_TOKEN"]);
}
