//! What an engine is told of registries.

use std::collections::BTreeMap;

use bollard_buildkit_proto::moby::filesync::v1::auth_server::Auth as _;
use futures::future::BoxFuture;
use ring::signature::{ED25519, UnparsedPublicKey};
use tonic::Code;

use super::*;
use crate::buildkit::types::{LentToken, Tokens};

fn login(host: &str, username: &str) -> Login {
    Login { host: host.into(), username: username.into(), password: "p".into() }
}

/// Gives a token to all but those who want `secret`.
struct Service;

impl Tokens for Service {
    fn lend(&self, asked: TokenAsked) -> BoxFuture<'static, Result<LentToken, Failure>> {
        let refused = asked.scopes.iter().any(|scope| scope.contains("secret"));
        let token = if refused { String::new() } else { format!("of {}", asked.host) };
        let refused = refused.then(|| "t.example/secret".to_owned()).into_iter().collect();
        Box::pin(async { Ok(LentToken { token, expires_in: 300, issued_at: 7, refused }) })
    }

    fn lend_login(&self, host: String) -> BoxFuture<'static, Result<Login, Failure>> {
        Box::pin(async move {
            match host.as_str() {
                "basic.example" => Ok(login(&host, "lent")),
                _ => Err(Failure::new(Cause::Infrastructure, FailureCode::RegistryUnavailable, "away")),
            }
        })
    }
}

fn auth(grants: &[(&str, &str)]) -> Auth {
    let grant = |(host, name): &(&str, &str)| {
        let grant = Grant { name: (*name).to_owned(), pull: vec![format!("{host}/web")] };
        ((*host).to_owned(), grant)
    };
    let grants: BTreeMap<String, Grant> = grants.iter().map(grant).collect();
    let lending = Lending { project: "web".into(), grants, tokens: Arc::new(Service) };
    let logins = vec![login("docker.io", "hub"), login("localhost:5002", "local")];
    Auth::new(logins, Some(lending), Arc::default())
}

#[tokio::test]
async fn credentials_are_found_by_host_and_others_are_anonymous() {
    let auth = auth(&[]);
    for (asked, name) in [
        ("registry-1.docker.io", "hub"),
        ("LOCALHOST:5002", "local"),
        ("localhost:5002", "local"),
        ("localhost:5003", ""),
    ] {
        let request = Request::new(CredentialsRequest { host: asked.into() });
        assert_eq!(auth.credentials(request).await.unwrap().into_inner().username, name);
    }
    // For these the engine gets its tokens itself.
    let request = GetTokenAuthorityRequest { host: "docker.io".into(), salt: vec![1] };
    let refused = auth.get_token_authority(Request::new(request)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}

/// The key that an engine is told, which `other` has to sign with to be taken for the same.
async fn is_same(one: &Auth, other: &Auth, host: &str, salt: &[u8]) -> bool {
    let (host, salt) = (host.to_owned(), salt.to_vec());
    let request = GetTokenAuthorityRequest { host: host.clone(), salt: salt.clone() };
    let key = one.get_token_authority(Request::new(request)).await.unwrap().into_inner().public_key;
    let payload = b"something random".to_vec();
    let request = VerifyTokenAuthorityRequest { host, salt, payload: payload.clone() };
    let Ok(answer) = other.verify_token_authority(Request::new(request)).await else { return false };
    let signed = answer.into_inner().signed;
    // As NaCl has it.
    let (signature, message) = signed.split_at(64);
    assert_eq!(message, payload);
    UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok()
}

#[tokio::test]
async fn tokens_are_shared_by_those_who_may_the_same() {
    let web = auth(&[("t.example", "g1"), ("u.example", "g1")]);
    let (again, api, none) = (auth(&[("t.example", "g1")]), auth(&[("t.example", "g2")]), auth(&[]));
    assert!(is_same(&web, &again, "t.example", b"salt").await);
    assert!(!is_same(&web, &api, "t.example", b"salt").await);
    assert!(!is_same(&web, &none, "t.example", b"salt").await);
    let key = |host: &str, salt: &[u8]| web.key(host, salt).unwrap().public_key().as_ref().to_vec();
    assert_ne!(key("t.example", b"salt"), key("u.example", b"salt"));
    assert_ne!(key("t.example", b"salt"), key("t.example", b"pepper"));
}

#[tokio::test]
async fn where_tokens_are_lent_the_login_is_the_coordinators_to_tell_and_nothing_in_its_place() {
    let auth = auth(&[("localhost:5002", "g"), ("basic.example", "g")]);
    let ask =
        async |host: &str| auth.credentials(Request::new(CredentialsRequest { host: host.into() })).await;
    let told = ask("BASIC.example").await.unwrap().into_inner();
    assert_eq!((told.username.as_str(), told.secret.as_str()), ("lent", "p"));
    let refused = ask("localhost:5002").await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "away"));
}

async fn fetch(auth: &Auth, scope: &str) -> Result<FetchTokenResponse, Status> {
    let request = FetchTokenRequest {
        host: "t.example".into(),
        scopes: vec![format!("repository:{scope}:pull")],
        ..Default::default()
    };
    auth.fetch_token(Request::new(request)).await.map(Response::into_inner)
}

#[tokio::test]
async fn what_nobody_gives_is_told_with_the_repository_and_the_cure() {
    let auth = auth(&[("t.example", "g")]);
    let lent = fetch(&auth, "web/app").await.unwrap();
    assert_eq!((lent.token.as_str(), lent.expires_in, lent.issued_at), ("of t.example", 300, 7));
    let refused = fetch(&auth, "secret").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let said =
        format!("failed to resolve source metadata for t.example/secret:1: failed to authorize: {refused}");
    let found = Failure::new(Cause::User, FailureCode::EngineError, "?");
    let failure = auth.notes.explain(found.clone(), &said, auth.lending.as_ref());
    assert_eq!(failure.code, FailureCode::RegistryAuth);
    assert!(failure.message.contains("farm project allow web --pull t.example/secret"), "{failure}");
    // Of something else it says nothing.
    let other = auth.notes.explain(found.clone(), "t.example/other:1: not found", auth.lending.as_ref());
    assert_eq!(other, found);
}

#[tokio::test]
async fn what_the_registry_refuses_is_told_with_the_cure_where_the_project_may_not() {
    let auth = auth(&[("t.example", "g")]);
    let refused = Failure::new(Cause::User, FailureCode::BaseImageMissing, "?");
    let explained = |image: &str, why: &str| {
        let said = format!("failed to resolve source metadata for t.example/{image}: {why}");
        auth.notes.explain(refused.clone(), &said, auth.lending.as_ref())
    };
    let denied = "pull access denied, repository does not exist or may require authorization";
    for (image, repository) in
        [("secret:1", "secret"), ("webs@sha256:00", "webs"), ("a/b.c_d-e:x", "a/b.c_d-e")]
    {
        let failure = explained(image, denied);
        assert_eq!(failure.code, FailureCode::RegistryAuth);
        let cure = format!("farm project allow web --pull t.example/{repository}");
        assert!(failure.message.ends_with(&cure), "{failure}");
        assert!(failure.message.contains("farm registry login t.example --project web"), "{failure}");
    }
    // Where it may, and what isn't there, is as the engine says.
    assert_eq!(explained("web/app:1", denied), refused);
    assert_eq!(explained("web:1", denied), refused);
    assert_eq!(explained("secret:1", "t.example/secret:1: not found"), refused);
}

#[test]
fn a_password_is_not_printed() {
    let login = Login { password: "hush".into(), ..login("h", "u") };
    assert!(!format!("{login:?}").contains("hush"));
}
