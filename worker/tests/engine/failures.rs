//! What goes wrong, and how it is told.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

#[tokio::test]
async fn a_failing_run_shows_the_place_and_the_output() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    let text = format!(
        "{}\nRUN true\nRUN echo {} && \\\n    echo 'what went wrong' >&2 && \\\n    exit 7\nRUN echo after\n",
        from(),
        fresh()
    );
    let failure = failure(&engine, solve(&text, MemoryTree::default())).await;
    assert_eq!(
        (failure.cause, failure.code.as_str(), failure.exit_code),
        (Cause::User, "run_failed", Some(7))
    );
    assert!(failure.step.unwrap().starts_with("[3/4] RUN echo"));
    assert_eq!(failure.log_tail.len(), 2);
    assert!(failure.log_tail.contains(&"what went wrong".to_owned()));
    let source = failure.source.unwrap();
    assert_eq!((source.file.as_str(), source.first_line, source.marked), ("Dockerfile", 1, (3, 5)));
    assert_eq!(source.lines.len(), 6);
    assert!(failure.message.contains("exit code 7"), "{}", failure.message);
}

#[tokio::test]
async fn what_a_user_did_wrong_has_a_code_a_place_and_a_cure() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    let base = from();
    for (code, line, text) in [
        ("dockerfile_syntax", 2, format!("{base}\nRUNN x\n")),
        ("dockerfile_syntax", 2, format!("{base}\nCOPY --nope a b\n")),
        ("dockerfile_syntax", 2, format!("{base}\nCOPY --from=nope:: a b\n")),
        ("base_image_platform", 1, format!("FROM --platform=linux/s390x {}/python:3.11-slim\n", registry())),
        ("copy_source_missing", 2, format!("{base}\nCOPY missing.txt /\n")),
        ("base_image_missing", 1, format!("FROM {}/no/such:image\n", registry())),
        ("dockerfile_missing", 0, String::new()),
        ("dockerfile_empty", 0, "# nothing\n".to_owned()),
        ("frontend_refused", 0, format!("# syntax=example.com/frontend\n{base}\n")),
        ("run_failed", 2, format!("{base}\nRUN [\"/no/such/program\"]\n")),
        ("run_failed", 2, "FROM scratch\nRUN echo x\n".to_owned()),
        ("target_missing", 0, format!("{base}\n#target\n")),
    ] {
        let mut solve = solve(&text, MemoryTree::default());
        if code == "dockerfile_missing" {
            solve.dockerfile = "other/Dockerfile".to_owned();
        }
        if code == "target_missing" {
            solve.target = Some("zzz".to_owned());
        }
        let failure = failure(&engine, solve).await;
        assert_eq!((failure.cause, failure.code.as_str()), (Cause::User, code), "{text}");
        assert_eq!(failure.source.map_or(0, |source| source.marked.0), line, "{text}");
    }
}

#[tokio::test]
async fn a_killed_run_is_told_apart() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    let text = format!("{}\nRUN echo {}; sh -c 'kill -9 $$'\n", from(), fresh());
    let failure = failure(&engine, solve(&text, MemoryTree::default())).await;
    assert_eq!(
        (failure.cause, failure.code.as_str(), failure.exit_code),
        (Cause::Killed, "run_killed", Some(137))
    );
}

/// A way to the engine that can be cut.
pub(crate) struct Detour {
    pub(crate) address: String,
    pub(crate) cut: CancellationToken,
    /// How many connections go through it now.
    open: Arc<AtomicUsize>,
    _folder: tempfile::TempDir,
}

pub(crate) fn detour(address: &str) -> Detour {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("docker.sock");
    let real = PathBuf::from(address.strip_prefix("unix://").unwrap());
    let listener = UnixListener::bind(&path).unwrap();
    let cut = CancellationToken::new();
    let open = Arc::new(AtomicUsize::new(0));
    let (token, counted) = (cut.clone(), Arc::clone(&open));
    tokio::spawn(token.clone().run_until_cancelled_owned(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (real, token, counted) = (real.clone(), token.clone(), Arc::clone(&counted));
            tokio::spawn(token.run_until_cancelled_owned(async move {
                let mut far = UnixStream::connect(real).await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = copy_bidirectional(&mut near, &mut far).await;
                counted.fetch_sub(1, Ordering::SeqCst);
            }));
        }
    }));
    Detour { address: format!("unix://{}", path.display()), cut, open, _folder: folder }
}

#[tokio::test]
async fn an_engine_that_vanishes_is_infrastructure() {
    let Some(address) = address() else { return };
    let detour = detour(&address);
    let engine = connect(&detour.address).await;
    let text = format!("{}\nRUN echo {}; sleep 600\n", from(), fresh());
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
    let started = Instant::now();
    detour.cut.cancel();
    let Err(SolveError::Failed(failure)) = building.await.unwrap() else { panic!() };
    eprintln!("after {:?}: {failure:#?}", started.elapsed());
    assert_eq!((failure.cause, failure.code.as_str()), (Cause::Infrastructure, "engine_lost"));
    assert!(started.elapsed() < Duration::from_secs(5));
    engine.health().await.unwrap_err();
}

/// Its session, too: what is left would be held by worker and engine for good, and keep a buildkitd from stopping.
#[tokio::test]
async fn a_solve_leaves_no_connection_behind_however_it_ends() {
    let Some(address) = address() else { return };
    let detour = detour(&address);
    let engine = connect(&detour.address).await;
    let settled = async |what: &str, at_most: usize| {
        let begin = Instant::now();
        while detour.open.load(Ordering::SeqCst) > at_most {
            let open = detour.open.load(Ordering::SeqCst);
            assert!(begin.elapsed() < Duration::from_secs(10), "{what}: {open} connections, not {at_most}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // The one that the engine is asked over how it is.
    settled("at first", 1).await;
    for _ in 0..3 {
        let text = format!("{}\nRUN echo {}\n", from(), fresh());
        run(&engine, solve(&text, MemoryTree::default())).await.0.unwrap();
        let text = format!("{}\nRUN exit 1 # {}\n", from(), fresh());
        failure(&engine, solve(&text, MemoryTree::default())).await;
    }
    settled("after solves", 1).await;
    let text = format!("{}\nRUN echo {}; sleep 600\n", from(), fresh());
    let begun = async |stop: CancellationToken| {
        let (sender, mut events) = mpsc::channel(100);
        let (engine, solve) = (engine.clone(), solve(&text, MemoryTree::default()));
        let building = tokio::spawn(async move { engine.solve(solve, sender, stop).await });
        while let Some(event) = events.recv().await {
            if matches!(event.event, Some(Event::Log(_))) {
                break;
            }
        }
        (building, events)
    };
    let stop = CancellationToken::new();
    let (building, _events) = begun(stop.clone()).await;
    stop.cancel();
    assert!(matches!(building.await.unwrap(), Err(SolveError::Stopped)));
    settled("after a stopped one", 1).await;
    let (building, _events) = begun(CancellationToken::new()).await;
    building.abort();
    settled("after a dropped one", 1).await;
}

/// Gives less than it promised.
struct Broken(Vec<TreeEntry>);

impl SourceTree for Broken {
    fn entries(&self) -> &[TreeEntry] {
        &self.0
    }

    fn open(&self, _: &str) -> std::io::Result<Box<dyn std::io::Read + Send>> {
        Ok(Box::new(std::io::Cursor::new("abc")))
    }
}

#[tokio::test]
async fn a_source_that_cannot_be_read_is_infrastructure() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    let mut solve = solve(&format!("{}\nCOPY . /\n", from()), MemoryTree::default());
    let kind = TreeKind::File { size: 5, digest: Digest::of(b"") };
    let broken = Broken(vec![TreeEntry { path: "f".to_owned(), mode: 0o644, mtime: 0, kind }]);
    solve.roots.insert("context".to_owned(), Arc::new(broken));
    let failure = failure(&engine, solve).await;
    assert_eq!((failure.cause, failure.code.as_str()), (Cause::Infrastructure, "source_unreadable"));
    assert!(failure.message.contains("f: it has 3 bytes instead of 5"), "{}", failure.message);
}

/// A registry that answers everything alike. Gives its address and the authorizations that it was sent.
async fn stubborn_registry(status: &'static str) -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("localhost:{}", listener.local_addr().unwrap().port());
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while let Ok(byte) = stream.read_u8().await {
                    // An attempt at TLS; without this the engine would wait 10 s for an answer.
                    if head.is_empty() && byte == 0x16 {
                        let _ =
                            stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
                        let _ = stream.shutdown().await;
                        let _ = stream.read_to_end(&mut head).await;
                        return;
                    }
                    head.push(byte);
                    if head.ends_with(b"\r\n\r\n") {
                        for line in String::from_utf8_lossy(&head).lines() {
                            if let Some(value) = line.strip_prefix("Authorization: Basic ") {
                                let _ = sender.send(value.to_owned());
                            }
                        }
                        head.clear();
                        let answer = format!(
                            "HTTP/1.1 {status}\r\nWWW-Authenticate: Basic realm=\"r\"\r\nContent-Length: 0\r\n\r\n"
                        );
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    (address, receiver)
}

#[tokio::test]
async fn a_registrys_refusal_is_told_by_its_kind() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    let down = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("localhost:{}", listener.local_addr().unwrap().port())
    };
    for (status, push, pull, cause) in [
        ("401 Unauthorized", "registry_auth", "registry_auth", Cause::User),
        ("403 Forbidden", "registry_auth", "registry_auth", Cause::User),
        ("404 Not Found", "repository_missing", "base_image_missing", Cause::User),
        ("413 Request Entity Too Large", "registry_rejected", "registry_rejected", Cause::User),
        ("503 Service Unavailable", "registry_unavailable", "registry_unavailable", Cause::Infrastructure),
        ("429 Too Many Requests", "registry_unavailable", "registry_unavailable", Cause::Infrastructure),
        ("down", "registry_unavailable", "registry_unavailable", Cause::Infrastructure),
    ] {
        let (host, mut authorizations) = match status {
            "down" => (down.clone(), mpsc::unbounded_channel().1),
            _ => stubborn_registry(status).await,
        };
        let mut pushing = solve(&format!("{}\nRUN echo {}\n", from(), fresh()), MemoryTree::default());
        let (username, password) = ("me".to_owned(), "wrong".to_owned());
        let login = Login { host: host.clone(), username, password };
        pushing.logins.push(login.clone());
        pushing.export = export(&[&format!("{host}/x/y")]);
        let started = Instant::now();
        let failed = failure(&engine, pushing).await;
        eprintln!("push, {status}: {:?}", started.elapsed());
        assert_eq!((failed.code.as_str(), failed.cause), (push, cause), "push, {status}");
        assert!(failed.message.contains(&host) && !failed.message.contains("wrong"), "{}", failed.message);
        if status.starts_with("401") {
            let sent = base64::engine::general_purpose::STANDARD
                .decode(authorizations.recv().await.unwrap())
                .unwrap();
            assert_eq!(sent, b"me:wrong");
        }
        let mut pulling = solve(&format!("FROM {host}/x/y:1\n"), MemoryTree::default());
        pulling.logins.push(login);
        let started = Instant::now();
        let failed = failure(&engine, pulling).await;
        eprintln!("pull, {status}: {:?}", started.elapsed());
        assert_eq!((failed.code.as_str(), failed.cause), (pull, cause), "pull, {status}");
    }
}

#[tokio::test]
async fn a_probe_runs_what_can_be_run() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    for platform in ["linux/amd64", "linux/arm64"] {
        let started = Instant::now();
        engine.probe(&platform.parse().unwrap()).await.unwrap();
        eprintln!("{platform}: {:?}", started.elapsed());
    }
    // No one emulates this one here.
    match engine.probe(&"linux/s390x".parse().unwrap()).await {
        Err(SolveError::Failed(failure)) => {
            eprintln!("{failure:#?}");
            assert_eq!((failure.cause, failure.code.as_str()), (Cause::Infrastructure, "emulator_missing"));
        }
        Ok(()) => eprintln!("this machine runs s390x"),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_registry_that_wants_a_login_takes_the_right_one_only() {
    let Some(address) = address() else { return };
    let variable = |name: &str| std::env::var(format!("FARM_TEST_AUTH_{name}"));
    let (Ok(host), Ok(username), Ok(password)) =
        (variable("REGISTRY"), variable("USER"), variable("PASSWORD"))
    else {
        eprintln!(
            "skipped: FARM_TEST_AUTH_REGISTRY, FARM_TEST_AUTH_USER or FARM_TEST_AUTH_PASSWORD is not set"
        );
        return;
    };
    let engine = connect(&address).await;
    let attempt = |login: Option<Login>| {
        let mut solve = solve(&format!("{}\nRUN echo {}\n", from(), fresh()), MemoryTree::default());
        solve.logins.extend(login);
        solve.export = export(&[&format!("{host}/farm/private")]);
        solve
    };
    let login = Login { host: host.clone(), username, password };
    let wrong = Login { password: "wrong".to_owned(), ..login.clone() };
    for login in [None, Some(wrong)] {
        let started = Instant::now();
        let failure = failure(&engine, attempt(login)).await;
        eprintln!("refused after {:?}", started.elapsed());
        assert_eq!((failure.cause, failure.code.as_str()), (Cause::User, "registry_auth"));
    }
    run(&engine, attempt(Some(login.clone()))).await.0.unwrap();
    // And one base image that is there only for those who log in.
    let mut pulling = solve(&format!("FROM {host}/farm/private:none\n"), MemoryTree::default());
    pulling.logins.push(login);
    assert_eq!(failure(&engine, pulling).await.code.as_str(), "base_image_missing");
}
