//! Trusts, and tokens that are taken once.

use std::time::Duration;

use chrono::TimeDelta;
use farm_store::people::audit::By;
use farm_store::people::principals::JobClaims;
use farm_store::people::replay::{Taken, Use};
use farm_store::people::trust::NewTrust;
use farm_store::{StoreError, default_project};
use farm_types::{Digest, ProjectId, Role};
use serde_json::json;
use uuid::Uuid;

use crate::fixture::{World, world};
use crate::interleavings::stopped;
use farm_tests::session::Session;

const ISSUER: &str = "https://issuer.example";

fn new() -> NewTrust {
    NewTrust {
        project: default_project(),
        issuer: ISSUER.to_owned(),
        audience: "farm".to_owned(),
        provider: "github".to_owned(),
        name: "acme/app".to_owned(),
        claims: json!({"repository_id": ["74"]}),
        role: Role::Publisher,
    }
}

fn by() -> By {
    By { name: "ada".to_owned(), token_hint: "farm_p_01234".to_owned(), address: "192.0.2.7".to_owned() }
}

async fn added(world: &World, new: &NewTrust) -> Uuid {
    world.store.add_trust(&by(), new).await.unwrap().id
}

/// What becomes of an issuer's token that is to be taken by a trust.
async fn used_of(world: &World, issuer: &str, trust: Uuid, token: &str) -> &'static str {
    let taken = Taken {
        issuer,
        identity: token,
        until: world.store.now().await.unwrap() + TimeDelta::seconds(300),
        project: default_project(),
        trust,
        role: Role::Publisher,
        principal: "issuer.example repository_id=74",
        shown_as: "github:acme/app@refs/heads/main",
        digest: Digest::of(token.as_bytes()),
        hint: "farm_o_01234",
        lives: Duration::from_secs(900),
        address: "192.0.2.8",
        claims: &JobClaims { full_ref: Some("refs/heads/main".to_owned()), event: None },
    };
    match world.store.exchange_token(&taken).await.unwrap() {
        Use::First(_) => "first",
        Use::Again => "again",
        Use::Revoked => "revoked",
    }
}

async fn used(world: &World, trust: Uuid, token: &str) -> &'static str {
    used_of(world, ISSUER, trust, token).await
}

fn seen(world: &World) -> String {
    world.database.psql("SELECT string_agg(jti, ' ' ORDER BY jti) FROM seen_tokens")
}

#[tokio::test]
async fn a_trust_is_read_as_it_was_added_by_its_project_only() {
    let world = world().await;
    let other = Uuid::now_v7();
    world.database.psql(&format!("INSERT INTO projects (id, name) VALUES ('{other}', 'other')"));
    let id = added(&world, &new()).await;
    let trusts = world.store.trusts(default_project()).await.unwrap();
    let [trust] = &trusts[..] else { panic!("{trusts:?}") };
    assert_eq!((trust.id, trust.role, &trust.claims), (id, Role::Publisher, &new().claims));
    assert_eq!(
        (trust.name.as_str(), trust.created_by.as_str(), trust.last_used_at),
        ("acme/app", "ada", None)
    );
    assert_eq!(world.store.trusts_of_issuer("default", ISSUER).await.unwrap(), trusts);
    for (project, issuer) in [("other", ISSUER), ("nothing", ISSUER), ("default", "https://issuer.example/")]
    {
        assert_eq!(world.store.trusts_of_issuer(project, issuer).await.unwrap(), []);
    }
    assert_eq!(world.store.trusts(other.into()).await.unwrap(), []);
    let elsewhere = NewTrust { project: other.into(), audience: "elsewhere".to_owned(), ..new() };
    added(&world, &elsewhere).await;
    assert_eq!(world.store.trusted_audiences(ISSUER).await.unwrap(), ["elsewhere", "farm"]);
    // Only who has it can revoke it.
    let theirs = world.store.revoke_trust(&by(), ProjectId::from(other), id).await;
    assert!(matches!(theirs, Err(StoreError::NotFound("trust"))));
    world.store.revoke_trust(&by(), default_project(), id).await.unwrap();
    assert_eq!(world.store.trusts(default_project()).await.unwrap(), []);
    assert_eq!(world.store.trusted_audiences(ISSUER).await.unwrap(), ["elsewhere"]);
}

#[tokio::test]
async fn what_makes_no_sense_as_a_trust_is_refused_by_the_database() {
    let world = world().await;
    for wrong in [
        NewTrust { claims: json!({}), ..new() },
        NewTrust { claims: json!([]), ..new() },
        NewTrust { provider: "gitbub".to_owned(), ..new() },
        NewTrust { issuer: "issuer.example".to_owned(), ..new() },
        NewTrust { audience: String::new(), ..new() },
        NewTrust { project: Uuid::now_v7().into(), ..new() },
    ] {
        assert!(world.store.add_trust(&by(), &wrong).await.is_err(), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_token_is_taken_once_for_all_projects_and_each_issuer_has_its_own() {
    let world = world().await;
    let trust = added(&world, &new()).await;
    assert_eq!(used(&world, trust, "a").await, "first");
    assert!(world.store.trusts(default_project()).await.unwrap()[0].last_used_at.is_some());
    assert_eq!(used(&world, trust, "a").await, "again");
    assert_eq!(used(&world, trust, "b").await, "first");
    let elsewhere = NewTrust { issuer: "https://other.example".to_owned(), ..new() };
    let elsewhere = added(&world, &elsewhere).await;
    // By a trust in another issuer, or one that is no more, it isn't taken.
    assert_eq!(used(&world, elsewhere, "c").await, "revoked");
    world.database.psql("DELETE FROM tokens");
    assert_eq!(used_of(&world, "https://other.example", elsewhere, "a").await, "first");
    world.store.revoke_trust(&by(), default_project(), trust).await.unwrap();
    assert_eq!(used(&world, trust, "c").await, "revoked");
    assert_eq!(seen(&world), "a a b");
}

#[tokio::test]
async fn what_was_given_by_a_trust_ends_with_it_and_with_its_project_and_is_forgotten_a_day_later() {
    let world = world().await;
    let trusts = [added(&world, &new()).await, added(&world, &new()).await];
    for (trust, token) in trusts.into_iter().zip(["a", "b"]) {
        assert_eq!(used(&world, trust, token).await, "first");
    }
    let shown =
        async |token: &str| world.store.shown_by(Digest::of(token.as_bytes())).await.unwrap().unwrap();
    let a = shown("a").await;
    assert_eq!(a.principal.name, "github:acme/app@refs/heads/main");
    assert_eq!((a.memberships.len(), a.memberships[0].role), (1, Role::Publisher));
    assert_eq!(shown("b").await.principal.id, a.principal.id);
    world.store.revoke_trust(&by(), default_project(), trusts[0]).await.unwrap();
    assert!(shown("a").await.revoked_at.is_some() && shown("b").await.revoked_at.is_none());
    let deeds = world
        .database
        .psql("SELECT string_agg(action, ' ' ORDER BY id) FROM audit WHERE project_id IS NOT NULL");
    assert_eq!(deeds, "trust.add trust.add token.exchange token.exchange trust.remove");

    let project: ProjectId = world.store.create_project(&by(), &"web".parse().unwrap(), None).await.unwrap();
    added(&world, &NewTrust { project, ..new() }).await;
    assert_eq!(world.store.trusts_of_issuer("web", ISSUER).await.unwrap().len(), 1);
    world.store.remove_project(&by(), project).await.unwrap();
    assert_eq!(world.store.trusts(project).await.unwrap(), []);

    world.pass("24 hours");
    while world.store.forget_exchanged_tokens(world.epoch, 1).await.unwrap() > 0 {}
    assert_eq!(world.database.psql("SELECT count(*) FROM tokens"), "2");
    world.pass("16 minutes");
    assert_eq!(world.store.forget_exchanged_tokens(world.epoch, 10).await.unwrap(), 2);
}

#[tokio::test]
async fn of_two_who_take_a_token_at_once_the_second_waits_and_hears_of_the_first() {
    let world = world().await;
    let trust = added(&world, &new()).await;
    let mut sessions = [Session::open(world.database.url()), Session::open(world.database.url())];
    let hold = format!("SELECT id FROM trusts WHERE id = '{trust}' FOR UPDATE");
    let both = stopped(&mut sessions, &hold, used(&world, trust, "a"), used(&world, trust, "a")).await;
    assert_eq!((both, seen(&world).as_str()), (("first", "again"), "a"));
    let by = by();
    // Revoked at the same moment: whoever was first comes to it, and the other one sees that.
    let revoke = world.store.revoke_trust(&by, default_project(), trust);
    let both = stopped(&mut sessions, &hold, used(&world, trust, "b"), revoke).await;
    assert!(matches!(both, ("first", Ok(()))), "{both:?}");
    let trust = added(&world, &new()).await;
    let hold = format!("SELECT id FROM trusts WHERE id = '{trust}' FOR UPDATE");
    let revoke = world.store.revoke_trust(&by, default_project(), trust);
    let both = stopped(&mut sessions, &hold, revoke, used(&world, trust, "c")).await;
    assert!(matches!(both, (Ok(()), "revoked")), "{both:?}");
}

#[tokio::test]
async fn tokens_are_forgotten_when_their_age_alone_refuses_them() {
    let world = world().await;
    let trust = added(&world, &new()).await;
    for token in ["a", "b", "c"] {
        used(&world, trust, token).await;
    }
    assert_eq!(world.store.forget_exchanged_tokens(world.epoch, 10).await.unwrap(), 0);
    world.pass("200 s");
    used(&world, trust, "d").await;
    world.pass("101 s");
    assert_eq!(world.store.forget_exchanged_tokens(world.epoch, 2).await.unwrap(), 2);
    assert_eq!(world.store.forget_exchanged_tokens(world.epoch, 2).await.unwrap(), 1);
    assert_eq!(seen(&world), "d");
    world.pass("200 s");
    assert_eq!(world.store.forget_exchanged_tokens(world.epoch, 2).await.unwrap(), 1);
}
