//! A whole worker between a real engine and a FAKE coordinator.
//!
//! `FARM_TEST_ENGINE` names the engine (`unix:///…/docker.sock`); without it each test says so and passes. The
//! engine must reach, as `localhost:5002` (or `FARM_TEST_REGISTRY`), a registry over plain HTTP that holds
//! `python:3.11-slim`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farm_proto::v1::{self, control_request::Message, control_response, finished};
use farm_types::Entitlements;
use tokio::io::copy_bidirectional;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::attempts::Attempts;
use crate::buildkit::EngineAddress;
use crate::config::{Config, Shows};
use crate::engine_watch::{EngineWatch, ready};
use crate::platforms::Choice;
use crate::testing::{Fake, Source, offered, offers, token, until};
use crate::{RunError, Shutdown, run};

struct Worker {
    fake: Fake,
    shutdown: Shutdown,
    running: JoinHandle<Result<(), RunError>>,
    state: tempfile::TempDir,
}

/// The engine's address, or nothing when none was given.
fn engine() -> Option<String> {
    let engine = std::env::var("FARM_TEST_ENGINE").ok();
    if engine.is_none() {
        eprintln!("skipped: FARM_TEST_ENGINE is not set");
    }
    engine
}

/// A worker of one slot on the engine that was named, with platforms as given (found, when `None`).
async fn start(platforms: Option<Vec<farm_types::Offer>>) -> Option<Worker> {
    let engine = engine()?;
    let fake = Fake::start().await;
    fake.with(|script| script.answer_finished = true);
    let state = tempfile::tempdir().unwrap();
    let config = Config {
        coordinators: fake.url().into(),
        security: farm_client::Security::default(),
        shows: Shows::Token(token()),
        name: "w".into(),
        engine: engine.parse().unwrap(),
        state_dir: state.path().join("state"),
        slots: 1,
        platforms: platforms.map_or(Choice::Found, Choice::Told),
        allow: Entitlements::new(),
        fetch_from: Vec::new(),
        fenced_engine: false,
        cache_bytes: 1 << 20,
        release_after: None,
        room: crate::disk::Room { wanted: 0, least: 0 },
        engine_root: None,
    };
    let shutdown = Shutdown::default();
    let running = tokio::spawn(run(config, shutdown.clone()));
    fake.heartbeat().await;
    Some(Worker { fake, shutdown, running, state })
}

impl Worker {
    /// Offers a build of this Dockerfile, beside a file `hello`.
    async fn offer(&self, dockerfile: &str, push: bool) -> v1::Offered {
        let registry = std::env::var("FARM_TEST_REGISTRY").unwrap_or_else(|_| "localhost:5002".to_owned());
        let dockerfile = dockerfile.replace("BASE", &format!("{registry}/python:3.11-slim"));
        let source = Source::new(&[("Dockerfile", &dockerfile), ("hello", "hello")]);
        let roots = ["context", "dockerfile"];
        let tree_id = source.tree_id_as(&roots).to_string();
        self.fake.with(|script| script.source = Some(source));
        let snapshot =
            v1::SnapshotRef { tree_id: tree_id.clone(), content_key: tree_id, upload_id: String::new() };
        let spec = v1::BuildSpec {
            snapshot: Some(snapshot),
            platforms: vec!["linux/amd64".into()],
            no_cache: true,
            ..Default::default()
        };
        let offered = v1::Offered {
            spec: Some(spec),
            repositories: if push { vec![format!("{registry}/worker-test")] } else { Vec::new() },
            roots: roots.map(str::to_owned).to_vec(),
            ..offered()
        };
        self.fake.tell(control_response::Message::Offered(offered.clone())).await;
        offered
    }

    fn end(&self) -> Option<finished::Outcome> {
        self.fake.with(|script| {
            script.heard.iter().find_map(|message| match message {
                Message::Finished(finished) => finished.outcome.clone(),
                _ => None,
            })
        })
    }

    fn log(&self) -> String {
        use v1::attempt_event::Event;
        self.fake.with(|script| {
            let events = script.chunks.values().flatten().filter_map(|event| event.event.as_ref());
            let texts = events.filter_map(|event| match event {
                Event::Log(log) => Some(String::from_utf8_lossy(&log.data).into_owned()),
                Event::Notice(notice) => Some(format!("{}\n", notice.text)),
                _ => None,
            });
            texts.collect()
        })
    }

    fn said_goodbye(&self) -> bool {
        self.fake.with(|script| matches!(script.heard.last(), Some(Message::Bye(_))))
    }

    fn kept(&self) -> usize {
        std::fs::read_dir(self.state.path().join("state/results")).unwrap().count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_is_built_and_told_and_the_worker_drains() {
    let Some(worker) = start(None).await else { return };
    worker.fake.with(|script| match &script.heard[0] {
        Message::Hello(hello) => {
            assert!(hello.platforms.iter().any(|p| p.support == "native" && !p.told), "{hello:?}");
            assert!(!hello.engine.as_ref().unwrap().key.is_empty());
        }
        other => panic!("{other:?}"),
    });
    worker.offer("FROM BASE\nCOPY hello /\nRUN cat /hello; sleep 2\n", true).await;
    until("it runs", || worker.log().contains("hello")).await;
    worker.shutdown.drain.cancel();
    until("it says that it runs nothing more", || {
        let is_empty = |m: &Message| matches!(m, Message::Hello(hello) if hello.platforms.is_empty());
        worker.fake.with(|script| script.heard.iter().any(is_empty))
    })
    .await;
    worker.fake.heartbeat().await;
    worker.offer("FROM BASE\n", false).await;
    until("what comes now is declined", || {
        worker.fake.with(|script| script.heard.iter().any(|message| matches!(message, Message::Declined(_))))
    })
    .await;
    until("the end", || worker.end().is_some()).await;
    match worker.end() {
        Some(finished::Outcome::Result(result)) => {
            assert!(result.digest.starts_with("sha256:") && result.size > 0, "{result:?}");
            assert!(result.steps >= 3 && result.engine.contains(' '), "{result:?}");
        }
        other => panic!("{other:?}\n{}", worker.log()),
    }
    assert!(worker.log().contains("fetching 2 files"), "{}", worker.log());
    until("the worker ends", || worker.running.is_finished()).await;
    assert!(worker.said_goodbye());
    assert_eq!(worker.kept(), 0, "an acknowledged result is not kept");
    worker.running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_kills_the_step_within_two_seconds() {
    let Some(worker) = start(Some(offers())).await else { return };
    let offered = worker.offer("FROM BASE\nRUN echo begun; sleep 600\n", false).await;
    until("it runs", || worker.log().contains("begun")).await;
    let attempt_id = offered.lease.unwrap().attempt_id;
    let asked = Instant::now();
    let stop = v1::Stop { attempt_id, reason: "cancelled".into() };
    worker.fake.tell(control_response::Message::Stop(stop)).await;
    until("the end", || worker.end().is_some()).await;
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert!(matches!(worker.end(), Some(finished::Outcome::Stopped(_))));
    worker.shutdown.drain.cancel();
    worker.running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_stops_what_runs_and_says_so() {
    let Some(worker) = start(Some(offers())).await else { return };
    worker.offer("FROM BASE\nRUN echo begun; sleep 600\n", false).await;
    until("it runs", || worker.log().contains("begun")).await;
    worker.shutdown.drain.cancel();
    worker.shutdown.abort.cancel();
    until("the end", || worker.end().is_some()).await;
    match worker.end() {
        Some(finished::Outcome::Failure(failure)) => assert_eq!(failure.code, "worker_stopped"),
        other => panic!("{other:?}"),
    }
    until("the worker ends", || worker.running.is_finished()).await;
    assert!(worker.said_goodbye());
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_told_with_the_cure() {
    let address = "unix:///nonexistent/docker.sock".parse().unwrap();
    let error = RunError::from(ready(&address, &Choice::Found, &Entitlements::new()).await.err().unwrap());
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("--engine"), "{error}");
}

/// Stands before the engine's socket, so that the engine can be away without anything being done to it.
async fn door(engine: String, place: PathBuf) {
    let listener = UnixListener::bind(&place).unwrap();
    let mut open = JoinSet::new();
    loop {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = UnixStream::connect(engine.trim_start_matches("unix://")).await.unwrap();
        open.spawn(async move { copy_bidirectional(&mut near, &mut far).await });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_goes_and_comes_back_is_noticed() {
    let Some(engine) = engine() else { return };
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("engine.sock");
    let address: EngineAddress = format!("unix://{}", place.display()).parse().unwrap();
    let first_door = tokio::spawn(door(engine.clone(), place.clone()));
    // Its name is there a moment before it listens.
    until("the door is open", || std::os::unix::net::UnixStream::connect(&place).is_ok()).await;
    let first = ready(&address, &Choice::Told(offers()), &Entitlements::new()).await.unwrap();

    let (attempts, _chores) = Attempts::new(1);
    let attempts = Arc::new(attempts);
    attempts.open(first.identity.clone());
    let suspect = Arc::new(Notify::new());
    let watch = EngineWatch {
        address,
        choice: Choice::Told(offers()),
        allow: Entitlements::new(),
        attempts: Arc::clone(&attempts),
        ready: watch::Sender::new(first.clone()),
        suspect: Arc::clone(&suspect),
    };
    let watching = tokio::spawn(watch.run());
    first_door.abort();
    assert!(first_door.await.unwrap_err().is_cancelled());
    std::fs::remove_file(&place).unwrap();
    suspect.notify_one();
    until("it is noticed", || attempts.identity().borrow().offers.is_empty()).await;
    match &attempts.offer(offered())[..] {
        [Message::Declined(declined)] => {
            assert!(declined.reason.contains("the engine is away"), "{declined:?}")
        }
        other => panic!("{other:?}"),
    }
    let second_door = tokio::spawn(door(engine, place));
    until("it is taken back", || *attempts.identity().borrow() == first.identity).await;
    watching.abort();
    second_door.abort();
}
