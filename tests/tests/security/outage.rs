//! Who may call while the database doesn't answer.

use std::time::Duration;

use farm_proto::v1;
use farm_tests::client::Client;
use farm_tests::database::Database;
use farm_tests::farm::Farm;
use farm_tests::line::{Line, Wrong};
use tonic::Code;

use crate::team;

/// A call that the database isn't asked for is answered within.
const LONG: Duration = Duration::from_secs(60);

/// What is known of callers doesn't hold for ever.
#[tokio::test(flavor = "multi_thread")]
async fn after_the_grace_nobody_is_known_without_the_database() {
    let database = Database::create();
    let line = Line::to(database.url());
    let config = "identity_grace_seconds = 1";
    let farm = Farm::builder().database_url(&line.url(database.url())).config(config).start();
    team::project(&farm, "web").await;
    let token = team::person(&farm, "ada", "web", "builder").await;
    let mut ada = Client::with_token(&farm, &token).await;
    ada.people.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
    line.harm(Wrong::Silent);
    let refused = tokio::time::timeout(LONG, async {
        loop {
            if let Err(status) = ada.people.who_am_i(v1::WhoAmIRequest {}).await {
                return status;
            }
        }
    });
    let status = refused.await.expect("she is known for ever");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    line.mend(false);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_database_whoever_was_known_goes_on_and_nobody_is_told_that_a_token_is_wrong() {
    let database = Database::create();
    let line = Line::to(database.url());
    let farm = Farm::builder()
        .database_url(&line.url(database.url()))
        .config("identity_grace_seconds = 600")
        .start();
    team::project(&farm, "web").await;
    let known = team::person(&farm, "ada", "web", "builder").await;
    let fresh = team::person(&farm, "bob", "web", "builder").await;
    let mut ada = Client::with_token(&farm, &known).await;
    ada.people.who_am_i(v1::WhoAmIRequest {}).await.unwrap();

    line.harm(Wrong::Silent);
    let who = async |client: &mut Client| {
        let asked = client.people.who_am_i(v1::WhoAmIRequest {});
        tokio::time::timeout(LONG, asked).await.expect("no answer").map(|answer| answer.into_inner().name)
    };
    for _ in 0..3 {
        assert_eq!(who(&mut ada).await.unwrap(), "ada");
    }
    assert_eq!(who(&mut Client::connect(&farm).await).await.unwrap(), "admin");
    for token in [&fresh, &format!("farm_p_{}", "0".repeat(64))] {
        let status = who(&mut Client::with_token(&farm, token).await).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.message().contains("can't tell who you are"), "{}", status.message());
    }
    line.mend(false);
    let back = tokio::time::timeout(LONG, async {
        while who(&mut Client::with_token(&farm, &fresh).await).await.is_err() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    back.await.expect("it stays away");
}
