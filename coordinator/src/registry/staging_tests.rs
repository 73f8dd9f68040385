//! What tokens of the staging registry say, and for whom there are any.

use ring::signature::{ECDSA_P256_SHA256_FIXED, KeyPair as _, UnparsedPublicKey};
use serde_json::Value;

use super::*;
use crate::registry::login::Allowed;
use crate::registry::tests::reach;

const HOST: &str = "staging.example:5004";

/// Registries with a staging registry, and the public key by which its tokens are checked.
fn registries() -> (Registries, Vec<u8>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let staging = Staging::new(HOST.parse().unwrap(), &key.serialize_der(), b"certificate").unwrap();
    let public = staging.key.public_key().as_ref().to_vec();
    let registries = reach(Default::default(), Duration::from_secs(1)).with_staging(Some(staging));
    (registries, public)
}

fn asks(scopes: &[&str]) -> v1::LendTokenRequest {
    v1::LendTokenRequest {
        host: HOST.to_owned(),
        service: SERVICE.to_owned(),
        scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        ..Default::default()
    }
}

fn part(token: &str, place: usize) -> Value {
    let part = token.split('.').nth(place).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[test]
fn a_token_is_signed_by_the_key_that_its_certificate_is_of_and_says_who_may_do_what_how_long() {
    let (registries, public) = registries();
    let (project, attempt) = (ProjectId::generate(), AttemptId::generate());
    let own = registries.staged(project, attempt).unwrap();
    assert_eq!(own.to_string(), format!("{HOST}/{project}/{attempt}"));
    let scope = format!("repository:{}:pull,push", own.name());
    let lent = registries.lend_staging_token(project, attempt, &asks(&[&scope])).unwrap();
    let (signed, signature) = lent.token.rsplit_once('.').unwrap();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &public);
    key.verify(signed.as_bytes(), &signature).unwrap();
    let head = json!({ "typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(b"certificate")] });
    assert_eq!(part(&lent.token, 0), head);
    let claims = part(&lent.token, 1);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let issued = claims["iat"].as_u64().unwrap();
    assert!(issued <= now && issued + 5 > now, "{claims}");
    assert_eq!((claims["nbf"].as_u64(), claims["exp"].as_u64()), (Some(issued - 60), Some(issued + 300)));
    assert_eq!(lent.expires_in, 300);
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!("farm"), &json!("farm-staging")));
    assert_eq!(claims["sub"], json!(attempt.to_string()));
    let access = json!([{ "type": "repository", "name": own.name(), "actions": ["pull", "push"] }]);
    assert_eq!(claims["access"], access);
    let again = registries.lend_staging_token(project, attempt, &asks(&[&scope])).unwrap();
    assert_ne!(part(&again.token, 1)["jti"], claims["jti"]);
}

#[test]
fn a_token_is_for_the_attempts_own_repository_whatever_is_asked_for() {
    let (registries, _) = registries();
    let (project, attempt) = (ProjectId::generate(), AttemptId::generate());
    let (own, other) = (format!("{project}/{attempt}"), format!("{project}/{}", AttemptId::generate()));
    let access = |scopes: &[&str]| {
        let lent = registries.lend_staging_token(project, attempt, &asks(scopes)).unwrap();
        let access = (!lent.token.is_empty()).then(|| part(&lent.token, 1)["access"].clone());
        (access, lent.refused)
    };
    let may = |actions: &[&str]| Some(json!([{ "type": "repository", "name": own, "actions": actions }]));
    let of_own = |actions: &str| format!("repository:{own}:{actions}");
    let of_other = format!("repository:{other}:pull");
    assert_eq!(access(&[&of_own("pull,push,delete,*")]), (may(&["pull", "push"]), vec![]));
    assert_eq!(access(&[&of_own("pull")]), (may(&["pull"]), vec![]));
    let refused = vec![format!("{HOST}/{other}")];
    // To mount a layer from there.
    assert_eq!(access(&[&of_own("push,pull"), &of_other]), (may(&["pull", "push"]), refused.clone()));
    assert_eq!(access(&[&of_other]), (None, refused));
    for scope in
        ["registry:catalog:*", "repository::pull", &of_own("delete"), &format!("repository:{own}/x:push")]
    {
        assert_eq!(access(&[scope]).0, None, "{scope}");
    }
    // Of no other registry, and for no other service.
    let scope = of_own("pull,push");
    let elsewhere = v1::LendTokenRequest { host: "r.example".into(), ..asks(&[&scope]) };
    let refused = registries.lend_staging_token(project, attempt, &elsewhere).unwrap_err().to_string();
    assert!(refused.contains("r.example isn't that"), "{refused}");
    let other = v1::LendTokenRequest { service: "whatever".into(), ..asks(&[&scope]) };
    let refused = registries.lend_staging_token(project, attempt, &other).unwrap_err().to_string();
    assert!(refused.contains("\"whatever\"") && refused.contains("farm-staging"), "{refused}");
}

#[test]
fn nobody_else_has_a_token_there_and_no_build_is_published_there() {
    let (registries, _) = registries();
    let there: Repository =
        format!("{HOST}/{}/{}", ProjectId::generate(), AttemptId::generate()).parse().unwrap();
    let elsewhere: Repository = "r.example/app".parse().unwrap();
    assert!(registries.own_token(&there, "pull,delete").is_ok());
    assert!(registries.own_token(&elsewhere, "pull").is_err());
    let refused = registries.check(&there).unwrap_err().to_string();
    assert!(refused.contains("staging registry"), "{refused}");
    registries.check(&elsewhere).unwrap();
    // With what a project may everywhere it is lent nothing there.
    let access = farm_core::people::Access { push: vec!["*".parse().unwrap()], ..Default::default() };
    let allowed = Allowed { access, ..Allowed::default() };
    let borrower = super::super::lending::Borrower::new(ProjectId::generate(), &allowed, &[]);
    assert!(registries.lend(&borrower, true).iter().all(|lent| lent.host != HOST));
}
