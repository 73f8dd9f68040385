//! Projects' logins at registries, sealed: what is known of them, and which coordinators may run with them.

use farm_store::StoreError;
use farm_store::builds::mounts::{NewMounts, SealedKey, SealedMounts, SealedValue};
use farm_store::hooks::registered::NewHook;
use farm_store::hooks::tokens::{KnownApp, SealedToken};
use farm_store::people::git_logins::{GitLoginId, GitLoginKind, KeptRepository, SealedGitLogin};
use farm_store::people::logins::{LoginBy, NewLogin, SealedPassword};
use farm_types::{MountId, RegistryHost, ValueType};
use uuid::Uuid;

use crate::fixture::{PUBLISH, tester, world};
use crate::hooks::{hook, secret};
use crate::statuses::token;

#[tokio::test]
async fn a_login_counts_until_it_is_removed_and_keeps_out_coordinators_that_know_none() {
    let world = world().await;
    let (store, project) = (&world.store, farm_store::default_project());
    let host: RegistryHost = "r.example:5000".parse().unwrap();
    // Bytes as they are: this crate opens nothing.
    let new = |bytes: &[u8]| NewLogin {
        project,
        host: host.clone(),
        version: Uuid::new_v4(),
        by: LoginBy::Password(
            "ci".to_owned(),
            SealedPassword {
                key: SealedKey { by: "key".to_owned(), bytes: bytes.to_vec() },
                bytes: bytes.to_vec(),
            },
        ),
    };
    let older =
        "INSERT INTO coordinators (id, address, runs_schema) VALUES (gen_random_uuid(), 'http://old', 41)";
    world.database.psql(older);
    let refused = store.set_login(&tester(), &new(b"1")).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Older(why) if why.contains("http://old (schema 41)")),
        "{refused}"
    );
    assert!(store.logins(project).await.unwrap().is_empty());
    world.database.psql("DELETE FROM coordinators WHERE address = 'http://old'");

    let first = new(b"1");
    store.set_login(&tester(), &first).await.unwrap();
    assert_eq!(world.database.psql("SELECT oldest FROM schema_compat"), "42");
    store.login_used(project, first.version).await.unwrap();
    assert!(store.logins(project).await.unwrap()[0].last_used_at.is_some());
    let second = new(b"2");
    store.set_login(&tester(), &second).await.unwrap();
    store.login_used(project, first.version).await.unwrap();
    assert_eq!(store.logins(project).await.unwrap()[0].last_used_at, None, "it is another one");
    let found = store.access(project).await.unwrap();
    let [login] = &found.logins[..] else { panic!("{found:?}") };
    assert_eq!((login.version, login.by.as_ref()), (second.version, Some(&second.by)));
    assert_eq!(found.name, "default");
    assert!(found.access.logins.contains(&host) && found.with_logins.contains(&host));

    // Its key's use is known, and exchanged.
    assert_eq!(store.keys_in_use().await.unwrap(), [("key".to_owned(), 1)]);
    let [old] = &store.login_keys_by(&["key".to_owned()], None, 9).await.unwrap()[..] else { panic!() };
    let after = store.login_keys_by(&["key".to_owned()], Some((project, &host)), 9).await.unwrap();
    assert!(after.is_empty(), "{after:?}");
    let other = SealedKey { by: "other".to_owned(), bytes: b"3".to_vec() };
    assert!(store.reseal_login_key(world.epoch, old, &other).await.unwrap());
    assert!(!store.reseal_login_key(world.epoch, old, &other).await.unwrap(), "that it was");

    store.remove_login(&tester(), project, &host).await.unwrap();
    assert!(matches!(store.remove_login(&tester(), project, &host).await, Err(StoreError::NotFound(_))));
    assert!(store.keys_in_use().await.unwrap().is_empty() && store.logins(project).await.unwrap().is_empty());
    // That there was one is known for good, and closes its registry's name to all for 30 days.
    let found = store.access(project).await.unwrap();
    assert!(found.logins[0].by.is_none() && found.access.logins.is_empty());
    assert!(found.with_logins.contains(&host));
    world.database.psql("UPDATE registry_logins SET removed_at = removed_at - interval '31 days'");
    let found = store.access(project).await.unwrap();
    assert!(found.logins.len() == 1 && found.with_logins.is_empty());

    // A helper's has nothing sealed, and is removed like any other.
    let by = LoginBy::Helper("ecr".to_owned());
    store.set_login(&tester(), &NewLogin { by: by.clone(), ..new(b"") }).await.unwrap();
    let [listed] = &store.logins(project).await.unwrap()[..] else { panic!() };
    assert_eq!((listed.username.as_str(), listed.helper.as_deref()), ("", Some("ecr")));
    let found = store.access(project).await.unwrap();
    assert_eq!(found.logins[0].by, Some(by));
    assert!(found.access.logins.contains(&host) && store.keys_in_use().await.unwrap().is_empty());
    store.remove_login(&tester(), project, &host).await.unwrap();
    assert!(store.access(project).await.unwrap().logins[0].by.is_none());
}

#[tokio::test]
async fn a_login_that_comes_with_a_build_lasts_as_long_as_that_and_closes_its_registry_to_others() {
    let world = world().await;
    let (store, project) = (&world.store, farm_store::default_project());
    let (worker, _) = world.worker("w", 8).await;
    let id: MountId = "r.example:5000".parse().unwrap();
    let mut new = world.new_build("1", "linux/amd64", &[]);
    new.spec.mounts.logins.insert(id.clone());
    let value = SealedValue { id: id.clone(), ..value_of_login() };
    let sealed = SealedMounts {
        key: SealedKey { by: "key".to_owned(), bytes: b"1".to_vec() },
        values: vec![value.clone()],
    };
    new.mounts = Some(NewMounts { sealed, used: Vec::new() });
    let older =
        "INSERT INTO coordinators (id, address, runs_schema) VALUES (gen_random_uuid(), 'http://old', 45)";
    world.database.psql(older);
    let refused = store.submit(&new).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Older(why) if why.contains("http://old (schema 45)")),
        "{refused}"
    );
    world.database.psql("DELETE FROM coordinators WHERE address = 'http://old'");
    let build = store.submit(&new).await.unwrap();
    let lease = world.lease(build, 0, worker).await;
    let (of, given) = store.given_logins(project, lease.attempt).await.unwrap().unwrap();
    assert_eq!((of, given.values), (build.id, vec![value]));
    let host: RegistryHost = "r.example:5000".parse().unwrap();
    let found = store.access(project).await.unwrap();
    assert!(found.with_logins.contains(&host) && found.logins.is_empty());
    store.cancel(&tester(), project, build.id, PUBLISH).await.unwrap();
    assert!(store.given_logins(project, lease.attempt).await.unwrap().is_none());
    assert!(store.access(project).await.unwrap().with_logins.contains(&host));
    assert_eq!(store.forget_login_hosts(world.epoch, 100).await.unwrap(), 0, "they count yet");

    // A project's builds are given logins at so many registries, and at no more; the same ones again are no others.
    let hosts: Vec<String> = (1..20).map(|n| format!("r{n}.example")).collect();
    let more = |hosts: &[String]| {
        let mut more = world.new_build(&hosts[0], "linux/amd64", &[]);
        let ids: Vec<MountId> = hosts.iter().map(|host| host.parse().unwrap()).collect();
        let values = ids.iter().map(|id| SealedValue { id: id.clone(), ..value_of_login() });
        let key = SealedKey { by: "key".to_owned(), bytes: b"1".to_vec() };
        let sealed = SealedMounts { key, values: values.collect() };
        more.mounts = Some(NewMounts { sealed, used: Vec::new() });
        more.spec.mounts.logins.extend(ids);
        more
    };
    store.submit(&more(&hosts)).await.unwrap();
    let (known, other) = (["r7.example".to_owned()], ["other.example".to_owned()]);
    store.admits_login_hosts(project, &known).await.unwrap();
    store.submit(&more(&known)).await.unwrap();
    let full = |refused: StoreError| match refused {
        StoreError::Exhausted { what, .. } => {
            assert!(what.contains("21 registries") && what.contains("farm registry login"), "{what}");
        }
        other => panic!("{other:?}"),
    };
    full(store.admits_login_hosts(project, &other).await.unwrap_err());
    full(store.submit(&more(&other)).await.unwrap_err());
    assert!(!store.access(project).await.unwrap().with_logins.contains(&other[0].parse().unwrap()));

    world.pass("31 days");
    assert!(store.access(project).await.unwrap().with_logins.is_empty());
    store.admits_login_hosts(project, &other).await.unwrap();
    assert_eq!(store.forget_login_hosts(world.epoch, 100).await.unwrap(), 40);
    let left = "SELECT (SELECT count(*) FROM given_logins) + (SELECT count(*) FROM login_hosts)";
    assert_eq!(world.database.psql(left), "0");
}

fn value_of_login() -> SealedValue {
    SealedValue { mount: ValueType::Login, id: "x".parse().unwrap(), bytes: b"sealed".to_vec() }
}

#[tokio::test]
async fn a_login_for_git_is_found_by_its_host_and_kind_and_its_key_is_exchanged() {
    let world = world().await;
    let (store, project) = (&world.store, farm_store::default_project());
    let login = |place: &str, kind| SealedGitLogin {
        id: GitLoginId { project, place: place.parse().unwrap(), kind },
        version: Uuid::new_v4(),
        username: "x".to_owned(),
        host_keys: if kind == GitLoginKind::Key { vec!["ssh-ed25519 AAAA".to_owned()] } else { Vec::new() },
        key: SealedKey { by: "key".to_owned(), bytes: place.as_bytes().to_vec() },
        bytes: b"sealed".to_vec(),
    };
    let all = [
        login("git.example", GitLoginKind::Token),
        login("git.example/acme", GitLoginKind::Token),
        login("git.example/acme", GitLoginKind::Key),
        login("git.example.evil/acme", GitLoginKind::Token),
    ];
    for one in &all {
        store.set_git_login(&tester(), one).await.unwrap();
    }
    let found = store.sealed_git_logins(project, "Git.Example", GitLoginKind::Token).await.unwrap();
    assert_eq!(found, all[..2]);
    assert_eq!(store.sealed_git_logins(project, "git.example", GitLoginKind::Key).await.unwrap(), all[2..3]);
    store.git_login_used(project, all[0].version).await.unwrap();
    assert_eq!(
        store.git_logins(project).await.unwrap().iter().filter(|l| l.last_used_at.is_some()).count(),
        1
    );

    assert_eq!(store.keys_in_use().await.unwrap(), [("key".to_owned(), 4)]);
    let (mut exchanged, mut last) = (0, None);
    let other = SealedKey { by: "other".to_owned(), bytes: b"3".to_vec() };
    // One at a time, so that the next is found behind the last.
    while let [(id, old)] = &store.git_login_keys_by(&["key".to_owned()], last.as_ref(), 1).await.unwrap()[..]
    {
        assert!(store.reseal_git_login_key(world.epoch, id, old, &other).await.unwrap());
        assert!(!store.reseal_git_login_key(world.epoch, id, old, &other).await.unwrap(), "that it was");
        (exchanged, last) = (exchanged + 1, Some(id.clone()));
    }
    assert_eq!(exchanged, 4);
}

#[tokio::test]
async fn what_is_kept_of_a_repository_goes_with_its_project_and_with_the_login_that_opened_it() {
    let world = world().await;
    let (store, project) = (&world.store, farm_store::default_project());
    let of = |project, repository: &str, place: &str| KeptRepository {
        project,
        repository: repository.to_owned(),
        place: place.to_owned(),
    };
    let (app, web) = ("https://git.example/acme/app.git", "https://git.example/acme/web.git");
    let kept = [
        of(project, app, ""),
        of(project, web, "git.example/acme"),
        of(Uuid::new_v4().into(), app, ""),
        of(project, app, "git.example/acme/app"),
    ];
    assert_eq!(store.gone_repositories(&kept).await.unwrap(), [1, 2, 3]);
    let login = SealedGitLogin {
        id: GitLoginId { project, place: "git.example/acme".parse().unwrap(), kind: GitLoginKind::Token },
        version: Uuid::new_v4(),
        username: "x".to_owned(),
        host_keys: Vec::new(),
        key: SealedKey { by: "key".to_owned(), bytes: b"1".to_vec() },
        bytes: b"sealed".to_vec(),
    };
    store.set_git_login(&tester(), &login).await.unwrap();
    assert_eq!(store.gone_repositories(&kept).await.unwrap(), [2, 3]);
    // What a hook's App was lent is for the hook's repository, as long as it is the App's.
    let hook = NewHook { clone_url: Some(app.to_owned()), ..hook("app", &secret()) };
    store.add_hook(&tester(), &hook).await.unwrap();
    store.set_hook_token(&tester(), project, "app", hook.id, &token()).await.unwrap();
    assert_eq!(store.gone_repositories(&kept).await.unwrap(), [2, 3], "that is no App");
    let key = SealedToken {
        version: Uuid::new_v4(),
        app: Some(KnownApp { name: "Iv23li".to_owned(), id: 7, installation: 5 }),
        ..token()
    };
    store.set_hook_token(&tester(), project, "app", hook.id, &key).await.unwrap();
    assert_eq!(store.gone_repositories(&kept).await.unwrap(), [2]);
    store.remove_hook_token(&tester(), project, "app", hook.id).await.unwrap();
    store.remove_git_logins(&tester(), project, &login.id.place).await.unwrap();
    assert_eq!(store.gone_repositories(&kept).await.unwrap(), [1, 2, 3]);
    assert!(store.gone_repositories(&[]).await.unwrap().is_empty());
}
