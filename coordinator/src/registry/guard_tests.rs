//! Registries that want farm to go where it shouldn't, or to give what isn't theirs. Simulations: real ones don't do that
//! when they are asked to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use farm_types::{Digest, FailureCode, Repository};

use super::Registries;
use crate::config::Registry;
use crate::outbound::tests::{Fake, Names, answer};
use crate::outbound::{Outbound, Rules};

const LIMIT: Duration = Duration::from_secs(20);

fn registries(known: &[(&str, Registry)], allow: &[&str]) -> Registries {
    let known: BTreeMap<String, Registry> =
        known.iter().map(|(host, registry)| ((*host).to_owned(), registry.clone())).collect();
    let allowed = allow.iter().copied().chain(known.keys().map(String::as_str));
    let rules = Rules::new(allowed.map(|text| text.parse().unwrap()), Vec::new());
    Registries::new(known.clone(), &Outbound::new(rules), LIMIT).unwrap()
}

fn with_login(realms: &[&str]) -> Registry {
    Registry {
        username: "farm".to_owned(),
        password: "pa55word".to_owned().into(),
        realms: realms.iter().map(|text| text.parse().unwrap()).collect(),
        ..Registry::default()
    }
}

/// A registry that wants tokens from `realm`, and has nothing.
async fn wants_tokens_of(realm: &str) -> (Fake, Repository) {
    let header = format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"s\"\r\n");
    let fake = Fake::start(move |head| {
        if head.to_lowercase().contains("authorization: bearer t0ken") {
            answer("404 Not Found", "", "")
        } else {
            answer("401 Unauthorized", &header, "")
        }
    })
    .await;
    let repository = format!("{}/a", fake.at()).parse().unwrap();
    (fake, repository)
}

const TOKEN: &str = "{\"token\":\"t0ken\"}";
/// `farm:pa55word`.
const LOGIN: &str = "authorization: basic ZmFybTpwYTU1d29yZA==";

fn has_login(head: &str) -> bool {
    head.to_lowercase().contains(&LOGIN.to_lowercase())
}

#[tokio::test]
async fn a_registry_on_this_machine_is_asked_nothing_unless_it_is_named() {
    let fake = Fake::start(|_| answer("200 OK", "", "")).await;
    let port = fake.port;
    let registries = registries(&[], &["127.0.0.1:1"]);
    for host in ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "[::ffff:7f00:1]", "[::1]"] {
        let repository: Repository = format!("{host}:{port}/a").parse().unwrap();
        let image = format!("{repository}:1").parse().unwrap();
        let (inspected, deleted) = (
            registries.farm().inspect(&image).await,
            registries.farm().delete(&repository, Digest::of(b"x")).await,
        );
        for error in [inspected.unwrap_err(), deleted.unwrap_err()] {
            assert_eq!(error.code, FailureCode::RegistryNotAllowed, "{host}: {error}");
            let line = format!("[registries.\"{}\"]", repository.registry());
            assert!(error.message.contains("loopback") && error.message.contains(&line), "{error}");
        }
        assert!(registries.farm().put(&repository, "1", b"{}", "a/b").await.is_err(), "{host}");
        let refused = registries.allow(std::slice::from_ref(&repository)).await.unwrap_err().to_string();
        assert!(refused.contains("loopback"), "{refused}");
    }
    assert_eq!(fake.asked(), [""; 0]);
}

#[tokio::test]
async fn a_name_that_moves_onto_this_machine_after_the_submission_is_asked_nothing() {
    let fake = Fake::start(|_| answer("200 OK", "", "")).await;
    let names = Names::of("rebind.example", &[&["1.1.1.1"], &["127.0.0.1"]]);
    let outbound = Outbound::with_resolver(Rules::default(), names);
    let registries = Registries::new(BTreeMap::new(), &outbound, LIMIT).unwrap();
    let repository: Repository = format!("rebind.example:{}/a", fake.port).parse().unwrap();
    registries.allow(std::slice::from_ref(&repository)).await.unwrap();
    let error = registries.farm().head(&repository, "1").await.unwrap_err();
    assert_eq!(error.code, FailureCode::RegistryNotAllowed, "{error}");
    assert!(error.message.contains("127.0.0.1"), "{error}");
    assert_eq!(fake.asked(), [""; 0]);
}

#[tokio::test]
async fn a_registry_that_leads_to_another_service_of_this_machine_is_not_followed() {
    let inner = Fake::start(|_| answer("200 OK", "", "{\"inside\":1}")).await;
    for location in [format!("http://{}/", inner.at()), "http://169.254.169.254/latest/".to_owned()] {
        let header = format!("Location: {location}\r\n");
        let fake = Fake::start(move |head| {
            let is_asked = head.starts_with("GET /v2/ ");
            if is_asked { answer("200 OK", "", "") } else { answer("307 Temporary Redirect", &header, "") }
        })
        .await;
        let registries = registries(&[(&fake.at(), Registry::default())], &[]);
        let repository = format!("{}/a", fake.at()).parse().unwrap();
        let error = registries.farm().manifest(&repository, "1").await.unwrap_err();
        assert_eq!(error.code, FailureCode::RegistryNotAllowed, "{error}");
        assert!(error.message.contains("leads farm on to") && error.message.contains("allow = ["), "{error}");
    }
    assert_eq!(inner.asked(), [""; 0]);
}

#[tokio::test]
async fn a_token_service_that_is_somebody_elses_gets_no_login() {
    let thief = Fake::start(|_| answer("200 OK", "", TOKEN)).await;
    let (fake, repository) = wants_tokens_of(&format!("http://{}/token", thief.at())).await;
    // Requests may go there, the login not.
    let known = [(repository.registry(), with_login(&[]))];
    let registries_ = registries(&known, &["127.0.0.0/8"]);
    for error in [
        registries_.farm().head(&repository, "1").await.unwrap_err(),
        registries_.farm().delete(&repository, Digest::of(b"x")).await.unwrap_err(),
    ] {
        assert_eq!(error.code, FailureCode::RegistryAuth, "{error}");
        assert!(error.message.contains(&format!("realms = [\"{}\"]", thief.at())), "{error}");
    }
    assert_eq!(thief.asked(), [""; 0]);
    assert!(!fake.asked().iter().any(|head| has_login(head)), "{:?}", fake.asked());

    // Named, it gets it; its own realms are allowed at whatever address.
    let known = [(repository.registry(), with_login(&[&thief.at()]))];
    assert_eq!(registries(&known, &[]).farm().head(&repository, "1").await.unwrap(), None);
    assert!(thief.asked().len() == 1 && has_login(&thief.asked()[0]), "{:?}", thief.asked());

    // Nobody's login is asked for where there is none.
    let known = [(repository.registry(), Registry::default())];
    assert_eq!(registries(&known, &["127.0.0.0/8"]).farm().head(&repository, "1").await.unwrap(), None);
    assert!(thief.asked().len() == 2 && !thief.asked()[1].to_lowercase().contains("authorization"));
    // And not where no request may go.
    let error = registries(&known, &[]).farm().head(&repository, "1").await.unwrap_err();
    assert_eq!(error.code, FailureCode::RegistryNotAllowed, "{error}");
    assert!(error.message.contains("realms = ["), "{error}");
    assert_eq!(thief.asked().len(), 2);
}

#[tokio::test]
async fn a_token_service_that_leads_elsewhere_takes_no_login_along() {
    let thief = Fake::start(|_| answer("200 OK", "", TOKEN)).await;
    let location = format!("Location: http://{}/\r\n", thief.at());
    let realm = Fake::start(move |_| answer("302 Found", &location, "")).await;
    let (_, repository) = wants_tokens_of(&format!("http://{}/token", realm.at())).await;
    let known = [(repository.registry(), with_login(&[&realm.at()]))];
    let error = registries(&known, &[]).farm().head(&repository, "1").await.unwrap_err();
    assert_eq!(error.code, FailureCode::RegistryNotAllowed, "{error}");
    assert_eq!(thief.asked(), [""; 0]);
    registries(&known, &[&thief.at()]).farm().head(&repository, "1").await.unwrap();
    assert!(has_login(&realm.asked()[0]));
    assert!(!thief.asked()[0].to_lowercase().contains("authorization"), "{:?}", thief.asked());
}

#[tokio::test]
async fn a_token_services_answer_is_bounded_and_told_to_nobody() {
    let long = format!("{{\"token\":\"{}\"}}", "x".repeat(100_000));
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n{\"token\":\"s3cret".to_owned();
    for (sent, code, says) in [
        (answer("200 OK", "", &long), FailureCode::RegistryUnavailable, "longer than 65536 bytes"),
        (cut, FailureCode::RegistryUnavailable, "its token service"),
        (answer("200 OK", "", "{\"s3cret\":1"), FailureCode::RegistryRejected, "gave no token"),
        (answer("200 OK", "", "\"s3cret\""), FailureCode::RegistryRejected, "gave no token"),
        (answer("200 OK", "", "{\"token\":\"s3cret\\n\"}"), FailureCode::RegistryRejected, "gave no token"),
        (answer("401 Unauthorized", "", "s3cret"), FailureCode::RegistryAuth, "answered 401"),
        (answer("503 Service Unavailable", "", "s3cret"), FailureCode::RegistryUnavailable, "answered 503"),
    ] {
        let told = sent.clone();
        let realm = Fake::start(move |_| told.clone()).await;
        let (_, repository) = wants_tokens_of(&format!("http://{}/token", realm.at())).await;
        let known = [(repository.registry(), Registry::default())];
        let error = registries(&known, &[&realm.at()]).farm().head(&repository, "1").await.unwrap_err();
        assert_eq!(error.code, code, "{sent:.80}: {error}");
        assert!(error.message.contains(says) && !error.message.contains("s3cret"), "{error}");
    }
}

#[tokio::test]
async fn a_token_service_that_never_ends_its_answer_is_waited_for_once() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    let held = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut streams = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            assert!(stream.read(&mut head).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"token\":").await.unwrap();
            streams.push(Arc::new(stream));
        }
    });
    let (_, repository) = wants_tokens_of(&format!("http://{at}/token")).await;
    let known: BTreeMap<_, _> = [(repository.registry().to_owned(), Registry::default())].into();
    let rules = Rules::new(["127.0.0.0/8".parse().unwrap()], Vec::new());
    let registries = Registries::new(known, &Outbound::new(rules), Duration::from_secs(1)).unwrap();
    let error = registries.farm().head(&repository, "1").await.unwrap_err();
    assert!(error.is_transient() && error.message.contains("did not end its answer within 1 s"), "{error}");
    held.abort();
}

#[tokio::test]
async fn what_another_service_answers_is_not_shown_to_who_named_it() {
    for (status, body) in [
        ("200 OK", "<html>s3cret</html>"),
        ("200 OK", "\"s3cret\""),
        ("200 OK", "{\"mediaType\":{\"s3cret\":1}}"),
        ("200 OK", "[\"s3cret\"]"),
        ("500 Internal Server Error", "s3cret"),
        ("400 Bad Request", "{\"message\":\"s3cret\"}"),
        ("403 Forbidden", "s3cret"),
    ] {
        let fake = Fake::start(move |head| {
            if head.starts_with("GET /v2/ ") { answer("200 OK", "", "") } else { answer(status, "", body) }
        })
        .await;
        let registries = registries(&[(&fake.at(), Registry::default())], &[]);
        let image = format!("{}/a:1", fake.at()).parse().unwrap();
        let error = registries.farm().inspect(&image).await.unwrap_err();
        assert!(!error.message.contains("s3cret"), "{status} {body}: {error}");
        let tags = registries.farm().tags(&format!("{}/a", fake.at()).parse().unwrap(), 10).await;
        assert!(!format!("{tags:?}").contains("s3cret"), "{status} {body}: {tags:?}");
    }
}
