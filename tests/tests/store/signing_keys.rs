//! Keys by which projects sign: which build is accepted with which, who takes them away, and who is kept out.

use farm_core::people::secrets::SecretRule;
use farm_store::builds::submit::NewBuild;
use farm_store::people::signing_keys::{
    MOST, NewSigningKey, SIGNING_KEY_CHANGED, SigningKeyKey, UsedSigningKey,
};
use farm_store::{StoreError, default_project};
use farm_types::{Cause, Failure, FailureCode, ProjectId, Role, SigningKeyName};
use uuid::Uuid;

use crate::fixture::{PUBLISH, World, tester, world};
use crate::publishing::built;
use crate::retrying::retry_of;
use crate::secrets::key;

const TAG: &str = "localhost:5002/app:1";

fn name(text: &str) -> SigningKeyName {
    text.parse().unwrap()
}

async fn set_after(
    world: &World,
    project: ProjectId,
    called: &str,
    before: Option<Uuid>,
) -> Result<Uuid, StoreError> {
    let (version, rule) = (Uuid::new_v4(), SecretRule::default());
    let new = NewSigningKey {
        project,
        name: &name(called),
        before,
        version,
        rule: &rule,
        public: &[4; 65],
        key: &key("one"),
        bytes: b"sealed",
    };
    world.store.set_signing_key(&tester(), &new).await.map(|()| version)
}

async fn set(world: &World, called: &str) -> Uuid {
    set_after(world, default_project(), called, None).await.unwrap()
}

/// A build that is signed by this version of a key, as the coordinator gives it.
fn signed(world: &World, idempotency: &str, called: &str, version: Uuid) -> NewBuild {
    let mut build = world.new_build(idempotency, "linux/amd64", &[TAG]);
    build.spec.sign = Some(name(called));
    build.signing = Some(used(called, version));
    build
}

fn used(called: &str, version: Uuid) -> UsedSigningKey {
    UsedSigningKey { name: name(called), version, rule: SecretRule::default() }
}

#[track_caller]
fn is_stale<T: std::fmt::Debug>(done: &Result<T, StoreError>) {
    assert!(matches!(done, Err(StoreError::Stale(SIGNING_KEY_CHANGED))), "{done:?}");
}

#[tokio::test]
async fn a_build_is_signed_by_the_key_that_it_was_accepted_with_and_a_retry_by_the_one_of_then() {
    let world = world().await;
    let project = default_project();
    let first = set(&world, "release").await;
    let build = world.store.submit(&signed(&world, "1", "release", first)).await.unwrap();
    let listed = world.store.signing_keys(project).await.unwrap();
    assert_eq!((listed.len(), listed[0].name.as_str(), listed[0].public.len()), (1, "release", 65));
    assert_eq!(listed[0].last_use.as_ref().unwrap().by, tester().name);
    let detail = "SELECT detail->>'sign' FROM audit WHERE action = 'build.submit'";
    assert_eq!(world.database.psql(detail), "release");
    // Whoever read the key before it was another one, or its rule, has read what isn't so any more.
    is_stale(&set_after(&world, project, "release", None).await);
    let second = set_after(&world, project, "release", Some(first)).await.unwrap();
    is_stale(&set_after(&world, project, "release", Some(first)).await);
    is_stale(&world.store.submit(&signed(&world, "2", "release", first)).await);
    let (old, stricter) = (SecretRule::default(), SecretRule { role: Role::Admin, ..SecretRule::default() });
    let (release, by) = (name("release"), tester());
    let ruled = world.store.set_signing_key_rule(&by, (project, &release), (second, &old), &stricter);
    ruled.await.unwrap();
    is_stale(&world.store.submit(&signed(&world, "2", "release", second)).await);
    let again = world.store.set_signing_key_rule(&by, (project, &release), (second, &old), &stricter);
    is_stale(&again.await);
    world
        .store
        .set_signing_key_rule(&tester(), (project, &release), (second, &stricter), &old)
        .await
        .unwrap();
    // What is accepted keeps its own to the end, whatever becomes of the name.
    let (_, due) = built(&world, build, "1").await;
    assert_eq!(due[0].sign, Some((name("release"), Some(first))));
    let failure = Failure::new(Cause::User, FailureCode::SigningKeyGone, "replaced");
    world.store.destination_failed(world.epoch, &due[0], &failure, None).await.unwrap();
    let retry = |version| farm_store::builds::retry::Retry {
        signing: Some(used("release", version)),
        ..retry_of(build, "again", false)
    };
    is_stale(&world.store.retry(&retry(first), PUBLISH).await);
    let retried = world.store.retry(&retry(second), PUBLISH).await.unwrap();
    let (_, due) = built(&world, retried, "2").await;
    assert_eq!(due[0].sign, Some((name("release"), Some(second))));
}

#[tokio::test]
async fn a_key_goes_with_its_project_or_by_its_name_and_there_are_so_many() {
    let world = world().await;
    let version = set(&world, "release").await;
    let release = name("release");
    world.store.remove_signing_key(&tester(), default_project(), &release).await.unwrap();
    let gone = world.store.remove_signing_key(&tester(), default_project(), &release).await;
    assert!(matches!(gone, Err(StoreError::NotFound(_))), "{gone:?}");
    is_stale(&world.store.submit(&signed(&world, "1", "release", version)).await);
    assert_eq!(world.store.sealed_signing_key(default_project(), &release).await.unwrap(), None);
    for n in 0..MOST {
        set(&world, &format!("k{n}")).await;
    }
    let more = set_after(&world, default_project(), "more", None).await;
    assert!(
        matches!(&more, Err(StoreError::Exhausted { what, .. }) if what.contains("signing-key rm")),
        "{more:?}"
    );
    let web = world.store.create_project(&tester(), &"web".parse().unwrap(), None).await.unwrap();
    set_after(&world, web, "release", None).await.unwrap();
    world.store.remove_project(&tester(), web).await.unwrap();
    assert!(world.store.signing_keys(web).await.unwrap().is_empty());
    let late = set_after(&world, web, "release", None).await;
    assert!(matches!(late, Err(StoreError::NotFound(_))), "{late:?}");
    let kept = world.store.signing_keys(default_project()).await.unwrap().len();
    assert_eq!(i64::try_from(kept).unwrap(), MOST);
}

#[tokio::test]
async fn a_keys_data_key_is_exchanged_once_and_counts_among_those_that_are_used() {
    let world = world().await;
    let version = set(&world, "release").await;
    assert_eq!(world.store.keys_in_use().await.unwrap(), [("one".to_owned(), 1)]);
    let found = world.store.signing_key_keys_by(&["one".to_owned()], None, 10).await.unwrap();
    let old = SigningKeyKey { project: default_project(), name: name("release"), version, key: key("one") };
    assert_eq!(found, std::slice::from_ref(&old));
    let after = Some((default_project(), &old.name));
    assert!(world.store.signing_key_keys_by(&["one".to_owned()], after, 10).await.unwrap().is_empty());
    assert!(world.store.reseal_signing_key(world.epoch, &old, &key("two")).await.unwrap());
    assert!(!world.store.reseal_signing_key(world.epoch, &old, &key("two")).await.unwrap());
    assert_eq!(world.store.keys_in_use().await.unwrap(), [("two".to_owned(), 1)]);
}

#[tokio::test]
async fn coordinators_that_know_of_no_signatures_are_kept_out() {
    let world = world().await;
    let version = set(&world, "release").await;
    assert_eq!(world.database.psql("SELECT oldest FROM schema_compat"), "71");
    // One that a fault of the clock, say, has let in all the same.
    world.database.psql(
        "INSERT INTO coordinators (id, address, runs_schema) VALUES (gen_random_uuid(), 'http://old', 70)",
    );
    for refused in [
        set_after(&world, default_project(), "other", None).await.map(drop),
        world.store.submit(&signed(&world, "1", "release", version)).await.map(drop),
    ] {
        assert!(matches!(&refused, Err(StoreError::Older(why)) if why.contains("http://old")), "{refused:?}");
    }
}
