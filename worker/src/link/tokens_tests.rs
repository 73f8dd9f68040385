//! Tokens from a FAKE coordinator.

use super::*;
use crate::testing::{Fake, lease};

fn asked() -> TokenAsked {
    TokenAsked {
        host: "r.example".into(),
        realm: "https://r.example/token".into(),
        service: "r".into(),
        scopes: vec!["repository:web:pull".into()],
    }
}

async fn lent(answers: Vec<Result<LendTokenResponse, Status>>) -> (Fake, Result<LentToken, Failure>) {
    let fake = Fake::start().await;
    fake.with(|script| script.tokens = answers.into());
    let lent = Lender::new(fake.client(), lease()).lend(asked()).await;
    (fake, lent)
}

#[tokio::test]
async fn what_passes_is_waited_for() {
    let token = LendTokenResponse { token: "t".into(), expires_in: 60, ..Default::default() };
    let (fake, lent) = lent(vec![Err(Status::unavailable("it stops")), Ok(token)]).await;
    let lent = lent.unwrap();
    assert_eq!((lent.token.as_str(), lent.expires_in), ("t", 60));
    let asked = fake.with(|script| script.tokens_asked.clone());
    assert_eq!(asked.len(), 2);
    assert_eq!(
        (asked[1].host.as_str(), &asked[1].scopes[..]),
        ("r.example", &["repository:web:pull".to_owned()][..])
    );
    assert!(asked[1].lease.is_some() && asked[0] == asked[1], "{asked:?}");
}

#[tokio::test]
async fn a_refusal_is_the_users_and_all_else_the_machines() {
    for (status, cause, said) in [
        (Status::permission_denied("r.example refuses it"), Cause::User, "r.example refuses it"),
        (Status::failed_precondition("the lease has ended"), Cause::Infrastructure, "the lease has ended"),
        (Status::unimplemented("?"), Cause::Infrastructure, "update it"),
    ] {
        let failure = lent(vec![Err(status)]).await.1.err().unwrap();
        assert_eq!(failure.cause, cause, "{failure}");
        assert!(failure.message.contains(said), "{failure}");
    }
}

async fn seen(answer: Result<LookUpImageResponse, Status>) -> (Vec<String>, Result<Looked, Failure>) {
    let fake = Fake::start().await;
    fake.with(|script| script.images.push_back(answer));
    let image = "r.example/base:1".parse().unwrap();
    let seen = Lender::new(fake.client(), lease()).look_up(&image).await;
    (fake.with(|script| script.images_asked.clone()), seen)
}

#[tokio::test]
async fn what_a_registry_tells_everybody_is_told() {
    for (public, absent, told) in
        [(true, false, Seen::Readable), (false, true, Seen::Absent), (false, false, Seen::Refused)]
    {
        for reader in ["", "r"] {
            let answer = LookUpImageResponse { public, absent, reader: reader.to_owned() };
            let (asked, seen) = seen(Ok(answer)).await;
            let looked = Looked { seen: told, reader: reader.to_owned() };
            assert_eq!((&asked[..], seen.unwrap()), (&["r.example/base:1".to_owned()][..], looked));
        }
    }
    for (status, cause, said) in [
        (Status::permission_denied("farm doesn't go there"), Cause::User, "farm doesn't go there"),
        (Status::invalid_argument("no login"), Cause::Infrastructure, "r.example/base:1"),
        (Status::unimplemented("?"), Cause::Infrastructure, "update it"),
    ] {
        let failure = seen(Err(status)).await.1.unwrap_err();
        assert_eq!(failure.cause, cause, "{failure}");
        assert!(failure.message.contains(said), "{failure}");
    }
}

#[tokio::test]
async fn a_login_is_lent_for_a_registry_and_a_coordinator_that_lends_none_is_told() {
    let fake = Fake::start().await;
    let lent = LendLoginResponse { username: "u".into(), password: "hush".into() };
    assert!(!format!("{lent:?}").contains("hush"));
    fake.with(|script| {
        script.logins = [Ok(lent), Err(Status::permission_denied("no login any more"))].into()
    });
    let lender = Lender::new(fake.client(), lease());
    let login = lender.lend_login("r.example".into()).await.unwrap();
    assert_eq!(
        (login.host.as_str(), login.username.as_str(), login.password.as_str()),
        ("r.example", "u", "hush")
    );
    let failure = lender.lend_login("r.example".into()).await.unwrap_err();
    assert_eq!((failure.cause, failure.code), (Cause::User, FailureCode::RegistryAuth));
    let failure = lender.lend_login("r.example".into()).await.unwrap_err();
    assert_eq!(failure.cause, Cause::Infrastructure);
    assert!(failure.message.contains("r.example wants a login for itself"), "{failure}");
    assert_eq!(fake.with(|script| script.logins_asked.len()), 3);
}
