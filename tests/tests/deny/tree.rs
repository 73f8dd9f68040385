//! The packages that cargo compiles for this workspace, its tests included, on this machine.

use std::collections::BTreeSet;
use std::process::Command;

use farm_tests::process::run;
use semver::{Version, VersionReq};
use serde::Deserialize;

#[derive(Debug)]
pub struct Tree {
    /// The machine's target triple.
    pub host: String,
    pub packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
pub struct Package {
    pub name: String,
    pub version: Version,
    /// In words of SPDX, if its author keeps to them.
    pub license: Option<String>,
    /// `None`: a folder.
    pub source: Option<String>,
    pub dependencies: Vec<Dependency>,
    #[serde(skip)]
    pub is_member: bool,
}

#[derive(Debug, Deserialize)]
pub struct Dependency {
    pub name: String,
    pub req: VersionReq,
    /// `None`: cargo's own.
    pub registry: Option<String>,
    pub path: Option<String>,
}

impl std::fmt::Display for Package {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} {}", self.name, self.version)
    }
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<serde_json::Value>,
    workspace_members: BTreeSet<String>,
}

impl Tree {
    pub fn of_this_workspace() -> Tree {
        let version = run(Command::new("rustc").arg("-vV"));
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned();
        // What is known of packages; but it knows nothing of features that are on for one target or for tests only, and so
        // names some that nobody compiles. Crates of other systems may never have been fetched.
        let about = cargo(&["metadata", "--format-version", "1", "--offline", "--filter-platform", &host]);
        let about: Metadata = serde_json::from_str(&about).unwrap();
        let edges = "normal,build,dev";
        let compiled = cargo(&[
            "tree",
            "--workspace",
            "--offline",
            "--edges",
            edges,
            "--prefix",
            "none",
            "--format",
            "{p}",
        ]);
        let compiled: BTreeSet<(&str, Version)> = compiled.lines().filter_map(name_and_version).collect();
        let mut packages = Vec::new();
        for value in about.packages {
            let is_member = about.workspace_members.contains(value["id"].as_str().unwrap());
            let package: Package = serde_json::from_value(value).unwrap();
            if compiled.contains(&(package.name.as_str(), package.version.clone())) {
                packages.push(Package { is_member, ..package });
            }
        }
        assert_eq!(
            packages.len(),
            compiled.len(),
            "`cargo metadata` doesn't know all that `cargo tree` lists"
        );
        Tree { host, packages }
    }
}

/// Of `serde v1.0.229 (proc-macro) (*)`.
fn name_and_version(line: &str) -> Option<(&str, Version)> {
    let mut words = line.split(' ');
    let (name, version) = (words.next()?, words.next()?);
    Some((name, version.strip_prefix('v')?.parse().unwrap()))
}

fn cargo(args: &[&str]) -> String {
    run(Command::new(env!("CARGO")).args(args).current_dir(env!("CARGO_MANIFEST_DIR")))
}
