//! What an offer becomes.

use farm_types::{Failure, ImageRef};
use futures::future::BoxFuture;

use super::*;
use crate::buildkit::{LentToken, Looked, TokenAsked};
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

/// Whoever is told to have tokens and to know images, and is never asked.
struct NoTokens;

impl Images for NoTokens {
    fn look_up(&self, _: &ImageRef) -> BoxFuture<'static, Result<Looked, Failure>> {
        Box::pin(std::future::pending())
    }
}

impl Tokens for NoTokens {
    fn lend(&self, _: TokenAsked) -> BoxFuture<'static, Result<LentToken, Failure>> {
        Box::pin(std::future::pending())
    }

    fn lend_login(&self, _: String) -> BoxFuture<'static, Result<Login, Failure>> {
        Box::pin(std::future::pending())
    }
}

fn solve(order: Order) -> Solve {
    order.into_solve(Roots::new(), &Arc::new(NoTokens), Arc::default())
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
    assert_eq!(solved.caches, "web:trusted", "of a coordinator of before");

    assert!(solve(order()).export.is_none(), "without repositories nothing is pushed");
    let mut offer = v1::Offered { caches: "1f:trusted".into(), ..offered() };
    offer.spec = Some((&order().spec).into());
    let other = solve(Order::try_from(offer).unwrap());
    assert_eq!(other.caches, "1f:trusted", "whatever the project is called");
    assert_ne!(other.shared_key, solved.shared_key);
}

#[test]
fn a_registry_has_a_login_or_tokens_or_neither_and_bounds() {
    let mut order = order();
    let pull = |text: &str| vec![text.to_owned()];
    let granted = v1::Registry {
        grant: "g".into(),
        pull: pull("tokens.example/web"),
        bounded: true,
        ..registry("tokens.example", "", false)
    };
    let with_login = v1::Registry {
        pull: pull("login.example/web"),
        bounded: true,
        ..registry("login.example", "me", false)
    };
    let closed = v1::Registry { bounded: true, ..registry("theirs.example", "", false) };
    let all = v1::Registry { grant: "g".into(), ..registry("all.example", "", false) };
    // As coordinators of before have it.
    let older = v1::Registry { pull: pull("older.example/web"), ..registry("older.example", "me", false) };
    let unheeded = v1::Registry { host: "older.example:1".into(), ..granted.clone() };
    let unheeded = v1::Registry { bounded: false, ..unheeded };
    let mut offered = v1::Offered { spec: Some((&order.spec).into()), ..offered() };
    let nothing = registry("plain.example", "", true);
    let own = v1::Registry {
        grant: "g".into(),
        bounded: true,
        reader: "r".into(),
        ..registry("own.example", "", false)
    };
    let beside =
        v1::Registry { pull: pull("theirs.example:1/web"), ..registry("theirs.example:1", "", true) };
    offered.registries = vec![granted, with_login, closed, all, older, unheeded, nothing, own, beside];
    order = Order::try_from(offered).unwrap();
    let solve = solve(order);
    assert!(solve.logins.iter().map(|login| login.host.as_str()).eq(["login.example", "older.example"]));
    let lending = solve.lending.unwrap();
    assert_eq!(lending.project, "web");
    let grant = Grant { name: "g".into(), pull: pull("tokens.example/web") };
    assert_eq!(lending.grants["tokens.example"], grant);
    assert!(lending.grants.keys().eq(["all.example", "older.example:1", "own.example", "tokens.example"]));

    let bounds = solve.bounds.unwrap();
    let within = |host: &str| bounds.within.get(&host.parse().unwrap()).cloned();
    for host in ["tokens.example", "login.example"] {
        let bound = Bound { pull: pull(&format!("{host}/web")), or_public: true };
        assert_eq!(within(host), Some(bound), "{host}");
    }
    assert_eq!(within("own.example"), Some(Bound { pull: Vec::new(), or_public: true }));
    assert!(bounds.readers.iter().eq(["r"]));
    assert_eq!(within("theirs.example"), Some(Bound { pull: Vec::new(), or_public: true }));
    assert_eq!(within("older.example"), Some(Bound { pull: pull("older.example/web"), or_public: false }));
    let open = [
        ("all.example", "all.example"),
        ("older.example:1", "older.example:1"),
        ("theirs.example:1", "theirs.example:1/web"),
    ];
    assert_eq!(bounds.open, open.map(|(host, all)| (host.parse().unwrap(), pull(all))).into());
    assert_eq!(bounds.within.len(), 5);
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
