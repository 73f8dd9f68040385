//! No crate is compiled twice for the tests: once for farm and once more, with other features, for its macros and what makes code.
//! And commands that compile programs only (`tests/run.sh faults`) find them made by those that compile tests as well.
//! `tests/Cargo.toml` sees to both, by asking everywhere for what is asked for anywhere.
//!
//! `cargo tree` doesn't tell all of it: what cargo would compile is its unit graph, which it gives under a flag that isn't stable.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use farm_tests::process::run;
use serde::Deserialize;

#[derive(Deserialize)]
struct Graph {
    units: Vec<Unit>,
}

#[derive(Deserialize)]
struct Unit {
    pkg_id: String,
    target: Target,
    mode: String,
    features: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}

/// The libraries that cargo would compile, with the features of each time.
fn libraries(of: &str) -> BTreeMap<String, Vec<BTreeSet<String>>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--workspace", of, "--offline", "-Z", "unstable-options", "--unit-graph"]);
    // What it learns of a compiler that takes such flags is not for the next one that calls it.
    cargo.env("RUSTC_BOOTSTRAP", "1").env("CARGO_CACHE_RUSTC_INFO", "0");
    let graph = run(cargo.current_dir(env!("CARGO_MANIFEST_DIR")));
    let graph: Graph = serde_json::from_str(&graph).unwrap();
    let mut libraries = BTreeMap::<_, Vec<_>>::new();
    for unit in graph.units {
        let is_program = ["bin", "custom-build"].contains(&unit.target.kind[0].as_str());
        if unit.mode == "build" && !is_program {
            let name = unit.pkg_id.rsplit(['/', '#']).next().unwrap().to_owned();
            libraries.entry(name).or_default().push(unit.features);
        }
    }
    libraries
}

/// What not all of them have.
fn differing(features: &[BTreeSet<String>]) -> BTreeSet<&String> {
    features.iter().flatten().filter(|feature| !features.iter().all(|all| all.contains(*feature))).collect()
}

#[test]
fn no_crate_is_compiled_once_more_for_want_of_a_feature() {
    let (all, programs) = (libraries("--all-targets"), libraries("--bins"));
    assert!(all.len() > 200, "{} crates only", all.len());
    let mut found = Vec::new();
    for (name, features) in &all {
        if features.len() > 1 {
            found.push(format!(
                "{name} is compiled {} times; features {:?}",
                features.len(),
                differing(features)
            ));
        }
    }
    // The same crates again, so that each has one set of features.
    for (name, features) in &programs {
        let both: Vec<_> = features.iter().chain(all.get(name).into_iter().flatten()).cloned().collect();
        if !differing(&both).is_empty() {
            found.push(format!("{name} is another one beside tests; features {:?}", differing(&both)));
        }
    }
    assert!(
        found.is_empty(),
        "the feature that differs has to be asked for in tests/Cargo.toml, in [dependencies] or [build-dependencies], by the \
         crate itself or one of farm's that has it (what is listed without features only follows another):\n{}\n",
        found.join("\n")
    );
}
