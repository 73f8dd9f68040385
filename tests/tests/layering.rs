//! Who may import whom. The folder tree says it in words; this says it to a change that forgets.
#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Each package and the farm packages that it may depend on, dev-dependencies left out.
const ALLOWED: &[(&str, &[&str])] = &[
    ("farm-types", &[]),
    ("farm-dockerfile", &["farm-types"]),
    ("farm-proto", &["farm-types"]),
    ("farm-core", &["farm-types"]),
    ("farm-store", &["farm-types", "farm-core"]),
    ("farm-coordinator", &["farm-types", "farm-dockerfile", "farm-proto", "farm-core", "farm-store"]),
    ("farm-worker", &["farm-types", "farm-dockerfile", "farm-proto"]),
    // Starts processes and knows only their flags.
    ("farm-local", &["farm-types"]),
    ("farm", &["farm-types", "farm-dockerfile", "farm-proto", "farm-local"]),
    // Its driver compares with what farm reads; the tests themselves see all.
    ("farm-tests", &["farm-dockerfile", "farm-types"]),
];

/// Packages from outside that one package only may use, since their types stay there.
const ONE_USER: &[(&str, &str)] = &[
    ("sqlx", "farm-store"),
    ("oci-client", "farm-coordinator"),
    ("object_store", "farm-coordinator"),
    ("bollard-buildkit-proto", "farm-worker"),
];

/// What must not come near the pure packages.
const IMPURE: &[&str] = &["tokio", "tonic", "sqlx", "futures", "reqwest"];

fn packages() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = |value: &serde_json::Value| value["name"].as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            let normal = dependencies.filter(|dependency| dependency["kind"].as_str() != Some("dev"));
            (name(package), normal.map(name).collect())
        })
        .collect()
}

#[test]
fn every_package_imports_only_what_lies_below_it() {
    let packages = packages();
    let known: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    let there: BTreeSet<&str> = packages.keys().map(String::as_str).collect();
    assert_eq!(there, known, "a new package needs its place in ALLOWED");
    for (name, allowed) in ALLOWED {
        let own = packages[*name].iter().filter(|dependency| there.contains(dependency.as_str()));
        for dependency in own {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not import {dependency}");
        }
    }
}

#[test]
fn foreign_types_stay_in_the_package_that_owns_the_job() {
    for (name, dependencies) in packages() {
        for (foreign, owner) in ONE_USER {
            let uses = dependencies.contains(*foreign);
            assert!(!uses || name == *owner, "{foreign} is for {owner} only, but {name} uses it");
        }
    }
}

#[test]
fn what_decides_does_nothing() {
    let packages = packages();
    for pure in ["farm-types", "farm-dockerfile", "farm-core"] {
        for impure in IMPURE {
            assert!(!packages[pure].contains(*impure), "{pure} must not import {impure}");
        }
    }
}

#[test]
fn the_two_edges_never_import_each_other_and_the_clients_types_stay_in_their_folders() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let grep = |pattern: &str, folder: &str| {
        let output = Command::new("grep").args(["-rlE", pattern, folder]).current_dir(root).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let outside = |files: Vec<String>, home: &str| -> Vec<String> {
        files.into_iter().filter(|file| !file.starts_with(home)).collect()
    };
    let oci = outside(grep("oci_distribution::", "coordinator/src"), "coordinator/src/registry/");
    assert!(oci.is_empty(), "the registry client's types are used in {oci:?}");
    let buildkit = outside(grep("bollard_buildkit_proto", "worker/src"), "worker/src/buildkit/");
    assert!(buildkit.is_empty(), "BuildKit's types are used in {buildkit:?}");
    let schedules = grep("farm_core::work|reconcile::", "coordinator/src/grpc");
    assert!(schedules.is_empty(), "a handler must not schedule: {schedules:?}");
}
