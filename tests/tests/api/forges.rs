//! GitLab, Gitea and Forgejo, from what they deliver to what they show at the commit. Their APIs are fakes ([`farm_tests::forge::api`]), which
//! answer as their documentation says; the workers are ones that the test plays.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use farm_proto::v1::{self, finished::Outcome};
use farm_tests::database::psql;
use farm_tests::farm::{Farm, Output, output};
use farm_tests::forge::Forge;
use farm_tests::forge::api::{Api, ForgeApi, Role, Says, TOKEN, Taken};
use farm_tests::forge::form::Form;
use farm_tests::forge::told::{Proposed, Repo};
use farm_tests::ports::free_port;
use serde_json::{Value, json};

use crate::client::{Client, Sim, hello, success};
use crate::forks::{held, untrusted};
use crate::hooks::over;
use crate::statuses::{fetch, fetch_at, give};

const CLONE_URL: &str = "https://git.example/acme/app.git";
const PAGE: &str = "https://farm.example/";
const RULES: &str = "version: 1\nimages:\n  app:\n    on: {push: {branches: [main]}, pull_request: {}}\n    platforms: [linux/amd64]\n";

/// A forge, and what it calls things.
struct Kind {
    provider: &'static str,
    form: Form,
    api: Api,
    /// What a token lacks that may make no webhooks, and what one that may not write.
    lacks: (&'static str, &'static str),
    /// A build that is under way, and one that has failed.
    running: &'static str,
    failure: &'static str,
}

const GITLAB: Kind = Kind {
    provider: "gitlab",
    form: Form::GitlabBare,
    api: Api::Gitlab,
    lacks: ("the role Maintainer", "no Developer"),
    running: "running",
    failure: "failed",
};
const GITEA: Kind = Kind {
    provider: "gitea",
    form: Form::Gitea,
    api: Api::Gitea,
    lacks: ("an admin of the repository", "may not write"),
    running: "pending",
    failure: "failure",
};
const FORGEJO: Kind = Kind { provider: "forgejo", form: Form::Forgejo, ..GITEA };

/// A farm with a hook of which the forge knows by its API, and who plays a worker.
struct World {
    farm: Farm,
    api: ForgeApi,
    forge: Forge,
    repo: Repo<'static>,
    sim: Sim,
}

async fn world(kind: &Kind) -> World {
    let (port, api) = (free_port(), ForgeApi::of(kind.api));
    let builder = Farm::builder().arg("--hooks-listen").arg(&format!("127.0.0.1:{port}"));
    let builder = builder.arg("--public-url").arg(PAGE).arg("--insecure-secrets");
    let farm = builder.env("FARM_STAGING", "staging.invalid").env("FARM_PATCHED_ENGINES", "docker 0").start();
    let file = farm.folder().join("hook-token");
    let (file, url) = (file.to_str().unwrap(), api.url());
    let add = |token: &str| -> Output {
        std::fs::write(file, token).unwrap();
        let place = ["--host", "git.example", "--clone-url", CLONE_URL, "--api-url", &url];
        let how = ["--create", "--token-file", file];
        let args = [&["hook", "add", kind.provider, "acme/app"][..], &place, &how].concat();
        output(farm.command(&args).env("FARM_INSECURE_HTTP", "1"))
    };
    // What may too little says what it lacks; and then one command makes all of it.
    let refused = |said: &Output, parts: &[&str]| {
        assert_ne!(said.status, 0, "{said:?}");
        assert!(parts.iter().all(|part| said.stderr.contains(part)), "{parts:?}: {said:?}");
        farm.cli(&["hook", "rm", "app"]).ok();
    };
    refused(&add("another"), &["the forge doesn't take it", "401", "farm hook token app --create"]);
    api.may(Role::Reads);
    refused(&add(TOKEN), &[kind.lacks.1]);
    api.may(Role::Writes);
    refused(&add(TOKEN), &["it may make no webhooks there", kind.lacks.0]);
    api.may(Role::Admin);
    assert!(add(TOKEN).ok().contains("git.example/acme/app delivers to it now"));
    let forge = Forge::made(port, kind.form, &api);
    // Done again, what is there is changed.
    give(&farm, TOKEN, &["--create"]).ok();
    assert_eq!(Forge::made(port, kind.form, &api).path, forge.path);
    let mut greeting = hello("w", 1);
    greeting.features.push("git".to_owned());
    let sim = Sim::connect(&Client::connect(&farm).await, greeting).await.unwrap();
    World { farm, api, forge, repo: Repo { form: kind.form, clone_url: CLONE_URL }, sim }
}

impl World {
    /// What the forge shows at this commit under this name in this state, once it does.
    fn shown(&self, commit: &str, context: &str, state: &str, is_it: impl Fn(&Taken) -> bool) -> Taken {
        let fits = |one: &Taken| {
            (one.commit.as_str(), one.context.as_str(), one.state.as_str()) == (commit, context, state)
        };
        tokio::task::block_in_place(|| self.api.wait(state, |one| fits(one) && is_it(one)))
    }

    /// Waits until the forge was told all there is.
    fn is_told_all(&self) {
        let begin = Instant::now();
        loop {
            let token = self.farm.cli(&["hook", "show", "app", "--json"]).json()["hook"]["token"].clone();
            assert_eq!(token["given_up"], 0, "{token}");
            if token["waiting"] == 0 {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "{token}");
        }
    }

    /// Has the rules and then the source of a commit fetched.
    async fn fetched(&mut self, commit: &str) {
        fetch(&mut self.sim, commit, (".farm.yaml", RULES)).await;
        fetch(&mut self.sim, commit, ("Dockerfile", "FROM scratch\n")).await;
    }

    async fn offered(&mut self) -> v1::Lease {
        let lease = self.sim.offer().await.lease.unwrap();
        self.sim.start(&lease).await;
        lease
    }
}

fn is_linked(one: &Taken) -> bool {
    one.target.as_str().is_some_and(|target| target.starts_with(PAGE))
}

fn no(status: u16, headers: &[(&'static str, String)], said: Value) -> Says {
    Says::No(status, headers.to_vec(), said)
}

async fn from_a_delivery_to_the_status(kind: Kind) {
    let mut world = world(&kind).await;
    let (wrong, failed, right) = ("a".repeat(40), "b".repeat(40), "c".repeat(40));
    let zeros = "0".repeat(40);

    // What is wrong in the rules is red.
    let told = world.repo.push("main", &zeros, &wrong);
    let stranger = world.forge.deliver_as("stranger", told.event, &told.body, "whsec_bm9ib2R5J3Mgc2VjcmV0");
    assert_eq!(stranger, (401, String::new()));
    world.forge.tell("wrong", &told);
    fetch(&mut world.sim, &wrong, (".farm.yaml", &format!("{RULES}    platfroms: []\n"))).await;
    let red = world.shown(&wrong, "farm", kind.failure, |_| true);
    assert!(red.description.starts_with(".farm.yaml: 6:5: "), "{red:?}");

    // So is a build that fails.
    world.forge.tell("failed", &world.repo.push("main", &wrong, &failed));
    world.fetched(&failed).await;
    let lease = world.offered().await;
    let failure = v1::Failure {
        cause: "user".into(),
        code: "step_failed".into(),
        message: "the step said no".into(),
        ..Default::default()
    };
    assert!(world.sim.finish(&lease, Outcome::Failure(failure)).await);
    let red = world.shown(&failed, "farm/app", kind.failure, |_| true);
    assert!(red.description.contains("the step said no"), "{red:?}");

    // One that is well is pending, and then green: after the forge's limits, and whatever fails after it was written down there. What is
    // there already GitLab refuses, and it is done all the same.
    world.is_told_all();
    world.forge.tell("right", &world.repo.push("main", &failed, &right));
    fetch(&mut world.sim, &right, (".farm.yaml", RULES)).await;
    world.shown(&right, "farm/app", "pending", |one| one.target == json!("") || one.target.is_null());
    world.api.says([no(404, &[], json!({"message": "404 Commit Not Found"})), Says::TakesAndSays(500)]);
    let asked = world.api.asked();
    fetch(&mut world.sim, &right, ("Dockerfile", "FROM scratch\n")).await;
    let lease = world.offered().await;
    let pending = world.shown(&right, "farm/app", kind.running, is_linked);
    world.is_told_all();
    assert_eq!(world.api.asked(), asked + 3, "{:?}", world.api.taken());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let (soon, none) = (("retry-after", "1".to_owned()), ("ratelimit-remaining", "0".to_owned()));
    let (again, far) =
        (("ratelimit-reset", (now + 3).to_string()), ("ratelimit-reset", (now + 3000).to_string()));
    world.api.says([
        no(429, &[soon, none.clone(), far], json!("Retry later\n")),
        no(429, &[none, again], json!("Retry later\n")),
        no(503, &[], json!("Service Unavailable")),
    ]);
    assert!(world.sim.finish(&lease, success()).await);
    let green = world.shown(&right, "farm/app", "success", |_| true);
    assert!(green.description.starts_with("built in ") && world.api.has_said_all(), "{green:?}");
    assert_eq!(green.target, pending.target);
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(at >= now + 3, "it was asked again before it counts anew");
    if kind.api == Api::Gitlab {
        assert_eq!(green.of.0, "main");
        // All of a commit and branch is in one pipeline.
        let pipelines: Vec<_> =
            world.api.taken().into_iter().filter(|one| one.commit == right).map(|one| one.of).collect();
        assert!(pipelines.iter().all(|of| *of == green.of), "{pipelines:?}");
    }
    world.is_told_all();
}

/// A fork's head waits for somebody who may write, as the forge says, and is then built by a machine that isn't trusted.
async fn from_a_fork_to_the_status(kind: Kind) {
    let mut world = world(&kind).await;
    let zeros = "0".repeat(40);
    let head = "d".repeat(40);
    world.forge.tell("fork", &world.repo.fork(7, Proposed::Opened(&head)));
    fetch_at(&mut world.sim, "refs/heads/main", &zeros, (".farm.yaml", RULES)).await;
    let build = held(&world.farm, "fork");
    let context = "farm/app (pull request 7)";
    let waits = world.shown(&head, context, "pending", |_| true);
    assert!(waits.description.contains(&format!("farm approve {build}")), "{waits:?}");
    // They can have seen only what has been there for some minutes.
    let earlier = "UPDATE pull_requests SET moved_at = moved_at - interval '1 hour' RETURNING 1";
    assert_eq!(psql(world.farm.database_url(), earlier), "1");
    world.api.may_write(&[(7, "ada", true), (9, "eve", false)]);
    let commented = |id: &str, who: (u64, &str)| {
        world.forge.tell(id, &world.repo.comment(who, 7, "/farm approve"));
        over(&world.farm, id)
    };
    if kind.api == Api::Gitea {
        // Who only writes may not ask that of others.
        world.api.may(Role::Writes);
        let said = commented("unasked", (6, "bob"));
        let why = said["reason"].as_str().unwrap();
        assert!(said["state"] == "failed" && why.contains("an admin of the repository"), "{said}");
        world.api.may(Role::Admin);
    }
    for who in [(9, "eve"), (8, "ada")] {
        let said = commented(&format!("{}-{}", who.1, who.0), who);
        let why = said["reason"].as_str().unwrap();
        assert!(said["state"] == "ignored" && why.contains(&format!("{} may not write", who.1)), "{said}");
    }
    let said = commented("ada", (7, "ada"));
    assert_eq!(said["state"], "done", "{said}");
    fetch_at(&mut world.sim, &world.repo.head(7), &head, ("Dockerfile", "FROM scratch\n")).await;
    assert_eq!(over(&world.farm, "fork")["state"], "done");
    let mut machine = untrusted(&world.farm).await;
    let lease = machine.offer().await.lease.unwrap();
    machine.start(&lease).await;
    assert!(machine.finish(&lease, success()).await);
    world.shown(&head, context, "success", is_linked);
    world.is_told_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gitlab_tells_is_built_and_shown_at_its_commit() {
    from_a_delivery_to_the_status(GITLAB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gitea_tells_is_built_and_shown_at_its_commit() {
    from_a_delivery_to_the_status(GITEA).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_forgejo_tells_is_built_and_shown_at_its_commit() {
    from_a_delivery_to_the_status(FORGEJO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_of_a_gitlabs_is_approved_by_the_comment_of_who_may_write() {
    from_a_fork_to_the_status(GITLAB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_of_a_giteas_is_approved_by_the_comment_of_who_may_write() {
    from_a_fork_to_the_status(GITEA).await;
}

/// The webhook of a GitLab that signs, and those of which the admin has chosen the other way.
#[tokio::test(flavor = "multi_thread")]
async fn a_gitlab_that_signs_is_known_by_its_signature_alone() {
    let port = free_port();
    let farm = Farm::builder().arg("--hooks-listen").arg(&format!("127.0.0.1:{port}")).start();
    let add =
        ["hook", "add", "gitlab", "acme/app", "--clone-url", CLONE_URL, "--host", "git.example", "--json"];
    let signs = Forge::of(port, &farm.cli(&add).json());
    let bare = Forge { form: Form::GitlabBare, ..signs.clone() };
    let gone = |branch: &str| {
        let mut told =
            Repo { form: Form::Gitlab, clone_url: CLONE_URL }.push(branch, &"1".repeat(40), &"0".repeat(40));
        told.body["checkout_sha"] = Value::Null;
        told
    };
    signs.tell("signed", &gone("a"));
    bare.tell("bare", &gone("b"));
    for id in ["signed", "bare"] {
        let said = over(&farm, id);
        assert!(said["reason"].as_str().unwrap().contains("was deleted"), "{said}");
    }
    // The same once more is known by its id, however it is shown.
    let told = gone("a");
    assert_eq!(bare.deliver("signed", told.event, &told.body).0, 200);
    let stranger = "whsec_bm9ib2R5J3Mgc2VjcmV0";
    for forge in [&signs, &bare] {
        assert_eq!(forge.deliver_as("other", told.event, &told.body, stranger), (401, String::new()));
    }
}
