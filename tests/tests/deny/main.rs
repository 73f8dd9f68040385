//! What may be in the dependency tree: `deny.toml`, held against what cargo compiles here for farm and its tests.
//!
//! The same file is cargo-deny's, which takes minutes to compile; this needs nothing but cargo. What is checked: licences,
//! crates that must not come in, requirements of `*`, crates that come in twice, and where they come from; also that
//! each exception is still needed. A key of the file that isn't known here is an error, so nothing in it is passed over.
//! One more kind of rule: its key in `rules.rs`, its function in `checks.rs`, and a test of a tree that breaks it.
//!
//! Advisories need a database from the network: `tests/run.sh advisories`. That a crate isn't compiled twice either: `once.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod checks;
mod once;
mod rules;
mod tree;

use checks::check;
use rules::Rules;
use tree::{Dependency, Package, Tree};

fn rules() -> Rules {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deny.toml");
    Rules::parse(&std::fs::read_to_string(path).unwrap()).unwrap_or_else(|error| panic!("deny.toml: {error}"))
}

#[test]
fn all_that_is_compiled_is_allowed_and_no_exception_is_left_over() {
    let (rules, tree) = (rules(), Tree::of_this_workspace());
    assert!(
        rules.graph.targets.contains(&tree.host),
        "deny.toml is for {:?}, not for {}",
        rules.graph.targets,
        tree.host
    );
    let found = check(&rules, &tree);
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn the_tree_is_the_one_that_cargo_compiles() {
    let tree = Tree::of_this_workspace();
    let of = |name: &str| tree.packages.iter().filter(|package| package.name == name).count();
    // A dependency of ours, one of farm's tests only, and one for building only.
    for name in ["farm-types", "tokio", "trycmd", "tonic-prost-build"] {
        assert_eq!(of(name), 1, "{name}");
    }
    // In the lock file, but for another system.
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).unwrap();
    assert!(lock.contains("name = \"windows-sys\""));
    assert_eq!(of("windows-sys"), 0);
}

const FILE: &str = r#"
    [graph]
    targets = ["x86_64-unknown-linux-gnu"]
    all-features = false
    [licenses]
    allow = ["MIT"]
    exceptions = [{ crate = "exempt", allow = ["Zlib"] }]
    confidence-threshold = 0.9
    include-dev = true
    unused-allowed-license = "deny"
    private.ignore = false
    [bans]
    multiple-versions = "deny"
    multiple-versions-include-dev = true
    wildcards = "deny"
    allow-wildcard-paths = true
    deny = [{ crate = "left", reason = "gone" }, { crate = "old:<2", reason = "unsafe" }]
    skip = [{ crate = "twice:1", reason = "other needs it" }]
    [sources]
    unknown-registry = "deny"
    unknown-git = "deny"
"#;

const REGISTRY: Option<&str> = Some("registry+of cargo");

fn package(name: &str, version: &str, license: &str) -> Package {
    Package {
        name: name.to_owned(),
        version: version.parse().unwrap(),
        license: Some(license.to_owned()),
        source: REGISTRY.map(str::to_owned),
        is_member: false,
        dependencies: Vec::new(),
    }
}

fn dependency(name: &str, requirement: &str) -> Dependency {
    Dependency { name: name.to_owned(), req: requirement.parse().unwrap(), registry: None, path: None }
}

/// All that [`FILE`] wants to be there.
fn good() -> Vec<Package> {
    let member = Package { source: None, is_member: true, ..package("ours", "0.1.0", "MIT") };
    vec![
        member,
        package("exempt", "3.0.0", "Zlib"),
        package("twice", "1.2.0", "Apache-2.0 OR MIT"),
        package("twice", "2.0.0", "Apache-2.0/MIT"),
        package("old", "2.0.0", "MIT"),
    ]
}

fn found(file: &str, packages: Vec<Package>) -> Vec<String> {
    check(&Rules::parse(file).unwrap(), &Tree { host: "x86_64-unknown-linux-gnu".to_owned(), packages })
}

#[track_caller]
fn breaks(package: Package, words: &[&str]) {
    let mut packages = good();
    packages.push(package);
    let found = found(FILE, packages);
    assert_eq!(found.len(), 1, "{found:#?}");
    for word in words {
        assert!(found[0].contains(word), "{word} is not in {}", found[0]);
    }
}

#[test]
fn a_tree_that_breaks_no_rule_passes() {
    assert_eq!(found(FILE, good()), [""; 0]);
}

#[test]
fn licences_are_taken_as_the_expressions_that_they_are() {
    breaks(
        package("copyleft", "1.0.0", "GPL-3.0-only"),
        &["copyleft 1.0.0", "GPL-3.0-only", "cargo tree -i"],
    );
    breaks(package("both", "1.0.0", "MIT AND Zlib"), &["both 1.0.0"]);
    breaks(package("with", "1.0.0", "Apache-2.0 WITH LLVM-exception"), &["with 1.0.0"]);
    breaks(package("words", "1.0.0", "see LICENSE"), &["words 1.0.0", "see LICENSE"]);
    breaks(Package { license: None, ..package("none", "1.0.0", "") }, &["none 1.0.0", "names no licence"]);
    // What one crate is excepted for is for that one only.
    breaks(package("another", "1.0.0", "Zlib"), &["another 1.0.0"]);
}

#[test]
fn a_clarification_says_what_a_crate_leaves_out() {
    let file =
        format!("{FILE}\n[[licenses.clarify]]\ncrate = \"none\"\nexpression = \"MIT\"\nlicense-files = []\n");
    let mut packages = good();
    packages.push(Package { license: None, ..package("none", "1.0.0", "") });
    assert_eq!(found(&file, packages), [""; 0]);
    let left = found(&file, good());
    assert!(left.len() == 1 && left[0].contains("licenses.clarify") && left[0].contains("none"), "{left:?}");
}

#[test]
fn some_crates_must_not_come_in_some_only_in_a_version() {
    breaks(package("left", "7.0.0", "MIT"), &["left 7.0.0", "gone"]);
    let mut packages = good();
    packages.retain(|package| package.name != "old");
    packages.push(package("old", "1.9.0", "MIT"));
    let found = found(FILE, packages);
    assert!(found.len() == 1 && found[0].contains("old 1.9.0") && found[0].contains("unsafe"), "{found:?}");
}

#[test]
fn a_requirement_says_a_version_unless_it_is_a_path_of_ours() {
    let any = Package { dependencies: vec![dependency("old", "*")], ..package("any", "1.0.0", "MIT") };
    breaks(any, &["any 1.0.0", "old", "`*`"]);
    let path = Dependency { path: Some("../ours".to_owned()), ..dependency("ours", "*") };
    let member = Package { source: None, is_member: true, ..package("other", "0.1.0", "MIT") };
    let mut packages = good();
    packages.push(Package { dependencies: vec![path], ..member });
    assert_eq!(found(FILE, packages), [""; 0]);
}

#[test]
fn crates_come_from_cargos_own_registry_or_from_here() {
    let from = |source: Option<&str>| Package {
        source: source.map(str::to_owned),
        ..package("far", "1.0.0", "MIT")
    };
    breaks(from(Some("git+https://localhost/far")), &["far 1.0.0", "git+https://localhost/far"]);
    breaks(from(None), &["far 1.0.0", "outside of the workspace"]);
    breaks(from(Some("registry+of somebody")), &["far 1.0.0", "registry+of somebody"]);
    let elsewhere = Dependency { registry: Some("sparse+of somebody".to_owned()), ..dependency("old", "2") };
    let member = Package { source: None, is_member: true, ..package("member", "0.1.0", "MIT") };
    breaks(Package { dependencies: vec![elsewhere], ..member }, &["member 0.1.0", "sparse+of somebody"]);
}

#[test]
fn a_crate_that_comes_in_twice_needs_a_reason_for_each_but_one() {
    breaks(package("old", "3.0.0", "MIT"), &["old", "2.0.0", "3.0.0", "bans.skip"]);
    breaks(package("twice", "3.0.0", "MIT"), &["twice", "2.0.0, 3.0.0"]);
}

#[test]
fn what_is_not_needed_any_more_has_to_go() {
    let without = |name: &str, version: &str| {
        let mut packages = good();
        packages.retain(|package| package.name != name || package.version.to_string() != version);
        found(FILE, packages)
    };
    for (name, version, key) in [
        ("exempt", "3.0.0", "licenses.exceptions"),
        ("twice", "1.2.0", "bans.skip"),
        ("twice", "2.0.0", "bans.skip"),
    ] {
        let left = without(name, version);
        assert!(left.len() == 1 && left[0].contains(key) && left[0].contains(name), "{left:?}");
    }
    let unused = FILE.replace("allow = [\"MIT\"]", "allow = [\"MIT\", \"Apache-2.0\", \"ISC\"]");
    // All that is Apache-2.0 here could be taken as MIT as well.
    let left = found(&unused, good());
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left[0].contains("Apache-2.0") && left[1].contains("ISC"), "{left:?}");
}

#[test]
fn a_key_that_is_not_known_and_a_rule_that_would_let_pass_are_errors() {
    for (from, to, words) in [
        ("[sources]", "[sources]\nallow-git = []", "allow-git"),
        ("wildcards = \"deny\"", "wildcards = \"allow\"", "allow"),
        (
            "skip = [{ crate = \"twice:1\", reason = \"other needs it\" }]",
            "skip = [{ crate = \"twice:1\" }]",
            "reason",
        ),
        ("allow = [\"MIT\"]", "allow = [\"MTI\"]", "MTI"),
        ("include-dev = true\n    unused", "include-dev = false\n    unused", "include-dev"),
    ] {
        let file = FILE.replacen(from, to, 1);
        assert_ne!(file, FILE);
        let error = Rules::parse(&file).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}
