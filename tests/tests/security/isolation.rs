//! What one project has, another can't see; nor whether it is there.

use farm_proto::v1;
use farm_tests::client::{Client, Sim, hello};
use farm_tests::database::psql;
use farm_tests::farm::Farm;
use farm_tests::session::Session;
use tonic::Code;

use crate::team;

#[tokio::test(flavor = "multi_thread")]
async fn another_projects_builds_sources_and_existence_cant_be_told() {
    let farm = Farm::builder().start();
    for name in ["web", "api"] {
        team::project(&farm, name).await;
    }
    let ada = team::person(&farm, "ada", "web", "admin").await;
    let ben = team::person(&farm, "ben", "api", "admin").await;
    let mut ada = Client::with_token(&farm, &ada).await;
    let mut ben_here = Client::with_token(&farm, &ben).await;
    let snapshot = ada.upload("FROM scratch").await;
    let build = ada.submit(&snapshot, "key", &["linux/amd64"]).await.id;

    // In one's own project another's build is as one that was never there, to the letter.
    let absent = "zzzzzz";
    let same = |there: tonic::Status, not: tonic::Status| {
        assert_eq!(there.code(), not.code());
        assert_eq!(there.message().replace(&build, absent), not.message());
    };
    let mut got = Vec::new();
    for id in [&build, absent] {
        let build_id = id.to_owned();
        got.push(vec![
            ben_here.builds.get_build(v1::GetBuildRequest { build_id: build_id.clone() }).await.map(drop),
            ben_here
                .builds
                .watch_build(v1::WatchBuildRequest { build_id: build_id.clone(), ..Default::default() })
                .await
                .map(drop),
            ben_here
                .builds
                .cancel_build(v1::CancelBuildRequest { build_id: build_id.clone() })
                .await
                .map(drop),
            ben_here
                .builds
                .retry_build(v1::RetryBuildRequest {
                    build_id: build_id.clone(),
                    idempotency_key: "k".into(),
                    ..Default::default()
                })
                .await
                .map(drop),
            ben_here
                .builds
                .provide_source(v1::ProvideSourceRequest {
                    build_id: build_id.clone(),
                    snapshot: Some(snapshot.clone()),
                })
                .await
                .map(drop),
            ben_here
                .outputs
                .fetch_output(v1::FetchOutputRequest {
                    build_id: build_id.clone(),
                    platform: "linux/amd64".into(),
                    ..Default::default()
                })
                .await
                .map(drop),
            ben_here.outputs.release_outputs(v1::ReleaseOutputsRequest { build_id }).await.map(drop),
        ]);
    }
    let [there, not] = <[_; 2]>::try_from(got).unwrap();
    for (there, not) in there.into_iter().zip(not) {
        same(there.unwrap_err(), not.unwrap_err());
    }
    let list = ben_here.builds.list_builds(v1::ListBuildsRequest::default()).await.unwrap().into_inner();
    assert!(list.builds.is_empty());

    // Objects that another project has are missing here, and its snapshot can't be built.
    let digests = farm_tests::client::tree("FROM scratch")
        .0
        .into_iter()
        .map(|object| object.digest)
        .collect::<Vec<_>>();
    let upload = ben_here.snapshots.open_upload(v1::OpenUploadRequest::default()).await.unwrap().into_inner();
    let asked = v1::FindMissingRequest { upload_id: upload.upload_id, digests: digests.clone() };
    let missing = ben_here.snapshots.find_missing(asked).await.unwrap().into_inner().missing;
    assert_eq!(missing, digests);
    // The same key in another project is another build.
    let own = ben_here.upload("FROM scratch").await;
    let other = ben_here.submit(&own, "key", &["linux/amd64"]).await;
    assert_ne!(other.id, build);

    // A project that is there and one that isn't are refused in the same words.
    let mut refused = Vec::new();
    for name in ["web", "nope"] {
        let mut there = Client::within(&farm, &ben, Some(name)).await;
        let status = there.builds.list_builds(v1::ListBuildsRequest::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        refused.push(status.message().replace(name, "NAME"));
    }
    assert_eq!(refused[0], refused[1]);
    let projects = ben_here.projects.list_projects(v1::ListProjectsRequest {}).await.unwrap().into_inner();
    assert!(projects.projects.iter().map(|project| project.name.as_str()).eq(["api"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_begun_in_a_project_that_is_being_removed() {
    let farm = Farm::builder().start();
    team::project(&farm, "web").await;
    let token = team::person(&farm, "ada", "web", "admin").await;
    let mut ada = Client::with_token(&farm, &token).await;
    let snapshot = ada.upload("FROM scratch").await;
    // As `remove_project` does, and stopped before its end.
    let mut removal = Session::open(farm.database_url());
    removal.ask("BEGIN; SELECT 1");
    let of_web = "name = 'web' RETURNING 1";
    assert_eq!(
        removal.ask(&format!("UPDATE projects SET removed_at = farm_now(), name = 'removed' WHERE {of_web}")),
        "1"
    );
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    let mut submits = ada.clone();
    let submitting = tokio::spawn(async move {
        let spec = v1::BuildSpec {
            snapshot: Some(snapshot),
            dockerfile: "Dockerfile".to_owned(),
            platforms: vec!["linux/amd64".to_owned()],
            ..Default::default()
        };
        let request = v1::SubmitBuildRequest {
            idempotency_key: "late".to_owned(),
            spec: Some(spec),
            ..Default::default()
        };
        submits.builds.submit_build(request).await.map(drop)
    });
    let set =
        v1::SetMemberRequest { person: "bob".to_owned(), role: "builder".to_owned(), ..Default::default() };
    let mut sets = ada.clone();
    let setting = tokio::spawn(async move { sets.projects.set_member(set).await.map(drop) });
    let limit = std::time::Duration::from_secs(10);
    tokio::time::timeout(limit, async {
        while psql(farm.database_url(), waits) != "2" {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("they don't wait for the removal");
    removal.ask("COMMIT; SELECT 1");
    for ended in [submitting.await.unwrap(), setting.await.unwrap()] {
        let status = ended.expect_err("it was done in a project that is gone");
        assert_eq!((status.code(), status.message()), (Code::NotFound, "there is no such project"));
    }
    assert_eq!(psql(farm.database_url(), "SELECT count(*) FROM builds"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_busy_with_what_others_build() {
    let farm = Farm::builder().start();
    for name in ["web", "api"] {
        team::project(&farm, name).await;
    }
    let admin = Client::connect(&farm).await;
    let mut sim = Sim::connect(&admin, hello("sim", 1)).await.unwrap();
    let ada = team::person(&farm, "ada", "web", "builder").await;
    let ben = team::person(&farm, "ben", "api", "admin").await;
    let mut web = Client::with_token(&farm, &ada).await;
    let snapshot = web.upload("FROM scratch").await;
    let build = web.submit(&snapshot, "key", &["linux/amd64"]).await.id;
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    let mut running = Vec::new();
    for token in [&farm.token(), &ada, &ben] {
        let mut client = Client::with_token(&farm, token).await;
        let workers = client.farm.list_workers(v1::ListWorkersRequest {}).await.unwrap().into_inner().workers;
        running.extend(workers.into_iter().flat_map(|worker| worker.running));
    }
    let named = format!("{build} linux/amd64");
    assert_eq!(running, [named.clone(), named, "busy".to_owned()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_in_several_projects_says_in_which() {
    let farm = Farm::builder().start();
    for name in ["web", "api"] {
        team::project(&farm, name).await;
        team::join(&farm, "ada", name, "builder").await;
    }
    let token = team::token(&farm, "ada", v1::TokenScope::default()).await;
    let mut unsaid = Client::with_token(&farm, &token).await;
    let status = unsaid.builds.list_builds(v1::ListBuildsRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(
        status.message(),
        "ada is in several projects (api, web); say in which with --project or FARM_PROJECT"
    );
    let mut said = Client::within(&farm, &token, Some("api")).await;
    said.builds.list_builds(v1::ListBuildsRequest::default()).await.unwrap();
    // A project that is removed is nobody's, and its name is free.
    let mut admin = Client::connect(&farm).await;
    admin.projects.remove_project(v1::RemoveProjectRequest { name: "api".into() }).await.unwrap();
    team::project(&farm, "api").await;
    let who = async |client: &mut Client| {
        client.people.who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner().memberships
    };
    let web = [v1::Membership { project: "web".into(), role: "builder".into() }];
    let within = tokio::time::timeout(std::time::Duration::from_secs(20), async {
        while who(&mut said).await != web {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    within.await.expect("ada is still in it");
}
