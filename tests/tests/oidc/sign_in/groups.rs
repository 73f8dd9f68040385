//! What groups give, for how long, and what is left without them.

use farm_proto::v1;
use farm_tests::client::Client;
use serde_json::json;
use tonic::Code;

use super::world::{person, world, world_with};

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_let_in_or_out_counts_within_seconds_and_the_highest_role_does() {
    let world = world();
    let signed_in = world.door().await.sign_in().await.unwrap();
    let token = &signed_in.secret;
    assert_eq!(world.role(token).await, None);
    let member = |args: &[&str]| world.farm.cli(&[&["member"], args].concat());
    let is = async |role: Option<&str>| {
        world.soon("role", async || (world.role(token).await.as_deref() == role).then_some(())).await;
    };
    let said = member(&["set", "--group", "devs", "--role", "builder"]).ok();
    assert_eq!(said.trim(), "whoever has signed in with group devs is builder of project default");
    is(Some("builder")).await;
    // Her own counts if it is higher, and stays when the group goes.
    member(&["set", "ada", "--role", "viewer"]).ok();
    is(Some("builder")).await;
    member(&["set", "ada", "--role", "publisher"]).ok();
    is(Some("publisher")).await;
    member(&["set", "--group", "devs", "--role", "admin"]).ok();
    is(Some("admin")).await;
    let listed = member(&["ls"]).ok();
    assert!(
        listed.contains("ada     person  publisher") && listed.contains("devs    group   admin"),
        "{listed}"
    );
    assert_eq!(member(&["ls", "--json"]).json()["members"][1]["kind"], "group");
    // Who has signed in is told, and of groups and services nothing.
    member(&["set", "bob", "--role", "viewer"]).ok();
    let listed = member(&["ls", "--json"]).json();
    let told = |place: usize| {
        let member = &listed["members"][place];
        (
            member["name"].as_str().unwrap().to_owned(),
            member["linked"].clone(),
            member["signed_in"].is_string(),
        )
    };
    assert_eq!(told(0), ("ada".into(), true.into(), true));
    assert_eq!(told(1), ("bob".into(), false.into(), false));
    assert_eq!(told(2), ("devs".into(), serde_json::Value::Null, false));
    let listed = member(&["ls"]).ok();
    assert!(listed.contains("SIGNED IN") && listed.contains("not linked"), "{listed}");
    world.farm.cli(&["admin", "add", "bob"]).ok();
    world.farm.cli(&["admin", "link", "bob", "--subject", "subject-of-bob"]).ok();
    // When their colleagues work is told to the project's admins, and to nobody else in it.
    let mut ada = Client::with_token(&world.farm, token).await;
    let mut listed = async || {
        let listed = ada.projects.list_members(v1::ListMembersRequest {}).await.unwrap().into_inner();
        let told = listed.members.iter().filter(|member| member.linked || member.signed_in_ms > 0).count();
        (listed.members.len(), told, listed.issuer)
    };
    assert_eq!(listed().await, (3, 2, world.issuer.url()));
    member(&["set", "--group", "devs", "--role", "viewer"]).ok();
    is(Some("publisher")).await;
    assert_eq!(listed().await, (3, 0, String::new()));
    member(&["set", "--group", "devs", "--role", "admin"]).ok();
    let admins = world.farm.cli(&["admin", "ls"]).ok();
    assert!(admins.contains("bob  (signed in: linked, never)"), "{admins}");
    let admins = world.farm.cli(&["admin", "ls", "--json"]).json();
    let bob = &admins["admins"][0];
    assert_eq!((&bob["linked"], &bob["signed_in"]), (&true.into(), &serde_json::Value::Null));
    world.farm.cli(&["admin", "rm", "bob"]).ok();
    member(&["rm", "bob"]).ok();
    member(&["rm", "--group", "devs"]).ok();
    is(Some("publisher")).await;
    member(&["rm", "ada"]).ok();
    is(None).await;
    let gone = member(&["rm", "--group", "devs"]);
    assert!(gone.status == 2 && gone.stderr.contains("no group \"devs\" is in project default"), "{gone:?}");
    // A group's name is no person's.
    member(&["set", "--group", "ada", "--role", "admin"]).ok();
    assert_eq!(world.role(token).await, None);
    for wrong in
        [&["set", "--role", "viewer"][..], &["set", "bob", "--group", "devs", "--role", "viewer"], &["rm"]]
    {
        assert_eq!(member(wrong).status, 2);
    }
    let deeds = world.sql("SELECT string_agg(action || ' ' || subject, ', ' ORDER BY id) FROM audit WHERE action LIKE 'group.%'");
    assert_eq!(
        deeds,
        "group.set devs, group.set devs, group.set devs, group.set devs, group.remove devs, group.set ada"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_groups_give_ends_with_the_sign_in_whatever_was_made_with_it() {
    let world = world();
    world.farm.cli(&["member", "set", "--group", "devs", "--role", "admin"]).ok();
    let signed_in = world.door().await.sign_in().await.unwrap();
    let mut ada = Client::with_token(&world.farm, &signed_in.secret).await;
    // A token of her own gives the same and ends with it; with a scope less; one that an admin gives her has no groups.
    let scope = Some(v1::TokenScope { lives_seconds: 90 * 86_400, ..Default::default() });
    let request = v1::CreateTokenRequest { scope, label: "long".into() };
    let long = ada.people.create_token(request).await.unwrap().into_inner();
    assert_eq!(long.token.as_ref().unwrap().expires_ms, signed_in.expires_ms);
    assert_eq!(world.role(&long.secret).await.as_deref(), Some("admin"));
    let scope = Some(v1::TokenScope { role: "viewer".into(), ..Default::default() });
    let less = ada
        .people
        .create_token(v1::CreateTokenRequest { scope, ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(world.role(&less.secret).await.as_deref(), Some("viewer"));
    let mut admin = world.admin().await;
    let request = v1::CreatePersonTokenRequest { person: "ada".into(), ..Default::default() };
    let given = admin.people.create_person_token(request).await.unwrap().into_inner();
    assert_eq!(world.role(&given.secret).await, None);
    // And nothing is repeated in her name that her sign-in alone allows.
    let mirror = v1::AddMirrorRequest {
        source: "r.example/a:1".into(),
        destination: "127.0.0.1:9/a:1".into(),
        every_seconds: 3600,
        ..Default::default()
    };
    let refused = ada.mirrors.add_mirror(mirror).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("farm member set ada --role builder"), "{refused}");
    // What she lets in as its admin is there without her.
    let request =
        v1::CreateServiceTokenRequest { service: "ci".into(), role: "builder".into(), ..Default::default() };
    let ci = ada.people.create_service_token(request).await.unwrap().into_inner();

    world.sql("UPDATE tokens SET expires_at = farm_now() - interval '1 second' WHERE id IN (SELECT token_id FROM sign_ins)");
    for token in [&signed_in.secret, &long.secret, &less.secret] {
        let over = world.soon("end", async || world.who(token).await.err()).await;
        assert!(
            over.code() == Code::Unauthenticated && over.message().starts_with("your sign-in ("),
            "{over}"
        );
    }
    assert_eq!(world.who(&given.secret).await.unwrap().name, "ada");
    assert_eq!(world.role(&ci.secret).await.as_deref(), Some("builder"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_signs_in_with_a_group_of_admins_is_an_admin_of_the_farm_until_the_sign_in_ends() {
    let world = world_with("session_hours = 1", |farm| farm);
    person(&world.issuer, "subject-of-linus", "linus", json!(["ops", "devs"]));
    let mut door = world.door().await;
    let signed_in = door.sign_in().await.unwrap();
    let who = world.who(&signed_in.secret).await.unwrap();
    assert!(who.farm_admin && who.sign_in.unwrap().groups == ["devs", "ops"]);
    let mut linus = Client::with_token(&world.farm, &signed_in.secret).await;
    let web = v1::CreateProjectRequest { name: "web".into(), admin: String::new() };
    linus.projects.create_project(web).await.unwrap();
    let left = "SELECT round(extract(epoch FROM expires_at - farm_now()) / 60) FROM tokens";
    let left: i64 = world.sql(left).parse().unwrap();
    assert!((59..=60).contains(&left), "{left}");
    let listed = world.farm.cli(&["admin", "ls"]).ok();
    assert!(listed.contains("ops  (a group; who is in it, while signed in)"), "{listed}");
    // A token with a scope makes nobody one, and without the group the next sign-in neither.
    let scope = Some(v1::TokenScope { role: "admin".into(), ..Default::default() });
    let less =
        linus.people.create_token(v1::CreateTokenRequest { scope, ..Default::default() }).await.unwrap();
    assert!(!world.who(&less.into_inner().secret).await.unwrap().farm_admin);
    person(&world.issuer, "subject-of-linus", "linus", json!(["devs"]));
    let next = door.sign_in().await.unwrap();
    assert!(!world.who(&next.secret).await.unwrap().farm_admin);
    assert!(world.who(&signed_in.secret).await.unwrap().farm_admin);
    let mut admin = world.admin().await;
    admin.people.revoke_token(v1::RevokeTokenRequest { token: signed_in.secret.clone() }).await.unwrap();
    world.soon("end", async || world.who(&signed_in.secret).await.err()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farm_that_has_people_sign_in_elsewhere_takes_no_sign_in_of_before() {
    let world = world();
    let signed_in = world.door().await.sign_in().await.unwrap();
    world.who(&signed_in.secret).await.unwrap();
    let none = farm_tests::farm::Farm::builder().database_url(world.farm.database_url()).start();
    let mut ada = Client::with_token(&none, &signed_in.secret).await;
    let refused = ada.people.who_am_i(v1::WhoAmIRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("people don't sign in at"), "{refused}");
}
