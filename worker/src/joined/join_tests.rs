//! Joining a FAKE coordinator over real TLS.

use std::os::unix::fs::PermissionsExt as _;

use clap::Parser;

use super::*;
use crate::testing::{Authority, Fake};

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

struct Worker {
    fake: Fake,
    folder: tempfile::TempDir,
}

impl Worker {
    async fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let fake = Fake::start_with_tls(Authority::new()).await;
        Self { fake, folder: tempfile::tempdir().unwrap() }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn fingerprint(&self) -> String {
        let trust = Trust::from_pem(&self.fake.authority().pem, "a test").unwrap();
        trust.fingerprints()[0].to_string()
    }

    async fn join(&self, words: &[&str]) -> Result<Vec<String>, JoinError> {
        let (url, state) = (self.fake.url().to_string(), self.state());
        let all = [&["join", &url, "farm_j_0123", "--state-dir", state.to_str().unwrap()], words].concat();
        join(Line::try_parse_from(all).unwrap().args).await
    }

    fn joined(&self) -> Option<Joined> {
        Joined::load(&self.state()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_joins_a_farm_whose_fingerprint_it_was_told_and_keeps_all_it_needs() {
    let worker = Worker::new().await;
    let url = worker.fake.url().to_string();
    worker
        .fake
        .with(|script| script.coordinators = vec![url.clone(), "https://other.example:7070".to_owned()]);
    let lines = worker.join(&["--fingerprint", &worker.fingerprint(), "--name", "w1"]).await.unwrap();
    let text = lines.join("\n");
    for part in
        ["w1, on machine m1, pool default, trusted", &url, "linux/amd64; 4 slots", "farm-worker --state-dir"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("farm_j_"), "{text}");
    worker.fake.with(|script| {
        let [request] = script.joins.as_slice() else { panic!("{:?}", script.joins) };
        assert_eq!((request.token.as_str(), request.name.as_str()), ("farm_j_0123", "w1"));
        assert_eq!(request.public_key.len(), 65);
    });
    let joined = worker.joined().unwrap();
    assert_eq!(joined.farm.coordinators, [url, "https://other.example:7070".to_owned()]);
    assert_eq!(joined.trust().unwrap().fingerprints()[0].to_string(), worker.fingerprint());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_given_no_name_takes_its_invitations_else_its_hosts() {
    let worker = Worker::new().await;
    let trusted = worker.fingerprint();
    worker.join(&["--fingerprint", &trusted]).await.unwrap();
    let names =
        || worker.fake.with(|script| script.joins.drain(..).map(|join| join.name).collect::<Vec<_>>());
    assert_eq!(names(), [""]);
    worker.fake.with(|script| script.needs_name = true);
    worker.join(&["--fingerprint", &trusted, "--again"]).await.unwrap();
    assert_eq!(names(), [String::new(), host_name().unwrap()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farm_that_is_not_believed_is_sent_nothing() {
    let worker = Worker::new().await;
    let wrong = format!("SHA256:{}", "0".repeat(64));
    let text = worker.join(&["--fingerprint", &wrong]).await.unwrap_err().to_string();
    for part in [wrong.as_str(), &worker.fingerprint(), "nothing was sent"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    // Neither is there one whom only its own CA vouches for.
    let text = worker.join(&[]).await.unwrap_err().to_string();
    let cure = format!("--fingerprint {}", worker.fingerprint());
    assert!(text.contains("no CA that is trusted") && text.contains(&cure), "{text}");
    let other = worker.folder.path().join("other.pem");
    fs::write(&other, Authority::new().pem).unwrap();
    let text = worker.join(&["--ca", other.to_str().unwrap()]).await.unwrap_err().to_string();
    assert!(text.contains("no CA that is trusted") && !text.contains("--fingerprint"), "{text}");
    assert!(worker.fake.with(|script| script.joins.is_empty()) && worker.joined().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_its_cure_and_leaves_nothing() {
    let worker = Worker::new().await;
    let trusted = worker.fingerprint();
    for (status, part, code) in [
        (Status::unauthenticated("join token farm_j_1… was used on 2026-01-01"), "was used on", 5),
        (Status::permission_denied("this invitation is for worker w2, not w1"), "for worker w2", 1),
        (Status::already_exists("the farm has a worker w1"), "The token is still good", 1),
        (Status::failed_precondition("this farm serves without TLS"), "without TLS", 1),
        (Status::unimplemented(""), "--token-file", 1),
        (Status::unavailable("the database is away"), "the database is away", 1),
    ] {
        worker.fake.with(|script| script.refuse_join = Some(status));
        let error = worker.join(&["--fingerprint", &trusted, "--name", "w1"]).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(part) && text.contains(&worker.fake.url().to_string()), "{text}");
        assert_eq!(error.exit_code(), code, "{text}");
        assert!(worker.joined().is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_whose_answer_got_lost_is_shown_again_with_the_same_key() {
    let worker = Worker::new().await;
    let trusted = worker.fingerprint();
    let usual = ["--fingerprint", trusted.as_str(), "--name", "w1"];
    let keys =
        || worker.fake.with(|script| script.joins.drain(..).map(|join| join.public_key).collect::<Vec<_>>());
    let pending = worker.state().join("joining.pem");
    worker.fake.with(|script| script.refuse_join = Some(Status::unavailable("what it did is lost")));
    worker.join(&usual).await.unwrap_err();
    assert_eq!(fs::metadata(&pending).unwrap().permissions().mode() & 0o777, 0o600);
    worker.fake.with(|script| script.refuse_join = None);
    worker.join(&usual).await.unwrap();
    let shown = keys();
    assert!(shown.len() == 2 && shown[0] == shown[1], "{shown:?}");
    assert!(!pending.exists() && worker.joined().is_some());
    // What is certified is asked for no more.
    worker.join(&[&usual[..], &["--again"]].concat()).await.unwrap();
    assert_ne!(keys(), shown[1..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_a_token_outlives_every_refusal() {
    let worker = Worker::new().await;
    let trusted = worker.fingerprint();
    let usual = ["--fingerprint", trusted.as_str(), "--name", "w1"];
    // The first coordinator may have done it; another one, which doesn't know this key, says that the token was used; and of
    // another name the same is said.
    for (status, name) in [
        (Status::unavailable("what it did is lost"), "w1"),
        (Status::unauthenticated("was used"), "w1"),
        (Status::unauthenticated("was used"), "w2"),
        (Status::unauthenticated("does not know this join token"), "w1"),
    ] {
        worker.fake.with(|script| script.refuse_join = Some(status));
        worker.join(&["--fingerprint", &trusted, "--name", name]).await.unwrap_err();
    }
    worker.fake.with(|script| script.refuse_join = None);
    worker.join(&usual).await.unwrap();
    let shown =
        worker.fake.with(|script| script.joins.drain(..).map(|join| join.public_key).collect::<Vec<_>>());
    assert!(shown.len() == 5 && shown.iter().all(|key| *key == shown[0]), "{shown:?}");
    assert!(!worker.state().join("joining.pem").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_identity_is_given_up_only_when_it_is_said() {
    let worker = Worker::new().await;
    let trusted = worker.fingerprint();
    let usual = ["--fingerprint", trusted.as_str(), "--name", "w1"];
    worker.join(&usual).await.unwrap();
    let first = worker.joined().unwrap().pair;
    let error = worker.join(&usual).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("as w1 already") && text.contains("--again"), "{text}");
    assert_eq!(worker.fake.with(|script| script.joins.len()), 1);
    // A refused attempt to replace it leaves it as it is.
    let again = [&usual[..], &["--again"]].concat();
    worker.fake.with(|script| script.refuse_join = Some(Status::unauthenticated("used up")));
    assert!(worker.join(&again).await.is_err());
    assert_eq!(worker.joined().unwrap().pair.pem, first.pem);
    worker.fake.with(|script| script.refuse_join = None);
    worker.join(&again).await.unwrap();
    assert_ne!(worker.joined().unwrap().pair.pem, first.pem);
    // A worker that runs there would go on with what is replaced.
    let _claim = claim(&worker.state()).unwrap();
    assert!(worker.join(&again).await.unwrap_err().to_string().contains("another worker uses this folder"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_joined_is_told_as_long_as_it_can_be_renewed() {
    let worker = Worker::new().await;
    let told = |json| {
        let place = Place { state_dir: Some(worker.state()), name: None };
        whoami(&WhoAmI { json, place })
    };
    let args = || told(false);
    let error = args().unwrap_err();
    assert!(error.to_string().contains("has joined no farm"), "{error}");
    assert_eq!(error.exit_code(), 5);
    worker.join(&["--fingerprint", &worker.fingerprint(), "--name", "w1"]).await.unwrap();
    assert!(args().unwrap()[0].contains("w1, on machine m1"));
    let object: serde_json::Value = serde_json::from_str(&told(true).unwrap()[0]).unwrap();
    assert_eq!((object["name"].as_str(), object["machine"].as_str()), (Some("w1"), Some("m1")));
    let mut joined = worker.joined().unwrap();
    joined.pair.times.issued_ms -= 2 * 24 * 3_600_000;
    joined.keep(&worker.state()).unwrap();
    let error = args().unwrap_err();
    assert!(error.to_string().contains("farm workers invite --name w1"), "{error}");
    assert_eq!(error.exit_code(), 5);
    // Then it may join without a word.
    worker.join(&["--fingerprint", &worker.fingerprint(), "--name", "w1"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_answers_or_speaks_no_tls_it_is_told() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let plain = Fake::start().await;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().to_str().unwrap().to_owned();
    let join_at = |url: String| {
        let at = at.clone();
        async move {
            join(Line::try_parse_from(["join", &url, "farm_j_1", "--state-dir", &at]).unwrap().args).await
        }
    };
    let port = plain.url().uri().port_u16().unwrap();
    let text = join_at(format!("127.0.0.1:{port}")).await.unwrap_err().to_string();
    assert!(text.contains("speaks no TLS"), "{text}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = join_at(format!("https://127.0.0.1:{free}")).await.unwrap_err().to_string();
    assert!(text.contains("no coordinator answers") && text.contains(&free.to_string()), "{text}");
}

#[test]
fn a_farm_is_https_and_a_token_is_one_word() {
    let address = |text: &str| text.parse::<Address>().map(|address| address.0.to_string());
    assert_eq!(address("a:1, https://b").unwrap(), "https://a:1, https://b");
    let text = address("http://127.0.0.1:7070").unwrap_err().to_string();
    assert!(text.contains("TLS only") && text.contains("https://"), "{text}");
    let read = |text: &str, stdin: &str| text.parse::<JoinToken>().unwrap().read(stdin.as_bytes());
    assert_eq!(read("-", " farm_j_1\n").unwrap(), "farm_j_1");
    assert_eq!(read(" farm_j_2 ", "").unwrap(), "farm_j_2");
    for (text, stdin) in [("-", "\n"), ("", ""), ("farm j", ""), ("-", "secret\u{7}")] {
        let error = read(text, stdin).unwrap_err().to_string();
        assert!(error.contains("farm workers invite") && !error.contains("secret"), "{error}");
    }
    assert_eq!(format!("{:?}", JoinToken("farm_j_1".to_owned())), "JoinToken(…)");
}

#[test]
fn as_root_the_packages_service_is_meant_and_its_user_gets_the_folder() {
    let passwd = "root:x:0:0:root:/root:/bin/bash\nfarm-worker:x:997:996:farm's worker:/var/lib/farm-worker:/usr/sbin/nologin\n";
    let place = |state_dir: Option<&str>| Place {
        state_dir: state_dir.map(PathBuf::from),
        name: Some("w9".parse().unwrap()),
    };
    let found = place(None).find(passwd, true).unwrap();
    assert_eq!((found.path, found.owner), (PathBuf::from("/var/lib/farm-worker"), Some((997, 996))));
    assert!(found.is_service);
    let elsewhere = place(Some("/srv/w")).find(passwd, true).unwrap();
    assert_eq!(
        (elsewhere.path, elsewhere.owner, elsewhere.is_service),
        (PathBuf::from("/srv/w"), None, false)
    );
    for (passwd, is_root) in [(passwd, false), ("root:x:0:0:root:/root:/bin/bash\n", true)] {
        let found = place(None).find(passwd, is_root).unwrap();
        assert!(!found.is_service && found.owner.is_none());
        assert!(found.path.ends_with("farm/worker-w9"), "{}", found.path.display());
    }
}

#[test]
fn where_the_farm_says_that_it_is_counts_if_it_is_called_so() {
    let named: Coordinators = "https://a:1,https://b:2".parse().unwrap();
    let called = named.at(0).clone();
    let said = |said: &[&str]| reachable(&named, &called, said.iter().map(|url| (*url).to_owned()).collect());
    assert_eq!(
        said(&["https://a:1", "https://c:3", "http://d:4"]),
        ["https://a:1", "https://b:2", "https://c:3"]
    );
    // It calls itself by addresses of a network that may not be this one.
    assert_eq!(said(&["https://10.0.0.1:7070"]), ["https://a:1", "https://b:2"]);
    assert_eq!(said(&[]), ["https://a:1", "https://b:2"]);
}
