//! Logins that come with a build: shown to their registry before anything is built, and lent before the project's own.

use super::*;

async fn submit_with(
    client: &mut Client,
    key: &str,
    host: &str,
    user: &str,
    password: &str,
) -> Result<v1::Build, Status> {
    let spec = v1::BuildSpec {
        snapshot: Some(client.upload("FROM scratch").await),
        dockerfile: "Dockerfile".to_owned(),
        platforms: vec!["linux/amd64".to_owned()],
        registry_logins: vec![host.to_owned()],
        ..Default::default()
    };
    let value = format!("{{\"username\": \"{user}\", \"password\": \"{password}\"}}");
    let values = vec![v1::MountValue {
        r#type: "registry-login".to_owned(),
        id: host.to_owned(),
        value: value.into_bytes().into(),
    }];
    let request = v1::SubmitBuildRequest { idempotency_key: key.to_owned(), spec: Some(spec), values };
    Ok(client.builds.submit_build(request).await?.into_inner().build.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_given_with_a_build_is_one_that_its_registry_takes_and_counts_before_the_projects_own() {
    let service = TokenService::start();
    let registry = PrivateRegistry::start_with_tokens(&service);
    let (at, away) = (registry.address(), format!("localhost:{}", free_port()));
    let config = format!("{}[registries.'{away}']\n", service.settings(&at));
    let farm = Farm::builder().tls().guarded().config(&config).start();
    team::project(&farm, "web").await;
    let ada = team::person(&farm, "ada", "web", "admin").await;
    let mut ada = Client::with_token(&farm, &ada).await;
    for (host, user, password, code, said) in [
        (&*at, "web", "wr0ng", Code::InvalidArgument, "doesn't take this password for user \"web\""),
        (&away, "ci", "wr0ng", Code::FailedPrecondition, "nothing was built"),
        ("10.0.0.7:5000", "ci", "wr0ng", Code::InvalidArgument, "sends nothing there unasked"),
    ] {
        let refused = submit_with(&mut ada, "refused", host, user, password).await.unwrap_err();
        assert_eq!(refused.code(), code, "{host}: {refused:?}");
        let told = refused.message();
        assert!(told.contains(said) && told.contains("--registry-login") && told.contains(host), "{told}");
        assert!(!told.contains("wr0ng"), "{told}");
    }
    // Nothing is half done: no build, and no registry that is closed to others.
    let kept = "SELECT (SELECT count(*) FROM builds) + (SELECT count(*) FROM given_logins) + (SELECT count(*) FROM login_hosts)";
    assert_eq!(psql(farm.database_url(), kept), "0");

    set(&mut ada, &at, "web", &password_of("web")).await.unwrap();
    let mut hello = asks("good");
    hello.features.push("mounts".to_owned());
    let good = machine::machine(&farm, "good").await;
    let (mut sim, mut seen) = (connect(&farm, &good, hello).await.unwrap(), Vec::new());
    let build = submit_with(&mut ada, "1", &at, "farm", &password_of("farm")).await.unwrap();
    let offered = next(&mut sim, &mut seen).await;
    let lease = offered.lease.clone().unwrap();
    assert_eq!(token(&mut sim, &lease, &at, "api/secret:pull").await.unwrap(), ["api/secret:pull"]);
    assert_eq!(service.asked().pop().unwrap().user, "farm");
    // Of what was accepted already nobody is asked again.
    let asked = service.asked().len();
    let again = submit_with(&mut ada, "1", &at, "farm", "wr0ng").await.unwrap();
    assert_eq!((&again.id, service.asked().len()), (&build.id, asked));
    // Once the build may have nothing any more, its lease gets nothing.
    let cancel = v1::CancelBuildRequest { build_id: build.id };
    ada.builds.cancel_build(cancel).await.unwrap();
    assert!(token(&mut sim, &lease, &at, "api/secret:pull").await.is_err());
}
