//! What untrusted machines are lent of the staging registry, and that they are lent nothing else.

use std::process::{Command, Output};

use farm_proto::v1;
use farm_tests::bed::Bed;
use farm_tests::client::{Client, Sim, hello};
use farm_tests::farm::Farm;
use farm_tests::machine::{self, invite, join};
use farm_tests::ports::free_port;
use farm_tests::registry::PrivateRegistry;
use farm_tests::token_service::access;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::workers::{NO_STAGING, as_invited, connect};

fn asks_for_tokens(name: &str) -> v1::Hello {
    let mut hello = hello(name, 8);
    hello.features.push("tokens".to_owned());
    hello
}

async fn untrusted(farm: &Farm, name: &str) -> Sim {
    let request = v1::InviteWorkerRequest { trust: "untrusted".into(), ..as_invited(name) };
    let machine = join(farm, &invite(farm, request).await.unwrap().token, "").await.unwrap();
    connect(farm, &machine, asks_for_tokens(name)).await.unwrap()
}

async fn submit(client: &mut Client, snapshot: &v1::SnapshotRef, tag: &str) -> Result<String, Status> {
    let spec = v1::BuildSpec {
        snapshot: Some(snapshot.clone()),
        dockerfile: "Dockerfile".into(),
        platforms: vec!["linux/amd64".into()],
        tags: vec![tag.to_owned()],
        ..Default::default()
    };
    let request =
        v1::SubmitBuildRequest { idempotency_key: tag.to_owned(), spec: Some(spec), ..Default::default() };
    Ok(client.builds.submit_build(request).await?.into_inner().build.unwrap().id)
}

async fn lend(
    sim: &mut Sim,
    lease: &v1::Lease,
    host: &str,
    scopes: &[&str],
) -> Result<v1::LendTokenResponse, Status> {
    let request = v1::LendTokenRequest {
        lease: Some(lease.clone()),
        host: host.to_owned(),
        realm: "http://farm.invalid/token".to_owned(),
        service: "farm-staging".to_owned(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
    };
    sim.work.lend_token(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_staging_registry_no_untrusted_worker_is_invited() {
    let farm = Farm::builder().start();
    let request = v1::InviteWorkerRequest { trust: "untrusted".into(), ..as_invited("fork") };
    let refused = invite(&farm, request).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    for words in ["staging registry", "--staging HOST[:PORT]", "FARM_STAGING"] {
        assert!(refused.message().contains(words), "{words}: {refused:?}");
    }
    machine::machine(&farm, "trusted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_worker_gets_tokens_for_its_attempts_own_repository_and_for_nothing_else() {
    let settings = "[registries.'r.example']\nusername = 'farm'\npassword = 'pa55'\n";
    let farm = Farm::builder()
        .config(settings)
        .env("FARM_STAGING", NO_STAGING)
        .env("FARM_PATCHED_ENGINES", "docker 0")
        .start();
    let mut admin = Client::connect(&farm).await;
    let mut fork = untrusted(&farm, "fork").await;
    let snapshot = admin.upload("FROM scratch").await;
    let refused = submit(&mut admin, &snapshot, &format!("{NO_STAGING}/a/b:1")).await.unwrap_err();
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("staging"), "{refused:?}");
    submit(&mut admin, &snapshot, "r.example/team/app:1").await.unwrap();
    let offered = fork.offer().await;
    let lease = offered.lease.clone().unwrap();
    let [own] = &offered.repositories[..] else { panic!("{offered:?}") };
    let name = own.strip_prefix(&format!("{NO_STAGING}/")).unwrap();
    assert!(name.ends_with(&lease.attempt_id), "{own}");
    let [lent] = &offered.registries[..] else { panic!("{offered:?}") };
    assert_eq!((lent.host.as_str(), lent.username.as_str(), lent.password.as_str()), (NO_STAGING, "", ""));
    assert!(!lent.grant.is_empty() && !lent.bounded && lent.pull.is_empty(), "{lent:?}");

    let scope = format!("repository:{name}:pull,push");
    let token = lend(&mut fork, &lease, NO_STAGING, &[&scope, "repository:other/x:pull"]).await.unwrap();
    assert_eq!(access(&token.token), [format!("{name}:pull,push")]);
    assert_eq!(token.refused, [format!("{NO_STAGING}/other/x")]);
    // Its destination's, whatever the farm has there.
    let refused = lend(&mut fork, &lease, "r.example", &["repository:team/app:pull,push"]).await.unwrap_err();
    assert!(
        refused.code() == Code::PermissionDenied && refused.message().contains("isn't trusted"),
        "{refused:?}"
    );
    let login = v1::LendLoginRequest { lease: Some(lease.clone()), host: "r.example".into() };
    assert_eq!(fork.work.lend_login(login).await.unwrap_err().code(), Code::PermissionDenied);
    let look = v1::LookUpImageRequest { lease: Some(lease.clone()), image: "r.example/team/app:1".into() };
    assert_eq!(fork.work.look_up_image(look).await.unwrap_err().code(), Code::PermissionDenied);

    // By its lease nobody else gets one: neither another machine that isn't trusted, nor one that is.
    let mut other = untrusted(&farm, "other").await;
    let good = machine::machine(&farm, "good").await;
    let mut good = connect(&farm, &good, asks_for_tokens("good")).await.unwrap();
    for sim in [&mut other, &mut good] {
        let refused = lend(sim, &lease, NO_STAGING, &[&scope]).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    }
    // One whose attempt goes to its destination itself gets none of the staging registry.
    drop((fork, other));
    let id = submit(&mut admin, &snapshot, "r.example/team/app:2").await.unwrap();
    let offered = loop {
        let offered = good.offer().await;
        if offered.build_id == id {
            break offered;
        }
    };
    assert_eq!(offered.repositories, ["r.example/team/app"]);
    let trusted = offered.lease.unwrap();
    let refused = lend(&mut good, &trusted, NO_STAGING, &[&scope]).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_its_lease_an_untrusted_workers_tokens_end() {
    let farm =
        Farm::builder().env("FARM_STAGING", NO_STAGING).env("FARM_PATCHED_ENGINES", "docker 0").start();
    let mut admin = Client::connect(&farm).await;
    let mut fork = untrusted(&farm, "fork").await;
    let snapshot = admin.upload("FROM scratch").await;
    submit(&mut admin, &snapshot, "r.example/team/app:1").await.unwrap();
    let offered = fork.offer().await;
    let lease = offered.lease.unwrap();
    let name = offered.repositories[0].split_once('/').unwrap().1.to_owned();
    let scope = format!("repository:{name}:pull,push");
    let forged = v1::Lease { lease_token: Uuid::new_v4().to_string(), ..lease.clone() };
    let refused = lend(&mut fork, &forged, NO_STAGING, &[&scope]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    lend(&mut fork, &lease, NO_STAGING, &[&scope]).await.unwrap();
    fork.start(&lease).await;
    let failure = v1::Failure { cause: "user".into(), code: "run_failed".into(), ..Default::default() };
    assert!(fork.finish(&lease, v1::finished::Outcome::Failure(failure)).await);
    let refused = lend(&mut fork, &lease, NO_STAGING, &[&scope]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

/// Pushes the bed's base image of this architecture, by a token.
fn push(token: &str, to: &str, architecture: &str) -> Output {
    let from = format!("docker://{}/python:3.11-slim", Bed::from_env().registry);
    let mut skopeo = Command::new("skopeo");
    skopeo.args([
        "--override-arch",
        architecture,
        "copy",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
    ]);
    skopeo.args(["--dest-registry-token", token, &from, &format!("docker://{to}")]).output().unwrap()
}

/// What a tag is, if it is there.
fn raw(reference: &str) -> Option<Vec<u8>> {
    let mut skopeo = Command::new("skopeo");
    let answer = skopeo
        .args(["inspect", "--raw", "--tls-verify=false", &format!("docker://{reference}")])
        .output()
        .unwrap();
    answer.status.success().then_some(answer.stdout)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_untrusted_worker_says_that_it_has_pushed_is_looked_at_before_anything_is_copied() {
    let port = free_port();
    let farm = Farm::builder()
        .env("FARM_STAGING", &format!("localhost:{port}"))
        .env("FARM_PATCHED_ENGINES", "docker 0")
        .start();
    let staging = PrivateRegistry::start_staging(port, &farm.folder().join("coordinator/staging/ca.pem"));
    let mut admin = Client::connect(&farm).await;
    let mut fork = untrusted(&farm, "fork").await;
    let snapshot = admin.upload("FROM scratch").await;
    let destination = format!("{}/staged-{}", Bed::from_env().registry, Uuid::new_v4());
    // First in the queue, and not for it: it moves a protected tag.
    let protect = v1::ProtectTagsRequest { pattern: "latest".to_owned(), role: "publisher".to_owned() };
    let mut project = Client::within(&farm, &farm.token(), Some("default")).await;
    project.projects.protect_tags(protect).await.unwrap();
    let protected = submit(&mut admin, &snapshot, &format!("{destination}:latest")).await.unwrap();
    let mut seen = Vec::new();
    let mut before: Option<String> = None;
    for (number, (architecture, code)) in
        [("", "pushed_image_missing"), ("arm64", "wrong_platform"), ("amd64", "")].into_iter().enumerate()
    {
        let tag = format!("{destination}:{number}");
        let id = submit(&mut admin, &snapshot, &tag).await.unwrap();
        let offered = loop {
            let offered = fork.offer().await;
            if !seen.contains(&offered.build_id) {
                break offered;
            }
        };
        seen.push(offered.build_id.clone());
        assert_eq!(offered.build_id, id);
        let (lease, own) = (offered.lease.unwrap(), &offered.repositories[0]);
        let name = own.split_once('/').unwrap().1;
        let lent = lend(&mut fork, &lease, &staging.address(), &[&format!("repository:{name}:pull,push")])
            .await
            .unwrap();
        let digest = if architecture.is_empty() {
            format!("sha256:{}", "0".repeat(64))
        } else {
            // Where another attempt pushes it may not.
            let elsewhere = push(&lent.token, &format!("{}:x", before.as_ref().unwrap()), architecture);
            assert!(!elsewhere.status.success(), "{elsewhere:?}");
            let pushed = push(&lent.token, &format!("{own}:x"), architecture);
            assert!(pushed.status.success(), "{pushed:?}");
            let mut skopeo = Command::new("skopeo");
            skopeo.args(["inspect", "--raw", "--tls-verify=false", "--registry-token", &lent.token]);
            let raw = skopeo.arg(format!("docker://{own}:x")).output().unwrap().stdout;
            farm_types::Digest::of(&raw).to_string()
        };
        before = Some(own.clone());
        fork.start(&lease).await;
        let result = v1::JobResult { digest, ..Default::default() };
        assert!(fork.finish(&lease, v1::finished::Outcome::Result(result)).await);
        let (build, _) = admin.follow(&id).await;
        let failure = build.failure.unwrap_or_default();
        assert_eq!(failure.code, code, "{failure:?}");
        assert_eq!(raw(&tag).is_some(), code.is_empty(), "{tag}");
    }
    let waiting = admin.build(&protected).await.jobs[0].waiting.clone();
    assert!(waiting.contains("moves a protected tag"), "{waiting}");
}
