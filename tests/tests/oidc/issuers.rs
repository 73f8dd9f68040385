//! Issuers that rotate, lie, stall or are away.

use std::time::{Duration, Instant};

use farm_tests::issuer::{Issuer, Key, Kind, Trouble};
use serde_json::json;

use crate::world::trusting;

#[tokio::test]
async fn a_rotated_key_is_found_and_the_old_one_counts_no_more() {
    let world = trusting(Kind::Es256).await;
    world.exchange(&world.token(json!({}))).await.unwrap();
    let new = Key::new("two", Kind::Es256);
    world.issuer.publish(&[&new]);
    let token = new.sign(&world.issuer.job(json!({})));
    // The issuer was asked less than a minute ago.
    assert!(world.exchange_at(&token, 59).await.unwrap_err().to_string().contains("no key \"two\""));
    world.exchange_at(&token, 60).await.unwrap();
    let old = world.exchange_at(&world.token(json!({})), 60).await.unwrap_err();
    assert!(old.to_string().contains("no key \"one\""), "{old}");
    assert_eq!(world.issuer.asked(), 2);
}

#[tokio::test]
async fn a_flood_of_unknown_keys_asks_the_issuer_once_a_minute() {
    let world = trusting(Kind::Es256).await;
    let mut floods = Vec::new();
    for number in 0..300 {
        let stranger = json!({"alg": "ES256", "typ": "JWT", "kid": format!("unknown {number}")});
        floods.push(world.key.sign_as(&stranger, &world.issuer.job(json!({}))));
    }
    for minute in 0..3 {
        let all =
            floods.iter().zip((0..60).cycle()).map(|(token, at)| world.exchange_at(token, minute * 60 + at));
        let all = futures::future::join_all(all).await;
        assert!(all.iter().all(|one| one.as_ref().is_err_and(|why| why.to_string().contains("no key"))));
        assert_eq!(u64::from(world.issuer.asked()), minute + 1);
    }
    // Who has a known one isn't held up.
    world.exchange_at(&world.token(json!({})), 130).await.unwrap();
    assert_eq!(world.issuer.asked(), 3);
}

#[tokio::test]
async fn known_keys_count_while_their_issuer_is_away() {
    let world = trusting(Kind::Es256).await;
    world.exchange(&world.token(json!({}))).await.unwrap();
    world.issuer.trouble(Some(Trouble::Down));
    world.exchange_at(&world.token(json!({})), 7200).await.unwrap();
    assert_eq!(world.issuer.asked(), 2);
    let new = Key::new("two", Kind::Es256).sign(&world.issuer.job(json!({})));
    let why = world.unavailable(&new, 7300).await;
    assert!(why.contains("503") && why.contains("try again"), "{why}");
    let late = world.unavailable(&world.token(json!({})), 24 * 3600 + 60).await;
    assert!(late.contains(&world.issuer.url()), "{late}");
    world.issuer.trouble(None);
    world.exchange_at(&world.token(json!({})), 24 * 3600 + 120).await.unwrap();
}

/// What is said when the keys can't be had for this reason; and that it is over when the trouble is.
async fn said(trouble: Trouble) -> String {
    let world = trusting(Kind::Es256).await;
    world.issuer.trouble(Some(trouble));
    let token = world.token(json!({}));
    let why = world.unavailable(&token, 0).await;
    assert!(why.contains(&world.issuer.url()) && world.seen() == 0, "{why}");
    world.issuer.trouble(None);
    world.exchange_at(&token, 5).await.unwrap();
    why
}

#[tokio::test]
async fn an_issuer_that_says_what_it_must_not_is_not_believed() {
    let other = Issuer::start(&[&Key::new("one", Kind::Es256)]);
    let another = said(Trouble::Another(other.url())).await;
    assert!(another.contains("says that it is the issuer"), "{another}");
    assert!(said(Trouble::Nonsense).await.contains("no description of an issuer"));
    for place in [
        "http://169.254.169.254/latest/meta-data",
        "https://10.0.0.1/keys",
        "https://[::ffff:7f00:1]/",
        "file:///etc/passwd",
    ] {
        let why = said(Trouble::KeysAt(place.to_owned())).await;
        assert!(why.contains("says that its keys are at"), "{why}");
    }
    let elsewhere = said(Trouble::KeysAt(format!("{}/keys", other.url()))).await;
    assert!(elsewhere.contains("isn't https://"), "{elsewhere}");
    let sent = said(Trouble::Redirects(format!("{}/keys", other.url()))).await;
    assert!(sent.contains("sends elsewhere"), "{sent}");
    assert_eq!(other.asked(), 0);
}

#[tokio::test]
async fn an_issuer_that_never_ends_or_never_answers_costs_little() {
    let begin = Instant::now();
    assert!(said(Trouble::Endless).await.contains("more than 262144 bytes"));
    assert!(begin.elapsed() < Duration::from_secs(9), "{:?}", begin.elapsed());
    assert!(said(Trouble::Hangs).await.contains("did not answer within 10 s"));
}

#[tokio::test]
async fn an_issuer_without_tls_has_to_be_named_in_the_configuration() {
    use farm_coordinator::people::oidc::fetch::Http;
    use farm_coordinator::people::oidc::{Exchange, Settings};
    let world = trusting(Kind::Es256).await;
    let http = std::sync::Arc::new(Http::new(crate::world::loopback()));
    let strict = Exchange::new(http, Settings::default(), "farm".to_owned());
    let token = world.token(json!({}));
    let why = strict.exchange(&world.store, "", "default", &token, Instant::now()).await.unwrap_err();
    assert!(why.to_string().contains("plain_http = true"), "{why}");
    assert_eq!(world.issuer.asked(), 0);
}
