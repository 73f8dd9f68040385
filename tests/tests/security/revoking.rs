//! A token that is revoked counts no more within seconds, on every coordinator and on calls that are under way.

use std::time::{Duration, Instant};

use farm_proto::v1;
use farm_tests::client::Client;
use farm_tests::database::psql;
use farm_tests::farm::Farm;
use tonic::Code;

use crate::team;

/// What is promised.
const PROMISED: Duration = Duration::from_secs(5);
/// A test gives up after so long, which says more than a failed assertion on a machine that is busy.
const LONG: Duration = Duration::from_secs(30);

async fn revoke(farm: &Farm, token: &str) -> Vec<v1::Token> {
    let mut admin = Client::connect(farm).await;
    let request = v1::RevokeTokenRequest { token: token.to_owned() };
    admin.people.revoke_token(request).await.unwrap().into_inner().tokens
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_is_refused_everywhere_soon_and_ends_what_is_under_way() {
    let farm = Farm::builder().coordinators(2).start();
    team::project(&farm, "web").await;
    let mut owner = Client::within(&farm, &farm.token(), Some("web")).await;
    let snapshot = owner.upload("FROM scratch").await;
    let build = owner.submit(&snapshot, "waits", &["linux/amd64"]).await.id;
    let mut told = Vec::new();
    for round in 0..3 {
        let token = team::person(&farm, "ada", "web", "builder").await;
        let mut calls = Client::with_token(&farm, &token).await;
        let mut watches = Client::with_token(&farm, &token).await;
        let mut uploads = Client::with_token(&farm, &token).await;
        calls.people.who_am_i(v1::WhoAmIRequest {}).await.unwrap();
        let watch = v1::WatchBuildRequest { build_id: build.clone(), follow: true, ..Default::default() };
        let mut watching = watches.builds.watch_build(watch).await.unwrap().into_inner();
        watching.message().await.unwrap();
        // An upload of which nothing comes any more.
        let upload =
            tokio::spawn(
                async move { uploads.snapshots.upload_objects(tokio_stream::pending()).await.map(drop) },
            );

        revoke(&farm, &token).await;
        let revoked = Instant::now();
        let refused = async {
            loop {
                if let Err(status) = calls.people.who_am_i(v1::WhoAmIRequest {}).await {
                    return (status, revoked.elapsed());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let cut = async {
            loop {
                match watching.message().await {
                    Ok(Some(_)) => {}
                    ended => return (ended.expect_err("it ended as if all were well"), revoked.elapsed()),
                }
            }
        };
        let cut_upload = async { (upload.await.unwrap().expect_err("nothing was sent"), revoked.elapsed()) };
        let ended = tokio::time::timeout(LONG, async { tokio::join!(refused, cut, cut_upload) }).await;
        let (refused, cut, cut_upload) = ended.unwrap_or_else(|_| panic!("round {round}: it still counts"));
        for (status, _) in [&refused, &cut, &cut_upload] {
            assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
            let text = status.message();
            assert!(text.contains("of ada was revoked on") && text.contains("farm token create"), "{text}");
        }
        told.extend([refused.1, cut.1, cut_upload.1]);
    }
    told.sort();
    println!("revoking median={:?} worst={:?} n={}", told[told.len() / 2], told[told.len() - 1], told.len());
    assert!(told[told.len() - 1] < PROMISED, "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_with_a_token_ends_with_it_and_reaches_no_further() {
    let farm = Farm::builder().start();
    for name in ["web", "api"] {
        team::project(&farm, name).await;
    }
    team::join(&farm, "ada", "api", "admin").await;
    team::join(&farm, "ada", "web", "admin").await;
    let scope = v1::TokenScope { project: "web".into(), role: "builder".into(), lives_seconds: 600 };
    let first = team::token(&farm, "ada", scope).await;
    let mut ada = Client::with_token(&farm, &first).await;
    let wide = v1::TokenScope { project: "".into(), role: "admin".into(), lives_seconds: 0 };
    let request = v1::CreateTokenRequest { scope: Some(wide), label: "more".into() };
    let second = ada.people.create_token(request).await.unwrap().into_inner();
    let token = second.token.unwrap();
    let scope = token.scope.unwrap();
    assert_eq!((scope.project.as_str(), scope.role.as_str()), ("web", "builder"));
    assert!(token.expires_ms > 0, "it would outlive the one that it was made with");
    let mut again = Client::with_token(&farm, &second.secret).await;
    let who = again.people.who_am_i(v1::WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!(who.memberships, [v1::Membership { project: "web".into(), role: "builder".into() }]);

    // By a token with a scope nobody sees tokens that reach further, nor ends them.
    let whole = team::token(&farm, "ada", v1::TokenScope::default()).await;
    let listed = ada.people.list_tokens(v1::ListTokensRequest {}).await.unwrap().into_inner();
    assert!(listed.tokens.is_empty(), "{listed:?}");
    let refused = ada.people.revoke_token(v1::RevokeTokenRequest { token: whole }).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let ended = revoke(&farm, &first).await;
    assert_eq!(ended.len(), 2, "{ended:?}");
    let refused = tokio::time::timeout(LONG, async {
        while again.people.who_am_i(v1::WhoAmIRequest {}).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    refused.await.expect("it still counts");
    let rows = psql(farm.database_url(), "SELECT count(*) FROM audit WHERE action = 'token.revoke'");
    assert_eq!(rows, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_was_taken_out_is_another_one_when_it_comes_back() {
    let farm = Farm::builder().start();
    team::project(&farm, "web").await;
    let first = team::service(&farm, "ci", "web", "builder").await;
    let mut web = Client::within(&farm, &farm.token(), Some("web")).await;
    web.projects
        .remove_member(v1::RemoveMemberRequest { name: "web/ci".to_owned(), ..Default::default() })
        .await
        .unwrap();
    let second = team::service(&farm, "ci", "web", "builder").await;
    let (mut old, mut new) =
        (Client::with_token(&farm, &first).await, Client::with_token(&farm, &second).await);
    new.builds.list_builds(v1::ListBuildsRequest::default()).await.unwrap();
    let refused = old.builds.list_builds(v1::ListBuildsRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    // So it is when the project itself is another one.
    let mut admin = Client::connect(&farm).await;
    admin.projects.remove_project(v1::RemoveProjectRequest { name: "web".to_owned() }).await.unwrap();
    team::project(&farm, "web").await;
    let third = team::service(&farm, "ci", "web", "viewer").await;
    let mut newest = Client::with_token(&farm, &third).await;
    newest.builds.list_builds(v1::ListBuildsRequest::default()).await.unwrap();
    let gone = tokio::time::timeout(LONG, async {
        while new.builds.list_builds(v1::ListBuildsRequest::default()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    gone.await.expect("the old project's service got into the new one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_on_in_its_own_project_or_nowhere() {
    let farm = Farm::builder().start();
    for name in ["web", "api"] {
        team::project(&farm, name).await;
    }
    let token = team::person(&farm, "ada", "web", "builder").await;
    let mut ada = Client::with_token(&farm, &token).await;
    let snapshot = ada.upload("FROM scratch").await;
    let build_id = ada.submit(&snapshot, "waits", &["linux/amd64"]).await.id;
    let watch = v1::WatchBuildRequest { build_id, follow: true, ..Default::default() };
    let mut watching = ada.builds.watch_build(watch).await.unwrap().into_inner();
    watching.message().await.unwrap();
    // Her only project is another one from now on, and she has not said which she means.
    team::join(&farm, "ada", "api", "builder").await;
    let mut web = Client::within(&farm, &farm.token(), Some("web")).await;
    web.projects
        .remove_member(v1::RemoveMemberRequest { name: "ada".to_owned(), ..Default::default() })
        .await
        .unwrap();
    let ended = tokio::time::timeout(LONG, async {
        loop {
            match watching.message().await {
                Ok(Some(_)) => {}
                ended => return ended.expect_err("it ended as if all were well"),
            }
        }
    });
    assert_eq!(ended.await.expect("it goes on").code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_taken_back_ends_what_it_allowed() {
    let farm = Farm::builder().start();
    team::project(&farm, "web").await;
    let token = team::person(&farm, "ada", "web", "builder").await;
    let mut ada = Client::with_token(&farm, &token).await;
    let upload = v1::OpenUploadRequest::default();
    ada.snapshots.open_upload(upload.clone()).await.unwrap();
    team::join(&farm, "ada", "web", "viewer").await;
    let refused = tokio::time::timeout(LONG, async {
        loop {
            if let Err(status) = ada.snapshots.open_upload(upload.clone()).await {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let status = refused.await.expect("it still counts");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(
        status.message(),
        "ada is viewer of project web; to submit builds needs builder. An admin of web can give that: farm member set ada \
         --role builder --project web"
    );
}
