//! Untrusted machines build what is published: they push to the staging registry, and a coordinator copies.

use std::process::Command;

use farm_tests::bed::Bed;
use farm_tests::database::psql;
use farm_tests::engine::named;
use farm_tests::farm::{Farm, FarmBuilder};
use farm_tests::faults::door::Door;
use farm_tests::faults::trap::{Action, Asked, How, Trap, When};
use farm_tests::ports::free_port;
use farm_tests::process::Child;
use farm_tests::registry::PrivateRegistry;
use farm_tests::token_service::{PASSWORD, TokenService, USER};

use crate::joining::{join, start_with};
use crate::support::*;

/// A farm with a staging registry and one worker, `fork`, on a machine that isn't trusted.
struct World {
    farm: Farm,
    staging: PrivateRegistry,
    _fork: Child,
}

fn world(builder: FarmBuilder) -> World {
    let port = free_port();
    // The system's engine has its distribution's fixes, or none of this.
    let engine = named(&Bed::from_env().engine);
    let builder = builder.env("FARM_STAGING", &format!("localhost:{port}"));
    let farm = builder.env("FARM_PATCHED_ENGINES", &engine).start();
    let staging = PrivateRegistry::start_staging(port, &farm.folder().join("coordinator/staging/ca.pem"));
    let folder = farm.folder().join("fork-state");
    let invited = join(&farm, &["--name", "fork", "--trust", "untrusted"], &folder, &[]).ok();
    says(&invited, &["fork, on machine fork"]);
    // Base images are on this machine's loopback here, which is closed to what isn't trusted.
    let mut fork =
        start_with(&farm, "fork", &folder, &["--fetch-from", &Bed::from_env().registry, "--fenced-engine"]);
    fork.wait_for_line("farm-worker fork ready: ", LONG);
    World { farm, staging, _fork: fork }
}

/// Several blobs that nobody has.
fn context() -> Context {
    let files = (0..3).map(|n| format!("COPY {n} /{}-{n}\n", nonce()));
    let dockerfile = format!("FROM {BASE}\n{}RUN echo {} > /ran\n", files.collect::<String>(), nonce());
    let content = |n: u32| format!("{n} {}", nonce()).repeat(1000);
    (0..3).fold(Context::new(&dockerfile), |context, n| context.file(&n.to_string(), content(n)))
}

/// What is known of what was pushed where: a line for each.
fn places(farm: &Farm) -> String {
    psql(
        farm.database_url(),
        "SELECT string_agg(registry || ' ' || coalesce(fate, 'there'), ',' ORDER BY pushed_at) FROM pushed_digests",
    )
}

fn log(farm: &Farm) -> String {
    std::fs::read_to_string(farm.folder().join("coordinator.log")).unwrap()
}

#[test]
fn what_an_untrusted_machine_builds_comes_to_its_tag_and_the_machine_never_to_the_destination() {
    let service = TokenService::start();
    let destination = PrivateRegistry::start_with_tokens(&service);
    let at = destination.address();
    let debug = "info,farm_coordinator::registry=debug";
    let world = world(Farm::builder().config(&service.settings(&at)).env("RUST_LOG", debug));
    let (farm, staging) = (&world.farm, &world.staging);
    let tags = [format!("{at}/web/app:1"), format!("{at}/web/other:1")];
    let args = [
        "-t",
        &tags[0],
        "-t",
        &tags[1],
        "--platform",
        "linux/amd64",
        "--gate",
        "cat /ran",
        "--sign",
        "release",
    ];
    farm.cli(&["signing-key", "generate", "release"]).ok();
    let text = submit(farm, &context(), &args).ok();
    says(&text, &["published", &tags[0], "native on fork", "[gate] cat /ran"]);
    let record = show(farm, &build_id(&text));
    let credentials = format!("{USER}:{PASSWORD}");
    for tag in &tags {
        let stored = raw_as(tag, &["--creds", &credentials]).unwrap();
        assert_eq!(record["index_digest"], digest_of(&stored), "{tag}");
        // All of it, layers and attestations, as skopeo checks.
        let copied = Command::new("skopeo")
            .args(["copy", "--all", "--src-tls-verify=false", "--src-creds", &credentials])
            .args([format!("docker://{tag}"), format!("oci:{}/all-{}", farm.folder().display(), nonce())])
            .output()
            .unwrap();
        assert!(copied.status.success(), "{copied:?}");
        // Signed where it is published, by the coordinator.
        let (repository, beside) = (tag.trim_end_matches(":1"), digest_of(&stored).replace(':', "-"));
        let signed = raw_as(&format!("{repository}:{beside}.sig"), &["--creds", &credentials]).unwrap();
        says(&signed, &["dev.cosignproject.cosign/signature"]);
    }
    // The worker was lent tokens of the staging registry, and none other; what it pushed with them nobody gets at without.
    let log = log(farm);
    assert!(log.contains("a token of the staging registry is lent"), "{log}");
    assert!(!log.contains(" a token is lent") && !log.contains("a login is lent"), "{log}");
    let is_own = |line: &&str| line.contains("copied from the staging registry");
    assert_eq!(log.lines().filter(is_own).count(), 2, "{log}");
    let pushed =
        psql(farm.database_url(), "SELECT repository FROM pushed_digests ORDER BY pushed_at LIMIT 1");
    for (method, path) in
        [("POST", format!("{pushed}/blobs/uploads/")), ("GET", format!("{pushed}/tags/list"))]
    {
        let url = format!("http://{}/v2/{path}", staging.address());
        let args = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", method, &url];
        let answer = Command::new("curl").args(args).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&answer.stdout), "401", "{method} {url}");
    }
    // It leaves the staging registry, and stays where it is published.
    let staged = staging.address();
    until("it is removed there", LONG, || {
        places(farm).starts_with(&format!("{staged} removed")).then_some(())
    });
    assert_eq!(places(farm), format!("{staged} removed,{at} there,{at} there"));
}

#[test]
fn a_coordinator_that_dies_in_a_blob_or_between_blobs_and_manifest_costs_nothing() {
    let destination = PrivateRegistry::start();
    let mut world = world(Farm::builder().config(QUICK_LEASES));
    let steps =
        [(Asked::PutsBlob, When::Before), (Asked::PutsIndex, When::Before), (Asked::PutsIndex, When::After)];
    for (step, (asked, when)) in steps.into_iter().enumerate() {
        // Another one each time: by a connection that was made before the door knows nobody.
        let door = Door::to(destination.port(), 1);
        door.know_coordinators(vec![world.farm.coordinator().pid()]);
        door.arm(Trap { asked, when, tag: None, action: Action::Does(How::Kill) });
        let tag = format!("{}/app-{}:1", door.address(), nonce());
        let context = context();
        let args = ["submit", context.text(), "-t", &tag, "--platform", "linux/amd64"];
        let mut cli = world.farm.cli_spawn(&format!("submit-{step}"), &args);
        until("it dies", LONG, || door.sprung());
        world.farm.kill_coordinator();
        assert!(!places(&world.farm).contains(&door.address()), "it is there already");
        world.farm.start_coordinator();
        assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
        let record = show(&world.farm, &build_id(&cli.output()));
        assert_eq!(record["platforms"][0]["attempts"], 1, "{record:#}");
        assert_eq!(record["index_digest"], digest_of(&raw(&tag).unwrap()));
        // What was there whole wasn't sent again.
        let log = log(&world.farm);
        let copied = log.lines().rfind(|line| line.contains("copied from the staging registry")).unwrap();
        assert_eq!(copied.contains(" sent=0 "), asked == Asked::PutsIndex, "{copied}");
    }
}

#[test]
fn what_is_cancelled_before_it_is_copied_leaves_the_staging_registry() {
    let world = world(Farm::builder());
    // Nobody is there.
    let tag = format!("localhost:{}/app:1", free_port());
    let context = context();
    let args = ["submit", context.text(), "-t", &tag, "--platform", "linux/amd64"];
    let mut cli = world.farm.cli_spawn("away", &args);
    let put_off = "not copied from the staging registry yet";
    until("it is put off", LONG, || log(&world.farm).contains(put_off).then_some(()));
    let staged = world.staging.address();
    assert_eq!(places(&world.farm), format!("{staged} there"));
    world.farm.cli(&["cancel", &build_id(&cli.output())]).ok();
    assert_ne!(cli.wait_exit(LONG).code(), Some(0));
    until("it is removed", LONG, || (places(&world.farm) == format!("{staged} removed")).then_some(()));
}
