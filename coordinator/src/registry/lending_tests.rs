//! What is asked for on behalf of workers, and of whom.

use farm_core::people::Access;

use super::*;
use crate::config::Registry;
use crate::outbound::tests::{Fake, answer};
use crate::registry::login::{Login, LoginBy};
use crate::registry::tests::reach;

const TOKEN: &str = "{\"token\":\"t0ken\",\"expires_in\":90,\"issued_at\":\"2026-01-01T00:00:10Z\"}";

fn with_login(realms: &[&str]) -> Registry {
    Registry {
        username: "farm".to_owned(),
        password: "pa55word".to_owned().into(),
        realms: realms.iter().map(|text| text.parse().unwrap()).collect(),
        ..Registry::default()
    }
}

fn known(hosts: &[(&str, Registry)]) -> Registries {
    let known = hosts.iter().map(|(host, registry)| ((*host).to_owned(), registry.clone())).collect();
    reach(known, std::time::Duration::from_secs(20))
}

/// What a project is allowed that has no login of its own, as no other has.
fn allowed(push: &[&str], pull: &[&str]) -> Allowed {
    let prefixes = |list: &[&str]| list.iter().map(|prefix| prefix.parse().unwrap()).collect::<Vec<_>>();
    let access = Access { push: prefixes(push), pull: prefixes(pull), ..Access::default() };
    Allowed { access, ..Allowed::default() }
}

fn borrower<'a>(allowed: &'a Allowed, own: &'a [Repository]) -> Borrower<'a> {
    Borrower::new(ProjectId::generate(), allowed, own)
}

fn host(text: &str) -> RegistryHost {
    text.parse().unwrap()
}

/// A login of the project's own.
fn own_login(at: &str) -> (RegistryHost, Kept) {
    let login = Login {
        project: ProjectId::generate(),
        host: host(at),
        by: LoginBy::Password("own".to_owned(), "0wn".to_owned().into()),
        version: uuid::Uuid::new_v4(),
    };
    (host(at), Kept::Login(Arc::new(login)))
}

fn asks_for(host: &str, scope: &str, realm: &str) -> v1::LendTokenRequest {
    v1::LendTokenRequest {
        host: host.to_owned(),
        scopes: vec![scope.to_owned()],
        realm: realm.to_owned(),
        service: "s".to_owned(),
        ..Default::default()
    }
}

fn is_with_login(head: &str) -> bool {
    head.to_lowercase().contains("authorization: basic ")
}

#[tokio::test]
async fn a_login_is_lent_where_there_are_no_tokens_to_those_who_may_something_there() {
    let basic =
        Fake::start(|_| answer("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n", "")).await;
    let tokens = Fake::start(|_| {
        answer("401 Unauthorized", "WWW-Authenticate: Bearer realm=\"http://a/token\"\r\n", "")
    })
    .await;
    let (basic, tokens) = (basic.at(), tokens.at());
    let registries = known(&[(&basic, with_login(&[])), (&tokens, with_login(&[]))]);
    let access = allowed(&[&format!("{basic}/web"), &format!("{tokens}/web")], &[]);
    let own = [format!("{basic}/own").parse().unwrap()];
    let borrower = borrower(&access, &own);
    let of = |asks: bool, host: &str| {
        registries.lend(&borrower, asks).into_iter().find(|lent| lent.host == host).unwrap()
    };
    let lent = of(true, &basic);
    assert!(lent.password.is_empty() && !lent.grant.is_empty() && lent.bounded, "{lent:?}");
    assert_eq!(lent.pull, [format!("{basic}/own"), format!("{basic}/web")]);
    let lent = of(true, &tokens);
    assert!(lent.password.is_empty() && !lent.grant.is_empty() && lent.bounded, "{lent:?}");
    assert_eq!(lent.pull, [format!("{tokens}/web")]);
    // Workers of before.
    for host in [&basic, &tokens] {
        let lent = of(false, host);
        assert!(lent.password == "pa55word" && lent.pull.is_empty() && lent.grant.is_empty(), "{lent:?}");
        assert!(!lent.bounded, "{lent:?}");
    }
    // When an engine wants it.
    let (_, lent) = registries.lend_login(&borrower, &host(&basic)).await.unwrap();
    assert_eq!((lent.username.as_str(), lent.password.as_str()), ("farm", "pa55word"));
    let nothing = Allowed::default();
    let nothing = Borrower::new(ProjectId::generate(), &nothing, &[]);
    for (borrower, at) in [(&borrower, &tokens), (&nothing, &basic), (&borrower, &"other.example".to_owned())]
    {
        assert!(registries.lend_login(borrower, &host(at)).await.is_err(), "{at}");
    }
}

#[tokio::test]
async fn a_projects_own_login_is_lent_in_the_place_of_the_farms_and_to_no_worker_of_before() {
    let basic =
        Fake::start(|_| answer("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n", "")).await;
    let at = basic.at();
    let registries = known(&[(&at, with_login(&[])), ("theirs.example", with_login(&[]))]);
    let own = [format!("{at}/any/where").parse().unwrap()];
    let with = |logins: &[(RegistryHost, Kept)]| Allowed {
        logins: logins.iter().cloned().collect(),
        with_logins: [host(&at), host("other.example")].into(),
        ..Allowed::default()
    };
    let (one, two) = (with(&[own_login(&at)]), with(&[own_login(&at)]));
    let project = ProjectId::generate();
    let borrower = |allowed| Borrower::new(project, allowed, &own);
    let all = registries.lend(&borrower(&one), true);
    let told: Vec<_> = all
        .iter()
        .map(|lent| (lent.host.as_str(), lent.bounded, lent.pull.len(), lent.grant.is_empty()))
        .collect();
    // Nothing is taken without a look, not even from where it pushes to: it may be another's.
    assert_eq!(
        told,
        [(&*at, true, 0, false), ("other.example", true, 0, true), ("theirs.example", true, 0, true)]
    );
    let again = registries.lend(&borrower(&two), true);
    assert!(
        all[0].grant != again[0].grant && all[0].reader != again[0].reader,
        "another login, another grant"
    );
    assert!(!all[0].reader.is_empty() && all[1].reader.is_empty());
    assert!(registries.lend(&borrower(&one), false).iter().all(|lent| lent.password.is_empty()));
    let (whose, lent) = registries.lend_login(&borrower(&one), &host(&at)).await.unwrap();
    assert_eq!((lent.username.as_str(), lent.password.as_str()), ("own", "0wn"));
    assert!(matches!(whose, Whose::Project(_)));

    // Once it is removed the farm's isn't taken in its place, unless the project may that, too.
    let removed = with(&[(host(&at), Kept::Removed)]);
    let refused = registries.lend_login(&borrower(&removed), &host(&at)).await.unwrap_err().to_string();
    assert!(refused.contains(&format!("farm registry login {at}")), "{refused}");
    assert!(registries.lend(&borrower(&removed), true)[0].grant.is_empty());
    assert!(registries.to_publish(&removed, &own[0]).unwrap_err().message.contains("no login"));
    let access = allowed(&[&format!("{at}/any")], &[]).access;
    let may_too = Allowed { access, ..with(&[(host(&at), Kept::Removed)]) };
    let (whose, _) = registries.lend_login(&borrower(&may_too), &host(&at)).await.unwrap();
    assert!(matches!(whose, Whose::Farm));
    assert!(registries.to_publish(&may_too, &own[0]).unwrap().own().is_none());
    // One that can't be opened passes, once the key is back.
    let lost = with(&[(host(&at), Kept::Lost("its key isn't here".to_owned()))]);
    assert!(registries.to_publish(&lost, &own[0]).unwrap_err().is_transient());
}

#[test]
fn where_another_project_has_a_login_of_its_own_what_the_farms_may_is_looked_up_too() {
    let registries = known(&[("r.example", with_login(&[])), ("r.example:2", Registry::default())]);
    let own: [Repository; 1] = ["r.example/web".parse().unwrap()];
    let mut web = allowed(&["*"], &[]);
    let lent = registries.lend(&borrower(&web, &own), true);
    assert!(lent.iter().all(|lent| !lent.bounded && lent.reader.is_empty()), "{lent:?}");
    web.with_logins.insert(host("r.example"));
    let lent = registries.lend(&borrower(&web, &own), true);
    let [farms, beside] = &lent[..] else { panic!("{lent:?}") };
    assert!(farms.bounded && farms.pull.is_empty() && !farms.grant.is_empty(), "{farms:?}");
    assert!(farms.reader.starts_with("farm "), "{farms:?}");
    assert!(beside.bounded && beside.pull.is_empty() && beside.reader.is_empty(), "{beside:?}");
}

#[test]
fn a_worker_is_told_of_registries_at_which_its_project_may_nothing() {
    let registries = known(&[("mine.example", with_login(&[])), ("theirs.example", with_login(&[]))]);
    let open = Registry::default();
    let registries_and_open = known(&[("theirs.example", with_login(&[])), ("open.example", open)]);
    let access = allowed(&["mine.example/web"], &[]);
    let of = |registries: &Registries, asks: bool| {
        let lent = registries.lend(&borrower(&access, &[]), asks);
        Vec::from_iter(
            lent.into_iter().map(|lent| (lent.host, lent.bounded, lent.pull, lent.grant.is_empty())),
        )
    };
    let (mine, theirs) = ("mine.example".to_owned(), "theirs.example".to_owned());
    let pull = vec!["mine.example/web".to_owned()];
    let told = of(&registries, true);
    assert_eq!(told, [(mine.clone(), true, pull, false), (theirs.clone(), true, Vec::new(), true)]);
    assert!(of(&registries, false).into_iter().map(|(host, ..)| host).eq([mine]), "to a worker of before");
    // Where there is no login, an engine has nothing that not everybody may have.
    assert_eq!(of(&registries_and_open, true), [(theirs, true, Vec::new(), true)]);
}

#[test]
fn what_is_allowed_at_a_registry_without_a_login_is_told_where_another_one_of_its_name_has_one() {
    let registries = known(&[("r.example:1", with_login(&[])), ("r.example:2", Registry::default())]);
    let own = ["r.example:3/own".parse().unwrap(), "other.example/own".parse().unwrap()];
    let access = allowed(
        &["r.example:2/web"],
        &["r.example:2/base", "r.example:4/tools", "r.example:5", "other.example/x"],
    );
    let lent = |asks: bool| registries.lend(&borrower(&access, &own), asks);
    let all = lent(true);
    let told = Vec::from_iter(all.iter().map(|lent| {
        (lent.host.as_str(), lent.bounded, Vec::from_iter(lent.pull.iter().map(String::as_str)))
    }));
    assert_eq!(
        told,
        [
            ("other.example", false, vec![]),
            ("r.example:2", false, vec!["r.example:2/base", "r.example:2/web"]),
            ("r.example:3", false, vec!["r.example:3/own"]),
            ("r.example:4", false, vec!["r.example:4/tools"]),
            ("r.example:5", false, vec!["r.example:5"]),
            ("r.example:1", true, vec![]),
        ]
    );
    assert!(all.iter().all(|lent| lent.grant.is_empty() && lent.username.is_empty()), "{all:?}");
    let before = Vec::from_iter(lent(false).into_iter().map(|lent| (lent.host, lent.pull.len())));
    assert_eq!(
        before,
        [("other.example".to_owned(), 0), ("r.example:2".to_owned(), 0), ("r.example:3".to_owned(), 0)]
    );
}

#[test]
fn what_is_pushed_to_is_told_once_and_whoever_may_all_has_no_bounds() {
    let registries = known(&[("r.example", with_login(&[]))]);
    let own = ["r.example/own".parse().unwrap()];
    let nothing = allowed(&[], &[]);
    let lent = registries.lend(&borrower(&nothing, &own), true);
    let [lent] = &lent[..] else { panic!("{lent:?}") };
    assert!(lent.bounded && lent.pull == ["r.example/own"] && !lent.grant.is_empty(), "{lent:?}");
    let all = allowed(&["*"], &[]);
    let lent = registries.lend(&borrower(&all, &own), true);
    assert!(!lent[0].bounded && lent[0].pull.is_empty() && !lent[0].grant.is_empty(), "{lent:?}");
}

#[test]
fn whoever_may_all_of_a_registry_has_no_bounds_there() {
    let own = ["r.example/own".parse().unwrap()];
    for all in [allowed(&["*"], &[]), allowed(&[], &["r.example"])] {
        assert_eq!(borrower(&all, &own).bounds("r.example"), None);
    }
    let some = allowed(&["r.example/web"], &["r.example/base", "other.example"]);
    let bounds = borrower(&some, &own).bounds("r.example").unwrap();
    assert!(bounds.iter().eq(["r.example/base", "r.example/own", "r.example/web"]), "{bounds:?}");
}

#[tokio::test]
async fn the_realm_is_the_one_that_the_registry_names_to_farm() {
    let realm = Fake::start(|_| answer("200 OK", "", TOKEN)).await;
    let thief = Fake::start(|_| answer("200 OK", "", TOKEN)).await;
    let header = format!("WWW-Authenticate: Bearer realm=\"http://{}/token\",service=\"s\"\r\n", realm.at());
    let registry = Fake::start(move |_| answer("401 Unauthorized", &header, "")).await;
    let at = registry.at();
    let registries = known(&[(&at, with_login(&[&realm.at()]))]);
    let access = allowed(&[], &[&format!("{at}/web")]);
    let asked = asks_for(&at, "repository:web:pull,push", &format!("http://{}/token", thief.at()));
    let lent = registries.lend_token(&borrower(&access, &[]), &asked).await.unwrap().1;
    // 2026-01-01T00:00:10Z.
    assert_eq!((lent.token.as_str(), lent.expires_in, lent.issued_at), ("t0ken", 90, 1_767_225_610));
    assert_eq!(thief.asked(), [""; 0]);
    let asked_of_realm = realm.asked();
    let head = asked_of_realm.last().unwrap();
    assert!(
        is_with_login(head) && head.starts_with("GET /token?service=s&scope=repository%3Aweb%3Apull "),
        "{head}"
    );
    // Without the right to it, without the login, at the same place.
    let asked = asks_for(&at, "repository:api:pull", "");
    let lent = registries.lend_token(&borrower(&access, &[]), &asked).await.unwrap().1;
    assert_eq!(lent.refused, [format!("{at}/api")]);
    assert!(!is_with_login(realm.asked().last().unwrap()));
}

#[tokio::test]
async fn of_a_registry_that_names_none_to_farm_only_its_own_realm_is_asked() {
    let thief = Fake::start(|_| answer("200 OK", "", TOKEN)).await;
    let registry =
        Fake::start(|head| answer("200 OK", "", if head.starts_with("GET /token") { TOKEN } else { "" }))
            .await;
    let at = registry.at();
    let registries = known(&[(&at, with_login(&[]))]);
    let access = allowed(&[], &[&at]);
    let scope = "repository:web:pull";
    let asked = asks_for(&at, scope, &format!("http://{}/token", thief.at()));
    let refused = registries.lend_token(&borrower(&access, &[]), &asked).await.unwrap_err();
    assert!(refused.to_string().contains(&format!("realms of [registries.\"{at}\"]")), "{refused}");
    assert_eq!(thief.asked(), [""; 0]);
    let asked = asks_for(&at, scope, &format!("http://{at}/token"));
    assert_eq!(registries.lend_token(&borrower(&access, &[]), &asked).await.unwrap().1.token, "t0ken");
    assert!(is_with_login(registry.asked().last().unwrap()));
}

#[tokio::test]
async fn a_service_that_gives_nobody_anything_is_no_error_and_one_in_trouble_is() {
    for (status, scope, is_refused) in [
        ("401 Unauthorized", "repository:api:pull", true),
        ("403 Forbidden", "repository:api:pull", true),
        ("401 Unauthorized", "repository:web:pull", false),
        ("503 Service Unavailable", "repository:api:pull", false),
    ] {
        let realm = Fake::start(move |_| answer(status, "", "")).await;
        let header = format!("WWW-Authenticate: Bearer realm=\"http://{}/token\"\r\n", realm.at());
        let registry = Fake::start(move |_| answer("401 Unauthorized", &header, "")).await;
        let at = registry.at();
        let registries = known(&[(&at, with_login(&[&realm.at()]))]);
        let access = allowed(&[&format!("{at}/web")], &[]);
        let lent = registries.lend_token(&borrower(&access, &[]), &asks_for(&at, scope, "")).await;
        match lent {
            Ok((_, lent)) => {
                assert!(
                    is_refused && lent.token.is_empty() && lent.refused == [format!("{at}/api")],
                    "{status} {scope}"
                );
            }
            Err(LendError::Registry(error)) => {
                assert!(
                    !is_refused && error.is_transient() == status.starts_with("503"),
                    "{status} {scope} {error}"
                );
            }
            Err(error) => panic!("{error}"),
        }
    }
}
