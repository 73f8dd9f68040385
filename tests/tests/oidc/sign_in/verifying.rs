//! Which answers of an issuer show somebody, and which don't.

use std::sync::Arc;

use farm_proto::v1;
use farm_tests::issuer::people::People;
use farm_tests::issuer::{Key, Kind, Trouble};
use serde_json::json;
use tonic::Code;

use super::world::{BACK, world};

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_time_maker_or_purpose_shows_nobody() {
    let world = world();
    let mut door = world.door().await;
    door.sign_in().await.unwrap();
    let seconds = now();
    for (changes, part) in [
        (json!({"nonce": "another-nonce-another-nonce"}), "isn't the answer to this sign-in (nonce)"),
        (json!({"nonce": null}), "(nonce)"),
        (json!({"aud": "another"}), "was made for \"another\" (aud)"),
        (json!({"aud": ["farm", "another"]}), "(aud)"),
        (json!({"aud": ["farm", "another"], "azp": "another"}), "(aud)"),
        (json!({"aud": null}), "was made for nobody"),
        (json!({"iss": "https://evil.example"}), "isn't of"),
        (json!({"iss": null}), "who has issued it"),
        (json!({"exp": seconds - 61}), "has ended"),
        (json!({"exp": null}), "has no exp"),
        (json!({"iat": seconds + 7000, "exp": seconds + 7300}), "iat is 116 min in the future"),
        (json!({"nbf": seconds + 3600}), "nbf is"),
        (json!({"sub": null}), "(sub)"),
        (json!({"sub": 7}), "(sub)"),
    ] {
        world.issuer.people(|people| people.changes = changes.clone());
        let refused = door.sign_in().await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{changes}: {refused}");
        assert!(refused.message().contains(part), "{changes}: {refused}");
    }
    for right in [json!({"aud": ["farm"]}), json!({"aud": ["farm", "another"], "azp": "farm"})] {
        world.issuer.people(|people| people.changes = right);
        door.sign_in().await.unwrap();
    }
    assert_eq!(world.sql("SELECT count(*) FROM tokens"), "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_issuer_does_not_publish_and_an_algorithm_that_it_may_not_use_count_for_nothing() {
    let world = world();
    let mut door = world.door().await;
    door.sign_in().await.unwrap();
    for (key, part) in [
        (Key::new("one", Kind::Es256), "signature is wrong"),
        (Key::new("two", Kind::Es256), "no key \"two\""),
        (Key::new("one", Kind::EdDsa), "\"EdDSA\""),
    ] {
        world.issuer.people(|people| people.key = Arc::new(key));
        let refused = door.sign_in().await.unwrap_err();
        assert!(refused.code() == Code::Unauthenticated && refused.message().contains(part), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_for_whoever_has_asked_for_it_and_comes_back_to_their_machine() {
    let world = world();
    let mut door = world.door().await;
    let wrong = |change: fn(&mut v1::BrowserSignIn)| change;
    for (change, part) in [
        (wrong(|browser| browser.code_verifier.push('x')), "doesn't take the code"),
        (wrong(|browser| browser.code.push('x')), "doesn't take the code"),
        (wrong(|browser| browser.redirect_uri = BACK.replace(":9/", ":10/")), "doesn't take the code"),
        (
            wrong(|browser| browser.redirect_uri = "http://evil.example:9/callback".into()),
            "may be sent back to",
        ),
        (wrong(|browser| browser.redirect_uri = "http://127.0.0.1:9/other".into()), "may be sent back to"),
        (wrong(|browser| browser.nonce.push('x')), "(nonce)"),
    ] {
        let mut returned = door.returned().await;
        change(&mut returned);
        let refused = door.enter(returned).await.unwrap_err();
        assert!(
            refused.code() == Code::Unauthenticated && refused.message().contains(part),
            "{part}: {refused}"
        );
    }
    // What the issuer need not be asked about isn't brought to it.
    world.issuer.taken();
    for (change, part) in [
        (wrong(|browser| browser.nonce.clear()), "nonce \"…\": it has 0 bytes"),
        (wrong(|browser| browser.code = "x".repeat(5000)), "code \"…\": it has 5000 bytes"),
        (wrong(|browser| browser.code_verifier.truncate(42)), "code_verifier \"…\": send 43 to 128"),
        (wrong(|browser| browser.code_verifier.push('+')), "code_verifier \"…\": send 43 to 128"),
    ] {
        let mut returned = door.returned().await;
        change(&mut returned);
        let refused = door.enter(returned).await.unwrap_err();
        assert!(
            refused.code() == Code::InvalidArgument && refused.message().contains(part),
            "{part}: {refused}"
        );
    }
    assert!(world.issuer.taken().is_empty());
    let returned = door.returned().await;
    door.enter(returned.clone()).await.unwrap();
    assert_eq!(door.enter(returned).await.unwrap_err().code(), Code::Unauthenticated);
    let empty = door.farm.sign_in(v1::SignInRequest::default()).await.unwrap_err();
    assert_eq!(empty.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_issuer_tells_only_when_it_is_asked_once_more_is_asked_for() {
    let world = world();
    let ada = json!({"sub": "subject-of-ada", "preferred_username": "ada", "groups": ["devs", "web"]});
    world.issuer.lets_in(People { tells_later: true, ..People::new(&world.key, ada) });
    let mut door = world.door().await;
    let signed_in = door.sign_in().await.unwrap();
    assert_eq!(
        (signed_in.name.as_str(), signed_in.groups),
        ("ada", vec!["devs".to_owned(), "web".to_owned()])
    );
    // What it tells then has to be about the same one.
    world.issuer.people(|people| people.changes = json!({"sub": "subject-of-bob"}));
    let refused = door.sign_in().await.unwrap_err();
    assert!(refused.message().contains("tells of somebody else"), "{refused}");
    // A kind is told with its parameters by many.
    world.issuer.people(|people| {
        people.changes = json!({});
        people.tells_as = "application/json; charset=utf-8";
    });
    door.sign_in().await.unwrap();
    world.issuer.people(|people| people.tells_as = "application/jwt");
    let refused = door.sign_in().await.unwrap_err();
    let said = refused.message();
    assert!(
        refused.code() == Code::FailedPrecondition
            && said
                .starts_with(&format!("{}/userinfo tells of people in application/jwt", world.issuer.url()))
            && said.contains("unsets userinfo_signed_response_alg"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_away_or_not_set_up_is_told_as_such() {
    let world = world();
    world.issuer.trouble(Some(Trouble::Down));
    let mut door = world.door().await;
    let away = door.farm.get_sign_in(v1::GetSignInRequest {}).await.unwrap_err();
    let issuer = world.issuer.url();
    let begins = format!(
        "nobody can sign in just now, as {issuer} doesn't say where people sign in there \
         ({issuer}/.well-known/openid-configuration answers 503"
    );
    assert!(away.code() == Code::Unavailable && away.message().starts_with(&begins), "{away}");
    let said = world.cli(&["login", &world.farm.url(), "--device"]);
    assert!(
        said.status == 3 && said.stderr.contains("try again in a minute. If it stays so, whoever"),
        "{said:?}"
    );
    // That it can be asked again takes a while; another farm doesn't know that it was away.
    let other = super::world::world();
    let mut door = other.door().await;
    let returned = door.returned().await;
    other.issuer.trouble(Some(Trouble::Nonsense));
    let away = door.enter(returned).await.unwrap_err();
    assert!(away.code() == Code::Unavailable && away.message().contains("isn't expected"), "{away}");
    other.issuer.trouble(None);
    door.sign_in().await.unwrap();
    let no_farm = farm_tests::farm::Farm::builder().start();
    let mut door = super::world::Door::of(&no_farm.url()).await;
    assert_eq!(
        door.farm.get_sign_in(v1::GetSignInRequest {}).await.unwrap().into_inner(),
        v1::GetSignInResponse::default()
    );
    let none = door.farm.begin_device_sign_in(v1::BeginDeviceSignInRequest {}).await.unwrap_err();
    assert!(none.code() == Code::FailedPrecondition && none.message().contains("nobody signs in"), "{none}");
}
