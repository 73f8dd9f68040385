//! Whether everybody may read an image, asked of servers that note what they are shown.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use farm_types::ProjectId;

use super::*;
use crate::config::Registry;
use crate::outbound::tests::{Fake, answer};
use crate::registry::login::Allowed;
use crate::registry::tests::reach;

fn with_login(hosts: &[(&str, &Fake)]) -> Registries {
    within(std::time::Duration::from_secs(20), hosts)
}

fn within(timeout: std::time::Duration, hosts: &[(&str, &Fake)]) -> Registries {
    let known = hosts.iter().map(|(host, realm)| {
        let registry = Registry {
            username: "farm".to_owned(),
            password: "pa55word".to_owned().into(),
            realms: vec![realm.at().parse().unwrap()],
            ..Registry::default()
        };
        ((*host).to_owned(), registry)
    });
    reach(known.collect(), timeout)
}

/// Asks for a project that has no login.
async fn look_up(registries: &Registries, image: &ImageRef) -> Result<Seen, LendError> {
    let allowed = Allowed::default();
    let borrower = Borrower::new(ProjectId::generate(), &allowed, &[]);
    let looked = registries.look_up(&borrower, image).await?;
    assert_eq!(looked.reader, "");
    Ok(looked.seen)
}

fn image(host: &str, name: &str) -> ImageRef {
    format!("{host}/{name}").parse().unwrap()
}

fn is_anonymous(fake: &Fake) -> bool {
    !fake.asked().iter().any(|head| head.to_lowercase().contains("authorization: basic "))
}

/// Gives a token for all but `secret`, of which it refuses, or gives none.
async fn service(refuses: bool) -> Fake {
    Fake::start(move |head| match (head.contains("secret"), refuses) {
        (true, true) => answer("401 Unauthorized", "", ""),
        (true, false) => answer("200 OK", "", "{\"token\":\"\"}"),
        _ => answer("200 OK", "", "{\"token\":\"t0ken\"}"),
    })
    .await
}

/// Wants a token of this service; to its root it may let in anybody.
async fn registry(service: &Fake, is_root_open: bool) -> Fake {
    let challenge =
        format!("WWW-Authenticate: Bearer realm=\"http://{}/token\",service=\"s\"\r\n", service.at());
    Fake::start(move |head| {
        if is_root_open && head.starts_with("GET /v2/ ") {
            return answer("200 OK", "", "");
        }
        if !head.to_lowercase().contains("authorization: bearer t0ken") {
            return answer("401 Unauthorized", &challenge, "");
        }
        match head.split(' ').nth(1).unwrap() {
            "/v2/base/manifests/1" => answer("200 OK", "", ""),
            "/v2/closed/manifests/1" => answer("403 Forbidden", "", ""),
            "/v2/sick/manifests/1" => answer("503 Service Unavailable", "", ""),
            _ => answer("404 Not Found", "", ""),
        }
    })
    .await
}

#[tokio::test]
async fn where_there_are_tokens_everybody_may_what_a_token_of_nobody_gives() {
    for (refuses, is_root_open) in [(false, false), (true, false), (true, true)] {
        let service = service(refuses).await;
        let registry = registry(&service, is_root_open).await;
        let at = registry.at();
        let registries = with_login(&[(&at, &service)]);
        for (name, seen) in [
            ("base:1", Seen::Readable),
            ("base:2", Seen::Absent),
            ("closed:1", Seen::Refused),
            ("secret:1", Seen::Refused),
        ] {
            assert_eq!(look_up(&registries, &image(&at, name)).await.unwrap(), seen, "{name}");
        }
        // By its digest, also where there is a tag.
        let digest = farm_types::Digest::of(b"x");
        look_up(&registries, &image(&at, &format!("base:1@{digest}"))).await.unwrap();
        let last = registry.asked().pop().unwrap();
        assert!(last.starts_with(&format!("HEAD /v2/base/manifests/{digest} ")), "{last}");
        let Err(LendError::Registry(error)) = look_up(&registries, &image(&at, "sick:1")).await else {
            panic!()
        };
        assert!(error.is_transient(), "{error}");
        assert!(is_anonymous(&registry) && is_anonymous(&service));
    }
}

#[tokio::test]
async fn one_that_moves_its_token_service_is_asked_by_the_new_one_at_once() {
    let new = service(false).await;
    // The old one is gone, or goes on giving what the registry doesn't take.
    for gives in ["404 Not Found", "200 OK"] {
        let old = Fake::start(move |_| answer(gives, "", "{\"token\":\"0ld\"}")).await;
        let is_moved = Arc::new(AtomicBool::new(false));
        let (moved, places) = (Arc::clone(&is_moved), [old.at(), new.at()]);
        let registry = Fake::start(move |head| {
            if head.to_lowercase().contains("authorization: bearer t0ken") {
                return answer("200 OK", "", "");
            }
            let place = &places[usize::from(moved.load(Ordering::Relaxed))];
            let header = format!("WWW-Authenticate: Bearer realm=\"http://{place}/token\"\r\n");
            answer("401 Unauthorized", &header, "")
        })
        .await;
        let at = registry.at();
        let registries = with_login(&[(&at, &old)]);
        let base = image(&at, "base:1");
        assert_eq!(look_up(&registries, &base).await.unwrap(), Seen::Refused);
        is_moved.store(true, Ordering::Relaxed);
        assert_eq!(look_up(&registries, &base).await.unwrap(), Seen::Readable, "{gives}");
        assert!(is_anonymous(&registry) && is_anonymous(&new));
    }
}

#[tokio::test]
async fn one_whose_token_service_is_gone_is_asked_for_its_new_one_by_the_next_look() {
    let (sick, service) = (Fake::start(|_| answer("503 Sick", "", "")).await, service(false).await);
    let realms = [sick.at(), service.at()];
    let asked = Arc::new(AtomicUsize::new(0));
    let roots = Arc::clone(&asked);
    let registry = Fake::start(move |head| {
        if head.to_lowercase().contains("authorization: bearer t0ken") {
            return answer("200 OK", "", "");
        }
        let realm = &realms[roots.fetch_add(1, Ordering::Relaxed).min(1)];
        answer(
            "401 Unauthorized",
            &format!("WWW-Authenticate: Bearer realm=\"http://{realm}/token\"\r\n"),
            "",
        )
    })
    .await;
    let at = registry.at();
    let registries = with_login(&[(&at, &sick)]);
    let Err(LendError::Registry(error)) = look_up(&registries, &image(&at, "base:1")).await else { panic!() };
    assert!(error.is_transient(), "{error}");
    assert_eq!(look_up(&registries, &image(&at, "base:1")).await.unwrap(), Seen::Readable);
}

#[tokio::test]
async fn one_that_knows_no_head_is_asked_for_the_whole_manifest() {
    for status in ["405 Method Not Allowed", "501 Not Implemented"] {
        let registry =
            Fake::start(move |head| match (head.starts_with("HEAD "), head.contains("/v2/gone/")) {
                (true, _) => answer(status, "", ""),
                (false, true) => answer("404 Not Found", "", ""),
                (false, false) => answer("200 OK", "", "{}"),
            })
            .await;
        let at = registry.at();
        let registries = with_login(&[(&at, &registry)]);
        assert_eq!(look_up(&registries, &image(&at, "base:1")).await.unwrap(), Seen::Readable);
        assert_eq!(look_up(&registries, &image(&at, "gone:1")).await.unwrap(), Seen::Absent);
        // Once, and not for ever.
        let manifests = registry.asked().iter().filter(|head| head.contains("/manifests/")).count();
        assert_eq!(manifests, 4);
    }
}

#[tokio::test]
async fn how_a_registry_lets_in_that_is_not_of_the_configuration_is_not_kept_and_looks_are_bounded() {
    let registry = Fake::start(|_| answer("200 OK", "", "")).await;
    let at = registry.at();
    let registries = with_login(&[("127.0.0.1:1", &registry)]);
    assert_eq!(look_up(&registries, &image(&at, "base:1")).await.unwrap(), Seen::Readable);
    assert_eq!(registries.known_way(&at), None);
    // When all turns are taken there is none in time.
    let registries = within(std::time::Duration::from_millis(1), &[("127.0.0.1:1", &registry)]);
    let _all = registries.looks.acquire_many(u32::try_from(MOST_AT_ONCE).unwrap()).await.unwrap();
    let Err(LendError::Registry(error)) = look_up(&registries, &image(&at, "base:1")).await else { panic!() };
    assert!(error.is_transient() && error.message.contains("32 images at once"), "{error}");
}

#[tokio::test]
async fn where_there_are_none_it_is_asked_without_the_login() {
    let basic = "WWW-Authenticate: Basic realm=\"x\"\r\n";
    let registry = Fake::start(move |head| match head.contains("/v2/base/") {
        true => answer("200 OK", "", ""),
        false => answer("401 Unauthorized", basic, ""),
    })
    .await;
    let at = registry.at();
    let registries = with_login(&[(&at, &registry)]);
    assert_eq!(look_up(&registries, &image(&at, "base:1")).await.unwrap(), Seen::Readable);
    assert_eq!(look_up(&registries, &image(&at, "web:1")).await.unwrap(), Seen::Refused);
    assert!(is_anonymous(&registry));
}

#[tokio::test]
async fn others_are_asked_only_where_they_have_the_name_of_one_with_a_login() {
    let beside = Fake::start(|_| answer("200 OK", "", "")).await;
    let at = beside.at();
    let registries = with_login(&[("127.0.0.1:1", &beside)]);
    assert_eq!(look_up(&registries, &image(&at, "base:1")).await.unwrap(), Seen::Readable);
    let registries = with_login(&[("r.example", &beside)]);
    let Err(LendError::Invalid(_)) = look_up(&registries, &image(&at, "base:1")).await else { panic!() };
}
