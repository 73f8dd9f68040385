//! Who is told how builds end: receivers of webhooks and of messages to chats are in the test's own process ([`farm_tests::receiver`]), the mail
//! server is a real one; the worker is one that the test plays.

use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, Instant};

use boon::{Compiler, Schemas};
use farm_hooks::{Headers, Provider, verify};
use farm_proto::v1::{self, finished::Outcome};
use farm_tests::farm::{Farm, Output};
use farm_tests::mail::MailServer;
use farm_tests::receiver::{Came, Receiver, Says};
use farm_tests::session::Session;
use serde_json::{Value, json};

use crate::client::{Client, Sim, hello};

/// What a repository may have in it.
const EVIL: &str = "<!channel> @channel `<https://evil.example|x>`\r\nBcc: eve@example.com";

/// The value of a build argument that looks like a secret.
const SECRET_ARG: &str = "hunter22-hunter22";

fn failed() -> Outcome {
    let failure = v1::Failure {
        cause: "user".into(),
        code: "run_failed".into(),
        message: EVIL.into(),
        step: format!("[1/1] RUN {SECRET_ARG} {EVIL}"),
        exit_code: Some(2),
        ..Default::default()
    };
    Outcome::Failure(failure)
}

/// Has the next build fail; gives its id.
async fn fail(client: &mut Client, sim: &mut Sim, key: &str) -> String {
    let snapshot = client.upload("FROM scratch").await;
    let spec = v1::BuildSpec {
        snapshot: Some(snapshot),
        platforms: vec!["linux/amd64".to_owned()],
        emulation: "never".to_owned(),
        build_args: [("NPM_TOKEN".to_owned(), SECRET_ARG.to_owned())].into(),
        ..Default::default()
    };
    let request =
        v1::SubmitBuildRequest { idempotency_key: key.to_owned(), spec: Some(spec), values: Vec::new() };
    let build = client.builds.submit_build(request).await.unwrap().into_inner().build.unwrap();
    let lease = sim.offer().await.lease.unwrap();
    sim.start(&lease).await;
    assert!(sim.finish(&lease, failed()).await);
    build.id
}

/// `farm ARGS` with this on standard input.
fn given(farm: &Farm, args: &[&str], input: &str) -> Output {
    let file = farm.folder().join("input");
    std::fs::write(&file, format!("{input}\n")).unwrap();
    let ran = farm.command(args).stdin(Stdio::from(File::open(file).unwrap())).output().unwrap();
    Output {
        status: ran.status.code().unwrap_or(1),
        stdout: String::from_utf8_lossy(&ran.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&ran.stderr).into_owned(),
    }
}

/// Whether a request is signed by this secret, for whoever receives such.
fn is_signed(came: &Came, secret: &str) -> bool {
    let headers = Headers::of(came.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    verify(Provider::Generic, &headers, None, &came.body, &[secret], now.try_into().unwrap()).is_ok()
}

/// Whether a body is what the documents say.
#[track_caller]
fn fits(body: &Value) {
    let text = include_str!("../../../docs/reference/notice.schema.json");
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.enable_format_assertions();
    compiler.add_resource("schema.json", serde_json::from_str(text).unwrap()).unwrap();
    let index = compiler.compile("schema.json", &mut schemas).unwrap_or_else(|e| panic!("{e:#}"));
    if let Err(wrong) = schemas.validate(body, index) {
        panic!("{wrong:#}\n{body:#}");
    }
}

fn shown(farm: &Farm, name: &str) -> Value {
    farm.cli(&["notice", "show", name, "--json"]).json()["notice"].clone()
}

/// Waits until a notice is so.
fn until(farm: &Farm, name: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let begin = Instant::now();
    loop {
        let shown = shown(farm, name);
        if is_so(&shown) {
            return shown;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}: {shown:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_to_know_is_told_by_each_way_and_by_nobody_elses_words() {
    let (folder, hook, chat) = (tempfile::tempdir().unwrap(), Receiver::start(), Receiver::start());
    let mut mails = MailServer::start(folder.path());
    let config = format!(
        "[mail]\nhost = '127.0.0.1'\nport = {}\ntls = 'none'\nfrom = 'Farm <farm@example.com>'\n",
        mails.port()
    );
    let farm = Farm::builder().tls().config(&config).arg("--public-url").arg("https://farm.example").start();
    let (secret_url, chat_url) =
        (format!("{}/in/s3cretpath", hook.url()), format!("{}/services/s3cretpath", chat.url()));
    let made = given(&farm, &["notice", "add", "ops", "--webhook", "-", "--json"], &secret_url).json();
    let secret = made["secret"].as_str().unwrap().to_owned();
    assert!(
        secret.starts_with("whsec_") && made["notice"]["host"] == hook.url().trim_start_matches("http://"),
        "{made}"
    );
    let added = farm.cli(&["notice", "add", "chat", "--slack", &chat_url, "--on", "failure,success"]).ok();
    assert!(added.contains("project default has notice chat") && !added.contains("s3cretpath"), "{added}");
    farm.cli(&["notice", "add", "team", "--mail", "ada@example.com,bob@example.com"]).ok();
    farm.cli(&["notice", "add", "main", "--webhook", &secret_url, "--ref", "refs/heads/main"]).ok();
    let refused = farm.cli(&["notice", "add", "x", "--webhook", &secret_url, "--hook", "nohook"]);
    assert!(refused.status != 0 && refused.stderr.contains("farm hook ls"), "{refused:?}");

    // A sample is sent at once, and what is said to it is told.
    assert!(farm.cli(&["notice", "test", "ops"]).ok().contains("was taken (200 OK: ok)"));
    let sample = &hook.wait(1)[0];
    assert!(sample.path == "/in/s3cretpath" && is_signed(sample, &secret), "{sample:?}");
    fits(&sample.json());
    hook.says([Says::Now(404, Vec::new(), "no route for /in/s3cretpath")]);
    let soon = farm.cli(&["notice", "test", "ops"]);
    assert!(soon.status != 0 && soon.stderr.contains("try again in 10 s"), "{soon:?}");
    farm_tests::database::psql(farm.database_url(), "UPDATE notices SET tested_at = NULL");
    let refused = farm.cli(&["notice", "test", "ops"]);
    assert!(
        refused.status == 1 && refused.stdout.contains("404 Not Found: no route for /in/…"),
        "{refused:?}"
    );
    assert!(farm.cli(&["notice", "test", "team"]).ok().contains("was taken (250"));
    mails.wait(1);

    // What fails is told by each way; nobody is called by what a program says, and no header is made of it.
    let mut client = Client::connect(&farm).await;
    let mut sim = Sim::connect(&client, hello("w", 1)).await.unwrap();
    let build = fail(&mut client, &mut sim, "1").await;
    let (told, chatted, mailed) = tokio::task::block_in_place(|| (hook.wait(3), chat.wait(1), mails.wait(2)));
    let body = told[2].json();
    fits(&body);
    assert!(is_signed(&told[2], &secret), "{:?}", told[2]);
    let page = format!("https://farm.example/b/{build}?project=default");
    let step = body["data"]["failure"]["step"].as_str().unwrap();
    assert!(step.contains("RUN") && !body.to_string().contains(SECRET_ARG), "{body}");
    assert_eq!((&body["type"], &body["data"]["url"]), (&json!("build.failed"), &json!(page)));
    assert_eq!(
        (&body["data"]["build"]["id"], &body["data"]["failure"]["exit_code"]),
        (&json!(build), &json!(2))
    );
    assert!(body["data"]["failure"]["cure"].is_string(), "{body}");
    let text = chatted[0].json()["text"].as_str().unwrap().to_owned();
    assert!(text.contains("*failed*") && text.contains("&lt;!channel&gt;") && text.contains(&page), "{text}");
    assert!(
        !text.contains(SECRET_ARG)
            && !text.contains("<!channel>")
            && !text.contains("@channel")
            && text.matches('<').count() == 1,
        "{text}"
    );
    let mail = mailed.iter().find(|mail| mail.contains(&build)).unwrap();
    assert!(mail.contains(&format!("Subject: [farm] default: build {build} failed")), "{mail}");
    assert!(
        mail.lines().all(|line| !line.starts_with("Bcc:"))
            && mail.contains("ada@example.com, bob@example.com"),
        "{mail}"
    );
    let main = shown(&farm, "main");
    assert_eq!((&main["waiting"], &main["sent"]), (&json!(0), &json!(0)), "that is about another ref");

    // While the secret changes there are two signatures.
    let rotated = farm.cli(&["notice", "rotate", "ops", "--json"]).json();
    let newer = rotated["secret"].as_str().unwrap().to_owned();
    fail(&mut client, &mut sim, "2").await;
    let told = tokio::task::block_in_place(|| hook.wait(4));
    assert!(is_signed(&told[3], &secret) && is_signed(&told[3], &newer) && newer != secret, "{:?}", told[3]);
    assert!(shown(&farm, "ops")["old_secret_until"].is_string());
    let wrong = farm.cli(&["notice", "rotate", "chat"]);
    assert!(wrong.status != 0 && wrong.stderr.contains("signed by nothing"), "{wrong:?}");

    // Nobody is told where it goes, or by what it is signed.
    for args in
        [&["notice", "ls"][..], &["notice", "ls", "--json"], &["notice", "show", "ops"], &["audit", "--json"]]
    {
        let shown = farm.cli(args).ok();
        assert!(!shown.contains("s3cretpath") && !shown.contains("whsec_"), "{args:?}: {shown}");
    }
    let sealed = farm_tests::database::psql(
        farm.database_url(),
        "SELECT string_agg(encode(sealed, 'escape'), '') FROM notices",
    );
    assert!(!sealed.contains("s3cretpath"), "{sealed}");
    farm.cli(&["notice", "rm", "ops", "chat", "team", "main"]).ok();
    assert!(farm.cli(&["notice", "ls"]).ok().contains("tells nobody"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_taken_is_sent_again_under_its_id_whoever_dies_and_one_that_hangs_holds_up_no_other() {
    let (hook, hanging) = (Receiver::start(), Receiver::start());
    let mut farm = Farm::builder().tls().start();
    farm.cli(&["notice", "add", "ops", "--webhook", &hook.url()]).ok();
    let mut client = Client::connect(&farm).await;
    let mut sim = Sim::connect(&client, hello("w", 1)).await.unwrap();
    let soon = || vec![("retry-after", "1".to_owned())];
    let elsewhere = vec![("location", format!("{}/elsewhere", hanging.url()))];
    hook.says([
        Says::Now(429, soon(), "slow down"),
        Says::Now(503, soon(), "back soon"),
        Says::Now(307, [soon(), elsewhere].concat(), ""),
    ]);
    fail(&mut client, &mut sim, "1").await;
    let came = tokio::task::block_in_place(|| hook.wait(4));
    let id = came[0].header("webhook-id").to_owned();
    assert!(id.starts_with("msg_") && came.iter().all(|one| one.header("webhook-id") == id), "{came:#?}");
    assert!(hanging.came().is_empty(), "it was led elsewhere");
    let shown = tokio::task::block_in_place(|| until(&farm, "ops", "taken", |one| one["sent"] == 1));
    assert_eq!((&shown["trouble"], &shown["waiting"]), (&Value::Null, &json!(0)));

    // Beside one that hangs the other is told; and the coordinator dies before it hears an answer.
    farm.cli(&["notice", "add", "slow", "--slack", &hanging.url()]).ok();
    hanging.says([Says::Hangs]);
    fail(&mut client, &mut sim, "2").await;
    let (first, came) = tokio::task::block_in_place(|| (hanging.wait(1), hook.wait(5)));
    assert_ne!(came[4].header("webhook-id"), id, "another one");
    tokio::task::block_in_place(|| until(&farm, "ops", "taken", |one| one["sent"] == 2));
    sim.tell(v1::control_request::Message::Bye(v1::Bye {})).await;
    farm.kill_coordinator();
    hanging.go_on();
    farm.start_coordinator();
    // Nobody else sends it before the request that was under way can't come any more.
    let mut session = Session::open(farm.database_url());
    session.ask("UPDATE notices SET claimed_until = claimed_until - interval '1 hour'; SELECT 1");
    let again = tokio::task::block_in_place(|| hanging.wait(2));
    assert_eq!(again[1].body, first[0].body);
    tokio::task::block_in_place(|| until(&farm, "slow", "taken", |one| one["sent"] == 1));
    assert_eq!(hook.came().len(), 5, "it was taken, and isn't told again");

    // Who says that it is gone is told nothing of that again; what is wanted for a day is given up.
    let mut client = Client::connect(&farm).await;
    let mut sim = Sim::connect(&client, hello("v", 1)).await.unwrap();
    hook.says([Says::Now(410, Vec::new(), "moved away")]);
    hanging.says(std::iter::repeat_n(Says::Now(500, Vec::new(), "oops"), 20));
    fail(&mut client, &mut sim, "3").await;
    let shown = tokio::task::block_in_place(|| until(&farm, "ops", "given up", |one| one["given_up"] == 1));
    assert!(shown["trouble"].as_str().unwrap().contains("410 Gone"), "{shown}");
    tokio::task::block_in_place(|| {
        until(&farm, "slow", "waiting", |one| one["trouble"] == "it answers 500 Internal Server Error")
    });
    tokio::task::block_in_place(|| until(&farm, "slow", "put off", |one| one["next_try"].is_string()));
    session.ask(
        "UPDATE notice_messages SET created_at = created_at - interval '25 hours'; UPDATE notices SET next_at = NULL; SELECT 1",
    );
    let shown = tokio::task::block_in_place(|| until(&farm, "slow", "given up", |one| one["given_up"] == 1));
    assert_eq!(shown["waiting"], 0);
    assert!(farm.cli(&["notice", "show", "slow"]).ok().contains("500 Internal Server Error"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_goes_only_where_the_farm_may_send_and_over_tls() {
    let hook = Receiver::start();
    let farm = Farm::builder().guarded().tls().start();
    let refused = farm.cli(&["notice", "add", "ops", "--webhook", &format!("{}/s3cretpath", hook.url())]);
    for part in ["127.0.0.1, loopback", "outbound.allow"] {
        assert!(
            refused.stderr.contains(part) && !refused.stderr.contains("s3cretpath"),
            "{part}: {refused:?}"
        );
    }
    let refused = farm.cli(&["notice", "add", "team", "--mail", "ada@example.com"]);
    assert!(refused.status != 0 && refused.stderr.contains("[mail]"), "{refused:?}");
    let plain = farm.cli(&["notice", "add", "ops", "--webhook", "http://ops.example/s3cretpath"]);
    assert!(plain.stderr.contains("https://") && !plain.stderr.contains("s3cretpath"), "{plain:?}");
    assert!(hook.came().is_empty());

    let open = Farm::builder().start();
    let mut client = Client::connect(&open).await;
    let request = v1::AddNoticeRequest {
        name: "ops".into(),
        kind: "webhook".into(),
        url: hook.url(),
        ..Default::default()
    };
    let refused = client.notices.add_notice(request).await.unwrap_err();
    assert!(refused.message().contains("without TLS"), "{refused}");
}
