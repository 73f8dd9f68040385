//! Where a project may push to, who moves its protected tags, and which credentials its jobs are lent.

use farm_proto::v1;
use farm_tests::client::{Client, Sim, hello};
use farm_tests::farm::Farm;
use tonic::{Code, Status};

use crate::team;

async fn submit(
    client: &mut Client,
    snapshot: &v1::SnapshotRef,
    key: &str,
    tag: &str,
) -> Result<String, Status> {
    let spec = v1::BuildSpec {
        snapshot: Some(snapshot.clone()),
        dockerfile: "Dockerfile".to_owned(),
        platforms: vec!["linux/amd64".to_owned()],
        tags: vec![tag.to_owned()],
        ..Default::default()
    };
    let request =
        v1::SubmitBuildRequest { idempotency_key: key.to_owned(), spec: Some(spec), ..Default::default() };
    client.builds.submit_build(request).await.map(|answer| answer.into_inner().build.unwrap().id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_pushes_where_it_is_allowed_to_and_protected_tags_are_moved_by_whom_they_are_said_to_be() {
    let farm = Farm::builder().arg("--shared-registry").arg("shared.example").start();
    team::project(&farm, "web").await;
    let bob = team::person(&farm, "bob", "web", "builder").await;
    let pia = team::person(&farm, "pia", "web", "publisher").await;
    let (mut bob, mut pia) = (Client::with_token(&farm, &bob).await, Client::with_token(&farm, &pia).await);
    let snapshot = bob.upload("FROM scratch").await;

    let refused = submit(&mut bob, &snapshot, "1", "r.example/web/app:dev").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(
        refused.message(),
        "project web may not push to r.example/web/app; an admin of the farm can allow it: farm project allow web --push \
         r.example/web/app; or an admin of web gives it a login of its own: farm registry login r.example --project web"
    );
    submit(&mut bob, &snapshot, "2", "shared.example/app:dev").await.unwrap();
    team::allow(&farm, "web", "push", "r.example/web").await;
    let build = submit(&mut bob, &snapshot, "3", "r.example/web/app:dev").await.unwrap();
    let refused = submit(&mut bob, &snapshot, "4", "r.example/website:dev").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    let refused = submit(&mut bob, &snapshot, "5", "r.example/web/app:v1").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(
        refused.message(),
        "bob may not move r.example/web/app:v1: tags v* of project web are moved by a publisher. Take another tag, or ask an admin \
         of web for the role: farm member set bob --role publisher --project web"
    );
    submit(&mut pia, &snapshot, "6", "r.example/web/app:v1").await.unwrap();
    let latest = submit(&mut pia, &snapshot, "7", "r.example/web/app").await.unwrap();
    // What somebody else may move isn't moved by building it once more.
    let mut sim = Sim::connect(&Client::connect(&farm).await, hello("sim", 8)).await.unwrap();
    bob.builds.cancel_build(v1::CancelBuildRequest { build_id: latest.clone() }).await.unwrap();
    let retry = v1::RetryBuildRequest {
        build_id: latest.clone(),
        idempotency_key: "8".to_owned(),
        ..Default::default()
    };
    let _ = bob.follow(&latest).await;
    // Nor by giving somebody else's build another source.
    let source = v1::ProvideSourceRequest { build_id: latest.clone(), snapshot: Some(snapshot.clone()) };
    let refused = bob.builds.provide_source(source).await.unwrap_err();
    assert!(refused.message().contains("may not move r.example/web/app:latest"), "{}", refused.message());
    let refused = bob.builds.retry_build(retry.clone()).await.unwrap_err();
    assert!(refused.message().contains("may not move r.example/web/app:latest"), "{}", refused.message());
    pia.builds.retry_build(retry).await.unwrap();
    sim.offer().await;

    // What is taken back counts no more; what was accepted goes on.
    let mut admin = Client::connect(&farm).await;
    let forbid = v1::AllowRepositoriesRequest {
        project: "web".to_owned(),
        access: "push".to_owned(),
        repositories: "r.example/web".to_owned(),
        allowed: false,
    };
    assert!(admin.projects.allow_repositories(forbid).await.unwrap().into_inner().changed);
    let refused = submit(&mut bob, &snapshot, "9", "r.example/web/app:dev").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    bob.builds.get_build(v1::GetBuildRequest { build_id: build }).await.unwrap();
    let mut web = Client::within(&farm, &farm.token(), Some("web")).await;
    let protect = v1::ProtectTagsRequest { pattern: "v*".to_owned(), role: String::new() };
    web.projects.protect_tags(protect).await.unwrap();
    submit(&mut bob, &snapshot, "10", "shared.example/app:v2").await.unwrap();
    let access = web.projects.get_access(v1::GetAccessRequest {}).await.unwrap().into_inner();
    assert!(access.push.is_empty() && access.shared == ["shared.example"]);
    assert!(access.protected.iter().map(|tags| tags.pattern.as_str()).eq(["latest"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_lent_the_credentials_of_their_projects_registries_only() {
    let config = "[registries.'a.example']\nusername = 'a'\npassword = 'one'\n\
                  [registries.'b.example']\nusername = 'b'\npassword = 'two'\n";
    let farm = Farm::builder().config(config).start();
    team::project(&farm, "web").await;
    team::allow(&farm, "web", "push", "a.example/web").await;
    let ada = team::person(&farm, "ada", "web", "admin").await;
    let (mut ada, mut admin) = (Client::with_token(&farm, &ada).await, Client::connect(&farm).await);
    let mut sim = Sim::connect(&admin, hello("sim", 8)).await.unwrap();
    let snapshot = ada.upload("FROM scratch").await;
    let lent = async |sim: &mut Sim| {
        let mut hosts: Vec<String> = sim.offer().await.registries.into_iter().map(|lent| lent.host).collect();
        hosts.sort();
        hosts
    };
    submit(&mut ada, &snapshot, "1", "a.example/web:dev").await.unwrap();
    assert_eq!(lent(&mut sim).await, ["a.example"]);
    let own = admin.upload("FROM scratch").await;
    submit(&mut admin, &own, "2", "a.example/web:dev").await.unwrap();
    assert_eq!(lent(&mut sim).await, ["a.example", "b.example"]);

    // Nor can anybody look at what is there with credentials that aren't for them.
    let image = v1::InspectImageRequest { reference: "b.example/secret:1".to_owned() };
    let channel = tonic::transport::Endpoint::new(farm.url()).unwrap().connect().await.unwrap();
    let token = team::person(&farm, "vera", "web", "viewer").await;
    let bearer = farm_tests::client::Bearer { token, project: None };
    let mut images = v1::image_service_client::ImageServiceClient::with_interceptor(channel, bearer);
    let refused = images.inspect_image(image).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        refused.message().contains("farm project allow web --pull b.example/secret"),
        "{}",
        refused.message()
    );
}
