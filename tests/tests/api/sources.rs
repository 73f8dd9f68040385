//! A source of which a part was sent: what happens when an engine asks for more.

use farm_proto::v1::{self, finished::Outcome};
use farm_tests::farm::Farm;
use tonic::Code;

use crate::client::{Client, Sim, hello, success};

fn incomplete(asked: &str) -> Outcome {
    Outcome::SourceIncomplete(v1::SourceIncomplete { root: "context".into(), asked: asked.into() })
}

/// Submits a build whose context has only what this pattern names.
async fn submit_part(
    client: &mut Client,
    snapshot: &v1::SnapshotRef,
    key: &str,
    platforms: &[&str],
) -> v1::Build {
    let patterns = v1::Patterns { patterns: vec!["sub".into()] };
    let spec = v1::BuildSpec {
        snapshot: Some(snapshot.clone()),
        platforms: platforms.iter().map(|platform| (*platform).to_owned()).collect(),
        partial: [("context".to_owned(), patterns)].into(),
        ..Default::default()
    };
    let request =
        v1::SubmitBuildRequest { idempotency_key: key.to_owned(), spec: Some(spec), ..Default::default() };
    client.builds.submit_build(request).await.unwrap().into_inner().build.unwrap()
}

async fn provide(
    client: &mut Client,
    id: &str,
    snapshot: &v1::SnapshotRef,
) -> Result<v1::Build, tonic::Status> {
    let request = v1::ProvideSourceRequest { build_id: id.to_owned(), snapshot: Some(snapshot.clone()) };
    Ok(client.builds.provide_source(request).await?.into_inner().build.unwrap())
}

#[tokio::test]
async fn a_build_that_needs_more_of_its_source_waits_for_it_and_goes_on_with_it() {
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    let mut sim = Sim::connect(&client, hello("sim", 1)).await.unwrap();
    let (part, whole) = (client.upload("FROM part").await, client.upload("FROM whole").await);
    let build = submit_part(&mut client, &part, "k", &["linux/amd64"]).await;
    let offered = sim.offer().await;
    let spec = offered.spec.unwrap();
    assert_eq!(spec.partial["context"].patterns, ["sub"]);
    let lease = offered.lease.unwrap();
    sim.start(&lease).await;
    // Before it is wanted, nothing is taken.
    let untouched = provide(&mut client, &build.id, &whole).await.unwrap();
    assert_eq!(untouched.spec.unwrap().snapshot.unwrap().tree_id, part.tree_id);
    assert!(sim.finish(&lease, incomplete("extra")).await);
    assert!(sim.finish(&lease, incomplete("extra")).await, "the same end said again is accepted");
    let waiting = client.build(&build.id).await;
    assert!(waiting.source_is_wanted && waiting.failure.is_none());
    assert_eq!(
        (waiting.jobs[0].state.as_str(), waiting.jobs[0].attempts[0].state.as_str()),
        ("ready", "released")
    );
    assert!(waiting.jobs[0].waiting.contains("rest of its source"), "{:?}", waiting.jobs[0].waiting);
    assert_eq!(waiting.jobs[0].attempts[0].failure, None);
    // What isn't on the farm can't be taken.
    let nowhere = v1::SnapshotRef { content_key: part.content_key.clone(), ..whole.clone() };
    assert_eq!(provide(&mut client, &build.id, &nowhere).await.unwrap_err().code(), Code::AlreadyExists);
    let provided = provide(&mut client, &build.id, &whole).await.unwrap();
    assert!(!provided.source_is_wanted);
    let offered = sim.offer().await;
    let spec = offered.spec.unwrap();
    assert_eq!((offered.attempt_number, spec.partial.len()), (2, 0));
    assert_eq!(spec.snapshot.unwrap().tree_id, whole.tree_id);
    let lease = offered.lease.unwrap();
    sim.start(&lease).await;
    assert!(sim.finish(&lease, success()).await);
    assert_eq!(client.follow(&build.id).await.0.state, "succeeded");
}

#[tokio::test]
async fn one_platform_waits_for_the_source_while_the_others_go_on() {
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    let mut greeting = hello("sim", 2);
    greeting.platforms.push(v1::OfferedPlatform {
        platform: "linux/arm64".into(),
        support: "native".into(),
        told: false,
    });
    let mut sim = Sim::connect(&client, greeting).await.unwrap();
    let (part, whole) = (client.upload("FROM part").await, client.upload("FROM whole").await);
    let build = submit_part(&mut client, &part, "k", &["linux/amd64", "linux/arm64"]).await;
    let (first, second) = (sim.offer().await.lease.unwrap(), sim.offer().await.lease.unwrap());
    sim.start(&first).await;
    sim.start(&second).await;
    assert!(sim.finish(&first, incomplete("")).await);
    provide(&mut client, &build.id, &whole).await.unwrap();
    // This one began with the part; it is tried again with the whole at once.
    assert!(sim.finish(&second, incomplete("")).await);
    for _ in 0..2 {
        let offered = sim.offer().await;
        assert_eq!(offered.spec.unwrap().snapshot.unwrap().tree_id, whole.tree_id);
        let lease = offered.lease.unwrap();
        sim.start(&lease).await;
        assert!(sim.finish(&lease, success()).await);
    }
    assert_eq!(client.follow(&build.id).await.0.state, "succeeded");
}

#[tokio::test]
async fn a_retry_whose_source_is_not_enough_fails_with_what_to_do() {
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    let mut sim = Sim::connect(&client, hello("sim", 1)).await.unwrap();
    let part = client.upload("FROM part").await;
    let build = submit_part(&mut client, &part, "k", &["linux/amd64"]).await;
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    assert!(sim.finish(&lease, incomplete("extra")).await);
    // Whoever waits may end it.
    client.builds.cancel_build(v1::CancelBuildRequest { build_id: build.id.clone() }).await.unwrap();
    assert_eq!(client.follow(&build.id).await.0.state, "cancelled");
    let request = v1::RetryBuildRequest {
        build_id: build.id.clone(),
        idempotency_key: "again".into(),
        failed_only: false,
        ..Default::default()
    };
    let again = client.builds.retry_build(request).await.unwrap().into_inner().build.unwrap();
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    assert!(sim.finish(&lease, incomplete("extra")).await);
    let (ended, _) = client.follow(&again.id).await;
    let failure = ended.failure.unwrap();
    assert_eq!(
        (ended.state.as_str(), failure.code.as_str(), failure.cause.as_str()),
        ("failed", "source_incomplete", "user")
    );
    assert!(
        failure.message.contains("\"extra\"") && failure.message.contains("submit it again"),
        "{}",
        failure.message
    );
    assert_eq!(ended.jobs[0].attempts.len(), 1);
}
