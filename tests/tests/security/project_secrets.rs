//! A project's secrets: who sets, sees and uses them, and where their values are: with the builds that were accepted with them, and
//! sealed.

use std::collections::HashMap;

use farm_proto::v1;
use farm_tests::client::{Client, Sim, hello, success};
use farm_tests::database::{dump, psql};
use farm_tests::farm::{Farm, program};
use farm_tests::issuer::{Issuer, Key, Kind};
use farm_tests::planted::Planted;
use serde_json::json;
use tonic::{Code, Status};

use crate::team;

fn value_of(planted: &Planted) -> bytes::Bytes {
    planted.value().to_vec().into()
}

/// Sets a secret's value, or its rule alone.
async fn set(
    client: &mut Client,
    value: Option<&Planted>,
    role: Option<&str>,
    refs: &[&str],
    events: &[&str],
) -> Result<v1::ProjectSecret, Status> {
    let list = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect::<Vec<_>>();
    let request = v1::SetSecretRequest {
        name: "npm".to_owned(),
        value: value.map(value_of),
        role: role.map(ToOwned::to_owned),
        refs: Some(v1::SecretRefs { patterns: list(refs) }),
        events: Some(v1::SecretEvents { names: list(events) }),
    };
    Ok(client.secrets.set_secret(request).await?.into_inner().secret.unwrap())
}

async fn list(client: &mut Client) -> Result<Vec<v1::ProjectSecret>, Status> {
    Ok(client.secrets.list_secrets(v1::ListSecretsRequest {}).await?.into_inner().secrets)
}

/// Submits a build whose steps may mount the project's npm.
async fn submit(client: &mut Client, key: &str) -> Result<v1::Build, Status> {
    let spec = v1::BuildSpec {
        snapshot: Some(client.upload("FROM scratch").await),
        platforms: vec!["linux/amd64".to_owned()],
        secrets: [("token".to_owned(), "project:npm".to_owned())].into(),
        ..Default::default()
    };
    let request =
        v1::SubmitBuildRequest { idempotency_key: key.to_owned(), spec: Some(spec), values: Vec::new() };
    Ok(client.builds.submit_build(request).await?.into_inner().build.unwrap())
}

async fn retry(client: &mut Client, build: &v1::Build, key: &str) -> Result<v1::Build, Status> {
    let request = v1::RetryBuildRequest {
        build_id: build.id.clone(),
        idempotency_key: key.to_owned(),
        ..Default::default()
    };
    Ok(client.builds.retry_build(request).await?.into_inner().build.unwrap())
}

fn version(build: &v1::Build) -> &HashMap<String, u32> {
    &build.secret_versions
}

/// Takes the next job and gives what its steps would mount.
async fn lent(sim: &mut Sim, lease: &v1::Lease) -> Vec<u8> {
    let request = v1::LendMountsRequest { lease: Some(lease.clone()) };
    let lent = sim.work.lend_mounts(request).await.unwrap().into_inner().values;
    let [one] = &lent[..] else { panic!("{lent:?}") };
    assert_eq!((one.r#type.as_str(), one.id.as_str()), ("secret", "token"));
    one.value.to_vec()
}

#[track_caller]
fn refused(answer: Result<v1::Build, Status>, said: &[&str]) {
    let status = answer.unwrap_err();
    let is_refusal = matches!(status.code(), Code::PermissionDenied | Code::FailedPrecondition);
    assert!(is_refusal && said.iter().all(|said| status.message().contains(said)), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projects_secret_is_for_whom_its_rule_says_and_a_build_keeps_what_it_began_with() {
    let mut farm = Farm::builder().tls().start();
    for name in ["web", "api"] {
        team::project(&farm, name).await;
    }
    let mut people = Vec::new();
    for (name, project, role) in [
        ("ada", "web", "admin"),
        ("bob", "web", "builder"),
        ("pia", "web", "publisher"),
        ("vera", "web", "viewer"),
        ("ben", "api", "admin"),
    ] {
        let token = team::person(&farm, name, project, role).await;
        people.push(Client::with_token(&farm, &token).await);
    }
    let [ada, bob, pia, vera, ben] = &mut people[..] else { unreachable!() };
    let [first, second] = [Planted::new("npm-one-"), Planted::new("npm-two-")];

    // Only an admin sets and removes, nobody without a value to begin with, and viewers don't see what there is.
    for somebody in [&mut *bob, &mut *pia, &mut *vera] {
        assert_eq!(
            set(somebody, Some(&first), None, &[], &[]).await.unwrap_err().code(),
            Code::PermissionDenied
        );
    }
    assert_eq!(set(ada, None, None, &[], &[]).await.unwrap_err().code(), Code::NotFound);
    let made = set(ada, Some(&first), Some("publisher"), &[], &[]).await.unwrap();
    assert_eq!((made.version, made.role.as_str(), made.set_by.as_str()), (1, "publisher", "ada"));
    assert_eq!(list(vera).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(list(bob).await.unwrap().len(), 1);
    // Another project's is one that isn't there.
    refused(submit(ben, "1").await, &["project api has no secret npm"]);
    assert!(list(ben).await.unwrap().is_empty());

    refused(
        submit(bob, "1").await,
        &[
            "bob may not use secret npm of project web: that needs publisher, and bob is builder",
            "farm secret rule npm --role builder --project web",
            "farm member set bob --role publisher --project web",
        ],
    );
    let build = submit(pia, "1").await.unwrap();
    assert_eq!(version(&build), &HashMap::from([("token".to_owned(), 1)]));
    let used = list(bob).await.unwrap().remove(0);
    assert_eq!((used.last_used_build.as_str(), used.last_used_by.as_str()), (build.id.as_str(), "pia"));
    // Whoever gave the source would have the secret.
    let source = v1::ProvideSourceRequest {
        build_id: build.id.clone(),
        snapshot: Some(bob.upload("FROM scratch\nRUN steal").await),
    };
    let stolen = bob.builds.provide_source(source).await.unwrap_err();
    assert_eq!(stolen.code(), Code::PermissionDenied, "{stolen}");
    assert!(stolen.message().contains("pia alone sends"), "{stolen}");
    // By another token, as after the next sign-in, pia is the same.
    let token = team::token(&farm, "pia", v1::TokenScope::default()).await;
    let mut again = Client::with_token(&farm, &token).await;
    let source = v1::ProvideSourceRequest {
        build_id: build.id.clone(),
        snapshot: Some(again.upload("FROM scratch").await),
    };
    again.builds.provide_source(source).await.unwrap();

    // What a build began with stays its own, whatever becomes of the secret.
    let mut worker = hello("sim", 4);
    worker.features.push("mounts".to_owned());
    let mut sim = Sim::connect(&Client::connect(&farm).await, worker).await.unwrap();
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    assert_eq!(lent(&mut sim, &lease).await, first.value());
    assert_eq!(set(ada, Some(&second), None, &[], &[]).await.unwrap().version, 2);
    assert_eq!(lent(&mut sim, &lease).await, first.value());
    // Only the rule: no value came, and the role stayed when the value was set.
    let ruled = set(ada, None, None, &[], &[]).await.unwrap();
    assert_eq!((ruled.version, ruled.role.as_str()), (2, "publisher"));
    let gone = v1::RemoveSecretRequest { name: "npm".to_owned() };
    assert_eq!(bob.secrets.remove_secret(gone.clone()).await.unwrap_err().code(), Code::PermissionDenied);
    ada.secrets.remove_secret(gone.clone()).await.unwrap();
    assert_eq!(ada.secrets.remove_secret(gone).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(lent(&mut sim, &lease).await, first.value());
    assert!(sim.finish(&lease, success()).await);
    pia.follow(&build.id).await;

    // A retry is judged by who retries, and takes what counts then.
    refused(
        retry(pia, &build, "2").await,
        &["project web has no secret npm", "farm secret set npm --project web"],
    );
    assert_eq!(set(ada, Some(&second), Some("publisher"), &[], &[]).await.unwrap().version, 3);
    refused(retry(bob, &build, "2").await, &["bob may not use secret npm", "that needs publisher"]);
    let again = retry(pia, &build, "2").await.unwrap();
    assert_eq!(version(&again)["token"], 3);
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    assert_eq!(lent(&mut sim, &lease).await, second.value());

    // Neither value is in a record, an audit row, a log, a file, or anything that Postgres keeps, in whatever form.
    let shown = format!("{:?} {:?} {:?}", ada.build(&build.id).await, list(ada).await, made);
    let copy = dump(farm.database_url());
    for planted in [&first, &second] {
        planted.is_not_in("what the farm answers", &shown);
        planted.is_not_in("a dump of the database", &copy);
        assert!(planted.is_not_below(farm.folder()) > 5);
    }
    // Where a value does lie in the database, a dump shows it.
    let open = Planted::new("open-");
    let hex: String = open.value().iter().map(|byte| format!("{byte:02x}")).collect();
    psql(farm.database_url(), &format!("CREATE TABLE planted AS SELECT decode('{hex}', 'hex') AS value"));
    assert!(open.find(&dump(farm.database_url())).is_some());
    let deeds = "SELECT string_agg(action || ' ' || subject || ' by ' || principal, ', ' ORDER BY id) FROM audit \
                 WHERE action LIKE 'secret.%'";
    assert_eq!(
        psql(farm.database_url(), deeds),
        "secret.set npm by ada, secret.set npm by ada, secret.rule npm by ada, secret.remove npm by ada, secret.set npm by ada"
    );

    // Without the key it is worth nothing, and everybody concerned is told which it takes.
    farm.stop_coordinator();
    let keys = farm.folder().join("coordinator/keys");
    let kept = std::fs::read_to_string(&keys).unwrap();
    let other: [u8; 32] = rand::random();
    let other: String = other.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(&keys, format!("farm_key_{other}\n")).unwrap();
    farm.start_coordinator();
    let [ada, _, pia, ..] = &mut people[..] else { unreachable!() };
    let missing = list(ada).await.unwrap().remove(0).missing_key;
    assert_eq!(missing.len(), 12);
    let lost = submit(pia, "3").await.unwrap_err();
    let told = [
        &*format!("was sealed by the farm's key {missing}"),
        "Whoever runs the farm gives all coordinators the same keys",
        "farm secret set npm",
    ];
    assert!(told.iter().all(|told| lost.message().contains(told)), "{lost}");
    let mut ls = program("farm-coordinator");
    ls.args(["--database-url", farm.database_url(), "--state-dir"]).arg(keys.parent().unwrap());
    let ls = farm_tests::farm::output(ls.args(["keys", "ls"])).ok();
    let line = ls.lines().find(|line| line.contains(&missing)).unwrap();
    assert!(line.split_whitespace().eq([&*missing, "missing", "2"]), "{ls}");
    farm.stop_coordinator();
    std::fs::write(&keys, format!("farm_key_{other}\n{kept}")).unwrap();
    farm.start_coordinator();
    submit(pia, "3").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_ci_systems_use_a_secret_for_the_refs_and_events_of_its_rule_and_proposals_only_by_name() {
    let key = Key::new("one", Kind::Rs256);
    let (issuer, another) = (Issuer::start(&[&key]), Issuer::start(&[&key]));
    let of = |issuer: &Issuer| {
        format!("[oidc.issuers.'{}']\nplain_http = true\nalgorithms = ['RS256']\n", issuer.url())
    };
    let config = format!("[oidc]\naudience = 'https://farm.example'\n{}{}", of(&issuer), of(&another));
    let farm = Farm::builder().tls().config(&config).start();
    let mut admin = Client::connect(&farm).await;
    let one = |value: &str| v1::ClaimValues { values: vec![value.to_owned()] };
    let any_event = v1::ClaimValues { values: vec!["*".to_owned()] };
    let trust = v1::AddTrustRequest {
        provider: "github".to_owned(),
        issuer: issuer.url(),
        name: "acme/app".to_owned(),
        claims: [
            ("repository_id".to_owned(), one("74")),
            ("repository_owner_id".to_owned(), one("65")),
            ("event_name".to_owned(), any_event),
        ]
        .into(),
        role: "builder".to_owned(),
        ..Default::default()
    };
    admin.trusts.add_trust(trust).await.unwrap();
    let secret = Planted::new("npm-");
    let exchange = async |full: &str, event: &str| {
        let token = key.sign(&issuer.job(json!({ "ref": full, "event_name": event })));
        let asked = v1::ExchangeTokenRequest { token, project: "default".to_owned() };
        let given = admin.clone().trusts.exchange_token(asked).await.unwrap().into_inner();
        Client::with_token(&farm, &given.secret).await
    };
    let mut main = exchange("refs/heads/main", "push").await;
    let mut nightly = exchange("refs/heads/main", "schedule").await;
    let mut topic = exchange("refs/heads/topic", "push").await;
    let mut proposal = exchange("refs/pull/7/merge", "pull_request").await;
    let mut strangers = exchange("refs/heads/main", "pull_request_target").await;
    let mut renewed = exchange("refs/heads/main", "push").await;
    let mut after = exchange("refs/heads/main", "workflow_run").await;
    let trust = v1::AddTrustRequest {
        provider: "other".to_owned(),
        issuer: another.url(),
        name: "acme".to_owned(),
        claims: [("sub".to_owned(), one("acme/app"))].into(),
        role: "builder".to_owned(),
        ..Default::default()
    };
    admin.trusts.add_trust(trust).await.unwrap();
    // Whatever it says of itself.
    let token = key.sign(&another.job(json!({
        "sub": "acme/app", "ref": "refs/heads/main", "event_name": "push", "pipeline_source": "push",
    })));
    let asked = v1::ExchangeTokenRequest { token, project: "default".to_owned() };
    let given = admin.trusts.exchange_token(asked).await.unwrap().into_inner();
    let mut other = Client::with_token(&farm, &given.secret).await;
    let mut number = 0;
    let mut next = || {
        number += 1;
        number.to_string()
    };

    // Whoever may build, unless it is proposed.
    set(&mut admin, Some(&secret), None, &[], &[]).await.unwrap();
    for client in [&mut main, &mut nightly, &mut topic, &mut admin.clone()] {
        submit(client, &next()).await.unwrap();
    }
    // A job of the same name is another one, unless it has the same ref and event: by these it may have exchanged its next token.
    let build = submit(&mut main, &next()).await.unwrap();
    let provide = async |client: &mut Client| {
        let snapshot = Some(client.upload("FROM scratch\nRUN steal").await);
        let source = v1::ProvideSourceRequest { build_id: build.id.clone(), snapshot };
        client.builds.provide_source(source).await.map(drop)
    };
    provide(&mut main).await.unwrap();
    provide(&mut renewed).await.unwrap();
    for namesake in [&mut nightly, &mut strangers] {
        let stolen = provide(namesake).await.unwrap_err();
        assert_eq!(stolen.code(), Code::PermissionDenied, "{stolen}");
        assert!(stolen.message().contains("another job of that name"), "{stolen}");
    }

    refused(
        submit(&mut proposal, &next()).await,
        &[
            "github:acme/app@refs/pull/7/merge may not use secret npm",
            "pull or merge request",
            "--event pull_request",
        ],
    );
    refused(submit(&mut strangers, &next()).await, &["Let a job use it that a push begins"]);
    refused(submit(&mut after, &next()).await, &["or may build", "--event workflow_run"]);
    refused(submit(&mut other, &next()).await, &["doesn't say what has begun this job", "--event unknown"]);
    let named = set(&mut admin, None, None, &[], &["pull_request_target"]).await.unwrap_err();
    assert_eq!(named.code(), Code::InvalidArgument, "{named}");

    set(&mut admin, None, None, &["refs/heads/main", "refs/tags/v*"], &["push"]).await.unwrap();
    let build = submit(&mut main, &next()).await.unwrap();
    refused(
        submit(&mut topic, &next()).await,
        &["it is for refs/heads/main or refs/tags/v*", "builds refs/heads/topic"],
    );
    refused(submit(&mut nightly, &next()).await, &["begun by push", "this one was by schedule", "--event"]);
    // A person is of no ref, and an admin is no exception; but by name.
    refused(
        submit(&mut admin.clone(), &next()).await,
        &["jobs of CI systems that build refs/heads/main", "a token of the farm's own", "--event manual"],
    );
    let cancel = v1::CancelBuildRequest { build_id: build.id.clone() };
    admin.builds.cancel_build(cancel).await.unwrap();
    refused(retry(&mut topic, &build, &next()).await, &["may not use secret npm"]);
    set(&mut admin, None, None, &["refs/heads/main"], &["push", "manual"]).await.unwrap();
    retry(&mut admin.clone(), &build, &next()).await.unwrap();
    set(&mut admin, None, None, &[], &["unknown"]).await.unwrap();
    submit(&mut other, &next()).await.unwrap();
    set(&mut admin, None, None, &[], &["pull_request"]).await.unwrap();
    submit(&mut proposal, &next()).await.unwrap();
    refused(submit(&mut main, &next()).await, &["begun by pull_request", "this one was by push"]);

    // A token of an older coordinator tells of no job.
    set(&mut admin, None, None, &[], &[]).await.unwrap();
    psql(farm.database_url(), "DELETE FROM token_claims");
    let begin = std::time::Instant::now();
    loop {
        match submit(&mut main, &next()).await {
            Err(status) => {
                break assert!(status.message().contains("given by an older coordinator"), "{status}");
            }
            Ok(_) => {
                assert!(begin.elapsed() < std::time::Duration::from_secs(5), "it is remembered for a second")
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_comes_in_the_open_or_is_none_is_not_taken() {
    let open = Farm::builder().start();
    let mut admin = Client::connect(&open).await;
    let secret = Planted::new("npm-");
    let status = set(&mut admin, Some(&secret), None, &[], &[]).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(
        status.message().contains("without TLS") && status.message().contains("--insecure-secrets"),
        "{status}"
    );
    drop(open);
    let farm = Farm::builder().arg("--insecure-secrets").start();
    let mut admin = Client::connect(&farm).await;
    set(&mut admin, Some(&secret), None, &[], &[]).await.unwrap();
    let change = async |change: &dyn Fn(&mut v1::SetSecretRequest)| {
        let mut request = v1::SetSecretRequest {
            name: "npm".to_owned(),
            value: Some(value_of(&secret)),
            ..Default::default()
        };
        change(&mut request);
        let status = admin.clone().secrets.set_secret(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        secret.is_not_in("a refusal", status.message());
        status.message().to_owned()
    };
    assert!(change(&|asked| asked.name = "../npm".into()).await.contains("name of a secret"));
    assert!(change(&|asked| asked.value = Some(Default::default())).await.contains("is empty"));
    assert!(change(&|asked| asked.value = Some(vec![b'x'; 512_001].into())).await.contains("at most 512000"));
    assert!(change(&|asked| asked.role = Some("viewer".into())).await.contains("submits no builds"));
    let refs = |refs: Vec<String>| Some(v1::SecretRefs { patterns: refs });
    assert!(change(&|asked| asked.refs = refs(vec!["main".into()])).await.contains("refs/heads/main"));
    assert!(change(&|asked| asked.refs = refs(vec!["refs/x".into(); 17])).await.contains("at most 16"));
    // Nothing of that has changed what is there.
    let kept = list(&mut admin).await.unwrap();
    assert!(kept.len() == 1 && kept[0].version == 1 && kept[0].refs.is_empty(), "{kept:?}");
}
