//! Whether everybody may read an image, asked of servers that note what they are shown.

use super::*;
use crate::config::Registry;
use crate::outbound::tests::{Fake, answer};
use crate::registry::tests::reach;

fn with_login(hosts: &[(&str, &Fake)]) -> Registries {
    let known = hosts.iter().map(|(host, realm)| {
        let registry = Registry {
            username: "farm".to_owned(),
            password: "pa55word".to_owned().into(),
            realms: vec![realm.at().parse().unwrap()],
            ..Registry::default()
        };
        ((*host).to_owned(), registry)
    });
    reach(known.collect(), std::time::Duration::from_secs(20))
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
            ("base:1", Seen::Public),
            ("base:2", Seen::Absent),
            ("closed:1", Seen::Refused),
            ("secret:1", Seen::Refused),
        ] {
            assert_eq!(registries.look_up(&image(&at, name)).await.unwrap(), seen, "{name}");
        }
        // By its digest, also where there is a tag.
        let digest = farm_types::Digest::of(b"x");
        registries.look_up(&image(&at, &format!("base:1@{digest}"))).await.unwrap();
        let last = registry.asked().pop().unwrap();
        assert!(last.starts_with(&format!("HEAD /v2/base/manifests/{digest} ")), "{last}");
        let Err(LendError::Registry(error)) = registries.look_up(&image(&at, "sick:1")).await else {
            panic!()
        };
        assert!(error.is_transient(), "{error}");
        assert!(is_anonymous(&registry) && is_anonymous(&service));
    }
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
    assert_eq!(registries.look_up(&image(&at, "base:1")).await.unwrap(), Seen::Public);
    assert_eq!(registries.look_up(&image(&at, "web:1")).await.unwrap(), Seen::Refused);
    assert!(is_anonymous(&registry));
}

#[tokio::test]
async fn others_are_asked_only_where_they_have_the_name_of_one_with_a_login() {
    let beside = Fake::start(|_| answer("200 OK", "", "")).await;
    let at = beside.at();
    let registries = with_login(&[("127.0.0.1:1", &beside)]);
    assert_eq!(registries.look_up(&image(&at, "base:1")).await.unwrap(), Seen::Public);
    let registries = with_login(&[("r.example", &beside)]);
    let Err(LendError::Invalid(_)) = registries.look_up(&image(&at, "base:1")).await else { panic!() };
}
