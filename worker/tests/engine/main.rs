//! Builds by a real engine.
//!
//! `FARM_TEST_ENGINE` names one (`unix:///…/docker.sock`); without it each test says so and passes. The engine
//! must reach, as `localhost:5002` (or `FARM_TEST_REGISTRY`), a registry over plain HTTP that holds
//! `python:3.11-slim` for amd64 and arm64; and the tests must run in its network namespace, because some of them
//! are registries themselves. `FARM_TEST_AUTH_REGISTRY`, `…_USER` and `…_PASSWORD` name a registry that wants a
//! login.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking, in their helpers too")]

mod calls;
mod content;
mod failures;
mod measured;
mod source;
mod untouched;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use farm_proto::v1::attempt_event::Event;
use farm_proto::v1::{AttemptEvent, StepUpdate};
use farm_types::{Cause, Digest, Failure, Provenance, PullMode};
use farm_worker::buildkit::{
    Engine, EngineKind, Export, Fetches, Login, MemoryTree, Solve, SolveError, Solved, SourceTree, TreeEntry,
    TreeKind,
};
use farm_worker::mask::Mask;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The engine's address, or nothing when none was given.
fn address() -> Option<String> {
    let address = std::env::var("FARM_TEST_ENGINE").ok();
    if address.is_none() {
        eprintln!("skipped: FARM_TEST_ENGINE is not set");
    }
    address
}

async fn connect(address: &str) -> Engine {
    Engine::connect(address.parse().unwrap()).await.unwrap()
}

fn registry() -> String {
    std::env::var("FARM_TEST_REGISTRY").unwrap_or_else(|_| "localhost:5002".to_owned())
}

/// `FROM` the base image.
fn from() -> String {
    format!("FROM {}/python:3.11-slim", registry())
}

/// A text that no test used before, so that no cache answers.
fn fresh() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

fn memory<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> MemoryTree {
    MemoryTree::new(files.into_iter().map(|(path, text)| (path, 0o644, text.as_bytes().to_vec())))
}

fn solve(dockerfile: &str, context: MemoryTree) -> Solve {
    let context: Arc<dyn SourceTree> = Arc::new(context);
    let dockerfile: Arc<dyn SourceTree> = Arc::new(memory([("Dockerfile", dockerfile)]));
    let mut fetches = Fetches::default();
    fetches.take_images_from(["127.0.0.0/8"]);
    Solve {
        platform: "linux/amd64".parse().unwrap(),
        dockerfile: "Dockerfile".to_owned(),
        target: None,
        build_args: BTreeMap::new(),
        labels: BTreeMap::new(),
        no_cache: false,
        no_cache_stages: Vec::new(),
        run: farm_types::RunOptions::default(),
        pull: PullMode::Default,
        provenance: Provenance::Off,
        sbom: None,
        form: Default::default(),
        named_contexts: BTreeMap::new(),
        partial: BTreeMap::new(),
        roots: [("context".to_owned(), context), ("dockerfile".to_owned(), dockerfile)].into(),
        shared_key: fresh(),
        caches: "test".to_owned(),
        export: None,
        outputs: Vec::new(),
        image_names: Vec::new(),
        logins: Vec::new(),
        lending: None,
        bounds: None,
        fetches,
        mounted: Default::default(),
        mask: Mask::default(),
        internal: false,
        call: None,
    }
}

fn export(repositories: &[&str]) -> Option<Export> {
    let repositories = repositories.iter().map(|repository| repository.parse().unwrap()).collect();
    Some(Export { repositories, plain_http: true, told_only: false })
}

/// Builds; answers with the outcome and all events.
async fn run(engine: &Engine, solve: Solve) -> (Result<Solved, SolveError>, Vec<AttemptEvent>) {
    let (sender, mut receiver) = mpsc::channel(16);
    let collecting = tokio::spawn(async move {
        let mut events = Vec::new();
        while let Some(event) = receiver.recv().await {
            events.push(event);
        }
        events
    });
    let outcome = engine.solve(solve, sender, CancellationToken::new()).await;
    (outcome, collecting.await.unwrap())
}

async fn failure(engine: &Engine, solve: Solve) -> Failure {
    match run(engine, solve).await.0 {
        Err(SolveError::Failed(failure)) => {
            eprintln!("{failure:#?}");
            failure
        }
        other => panic!("{other:?}"),
    }
}

fn output(events: &[AttemptEvent]) -> String {
    let data = events.iter().filter_map(|event| match &event.event {
        Some(Event::Log(log)) => Some(String::from_utf8_lossy(&log.data).into_owned()),
        _ => None,
    });
    data.collect()
}

#[tokio::test]
async fn an_engine_describes_itself() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    let description = engine.describe().await.unwrap();
    eprintln!("{description:?}");
    assert!(!description.key.is_empty() && !description.version.is_empty());
    assert!(description.platforms.iter().any(|platform| platform.architecture() == description.architecture));
    if description.kind == EngineKind::Docker {
        assert!(description.containerd_store, "the test engine must use the containerd image store");
        assert!(description.version.starts_with(|c: char| c.is_ascii_digit()));
    }
    engine.health().await.unwrap();
}

#[tokio::test]
async fn an_address_where_nothing_is_gives_the_cure() {
    let error =
        Engine::connect("unix:///nowhere/docker.sock".parse().unwrap()).await.err().unwrap().to_string();
    assert!(error.contains("unix:///nowhere/docker.sock") && error.contains("start the engine"), "{error}");
}

#[tokio::test]
async fn both_platforms_are_built_and_pushed_by_digest() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    for (platform, machine) in [("linux/amd64", "x86_64"), ("linux/arm64", "aarch64")] {
        let salt = fresh();
        let text = format!(
            "{} AS base\nARG SALT\nRUN echo $SALT && uname -m\nCOPY a.txt sub /\nRUN cat /a.txt /deep/b.txt\nFROM base\n",
            from()
        );
        let context = memory([("a.txt", "alpha\n"), ("sub/deep/b.txt", "beta\n"), ("unused", "x")]);
        let mut solve = solve(&text, context);
        solve.platform = platform.parse().unwrap();
        solve.build_args.insert("SALT".to_owned(), salt.clone());
        solve.labels.insert("l".to_owned(), "v".to_owned());
        let (first, second) = (format!("{}/farm/one", registry()), format!("{}/farm/two", registry()));
        solve.export = export(&[&first, &second]);
        let started = Instant::now();
        let (outcome, events) = run(&engine, solve.clone()).await;
        let solved = outcome.unwrap();
        eprintln!("{platform} {:?} {solved:#?}", started.elapsed());
        let output = output(&events);
        assert!(output.contains(&salt) && output.contains(machine), "{output}");
        assert!(output.contains("alpha\nbeta\n"), "{output}");
        assert_eq!(solved.media_type, "application/vnd.oci.image.manifest.v1+json");
        assert!(solved.digest.is_some() && solved.size > 100);
        assert_eq!((solved.steps, solved.step_timings.len()), (4, 4));
        assert_eq!(solved.step_timings[1].stage, "base");
        assert!(solved.steps_cached < 4);
        // Again: all from the cache, and the same image.
        let again = run(&engine, solve).await.0.unwrap();
        assert_eq!((again.steps, again.digest), (4, solved.digest));
        // Whether FROM counts as cached depends on what the engine had to ask.
        assert!(again.steps_cached >= 3, "{again:#?}");
    }
}

#[tokio::test]
async fn a_stop_kills_the_running_step_at_once() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    for platform in ["linux/amd64", "linux/arm64"] {
        // The number makes the process findable.
        let seconds = 600_000 + std::process::id() % 100_000;
        let text = format!("{}\nRUN echo {}; echo going; sleep {seconds}\n", from(), fresh());
        let mut solve = solve(&text, MemoryTree::default());
        solve.platform = platform.parse().unwrap();
        let (sender, mut events) = mpsc::channel(100);
        let stop = CancellationToken::new();
        let building = tokio::spawn({
            let (engine, stop) = (engine.clone(), stop.clone());
            async move { engine.solve(solve, sender, stop).await }
        });
        while let Some(event) = events.recv().await {
            if matches!(&event.event, Some(Event::Log(log)) if log.data.windows(5).any(|w| w == b"going")) {
                break;
            }
        }
        let started = Instant::now();
        stop.cancel();
        let outcome = building.await.unwrap();
        let took = started.elapsed();
        eprintln!("{platform}: stopped after {took:?}");
        assert_eq!(outcome, Err(SolveError::Stopped));
        assert!(took < Duration::from_secs(2), "{took:?}");
        let needle = format!("sleep\0{seconds}");
        let alive = std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&needle))
        });
        assert!(!alive, "the step lives on");
    }
}

#[tokio::test]
async fn a_dropped_solve_is_stopped_too() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    let text = format!("{}\nRUN echo {}; echo going; sleep 600\n", from(), fresh());
    let (sender, mut events) = mpsc::channel(100);
    let building = tokio::spawn({
        let engine = engine.clone();
        let solve = solve(&text, MemoryTree::default());
        async move { engine.solve(solve, sender, CancellationToken::new()).await }
    });
    while let Some(event) = events.recv().await {
        if matches!(event.event, Some(Event::Log(_))) {
            break;
        }
    }
    building.abort();
    // All that held a sender is gone.
    tokio::time::timeout(Duration::from_secs(2), async { while events.recv().await.is_some() {} })
        .await
        .unwrap();
}

#[tokio::test]
async fn nobody_listening_holds_nothing_up() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    let text = format!("{}\nRUN echo {}; seq 1 20000\n", from(), fresh());
    let (sender, _) = mpsc::channel(1);
    engine.solve(solve(&text, MemoryTree::default()), sender, CancellationToken::new()).await.unwrap();
}

#[tokio::test]
async fn the_official_frontend_is_replaced_by_the_built_in_one() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    let text = format!("# syntax=docker/dockerfile:1\n{}\nRUN <<EOF\necho {}\nEOF\n", from(), fresh());
    let solved = run(&engine, solve(&text, MemoryTree::default())).await.0.unwrap();
    assert_eq!(solved.syntax_replaced.as_deref(), Some("docker/dockerfile:1"));
}

#[tokio::test]
async fn with_provenance_the_result_is_an_index() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    for provenance in [Provenance::Min, Provenance::Max] {
        let mut solve = solve(&format!("{}\nRUN echo {}\n", from(), fresh()), MemoryTree::default());
        solve.provenance = provenance;
        let repository = format!("{}/farm/provenance", registry());
        solve.export = export(&[&repository]);
        let solved = run(&engine, solve).await.0.unwrap();
        eprintln!("{provenance:?}: {:?}", solved.digest);
        assert_eq!(solved.media_type, "application/vnd.oci.image.index.v1+json");
    }
}

#[tokio::test]
async fn warnings_and_steps_are_told() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    let text = format!("{} as base\nMAINTAINER me\nRUN echo {}\nFROM base\n", from(), fresh());
    let (outcome, events) = run(&engine, solve(&text, MemoryTree::default())).await;
    outcome.unwrap();
    let steps: Vec<&StepUpdate> = events
        .iter()
        .filter_map(|event| match &event.event {
            Some(Event::Step(step)) => Some(step),
            _ => None,
        })
        .collect();
    let run = steps.iter().rfind(|step| step.instruction.starts_with("RUN echo")).unwrap();
    assert_eq!((run.stage.as_str(), run.number, run.total), ("base", 2, 2));
    assert!(run.finished_ms >= run.started_ms && run.started_ms > 0);
    let warnings: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.event {
            Some(Event::Warning(warning)) => {
                Some((warning.rule.as_str(), warning.line, warning.source_line.as_str()))
            }
            _ => None,
        })
        .collect();
    eprintln!("{warnings:?}");
    // Engines before BuildKit 0.14 send none.
    if !warnings.is_empty() {
        assert!(warnings.contains(&("MaintainerDeprecated", 2, "MAINTAINER me")));
    }
}
