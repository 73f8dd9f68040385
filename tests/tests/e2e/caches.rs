//! What builds of several projects leave on one engine: none finds what another one's have left.

use std::collections::BTreeSet;

use farm_tests::engine::PrivateEngine;
use farm_tests::farm::{Farm, Output, WorkerSpec};

use crate::support::*;

/// A farm with an engine that no other test builds on, whatever it does to the engine's cache (--no-cache, making room), and two
/// projects beside `default`.
fn shared_engine() -> (Farm, PrivateEngine) {
    let engine = PrivateEngine::start();
    let mut farm = Farm::builder().start();
    for project in ["api", "web"] {
        farm.cli(&["project", "create", project]).ok();
    }
    farm.add_worker(WorkerSpec::new("w1").engine(&engine.url()).platforms("linux/amd64").slots(2));
    (farm, engine)
}

fn build(farm: &Farm, project: &str, dockerfile: &str, args: &[&str]) -> Output {
    let of = ["--project", project, "--platform", "linux/amd64"];
    submit(farm, &Context::new(dockerfile), &[&of, args].concat())
}

/// What the steps wrote that ran.
#[track_caller]
fn lines(output: Output) -> Vec<String> {
    let stdout = output.ok();
    stdout.lines().filter_map(|line| Some(line.strip_prefix("linux/amd64 | ")?.to_owned())).collect()
}

#[test]
fn cache_mounts_are_a_projects_own_whatever_they_are_called() {
    let (farm, _engine) = shared_engine();
    let n = nonce();
    let mounts = |id: &str| {
        format!(
            "--mount=type=cache,target=/{n}/a --mount=type=cache,id={id},target=/{n}/b,sharing=shared \
             --mount=type=cache,id={id}-locked,target=/{n}/c,sharing=locked \
             --mount=type=cache,id={id}-from,from=base,target=/{n}/d"
        )
    };
    let dockerfile = |of: &str, before: &str, mounts: &str| {
        format!(
            "FROM {BASE} AS base\nFROM base\n{before}\nRUN {mounts} : {}; cd /{n}; echo \"found $(cat ?/left | tr '\\n' ' ')\"; \
             for each in ?; do echo {of} >$each/left; done; grep caches.invalid /etc/hosts\n",
            nonce()
        )
    };
    let said = |project: &str, text: &str, args: &[&str]| lines(build(&farm, project, text, args));
    let first = said("api", &dockerfile("api", "", &mounts(&n)), &[]);
    assert!(first.contains(&"found ".to_owned()), "{first:?}");
    let again = said("api", &dockerfile("api", "", &mounts(&n)), &[]);
    assert!(again.contains(&"found api api api api ".to_owned()), "{again:?}");

    // What the other one's are called is no secret: its steps see it.
    let host = again
        .iter()
        .find_map(|line| line.split_whitespace().find(|word| word.ends_with(".invalid")))
        .unwrap();
    let theirs = host.split('.').next().unwrap();
    let plain = said("web", &dockerfile("web", "", &mounts(&n)), &[]);
    assert!(plain.contains(&"found ".to_owned()) && !plain.concat().contains(theirs), "{plain:?}");
    let stolen = || dockerfile("web", &format!("ARG BUILDKIT_CACHE_MOUNT_NS={theirs}"), &mounts(&n));
    let (argument, host) = (format!("buildkit_cache_mount_ns={theirs}"), format!("{host}=192.0.2.1"));
    for args in [&[][..], &["--build-arg", &argument], &["--add-host", &host]] {
        let found = said("web", &stolen(), args);
        assert!(found.contains(&"found web web web web ".to_owned()), "{args:?}: {found:?}");
    }
    for id in [format!("{theirs}/{n}"), format!("../{theirs}/{n}"), format!("/{theirs}/{n}")] {
        let found = said("web", &dockerfile("web", "", &mounts(&id)), &[]);
        assert!(!found.concat().contains("api"), "{id}: {found:?}");
    }
    for argument in ["BUILDKIT_CACHE_MOUNT_NS", "BUILDKIT_SYNTAX"] {
        let given = format!("{argument}={theirs}");
        let output = build(&farm, "web", &stolen(), &["--build-arg", &given]);
        refused(&output, 2, &[argument, "farm sets this one itself"]);
    }
}

#[test]
fn what_a_step_has_made_is_found_by_its_own_project_only() {
    let (farm, _engine) = shared_engine();
    let n = nonce();
    // The last one's key has no name of its cache mount, as that has one of its own.
    let dockerfile = format!(
        "FROM {BASE}\nRUN : {n}; cat /proc/sys/kernel/random/uuid | tee /made\nCOPY Dockerfile /\n\
         RUN --mount=type=cache,id={n},target=/c cat /proc/sys/kernel/random/uuid | tee -a /c/all\n"
    );
    let said = |project: &str, args: &[&str]| lines(build(&farm, project, &dockerfile, args));
    let of_api = said("api", &[]);
    assert_eq!(of_api.len(), 2, "{of_api:?}");
    assert!(said("api", &[]).is_empty(), "its own are found");
    let of_web = said("web", &[]);
    assert_eq!(of_web.len(), 2, "{of_web:?}");
    assert!(said("web", &[]).is_empty(), "its own are found");
    let hosts = lines(build(&farm, "api", &format!("FROM {BASE}\nRUN : {n}; cat /etc/hosts\n"), &[]));
    let host = hosts
        .iter()
        .find_map(|line| line.split_whitespace().find(|word| word.ends_with(".invalid")))
        .unwrap();
    let pretended = said("web", &["--add-host", &format!("{host}=192.0.2.1")]);
    assert_eq!(pretended.len(), 2, "{pretended:?}");
    let all: BTreeSet<&String> = of_api.iter().chain(&of_web).chain(&pretended).collect();
    assert_eq!(all.len(), 6, "{all:?}");

    // Nor do two that run in the same moment share one run.
    let slow = format!("FROM {BASE}\nRUN : {n}; sleep 2; cat /proc/sys/kernel/random/uuid\n");
    let both = std::thread::scope(|scope| {
        let (farm, slow) = (&farm, &slow);
        let run = |project| scope.spawn(move || lines(build(farm, project, slow, &[])));
        ["api", "web"].map(run).map(|thread| thread.join().unwrap())
    });
    assert!(both[0].len() == 1 && both[1].len() == 1 && both[0] != both[1], "{both:?}");

    // Nor does one that has a removed one's name.
    farm.cli(&["project", "rm", "api", "--yes"]).ok();
    farm.cli(&["project", "create", "api"]).ok();
    assert_eq!(said("api", &[]).len(), 2);
}
