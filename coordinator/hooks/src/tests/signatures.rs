//! Whose deliveries are taken.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use ring::hmac;

use super::headers;
use crate::{Headers, NOBODYS_SECRET, Provider, Refused, check_secret, new_secret, signed, verify};

const NOW: i64 = 1_700_000_000;
/// From GitHub's documentation, "Testing the webhook payload validation".
const SECRET: &str = "It's a Secret to Everybody";
const BODY: &[u8] = b"Hello, World!";
const SIGNATURE: &str = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

fn ask(provider: Provider, all: &[(&str, &str)], body: &[u8], secrets: &[&str]) -> Result<usize, Refused> {
    verify(provider, &headers(all), None, body, secrets, NOW)
}

/// The headers of Standard Webhooks.
fn standard(secret: &str, id: &str, at: i64, body: &[u8]) -> Vec<(String, String)> {
    let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let signed = [format!("{id}.{at}.").as_bytes(), body].concat();
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &signed);
    [
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", at.to_string()),
        ("webhook-signature", format!("v1,{}", STANDARD.encode(mac))),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

fn of(all: &[(String, String)]) -> Headers {
    Headers::of(all.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
}

#[test]
fn github_signs_as_its_documentation_says() {
    let event = ("x-github-event", "push");
    let signed = format!("sha256={SIGNATURE}");
    let ask = |value: &str, body: &[u8], secrets: &[&str]| {
        super::signatures::ask(Provider::Github, &[event, ("x-hub-signature-256", value)], body, secrets)
    };
    assert_eq!(ask(&signed, BODY, &[SECRET]), Ok(0));
    assert_eq!(ask(&signed.to_uppercase().replace("SHA256", "sha256"), BODY, &[SECRET]), Ok(0));
    // While one secret takes the other's place both count.
    assert_eq!(ask(&signed, BODY, &["another secret", SECRET]), Ok(1));
    assert_eq!(ask(&signed, BODY, &["another secret", "yet another one"]), Err(Refused::Wrong));
    assert_eq!(ask(&signed, BODY, &[]), Err(Refused::Wrong));
    assert_eq!(ask(&signed, b"Hello, World?", &[SECRET]), Err(Refused::Wrong));
    assert_eq!(ask(&signed, b"", &[SECRET]), Err(Refused::Wrong));
    for odd in ["", SIGNATURE, "sha1=x", "sha256=", &signed[..70], &format!("{signed}0"), "sha256=\u{e9}"] {
        assert_eq!(ask(odd, BODY, &[SECRET]), Err(Refused::Unsigned), "{odd}");
    }
    assert_eq!(super::signatures::ask(Provider::Github, &[event], BODY, &[SECRET]), Err(Refused::Unsigned));
    let twice = [event, ("x-hub-signature-256", &signed), ("x-hub-signature-256", &signed)];
    assert_eq!(super::signatures::ask(Provider::Github, &twice, BODY, &[SECRET]), Err(Refused::Unsigned));
}

#[test]
fn who_sends_is_the_hooks_and_is_not_guessed() {
    let hub = format!("sha256={SIGNATURE}");
    // Gitea also signs as GitHub does.
    let gitea = [
        ("x-gitea-event", "push"),
        ("x-gogs-event", "push"),
        ("x-github-event", "push"),
        ("x-hub-signature-256", &hub),
        ("x-gitea-signature", SIGNATURE),
    ];
    assert_eq!(ask(Provider::Gitea, &gitea, BODY, &[SECRET]), Ok(0));
    let forgejo: Vec<_> =
        gitea.into_iter().chain([("x-forgejo-event", "push"), ("x-forgejo-signature", SIGNATURE)]).collect();
    assert_eq!(ask(Provider::Forgejo, &forgejo, BODY, &[SECRET]), Ok(0));
    for (provider, sent) in [
        (Provider::Github, &gitea[..]),
        (Provider::Github, &forgejo[..]),
        (Provider::Gitea, &forgejo[..]),
        (Provider::Forgejo, &gitea[..]),
        (Provider::Gitlab, &gitea[..]),
        (Provider::Generic, &gitea[..]),
    ] {
        assert_eq!(ask(provider, sent, BODY, &[SECRET]), Err(Refused::OtherSender), "{provider}");
    }
    // Forgejo's own decides where there is one.
    let mut own = forgejo.clone();
    own.pop();
    own.push(("x-forgejo-signature", "00"));
    assert_eq!(ask(Provider::Forgejo, &own, BODY, &[SECRET]), Err(Refused::Unsigned));
    own.pop();
    assert_eq!(ask(Provider::Forgejo, &own, BODY, &[SECRET]), Ok(0));
}

#[test]
fn standard_webhooks_are_signed_with_their_time() {
    // The example of the specification's reference libraries.
    let (secret, id, at) =
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330);
    let known = headers(&[
        ("webhook-id", id),
        ("webhook-timestamp", "1614265330"),
        ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
    ]);
    let body = br#"{"test": 2432232314}"#;
    assert_eq!(verify(Provider::Generic, &known, None, body, &[secret], at), Ok(0));
    // What the farm sends is signed so, too; while it changes its secret by both.
    let [sent_id, sent_at, signature] = signed(&[secret], id, at, body);
    assert_eq!((sent_id.1.as_str(), sent_at.1.as_str()), (id, "1614265330"));
    assert_eq!(signature.1, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    let other = new_secret(Provider::Generic, [9; 32]);
    let both: Vec<(String, String)> =
        signed(&[&other, secret], id, at, body).map(|(name, value)| (name.to_owned(), value)).into();
    for (own, place) in
        [(secret, Ok(0)), (other.as_str(), Ok(0)), ("whsec_bm9ib2R5IGtub3dzIGl0", Err(Refused::Wrong))]
    {
        assert_eq!(verify(Provider::Generic, &of(&both), None, body, &[own], at), place);
    }
    for (provider, event) in [(Provider::Generic, None), (Provider::Gitlab, Some("Push Hook"))] {
        let secret = new_secret(provider, [7; 32]);
        let signed = |at| {
            let mut all = standard(&secret, "m1", at, body);
            all.extend(event.map(|event| ("x-gitlab-event".to_owned(), event.to_owned())));
            all
        };
        let ask =
            |all: &[(String, String)], body: &[u8]| verify(provider, &of(all), None, body, &[&secret], NOW);
        for at in [NOW, NOW - 300, NOW + 300] {
            assert_eq!(ask(&signed(at), body), Ok(0));
        }
        for at in [NOW - 301, NOW + 301, 0, i64::MAX, i64::MIN] {
            assert_eq!(ask(&signed(at), body), Err(Refused::Stale), "{at}");
        }
        // The id and the time are signed, too.
        for name in ["webhook-id", "webhook-timestamp"] {
            let mut changed = signed(NOW);
            changed
                .iter_mut()
                .filter(|(of, _)| of == name)
                .for_each(|(_, value)| *value = NOW.to_string() + "1");
            assert_eq!(ask(&changed, body), Err(Refused::Wrong), "{name}");
        }
        // Several may stand there while the sender changes its secret; other versions are for others.
        let mut several = signed(NOW);
        several[2].1 = format!("v1a,AAAA v1,{} {}", STANDARD.encode([0; 32]), several[2].1);
        assert_eq!(ask(&several, body), Ok(0));
        several[2].1 = "v2,AAAA".to_owned();
        assert_eq!(ask(&several, body), Err(Refused::Unsigned));
    }
}

#[test]
fn a_token_is_the_secret_itself() {
    let secret = new_secret(Provider::Gitlab, [7; 32]);
    let event = ("x-gitlab-event", "Push Hook");
    assert_eq!(ask(Provider::Gitlab, &[event, ("x-gitlab-token", &secret)], BODY, &[&secret]), Ok(0));
    assert_eq!(
        ask(Provider::Gitlab, &[event, ("x-gitlab-token", "x")], BODY, &[&secret]),
        Err(Refused::Wrong)
    );
    // Where there is a signature it alone counts.
    let both = [event, ("x-gitlab-token", secret.as_str()), ("webhook-signature", "v1,AAAA")];
    assert_eq!(ask(Provider::Gitlab, &both, BODY, &[&secret]), Err(Refused::Unsigned));
    let bearer = format!("Bearer {secret}");
    assert_eq!(ask(Provider::Distribution, &[("authorization", &bearer)], BODY, &[&secret]), Ok(0));
    assert_eq!(
        ask(Provider::Distribution, &[("authorization", &secret)], BODY, &[&secret]),
        Err(Refused::Unsigned)
    );
    let hub = |token| verify(Provider::Dockerhub, &Headers::default(), token, BODY, &[&secret], NOW);
    assert_eq!(hub(Some(&secret)), Ok(0));
    assert_eq!((hub(Some("x")), hub(None)), (Err(Refused::Wrong), Err(Refused::Unsigned)));
    // Nobody's secret is nobody's, also where there is no hook.
    assert_eq!(
        verify(Provider::Dockerhub, &Headers::default(), Some(NOBODYS_SECRET), BODY, &[], NOW),
        Err(Refused::Wrong)
    );
}

#[test]
fn a_secret_is_long_and_plain() {
    for provider in Provider::ALL {
        assert_eq!(provider.as_str().parse(), Ok(provider));
        check_secret(provider, &new_secret(provider, [255; 32])).unwrap();
        for odd in ["", "short", "has blanks in it, many", &"x".repeat(256), "whsec_no-base64-at-all"] {
            let error = check_secret(provider, odd).unwrap_err().to_string();
            assert!(odd.is_empty() || !error.contains(odd), "{error}");
        }
    }
    assert!(check_secret(Provider::Generic, "0123456789abcdef").is_err());
    check_secret(Provider::Github, "0123456789abcdef").unwrap();
}

proptest! {
    #[test]
    fn nothing_passes_that_was_changed(body in proptest::collection::vec(any::<u8>(), 1..400), bit in any::<prop::sample::Index>()) {
        let secret = new_secret(Provider::Github, [9; 32]);
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), &body);
        let hex = mac.as_ref().iter().fold("sha256=".to_owned(), |text, byte| format!("{text}{byte:02x}"));
        let all = [("x-github-event", "push"), ("x-hub-signature-256", hex.as_str())];
        prop_assert_eq!(ask(Provider::Github, &all, &body, &[&secret]), Ok(0));
        let mut changed = body.clone();
        let at = bit.index(changed.len() * 8);
        changed[at / 8] ^= 1 << (at % 8);
        prop_assert!(ask(Provider::Github, &all, &changed, &[&secret]).is_err());
        prop_assert!(ask(Provider::Github, &all, &body[..body.len() - 1], &[&secret]).is_err());
    }
}
