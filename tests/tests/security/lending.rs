//! Which tokens of registries a worker gets, and which logins.

use farm_proto::v1;
use farm_tests::client::{Client, Sim, hello};
use farm_tests::farm::Farm;
use farm_tests::registry::PrivateRegistry;
use farm_tests::token_service::{PASSWORD, TokenService, access};
use tonic::{Code, Status};

use crate::team;

fn new_hello(name: &str) -> v1::Hello {
    let mut hello = hello(name, 8);
    hello.features.push("tokens".to_owned());
    hello
}

/// Submits a build of project `web` to this repository.
async fn submit(client: &mut Client, snapshot: &v1::SnapshotRef, repository: &str, key: &str) -> String {
    let spec = v1::BuildSpec {
        snapshot: Some(snapshot.clone()),
        dockerfile: "Dockerfile".to_owned(),
        platforms: vec!["linux/amd64".to_owned()],
        tags: vec![format!("{repository}:dev")],
        ..Default::default()
    };
    let request =
        v1::SubmitBuildRequest { idempotency_key: key.to_owned(), spec: Some(spec), ..Default::default() };
    client.builds.submit_build(request).await.unwrap().into_inner().build.unwrap().id
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
        realm: "http://127.0.0.1:1/thief".to_owned(),
        service: "whatever".to_owned(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
    };
    sim.work.lend_token(request).await.map(tonic::Response::into_inner)
}

async fn look_up(sim: &mut Sim, lease: &v1::Lease, image: &str) -> Result<v1::LookUpImageResponse, Status> {
    let request = v1::LookUpImageRequest { lease: Some(lease.clone()), image: image.to_owned() };
    sim.work.look_up_image(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_gets_tokens_for_what_its_attempt_may_and_for_nothing_else() {
    let service = TokenService::start();
    let registry = PrivateRegistry::start_with_tokens(&service);
    let at = registry.address();
    let farm = Farm::builder().config(&service.settings(&at)).start();
    team::project(&farm, "web").await;
    team::allow(&farm, "web", "push", &format!("{at}/web")).await;
    team::allow(&farm, "web", "pull", &format!("{at}/base")).await;
    let bob = team::person(&farm, "bob", "web", "builder").await;
    let mut bob = Client::with_token(&farm, &bob).await;
    let mut sim = Sim::connect(&Client::connect(&farm).await, new_hello("sim")).await.unwrap();
    let snapshot = bob.upload("FROM scratch").await;
    submit(&mut bob, &snapshot, &format!("{at}/web/app"), "1").await;
    let offered = sim.offer().await;
    let lease = offered.lease.clone().unwrap();
    let [lent] = &offered.registries[..] else { panic!("{offered:?}") };
    assert_eq!((lent.host.as_str(), lent.username.as_str(), lent.password.as_str()), (&*at, "", ""));
    assert!(!lent.grant.is_empty() && lent.bounded);
    assert_eq!(lent.pull, [format!("{at}/base"), format!("{at}/web"), format!("{at}/web/app")]);

    for (asked, given, refused, by_farm) in [
        (&["repository:web/app:pull,push"][..], &["web/app:pull,push"][..], &[][..], true),
        // One of its project's that isn't the attempt's: it may be pulled from.
        (&["repository:web/other:pull,push"], &["web/other:pull"], &[], true),
        (&["repository:base/os:pull"], &["base/os:pull"], &[], true),
        // To mount a layer from there.
        (
            &["repository:base/os:pull", "repository:web/app:pull,push"],
            &["base/os:pull", "web/app:pull,push"],
            &[],
            true,
        ),
        (&["repository:base/os:pull repository:web/app:push"], &["base/os:pull", "web/app:push"], &[], true),
        (
            &["repository:api/secret:pull", "repository:web/app:pull,push"],
            &["web/app:pull,push"],
            &["api/secret"],
            true,
        ),
        (&["repository:api/secret:pull,push"], &["api/secret:"], &["api/secret"], false),
        (&["repository:public/os:pull"], &["public/os:pull"], &["public/os"], false),
        (&["repository:base/os:pull,push,delete,*"], &["base/os:pull"], &[], true),
        (&["repository:website/app:pull"], &["website/app:"], &["website/app"], false),
        // What is none of these is nobody's.
        (&["registry:catalog:*"], &[], &[], false),
        (&["repository:../api/secret:pull", "repository:WEB/app:pull", "repository::pull"], &[], &[], false),
        (&[], &[], &[], false),
    ] {
        let lent = lend(&mut sim, &lease, &at, asked).await.unwrap();
        assert_eq!(access(&lent.token), given, "{asked:?}");
        let of_host: Vec<String> = refused.iter().map(|name| format!("{at}/{name}")).collect();
        assert_eq!(lent.refused, of_host, "{asked:?}");
        assert_eq!(lent.expires_in, 300);
        assert!(lent.issued_at > 0);
        assert_eq!(service.asked().last().unwrap().by_farm, by_farm, "{asked:?}");
    }
    // Written otherwise it is the same registry.
    let lent = lend(&mut sim, &lease, &at.to_uppercase(), &["repository:web/app:pull"]).await.unwrap();
    assert_eq!(access(&lent.token), ["web/app:pull"]);

    // Not of registries that the farm has no login for, whose token services it would ask in vain.
    let refused = lend(&mut sim, &lease, "localhost:1", &["repository:x:pull"]).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let many = vec!["repository:web/app:pull"; 101];
    assert_eq!(lend(&mut sim, &lease, &at, &many).await.unwrap_err().code(), Code::InvalidArgument);

    // What everybody may read is asked for nobody, whatever the project may; only of registries at names that the farm has a login for.
    let digest = format!("sha256:{}", "0".repeat(64));
    for (image, absent) in [
        ("public/os:1", true),
        (&format!("public/os@{digest}"), true),
        ("api/secret:1", false),
        ("web/app:dev", false),
    ] {
        let seen = look_up(&mut sim, &lease, &format!("{at}/{image}")).await.unwrap();
        assert_eq!((seen.public, seen.absent), (false, absent), "{image}");
        let (asked, (name, _)) = (service.asked().pop().unwrap(), image.split_once([':', '@']).unwrap());
        assert_eq!((asked.by_farm, asked.scopes), (false, vec![format!("{name}:pull")]));
    }
    for (image, code) in [
        ("localhost:1/public/os:1", Code::Unavailable),
        ("other.example/public/os:1", Code::InvalidArgument),
        ("no image", Code::InvalidArgument),
    ] {
        assert_eq!(look_up(&mut sim, &lease, image).await.unwrap_err().code(), code, "{image}");
    }

    // With another lease, or one that has ended, nothing.
    let other = v1::Lease { lease_token: uuid::Uuid::new_v4().to_string(), ..lease.clone() };
    let refused = lend(&mut sim, &other, &at, &["repository:web/app:pull"]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let refused = look_up(&mut sim, &other, &format!("{at}/public/os:1")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let stopped = v1::finished::Outcome::Failure(v1::Failure {
        cause: "user".to_owned(),
        code: "run_failed".to_owned(),
        message: "no".to_owned(),
        ..Default::default()
    });
    sim.start(&lease).await;
    assert!(sim.finish(&lease, stopped).await);
    let refused = lend(&mut sim, &lease, &at, &["repository:web/app:pull"]).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let refused = look_up(&mut sim, &lease, &format!("{at}/public/os:1")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

/// The next offer that wasn't made before: one that nobody has answered is made again.
async fn next(sim: &mut Sim, seen: &mut Vec<String>) -> v1::Offered {
    loop {
        let offered = sim.offer().await;
        let attempt = offered.lease.clone().unwrap().attempt_id;
        if !seen.contains(&attempt) {
            seen.push(attempt);
            return offered;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_that_may_the_same_share_what_their_engine_keeps_and_others_do_not() {
    let service = TokenService::start();
    let registry = PrivateRegistry::start_with_tokens(&service);
    let at = registry.address();
    let farm = Farm::builder().config(&service.settings(&at)).start();
    let mut clients = Vec::new();
    for project in ["web", "api"] {
        team::project(&farm, project).await;
        team::allow(&farm, project, "push", &format!("{at}/shared")).await;
        let token = team::person(&farm, &format!("{project}-bob"), project, "builder").await;
        clients.push(Client::with_token(&farm, &token).await);
    }
    let mut sim = Sim::connect(&Client::connect(&farm).await, new_hello("sim")).await.unwrap();
    let (mut grants, mut seen) = (Vec::new(), Vec::new());
    for (key, (place, name)) in [(0, "a"), (0, "a"), (0, "b"), (1, "a")].into_iter().enumerate() {
        let snapshot = clients[place].upload("FROM scratch").await;
        submit(&mut clients[place], &snapshot, &format!("{at}/shared/{name}"), &key.to_string()).await;
        grants.push(next(&mut sim, &mut seen).await.registries[0].grant.clone());
    }
    assert_eq!(grants[0], grants[1]);
    assert!(grants[0] != grants[2] && grants[0] != grants[3] && grants[2] != grants[3], "{grants:?}");
    team::allow(&farm, "web", "pull", &format!("{at}/base")).await;
    let snapshot = clients[0].upload("FROM scratch").await;
    // What projects are allowed is known for a second, and changes count at once where they are made.
    submit(&mut clients[0], &snapshot, &format!("{at}/shared/a"), "later").await;
    assert_ne!(next(&mut sim, &mut seen).await.registries[0].grant, grants[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_knows_no_tokens_is_lent_the_login() {
    let service = TokenService::start();
    let registry = PrivateRegistry::start_with_tokens(&service);
    let at = registry.address();
    let farm = Farm::builder().config(&service.settings(&at)).start();
    let mut admin = Client::connect(&farm).await;
    let mut sim = Sim::connect(&admin, hello("old", 8)).await.unwrap();
    let snapshot = admin.upload("FROM scratch").await;
    submit(&mut admin, &snapshot, &format!("{at}/web/app"), "1").await;
    let lent = sim.offer().await.registries.remove(0);
    assert_eq!((lent.password.as_str(), lent.grant.as_str(), lent.pull.len()), (PASSWORD, "", 0));
}
