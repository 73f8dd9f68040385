//! Secrets that projects keep, sealed: their versions, who takes them, and when their values go.

use farm_core::people::secrets::SecretRule;
use farm_store::StoreError;
use farm_store::builds::mounts::{
    NewMounts, SECRET_CHANGED, SealedKey, SealedMounts, SealedValue, UsedSecret,
};
use farm_store::builds::submit::{NewBuild, Submitted};
use farm_store::default_project;
use farm_store::people::quotas::QuotaChange;
use farm_store::people::secrets::{MOST, NewSecret, ProjectSecret, Standing};
use farm_types::{ProjectId, Role, SecretName, SecretSource, ValueType};

use crate::fixture::{PUBLISH, World, tester, world};
use crate::retrying::retry_of;

fn name(text: &str) -> SecretName {
    text.parse().unwrap()
}

fn rule(role: Role, refs: &[&str], events: &[&str]) -> SecretRule {
    SecretRule {
        role,
        refs: refs.iter().map(|one| one.parse().unwrap()).collect(),
        events: events.iter().map(|one| one.parse().unwrap()).collect(),
    }
}

/// Bytes as they are: this crate opens nothing.
pub fn key(by: &str) -> SealedKey {
    SealedKey { by: by.to_owned(), bytes: format!("key by {by}").into_bytes() }
}

async fn set_after(
    world: &World,
    project: ProjectId,
    secret: &str,
    before: &Standing,
    rule: &SecretRule,
) -> Result<(), StoreError> {
    let new = NewSecret { project, name: &name(secret), before, rule, key: &key("one"), bytes: b"sealed" };
    world.store.set_secret(&tester(), &new).await
}

/// Sets the next version; gives its number.
async fn set(world: &World, secret: &str, rule: &SecretRule) -> i32 {
    let before = world.store.secret_standing(default_project(), &name(secret)).await.unwrap();
    set_after(world, default_project(), secret, &before, rule).await.unwrap();
    before.last + 1
}

/// Says anew who may use the version that counts.
async fn ruled(world: &World, secret: &str, rule: &SecretRule) {
    let before = world.store.secret_standing(default_project(), &name(secret)).await.unwrap();
    world.store.set_secret_rule(&tester(), default_project(), &name(secret), &before, rule).await.unwrap();
}

async fn listed(world: &World) -> Vec<ProjectSecret> {
    world.store.project_secrets(default_project()).await.unwrap()
}

#[tokio::test]
async fn secrets_count_to_what_a_project_may_store_and_none_comes_without_room() {
    let world = world().await;
    let project = default_project();
    let stored = async || world.store.used(project).await.unwrap().stored_bytes;
    let limit = async |most: u64| {
        let change = QuotaChange { max_stored_bytes: Some(Some(most)), ..Default::default() };
        world.store.set_quota(&tester(), project, &change).await.unwrap();
    };
    let (any, before) = (rule(Role::Builder, &[], &[]), stored().await);
    limit(before + 1).await;
    set(&world, "npm", &any).await;
    assert_eq!(stored().await, before + 6);
    let full =
        |done: Result<(), StoreError>| assert!(matches!(done, Err(StoreError::Exhausted { .. })), "{done:?}");
    full(set_after(&world, project, "pip", &Standing { last: 0, rule: None }, &any).await);
    full(world.store.submit(&build_with(&world, "1", "npm", 1)).await.map(drop));
    world.submit("without", "linux/amd64", &[]).await;
    // Another value in the place of the one that is there has room.
    limit(before + 6).await;
    assert_eq!(set(&world, "npm", &any).await, 2);
    limit(before + 7).await;
    let build = world.store.submit(&build_with(&world, "1", "npm", 2)).await.unwrap();
    assert_eq!(stored().await, before + 6 + 13);
    world.store.cancel(&tester(), project, build.id, PUBLISH).await.unwrap();
    assert_eq!(stored().await, before + 6);
    limit(before + 6).await;
    let retry = farm_store::builds::retry::Retry {
        mounts: Some(mounts("npm", 2)),
        ..retry_of(build, "again", false)
    };
    full(world.store.retry(&retry, PUBLISH).await.map(drop));
}

/// A build that takes this version of a secret, as the coordinator gives it.
fn build_with(world: &World, idempotency: &str, secret: &str, version: i32) -> NewBuild {
    let mut build = world.new_build(idempotency, "linux/amd64", &[]);
    let id = || "token".parse().unwrap();
    build.spec.mounts.secrets.insert(id(), SecretSource::Project(name(secret)));
    build.mounts = Some(mounts(secret, version));
    build
}

fn mounts(secret: &str, version: i32) -> NewMounts {
    let id = || "token".parse().unwrap();
    let value = SealedValue { mount: ValueType::Secret, id: id(), bytes: b"for the build".to_vec() };
    NewMounts {
        sealed: SealedMounts { key: key("build"), values: vec![value] },
        used: vec![UsedSecret { mount: id(), name: name(secret), version, rule: SecretRule::default() }],
    }
}

fn values(world: &World) -> String {
    world
        .database
        .psql("SELECT count(*) FROM project_secrets WHERE sealed IS NOT NULL OR sealed_key IS NOT NULL")
}

#[tokio::test]
async fn each_value_is_a_version_of_which_the_last_alone_is_kept_and_no_number_comes_again() {
    let world = world().await;
    let (any, main) = (SecretRule::default(), rule(Role::Publisher, &["refs/heads/main"], &["push"]));
    assert_eq!((set(&world, "npm", &any).await, set(&world, "deploy", &main).await), (1, 1));
    assert_eq!(set(&world, "npm", &main).await, 2);
    let [deploy, npm] = &listed(&world).await[..] else { panic!("there are two") };
    assert_eq!((deploy.name.as_str(), npm.name.as_str(), npm.version), ("deploy", "npm", 2));
    assert_eq!((&npm.rule, npm.set_by.as_str(), &npm.last_use), (&main, "test", &None));
    assert_eq!(values(&world), "2");
    // That there was a first one is known, and by whom, and nothing else of it.
    let first = "SELECT version, created_by, key_id IS NULL AND sealed IS NULL FROM project_secrets \
                 WHERE name = 'npm' AND erased_at IS NOT NULL";
    assert_eq!(world.database.psql(first), "1|test|t");

    let project = default_project();
    let standing = world.store.secret_standing(project, &name("npm")).await.unwrap();
    assert_eq!(standing, Standing { last: 2, rule: Some(main.clone()) });
    world.store.set_secret_rule(&tester(), project, &name("npm"), &standing, &any).await.unwrap();
    // Whoever has seen what was before comes too late, with a rule and with a value.
    let late = world.store.set_secret_rule(&tester(), project, &name("npm"), &standing, &main).await;
    assert!(matches!(late, Err(StoreError::Stale(_))), "{late:?}");
    let late = set_after(&world, project, "npm", &standing, &main).await;
    assert!(matches!(late, Err(StoreError::Stale(_))), "{late:?}");
    let sealed = world.store.sealed_secret(project, &name("npm")).await.unwrap().unwrap();
    assert_eq!((sealed.version, &sealed.rule, &sealed.bytes[..]), (2, &any, &b"sealed"[..]));

    world.store.remove_secret(&tester(), project, &name("npm")).await.unwrap();
    let gone = world.store.remove_secret(&tester(), project, &name("npm")).await;
    assert!(matches!(gone, Err(StoreError::NotFound(_))), "{gone:?}");
    assert_eq!(world.store.sealed_secret(project, &name("npm")).await.unwrap(), None);
    assert_eq!((listed(&world).await.len(), values(&world).as_str()), (1, "1"));
    assert_eq!(set(&world, "npm", &any).await, 3);
    let deeds = "SELECT string_agg(action || ' ' || subject || ' ' || (detail ->> 'version'), ', ' ORDER BY id) \
                 FROM audit WHERE action LIKE 'secret.%'";
    assert_eq!(
        world.database.psql(deeds),
        "secret.set npm 1, secret.set deploy 1, secret.set npm 2, secret.rule npm 2, secret.remove npm 2, secret.set npm 3"
    );
}

#[tokio::test]
async fn of_two_who_set_a_secret_at_once_one_comes_first_and_the_other_hears_of_it() {
    let world = world().await;
    let any = SecretRule::default();
    for _ in 0..3 {
        let before = world.store.secret_standing(default_project(), &name("npm")).await.unwrap();
        let one = || set_after(&world, default_project(), "npm", &before, &any);
        let both = tokio::join!(one(), one());
        let kept = [both.0, both.1].map(|set| match set {
            Ok(()) => true,
            Err(StoreError::Stale(_)) => false,
            Err(other) => panic!("{other:?}"),
        });
        assert_ne!(kept[0], kept[1]);
    }
    assert_eq!((listed(&world).await[0].version, values(&world).as_str()), (3, "1"));
    // What is remembered of old versions, and how many secrets there are, is bounded.
    world.database.psql("UPDATE project_secrets SET version = version + 110 WHERE erased_at IS NULL");
    assert_eq!(set(&world, "npm", &any).await, 114);
    assert_eq!(
        world.database.psql("SELECT string_agg(version::text, ' ' ORDER BY version) FROM project_secrets"),
        "113 114"
    );
    world.database.psql(&format!(
        "INSERT INTO project_secrets (project_id, name, version, role, refs, events, key_id, sealed_key, sealed, created_by)
         SELECT project_id, 'n' || n, 1, role, refs, events, key_id, sealed_key, sealed, created_by
         FROM project_secrets, generate_series(2, {MOST}) n WHERE version = 114"
    ));
    let none = Standing { last: 0, rule: None };
    let many = set_after(&world, default_project(), "more", &none, &any).await;
    assert!(matches!(&many, Err(StoreError::Exhausted { what, .. }) if what.contains("200")), "{many:?}");
    // A new value of one that is there finds its place.
    assert_eq!(set(&world, "npm", &any).await, 115);
}

#[tokio::test]
async fn a_build_keeps_the_version_it_was_accepted_with_and_none_is_accepted_with_another_than_that_counts() {
    let world = world().await;
    let any = SecretRule::default();
    set(&world, "npm", &any).await;
    let submit =
        async |key: &str, version| world.store.submit(&build_with(&world, key, "npm", version)).await;
    let build: Submitted = submit("1", 1).await.unwrap();
    let record = world.build(build).await;
    assert_eq!(serde_json::to_value(&record.secret_versions).unwrap(), serde_json::json!({ "token": 1 }));
    let npm = listed(&world).await.remove(0);
    let used = npm.last_use.unwrap();
    assert_eq!((used.by.as_str(), used.build.as_str()), ("test", record.short_id.as_str()));
    let detail = "SELECT detail -> 'secrets' FROM audit WHERE action = 'build.submit'";
    assert_eq!(world.database.psql(detail), r#"{"npm": 1}"#);

    // Who was let in by another rule is not by this one, however short a time it was: also if the version is the same.
    let stricter = [
        (Role::Publisher, &[][..], &[][..]),
        (Role::Builder, &["refs/heads/main"], &[]),
        (Role::Builder, &[], &["push"]),
    ];
    for (number, (role, refs, events)) in stricter.into_iter().enumerate() {
        ruled(&world, "npm", &rule(role, refs, events)).await;
        let stale = submit(&format!("ruled {number}"), 1).await;
        assert!(matches!(stale, Err(StoreError::Stale(SECRET_CHANGED))), "{stale:?}");
    }
    set(&world, "npm", &any).await;
    // The last use is told of the secret, whatever version that was.
    assert_eq!(listed(&world).await[0].last_use.as_ref().unwrap().build, record.short_id.as_str());
    let stale = submit("2", 1).await;
    assert!(matches!(stale, Err(StoreError::Stale(SECRET_CHANGED))), "{stale:?}");
    assert_eq!(world.database.psql("SELECT count(*) FROM builds"), "1");
    // The first one has what it was given until it ends.
    let (worker, _) = world.worker("w", 8).await;
    let lease = world.lease(build, 0, worker).await;
    assert!(world.store.leased_mounts(lease).await.unwrap().sealed.is_some());
    world.store.remove_secret(&tester(), default_project(), &name("npm")).await.unwrap();
    assert!(world.store.leased_mounts(lease).await.unwrap().sealed.is_some());
    let gone = submit("3", 2).await;
    assert!(matches!(gone, Err(StoreError::Stale(SECRET_CHANGED))), "{gone:?}");

    world.store.cancel(&tester(), default_project(), build.id, PUBLISH).await.unwrap();
    world.finish(lease, farm_store::work::finish::Outcome::Stopped).await.unwrap();
    assert_eq!(set(&world, "npm", &rule(Role::Publisher, &[], &[])).await, 3);
    let retry = |version| farm_store::builds::retry::Retry {
        mounts: Some(mounts("npm", version)),
        ..retry_of(build, "again", false)
    };
    let stale = world.store.retry(&retry(2), PUBLISH).await;
    assert!(matches!(stale, Err(StoreError::Stale(_))), "{stale:?}");
    let ruled_out = world.store.retry(&retry(3), PUBLISH).await;
    assert!(matches!(ruled_out, Err(StoreError::Stale(SECRET_CHANGED))), "{ruled_out:?}");
    ruled(&world, "npm", &any).await;
    world.store.retry(&retry(3), PUBLISH).await.unwrap();
    let detail = "SELECT detail -> 'secrets' FROM audit WHERE action = 'build.retry'";
    assert_eq!(world.database.psql(detail), r#"{"npm": 3}"#);
}

#[tokio::test]
async fn a_projects_secrets_are_its_own_go_with_it_and_are_sealed_anew_by_a_new_key() {
    let world = world().await;
    let any = SecretRule::default();
    let web = world.store.create_project(&tester(), &"web".parse().unwrap(), None).await.unwrap();
    set(&world, "npm", &any).await;
    let none = Standing { last: 0, rule: None };
    set_after(&world, web, "npm", &none, &any).await.unwrap();
    set_after(&world, web, "deploy", &none, &any).await.unwrap();
    assert_eq!(listed(&world).await.len(), 1);
    assert_eq!(world.store.keys_in_use().await.unwrap(), [("one".to_owned(), 3)]);

    let found = world.store.secret_keys_by(&["one".to_owned(), "none".to_owned()], None, 10).await.unwrap();
    assert_eq!(found.len(), 3);
    // The same, one after the other.
    let (mut one_by_one, mut last) = (Vec::new(), None);
    loop {
        let after = last.as_ref().map(|(project, name, version)| (*project, name, *version));
        let next = world.store.secret_keys_by(&["one".to_owned()], after, 1).await.unwrap();
        let [(project, name, version, _)] = &next[..] else { break };
        last = Some((*project, name.clone(), *version));
        one_by_one.extend(next);
    }
    assert_eq!(one_by_one, found);
    let (_, _, _, old) = &found[0];
    let new = SealedKey { by: "two".to_owned(), bytes: b"anew".to_vec() };
    let which = (default_project(), &name("npm"), 1);
    let reseal = async || world.store.reseal_secret_key(world.epoch, which, old, &new).await.unwrap();
    assert!(reseal().await && !reseal().await);
    assert_eq!(world.store.keys_in_use().await.unwrap(), [("one".to_owned(), 2), ("two".to_owned(), 1)]);
    let npm = world.store.sealed_secret(default_project(), &name("npm")).await.unwrap().unwrap();
    assert_eq!((npm.key, &npm.bytes[..]), (new, &b"sealed"[..]));

    world.store.remove_project(&tester(), web).await.unwrap();
    assert_eq!((values(&world).as_str(), world.store.keys_in_use().await.unwrap().len()), ("1", 1));
    let late = set_after(&world, web, "late", &none, &any).await;
    assert!(matches!(late, Err(StoreError::NotFound(_))), "{late:?}");
}
