//! When an issuer is asked, over hours: its answers are given here, since a real one would take these hours. That a real one
//! over HTTP is understood is for the tests of the whole (`tests/tests/oidc`).

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use http::StatusCode;
use serde_json::json;
use tokio::sync::Notify;

use super::*;
use crate::people::oidc::fetch::{Answer, Form, Login};

const ISSUER: &str = "https://issuer.example";

/// Answers as an issuer with the key "one" would, and counts.
#[derive(Debug, Default)]
struct Answers {
    asked: AtomicU32,
    is_away: AtomicBool,
    /// Answers only when told to.
    waits: AtomicBool,
    go: Notify,
}

impl Answers {
    fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }
}

fn document(value: &Value) -> Answer {
    Answer { status: StatusCode::OK, kind: "application/json".to_owned(), body: value.to_string().into() }
}

#[derive(Debug)]
struct Given(Arc<Answers>);

impl Fetch for Given {
    fn get(&self, url: Url, _: Option<Login>, _: usize) -> BoxFuture<'static, Result<Answer, String>> {
        let answers = Arc::clone(&self.0);
        async move {
            if !url.path().starts_with("/.well-known/") {
                let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
                let keys = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "one", "x": x}]});
                return Ok(document(&keys));
            }
            answers.asked.fetch_add(1, Ordering::SeqCst);
            if answers.waits.load(Ordering::SeqCst) {
                answers.go.notified().await;
            }
            if answers.is_away.load(Ordering::SeqCst) {
                return Err("it is away".to_owned());
            }
            Ok(document(&json!({"issuer": ISSUER, "jwks_uri": format!("{ISSUER}/keys")})))
        }
        .boxed()
    }

    fn post(&self, url: Url, _: Form, _: usize) -> BoxFuture<'static, Result<Answer, String>> {
        async move { panic!("keys are asked for by GET, and not {url}") }.boxed()
    }
}

struct World {
    answers: Arc<Answers>,
    issuers: Issuers,
    begin: Instant,
}

fn world() -> World {
    let answers = Arc::new(Answers::default());
    let issuers = Issuers::new(Arc::new(Given(Arc::clone(&answers))), Settings::default());
    World { answers, issuers, begin: Instant::now() }
}

impl World {
    /// Whether somebody who needs this key, so many seconds after the beginning, gets keys that have it.
    async fn has(&self, kid: &str, seconds: u64) -> Result<bool, String> {
        let issuer = ISSUER.parse().unwrap();
        let known =
            self.issuers.published(&issuer, Some(kid), self.begin + Duration::from_secs(seconds)).await;
        known.map(|known| known.keys.iter().any(|key| key.kid() == Some(kid)))
    }
}

#[tokio::test]
async fn an_issuer_is_asked_once_an_hour_and_for_unknown_keys_once_a_minute() {
    let world = world();
    for second in [0, 1, 59, 3599] {
        assert_eq!(world.has("one", second).await, Ok(true));
    }
    assert_eq!(world.answers.asked(), 1);
    assert_eq!(world.has("one", 3600).await, Ok(true));
    assert_eq!(world.answers.asked(), 2);
    // Within a minute of that, nobody makes it ask again; then a thousand unknown keys do once.
    for second in [3600, 3659] {
        assert_eq!(world.has("two", second).await, Ok(false));
    }
    assert_eq!(world.answers.asked(), 2);
    for kid in 0..1000 {
        assert_eq!(world.has(&format!("unknown {kid}"), 3660 + kid % 60).await, Ok(false));
    }
    assert_eq!(world.answers.asked(), 3);
}

#[tokio::test]
async fn keys_count_for_a_day_while_their_issuer_is_away_and_then_no_more() {
    const DAY: u64 = 24 * 3600;
    let world = world();
    assert_eq!(world.has("one", 0).await, Ok(true));
    world.answers.is_away.store(true, Ordering::SeqCst);
    for second in [3599, 3600, 7200, DAY - 1] {
        assert_eq!(world.has("one", second).await, Ok(true), "{second}");
    }
    assert_eq!(world.answers.asked(), 4);
    // It may be a new one.
    let unknown = world.has("two", DAY - 1).await.unwrap_err();
    assert_eq!(unknown, "it is away");
    assert!(world.has("one", DAY).await.unwrap_err().contains("it is away"));
    assert_eq!(world.answers.asked(), 4, "a minute has not passed");
    world.answers.is_away.store(false, Ordering::SeqCst);
    assert_eq!(world.has("one", DAY + 59).await, Ok(true));
}

#[tokio::test]
async fn an_issuer_that_never_answered_is_asked_every_five_seconds_at_most() {
    let world = world();
    world.answers.is_away.store(true, Ordering::SeqCst);
    for second in 0..20 {
        assert!(world.has("one", second).await.is_err());
    }
    assert_eq!(world.answers.asked(), 4);
    world.answers.is_away.store(false, Ordering::SeqCst);
    assert_eq!(world.has("one", 20).await, Ok(true));
}

#[tokio::test]
async fn all_who_come_at_once_wait_for_one_answer_and_whoever_goes_away_spoils_it_for_nobody() {
    let world = world();
    world.answers.waits.store(true, Ordering::SeqCst);
    let mut first = Box::pin(world.has("one", 0));
    assert!(futures::poll!(&mut first).is_pending());
    let mut others: Vec<_> = (0..100).map(|_| Box::pin(world.has("one", 0))).collect();
    for other in &mut others {
        assert!(futures::poll!(other).is_pending());
    }
    drop(first);
    world.answers.go.notify_one();
    for other in others {
        assert_eq!(other.await, Ok(true));
    }
    assert_eq!(world.answers.asked(), 1);
}

#[test]
fn an_issuer_is_a_url_that_nobody_on_the_way_can_answer_for() {
    for right in [
        ISSUER,
        "https://ghes.example/_services/token",
        "https://a.example/",
        "http://127.0.0.1:90",
        "http://[::1]",
    ] {
        assert_eq!(right.parse::<IssuerUrl>().unwrap().as_str(), right);
    }
    for wrong in [
        "issuer.example",
        "http://issuer.example",
        "http://127.0.0.1.example",
        "ftp://issuer.example",
        "https://",
        "https://a:b@issuer.example",
        "https://issuer.example?x",
        "https://issuer.example#x",
        "https://issuer.example/ sub=x",
        " https://issuer.example",
        "",
    ] {
        assert!(wrong.parse::<IssuerUrl>().is_err(), "{wrong}");
    }
}

#[test]
fn keys_are_where_the_issuer_is_or_at_a_name_with_tls() {
    let at = |issuer: &str, written: &str| {
        place_of(&issuer.parse().unwrap(), "keys are", written).map(String::from)
    };
    for right in ["https://issuer.example/k", "https://keys.example/k?v=1"] {
        assert_eq!(at(ISSUER, right).as_deref(), Ok(right));
    }
    assert!(at("http://127.0.0.1:90", "http://127.0.0.1:90/k").is_ok());
    assert!(at("https://10.0.0.7/x", "https://10.0.0.7/k").is_ok());
    for wrong in [
        "http://issuer.example/k",
        "http://127.0.0.1/k",
        "http://169.254.169.254/latest",
        "https://169.254.169.254/k",
        "https://2852039166/k",
        "https://0x7f.1/k",
        "https://[::1]/k",
        "https://[::ffff:10.0.0.1]/k",
        "file:///etc/passwd",
        "/k",
        "",
    ] {
        let why = at(ISSUER, wrong).unwrap_err();
        assert!(why.contains("says that its keys are at"), "{wrong}: {why}");
    }
    assert!(at("http://127.0.0.1:90", "http://127.0.0.1:91/k").is_err());
}
