//! A project's signing keys: who sets, sees and uses them, and that nobody is given one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use farm_proto::v1;
use farm_tests::client::{Client, Sim, hello};
use farm_tests::database::{dump, psql};
use farm_tests::farm::Farm;
use farm_tests::issuer::{Issuer, Key, Kind};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use serde_json::json;
use tonic::{Code, Status};

use crate::team;

/// A private key: its DER and its PEM.
fn private() -> (Vec<u8>, String) {
    let random = ring::rand::SystemRandom::new();
    let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
    let text = BASE64.encode(der.as_ref());
    (der.as_ref().to_vec(), format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n"))
}

fn request(key: &str) -> v1::SetSigningKeyRequest {
    v1::SetSigningKeyRequest { name: "release".to_owned(), key: key.to_owned(), ..Default::default() }
}

fn ruled(role: Option<&str>, refs: &[&str], events: &[&str]) -> v1::SetSigningKeyRequest {
    let list = |all: &[&str]| all.iter().map(|&one| one.to_owned()).collect::<Vec<_>>();
    v1::SetSigningKeyRequest {
        role: role.map(ToOwned::to_owned),
        refs: Some(v1::SecretRefs { patterns: list(refs) }),
        events: Some(v1::SecretEvents { names: list(events) }),
        ..request("")
    }
}

async fn set(client: &mut Client, request: v1::SetSigningKeyRequest) -> Result<v1::SigningKey, Status> {
    Ok(client.signing_keys.set_signing_key(request).await?.into_inner().key.unwrap())
}

async fn list(client: &mut Client) -> Vec<v1::SigningKey> {
    client.signing_keys.list_signing_keys(v1::ListSigningKeysRequest {}).await.unwrap().into_inner().keys
}

/// Submits a build that is signed. (Nothing is ever put: nobody is at that address.)
async fn submit(client: &mut Client, key: &str) -> Result<v1::Build, Status> {
    let spec = v1::BuildSpec {
        snapshot: Some(client.upload("FROM scratch").await),
        platforms: vec!["linux/amd64".to_owned()],
        tags: vec!["localhost:5002/signed-by-nobody:1".to_owned()],
        sign: "release".to_owned(),
        ..Default::default()
    };
    let request =
        v1::SubmitBuildRequest { idempotency_key: key.to_owned(), spec: Some(spec), values: Vec::new() };
    Ok(client.builds.submit_build(request).await?.into_inner().build.unwrap())
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, said: &[&str]) {
    let status = answer.unwrap_err();
    assert!(status.code() == code && said.iter().all(|said| status.message().contains(said)), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signing_key_is_for_whom_its_rule_says_and_is_given_to_nobody() {
    let farm = Farm::builder().tls().start();
    for name in ["web", "api"] {
        team::project(&farm, name).await;
        team::allow(&farm, name, "push", "localhost:5002").await;
    }
    let mut people = Vec::new();
    for (name, project, role) in [
        ("ada", "web", "admin"),
        ("bob", "web", "builder"),
        ("pia", "web", "publisher"),
        ("ben", "api", "admin"),
    ] {
        let token = team::person(&farm, name, project, role).await;
        people.push(Client::with_token(&farm, &token).await);
    }
    let [ada, bob, pia, ben] = &mut people[..] else { unreachable!() };
    let (der, pem) = private();

    // Only admins set keys; whoever sees builds sees by what they are verified.
    refused(set(pia, request(&pem)).await, Code::PermissionDenied, &[]);
    refused(set(ada, request("")).await, Code::NotFound, &["no signing key release"]);
    let made = set(ada, v1::SetSigningKeyRequest { role: Some("publisher".to_owned()), ..request(&pem) })
        .await
        .unwrap();
    assert_eq!((made.role.as_str(), made.set_by.as_str()), ("publisher", "ada"));
    assert!(
        made.public_key.starts_with("-----BEGIN PUBLIC KEY-----\n")
            && made.fingerprint.starts_with("sha256:")
    );
    assert_eq!(list(bob).await[0].public_key, made.public_key);
    // Not by accident.
    refused(set(ada, request(&private().1)).await, Code::AlreadyExists, &["--replace"]);
    let (_, other) = private();
    for (wrong, said) in [
        (v1::SetSigningKeyRequest { generate: true, ..request(&other) }, "either brought or made"),
        (request("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----"), "farm signing-key add opens"),
        (request("hunter22"), "isn't a private key in PEM"),
        (v1::SetSigningKeyRequest { name: "../key".to_owned(), ..request(&other) }, "name of a signing key"),
        (v1::SetSigningKeyRequest { role: Some("viewer".to_owned()), ..request("") }, "submits no builds"),
    ] {
        refused(set(ada, wrong).await, Code::InvalidArgument, &[said]);
    }

    // Another project's is one that isn't there; and one that is there isn't everybody's.
    refused(submit(ben, "1").await, Code::FailedPrecondition, &["project api has no signing key release"]);
    let told = [
        "bob may not use signing key release of project web: that needs publisher, and bob is builder",
        "farm signing-key rule release --role builder --project web",
    ];
    refused(submit(bob, "1").await, Code::PermissionDenied, &told);
    let build = submit(pia, "1").await.unwrap();
    assert_eq!(build.spec.as_ref().unwrap().sign, "release");
    let used = list(bob).await.remove(0);
    assert_eq!((used.last_used_build.as_str(), used.last_used_by.as_str()), (build.id.as_str(), "pia"));
    // Whoever gave the source would have it signed.
    let source = v1::ProvideSourceRequest {
        build_id: build.id.clone(),
        snapshot: Some(bob.upload("FROM scratch\nRUN steal").await),
    };
    let stolen = bob.builds.provide_source(source).await.map(drop);
    refused(stolen, Code::PermissionDenied, &["is signed for pia", "pia alone sends"]);

    // The worker that has the job is told the name, and lent nothing.
    let mut worker = hello("sim", 1);
    worker.features.push("mounts".to_owned());
    let mut sim = Sim::connect(&Client::connect(&farm).await, worker).await.unwrap();
    let offered = sim.offer().await;
    assert_eq!(offered.spec.unwrap().sign, "release");
    let lease = offered.lease.unwrap();
    sim.start(&lease).await;
    let lent = sim.work.lend_mounts(v1::LendMountsRequest { lease: Some(lease.clone()) }).await.unwrap();
    assert!(lent.into_inner().values.is_empty());
    let failed = v1::Failure { cause: "user".to_owned(), message: "no".to_owned(), ..Default::default() };
    assert!(sim.finish(&lease, v1::finished::Outcome::Failure(failed)).await);
    pia.follow(&build.id).await;

    // A retry is judged by who retries.
    let retry = async |client: &mut Client| {
        let request = v1::RetryBuildRequest {
            build_id: build.id.clone(),
            idempotency_key: "again".to_owned(),
            ..Default::default()
        };
        client.builds.retry_build(request).await.map(|answer| answer.into_inner().build.unwrap())
    };
    refused(retry(bob).await, Code::PermissionDenied, &["that needs publisher"]);
    let remove = v1::RemoveSigningKeyRequest { name: "release".to_owned() };
    refused(bob.signing_keys.remove_signing_key(remove.clone()).await, Code::PermissionDenied, &[]);
    ada.signing_keys.remove_signing_key(remove.clone()).await.unwrap();
    refused(ada.signing_keys.remove_signing_key(remove).await, Code::NotFound, &["farm signing-key ls"]);
    refused(retry(pia).await, Code::FailedPrecondition, &["farm signing-key generate release"]);
    let generated = set(ada, v1::SetSigningKeyRequest { generate: true, ..request("") }).await.unwrap();
    assert_ne!(generated.fingerprint, made.fingerprint);
    retry(pia).await.unwrap();
    set(ada, v1::SetSigningKeyRequest { replace: true, ..request(&pem) }).await.unwrap();

    // What it consists of lies nowhere in the open: its secret half is the last but the public one in the DER.
    let secret = &der[36..68];
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let copy = String::from_utf8_lossy(&dump(farm.database_url())).into_owned();
    let log = std::fs::read_to_string(farm.folder().join("coordinator.log")).unwrap();
    for text in [&copy, &log] {
        assert!(!text.contains(&hex) && !text.contains(&pem[40..100]));
    }
    let deeds = "SELECT string_agg(action || ' by ' || principal, ', ' ORDER BY id) FROM audit WHERE action LIKE 'signing_key.%'";
    assert_eq!(
        psql(farm.database_url(), deeds),
        "signing_key.set by ada, signing_key.remove by ada, signing_key.set by ada, signing_key.set by ada"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_ci_systems_have_things_signed_for_the_refs_and_events_of_the_rule_and_proposals_never_by_default()
 {
    let key = Key::new("one", Kind::Rs256);
    let issuer = Issuer::start(&[&key]);
    let config = format!(
        "[oidc]\naudience = 'https://farm.example'\n[oidc.issuers.'{}']\nplain_http = true\nalgorithms = ['RS256']\n",
        issuer.url()
    );
    let farm = Farm::builder().tls().config(&config).start();
    let mut admin = Client::connect(&farm).await;
    let one = |value: &str| v1::ClaimValues { values: vec![value.to_owned()] };
    let trust = v1::AddTrustRequest {
        provider: "github".to_owned(),
        issuer: issuer.url(),
        name: "acme/app".to_owned(),
        claims: [
            ("repository_id".to_owned(), one("74")),
            ("repository_owner_id".to_owned(), one("65")),
            ("event_name".to_owned(), one("*")),
        ]
        .into(),
        role: "builder".to_owned(),
        ..Default::default()
    };
    admin.trusts.add_trust(trust).await.unwrap();
    let exchange = async |full: &str, event: &str| {
        let token = key.sign(&issuer.job(json!({ "ref": full, "event_name": event })));
        let asked = v1::ExchangeTokenRequest { token, project: "default".to_owned() };
        let given = admin.clone().trusts.exchange_token(asked).await.unwrap().into_inner();
        Client::with_token(&farm, &given.secret).await
    };
    let mut tagged = exchange("refs/tags/v1", "push").await;
    let mut topic = exchange("refs/heads/topic", "push").await;
    let mut proposal = exchange("refs/pull/7/merge", "pull_request").await;
    set(&mut admin, v1::SetSigningKeyRequest { generate: true, ..request("") }).await.unwrap();
    submit(&mut topic, "1").await.unwrap();
    let told = ["may not use signing key release", "gets no signing keys unless", "--event pull_request"];
    refused(submit(&mut proposal, "2").await, Code::PermissionDenied, &told);
    set(&mut admin, ruled(None, &["refs/tags/v*"], &[])).await.unwrap();
    submit(&mut tagged, "3").await.unwrap();
    refused(
        submit(&mut topic, "4").await,
        Code::PermissionDenied,
        &["it is for refs/tags/v*", "refs/heads/topic"],
    );
    // A person is of no ref, and an admin is no exception.
    refused(
        submit(&mut admin.clone(), "5").await,
        Code::PermissionDenied,
        &["jobs of CI systems", "--event manual"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_key_that_comes_in_the_open_is_not_taken_and_one_that_is_made_here_never_travels() {
    let open = Farm::builder().start();
    let mut admin = Client::connect(&open).await;
    refused(
        set(&mut admin, request(&private().1)).await,
        Code::PermissionDenied,
        &["without TLS", "make another one"],
    );
    set(&mut admin, v1::SetSigningKeyRequest { generate: true, ..request("") }).await.unwrap();
    let refuse = async |spec: v1::BuildSpec, said: &str| {
        let request =
            v1::SubmitBuildRequest { idempotency_key: "x".to_owned(), spec: Some(spec), values: Vec::new() };
        refused(admin.clone().builds.submit_build(request).await, Code::InvalidArgument, &[said]);
    };
    let plain = v1::BuildSpec {
        snapshot: Some(admin.clone().upload("FROM scratch").await),
        platforms: vec!["linux/amd64".to_owned()],
        sign: "release".to_owned(),
        ..Default::default()
    };
    refuse(plain.clone(), "this build publishes nothing").await;
    let tags = vec!["localhost:5002/x:1".to_owned()];
    refuse(v1::BuildSpec { sign: "./cosign.key".to_owned(), tags, ..plain }, "name of a signing key").await;
}
