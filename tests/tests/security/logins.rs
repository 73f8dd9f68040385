//! Projects' own logins at registries: who sets them, what is kept of them, and who is lent what by them.

mod git;
mod given;
mod helpers;

use farm_proto::v1;
use farm_tests::client::{Client, Sim, hello};
use farm_tests::database::psql;
use farm_tests::farm::{Farm, output, program};
use farm_tests::machine;
use farm_tests::ports::free_port;
use farm_tests::registry::{Login, PrivateRegistry};
use farm_tests::token_service::{TokenService, access, password_of};
use tonic::{Code, Response, Status};

use crate::team;
use crate::workers::connect;

fn asks(name: &str) -> v1::Hello {
    let mut hello = hello(name, 8);
    hello.features.push("tokens".to_owned());
    hello
}

async fn set(
    client: &mut Client,
    host: &str,
    user: &str,
    password: &str,
) -> Result<v1::RegistryLogin, Status> {
    let request = v1::SetRegistryLoginRequest {
        host: host.to_owned(),
        username: user.to_owned(),
        password: password.to_owned(),
        helper: String::new(),
    };
    let set = client.registries.set_registry_login(request).await?.into_inner();
    Ok(set.login.unwrap())
}

async fn list(client: &mut Client) -> Vec<v1::RegistryLogin> {
    let listed = client.registries.list_registry_logins(v1::ListRegistryLoginsRequest {}).await;
    listed.unwrap().into_inner().logins
}

async fn remove(client: &mut Client, host: &str) -> Result<(), Status> {
    let request = v1::RemoveRegistryLoginRequest { host: host.to_owned() };
    client.registries.remove_registry_login(request).await.map(drop)
}

async fn submit(client: &mut Client, tag: &str, key: &str) -> Result<(), Status> {
    let spec = v1::BuildSpec {
        snapshot: Some(client.upload("FROM scratch").await),
        dockerfile: "Dockerfile".to_owned(),
        platforms: vec!["linux/amd64".to_owned()],
        tags: vec![tag.to_owned()],
        ..Default::default()
    };
    let request =
        v1::SubmitBuildRequest { idempotency_key: key.to_owned(), spec: Some(spec), ..Default::default() };
    client.builds.submit_build(request).await.map(drop)
}

async fn token(sim: &mut Sim, lease: &v1::Lease, host: &str, scope: &str) -> Result<Vec<String>, Status> {
    let request = v1::LendTokenRequest {
        lease: Some(lease.clone()),
        host: host.to_owned(),
        scopes: vec![format!("repository:{scope}")],
        ..Default::default()
    };
    sim.work.lend_token(request).await.map(|lent| access(&lent.into_inner().token))
}

async fn login(sim: &mut Sim, lease: &v1::Lease, host: &str) -> Result<(String, String), Status> {
    let request = v1::LendLoginRequest { lease: Some(lease.clone()), host: host.to_owned() };
    let lent = sim.work.lend_login(request).await.map(Response::into_inner)?;
    Ok((lent.username, lent.password))
}

async fn look_up(sim: &mut Sim, lease: &v1::Lease, image: String) -> v1::LookUpImageResponse {
    let request = v1::LookUpImageRequest { lease: Some(lease.clone()), image };
    sim.work.look_up_image(request).await.unwrap().into_inner()
}

/// The next offer that wasn't made before.
async fn next(sim: &mut Sim, seen: &mut Vec<String>) -> v1::Offered {
    loop {
        let offered = sim.offer().await;
        let attempt = offered.lease.clone().unwrap().attempt_id;
        if !seen.contains(&attempt) {
            seen.push(attempt);
            return offered;
        }
    }
}

fn of<'a>(offered: &'a v1::Offered, host: &str) -> &'a v1::Registry {
    offered.registries.iter().find(|registry| registry.host == host).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_kept_if_its_registry_takes_it_and_shown_to_nobody_again() {
    let service = TokenService::start();
    let (tokens, mut basic) = (
        PrivateRegistry::start_with_tokens(&service),
        PrivateRegistry::start_with(Some(Login { user: "ci", password: "Pa55-of-basic" })),
    );
    let (t, b) = (tokens.address(), basic.address());
    let away = format!("localhost:{}", free_port());
    let config = format!(
        "[registries.'{t}']\nrealms = ['{}']\n[registries.'{b}']\n[registries.'{away}']\n",
        service.at()
    );
    let farm = Farm::builder().tls().guarded().config(&config).start();
    team::project(&farm, "web").await;
    let ada = team::person(&farm, "ada", "web", "admin").await;
    let pia = team::person(&farm, "pia", "web", "publisher").await;
    let (mut ada, mut pia) = (Client::with_token(&farm, &ada).await, Client::with_token(&farm, &pia).await);

    for (host, user, password, code, said) in [
        (&*t, "web", "wrong", Code::InvalidArgument, "doesn't take this password for user \"web\""),
        (&b, "ci", "wrong", Code::InvalidArgument, "docker login"),
        (&b, "", "x", Code::InvalidArgument, "user"),
        (&b, "a:b", "x", Code::InvalidArgument, "without a colon"),
        (&b, "ci", "", Code::InvalidArgument, "password"),
        ("no host/x", "ci", "x", Code::InvalidArgument, "registry"),
        (&away, "ci", "x", Code::Unavailable, "nothing was kept"),
        // No way to find out what is behind the coordinator: the words of every other refusal.
        ("10.0.0.7:5000", "ci", "x", Code::FailedPrecondition, "sends nothing there unasked"),
        ("localhost:1", "ci", "x", Code::FailedPrecondition, "sends nothing there unasked"),
    ] {
        let refused = set(&mut ada, host, user, password).await.unwrap_err();
        assert_eq!(refused.code(), code, "{host}: {refused:?}");
        assert!(refused.message().contains(said), "{host}: {refused:?}");
        assert!(!refused.message().contains("wrong"), "{refused:?}");
    }
    assert!(list(&mut ada).await.is_empty());
    let refused = set(&mut pia, &b, "ci", "Pa55-of-basic").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    let kept = set(&mut ada, &b.to_uppercase(), "ci", "Pa55-of-basic").await.unwrap();
    assert_eq!((&*kept.host, &*kept.username, &*kept.created_by, kept.last_used_ms), (&*b, "ci", "ada", 0));
    set(&mut ada, &t, "web", &password_of("web")).await.unwrap();
    // One that isn't taken leaves the other where it is.
    set(&mut ada, &b, "ci", "wrong").await.unwrap_err();
    basic.stop();
    set(&mut ada, &b, "ci", "Pa55-of-basic").await.unwrap_err();
    let hosts = |logins: Vec<v1::RegistryLogin>| Vec::from_iter(logins.into_iter().map(|login| login.host));
    let mut both = [b.clone(), t.clone()];
    both.sort();
    assert_eq!(hosts(list(&mut ada).await), both);
    let project = ada.projects.get_access(v1::GetAccessRequest {}).await.unwrap().into_inner();
    assert_eq!(project.logins, both);

    // Whoever has the database only has nothing of it.
    let all = "SELECT string_agg(r, ' ') FROM (SELECT to_jsonb(l)::text AS r FROM registry_logins l
               UNION ALL SELECT to_jsonb(a)::text FROM audit a) rows";
    let dumped = psql(farm.database_url(), all);
    assert!(dumped.contains("sealed_key"), "{dumped}");
    for password in ["Pa55-of-basic", &password_of("web")] {
        assert!(!dumped.contains(password));
        let hex: String = password.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert!(!dumped.contains(&hex));
    }
    let log = std::fs::read_to_string(farm.folder().join("coordinator.log")).unwrap();
    assert!(log.contains("a project's login was set") && !log.contains("Pa55"), "{log}");

    remove(&mut ada, &b).await.unwrap();
    let none = remove(&mut ada, &b).await.unwrap_err();
    assert!(none.message().contains("farm registry ls"), "{none:?}");
    assert_eq!(hosts(list(&mut ada).await), [t]);
    let rows = "SELECT string_agg(action || ' ' || (subject = '{b}'), ',' ORDER BY id) FROM audit WHERE action LIKE 'registry.%'"
        .replace("{b}", &b);
    assert_eq!(
        psql(farm.database_url(), &rows),
        "registry.login true,registry.login false,registry.logout true"
    );
    git::are_sealed_and_told_to_nobody(&farm, &mut ada, &mut pia).await;
    // With the project its logins go.
    let mut admin = Client::connect(&farm).await;
    admin.projects.remove_project(v1::RemoveProjectRequest { name: "web".to_owned() }).await.unwrap();
    let left = "SELECT count(*) FROM registry_logins WHERE sealed IS NOT NULL OR removed_at IS NULL";
    assert_eq!(psql(farm.database_url(), left), "0");
    assert_eq!(psql(farm.database_url(), "SELECT count(*) FROM git_logins"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_logins_at_one_registry_are_lent_to_their_own_projects_and_neither_opens_what_the_other_may_read()
{
    let service = TokenService::start();
    let registry = PrivateRegistry::start_with_tokens(&service);
    let at = registry.address();
    // The farm has one of its own there, which nobody is allowed.
    let farm = Farm::builder().tls().config(&service.settings(&at)).start();
    let mut clients = Vec::new();
    for project in ["web", "api", "none"] {
        team::project(&farm, project).await;
        let token = team::person(&farm, &format!("{project}-ada"), project, "admin").await;
        clients.push(Client::with_token(&farm, &token).await);
    }
    let [web, api, none] = &mut clients[..] else { panic!() };
    let tag = |name: &str| format!("{at}/{name}:dev");
    let refused = submit(web, &tag("web/app"), "0").await.unwrap_err();
    assert!(refused.message().contains(&format!("farm registry login {at} --project web")), "{refused:?}");
    set(web, &at, "web", &password_of("web")).await.unwrap();
    set(api, &at, "api", &password_of("api")).await.unwrap();
    let good = machine::machine(&farm, "good").await;
    let (mut sim, mut seen) = (connect(&farm, &good, asks("good")).await.unwrap(), Vec::new());
    let before = set(web, &at, "web", &password_of("web")).await.unwrap();
    assert_eq!(before.last_used_ms, 0);

    // As far as the login goes, without a word of the farm's admin: the registry says what it may.
    submit(web, &tag("web/app"), "1").await.unwrap();
    let of_web = next(&mut sim, &mut seen).await;
    let lease = of_web.lease.clone().unwrap();
    let lent = of(&of_web, &at);
    assert!(lent.bounded && lent.pull.is_empty() && !lent.grant.is_empty() && !lent.reader.is_empty());
    assert!(!format!("{of_web:?}").contains("Pa55"));
    let asked = async |sim: &mut Sim, scope: &str| token(sim, &lease, &at, scope).await.unwrap();
    assert_eq!(asked(&mut sim, "web/app:pull,push").await, ["web/app:pull,push"]);
    assert_eq!(asked(&mut sim, "web/other:pull,push").await, ["web/other:pull"], "not the job's to push");
    assert_eq!(asked(&mut sim, "api/secret:pull").await, ["api/secret:"], "the registry doesn't let it");
    assert!(service.asked().iter().rev().take(3).all(|asked| asked.user == "web"));
    assert!(list(web).await[0].last_used_ms > 0);
    assert_eq!(list(api).await[0].last_used_ms, 0);
    // A login goes to no worker where there are tokens.
    assert_eq!(login(&mut sim, &lease, &at).await.unwrap_err().code(), Code::InvalidArgument);
    let looked = look_up(&mut sim, &lease, tag("api/secret")).await;
    assert!(!looked.public && looked.reader == lent.reader);
    let (user, scopes) = service.asked().pop().map(|asked| (asked.user, asked.scopes)).unwrap();
    assert_eq!((user.as_str(), scopes), ("web", vec!["api/secret:pull".to_owned()]));

    submit(api, &tag("api/app"), "2").await.unwrap();
    let of_api = next(&mut sim, &mut seen).await;
    let other = of(&of_api, &at);
    assert!(other.grant != lent.grant && other.reader != lent.reader);
    // One that has none there is kept from what the others' have pulled.
    submit(none, "localhost:1/x:dev", "3").await.unwrap_err();
    team::allow(&farm, "none", "push", "r.example/none").await;
    submit(none, "r.example/none:dev", "4").await.unwrap();
    let of_none = next(&mut sim, &mut seen).await;
    let closed = of(&of_none, &at);
    assert!(closed.bounded && closed.pull.is_empty() && closed.grant.is_empty() && closed.reader.is_empty());
    let own = of_none.lease.clone().unwrap();
    let looked = look_up(&mut sim, &own, tag("web/app")).await;
    assert!(!looked.public && looked.reader.is_empty() && service.asked().pop().unwrap().user.is_empty());
    // Nor does the farm's do it for a project that has none: what was asked for is worth what anybody gets.
    assert_eq!(token(&mut sim, &own, &at, "web/app:pull").await.unwrap(), ["web/app:"]);

    // Another login counts at once, and another grant with it; one that is removed isn't replaced by the farm's.
    set(web, &at, "farm", &password_of("farm")).await.unwrap();
    assert_eq!(asked(&mut sim, "api/secret:pull").await, ["api/secret:pull"]);
    submit(web, &tag("web/app"), "5").await.unwrap();
    let later = next(&mut sim, &mut seen).await;
    assert!(of(&later, &at).grant != lent.grant && of(&later, &at).reader != lent.reader);
    remove(web, &at).await.unwrap();
    let gone = token(&mut sim, &lease, &at, "web/app:pull,push").await.unwrap_err();
    assert_eq!(gone.code(), Code::PermissionDenied, "{gone:?}");
    assert!(gone.message().contains(&format!("farm registry login {at}")), "{gone:?}");
    // Whoever is allowed the farm's goes on with that.
    team::allow(&farm, "web", "push", &format!("{at}/web")).await;
    assert_eq!(asked(&mut sim, "web/app:pull,push").await, ["web/app:pull,push"]);
    assert_eq!(service.asked().pop().unwrap().user, "farm");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_goes_over_tls_only_and_to_workers_that_ask_for_a_job_of_its_project() {
    let (ci, farms) =
        (Login { user: "ci", password: "Pa55-of-ci" }, Login { user: "farm", password: "Pa55-of-the-farm" });
    let (registry, other) = (PrivateRegistry::start_with(Some(ci)), PrivateRegistry::start_with(Some(farms)));
    let (at, farms_at) = (registry.address(), other.address());
    let config = format!(
        "[registries.'{at}']\n[registries.'{farms_at}']\nusername = 'farm'\npassword = 'Pa55-of-the-farm'\n"
    );
    let farm = Farm::builder().tls().config(&config).start();
    for project in ["web", "api"] {
        team::project(&farm, project).await;
        team::allow(&farm, project, "push", &format!("{farms_at}/{project}")).await;
    }
    let ada = team::person(&farm, "ada", "web", "admin").await;
    let bob = team::person(&farm, "bob", "api", "builder").await;
    let (mut ada, mut bob) = (Client::with_token(&farm, &ada).await, Client::with_token(&farm, &bob).await);
    set(&mut ada, &at, ci.user, ci.password).await.unwrap();
    let good = machine::machine(&farm, "good").await;
    let (mut sim, mut seen) = (connect(&farm, &good, asks("good")).await.unwrap(), Vec::new());
    submit(&mut ada, &format!("{at}/app:dev"), "1").await.unwrap();
    let of_web = next(&mut sim, &mut seen).await.lease.unwrap();
    submit(&mut bob, &format!("{farms_at}/api:dev"), "2").await.unwrap();
    let offered = next(&mut sim, &mut seen).await;
    assert!(offered.registries.iter().all(|registry| registry.password.is_empty()));
    let of_api = offered.lease.unwrap();
    for (lease, host, lent) in [
        (&of_web, &at, Some(ci)),
        (&of_web, &farms_at, Some(farms)),
        (&of_api, &farms_at, Some(farms)),
        (&of_api, &at, None),
    ] {
        let told = login(&mut sim, lease, host).await;
        match lent {
            Some(Login { user, password }) => {
                assert_eq!(told.unwrap(), (user.to_owned(), password.to_owned()))
            }
            None => assert_eq!(told.unwrap_err().code(), Code::PermissionDenied),
        }
    }
    remove(&mut ada, &at).await.unwrap();
    let gone = login(&mut sim, &of_web, &at).await.unwrap_err();
    assert_eq!(gone.code(), Code::PermissionDenied);
    assert!(gone.message().contains(&format!("farm registry login {at}")), "{gone:?}");
    // A worker of before is lent the farm's as it was, and never a project's own.
    set(&mut ada, &at, ci.user, ci.password).await.unwrap();
    drop(sim);
    let old = machine::machine(&farm, "old").await;
    let mut old = connect(&farm, &old, hello("old", 8)).await.unwrap();
    submit(&mut ada, &format!("{at}/app:dev"), "3").await.unwrap();
    let offered = next(&mut old, &mut seen).await;
    let own = of(&offered, &at);
    assert!(own.password.is_empty() && own.grant.is_empty());
    assert_eq!(of(&offered, &farms_at).password, farms.password);

    // Where others could read it.
    let open = Farm::builder().config(&config).start();
    let mut admin = Client::connect(&open).await;
    let refused = set(&mut admin, &at, ci.user, ci.password).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    assert!(refused.message().contains("--insecure-secrets"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_seals_logins_anew_and_one_whose_key_is_lost_is_told() {
    let registry = PrivateRegistry::start_with(Some(Login { user: "ci", password: "Pa55-of-ci" }));
    let at = registry.address();
    let mut farm = Farm::builder().tls().config(&format!("[registries.'{at}']\n")).start();
    let mut admin = Client::connect(&farm).await;
    set(&mut admin, &at, "ci", "Pa55-of-ci").await.unwrap();
    let good = machine::machine(&farm, "good").await;
    let mut sim = connect(&farm, &good, asks("good")).await.unwrap();
    submit(&mut admin, &format!("{at}/app:dev"), "1").await.unwrap();
    let lease = sim.offer().await.lease.unwrap();
    let by = "SELECT key_id FROM registry_logins";
    let first = psql(farm.database_url(), by);
    let keys = |farm: &Farm, args: &[&str]| {
        let mut command = program("farm-coordinator");
        command.arg("--state-dir").arg(farm.folder().join("coordinator"));
        output(command.args(["--database-url", farm.database_url(), "keys"]).args(args))
    };
    let refused = keys(&farm, &["rm", &first]);
    assert!(refused.stderr.contains("1 are sealed by"), "{refused:?}");
    keys(&farm, &["rotate"]).ok();
    let limit = std::time::Instant::now() + crate::workers::LONG;
    while psql(farm.database_url(), by) == first {
        assert!(std::time::Instant::now() < limit, "it isn't sealed anew");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(login(&mut sim, &lease, &at).await.unwrap().1, "Pa55-of-ci");

    let file = farm.folder().join("coordinator/keys");
    let kept = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    farm.kill_coordinator();
    farm.start_coordinator();
    let mut lost = login(&mut sim, &lease, &at).await.unwrap_err();
    // The first call may find the old connection.
    if !lost.message().contains("key") {
        lost = login(&mut sim, &lease, &at).await.unwrap_err();
    }
    assert_eq!(lost.code(), Code::Unavailable, "{lost:?}");
    std::fs::write(&file, kept).unwrap();
    let limit = std::time::Instant::now() + crate::workers::LONG;
    while login(&mut sim, &lease, &at).await.is_err() {
        assert!(std::time::Instant::now() < limit, "the key is back and not found");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
