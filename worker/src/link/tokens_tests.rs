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

async fn seen(answer: Result<LookUpImageResponse, Status>) -> (Vec<String>, Result<Seen, Failure>) {
    let fake = Fake::start().await;
    fake.with(|script| script.images.push_back(answer));
    let image = "r.example/base:1".parse().unwrap();
    let seen = Lender::new(fake.client(), lease()).look_up(&image).await;
    (fake.with(|script| script.images_asked.clone()), seen)
}

#[tokio::test]
async fn what_a_registry_tells_everybody_is_told() {
    for (public, absent, told) in
        [(true, false, Seen::Public), (false, true, Seen::Absent), (false, false, Seen::Refused)]
    {
        let (asked, seen) = seen(Ok(LookUpImageResponse { public, absent })).await;
        assert_eq!((&asked[..], seen.unwrap()), (&["r.example/base:1".to_owned()][..], told));
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
