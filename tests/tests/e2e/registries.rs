//! Registries that are closed, down, or come back.

use farm_tests::bed::Bed;
use farm_tests::farm::Farm;
use farm_tests::process::Child;
use farm_tests::registry::PrivateRegistry;

use crate::gate::Gate;
use crate::support::*;

fn tiny() -> Context {
    Context::new(&format!("FROM scratch\nLABEL n={}\nCOPY Dockerfile /\n", nonce()))
}

#[test]
fn a_registry_that_asks_for_a_login_gets_the_one_in_the_configuration() {
    let bed = Bed::from_env();
    let settings = |password: &str| {
        format!(
            "[registries.\"{}\"]\nusername = \"{}\"\npassword = \"{password}\"\n",
            bed.auth_registry, bed.auth_user
        )
    };
    let tag = format!("{}/closed-{}:1", bed.auth_registry, nonce());
    for config in [String::new(), settings("wrong")] {
        let farm = with_worker(Farm::builder().config(&config));
        let result = submit(&farm, &tiny(), &["-t", &tag, "--platform", "linux/amd64"]);
        assert_eq!(result.status, 1, "{result:?}");
        says(
            &result.stdout,
            &[&bed.auth_registry, "401", "registries", "coordinator's configuration", "as before."],
        );
        let record = show(&farm, &build_id(&result.stdout));
        let failure = &record["failure"];
        assert_eq!(
            (&failure["cause"], &failure["code"]),
            (&"user".into(), &"registry_auth".into()),
            "{record:#}"
        );
        assert_eq!(record["platforms"][0]["attempts"], 1, "{record:#}");
    }
    // One registry that refuses keeps all tags where they are.
    let farm = small_farm();
    let open = format!("{}:1", repository("half"));
    let result = submit(&farm, &tiny(), &["-t", &open, "-t", &tag, "--platform", "linux/amd64"]);
    assert_eq!(result.status, 1, "{result:?}");
    assert_eq!(raw(&open), None);

    let farm = with_worker(Farm::builder().config(&settings(&bed.auth_password)));
    let stdout = submit(&farm, &tiny(), &["-t", &tag, "--platform", "linux/amd64,linux/arm64"]).ok();
    let login = format!("{}:{}", bed.auth_user, bed.auth_password);
    let stored = raw_as(&tag, &["--creds", &login]).unwrap();
    assert_eq!(show(&farm, &build_id(&stdout))["index_digest"], digest_of(&stored));
    // A base image may be behind the login as well, and the log has no secrets.
    let context = Context::new(&format!("FROM {tag}\nLABEL n={}\n", nonce()));
    let stdout = submit(&farm, &context, &["-t", &tag, "--platform", "linux/amd64"]).ok();
    let log = std::fs::read_to_string(farm.folder().join("coordinator.log")).unwrap()
        + &std::fs::read_to_string(farm.folder().join("w1.log")).unwrap();
    assert!(
        !stdout.contains(&bed.auth_password) && !log.contains(&bed.auth_password),
        "a password is printed"
    );
}

#[test]
fn a_registry_that_is_down_is_tried_again_and_the_build_succeeds_when_it_is_back() {
    let mut registry = PrivateRegistry::start();
    let farm = small_farm();
    let tag = format!("{}/back:1", registry.address());
    registry.stop();
    let context = tiny();
    let args = ["submit", context.text(), "-t", &tag, "--platform", "linux/amd64"];
    let mut cli = farm.cli_spawn("submit", &args);
    cli.wait_for_line("linux/amd64  attempt 1 failed on w1", LONG);
    registry.start_again();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    says(
        &cli.output(),
        &["connection refused; see that the registry is up", "; it will run again", "published", &tag],
    );
    let record = show(&farm, &build_id(&cli.output()));
    assert_eq!(record["index_digest"], digest_of(&raw(&tag).unwrap()));

    // For good, it fails after a few attempts, and is no mistake of the user's.
    registry.stop();
    let result = submit(&farm, &tiny(), &["-t", &tag, "--platform", "linux/amd64"]);
    assert_eq!(result.status, 1, "{result:?}");
    says(&result.stdout, &[&registry.address(), "connection refused", "tags are as before."]);
    let record = show(&farm, &build_id(&result.stdout));
    let failure = &record["failure"];
    assert_eq!(
        (&failure["cause"], &failure["code"]),
        (&"infrastructure".into(), &"registry_unavailable".into())
    );
    assert_eq!(record["platforms"][0]["attempts"], 4, "{record:#}");
}

/// A build that is pushed and not published: no coordinator is there while the engine pushes, and when one is there
/// again, the registry is silenced.
fn pushed_only(
    farm: &mut Farm,
    registry: &mut PrivateRegistry,
    tag: &str,
    silence: fn(&mut PrivateRegistry),
) -> Child {
    let gate = Gate::new();
    let context = gate.context();
    let args = ["submit", context.text(), "-t", tag, "--platform", "linux/amd64"];
    let mut cli = farm.cli_spawn(&format!("submit-{}", nonce()), &args);
    let step = gate.arrival();
    farm.kill_coordinator();
    step.open();
    let name = tag.rsplit_once(':').unwrap().0.split_once('/').unwrap().1;
    let put = format!("PUT /v2/{name}/manifests/sha256:");
    registry
        .child()
        .wait_until("pushed image", LONG, |registry| registry.output().contains(&put).then_some(()));
    silence(registry);
    farm.start_coordinator();
    cli.wait_for_line("publishing ", LONG);
    cli
}

#[test]
fn a_registry_that_goes_down_between_building_and_publishing_is_waited_for_until_the_deadline() {
    let mut registry = PrivateRegistry::start();
    let mut farm = with_worker(Farm::builder().config("[limits]\npublish_deadline_seconds = 5\n"));
    let tag = format!("{}/late:1", registry.address());
    let mut cli = pushed_only(&mut farm, &mut registry, &tag, |registry| registry.stop());
    registry.start_again();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    says(&cli.output(), &["published", &tag]);
    assert!(raw(&tag).is_some());

    let tag = format!("{}/never:1", registry.address());
    let mut cli = pushed_only(&mut farm, &mut registry, &tag, |registry| registry.stop());
    assert_eq!(cli.wait_exit(LONG).code(), Some(1), "{}", cli.tail());
    says(
        &cli.output(),
        &["the index could not be published in time: ", "connection refused", "tags are as before."],
    );
    let record = show(&farm, &build_id(&cli.output()));
    assert_eq!((&record["state"], &record["platforms"][0]["state"]), (&"failed".into(), &"succeeded".into()));
    registry.start_again();
    assert_eq!(raw(&tag), None);
}

#[test]
fn a_build_whose_registry_is_away_can_be_cancelled_while_nothing_is_merged() {
    let mut registry = PrivateRegistry::start();
    let mut farm = with_worker(Farm::builder());
    let tag = format!("{}/away:1", registry.address());
    let mut cli = pushed_only(&mut farm, &mut registry, &tag, |registry| registry.stop());
    cli.wait_for_line("not published yet: ", LONG);
    let id = build_id(&cli.output());
    says(&farm.cli(&["cancel", &id]).ok(), &[&format!("build {id} is cancelled")]);
    assert_eq!(cli.wait_exit(LONG).code(), Some(130), "{}", cli.tail());
    assert_eq!(show(&farm, &id)["state"], "cancelled");
    registry.start_again();
    // A newer one has the tag to itself.
    submit(&farm, &tiny(), &["-t", &tag, "--platform", "linux/amd64"]).ok();
    assert_eq!(show(&farm, &id)["state"], "cancelled");
}

#[test]
fn a_registry_that_hangs_holds_up_its_own_images_only() {
    let mut hanging = PrivateRegistry::start();
    let mut farm = with_worker(Farm::builder());
    let tag = format!("{}/hanging:1", hanging.address());
    let mut cli = pushed_only(&mut farm, &mut hanging, &tag, |registry| registry.child().pause());
    let held = build_id(&cli.output());
    // Connections to it are taken and never answered: each request costs farm its whole time limit of 30 s.
    let elsewhere = format!("{}:1", repository("elsewhere"));
    let begin = std::time::Instant::now();
    let output = submit(&farm, &tiny(), &["-t", &elsewhere, "--platform", "linux/amd64"]).ok();
    says(&output, &["published", &elsewhere]);
    assert!(
        begin.elapsed() < std::time::Duration::from_secs(20),
        "it waited for the other: {:?}",
        begin.elapsed()
    );
    assert_eq!(show(&farm, &held)["state"], "publishing");
    hanging.child().cont();
    assert_eq!(cli.wait_exit(LONG).code(), Some(0), "{}", cli.tail());
    assert!(raw(&tag).is_some());
}
