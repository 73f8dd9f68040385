//! Private images of several projects at one registry: who gets at what, on one engine.

use farm_tests::farm::{Farm, Output, WorkerSpec};
use farm_tests::registry::{Login, PrivateRegistry};
use farm_tests::tap::Tap;
use farm_tests::token_service::{Asked, PASSWORD, TokenService};

use crate::support::*;

/// A farm with projects api and web, each with a folder of its own at the registry, and a worker whose line is tapped.
fn farm(registry: &str, settings: &str) -> (Farm, Tap) {
    let mut farm = Farm::builder().config(settings).start();
    for project in ["api", "web"] {
        farm.cli(&["project", "create", project]).ok();
        farm.cli(&["project", "allow", project, "--push", &format!("{registry}/{project}")]).ok();
    }
    let tap = Tap::to(farm.port());
    farm.add_worker(WorkerSpec::new("w1").platforms(BOTH).slots(2).by(&tap.url()));
    (farm, tap)
}

/// A build of a project, of this Dockerfile, to these tags.
fn build(farm: &Farm, project: &str, dockerfile: &str, tags: &[&str]) -> Output {
    let context = Context::new(dockerfile);
    let mut args = vec!["--project", project, "--platform", "linux/amd64"];
    args.extend(tags.iter().flat_map(|tag| ["-t", *tag]));
    submit(farm, &context, &args)
}

/// Something to build that nobody has built.
fn own() -> String {
    format!("FROM {BASE}\nCOPY Dockerfile /{}\n", nonce())
}

fn derived(from: &str) -> String {
    format!("FROM {from}\nCOPY Dockerfile /{}\n", nonce())
}

/// The project can't, and is told of what and who can change it.
#[track_caller]
fn is_kept_out(farm: &Farm, project: &str, repository: &str, output: &Output) {
    assert_eq!(output.status, 1, "{output:?}");
    says(&output.stdout, &[&format!("farm project allow {project} --pull {repository}")]);
    let record = farm.cli(&["show", &build_id(&output.stdout), "--project", project, "--json"]).json();
    let failure = &record["failure"];
    assert_eq!(
        (&failure["cause"], &failure["code"]),
        (&"user".into(), &"registry_auth".into()),
        "{record:#}"
    );
}

#[test]
fn where_there_are_tokens_a_build_gets_at_what_its_project_may_and_its_worker_sees_no_password() {
    let service = TokenService::start();
    let registry = PrivateRegistry::start_with_tokens(&service);
    let at = registry.address();
    let (farm, tap) = farm(&at, &service.settings(&at));
    let image = |name: &str| format!("{at}/{name}");
    let (secret, derived_tag) = (image("api/secret:1"), image("api/derived:1"));
    build(&farm, "api", &own(), &[&secret]).ok();
    build(&farm, "default", &own(), &[&image("public/base:1")]).ok();
    // Its own, with layers that may be mounted from where they are; on the same engine, so it is in the cache for sure.
    build(&farm, "api", &derived(&secret), &[&derived_tag]).ok();

    // The project next door, by the tag and by the digest, which nobody else need know.
    let before = service.asked().len();
    let next_door = derived(&secret);
    let output = build(&farm, "web", &next_door, &[&image("web/app:1")]);
    is_kept_out(&farm, "web", &image("api/secret"), &output);
    let is_asked = |asked: &Asked, by_farm, scope: &str| {
        asked.by_farm == by_farm && asked.scopes.iter().any(|s| s == scope)
    };
    let asked = service.asked().split_off(before);
    assert!(asked.iter().any(|asked| is_asked(asked, false, "api/secret:pull")), "{asked:?}");
    assert!(!asked.iter().any(|asked| is_asked(asked, true, "api/secret:pull")), "{asked:?}");

    // What everybody may have, and layers of it that can't be mounted with a token for one's own.
    build(&farm, "web", &derived(&image("public/base:1")), &[&image("web/app:2")]).ok();
    // To two repositories of its own at once.
    build(&farm, "web", &own(), &[&image("web/app:3"), &image("web/other:3")]).ok();
    // Once it may, it can, at once and on the same engine.
    farm.cli(&["project", "allow", "web", "--pull", &image("api/secret")]).ok();
    build(&farm, "web", &next_door, &[&image("web/app:4")]).ok();
    // And not any more.
    farm.cli(&["project", "deny", "web", "--pull", &image("api/secret")]).ok();
    let output = build(&farm, "web", &derived(&secret), &[&image("web/app:5")]);
    is_kept_out(&farm, "web", &image("api/secret"), &output);

    for asked in service.asked().iter().filter(|asked| asked.by_farm) {
        for scope in &asked.scopes {
            let (name, actions) = scope.rsplit_once(':').unwrap();
            // The shared engine may know a layer from another test's repository, at a registry that had the same port: project
            // `default`, which may pull from anywhere, asks to mount it from there.
            let is_own = ["api/", "web/", "public/"].iter().any(|own| name.starts_with(own));
            assert!(is_own || actions == "pull", "{asked:?}");
            assert!(
                name != "api/secret" || ["pull", "pull,push", "push,pull"].contains(&actions),
                "{asked:?}"
            );
        }
    }
    assert!(tap.holds("eyJ") && tap.holds(&image("web/app")), "the tap sees tokens and offers");
    assert!(!tap.holds(PASSWORD), "the worker was told the password");
    let log = std::fs::read_to_string(farm.folder().join("coordinator.log")).unwrap()
        + &std::fs::read_to_string(farm.folder().join("w1.log")).unwrap();
    assert!(!log.contains(PASSWORD) && !log.contains("eyJ"), "a password or token is in a log");
}

#[test]
fn where_there_is_a_login_for_everything_the_engine_is_kept_from_other_projects_images() {
    let login = Login { user: "farm", password: "pa55" };
    let registry = PrivateRegistry::start_with(Some(login));
    let at = registry.address();
    let settings = format!("[registries.'{at}']\nusername = 'farm'\npassword = 'pa55'\n");
    let (farm, _tap) = farm(&at, &settings);
    let image = |name: &str| format!("{at}/{name}");
    let secret = image("api/secret:1");
    build(&farm, "api", &own(), &[&secret]).ok();
    build(&farm, "api", &derived(&secret), &[&image("api/derived:1")]).ok();
    let stored = raw_as(&secret, &["--creds", "farm:pa55"]).unwrap();
    let by_digest = format!("{}@{}", image("api/secret"), digest_of(&stored));
    let in_capitals = secret.replace("localhost", "LOCALHOST");
    for from in [&secret, &by_digest, &in_capitals] {
        let output = build(&farm, "web", &derived(from), &[&image("web/app:1")]);
        let (host, _) = from.split_once('/').unwrap();
        is_kept_out(&farm, "web", &format!("{}/api/secret", host.to_lowercase()), &output);
    }
    // Not as a stage's source either, nor in another stage.
    let copied = format!("FROM {BASE}\nCOPY --from={secret} / /x/{}\n", nonce());
    let output = build(&farm, "web", &copied, &[&image("web/app:1")]);
    is_kept_out(&farm, "web", &image("api/secret"), &output);

    build(&farm, "web", &own(), &[&image("web/base:1")]).ok();
    build(&farm, "web", &derived(&image("web/base:1")), &[&image("web/app:2")]).ok();
    farm.cli(&["project", "allow", "web", "--pull", &image("api/secret")]).ok();
    build(&farm, "web", &derived(&secret), &[&image("web/app:3")]).ok();
    // A name that begins alike is another one.
    build(&farm, "api", &own(), &[&image("api/secret2:1")]).ok();
    let output = build(&farm, "web", &derived(&image("api/secret2:1")), &[&image("web/app:4")]);
    is_kept_out(&farm, "web", &image("api/secret2"), &output);
}
