//! What GitHub shows at a commit of what the farm makes of it, where the hook is a GitHub App: check runs. GitHub is a fake
//! ([`farm_tests::forge::app`]), which verifies what the App's key signs; the worker is one that the test plays.

use farm_proto::v1::{self, finished::Outcome};
use farm_tests::farm::{Farm, Output};
use farm_tests::forge::Forge;
use farm_tests::forge::api::{ForgeApi, Says};
use farm_tests::forge::app::{APP, App, CLIENT, INSTALLATION, Run};
use farm_tests::ports::free_port;
use farm_tests::session::Session;
use serde_json::{Value, json};

use crate::client::{Client, Sim, hello, success};
use crate::forks::{held, pull_request};
use crate::hooks::over;
use crate::statuses::{RULES, fetch, fetch_at, fetch_folder, give, no, push};

/// A farm with a hook, whose forge has this API.
fn hooked(api: &ForgeApi) -> (Farm, Forge) {
    let port = free_port();
    let (listen, page) = (format!("127.0.0.1:{port}"), "https://farm.example/");
    let builder = Farm::builder().arg("--hooks-listen").arg(&listen).arg("--public-url").arg(page);
    let farm = builder.arg("--insecure-secrets").start();
    let (clone, host, url) = ("https://git.example/acme/app.git", "git.example", api.url());
    let add = [
        "hook",
        "add",
        "github",
        "acme/app",
        "--clone-url",
        clone,
        "--host",
        host,
        "--api-url",
        &url,
        "--json",
    ];
    let forge = Forge::of(port, &farm.cli(&add).json());
    (farm, forge)
}

fn give_app(farm: &Farm, key: &str, more: &[&str]) -> Output {
    give(farm, key, &[&["--app", CLIENT], more].concat())
}

async fn git_worker(farm: &Farm, name: &str) -> (Client, Sim) {
    let client = Client::connect(farm).await;
    let mut greeting = hello(name, 1);
    greeting.features.push("git".to_owned());
    let sim = Sim::connect(&client, greeting).await.unwrap();
    (client, sim)
}

fn wait(api: &ForgeApi, what: &str, is_it: impl Fn(&Run) -> bool) -> Run {
    tokio::task::block_in_place(|| api.wait_run(what, is_it))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_is_tried_before_its_key_is_kept_and_what_is_missing_is_said() {
    let (api, app) = (ForgeApi::start(), App::make());
    let (farm, _) = hooked(&api);
    let refused = |said: Output, why: &str| {
        assert!(said.status != 0 && said.stderr.contains(why), "{why}: {said:?}");
        assert!(!said.stderr.contains(app.pem.lines().nth(1).unwrap()), "{said:?}");
        assert_eq!(farm.cli(&["hook", "show", "app", "--json"]).json()["hook"]["token"], Value::Null);
    };
    refused(give_app(&farm, "ghp_token", &[]), "private key in PEM");
    refused(give(&farm, &app.pem, &["--app", "../x"]), "App id");
    refused(give_app(&farm, &app.pem, &[]), "Integration not found");
    api.install(&app, Value::Null);
    refused(give_app(&farm, &App::make().pem, &[]), "could not be decoded");
    refused(give_app(&farm, &app.pem, &[]), "isn't installed on acme/app");
    api.install(&app, json!({"checks": "read"}));
    refused(give_app(&farm, &app.pem, &[]), "has checks:read, and needs checks:write");
    api.install(&app, json!({"checks": "write"}));
    refused(give_app(&farm, &app.pem, &["--installation", "6"]), "no installation 6");
    refused(give(&farm, &app.pem, &[]), "a token is one word");

    // What was just lent isn't known everywhere yet: it is shown again, and no other is asked for.
    api.lags([401, 403]);
    let given = give_app(&farm, &app.pem, &["--installation", "5"]).ok();
    assert_eq!(api.lent(), 1);
    assert!(given.contains(&format!("is GitHub App {APP} now")), "{given}");
    assert!(give(&farm, &app.pem, &["--app", "7"]).ok().contains("is GitHub App 7 now"));
    let token = farm.cli(&["hook", "show", "app", "--json"]).json()["hook"]["token"].clone();
    assert_eq!((&token["app"], &token["installation"]), (&json!(APP), &json!(INSTALLATION)));
    assert!(farm.cli(&["hook", "show", "app"]).ok().contains("by the key of GitHub App 7"));
    // Webhooks take another right, by another loan.
    let unfit = give_app(&farm, &app.pem, &["--create"]);
    assert!(unfit.status != 0 && unfit.stderr.contains("Webhooks: write"), "{unfit:?}");
    api.install(&app, json!({"checks": "write", "repository_hooks": "write"}));
    assert!(give_app(&farm, &app.pem, &["--create"]).ok().contains("delivers to it now"));
    assert_eq!(api.hooks().len(), 1);
    let audit = farm.cli(&["audit", "--json"]).ok();
    assert!(audit.contains("hook.token") && !audit.contains("PRIVATE"), "{audit}");
    assert!(farm.cli(&["hook", "token", "app", "--rm"]).ok().contains("no token any more"));
}

fn failure() -> Outcome {
    Outcome::Failure(v1::Failure {
        cause: "user".into(),
        code: "run_failed".into(),
        message: "the command failed with exit code 2".into(),
        step: "[2/2] RUN make TOKEN=s3cr3tvalue".into(),
        exit_code: Some(2),
        source: Some(v1::SourceExcerpt {
            file: "Dockerfile".into(),
            first_line: 1,
            lines: vec!["FROM scratch".into(), "RUN make \\".into(), "  all".into()],
            marked_from: 2,
            marked_to: 3,
        }),
        log_tail: vec!["make: ``` @everyone".into(), "\u{1b}[31mno rule\u{1b}[0m for s3cr3tvalue".into()],
    })
}

fn again(action: &str, app: i64, run: &Run) -> Value {
    json!({
        "action": action,
        "check_run": {"id": run.id, "name": run.name, "head_sha": run.commit, "external_id": run.external_id, "app": {"id": app}},
        "repository": {"id": 42, "full_name": "acme/app", "clone_url": "https://git.example/acme/app.git"},
        "sender": {"id": 9, "login": "bob"}
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_shown_with_its_line_and_output_and_begun_anew_from_githubs_page() {
    let (api, app) = (ForgeApi::start(), App::make());
    let (farm, forge) = hooked(&api);
    api.install(&app, json!({"checks": "write"}));
    give_app(&farm, &app.pem, &[]).ok();
    let (_client, mut sim) = git_worker(&farm, "a").await;

    // What is wrong in the rules is shown at their line.
    let wrong = "a".repeat(40);
    assert_eq!(forge.deliver("wrong", "push", &push(&wrong)).0, 202);
    fetch(&mut sim, &wrong, (".farm.yaml", &format!("{RULES}    platfroms: [linux/arm64]\n"))).await;
    let red = wait(&api, "the red one", |run| run.commit == wrong && run.state == "failure");
    assert_eq!((red.name.as_str(), red.annotations.len()), ("farm", 1), "{red:?}");
    let note = &red.annotations[0];
    assert_eq!(
        (&note["path"], &note["start_line"], &note["end_line"]),
        (&json!(".farm.yaml"), &json!(6), &json!(6))
    );
    assert!(
        note["message"].as_str().unwrap().contains("did you mean") && red.summary.contains("6:5"),
        "{red:?}"
    );

    // An image is queued, and then built, in one check run.
    let commit = "b".repeat(40);
    let rules = format!("{RULES}    context: sub\n    build_args: {{TOKEN: s3cr3tvalue}}\n");
    assert_eq!(forge.deliver("right", "push", &push(&commit)).0, 202);
    fetch(&mut sim, &commit, (".farm.yaml", &rules)).await;
    let queued = wait(&api, "the queued one", |run| run.commit == commit && run.state == "queued");
    assert_eq!((queued.name.as_str(), &queued.target), ("farm/app", &Value::Null));
    fetch_folder(&mut sim, &commit, "sub", ("Dockerfile", "FROM scratch\nRUN make \\\n  all\n")).await;
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    let goes = wait(&api, "the one that goes", |run| run.commit == commit && run.state == "in_progress");
    assert_eq!((goes.id, goes.external_id.as_str()), (queued.id, queued.external_id.as_str()));
    let build = goes.target.as_str().unwrap().strip_prefix("https://farm.example/b/").unwrap();
    let build = build.strip_suffix("?project=default").unwrap().to_owned();

    // What was lent is taken back, and GitHub is asked too much, and can't: another is lent, once, and it is said in the end.
    let lent = api.lent();
    api.take_back();
    api.says([
        no(403, &[("retry-after", "1".to_owned())], "You have exceeded a secondary rate limit"),
        no(503, &[], "no server is available"),
    ]);
    assert!(sim.finish(&lease, failure()).await);
    let red = wait(&api, "the failed one", |run| run.commit == commit && run.state == "failure");
    assert!(api.has_said_all() && red.id == queued.id && api.lent() == lent + 1, "{} {lent}", api.lent());
    assert!(red.target.as_str().unwrap().contains(&build) && red.title.contains("exit code 2"), "{red:?}");
    for part in
        ["linux/amd64", "   2 > RUN make", "   1 | FROM scratch", "make: ``` @everyone\nno rule for", "````"]
    {
        assert!(red.summary.contains(part), "{part}: {}", red.summary);
    }
    assert!(!format!("{red:?}").contains("s3cr3tvalue") && !red.summary.contains('\u{1b}'), "{red:?}");
    let [note] = &red.annotations[..] else { panic!("{red:?}") };
    assert_eq!(
        (&note["path"], &note["start_line"], &note["end_line"]),
        (&json!("sub/Dockerfile"), &json!(2), &json!(3))
    );
    assert!(note["title"].as_str().unwrap().starts_with("[2/2] RUN make"), "{note}");

    // Who wants it begun anew at GitHub is heard, of a check of the hook's own.
    forge.deliver("created", "check_run", &again("created", APP, &red));
    assert_eq!(over(&farm, "created")["reason"], "nothing follows from check_run created");
    forge.deliver("others", "check_run", &again("rerequested", 8, &red));
    assert!(over(&farm, "others")["reason"].as_str().unwrap().contains("one of App 8"));
    let theirs = Run { external_id: "farm/another/1".to_owned(), ..red.clone() };
    forge.deliver("theirs", "check_run", &again("rerequested", APP, &theirs));
    assert!(over(&farm, "theirs")["reason"].as_str().unwrap().contains("isn't one of hook app"));
    let unknown = Run { commit: "e".repeat(40), ..red.clone() };
    forge.deliver("unknown", "check_run", &again("rerequested", APP, &unknown));
    assert!(over(&farm, "unknown")["reason"].as_str().unwrap().contains("knows nothing of it"));
    forge.deliver("again", "check_run", &again("rerequested", APP, &red));
    let said = over(&farm, "again");
    assert!(
        said["state"] == "done" && said["reason"].as_str().unwrap().starts_with("bob wants it"),
        "{said}"
    );
    let is_new = |run: &Run| run.commit == commit && run.id != red.id;
    let second = wait(&api, "another check run", |run| is_new(run) && run.state == "queued");
    assert!(second.name == "farm/app" && second.external_id != red.external_id);
    // While it goes on nothing more follows from that.
    forge.deliver("twice", "check_run", &again("rerequested", APP, &red));
    assert!(over(&farm, "twice")["reason"].as_str().unwrap().contains("processed already"));
    fetch(&mut sim, &commit, (".farm.yaml", &rules)).await;
    fetch_folder(&mut sim, &commit, "sub", ("Dockerfile", "FROM scratch\n")).await;
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    assert!(sim.finish(&lease, success()).await);
    let green = wait(&api, "the green one", |run| is_new(run) && run.state == "success");
    assert!(
        green.id == second.id && green.title.starts_with("built in ") && green.annotations.is_empty(),
        "{green:?}"
    );
    // What was over is left as it was.
    assert!(api.runs().contains(&red), "{:#?}", api.runs());
    assert!(farm.cli(&["audit", "--json"]).ok().contains("for bob (account 9)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_dies_before_it_hears_that_a_check_run_was_made_makes_no_second_one() {
    let (api, app) = (ForgeApi::start(), App::make());
    let (mut farm, forge) = hooked(&api);
    api.install(&app, json!({"checks": "write"}));
    give_app(&farm, &app.pem, &[]).ok();
    let (client, mut sim) = git_worker(&farm, "b").await;
    let [first, second] = ["a", "b"].map(|digit| digit.repeat(40));

    // It was made, and nobody has heard that.
    api.says([Says::Hangs]);
    assert_eq!(forge.deliver("first", "push", &push(&first)).0, 202);
    fetch(&mut sim, &first, (".farm.yaml", RULES)).await;
    let made = wait(&api, "the one that is made", |run| run.commit == first);
    farm.kill_coordinator();
    api.go_on();
    drop((client, sim));
    farm.start_coordinator();
    let mut session = Session::open(farm.database_url());
    let mut late = |farm: &Farm| {
        session.ask("UPDATE statuses SET claimed_until = claimed_until - interval '1 hour'; SELECT 1");
        // What the worker had that is gone, another one has at once.
        session.ask("UPDATE attempts SET lease_expires_at = '-infinity' WHERE state IN ('offered', 'running'); SELECT 1");
        let begin = std::time::Instant::now();
        while farm.cli(&["hook", "show", "app", "--json"]).json()["hook"]["token"]["waiting"] != 0 {
            assert!(begin.elapsed().as_secs() < 60, "it is never sent again");
        }
    };
    late(&farm);
    let runs = api.runs();
    assert!(runs.len() == 1 && runs[0].external_id == made.external_id, "{runs:#?}");

    // The same where it is over, with what it shows at lines: that isn't shown twice.
    let (client, mut sim) = git_worker(&farm, "c").await;
    fetch(&mut sim, &first, ("Dockerfile", "FROM scratch\n")).await;
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    wait(&api, "the one that goes", |run| run.id == made.id && run.state == "in_progress");
    api.says([Says::Hangs]);
    assert!(sim.finish(&lease, failure()).await);
    let red = wait(&api, "the failed one", |run| run.id == made.id && run.state == "failure");
    farm.kill_coordinator();
    api.go_on();
    drop((client, sim));
    farm.start_coordinator();
    late(&farm);
    assert_eq!(api.runs(), std::slice::from_ref(&red));

    // Nor is what comes after that shown by it.
    let (_client, mut sim) = git_worker(&farm, "d").await;
    assert_eq!(forge.deliver("second", "push", &push(&second)).0, 202);
    fetch(&mut sim, &second, (".farm.yaml", RULES)).await;
    let other = wait(&api, "that of another commit", |run| run.commit == second);
    assert!(other.id != made.id && api.runs().contains(&red), "{:#?}", api.runs());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_that_waits_for_its_approval_asks_for_it_by_its_check_run() {
    let (api, app) = (ForgeApi::start(), App::make());
    let (farm, forge) = hooked(&api);
    api.install(&app, json!({"checks": "write"}));
    give_app(&farm, &app.pem, &[]).ok();
    let (_client, mut sim) = git_worker(&farm, "e").await;
    let head = "a".repeat(40);
    assert_eq!(forge.deliver("one", "pull_request", &pull_request("opened", 7, &head)).0, 202);
    fetch_at(&mut sim, "refs/heads/main", &"0".repeat(40), (".farm.yaml", crate::forks::RULES)).await;
    let build = held(&farm, "one");
    let run = wait(&api, "the one that is held", |run| run.title.contains("farm approve"));
    // Its commit may be another's as well, by which nothing is to be red.
    assert_eq!(run.state, "queued");
    assert_eq!((run.name.as_str(), &run.commit), ("farm/app (pull request 7)", &head));
    assert_eq!(run.target, format!("https://farm.example/b/{build}?project=default"));
    assert!(run.title.contains(&format!("farm approve {build}")), "{run:?}");
    // Once it is closed there is nothing to be approved, and nothing has gone wrong.
    forge.deliver("closed", "pull_request", &pull_request("closed", 7, &head));
    let over = wait(&api, "the one that is left", |run| run.state == "neutral");
    assert!(over.id == run.id && api.runs().len() == 1, "{:#?}", api.runs());
    // One that is approved is built in the check run that has asked for it.
    let head = "b".repeat(40);
    assert_eq!(forge.deliver("two", "pull_request", &pull_request("opened", 8, &head)).0, 202);
    fetch_at(&mut sim, "refs/heads/main", &"0".repeat(40), (".farm.yaml", crate::forks::RULES)).await;
    let build = held(&farm, "two");
    let asks = |run: &Run| run.commit == head && run.title.contains("farm approve");
    let run = wait(&api, "the second one that is held", asks);
    farm.cli(&["approve", &build, "--yes"]).ok();
    fetch_at(&mut sim, "refs/pull/8/head", &head, ("Dockerfile", "FROM scratch\n")).await;
    let goes = wait(&api, "the one that is approved", |run| run.commit == head && run.state == "in_progress");
    assert!(goes.id == run.id && goes.target != run.target, "{run:?} {goes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hook_fetches_of_its_repository_is_lent_what_reads_that_and_no_more() {
    let (api, app) = (ForgeApi::start(), App::make());
    let (farm, forge) = hooked(&api);
    api.install(&app, json!({"checks": "write"}));
    give_app(&farm, &app.pem, &[]).ok();
    let (mut client, mut sim) = git_worker(&farm, "f").await;
    assert_eq!(forge.deliver("one", "push", &push(&"a".repeat(40))).0, 202);
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    let lend = async |sim: &mut Sim, lease: &v1::Lease| {
        let request = v1::LendGitLoginRequest { lease: Some(lease.clone()) };
        sim.work.lend_git_login(request).await.unwrap().into_inner()
    };
    // What it never was lent nobody waits for: the repository may be public.
    let nothing = v1::LendGitLoginResponse::default();
    api.lends_nothing(true);
    assert_eq!((lend(&mut sim, &lease).await, api.refused()), (nothing.clone(), 1), "nobody lends it");
    api.lends_nothing(false);
    // That it may not read it is remembered, until its key is given again.
    for _ in 0..2 {
        assert_eq!((lend(&mut sim, &lease).await, api.refused()), (nothing.clone(), 2));
    }
    api.install(&app, json!({"checks": "write", "contents": "read"}));
    give_app(&farm, &app.pem, &[]).ok();
    api.lags([404]);
    let lent = lend(&mut sim, &lease).await;
    assert_eq!((lent.username.as_str(), lent.place.as_str()), ("x-access-token", "git.example/acme/app"));
    assert_eq!(api.rights(&lent.token), Some(json!({"contents": "read", "metadata": "read"})));

    // What somebody else has fetched is lent nothing of it.
    let git = v1::GitSource {
        repository: "https://git.example/acme/app.git".into(),
        r#ref: "refs/heads/main".into(),
        ..Default::default()
    };
    let fetch = v1::FetchSpec { git: Some(git), take: "build".into(), ..Default::default() };
    let spec = v1::BuildSpec { fetch: Some(fetch), ..Default::default() };
    let request =
        v1::SubmitBuildRequest { idempotency_key: "own".into(), spec: Some(spec), values: Vec::new() };
    let id = client.builds.submit_build(request).await.unwrap().into_inner().build.unwrap().id;
    let offered = sim.offer().await;
    assert_eq!(offered.build_id, id);
    let lease = offered.lease.unwrap();
    sim.start(&lease).await;
    assert_eq!(lend(&mut sim, &lease).await, v1::LendGitLoginResponse::default());
}
