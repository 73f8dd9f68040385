//! Projects' own logins at registries: private base images, pushes, and what projects that share an engine get of each other.

mod given;

use std::process::Stdio;

use farm_tests::farm::{Farm, Output};
use farm_tests::registry::{Login, PrivateRegistry};
use farm_tests::token_service::{TokenService, password_of};

use crate::gate::Gate;
use crate::support::*;

/// `farm registry login` in a project.
pub fn login(farm: &Farm, project: &str, host: &str, user: &str, password: &str) -> Output {
    use std::io::Write as _;
    let args = ["registry", "login", host, "-u", user, "--password-stdin", "--project", project];
    let mut command = farm.command(&args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{password}").unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Output { status: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A farm with TLS and these projects, none of which is allowed anything.
fn farm(settings: &str, projects: &[&str]) -> Farm {
    let farm = with_worker(Farm::builder().tls().config(settings));
    for project in projects {
        farm.cli(&["project", "create", project]).ok();
    }
    farm
}

/// A build of a project, of this Dockerfile, to this tag; to none, if it is empty.
fn build(farm: &Farm, project: &str, dockerfile: &str, tag: &str) -> Output {
    let context = Context::new(dockerfile);
    let mut args = vec!["--project", project, "--platform", "linux/amd64"];
    if !tag.is_empty() {
        args.extend(["-t", tag]);
    }
    submit(farm, &context, &args)
}

/// Something to build that nobody has built.
fn own() -> String {
    format!("FROM {BASE}\nCOPY Dockerfile /{}\n", nonce())
}

fn derived(from: &str) -> String {
    format!("FROM {from}\nCOPY Dockerfile /{}\n", nonce())
}

/// The build fails as one that may not, and says what to do.
#[track_caller]
fn is_kept_out(farm: &Farm, project: &str, output: &Output, says_so: &str) {
    assert_eq!(output.status, 1, "{output:?}");
    says(&output.stdout, &[says_so]);
    let record = farm.cli(&["show", &build_id(&output.stdout), "--project", project, "--json"]).json();
    let (cause, code) = (&record["failure"]["cause"], &record["failure"]["code"]);
    let codes = ["registry_auth", "base_image_missing"];
    assert!(*cause == "user" && codes.iter().any(|known| *code == *known), "{record:#}");
}

#[test]
fn where_there_are_tokens_each_project_gets_at_what_its_own_login_may_on_one_engine() {
    let service = TokenService::start();
    let registry = PrivateRegistry::start_with_tokens(&service);
    let at = registry.address();
    let settings = format!("[registries.'{at}']\nrealms = ['{}']\n", service.at());
    let farm = farm(&settings, &["web", "api"]);
    let image = |name: &str| format!("{at}/{name}");
    let wrong = login(&farm, "web", &at, "web", "wrong");
    refused(&wrong, 2, &["doesn't take this password for user \"web\""]);
    says(
        &login(&farm, "web", &at, "web", &password_of("web")).ok(),
        &["project web has a login at", "as web"],
    );
    login(&farm, "api", &at, "api", &password_of("api")).ok();
    let list = farm.cli(&["registry", "ls", "--project", "web"]).ok();
    says(&list, &["HOST", "LAST USED", &at, "never"]);

    // Nobody has allowed them anything.
    let (secret, base) = (image("api/secret:1"), image("web/base:1"));
    build(&farm, "api", &own(), &secret).ok();
    build(&farm, "web", &own(), &base).ok();
    build(&farm, "web", &derived(&base), &image("web/app:1")).ok();
    crate::schemas::fits("logins", &farm.cli(&["registry", "ls", "--project", "web", "--json"]).ok());
    crate::schemas::fits("project", &farm.cli(&["project", "show", "web", "--json"]).ok());
    let used = farm.cli(&["registry", "ls", "--project", "web", "--json"]).json();
    assert!(used["logins"][0]["last_used"].is_string() && used["logins"][0]["user"] == "web", "{used:#}");
    let inspected = farm.cli(&["inspect", &secret, "--project", "api"]).ok();
    let digest = format!("sha256:{}", inspected.split("sha256:").nth(1).unwrap()[..64].to_owned());

    // The engine has all of it; by the tag, by the digest, and by that in a repository that one may read.
    let cure = format!("farm registry login {at} --project web");
    for from in [secret.clone(), format!("{}@{digest}", image("api/secret"))] {
        is_kept_out(&farm, "web", &build(&farm, "web", &derived(&from), &image("web/app:2")), &cure);
        let output = build(&farm, "default", &derived(&from), "");
        is_kept_out(&farm, "default", &output, &format!("farm registry login {at} --project default"));
    }
    let beside =
        build(&farm, "web", &derived(&format!("{}@{digest}", image("web/base"))), &image("web/app:2"));
    is_kept_out(&farm, "web", &beside, "not found");
    let denied = farm.cli(&["inspect", &secret, "--project", "web"]);
    assert_ne!(denied.status, 0, "{denied:?}");
    // Nor can it push there: that is the registry's to say.
    let output = build(&farm, "web", &own(), &image("api/web:1"));
    assert_eq!(output.status, 1, "{output:?}");

    // A step outlives the token by which its base came, and the push wants another one.
    service.set_life(2);
    let before = service.asked().len();
    let slow = format!("FROM {base}\nRUN sleep 4 # {}\n", nonce());
    build(&farm, "web", &slow, &image("web/slow:1")).ok();
    let asked = service.asked().split_off(before);
    assert!(
        asked.iter().filter(|asked| !asked.scopes.is_empty()).all(|asked| asked.user == "web"),
        "{asked:?}"
    );
    service.set_life(300);

    // Removed while a build runs: what it still needs is refused, with the cure.
    let gate = Gate::new();
    let context = gate.context();
    let tag = image("web/late:1");
    let args = ["submit", context.text(), "--project", "web", "--platform", "linux/amd64", "-t", &tag];
    let mut cli = farm.cli_spawn("late", &args);
    let arrival = gate.arrival();
    farm.cli(&["registry", "rm", &at, "--project", "web"]).ok();
    arrival.open();
    assert_eq!(cli.wait_exit(LONG).code(), Some(1), "{}", cli.tail());
    says(&cli.output(), &[&format!("farm registry login {at}")]);
    assert!(raw_as(&tag, &["--creds", &format!("farm:{}", password_of("farm"))]).is_none());
    let log = std::fs::read_to_string(farm.folder().join("coordinator.log")).unwrap()
        + &std::fs::read_to_string(farm.folder().join("w1.log")).unwrap();
    assert!(!log.contains("Pa55-of") && !log.contains("eyJ"), "a password or token is in a log");
}

#[test]
fn where_there_are_none_the_login_is_lent_and_what_it_pulled_is_closed_to_all_others() {
    let ci = Login { user: "ci", password: "Pa55-of-ci" };
    let registry = PrivateRegistry::start_with(Some(ci));
    let at = registry.address();
    let mut farm = farm(&format!("[registries.'{at}']\n"), &["web", "api"]);
    // A farm's admin lets everybody everywhere: with the farm's login, of which there is none here.
    farm.cli(&["project", "allow", "api", "--push", "*"]).ok();
    login(&farm, "web", &at, ci.user, ci.password).ok();
    let image = |name: &str| format!("{at}/{name}");
    let base = image("web/base:1");
    build(&farm, "web", &own(), &base).ok();
    build(&farm, "web", &derived(&base), &image("web/app:1")).ok();
    let stored = raw_as(&base, &["--creds", "ci:Pa55-of-ci"]).unwrap();
    for from in [base.clone(), format!("{}@{}", image("web/base"), digest_of(&stored))] {
        let output = build(&farm, "api", &derived(&from), "");
        is_kept_out(&farm, "api", &output, &format!("farm registry login {at} --project api"));
    }
    // What came to nothing is cleaned by the login that pushed it, and left where that is removed.
    let come_to_nothing = |farm: &Farm| {
        let gate = Gate::new();
        let (context, tag) = (crate::retrying::context(&gate), image("web/half:1"));
        let args = ["--project", "web", "-t", &tag, "--platform", "linux/amd64,linux/arm64", "--detach"];
        let id = build_id(&submit(farm, &context, &args).ok());
        let step = gate.arrival();
        let record = || farm.cli(&["show", &id, "--project", "web", "--json"]).json();
        until("linux/amd64", LONG, || {
            (crate::retrying::platform(&record(), "linux/amd64")["state"] == "succeeded").then_some(())
        });
        farm.cli(&["cancel", &id, "--project", "web"]).ok();
        step.wait_killed(LONG);
        until("cancelled build", LONG, || (record()["state"] == "cancelled").then_some(()));
    };
    let clean = |farm: &mut Farm| {
        farm_tests::database::psql(
            farm.database_url(),
            "UPDATE builds SET finished_at = finished_at - interval '25 hours';
             UPDATE pushed_digests SET pushed_at = pushed_at - interval '25 hours';
             UPDATE destinations SET settled_at = settled_at - interval '25 hours';
             UPDATE cleanings SET next_at = next_at - interval '25 hours'",
        );
        farm.stop_coordinator();
        farm.start_coordinator();
        until("it is decided", LONG, || {
            let open = "SELECT count(*) FROM pushed_digests WHERE fate IS NULL";
            (farm_tests::database::psql(farm.database_url(), open) == "0").then_some(())
        });
    };
    come_to_nothing(&farm);
    clean(&mut farm);
    says(&farm.coordinator().output(), &["removed=1 needed=0"]);
    come_to_nothing(&farm);
    farm.cli(&["registry", "rm", &at, "--project", "web"]).ok();
    clean(&mut farm);
    says(&farm.coordinator().output(), &["the login by which they did is removed", "removed=0 needed=0"]);
}
