//! Gates between coordinator and worker: who gets such a job, and what counts as passed.

use farm_proto::v1;
use farm_tests::farm::Farm;
use tonic::Code;

use crate::client::{Client, Sim, hello};

fn request(snapshot: v1::SnapshotRef, key: &str, gate: &str, tags: &[&str]) -> v1::SubmitBuildRequest {
    let spec = v1::BuildSpec {
        snapshot: Some(snapshot),
        platforms: vec!["linux/amd64".to_owned()],
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
        gate: gate.to_owned(),
        ..Default::default()
    };
    v1::SubmitBuildRequest { idempotency_key: key.to_owned(), spec: Some(spec), ..Default::default() }
}

#[tokio::test]
async fn a_gate_goes_to_workers_that_run_gates_and_what_does_not_say_that_it_passed_counts_for_nothing() {
    let farm = Farm::builder().start();
    let mut client = Client::connect(&farm).await;
    // One of before gates.
    let _old = Sim::connect(&client, hello("old", 1)).await.unwrap();
    let snapshot = client.upload("FROM scratch").await;
    let refused = request(snapshot.clone(), "no-tag", "true", &[]);
    let refused = client.builds.submit_build(refused).await.unwrap_err();
    assert!(
        refused.code() == Code::InvalidArgument && refused.message().contains("pushes nothing"),
        "{refused}"
    );

    let tag = "localhost:5002/gates-of-nobody:1";
    let asked = request(snapshot, "gated", "true", &[tag]);
    let id = client.builds.submit_build(asked).await.unwrap().into_inner().build.unwrap().id;
    let begin = std::time::Instant::now();
    let said = loop {
        let waiting = client.build(&id).await.jobs[0].waiting.clone();
        assert!(begin.elapsed() < std::time::Duration::from_secs(60), "nothing is said of why it waits");
        if !waiting.is_empty() {
            break waiting;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert!(said.contains("no worker for linux/amd64 that runs gates"), "{said}");

    let mut greeting = hello("new", 1);
    greeting.features.push("gates".to_owned());
    let mut sim = Sim::connect(&client, greeting).await.unwrap();
    let offered = sim.offer().await;
    let spec = offered.spec.unwrap();
    // A program of the image runs, though its Dockerfile runs none.
    assert_eq!((spec.gate.as_str(), offered.runs.as_str()), ("true", "target"));
    let lease = offered.lease.unwrap();
    sim.start(&lease).await;
    let digest = farm_types::Digest::of(b"pushed").to_string();
    let result = v1::JobResult { digest, media_type: "a/b".to_owned(), ..Default::default() };
    assert!(sim.finish(&lease, v1::finished::Outcome::Result(result)).await);
    // That is the worker's fault: it is tried again.
    let again = sim.offer().await;
    assert_ne!(again.lease.unwrap().attempt_id, lease.attempt_id);
    let build = client.build(&id).await;
    let failure = build.jobs[0].attempts[0].failure.clone().unwrap();
    assert_eq!((failure.code.as_str(), failure.cause.as_str()), ("gate_missing", "infrastructure"));
}
