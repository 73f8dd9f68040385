//! A fork's pull request from its delivery to its build: held until somebody approves its head, and then built by a machine that isn't
//! trusted, with nothing lent. The forge's API is a fake ([`farm_tests::forge::api`]); the workers are ones that the test plays.

use farm_proto::v1::{self, finished::Outcome};
use farm_tests::browser::{Browser, Page};
use farm_tests::database::psql;
use farm_tests::farm::{Farm, output};
use farm_tests::forge::Forge;
use farm_tests::forge::api::{ForgeApi, TOKEN};
use farm_tests::machine::{invite, join};
use farm_tests::ports::free_port;
use serde_json::{Value, json};
use tonic::Code;

use crate::client::{Client, Sim, hello};
use crate::hooks::over;
use crate::statuses::fetch_at;

pub const RULES: &str = "version: 1\nimages:\n  app:\n    on: {pull_request: {}}\n    platforms: [linux/amd64]\n    \
                     destinations: [r.example/app]\n    tags: [\"pr-{pr}\"]\n";

pub fn pull_request(action: &str, number: u64, commit: &str) -> Value {
    json!({
        "action": action, "number": number,
        "pull_request": {
            "title": "Mend it", "merged": false, "user": {"id": 9, "login": "eve"}, "updated_at": "2026-01-31T12:00:00Z",
            "head": {"label": "eve:mend", "ref": "mend", "sha": commit, "repo": {"id": 43, "full_name": "eve/app"}},
            "base": {"label": "acme:main", "ref": "main", "sha": "0".repeat(40), "repo": {"id": 42}}
        },
        "repository": {"id": 42, "full_name": "acme/app", "clone_url": "https://git.example/acme/app.git", "default_branch": "main"},
        "sender": {"id": 9, "login": "eve"}
    })
}

fn comment(who: (u64, &str), number: u64, text: &str, at: &str) -> Value {
    json!({
        "action": "created", "issue": {"number": number, "pull_request": {}}, "comment": {"body": text, "created_at": at},
        "repository": {"id": 42, "full_name": "acme/app", "clone_url": "https://git.example/acme/app.git"},
        "sender": {"id": who.0, "login": who.1}
    })
}

/// The build by which a delivery is known that is held.
pub fn held(farm: &Farm, delivery: &str) -> String {
    let begin = std::time::Instant::now();
    loop {
        let listed = farm.cli(&["hook", "deliveries", "app", "--json"]).json();
        let all = listed["deliveries"].as_array().unwrap();
        let one = all
            .iter()
            .find(|one| one["id"] == delivery)
            .unwrap_or_else(|| panic!("{delivery} is not in {all:?}"));
        assert_eq!(one["state"], "received", "{one}");
        if let Some((_, build)) =
            one["reason"].as_str().unwrap().split_once("waits for approval: farm approve ")
        {
            return build.to_owned();
        }
        assert!(begin.elapsed().as_secs() < 60, "{one} isn't held");
    }
}

pub async fn untrusted(farm: &Farm) -> Sim {
    let request =
        v1::InviteWorkerRequest { name: "fork".into(), trust: "untrusted".into(), ..Default::default() };
    let machine = join(farm, &invite(farm, request).await.unwrap().token, "").await.unwrap();
    Sim::connect(&machine.client(farm).await, hello("fork", 1)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_is_built_once_its_head_is_approved_and_by_no_machine_that_is_trusted() {
    let (port, api) = (free_port(), ForgeApi::start());
    let listen = format!("127.0.0.1:{port}");
    let builder = Farm::builder().arg("--hooks-listen").arg(&listen).arg("--web-listen").arg(&listen);
    let builder = builder
        .arg("--insecure-secrets")
        .env("FARM_STAGING", "staging.invalid")
        .env("FARM_PATCHED_ENGINES", "docker 0");
    let farm = builder.start();
    let url = api.url();
    let add = [
        "hook",
        "add",
        "github",
        "acme/app",
        "--clone-url",
        "https://git.example/acme/app.git",
        "--host",
        "git.example",
        "--api-url",
        &url,
        "--json",
    ];
    let forge = Forge::of(port, &farm.cli(&add).json());
    let client = Client::connect(&farm).await;
    let mut greeting = hello("git", 1);
    greeting.features.push("git".to_owned());
    let mut trusted = Sim::connect(&client, greeting).await.unwrap();
    let (a, b) = ("a".repeat(40), "b".repeat(40));

    // Nothing of the fork is fetched before somebody has approved it: the rules are the base's.
    assert_eq!(forge.deliver("one", "pull_request", &pull_request("opened", 7, &a)).0, 202);
    fetch_at(&mut trusted, "refs/heads/main", &"0".repeat(40), (".farm.yaml", RULES)).await;
    let build = held(&farm, "one");
    let asked = farm.cli(&["approve", &build]);
    assert!(asked.status == 2 && asked.stderr.contains("--yes"), "{asked:?}");
    for part in ["pull request 7 of acme/app", "eve/app, branch mend", &a, "images  app"] {
        assert!(asked.stdout.contains(part), "{part}: {asked:?}");
    }
    let other = farm.cli(&["approve", &build, "--yes", "--commit", "bbbbbbb"]);
    assert!(other.status == 2 && other.stderr.contains(&a), "{other:?}");

    // Who may only build may not approve it.
    farm.cli(&["member", "set", "bob", "--role", "builder"]).ok();
    let bob = farm.cli(&["token", "create", "--for", "bob"]).ok();
    let refused = output(farm.command(&["approve", &build, "--yes"]).env("FARM_TOKEN", bob.trim()));
    assert!(refused.status == 3 && refused.stderr.contains("publisher"), "{refused:?}");
    // Nor does a comment, where nobody can be asked who its author is.
    let approve = |who, at| comment(who, 7, "/farm approve", at);
    // They can have seen a head only that has been there for some minutes.
    let settle = || {
        let earlier = "UPDATE pull_requests SET moved_at = moved_at - interval '1 hour' RETURNING 1";
        assert_eq!(psql(farm.database_url(), earlier), "1");
    };
    assert_eq!(forge.deliver("hasty", "issue_comment", &approve((7, "ada"), "2026-01-31T13:00:00Z")).0, 202);
    assert!(over(&farm, "hasty")["reason"].as_str().unwrap().contains("within the 2 minutes"));
    // Whoever names it in full says where it is to go as well, or has to wait until that is known for long enough.
    let named = |text: &str| comment((7, "ada"), 7, text, "2026-01-31T13:00:00Z");
    forge.deliver("named", "issue_comment", &named(&format!("/farm approve {a}")));
    let reason = over(&farm, "named")["reason"].as_str().unwrap().to_owned();
    let cure = format!("/farm approve {a} main");
    assert!(reason.contains("or is to go to another branch") && reason.ends_with(&cure), "{reason}");
    forge.deliver("elsewhere", "issue_comment", &named(&format!("/farm approve {a} release")));
    assert!(over(&farm, "elsewhere")["reason"].as_str().unwrap().contains("is to go to main"));
    forge.deliver("cured", "issue_comment", &named(&cure));
    assert!(over(&farm, "cured")["reason"].as_str().unwrap().contains("farm hook token app"));
    settle();
    assert_eq!(forge.deliver("bare", "issue_comment", &approve((7, "ada"), "2026-01-31T13:00:00Z")).0, 202);
    assert!(over(&farm, "bare")["reason"].as_str().unwrap().contains("farm hook token app"));

    // Another push has to be approved by itself.
    assert_eq!(forge.deliver("two", "pull_request", &pull_request("synchronize", 7, &b)).0, 202);
    assert!(over(&farm, "one")["reason"].as_str().unwrap().contains("moved on"));
    let late = farm.cli(&["approve", &build, "--yes"]);
    assert!(late.status == 2 && late.stderr.contains("moved on"), "{late:?}");
    fetch_at(&mut trusted, "refs/heads/main", &"0".repeat(40), (".farm.yaml", RULES)).await;
    let build = held(&farm, "two");

    // Comments count of who may write, as the forge says, and of what they can have seen.
    let file = farm.folder().join("hook-token");
    std::fs::write(&file, TOKEN).unwrap();
    let mut give = farm.command(&["hook", "token", "app", "--file", file.to_str().unwrap()]);
    output(give.env("FARM_INSECURE_HTTP", "1")).ok();
    api.may_write(&[(7, "ada", true), (9, "eve", false)]);
    settle();
    forge.deliver("eve", "issue_comment", &approve((9, "eve"), "2026-01-31T13:00:00Z"));
    assert!(over(&farm, "eve")["reason"].as_str().unwrap().contains("eve may not write"));
    forge.deliver("early", "issue_comment", &approve((7, "ada"), "2026-01-31T11:59:59Z"));
    assert!(over(&farm, "early")["reason"].as_str().unwrap().contains("moved on since the comment"));
    forge.deliver("ada", "issue_comment", &approve((7, "ada"), "2026-01-31T13:00:00Z"));
    let said = over(&farm, "ada");
    assert_eq!(said["state"], "done", "{said}");
    let again = farm.cli(&["approve", &build, "--yes"]).ok();
    assert!(again.contains("approved already") && again.contains("for ada (account 7)"), "{again}");

    // A trusted machine fetches that commit from the base's repository; what it says is built by another one.
    fetch_at(&mut trusted, "refs/pull/7/head", &b, ("Dockerfile", "FROM scratch\n")).await;
    let done = over(&farm, "two");
    assert_eq!(done["state"], "done", "{done}");
    assert!(done["reason"].as_str().unwrap().contains("published nowhere"), "{done}");
    let image = done["builds"][0].as_str().unwrap().to_owned();
    let mut watch = client.clone();
    let waiting = async {
        loop {
            let record = watch.build(&image).await;
            if !record.jobs[0].waiting.is_empty() {
                return record;
            }
            trusted.beat(&[]).await;
        }
    };
    let record = waiting.await;
    assert!(
        record.jobs[0].waiting.contains("untrusted worker: pull requests of forks"),
        "{}",
        record.jobs[0].waiting
    );
    assert!(record.spec.unwrap().tags.is_empty());
    let mut fork = untrusted(&farm).await;
    let offered = fork.offer().await;
    assert_eq!(offered.build_id, image);
    assert!(offered.registries.is_empty() && offered.repositories.is_empty(), "{offered:?}");
    assert!(offered.caches.ends_with("/7"), "{}", offered.caches);
    let lease = offered.lease.unwrap();
    // By that lease nothing is lent.
    let request = v1::LendMountsRequest { lease: Some(lease.clone()) };
    let lent = fork.work.lend_mounts(request).await.unwrap_err();
    assert_eq!(lent.code(), Code::PermissionDenied, "{lent:?}");
    let request =
        v1::LendTokenRequest { lease: Some(lease.clone()), host: "r.example".into(), ..Default::default() };
    let token = fork.work.lend_token(request).await.unwrap_err();
    assert_eq!(token.code(), Code::PermissionDenied, "{token:?}");
    fork.start(&lease).await;
    assert!(fork.finish(&lease, Outcome::Result(v1::JobResult::default())).await);
    let told = farm.cli(&["audit", "--json"]).ok();
    assert!(told.contains("fork.approve") && told.contains("ada (account 7)"), "{told}");

    // A publisher approves it as well.
    forge.deliver("four", "pull_request", &pull_request("opened", 9, &a));
    fetch_at(&mut trusted, "refs/heads/main", &"0".repeat(40), (".farm.yaml", RULES)).await;
    let build = held(&farm, "four");
    let said = farm.cli(&["approve", &build, "--yes", "--commit", "aaaaaaa"]).ok();
    assert!(said.contains("is approved, and built now"), "{said}");
    fetch_at(&mut trusted, "refs/pull/9/head", &a, ("Dockerfile", "FROM scratch\n")).await;
    assert_eq!(over(&farm, "four")["state"], "done");

    // What is closed waits no more.
    forge.deliver("three", "pull_request", &pull_request("opened", 8, &a));
    fetch_at(&mut trusted, "refs/heads/main", &"0".repeat(40), (".farm.yaml", RULES)).await;
    let build = held(&farm, "three");
    forge.deliver("close", "pull_request", &pull_request("closed", 8, &a));
    assert!(over(&farm, "three")["reason"].as_str().unwrap().contains("closed"));
    let late = farm.cli(&["approve", &build, "--yes"]);
    assert!(late.status == 2 && late.stderr.contains("closed"), "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_is_approved_on_the_page_that_shows_it() {
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let farm = Farm::builder().arg("--hooks-listen").arg(&listen).arg("--web-listen").arg(&listen).start();
    let url = "https://git.example/acme/app.git";
    let add = ["hook", "add", "github", "acme/app", "--clone-url", url, "--host", "git.example", "--json"];
    let forge = Forge::of(port, &farm.cli(&add).json());
    let mut greeting = hello("git", 1);
    greeting.features.push("git".to_owned());
    let mut trusted = Sim::connect(&Client::connect(&farm).await, greeting).await.unwrap();
    let (a, b) = ("a".repeat(40), "b".repeat(40));
    forge.deliver("one", "pull_request", &pull_request("opened", 7, &a));
    fetch_at(&mut trusted, "refs/heads/main", &"0".repeat(40), (".farm.yaml", RULES)).await;
    let build = held(&farm, "one");
    let path = format!("/b/{build}?project=default");
    let mut admin = Browser::new(port);
    assert_eq!(admin.sign_in(&path, &farm.token()).status, 303);
    let page = admin.get(&path);
    assert!(page.body.contains(&a) && page.body.contains("waits for your approval"), "{page:?}");
    let heading =
        |page: &Page| page.body.split("<h1>").nth(1).unwrap().split("</h1>").next().unwrap().to_owned();
    assert!(heading(&page).contains("waits for approval"), "{page:?}");
    let approve = |commit: &str| {
        let form = [("guard", page.guard()), ("commit", commit)];
        admin.clone().post(&format!("/b/{build}/approve?project=default"), &form)
    };
    assert_eq!(approve(&b).status, 409, "another head than was shown");
    let given = approve(&a);
    assert_eq!(given.status, 303, "{given:?}");
    let page = admin.get(&path);
    assert!(heading(&page).contains("succeeded") && page.body.contains("approved by"), "{page:?}");
    fetch_at(&mut trusted, "refs/pull/7/head", &a, ("Dockerfile", "FROM scratch\n")).await;
    assert_eq!(over(&farm, "one")["state"], "done");
}
