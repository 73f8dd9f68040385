//! What goes beyond a step's walls is given where project and worker may, and to nobody else.

use std::time::Duration;

use farm_proto::v1;
use farm_tests::client::{Client, Sim, hello, success};
use farm_tests::farm::Farm;
use farm_tests::machine::{invite, join};
use tonic::{Code, Status};

use crate::team;
use crate::workers::{NO_STAGING, as_invited, connect};

const LONG: Duration = Duration::from_secs(30);

async fn submit(
    client: &mut Client,
    snapshot: &v1::SnapshotRef,
    key: &str,
    spec: v1::BuildSpec,
) -> Result<v1::Build, Status> {
    let spec = v1::BuildSpec {
        snapshot: Some(snapshot.clone()),
        platforms: vec!["linux/amd64".to_owned()],
        emulation: "never".to_owned(),
        ..spec
    };
    let request =
        v1::SubmitBuildRequest { idempotency_key: key.to_owned(), spec: Some(spec), values: Vec::new() };
    Ok(client.builds.submit_build(request).await?.into_inner().build.unwrap())
}

fn named(entitlements: &[&str]) -> v1::BuildSpec {
    let entitlements = entitlements.iter().map(|one| (*one).to_owned()).collect();
    v1::BuildSpec { entitlements, ..Default::default() }
}

/// What the build's job says that it waits for, when it says something that has this.
async fn waits(client: &mut Client, build: &str, words: &str) -> String {
    let waiting = tokio::time::timeout(LONG, async {
        loop {
            let waiting = client.build(build).await.jobs.remove(0).waiting;
            if waiting.contains(words) {
                return waiting;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    waiting.await.unwrap_or_else(|_| panic!("{build} doesn't say `{words}`"))
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_given_what_project_and_worker_may_not() {
    let farm =
        Farm::builder().env("FARM_STAGING", NO_STAGING).env("FARM_PATCHED_ENGINES", "docker 0").start();
    team::project(&farm, "web").await;
    let mut ada = Client::with_token(&farm, &team::person(&farm, "ada", "web", "admin").await).await;
    let snapshot = ada.upload("FROM scratch").await;

    // By default nobody may; and it is the farm's to say, not the project's.
    let of_network = v1::BuildSpec { network: "host".into(), ..Default::default() };
    for spec in [of_network.clone(), named(&["network.host"])] {
        let refused = submit(&mut ada, &snapshot, "refused", spec).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
        assert_eq!(
            refused.message(),
            "ada asks for network.host, which project web may not use; an admin of the farm can allow it: farm project set web \
             --allow network.host"
        );
    }
    let odd = submit(&mut ada, &snapshot, "odd", named(&["device=a"])).await.unwrap_err();
    assert_eq!(odd.code(), Code::InvalidArgument, "{odd:?}");
    let request = v1::AllowEntitlementsRequest {
        project: "web".into(),
        entitlements: vec!["network.host".into(), "security.insecure".into()],
    };
    let refused = ada.projects.allow_entitlements(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let said = farm.cli(&["project", "set", "web", "--allow", "network.host"]).ok();
    assert!(said.contains("may ask    for network.host (--allow)"), "{said}");
    assert!(farm.cli(&["project", "show", "web"]).ok().contains("may ask    for network.host"), "{said}");
    let both = named(&["network.host", "security.insecure"]);
    let refused = submit(&mut ada, &snapshot, "both", both).await.unwrap_err();
    assert!(
        refused.message().contains("asks for security.insecure,")
            && refused.message().ends_with("--allow network.host,security.insecure"),
        "{refused:?}"
    );

    // No worker that doesn't say that it may, as none of before does; and none that isn't trusted, whatever it says.
    let admin = Client::connect(&farm).await;
    let _plain = Sim::connect(&admin, hello("plain", 4)).await.unwrap();
    let request = v1::InviteWorkerRequest { trust: "untrusted".into(), ..as_invited("fork") };
    let token = invite(&farm, request).await.unwrap().token;
    let fork = join(&farm, &token, "").await.unwrap();
    let mut boasting = hello("fork", 4);
    boasting.features.push("network.host".into());
    let _fork = connect(&farm, &fork, boasting).await.unwrap();
    let wide = submit(&mut ada, &snapshot, "wide", of_network).await.unwrap().id;
    let words = waits(&mut ada, &wide, "may grant").await;
    assert!(words.starts_with("no worker may grant network.host: "), "{words}");
    assert!(words.contains("farm-worker --allow network.host"), "{words}");
    // It holds up nobody.
    let usual = submit(&mut ada, &snapshot, "usual", v1::BuildSpec::default()).await.unwrap().id;
    let leased = tokio::time::timeout(LONG, async {
        while ada.build(&usual).await.jobs[0].attempts.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    leased.await.expect("what asks for nothing waits behind it");
    assert!(ada.build(&wide).await.jobs[0].attempts.is_empty());

    // Taken back, what waits waits for the project; given again, for a worker; and then it goes there.
    farm.cli(&["project", "set", "web", "--allow", "none"]).ok();
    let words = waits(&mut ada, &wide, "any more").await;
    assert!(words.contains("its project may not use network.host"), "{words}");
    farm.cli(&["project", "set", "web", "--allow", "network.host,security.insecure"]).ok();
    let mut granting = hello("granting", 4);
    granting.features.push("network.host".into());
    let mut granting = Sim::connect(&admin, granting).await.unwrap();
    let offered = loop {
        let offered = granting.offer().await;
        if offered.build_id == wide {
            break offered;
        }
    };
    assert_eq!(offered.spec.unwrap().network, "host");
    let lease = offered.lease.unwrap();
    granting.start(&lease).await;
    assert!(granting.finish(&lease, success()).await);
    assert_eq!(ada.follow(&wide).await.0.state, "succeeded");
    let workers = farm.cli(&["workers"]).ok();
    let line = |name: &str| workers.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("granting").contains("online, grants network.host"), "{workers}");
    assert!(!line("fork").contains("grants") && !line("plain").contains("grants"), "{workers}");

    // A retry is asked anew.
    farm.cli(&["project", "set", "web", "--allow", "none"]).ok();
    let retry =
        v1::RetryBuildRequest { build_id: wide, idempotency_key: "again".into(), ..Default::default() };
    let refused = ada.builds.retry_build(retry).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    let audit = farm.cli(&["audit", "--all", "--since", "1d", "--json"]).ok();
    assert!(audit.contains("project.entitlements") && audit.contains("security.insecure"), "{audit}");
}
