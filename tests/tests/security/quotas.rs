//! What a project may take of the farm, as its people and programs meet it; and that others don't meet it.

use std::time::Duration;

use farm_proto::v1;
use farm_tests::client::{Client, Sim, hello, success};
use farm_tests::farm::Farm;
use tonic::{Code, Status};

use crate::team;

fn request(snapshot: &v1::SnapshotRef, key: &str) -> v1::SubmitBuildRequest {
    let spec = v1::BuildSpec { snapshot: Some(snapshot.clone()), ..Default::default() };
    v1::SubmitBuildRequest { idempotency_key: key.to_owned(), spec: Some(spec), ..Default::default() }
}

async fn submit(client: &mut Client, snapshot: &v1::SnapshotRef, key: &str) -> Result<v1::Build, Status> {
    let answer = client.builds.submit_build(request(snapshot, key)).await?;
    Ok(answer.into_inner().build.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_is_refused_what_it_may_not_take_and_another_is_served() {
    let farm = Farm::builder().start();
    for name in ["web", "api"] {
        team::project(&farm, name).await;
    }
    let mut ada = Client::with_token(&farm, &team::person(&farm, "ada", "web", "builder").await).await;
    let mut bob = Client::with_token(&farm, &team::person(&farm, "bob", "api", "builder").await).await;
    let (of_ada, of_bob) = (ada.upload("FROM scratch").await, bob.upload("FROM scratch").await);

    // Who says nothing of platforms is told so, until the project says it.
    let none = submit(&mut ada, &of_ada, "none").await.unwrap_err();
    assert_eq!(none.code(), Code::InvalidArgument, "{none:?}");
    let args = ["--default-platforms", "linux/amd64", "--emulation", "never"];
    for name in ["web", "api"] {
        farm.cli(&[&["project", "set", name][..], &args].concat()).ok();
    }
    let said =
        farm.cli(&["project", "set", "web", "--max-queued-builds", "1", "--max-running-slots", "1"]).ok();
    assert!(
        said.contains("0 of 1 in use") && said.contains("by default for linux/amd64, emulation never"),
        "{said}"
    );

    let first = submit(&mut ada, &of_ada, "first").await.unwrap();
    assert_eq!(first.jobs[0].platform, "linux/amd64");
    let refused = submit(&mut ada, &of_ada, "second").await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("its limit is 1"), "{refused:?}");
    assert_eq!(submit(&mut ada, &of_ada, "first").await.unwrap().id, first.id);
    for n in 0..3 {
        submit(&mut bob, &of_bob, &format!("b{n}")).await.unwrap();
    }

    // One slot at once, though others are free; what waits for it says so.
    let worker = Client::connect(&farm).await;
    let mut worker = Sim::connect(&worker, hello("w1", 8)).await.unwrap();
    let mut leases = Vec::new();
    for _ in 0..4 {
        let lease = worker.offer().await.lease.unwrap();
        worker.start(&lease).await;
        leases.push(lease);
    }
    let second = loop {
        match submit(&mut ada, &of_ada, "second").await {
            Ok(build) => break build,
            // Until it is known that the first one runs.
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}"),
        }
    };
    let waiting = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            let waiting = ada.build(&second.id).await.jobs.remove(0).waiting;
            if !waiting.is_empty() {
                return waiting;
            }
        }
    });
    let waiting = waiting.await.expect("it doesn't say what it waits for");
    assert_eq!(waiting, "the project's own limit: 1 of the 1 slots that it may have are in use");
    // Raised, it goes on at once.
    farm.cli(&["project", "set", "web", "--max-running-slots", "none"]).ok();
    leases.push(worker.offer().await.lease.unwrap());
    for lease in &leases {
        assert!(worker.finish(lease, success()).await);
    }
    assert_eq!(ada.follow(&second.id).await.0.state, "succeeded");

    // Bytes: what would be more isn't taken, what is there can be built.
    farm.cli(&["project", "set", "web", "--max-stored-bytes", "1kb", "--max-queued-builds", "none"]).ok();
    let upload = ada.snapshots.open_upload(v1::OpenUploadRequest::default()).await.unwrap().into_inner();
    let long = format!("FROM scratch\n# {}", "x".repeat(2000));
    let pack =
        v1::upload_objects_request::Part::Pack(v1::Pack { objects: farm_tests::client::tree(&long).0 });
    let message = v1::UploadObjectsRequest { upload_id: upload.upload_id, part: Some(pack) };
    let refused = ada.snapshots.upload_objects(tokio_stream::once(message)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    submit(&mut ada, &of_ada, "third").await.unwrap();

    // A minute's builds: told when to come again.
    farm.cli(&["project", "set", "web", "--builds-per-minute", "1"]).ok();
    let refused = submit(&mut ada, &of_ada, "fourth").await.unwrap_err();
    let wait = farm_client::come_back(&refused).expect("nobody says when");
    assert!(wait <= Duration::from_secs(60), "{wait:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_are_the_farms_and_defaults_the_projects() {
    let farm = Farm::builder().start();
    team::project(&farm, "web").await;
    let token = team::person(&farm, "ada", "web", "admin").await;
    let mut ada = Client::with_token(&farm, &token).await;
    let quota = v1::SetProjectQuotaRequest { project: "web".into(), weight: Some(9), ..Default::default() };
    let refused = ada.projects.set_project_quota(quota).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let defaults =
        v1::SetProjectDefaultsRequest { platforms: None, emulation: Some("allow".into()), verify: None };
    ada.projects.set_project_defaults(defaults).await.unwrap();
    let odd =
        v1::SetProjectDefaultsRequest { platforms: None, emulation: Some("maybe".into()), verify: None };
    assert_eq!(ada.projects.set_project_defaults(odd).await.unwrap_err().code(), Code::InvalidArgument);
    for used in [false, true] {
        let request = v1::GetProjectSettingsRequest { used };
        let settings = ada.projects.get_project_settings(request).await.unwrap().into_inner();
        assert_eq!((settings.quota.unwrap().weight, settings.default_emulation.as_str()), (1, "allow"));
        // It is counted for whoever wants to know only.
        assert_eq!(settings.used.is_some(), used);
    }
}
