//! The command line: what an admin trusts by it, and a job that has no secret of its own.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farm_tests::actions::Actions;
use farm_tests::farm::{Farm, Output, output, program};
use farm_tests::issuer::{Issuer, Key, Kind};
use farm_tests::process::Child;
use serde_json::{Value, json};

/// What the farm of these tests is called by, and so its audience.
const AUDIENCE: &str = "https://127.0.0.1/farm";

struct World {
    farm: Farm,
    issuer: Issuer,
    key: Arc<Key>,
    home: tempfile::TempDir,
}

fn world_of(audience: &str) -> World {
    let key = Arc::new(Key::new("one", Kind::Es256));
    let issuer = Issuer::start(&[&key]);
    let config =
        format!("[oidc]\naudience = '{audience}'\n[oidc.issuers.'{}']\nplain_http = true\n", issuer.url());
    let farm = Farm::builder().config(&config).start();
    World { farm, issuer, key, home: tempfile::tempdir().unwrap() }
}

fn world() -> World {
    world_of(AUDIENCE)
}

fn wait<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "no {what} within 30 s");
        std::thread::sleep(Duration::from_millis(100));
    }
}

impl World {
    /// The project `default` trusts the repository acme/app, as its admin says.
    fn trust(&self, more: &[&str]) -> String {
        let issuer = self.issuer.url();
        let mut args =
            vec!["trust", "add", "github", "acme/app", "--repository-id", "74", "--owner-id", "65"];
        args.extend(["--role", "builder", "--issuer", &issuer]);
        args.extend(more);
        self.farm.cli(&args).ok()
    }

    /// A command of somebody who has no token, in a home that is empty.
    fn stranger(&self, args: &[&str]) -> Command {
        let mut command = program("farm");
        command.args(args).env("FARM_URL", self.farm.url()).env("HOME", self.home.path());
        command.env_remove("DOCKER_CONFIG");
        command
    }

    /// The same in the project `default`.
    fn job(&self, args: &[&str]) -> Command {
        let mut command = self.stranger(args);
        command.env("FARM_PROJECT", "default");
        command
    }

    fn token(&self, changes: Value) -> String {
        let mut claims = self.issuer.job(json!({ "aud": AUDIENCE }));
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        self.key.sign(&claims)
    }

    fn with_token(&self, token: &str, args: &[&str]) -> Output {
        output(self.job(args).env("FARM_ID_TOKEN", token))
    }

    fn actions(&self) -> Actions {
        Actions::start(&self.issuer, &self.key)
    }

    fn sql(&self, statement: &str) -> String {
        farm_tests::database::psql(self.farm.database_url(), statement)
    }

    /// A job's submit that waits: there is no worker.
    fn waiting(&self, name: &str, command: &mut Command) -> (Child, String) {
        let context = self.home.path().join("app");
        std::fs::create_dir_all(&context).unwrap();
        std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
        let child = Child::spawn(name, command.current_dir(&context), self.home.path());
        let id = wait("build", || {
            let listed = self.farm.cli(&["builds", "--json"]).json();
            let queued = listed["builds"].as_array()?.iter().find(|build| build["state"] == "queued")?;
            Some(queued["id"].as_str()?.to_owned())
        });
        (child, id)
    }
}

fn refused(output: &Output, status: i32, parts: &[&str]) {
    assert_eq!(output.status, status, "{output:?}");
    for part in parts {
        assert!(output.stderr.contains(part), "no {part:?} in {output:?}");
    }
}

#[test]
fn a_job_of_github_needs_no_secret_and_goes_on_when_its_time_is_over() {
    let world = world();
    let actions = world.actions();
    let said = world.trust(&["--ref", "refs/heads/*"]);
    let is = "project default trusts github acme/app (repository_id 74, repository_owner_id 65) as builder, if its token says";
    assert!(said.starts_with(is) && said.contains("permissions: { id-token: write }"), "{said}");
    let who = output(actions.job(&mut world.job(&["whoami"])));
    let is = "who      github:acme/app@refs/heads/main, by a token of its own system";
    assert!(who.stdout.starts_with(is) && who.stdout.contains("builder of default"), "{who:?}");
    assert_eq!(actions.audiences(), [AUDIENCE]);
    // A command of many calls asks once.
    let (mut child, id) =
        world.waiting("submit", actions.job(&mut world.job(&["submit", ".", "--platform", "linux/amd64"])));
    assert_eq!(actions.audiences().len(), 2);

    // Its time is over in the middle: it gets another token, and goes on.
    world.sql("UPDATE tokens SET expires_at = farm_now() - interval '1 second' WHERE trust_id IS NOT NULL");
    wait("other token", || (actions.audiences().len() == 3).then_some(()));
    world.farm.cli(&["cancel", &id]).ok();
    let ended = child.wait_exit(Duration::from_secs(30));
    let log = child.output();
    assert!(log.contains("cancelled") && !log.contains("the farm at"), "{ended:?} {log}");
    assert_eq!((actions.audiences().len(), world.sql("SELECT count(*) FROM seen_tokens").as_str()), (3, "3"));

    // Nothing trusts it any more: also what is under way ends, and is told why.
    let (mut child, _) = world.waiting(
        "other",
        actions.job(&mut world.job(&["submit", ".", "--platform", "linux/amd64", "--build-arg", "A=1"])),
    );
    assert_eq!(
        world.farm.cli(&["trust", "rm", "acme/app"]).ok().trim(),
        "project default trusts github acme/app no more"
    );
    assert_eq!(child.wait_exit(Duration::from_secs(30)).code(), Some(3));
    assert!(child.output().contains("takes no tokens of"), "{}", child.output());
}

#[test]
fn a_token_that_the_job_has_already_serves_one_command() {
    let world = world();
    world.trust(&[]);
    let token = world.token(json!({}));
    let (mut child, id) = world.waiting(
        "submit",
        world.job(&["submit", ".", "--platform", "linux/amd64"]).env("FARM_ID_TOKEN", &token),
    );
    let again = world.with_token(&token, &["whoami"]);
    refused(
        &again,
        3,
        &["doesn't take the token in FARM_ID_TOKEN: the token was used before", "serves one command"],
    );
    assert!(!again.stderr.contains(&token), "{again:?}");
    world.sql("UPDATE tokens SET expires_at = farm_now() - interval '1 second' WHERE trust_id IS NOT NULL");
    assert_eq!(child.wait_exit(Duration::from_secs(30)).code(), Some(3));
    let log = child.output();
    assert!(log.contains("the time is over for which it let this command in by FARM_ID_TOKEN"), "{log}");
    // Another command with another token follows it.
    let show = world.with_token(&world.token(json!({})), &["show", &id]);
    assert!(show.status == 0 && show.stdout.contains(&id), "{show:?}");
}

#[test]
fn a_token_that_is_not_taken_is_told_with_what_is_to_be_done() {
    let world = world();
    world.trust(&[]);
    let now =
        i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs());
    let past = now.unwrap() - 600;
    let said = |changes: Value| world.with_token(&world.token(changes), &["whoami"]);
    refused(
        &said(json!({"aud": "https://other.example"})),
        3,
        &["not for this farm", &format!("the audience {AUDIENCE:?}")],
    );
    refused(&said(json!({"iat": past, "nbf": past, "exp": past + 300})), 3, &["has ended 5 min ago"]);
    let stranger = json!({"repository": "evil/app", "repository_id": "1", "repository_owner": "evil", "repository_owner_id": "2"});
    let line = format!(
        "farm trust add github evil/app --repository-id 1 --owner-id 2 --issuer {} --role builder --project default",
        world.issuer.url()
    );
    refused(
        &said(stranger),
        3,
        &["no project \"default\" trusts this token (repository \"evil/app\"", &line],
    );
    let took_the_name = said(json!({"repository_id": "99"}));
    refused(&took_the_name, 3, &["trusts another acme/app"]);
    assert!(!took_the_name.stderr.contains("farm trust add"), "{took_the_name:?}");
    refused(&world.with_token("farm_p_1234", &["whoami"]), 3, &["this is no token of an issuer"]);
    // Nobody knows where it wants to be let in.
    let token = world.token(json!({}));
    refused(&output(world.stranger(&["whoami"]).env("FARM_ID_TOKEN", &token)), 2, &["FARM_PROJECT"]);
    assert_eq!(world.with_token(&token, &["whoami"]).status, 0);
}

#[test]
fn a_job_that_gets_no_token_is_told_how_it_gets_one() {
    let world = world_of("sts.other.example");
    world.trust(&[]);
    let actions = world.actions();
    // A farm could use elsewhere what is made for others.
    let foreign = output(actions.job(&mut world.job(&["whoami"])));
    refused(&foreign, 3, &["made for \"sts.other.example\"", "set FARM_AUDIENCE=sts.other.example"]);
    assert!(actions.audiences().is_empty());
    let meant = output(actions.job(&mut world.job(&["whoami"])).env("FARM_AUDIENCE", "sts.other.example"));
    assert_eq!((meant.status, actions.audiences()), (0, vec!["sts.other.example".to_owned()]));

    let mut command = world.job(&["whoami"]);
    let wrong =
        actions.job(&mut command).env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "an-other").env("FARM_AUDIENCE", "x");
    refused(
        &output(wrong),
        3,
        &["gives this job no ID token", "403 Forbidden", "permissions: id-token: write"],
    );
    let none = output(world.job(&["whoami"]).env("GITHUB_ACTIONS", "true"));
    refused(&none, 3, &["no token for the farm", "permissions: id-token: write"]);
    let none = output(world.job(&["whoami"]).env("GITLAB_CI", "true"));
    refused(&none, 3, &["no token for the farm", "FARM_ID_TOKEN: { aud: \"sts.other.example\" }"]);
    let nowhere = "https://127.0.0.1:1/token";
    let away = output(
        world
            .job(&["whoami"])
            .env("FARM_AUDIENCE", "x")
            .env("ACTIONS_ID_TOKEN_REQUEST_URL", nowhere)
            .env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "s"),
    );
    refused(&away, 3, &["127.0.0.1:1: connection refused"]);
}

#[test]
fn a_token_that_somebody_has_set_comes_before_a_jobs_own() {
    let world = world();
    world.trust(&[]);
    let actions = world.actions();
    let token = world.farm.token();
    let set =
        output(actions.job(&mut world.job(&["whoami"])).env("FARM_TOKEN", &token).env("FARM_ID_TOKEN", "x"));
    assert!(set.stdout.contains("admin"), "{set:?}");
    let file = world.farm.token_file();
    let set = output(
        actions.job(&mut world.job(&["whoami"])).env("FARM_TOKEN_FILE", file).env("FARM_ID_TOKEN", "x"),
    );
    assert!(set.stdout.contains("admin"), "{set:?}");
    let kept = world.home.path().join(".config/farm");
    std::fs::create_dir_all(&kept).unwrap();
    std::fs::write(kept.join("token"), &token).unwrap();
    assert!(output(actions.job(&mut world.job(&["whoami"]))).stdout.contains("admin"));
    assert_eq!(actions.audiences().len(), 0);
    // What was made for this farm comes before what lies about.
    let own = world.with_token(&world.token(json!({})), &["whoami"]);
    assert!(own.stdout.contains("github:acme/app"), "{own:?}");
}

#[test]
fn trusts_are_listed_and_taken_away_by_name_or_by_id() {
    let world = world();
    let issuer = world.issuer.url();
    world.trust(&["--environment", "release"]);
    world.trust(&["--event", "push"]);
    let other = [
        "trust",
        "add",
        "other",
        "--issuer",
        &issuer,
        "--claim",
        "sub=robot",
        "--name",
        "robots",
        "--role",
        "viewer",
    ];
    assert!(world.farm.cli(&other).ok().contains("trusts other robots (sub robot) as viewer"));
    let listed = world.farm.cli(&["trust", "ls", "--json"]).json();
    let ids: Vec<&str> =
        listed["trusts"].as_array().unwrap().iter().map(|trust| trust["id"].as_str().unwrap()).collect();
    assert_eq!((listed["project"].as_str(), ids.len()), (Some("default"), 3));
    assert_eq!(listed["trusts"][0]["claims"]["environment"], json!(["release"]));
    let both = world.farm.cli(&["trust", "rm", "acme/app"]);
    refused(&both, 2, &["2 trusts are about acme/app", ids[0], ids[1]]);
    world.farm.cli(&["trust", "rm", ids[1], "robots"]).ok();
    let left = world.farm.cli(&["trust", "ls"]).ok();
    assert!(left.contains("environment release") && left.lines().count() == 2, "{left}");
    refused(
        &world.farm.cli(&["trust", "rm", "acme/web"]),
        2,
        &["trust \"acme/web\": the project has no such trust"],
    );
    let main = world.farm.cli(&[
        "trust",
        "add",
        "github",
        "a/b",
        "--repository-id",
        "1",
        "--owner-id",
        "2",
        "--role",
        "viewer",
        "--ref",
        "main",
    ]);
    refused(&main, 2, &["ref \"main\": GitHub writes refs in full: refs/heads/main"]);
}
