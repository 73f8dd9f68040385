//! How often a registry is asked for a build.

use std::path::Path;

use farm_tests::farm::Farm;
use farm_tests::registry::PrivateRegistry;
use farm_tests::requests::counted;

use crate::support::*;

/// What the registry is asked for by one submission, all of it ended.
fn asked(farm: &Farm, registry: &PrivateRegistry, context: &Context, args: &[&str]) -> Vec<String> {
    let before = registry.requests().len();
    submit(farm, context, args).ok();
    registry.requests().split_off(before)
}

/// The example, upon bases of this registry.
fn example(registry: &str) -> Context {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/multiarch");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let dockerfile = read("Dockerfile").replace("localhost:5002", registry);
    // Nobody else's build of it is in the engine's cache.
    Context::new(&dockerfile).file("app.py", format!("{}# {}\n", read("app.py"), nonce()))
}

#[test]
fn a_warm_submit_of_two_platforms_asks_its_registry_less_than_twenty_times() {
    let (farm, registry) = (small_farm(), PrivateRegistry::start());
    // Its bases are asked for as well.
    for name in ["python:3.11-slim-amd64", "python:3.11-slim-arm64"] {
        farm.cli(&["copy", &format!("localhost:5002/{name}"), &format!("{}/{name}", registry.address())])
            .ok();
    }
    let context = example(&registry.address());
    let tag = format!("{}/team/app:1", registry.address());
    let args = ["-t", &tag, "--platform", "linux/amd64,linux/arm64"];
    let [cold, warm, other_tag] = [
        asked(&farm, &registry, &context, &args),
        asked(&farm, &registry, &context, &args),
        asked(
            &farm,
            &registry,
            &context,
            &[&args[..], &["-t", &format!("{}/team/app:2", registry.address())]].concat(),
        ),
    ];
    let digest = digest_of(&raw(&tag).unwrap());
    let table = format!(
        "| submission | requests | by method and what they are about |\n|---|---|---|\n| cold | {} | {} |\n| warm | {} | {} |\n\
         | warm, a tag more | {} | {} |",
        cold.len(),
        counted(&cold),
        warm.len(),
        counted(&warm),
        other_tag.len(),
        counted(&other_tag)
    );
    println!("{table}");
    assert!(warm.len() < 20 && !warm.iter().any(|one| one.starts_with("PUT")), "{table}");
    // A tag is looked at before it is claimed and after it was put, however well all is known.
    let of_manifests = |all: &[String]| all.iter().filter(|one| *one == "HEAD manifests").count();
    assert!(of_manifests(&warm) >= 2, "{table}");
    assert!(other_tag.contains(&"PUT manifests".to_owned()), "{table}");

    // What is removed behind its back is pushed again, and not taken for being there.
    let index = index(&tag);
    let image = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    for at in [digest.clone(), image.clone()] {
        let url = format!("http://{}/v2/team/app/manifests/{at}", registry.address());
        let deleted = std::process::Command::new("curl")
            .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", "DELETE", &url])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&deleted.stdout), "202", "{at}");
    }
    assert_eq!(raw(&tag), None);
    submit(&farm, &context, &args).ok();
    assert_eq!(digest_of(&raw(&tag).unwrap()), digest);
    assert!(raw(&format!("{}/team/app@{image}", registry.address())).is_some());
    // And a change is a change.
    let changed = asked(
        &farm,
        &registry,
        &context.file("app.py", format!("#!/usr/bin/env python3\n# {}\n", nonce())),
        &args,
    );
    assert!(changed.iter().any(|one| one.starts_with("PUT")), "{}", counted(&changed));
    assert_ne!(digest_of(&raw(&tag).unwrap()), digest);
}
