//! A failure is told alike however long what failed is, and whatever words a user put into it.
//!
//! To add a row: a [`Row`] in one of the tables; each is one build of the real engine.

use super::*;

/// What follows from a failed build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    cause: Cause,
    code: &'static str,
    exit_code: Option<i32>,
    /// The first line of the Dockerfile that is marked; 0 for none.
    line: u32,
}

/// A failing build, and what is to be told of it.
struct Row {
    what: String,
    solve: Solve,
    told: Told,
    /// The last line of output that the failure shows.
    last: Option<String>,
}

impl Row {
    fn new(what: impl Into<String>, solve: Solve, told: Told) -> Self {
        Self { what: what.into(), solve, told, last: None }
    }

    fn last(self, line: impl Into<String>) -> Self {
        Self { last: Some(line.into()), ..self }
    }
}

fn run_failed(exit_code: i32, line: u32) -> Told {
    Told { cause: Cause::User, code: "run_failed", exit_code: Some(exit_code), line }
}

fn user(code: &'static str, line: u32) -> Told {
    Told { cause: Cause::User, code, exit_code: None, line }
}

/// Builds each; says all that is wrong at the end.
async fn hold(engine: &Engine, rows: Vec<Row>) {
    let mut wrong = Vec::new();
    for row in rows {
        let started = Instant::now();
        let (outcome, _) = run(engine, row.solve).await;
        let Err(SolveError::Failed(failure)) = outcome else {
            wrong.push(format!("{}: {outcome:?}", row.what));
            continue;
        };
        let short: String = failure.message.chars().take(300).collect();
        eprintln!("{} ({:?}): {} {}", row.what, started.elapsed(), failure.code, short);
        let line = failure.source.as_ref().map_or(0, |source| source.marked.0);
        let found = (failure.cause, failure.code.as_str(), failure.exit_code, line);
        let told = row.told;
        if found != (told.cause, told.code, told.exit_code, told.line) {
            wrong.push(format!("{}: {found:?} and not {told:?}: {short}", row.what));
        }
        let last = failure.log_tail.last();
        if row.last.is_some() && last != row.last.as_ref() {
            wrong.push(format!("{}: the last output is {last:?} and not {:?}", row.what, row.last));
        }
        if told.exit_code.is_some() && failure.step.is_none() {
            wrong.push(format!("{}: no step", row.what));
        }
        // Also where it repeats what the user wrote.
        if failure.message.chars().count() > 2500 {
            wrong.push(format!("{}: a message of {} bytes", row.what, failure.message.len()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn file(text: &str) -> Solve {
    solve(text, MemoryTree::default())
}

/// A command of so many lines.
fn lines(count: usize, end: &str) -> String {
    let line = |n| format!("echo line {n} {} && \\\n  ", fresh());
    (0..count).map(line).chain([end.to_owned()]).collect()
}

#[tokio::test]
async fn however_long_the_dockerfile_or_the_command_is() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    let base = from();
    let mut rows = Vec::new();
    for count in [5, 40, 70, 200] {
        let text = format!("{base}\nRUN {}\n", lines(count, "echo last && exit 3"));
        rows.push(
            Row::new(format!("a command of {count} lines"), file(&text), run_failed(3, 2)).last("last"),
        );
    }
    for size in [6_000, 20_000, 35_000, 400_000, 4_000_000] {
        let comment = format!("# {}\n", "x".repeat(76)).repeat(size / 79);
        let text = format!("{base}\n{comment}RUN echo {} && exit 3\n", fresh());
        let line = u32::try_from(text.lines().count()).unwrap();
        rows.push(Row::new(format!("a Dockerfile of {size} bytes"), file(&text), run_failed(3, line)));
    }
    for size in [16_000, 100_000, 120_000] {
        let script = format!(": {}\n", "y".repeat(77)).repeat(size / 80);
        let text = format!("{base}\nRUN <<EOF\n{script}echo {}\nexit 3\nEOF\n", fresh());
        rows.push(Row::new(format!("a script of {size} bytes"), file(&text), run_failed(3, 2)));
        let text = format!("{base}\nRUN <<EOF\n#!/bin/sh\n{script}echo {}\nexit 3\nEOF\n", fresh());
        rows.push(Row::new(format!("a program of {size} bytes"), file(&text), run_failed(3, 2)));
    }
    let script = format!(": {}\n", "y".repeat(77)).repeat(400_000 / 80);
    let text = format!("{base}\nRUN <<EOF\n#!/bin/sh\n{script}echo {}\nexit 3\nEOF\n", fresh());
    rows.push(Row::new("a program of 400 kB", file(&text), run_failed(3, 2)));
    // More than the system takes as one argument.
    let text = format!("{base}\nRUN {}\n", lines(4000, "exit 3"));
    rows.push(
        Row::new("a command that is too long to be run", file(&text), run_failed(1, 2))
            .last("exec /bin/sh: argument list too long"),
    );
    let text = format!("{base}\nRUN echo {}\n", "z".repeat(70_000));
    rows.push(Row::new("a line of 70 kB", file(&text), user("dockerfile_syntax", 1)));
    let text = format!("{base}\nRUN {}\n", lines(100, "sh -c 'kill -9 $$'"));
    let killed = Told { cause: Cause::Killed, code: "run_killed", exit_code: Some(137), line: 2 };
    rows.push(Row::new("a long command that is killed", file(&text), killed));
    hold(&engine, rows).await;
}

#[tokio::test]
async fn however_much_else_there_is() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    let base = from();
    let failing = format!("RUN echo {} && exit 3\n", fresh());
    let many = |instruction: &str, count: usize, size: usize| -> String {
        (0..count).map(|n| format!("{instruction} V{n}={}\n", "v".repeat(size))).collect()
    };
    let mut rows = Vec::new();
    for (instruction, count, size) in [("ENV", 1, 60_000), ("ENV", 20, 40_000), ("LABEL", 30, 60_000)] {
        let text = format!("{base}\n{}{failing}", many(instruction, count, size));
        let line = u32::try_from(text.lines().count()).unwrap();
        rows.push(Row::new(
            format!("{count} of {instruction} with {size} bytes each"),
            file(&text),
            run_failed(3, line),
        ));
    }
    let mut labelled = file(&format!("{base}\n{failing}"));
    labelled.labels = (0..20).map(|n| (format!("l{n}"), "v".repeat(100_000))).collect();
    rows.push(Row::new("labels of 2 MB", labelled, run_failed(3, 2)));
    let mut many_args = file(&format!("{base}\n{}{failing}", "ARG A=1\n".repeat(20)));
    many_args.build_args = (0..5000).map(|n| (format!("A{n}"), "v".repeat(200))).collect();
    rows.push(Row::new("5000 arguments", many_args, run_failed(3, 22)));
    let mut long_arg = file(&format!("{base}\nARG LONG\n{failing}"));
    long_arg.build_args = [("LONG".to_owned(), "v".repeat(100_000))].into();
    rows.push(Row::new("an argument of 100 kB", long_arg, run_failed(3, 3)));
    // Each warning carries the whole file.
    let warned = format!(
        "{}{base}\n{}{failing}",
        format!("# {}\n", "x".repeat(97)).repeat(10_000),
        "env A 1\n".repeat(40)
    );
    let line = u32::try_from(warned.lines().count()).unwrap();
    rows.push(Row::new("warnings of 80 MB in all", file(&warned), run_failed(3, line)));
    // Which files are wanted stands in the headers of the engine's own requests.
    let names: Vec<String> = (0..6000).map(|n| format!("folder-with-a-name/another-one/file-{n}")).collect();
    let copies: String = names.iter().map(|name| format!("COPY {name} /\n")).collect();
    let tree = memory(names.iter().map(|name| (name.as_str(), "")));
    let text = format!("{base} AS files\n{copies}{base}\nCOPY folder-with-a-name /\n{failing}");
    let line = u32::try_from(text.lines().count()).unwrap();
    rows.push(Row::new("6000 files by name", solve(&text, tree), run_failed(3, line)));
    hold(&engine, rows).await;
}

/// Words of engines, of registries and of farm, by which failures are told apart elsewhere.
const WORDS: [&str; 14] = [
    "context canceled",
    "no space left on device",
    "access denied",
    "cannot allocate memory",
    "no such host",
    "certificate",
    "x509: certificate signed by unknown authority",
    "401 Unauthorized",
    "docker/dockerfile",
    "exec /bin/sh: exec format error",
    "failed to push x: denied",
    "no active session for x",
    "farm cannot serve the source: x",
    "\\\" did not complete successfully: exit code: 137: context canceled",
];

/// Words, and in how many forms each is tried: in `all` each word in one form and each form with some word, in [`full`] all.
#[derive(Clone, Copy)]
struct Forms {
    all: bool,
}

impl Forms {
    /// Whether this one of so many forms is tried with the word of this number.
    fn has(self, word: usize, form: usize, of: usize) -> bool {
        self.all || word % of == form
    }
}

/// The long forms: `tests/run.sh e2e` runs both.
mod full {
    use super::Forms;

    #[tokio::test]
    async fn every_word_in_a_command() {
        super::words_in_commands(Forms { all: true }).await;
    }

    #[tokio::test]
    async fn every_word_in_names_and_paths() {
        super::words_in_names(Forms { all: true }).await;
    }
}

#[tokio::test]
async fn whatever_words_a_command_says() {
    words_in_commands(Forms { all: false }).await;
}

async fn words_in_commands(forms: Forms) {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    let base = from();
    let mut rows = Vec::new();
    for (n, word) in WORDS.into_iter().enumerate() {
        // Short, and as long as no list of headers was before; printed, and not.
        if forms.has(n, 0, 2) {
            let short =
                format!("{base}\nRUN echo \"{word}\" # {}\nRUN echo \"{word}\" >&2; exit 3\n", fresh());
            rows.push(Row::new(word, file(&short), run_failed(3, 3)));
        }
        if forms.has(n, 1, 2) {
            let long = format!("{base}\nRUN {}\n", lines(100, &format!("true \"{word}\" && exit 3")));
            rows.push(Row::new(format!("long: {word}"), file(&long), run_failed(3, 2)));
        }
    }
    // A program that can't be begun, with such a name.
    for word in ["/no space left on device", "/context canceled"] {
        let text = format!("{base}\nRUN [\"{word}\"]\n");
        rows.push(Row::new(word, file(&text), run_failed(1, 2)));
    }
    hold(&engine, rows).await;
}

#[tokio::test]
async fn whatever_words_names_and_paths_are_made_of() {
    words_in_names(Forms { all: false }).await;
}

async fn words_in_names(forms: Forms) {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    let base = from();
    let mut rows = Vec::new();
    for name in
        ["team/certificate-authority", "docker/dockerfiles/base", "x509", "eof/unauthorized", "denied"]
    {
        let text = format!("FROM {}/{name}:1\n", registry());
        rows.push(Row::new(name, file(&text), user("base_image_missing", 1)));
    }
    for (n, word) in WORDS.into_iter().enumerate() {
        let quoted = word.trim_start_matches("\\\" ");
        let before = rows.len();
        let text = format!("{base}\nCOPY [\"a: {quoted}\", \"/\"]\n");
        rows.push(Row::new(format!("COPY: {word}"), file(&text), user("copy_source_missing", 2)));
        // A file in the place of a folder, which an engine tells without quotes.
        let text =
            format!("FROM scratch\nCOPY [\"f\", \"/a: {quoted}\"]\nCOPY [\"f\", \"/a: {quoted}/b\"]\n");
        let tree = memory([("f", "")]);
        rows.push(Row::new(format!("in the place: {word}"), solve(&text, tree), user("engine_error", 3)));
        let mut targeted = file(&format!("{base}\n"));
        targeted.target = Some(format!("a: {word}"));
        rows.push(Row::new(format!("target: {word}"), targeted, user("target_missing", 0)));
        let text = format!("{base}\nARG X\nENV Y=\"${{X:?a: {quoted}}}\"\n");
        rows.push(Row::new(format!("unset: {word}"), file(&text), user("dockerfile_syntax", 3)));
        let text = format!("{base}\n{}\n", quoted.to_uppercase());
        rows.push(Row::new(format!("instruction: {word}"), file(&text), user("dockerfile_syntax", 2)));
        let of_word = rows.split_off(before);
        let forms_of_word = of_word.len();
        let tried = of_word.into_iter().enumerate().filter(|(form, _)| forms.has(n, *form, forms_of_word));
        rows.extend(tried.map(|(_, row)| row));
    }
    let down = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("localhost:{}", listener.local_addr().unwrap().port())
    };
    for name in ["certificates/app", "plain/app", "docker/dockerfile", "401-unauthorized"] {
        let mut pushing = file(&format!("{base}\nRUN echo {}\n", fresh()));
        pushing.export = export(&[&format!("{down}/{name}")]);
        let told =
            Told { cause: Cause::Infrastructure, code: "registry_unavailable", exit_code: None, line: 0 };
        rows.push(Row::new(format!("push to {name}"), pushing, told));
    }
    hold(&engine, rows).await;
}

/// A way to the engine on which, once it is told to, answers stay behind; then it can be broken, for a new one.
struct Lossy {
    address: String,
    held: CancellationToken,
    broken: CancellationToken,
    _folder: tempfile::TempDir,
}

fn lossy(address: &str) -> Lossy {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("docker.sock");
    let real = PathBuf::from(address.strip_prefix("unix://").unwrap());
    let listener = UnixListener::bind(&path).unwrap();
    let (held, broken) = (CancellationToken::new(), CancellationToken::new());
    let (holding, breaking) = (held.clone(), broken.clone());
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = UnixStream::connect(&real).await.unwrap();
            let (mut near_in, mut near_out) = near.into_split();
            let (mut far_in, mut far_out) = far.into_split();
            // What comes after the break is a way like any other.
            let is_old = !breaking.is_cancelled();
            let (holding, breaking) = (holding.clone(), breaking.clone());
            tokio::spawn(async move {
                let there = async {
                    drop(tokio::io::copy(&mut near_in, &mut far_out).await);
                    drop(far_out.shutdown().await);
                };
                let back = async {
                    let copying = async {
                        drop(tokio::io::copy(&mut far_in, &mut near_out).await);
                        drop(near_out.shutdown().await);
                    };
                    tokio::select! {
                        () = copying => {}
                        () = holding.cancelled(), if is_old => std::future::pending().await,
                    }
                };
                tokio::select! {
                    _ = async { tokio::join!(there, back) } => {}
                    () = breaking.cancelled(), if is_old => {}
                }
            });
        }
    });
    Lossy { address: format!("unix://{}", path.display()), held, broken, _folder: folder }
}

/// The step's end and the answer are lost with the way, which is a moment later another one: the engine has it all.
#[tokio::test]
async fn an_answer_that_got_lost_is_read_from_the_status() {
    let Some(address) = address() else { return };
    let lossy = lossy(&address);
    let engine = connect(&lossy.address).await;
    // The step waits here, so that nothing depends on time. It comes from the engine's bridge.
    let gate = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = gate.local_addr().unwrap().port();
    let tree = memory([("gate.py", include_str!("gate.py"))]);
    let solve =
        solve(&format!("{}\nCOPY gate.py /\nRUN python3 /gate.py {port} {}\n", from(), fresh()), tree);
    let (sender, mut events) = mpsc::channel(100);
    let building = tokio::spawn(async move { engine.solve(solve, sender, CancellationToken::new()).await });
    let (mut step, _) = gate.accept().await.unwrap();
    lossy.held.cancel();
    step.write_all(b"x").await.unwrap();
    // Its end: the step is gone.
    assert_eq!(step.read(&mut [0]).await.unwrap_or(0), 0);
    let direct = connect(&address).await;
    direct.probe(&"linux/amd64".parse().unwrap()).await.unwrap();
    lossy.broken.cancel();
    while events.recv().await.is_some() {}
    let Err(SolveError::Failed(failure)) = building.await.unwrap() else { panic!() };
    assert_eq!(
        (failure.cause, failure.code.as_str(), failure.exit_code),
        (Cause::User, "run_failed", Some(9)),
        "{failure:#?}"
    );
    assert_eq!(failure.log_tail.last().map(String::as_str), Some("through"));
}
