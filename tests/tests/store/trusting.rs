//! Trusts, and tokens that are taken once.

use chrono::TimeDelta;
use farm_store::people::replay::Use;
use farm_store::people::trust::NewTrust;
use farm_store::{StoreError, default_project};
use farm_types::{ProjectId, Role};
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
        created_by: "ada".to_owned(),
    }
}

async fn used(world: &World, trust: Uuid, token: &str) -> Use {
    let until = world.store.now().await.unwrap() + TimeDelta::seconds(300);
    world.store.use_token(ISSUER, token, until, default_project(), trust).await.unwrap()
}

fn seen(world: &World) -> String {
    world.database.psql("SELECT string_agg(jti, ' ' ORDER BY jti) FROM seen_tokens")
}

#[tokio::test]
async fn a_trust_is_read_as_it_was_added_by_its_project_only() {
    let world = world().await;
    let other = Uuid::now_v7();
    world.database.psql(&format!("INSERT INTO projects (id, name) VALUES ('{other}', 'other')"));
    let id = world.store.add_trust(&new()).await.unwrap();
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
    world.store.add_trust(&elsewhere).await.unwrap();
    assert_eq!(world.store.trusted_audiences(ISSUER).await.unwrap(), ["elsewhere", "farm"]);
    // Only who has it can revoke it.
    let theirs = world.store.revoke_trust(ProjectId::from(other), id).await;
    assert!(matches!(theirs, Err(StoreError::NotFound("trust"))));
    world.store.revoke_trust(default_project(), id).await.unwrap();
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
        assert!(world.store.add_trust(&wrong).await.is_err(), "{wrong:?}");
    }
}

#[tokio::test]
async fn a_token_is_taken_once_for_all_projects_and_each_issuer_has_its_own() {
    let world = world().await;
    let trust = world.store.add_trust(&new()).await.unwrap();
    assert_eq!(used(&world, trust, "a").await, Use::First);
    assert!(world.store.trusts(default_project()).await.unwrap()[0].last_used_at.is_some());
    assert_eq!(used(&world, trust, "a").await, Use::Again);
    assert_eq!(used(&world, trust, "b").await, Use::First);
    let elsewhere = NewTrust { issuer: "https://other.example".to_owned(), ..new() };
    let elsewhere = world.store.add_trust(&elsewhere).await.unwrap();
    let until = world.store.now().await.unwrap();
    let theirs =
        world.store.use_token("https://other.example", "a", until, default_project(), elsewhere).await;
    assert_eq!(theirs.unwrap(), Use::First);
    // By a trust in another issuer, or one that is no more, it isn't taken.
    assert_eq!(used(&world, elsewhere, "c").await, Use::Revoked);
    world.store.revoke_trust(default_project(), trust).await.unwrap();
    assert_eq!(used(&world, trust, "c").await, Use::Revoked);
    assert_eq!(seen(&world), "a a b");
}

#[tokio::test]
async fn of_two_who_take_a_token_at_once_the_second_waits_and_hears_of_the_first() {
    let world = world().await;
    let trust = world.store.add_trust(&new()).await.unwrap();
    let mut sessions = [Session::open(world.database.url()), Session::open(world.database.url())];
    let hold = format!("SELECT id FROM trusts WHERE id = '{trust}' FOR UPDATE");
    let both = stopped(&mut sessions, &hold, used(&world, trust, "a"), used(&world, trust, "a")).await;
    assert_eq!((both, seen(&world).as_str()), ((Use::First, Use::Again), "a"));
    // Revoked at the same moment: whoever was first comes to it, and the other one sees that.
    let revoke = world.store.revoke_trust(default_project(), trust);
    let both = stopped(&mut sessions, &hold, used(&world, trust, "b"), revoke).await;
    assert!(matches!(both, (Use::First, Ok(()))), "{both:?}");
    let trust = world.store.add_trust(&new()).await.unwrap();
    let hold = format!("SELECT id FROM trusts WHERE id = '{trust}' FOR UPDATE");
    let revoke = world.store.revoke_trust(default_project(), trust);
    let both = stopped(&mut sessions, &hold, revoke, used(&world, trust, "c")).await;
    assert!(matches!(both, (Ok(()), Use::Revoked)), "{both:?}");
}

#[tokio::test]
async fn tokens_are_forgotten_when_their_age_alone_refuses_them() {
    let world = world().await;
    let trust = world.store.add_trust(&new()).await.unwrap();
    for token in ["a", "b", "c"] {
        used(&world, trust, token).await;
    }
    assert_eq!(world.store.forget_seen_tokens(world.epoch, 10).await.unwrap(), 0);
    world.pass("200 s");
    used(&world, trust, "d").await;
    world.pass("101 s");
    assert_eq!(world.store.forget_seen_tokens(world.epoch, 2).await.unwrap(), 2);
    assert_eq!(world.store.forget_seen_tokens(world.epoch, 2).await.unwrap(), 1);
    assert_eq!(seen(&world), "d");
    world.pass("200 s");
    assert_eq!(world.store.forget_seen_tokens(world.epoch, 2).await.unwrap(), 1);
}
