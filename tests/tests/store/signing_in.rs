//! Persons who sign in: whose a subject is, and what is left of a sign-in.

use std::time::Duration;

use farm_store::people::audit::By;
use farm_store::people::principals::SignInState;
use farm_store::people::sign_in::{Arrival, Entry, Link};
use farm_store::people::tokens::{Holder, NewToken};
use farm_tests::session::Session;
use farm_types::{Digest, PrincipalName, Role};

use crate::fixture::{World, world};
use crate::interleavings::stopped;

const ISSUER: &str = "https://sso.example";
const HOURS: Duration = Duration::from_secs(12 * 3600);

fn linus() -> By {
    By { name: "linus".to_owned(), token_hint: String::new(), address: String::new() }
}

/// Somebody whom the issuer calls ada comes with a token.
async fn comes(world: &World, subject: &str, token: &str) -> Entry {
    let name: PrincipalName = "ada".parse().unwrap();
    let groups = ["devs".to_owned()];
    let arrival = Arrival {
        issuer: ISSUER,
        subject,
        name: Some(&name),
        groups: &groups,
        digest: Digest::of(token.as_bytes()),
        hint: token,
        label: "sign-in",
        lives: HOURS,
        address: "192.0.2.7",
    };
    world.store.sign_in(&arrival).await.unwrap()
}

fn is_in(entry: &Entry) -> bool {
    matches!(entry, Entry::In { name, .. } if name == "ada")
}

#[tokio::test]
async fn a_sign_in_beside_an_unlinking_ends_with_it_or_lets_nobody_in() {
    let world = world().await;
    assert!(is_in(&comes(&world, "1", "a").await));
    let mut sessions = [Session::open(world.database.url()), Session::open(world.database.url())];
    let hold = "SELECT subject FROM person_subjects WHERE subject = '1' FOR UPDATE";
    let by = linus();
    let unlink = world.store.unlink_person(&by, "ada");
    let (came, unlinked) = stopped(&mut sessions, hold, comes(&world, "1", "b"), unlink).await;
    assert!(is_in(&came), "{came:?}");
    assert_eq!(unlinked.unwrap(), Some(2));
    let counts = "SELECT count(*) FROM tokens WHERE revoked_at IS NULL";
    assert_eq!(world.database.psql(counts), "0");

    assert_eq!(world.store.link_person(&by, "ada", ISSUER, "1").await.unwrap(), Link::Made);
    let unlink = world.store.unlink_person(&by, "ada");
    let (unlinked, came) = stopped(&mut sessions, hold, unlink, comes(&world, "1", "c")).await;
    assert_eq!((unlinked.unwrap(), came), (Some(0), Entry::Ended("ada".to_owned())));
    assert_eq!(world.database.psql(counts), "0");
}

#[tokio::test]
async fn whoever_was_unlinked_is_nobody_by_another_name_either_and_what_they_made_ends_with_it() {
    let world = world().await;
    let by = linus();
    assert_eq!(world.store.link_person(&by, "lovelace", ISSUER, "1").await.unwrap(), Link::Made);
    assert!(matches!(comes(&world, "1", "a").await, Entry::In { name, .. } if name == "lovelace"));
    let shown = async |token: &str| world.store.shown_by(Digest::of(token.as_bytes())).await.unwrap();
    let mut parent = shown("a").await.unwrap().token;
    for token in ["own", "bob"] {
        let new = NewToken {
            holder: Holder::Person(token),
            digest: Digest::of(token.as_bytes()),
            hint: token,
            label: "",
            project: None,
            role: None,
            parent: Some(parent),
            lives: None,
        };
        parent = world.store.create_token(&by, &new).await.unwrap().id;
    }
    assert_eq!(world.store.unlink_person(&by, "lovelace").await.unwrap(), Some(3));
    assert!(shown("bob").await.unwrap().revoked_at.is_some());
    // The issuer calls them ada, a name that nobody has here.
    assert_eq!(comes(&world, "1", "b").await, Entry::Ended("lovelace".to_owned()));
    assert_eq!(world.store.unlink_person(&by, "lovelace").await.unwrap(), None);
    // Meanwhile the name is another's, and the subject may be somebody else.
    assert_eq!(world.store.link_person(&by, "lovelace", ISSUER, "2").await.unwrap(), Link::Made);
    assert_eq!(
        world.store.link_person(&by, "lovelace", ISSUER, "1").await.unwrap(),
        Link::ToAnother("2".to_owned())
    );
    assert_eq!(world.store.link_person(&by, "ada", ISSUER, "1").await.unwrap(), Link::Made);
    assert!(is_in(&comes(&world, "1", "c").await));
}

#[tokio::test]
async fn who_has_signed_in_at_an_issuer_is_told_of_members_and_admins() {
    let world = world().await;
    let by = linus();
    let project = farm_store::default_project();
    for name in ["ada", "bob", "eve"] {
        world.store.set_farm_admin(&by, name, true).await.unwrap();
        world.store.set_member(&by, project, name, Role::Viewer).await.unwrap();
    }
    world.store.link_person(&by, "ada", ISSUER, "1").await.unwrap();
    world.store.link_person(&by, "eve", ISSUER, "2").await.unwrap();
    world.store.link_person(&by, "bob", "https://another.example", "3").await.unwrap();
    // Of the issuer that is asked about: who is linked, and whether they have signed in.
    let told = async |issuer: Option<&str>| {
        let members = world.store.members(project, issuer).await.unwrap();
        let members: Vec<_> = members.into_iter().map(|member| (member.name, member.sign_in)).collect();
        assert_eq!(world.store.farm_admins(issuer).await.unwrap(), members);
        let state = |(name, state): (String, SignInState)| (name, state.is_linked, state.last.is_some());
        members.into_iter().map(state).collect::<Vec<_>>()
    };
    let is = |name: &str, is_linked, has_signed_in| (name.to_owned(), is_linked, has_signed_in);
    assert!(is_in(&comes(&world, "1", "a").await));
    assert_eq!(
        told(Some(ISSUER)).await,
        [is("ada", true, true), is("bob", false, false), is("eve", true, false)]
    );
    assert_eq!(told(None).await, [is("ada", false, false), is("bob", false, false), is("eve", false, false)]);
    // The last time counts; who is unlinked is no more.
    let last = async || world.store.farm_admins(Some(ISSUER)).await.unwrap()[0].1.last.unwrap();
    let first = last().await;
    world.pass("1 hour");
    assert!(is_in(&comes(&world, "1", "b").await));
    assert_eq!((last().await - first).num_minutes(), 60);
    world.store.unlink_person(&by, "ada").await.unwrap();
    assert_eq!(told(Some(ISSUER)).await[0], is("ada", false, false));
    // Who is linked again hasn't signed in as who they are from then on.
    assert_eq!(world.store.link_person(&by, "bob", ISSUER, "1").await.unwrap(), Link::Made);
    assert_eq!(told(Some(ISSUER)).await[1], is("bob", true, false));
}

#[tokio::test]
async fn several_sign_ins_of_one_person_at_once_are_all_let_in() {
    let world = world().await;
    assert!(is_in(&comes(&world, "1", "first").await));
    let tokens: Vec<String> = (0..8).map(|number| format!("at once {number}")).collect();
    let came = futures::future::join_all(tokens.iter().map(|token| comes(&world, "1", token))).await;
    assert!(came.iter().all(is_in), "{came:?}");
    assert_eq!(world.database.psql("SELECT count(*) FROM sign_ins"), "9");
}

#[tokio::test]
async fn a_sign_in_that_nobody_uses_ends_and_one_that_was_used_goes_on() {
    let world = world().await;
    let quarter = Duration::from_secs(15 * 60);
    let ends = async || world.store.end_unused_sign_ins(world.epoch, quarter).await.unwrap();
    let shown =
        async |token: &str| world.store.shown_by(Digest::of(token.as_bytes())).await.unwrap().unwrap();
    for token in ["lost", "used"] {
        assert!(is_in(&comes(&world, "1", token).await));
    }
    world.store.note_used(&[shown("used").await.token]).await.unwrap();
    assert!(shown("used").await.is_used && !shown("lost").await.is_used);
    // An admin's token may wait for its holder for as long as it likes.
    let new = NewToken {
        holder: Holder::Person("bob"),
        digest: Digest::of(b"bob"),
        hint: "bob",
        label: "",
        project: None,
        role: None,
        parent: None,
        lives: None,
    };
    world.store.create_token(&linus(), &new).await.unwrap();
    world.pass("14 minutes");
    assert_eq!(ends().await, 0);
    world.pass("2 minutes");
    assert_eq!((ends().await, ends().await), (1, 0));
    assert!(shown("lost").await.revoked_at.is_some());
    assert!(shown("used").await.revoked_at.is_none() && shown("bob").await.revoked_at.is_none());
}

#[tokio::test]
async fn what_is_made_with_a_sign_in_has_its_groups_and_is_forgotten_with_it_a_month_later() {
    let world = world().await;
    assert!(is_in(&comes(&world, "1", "a").await));
    let shown = async |token: &str| world.store.shown_by(Digest::of(token.as_bytes())).await.unwrap();
    let ada = shown("a").await.unwrap();
    let new = |holder, token: &'static str| NewToken {
        holder,
        digest: Digest::of(token.as_bytes()),
        hint: token,
        label: "",
        project: None,
        role: None,
        parent: Some(ada.token),
        lives: None,
    };
    let own = world.store.create_token(&linus(), &new(Holder::Known(ada.principal.id), "own")).await.unwrap();
    assert_eq!(own.expires_at, ada.expires_at);
    assert_eq!(shown("own").await.unwrap().sign_in, ada.sign_in);
    assert_eq!(ada.sign_in.unwrap().groups, ["devs"]);
    // Of whatever else is made with it, nobody has the groups.
    world.store.create_token(&linus(), &new(Holder::Person("bob"), "bob")).await.unwrap();
    assert_eq!(shown("bob").await.unwrap().sign_in, None);

    world.pass("30 days");
    assert_eq!(world.store.forget_exchanged_tokens(world.epoch, 10).await.unwrap(), 0);
    world.pass("13 hours");
    while world.store.forget_exchanged_tokens(world.epoch, 1).await.unwrap() > 0 {}
    assert_eq!(world.database.psql("SELECT count(*) FROM sign_ins"), "0");
    assert!(shown("a").await.is_none() && shown("own").await.is_none());
}
