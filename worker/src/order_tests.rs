//! What an offer becomes.

use super::*;
use crate::testing::offered;

fn order() -> Order {
    let digest = Digest::of(b"x").to_string();
    let snapshot = v1::SnapshotRef { tree_id: digest.clone(), content_key: digest, upload_id: String::new() };
    let spec = v1::BuildSpec {
        snapshot: Some(snapshot),
        platforms: vec!["linux/amd64".into()],
        dockerfile: "docker/Dockerfile".into(),
        ..Default::default()
    };
    Order::try_from(v1::Offered { spec: Some(spec), ..offered() }).unwrap()
}

fn registry(host: &str, username: &str, plain_http: bool) -> v1::Registry {
    v1::Registry { host: host.into(), username: username.into(), password: String::new(), plain_http }
}

#[test]
fn an_order_becomes_a_solve() {
    let mut with_push = order();
    with_push.repositories = vec!["registry.example:5000/app".parse().unwrap()];
    with_push.registries =
        vec![registry("registry.example:5000", "me", true), registry("docker.io", "", false)];
    let solve = with_push.into_solve(Roots::new());
    assert!(solve.export.as_ref().unwrap().plain_http);
    assert_eq!(solve.logins.len(), 1, "a registry without a name needs no login");
    assert_eq!(solve.dockerfile, "docker/Dockerfile");
    assert_eq!(solve.cache_mount_namespace, "web:trusted");

    let mut other = order();
    assert!(order().into_solve(Roots::new()).export.is_none(), "without repositories nothing is pushed");
    other.project = "api".into();
    assert_ne!(other.into_solve(Roots::new()).shared_key, solve.shared_key);
}

#[test]
fn plain_http_is_for_loopback_and_for_those_that_say_so() {
    let mut order = order();
    order.registries = vec![registry("plain.example", "", true), registry("tls.example", "", false)];
    let plain = |repository: &str| order.is_plain(&repository.parse().unwrap());
    assert!(plain("localhost:5002/app") && plain("127.0.0.1:5002/app") && plain("plain.example/app"));
    assert!(
        plain("LOCALHOST:5002/app")
            && plain("[::1]:5002/app")
            && plain("[::1]/app")
            && plain("Plain.example/app")
    );
    assert!(!plain("127.tls.example/app") && !plain("[fd00::1]:5002/app"));
    assert!(!plain("tls.example/app") && !plain("docker.io/app") && !plain("localhost.example/app"));
}
