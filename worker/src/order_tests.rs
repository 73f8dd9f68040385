//! What an offer becomes.

use farm_types::Failure;
use futures::future::BoxFuture;

use super::*;
use crate::buildkit::{LentToken, TokenAsked};
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
    v1::Registry { host: host.into(), username: username.into(), plain_http, ..Default::default() }
}

/// Whoever is told to have tokens and has none.
struct NoTokens;

impl Tokens for NoTokens {
    fn lend(&self, _: TokenAsked) -> BoxFuture<'static, Result<LentToken, Failure>> {
        Box::pin(std::future::pending())
    }
}

fn solve(order: Order) -> Solve {
    order.into_solve(Roots::new(), Arc::new(NoTokens))
}

#[test]
fn an_order_becomes_a_solve() {
    let mut with_push = order();
    with_push.repositories = vec!["registry.example:5000/app".parse().unwrap()];
    with_push.registries =
        vec![registry("registry.example:5000", "me", true), registry("docker.io", "", false)];
    let solved = solve(with_push);
    assert!(solved.export.as_ref().unwrap().plain_http);
    assert_eq!(solved.logins.len(), 1, "a registry without a name needs no login");
    assert_eq!(solved.dockerfile, "docker/Dockerfile");
    assert_eq!(solved.cache_mount_namespace, "web:trusted");

    let mut other = order();
    assert!(solve(order()).export.is_none(), "without repositories nothing is pushed");
    other.project = "api".into();
    assert_ne!(solve(other).shared_key, solved.shared_key);
}

#[test]
fn a_registry_has_a_login_or_tokens_and_a_login_its_bounds() {
    let mut order = order();
    let pull = vec!["tokens.example/web".into()];
    let granted = v1::Registry { grant: "g".into(), pull, ..registry("tokens.example", "", false) };
    let bounded =
        v1::Registry { pull: vec!["login.example/web".into()], ..registry("login.example", "me", false) };
    order.registries = vec![granted, bounded];
    let solve = solve(order);
    assert!(solve.logins.iter().map(|login| login.host.as_str()).eq(["login.example"]));
    assert_eq!(solve.logins[0].pull, ["login.example/web"]);
    let lending = solve.lending.unwrap();
    assert_eq!(lending.project, "web");
    let grant = Grant { name: "g".into(), pull: vec!["tokens.example/web".into()] };
    assert!(lending.grants.into_iter().eq([("tokens.example".to_owned(), grant)]));
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
