//! Which person of the farm somebody is who signs in.

use farm_proto::v1;
use farm_proto::v1::sign_in_service_client::SignInServiceClient;
use farm_tests::client::{Bearer, Client};
use serde_json::json;
use tonic::Code;
use tonic::transport::Endpoint;

use super::world::{person, world};

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_is_one_person_whatever_they_are_called_and_a_name_is_one_subject_s() {
    let world = world();
    let mut door = world.door().await;
    let first = door.sign_in().await.unwrap();
    assert_eq!((first.name.as_str(), first.expires_ms > 0), ("ada", true));
    let who = world.who(&first.secret).await.unwrap();
    assert_eq!((who.kind.as_str(), who.farm_admin, who.memberships.len()), ("person", false, 0));
    // In no project and no admin: nothing but oneself.
    let mut client = Client::with_token(&world.farm, &first.secret).await;
    let list = client.builds.list_builds(v1::ListBuildsRequest::default()).await.unwrap_err();
    assert!(
        list.code() == Code::PermissionDenied && list.message().contains("ada is in no project"),
        "{list}"
    );
    // She marries, and the issuer calls her otherwise; somebody else gets her name.
    person(&world.issuer, "subject-of-ada", "ada.byron", json!([]));
    assert_eq!(door.sign_in().await.unwrap().name, "ada");
    person(&world.issuer, "subject-of-mallory", "Ada", json!(["devs"]));
    let taken = door.sign_in().await.unwrap_err();
    assert_eq!(taken.code(), Code::PermissionDenied);
    assert!(taken.message().contains("farm admin link NAME --subject 'subject-of-mallory'"), "{taken}");
    person(&world.issuer, "subject-of-root", "admin", json!([]));
    let nameless = door.sign_in().await.unwrap_err();
    assert!(nameless.message().contains("a name of farm's own (admin"), "{nameless}");
    assert_eq!(world.sql("SELECT count(*) FROM principals"), "1");
    assert_eq!(world.sql("SELECT count(*) FROM person_subjects"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_was_there_is_taken_over_by_nobody_but_by_an_admin_s_word() {
    let world = world();
    let mut admin = world.admin().await;
    let set = v1::SetMemberRequest { person: "ada".into(), role: "admin".into(), ..Default::default() };
    admin.projects.set_member(set).await.unwrap();
    let mut door = world.door().await;
    let taken = door.sign_in().await.unwrap_err();
    assert!(taken.message().contains("farm admin link ada --subject 'subject-of-ada'"), "{taken}");

    let link = |args: &[&str]| world.farm.cli(&[&["admin", "link"], args].concat());
    let issuer = world.issuer.url();
    let said = link(&["ada", "--subject", "subject-of-ada"]).ok();
    assert_eq!(said.trim(), format!("who signs in at {issuer} as subject-of-ada is ada"));
    assert!(link(&["ada", "--subject", "subject-of-ada"]).ok().contains("is ada already"));
    let other = link(&["bob", "--subject", "subject-of-ada"]);
    assert!(
        other.status == 2 && other.stderr.contains("is ada already; to change that: farm admin unlink ada"),
        "{other:?}"
    );
    let second = link(&["ada", "--subject", "subject-of-eve"]);
    assert!(second.status == 2 && second.stderr.contains("farm admin unlink ada"), "{second:?}");
    let signed_in = door.sign_in().await.unwrap();
    assert_eq!(
        (signed_in.name.as_str(), world.role(&signed_in.secret).await.as_deref()),
        ("ada", Some("admin"))
    );
    let refused = world.farm.cli(&["admin", "link", "ada", "--subject", ""]);
    assert_eq!(refused.status, 2);
    // Nobody else may say so.
    let channel = Endpoint::new(world.farm.url()).unwrap().connect().await.unwrap();
    let bearer = Bearer { token: signed_in.secret.clone(), project: None };
    let mut own_door = SignInServiceClient::with_interceptor(channel, bearer);
    let own = v1::LinkPersonRequest { person: "bob".into(), subject: "subject-of-ada".into() };
    assert_eq!(own_door.link_person(own).await.unwrap_err().code(), Code::PermissionDenied);
    let own = v1::UnlinkPersonRequest { person: "ada".into() };
    assert_eq!(own_door.unlink_person(own).await.unwrap_err().code(), Code::PermissionDenied);

    // Whoever leaves: what they have signed in with ends, with all that was made with it, and they don't come back by themselves.
    let mut ada = Client::with_token(&world.farm, &signed_in.secret).await;
    let made = ada.people.create_token(v1::CreateTokenRequest::default()).await.unwrap().into_inner();
    assert_eq!(made.token.as_ref().unwrap().expires_ms, signed_in.expires_ms);
    let said = world.farm.cli(&["admin", "unlink", "ada"]).ok();
    assert!(said.starts_with("nobody signs in as ada any more; 2 tokens of sign-ins ended"), "{said}");
    for token in [&signed_in.secret, &made.secret] {
        world
            .soon("end", async || {
                (world.who(token).await.err()?.code() == Code::Unauthenticated).then_some(())
            })
            .await;
    }
    assert!(door.sign_in().await.unwrap_err().message().contains("has ended that you are ada here"));
    // By no other name either.
    person(&world.issuer, "subject-of-ada", "ada.byron", json!([]));
    assert!(door.sign_in().await.unwrap_err().message().contains("farm admin link ada"));
    assert!(world.farm.cli(&["admin", "unlink", "ada"]).ok().contains("nobody signed in as ada"));
    let deeds = world.sql(
        "SELECT string_agg(action, ' ' ORDER BY id) FROM audit WHERE action LIKE 'person.%' OR action = 'principal.create'",
    );
    assert_eq!(deeds, "principal.create person.link person.sign_in person.unlink");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_use_of_a_session_is_written_down_before_it_is_answered_and_one_without_ends_as_nobody_s_deed()
 {
    let world = world();
    let mut door = world.door().await;
    let used = "SELECT count(*) FROM tokens WHERE last_used_at IS NOT NULL";
    let (first, lost) = (door.sign_in().await.unwrap(), door.sign_in().await.unwrap());
    assert_eq!(world.sql(used), "0");
    world.who(&first.secret).await.unwrap();
    assert_eq!(world.sql(used), "1");
    world.sql("UPDATE tokens SET revoked_at = farm_now()");
    for (token, part) in [(&lost, ") ended on "), (&first, ") was revoked on ")] {
        let over = world.soon("end", async || world.who(&token.secret).await.err()).await;
        assert!(over.code() == Code::Unauthenticated && over.message().contains(part), "{over}");
        assert_eq!(over.message().contains("without having been used"), part.contains("ended"), "{over}");
    }
    assert_eq!(world.sql(used), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_comes_twice_at_once_for_the_first_time_is_one_person() {
    let world = world();
    let mut entering = Vec::new();
    for _ in 0..8 {
        let mut door = world.door().await;
        let returned = door.returned().await;
        entering.push(async move { door.enter(returned).await.map(|signed_in| signed_in.name) });
    }
    let entered = futures::future::join_all(entering).await;
    assert!(entered.iter().all(|name| name.as_deref().is_ok_and(|name| name == "ada")), "{entered:?}");
    assert_eq!(world.sql("SELECT count(*) FROM principals"), "1");
}
