//! What engines say, and what follows from it; and that nothing follows from what users write.

use std::collections::BTreeMap;
use std::sync::Arc;

use bollard_buildkit_proto::moby::buildkit::v1::{StatusResponse, Vertex, VertexLog};
use farm_types::{FailureCode, Provenance, PullMode, RunOptions};
use proptest::prelude::*;
use serde_json::json;

use super::super::tree::{MemoryTree, SourceTree};
use super::super::types::Solve;
use super::cases;
use super::details::tests::status;
use super::said::Words;
use super::*;

/// What a build was made of, as far as a failure may repeat it.
#[derive(Debug, Clone)]
struct Build {
    dockerfile: String,
    /// Its Dockerfile's name.
    file: String,
    target: String,
    /// A file in its context.
    path: String,
    /// The step that fails: its name, its error, its output.
    step: String,
    error: String,
    log: String,
    mask: Mask,
}

impl Default for Build {
    fn default() -> Self {
        Self {
            dockerfile: "1\n2\n3\n4\n5\n6\n7\n".into(),
            file: "sub/Dockerfile".into(),
            target: "zzz".into(),
            path: "a".into(),
            step: "[b 2/3] RUN x".into(),
            error: String::new(),
            log: String::new(),
            mask: Mask::default(),
        }
    }
}

impl Build {
    fn classified(&self, status: &Status) -> Failure {
        self.told(|circumstances| classify(status, circumstances))
    }

    fn told(&self, tell: impl Fn(&Circumstances<'_>) -> Failure) -> Failure {
        let mut collected = Collected::new(None, self.mask.clone());
        let vertex = Vertex {
            digest: "sha256:1".into(),
            name: self.step.clone(),
            error: self.error.clone(),
            ..Vertex::default()
        };
        let msg = self.log.clone().into();
        let log = VertexLog { vertex: "sha256:1".into(), stream: 1, msg, ..VertexLog::default() };
        collected.absorb(StatusResponse { vertexes: vec![vertex], logs: vec![log], ..Default::default() }, 0);
        let dockerfile = Dockerfile { path: self.file.clone(), text: self.dockerfile.clone(), syntax: None };
        let tree: Arc<dyn SourceTree> = Arc::new(MemoryTree::new([(&*self.path, 0o644, Vec::new())]));
        let solve = Solve {
            platform: "linux/arm64".parse().unwrap(),
            dockerfile: self.file.clone(),
            target: Some(self.target.clone()),
            build_args: BTreeMap::new(),
            labels: BTreeMap::new(),
            no_cache: false,
            no_cache_stages: Vec::new(),
            run: RunOptions::default(),
            pull: PullMode::Default,
            provenance: Provenance::Off,
            sbom: None,
            form: Default::default(),
            named_contexts: BTreeMap::new(),
            roots: [("context".to_owned(), tree)].into(),
            partial: BTreeMap::new(),
            shared_key: String::new(),
            caches: String::new(),
            export: None,
            outputs: Vec::new(),
            image_names: Vec::new(),
            logins: Vec::new(),
            lending: None,
            bounds: None,
            fetches: Default::default(),
            mounted: Default::default(),
            mask: self.mask.clone(),
            internal: false,
            call: None,
        };
        let circumstances = Circumstances {
            collected: &collected,
            dockerfile: &dockerfile,
            platform: &solve.platform,
            target: Some(&self.target),
            engine: "unix:///x".into(),
            named: Named::of(&solve, &dockerfile),
            mask: &solve.mask,
        };
        tell(&circumstances)
    }
}

#[test]
fn what_a_rule_gives_is_documented() {
    for case in cases::CASES {
        let (_, meanings) = case.code.documented().unwrap();
        assert!(meanings.iter().any(|meaning| meaning.cause == case.cause), "{} {}", case.code, case.cause);
    }
}

fn classified(status: &Status, log: &str) -> Failure {
    Build { log: log.into(), ..Build::default() }.classified(status)
}

/// What engines really said, by what it means.
#[test]
fn texts_are_told_apart() {
    use Cause::{Bug, Infrastructure, User};
    for (text, cause, code) in [
        (
            "dockerfile parse error on line 2: unknown instruction: RUNN (did you mean RUN?)",
            User,
            "dockerfile_syntax",
        ),
        ("failed to read dockerfile: open Nope: no such file or directory", User, "dockerfile_missing"),
        ("target stage \"zzz\" could not be found", User, "target_missing"),
        ("failed to load LLB: network.host is not allowed", User, "entitlement_missing"),
        (
            "failed to solve: failed to load LLB: security.insecure is not allowed",
            User,
            "entitlement_missing",
        ),
        (
            "granting entitlement security.insecure is not allowed by build daemon configuration",
            Infrastructure,
            "engine_error",
        ),
        ("lint violation found for rules: FromAsCasing, StageNameCasing", User, "dockerfile_check"),
        (
            "failed to compute cache key: failed to calculate checksum of ref a::b: \"/missing.txt\": not found",
            User,
            "copy_source_missing",
        ),
        (
            "localhost:5002/no/such:1: failed to resolve source metadata for localhost:5002/no/such:1: localhost:5002/no/such:1: not found",
            User,
            "base_image_missing",
        ),
        (
            "x: failed to resolve source metadata for x: no match for platform in manifest: not found",
            User,
            "base_image_platform",
        ),
        (
            "failed to push localhost:1/x/y: unexpected status from HEAD request to http://localhost:1/v2/x/y/blobs/sha256:0: 401 Unauthorized",
            User,
            "registry_auth",
        ),
        (
            "failed to push localhost:1/x/y: failed to do request: Head \"http://localhost:1/v2/x\": dial tcp 127.0.0.1:1: connect: connection refused",
            Infrastructure,
            "registry_unavailable",
        ),
        (
            "failed to read dockerfile: connection error: desc = \"transport: Error while dialing: dial unix /run/docker/containerd/containerd.sock: connect: connection refused\"",
            Infrastructure,
            "engine_lost",
        ),
        (
            "failed to push localhost:1/x/y: unexpected status from POST request to http://localhost:1/v2/x/y/blobs/uploads/: 503 Service Unavailable",
            Infrastructure,
            "registry_unavailable",
        ),
        (
            "failed to commit ppu3 to dldx during finalize: failed to stat active key during commit: snapshot ppu3 does not exist: not found",
            Infrastructure,
            "engine_error",
        ),
        ("failed to push localhost:1/x/y: unknown: trouble", Infrastructure, "registry_unavailable"),
        (
            "failed to push localhost:1/x/y: errors:\nunknown: provided digest did not match uploaded content\nunknown: blob unknown to registry - sha256:e0",
            Infrastructure,
            "registry_unavailable",
        ),
        (
            "failed to push localhost:1/x/y: name unknown: repository name not known to registry",
            User,
            "repository_missing",
        ),
        (
            "failed to push localhost:1/x/y: unexpected status from POST request to http://localhost:1/v2/x/y/blobs/uploads/: 404 Not Found",
            User,
            "repository_missing",
        ),
        (
            "failed to push localhost:1/x/y: unexpected status from PUT request to http://localhost:1/v2/x/y/manifests/sha256:0: 413 Request Entity Too Large",
            User,
            "registry_rejected",
        ),
        (
            "python:3: failed to resolve source metadata for docker.io/library/python:3: failed to do request: Head \"https://registry-1.docker.io/v2/library/python/manifests/3\": dial tcp: lookup registry-1.docker.io on 1.1.1.1:53: no such host",
            Infrastructure,
            "registry_unavailable",
        ),
        (
            "failed to resolve source metadata for docker.io/docker/dockerfile:1: failed to do request: dial tcp: lookup registry-1.docker.io: no such host",
            User,
            "syntax_image",
        ),
        (
            "x: failed to resolve source metadata for x: failed to do request: http: server gave HTTP response to HTTPS client",
            User,
            "registry_rejected",
        ),
        (
            "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed",
            User,
            "base_image_missing",
        ),
        ("no active session for abc: context deadline exceeded", Infrastructure, "session_lost"),
        ("failed to read dockerfile: context canceled", Infrastructure, "session_lost"),
        ("changes out of order: \"a/z\" \"a-b\"", Bug, "engine_error"),
        ("failed to copy files: write /x: no space left on device", Infrastructure, "no_space"),
        (
            "rpc error: code = Aborted desc = farm cannot serve the source: f: gone",
            Infrastructure,
            "source_unreadable",
        ),
        ("something that nobody knows", User, "engine_error"),
    ] {
        let failure = classified(&Status::unknown(text), "");
        assert_eq!((failure.cause, failure.code.as_str()), (cause, code), "{text}");
        assert!(!failure.message.is_empty());
    }
}

#[test]
fn a_failing_command_is_told_with_its_step_its_place_and_its_output() {
    let data = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode("a\nb\nc\nd\ne\nf\ng\n")
    };
    let failed = |code: i32| {
        status(
            &format!("process \"/bin/sh -c x\" did not complete successfully: exit code: {code}"),
            &[
                (
                    "errdefs.Source",
                    json!({"info": {"filename": "Dockerfile", "data": data}, "ranges": [{"start": {"line": 4}, "end": {"line": 5}}]}),
                ),
                ("errdefs.Vertex", json!({"digest": "sha256:1"})),
                ("gatewayapi.ExitMessage", json!({"Code": code})),
            ],
        )
    };
    let failure = classified(&failed(7), "one\ntwo\n");
    assert_eq!(
        (failure.cause, failure.code.as_str(), failure.exit_code),
        (Cause::User, "run_failed", Some(7))
    );
    assert_eq!(failure.message, "[b 2/3] RUN x: exit code 7");
    assert_eq!(failure.log_tail, ["one", "two"]);
    let source = failure.source.unwrap();
    assert_eq!((source.file.as_str(), source.first_line, source.marked), ("sub/Dockerfile", 2, (4, 5)));
    assert_eq!(source.lines, ["b", "c", "d", "e", "f", "g"]);
    assert_eq!(classified(&failed(137), "").cause, Cause::Killed);
    // What it printed is its user's; the worker measures.
    let unstartable = classified(&failed(1), "exec /bin/sh: exec format error\n");
    assert_eq!(unstartable.code, FailureCode::RunFailed);
    assert!(is_unstartable(&unstartable));
    let told = emulator_missing(unstartable, &"linux/arm64".parse().unwrap());
    assert_eq!((told.cause, told.code.as_str()), (Cause::Infrastructure, "emulator_missing"));
    let full = classified(&failed(100), "E: write error - write (28: No space left on device)\n");
    assert_eq!((full.cause, full.code.as_str(), full.exit_code), (Cause::User, "run_failed", Some(100)));
}

#[test]
fn a_broken_way_is_a_lost_engine_and_a_text_alone_still_has_its_line() {
    let broken = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::BrokenPipe)));
    assert_eq!(classified(&broken, "").code, FailureCode::EngineLost);
    assert_eq!(classified(&Status::cancelled("context canceled"), "").code, FailureCode::SessionLost);
    let failure = classified(&Status::unknown("dockerfile parse error on line 1: x"), "");
    let source = failure.source.unwrap();
    assert_eq!((source.first_line, source.marked, source.lines.len()), (1, (1, 1), 3));
}

#[test]
fn without_details_the_status_tells_of_the_step() {
    let command = format!("echo {} && exit 3", "x".repeat(100_000));
    let error = format!("process {} did not complete successfully: exit code: 3", quote(&command));
    let build = Build {
        step: format!("[2/2] RUN {command}"),
        error: error.clone(),
        log: "last\n".into(),
        ..Build::default()
    };
    // Nothing was attached; the answer could not be read; the connection broke after the step had.
    let reset = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
    for status in [Status::unknown(&error), reset, Status::unavailable("gone")] {
        let failure = build.classified(&status);
        assert_eq!(
            (failure.cause, failure.code.as_str(), failure.exit_code),
            (Cause::User, "run_failed", Some(3)),
            "{status:?}"
        );
        assert_eq!(failure.log_tail, ["last"]);
        assert!(failure.step.unwrap().starts_with("[2/2] RUN echo"));
        assert!(failure.message.len() < 500);
    }
    // One that the engine ended, when it went.
    let error = error.replace("exit code: 3", "exit code: 137: context canceled");
    let ended = Build { error, ..build.clone() };
    let failure = ended.classified(&Status::unavailable("gone"));
    assert_eq!((failure.code.as_str(), failure.exit_code), ("engine_lost", None));
    // One that the status could not tell of is named by its place.
    let data = "YQpSVU4gYgo=";
    let place = json!({"info": {"filename": "D", "data": data}, "ranges": [{"start": {"line": 2}}]});
    let details = [
        ("errdefs.Vertex", json!({"digest": "sha256:2"})),
        ("errdefs.Source", place),
        ("gatewayapi.ExitMessage", json!({"Code": 3})),
    ];
    let failure =
        build.classified(&status("process \"b\" did not complete successfully: exit code: 3", &details));
    assert_eq!((failure.step.as_deref(), failure.message.as_str()), (Some("RUN b"), "RUN b: exit code 3"));
    // Likewise when it was the session that ended.
    assert_eq!(build.told(session_lost).code, FailureCode::RunFailed);
    assert_eq!(ended.told(session_lost).code, FailureCode::SessionLost);
    assert_eq!(Build::default().told(session_lost).code, FailureCode::SessionLost);
}

/// Go's `%q`.
fn quote(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{escaped}\"")
}

/// All words that anything is decided by.
fn words() -> Vec<&'static str> {
    let text = |words: &Words| match *words {
        Words::Begin(text) | Words::Last(text) => text,
    };
    let mut all: Vec<&str> = cases::RESOLVING.iter().map(text).collect();
    for case in cases::CASES {
        all.extend(case.any.iter().map(text));
        if let About::Also(words) = case.about {
            all.extend(words.iter().map(text));
        }
    }
    all.extend([
        PUSHING,
        SOURCE_FAULT,
        "context canceled",
        "walker is closed",
        "failed to resolve source metadata for docker.io/docker/dockerfile:1",
        "process \"x\" did not complete successfully: exit code: 137",
        "\" did not complete successfully: exit code: 9",
        "exit code: 137: context canceled",
        "exec /bin/sh: exec format error",
        "No space left on device",
        "rpc error: code = Unavailable desc = x",
        "desc = \"transport",
        "not found",
        "unknown",
    ]);
    all
}

/// What a user writes: words of the tables, in whatever company.
fn text() -> impl Strategy<Value = String> {
    let word = prop::sample::select(words());
    let join = prop::sample::select(vec![" ", ": ", "; ", "\n", ": \"", "\": ", "'", "/", " && "]);
    let piece = (join, word, any::<bool>()).prop_map(|(join, word, upper)| {
        let word = if upper { word.to_uppercase() } else { word.to_owned() };
        format!("{join}{word}")
    });
    ("[a-z]{0,3}", prop::collection::vec(piece, 1..5), "(: [a-z]{1,3})?")
        .prop_map(|(begin, pieces, end)| format!("{begin}{}{end}", pieces.concat()))
}

/// The same as a name: a repository's, without spaces.
fn name() -> impl Strategy<Value = String> {
    let slug = |word: &str| {
        let allowed =
            |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/') { c } else { '-' };
        let slug: String = word.to_lowercase().chars().map(allowed).collect();
        slug.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
    };
    let names: Vec<String> =
        words().into_iter().map(slug).chain(["docker/dockerfiles/base".into()]).collect();
    let host = prop::sample::select(vec!["", "localhost:5999/", "registry.example/team/"]);
    let more = prop::sample::select(vec!["", "/app", "-x", "/docker/dockerfile"]);
    (host, prop::sample::select(names), more).prop_map(|(host, name, more)| format!("{host}{name}{more}"))
}

/// The name that an engine gives an image.
fn normal(name: &str) -> String {
    match name.split_once('/') {
        None => format!("docker.io/library/{name}:latest"),
        Some((host, _)) if host.contains(['.', ':']) => format!("{name}:latest"),
        Some(_) => format!("docker.io/{name}:latest"),
    }
}

#[track_caller]
fn holds(failure: &Failure, cause: Cause, code: &str) -> Result<(), TestCaseError> {
    prop_assert_eq!((failure.cause, failure.code.as_str()), (cause, code), "{}", failure.message);
    Ok(())
}

proptest! {
    /// Whatever a command is and prints, its exit code says what follows, with details and without.
    #[test]
    fn no_command_and_no_output_chooses_its_failure(
        command in text(), log in text(), stage in "[a-z]{1,5}", code in prop::sample::select(vec![1, 3, 100, 127, 137, 255]),
        has_details in any::<bool>(),
    ) {
        let error = format!("process {} did not complete successfully: exit code: {code}", quote(&command));
        let details: &[_] = &[("errdefs.Vertex", json!({"digest": "sha256:1"})), ("gatewayapi.ExitMessage", json!({"Code": code}))];
        let dockerfile = format!("FROM x\nRUN {command}\n");
        let build = Build { step: format!("[{stage} 2/2] RUN {command}"), error: error.clone(), log, dockerfile, ..Build::default() };
        let answer = status(&error, if has_details { details } else { &[] });
        let failure = build.classified(&answer);
        let (cause, word) = if code == 137 { (Cause::Killed, "run_killed") } else { (Cause::User, "run_failed") };
        holds(&failure, cause, word)?;
        prop_assert_eq!(failure.exit_code, Some(code));
        // One that the engine ended, or could not begin, whatever it is.
        for (own, cause, word) in [
            ("exit code: 137: context canceled", Cause::Infrastructure, "session_lost"),
            ("failed to create shim task: OCI runtime create failed: runc: x", Cause::Infrastructure, "engine_error"),
            ("something that nobody knows", Cause::User, "run_failed"),
        ] {
            let error = format!("process {} did not complete successfully: {own}", quote(&command));
            holds(&Build { error: error.clone(), ..build.clone() }.classified(&status(&error, &[])), cause, word)?;
        }
    }

    /// Whatever an image is called.
    #[test]
    fn no_image_name_chooses_its_failure(name in name()) {
        let image = normal(&name);
        let of_from = json!({"info": {"filename": "Dockerfile", "data": "RlJPTQo="}, "ranges": [{"start": {"line": 1}}]});
        let resolving = format!("{name}: failed to resolve source metadata for {image}");
        let pushing = format!("failed to push {name}");
        let url = format!("Head \"http://r/v2/{name}/manifests/1\"");
        for (text, cause, code) in [
            (format!("{resolving}: {image}: not found"), Cause::User, "base_image_missing"),
            (format!("{resolving}: no match for platform in manifest: not found"), Cause::User, "base_image_platform"),
            (format!("{resolving}: failed to do request: {url}: dial tcp: lookup r: no such host"), Cause::Infrastructure, "registry_unavailable"),
            (format!("{resolving}: failed to do request: {url}: x509: certificate signed by unknown authority"), Cause::User, "registry_rejected"),
            (format!("{resolving}: unexpected status from HEAD request to http://r/v2/{name}/manifests/1: 401 Unauthorized"), Cause::User, "registry_auth"),
            (format!("{pushing}: failed to do request: {url}: dial tcp 127.0.0.1:5999: connect: connection refused"), Cause::Infrastructure, "registry_unavailable"),
            (format!("{pushing}: unexpected status from POST request to http://r/v2/{name}/blobs/uploads/: 503 Service Unavailable"), Cause::Infrastructure, "registry_unavailable"),
            (format!("{pushing}: unexpected status from PUT request to http://r/v2/{name}/manifests/1: 413 Request Entity Too Large"), Cause::User, "registry_rejected"),
            (format!("{pushing}: unexpected status from PUT request to http://r/v2/{name}/manifests/1: 404 Not Found"), Cause::User, "repository_missing"),
        ] {
            let details: &[_] = &[("errdefs.Source", of_from.clone())];
            let details = if text.starts_with("failed to push") { &[] } else { details };
            holds(&Build::default().classified(&status(&text, details)), cause, code)?;
        }
    }

    /// Whatever files, targets and instructions are called.
    #[test]
    fn no_path_and_no_target_chooses_its_failure(path in text(), target in text(), word in text()) {
        // What a tree can't hold.
        let path = path.replace('/', "-");
        let path = path.trim_matches(|c: char| c == '.' || c.is_whitespace());
        let dockerfile = format!("FROM x\nCOPY [{}, \"/\"]\n", quote(path));
        let build = Build { dockerfile, target, path: path.to_owned(), file: path.to_owned(), step: "[2/2] COPY".into(), ..Build::default() };
        let below = format!("/var/lib/docker/tmp/buildkit-mount1/{path}");
        for (text, cause, code) in [
            (format!("failed to compute cache key: failed to calculate checksum of ref a::b: {}: not found", quote(path)), Cause::User, "copy_source_missing"),
            (format!("failed to copy files: write {below}: no space left on device"), Cause::Infrastructure, "no_space"),
            (format!("failed to copy files: write {below}: input/output error"), Cause::Infrastructure, "engine_error"),
            (format!("failed to copy files: cannot copy to non-directory: {below}"), Cause::User, "engine_error"),
            (format!("failed to copy files: lstat {below}: permission denied"), Cause::User, "engine_error"),
            (format!("target stage {} could not be found", quote(&build.target)), Cause::User, "target_missing"),
            (format!("failed to read dockerfile: open {path}: no such file or directory"), Cause::User, "dockerfile_missing"),
        ] {
            holds(&build.classified(&Status::unknown(text)), cause, code)?;
        }
        // What a frontend says of a line.
        let place = json!({"info": {"filename": "Dockerfile", "data": "RlJPTQo="}, "ranges": [{"start": {"line": 1}}]});
        let one_line = word.replace('\n', " ");
        for text in [
            format!("dockerfile parse error on line 1: unknown instruction: {one_line}"),
            format!("failed to process {}: X: {one_line}", quote(&format!("${{X:?{one_line}}}"))),
            format!("failed to parse stage name {}: invalid reference format", quote(&word)),
        ] {
            let failure = build.classified(&status(&text, &[("errdefs.Source", place.clone())]));
            holds(&failure, Cause::User, "dockerfile_syntax")?;
        }
    }
}

/// A part of a value isn't found any more, so what is cut was masked before.
#[test]
fn no_part_of_a_secret_is_left_where_a_text_is_cut() {
    let value = "S3cr3t/of+forty.characters_that-is~long!";
    let (mask, _) = Mask::new(&[value.as_bytes()]);
    let cut_at = |cut: usize| format!("{}{value}", ".".repeat(cut - 20));
    let command = cut_at(LONGEST);
    let build = Build {
        dockerfile: format!("FROM x\nRUN {}\n", cut_at(LINE_CHARS)),
        step: format!("[b 2/3] RUN {}", cut_at(STEP_CHARS - 12)),
        log: format!("{}\n{value}\nand {}", cut_at(1000), &value[..20]),
        mask,
        ..Build::default()
    };
    let began = |failure: &Failure| format!("{failure:?}").matches(&value[..6]).count();
    for (text, in_file) in [
        (format!("process \"/bin/sh -c {command}\" did not complete successfully: exit code: 3"), true),
        (format!("process \"/bin/sh\" did not complete successfully: {} […]", cut_at(LONGEST * 3 / 4)), true),
        (format!("{}: \"{value}: x\": not found", cut_at(LONGEST * 3 / 4)), false),
        (format!("failed to push r/x: {value}: 503 Service Unavailable: {value}"), false),
        (
            format!(
                "{value}: failed to resolve source metadata for {value}: no match for platform in manifest: not found"
            ),
            false,
        ),
    ] {
        let error = if in_file { text.clone() } else { String::new() };
        let build = Build { error, ..build.clone() };
        let status = Status::new(Code::Unknown, text.clone());
        let bare = Build { mask: Mask::default(), ..build.clone() }.classified(&status);
        let masked = build.classified(&status);
        assert_eq!(
            (masked.cause, &masked.code, masked.exit_code),
            (bare.cause, &bare.code, bare.exit_code),
            "{text}"
        );
        assert!(began(&bare) > 0, "{bare:?}");
        // What the end of a stream has of a value is no value.
        let is_last = |line: &String| *line == format!("and {}", &value[..20]);
        let shown = Failure {
            log_tail: masked.log_tail.iter().filter(|line| !is_last(line)).cloned().collect(),
            ..masked
        };
        assert_eq!(began(&shown), 0, "{shown:?}");
    }
}

/// Secrets that are words of the engine's.
#[test]
fn what_is_masked_chooses_no_cause() {
    let words: [&[u8]; 3] = [b"no space left on device", b"did not complete successfully", b"exit code: 3"];
    let (mask, _) = Mask::new(&words);
    let build = Build { mask, ..Build::default() };
    for text in [
        "write /x: no space left on device: unknown",
        "process \"/bin/sh -c y\" did not complete successfully: exit code: 3",
    ] {
        let status = Status::new(Code::Unknown, text);
        let (masked, bare) = (build.classified(&status), classified(&status, ""));
        assert_eq!(
            (masked.cause, masked.code, masked.exit_code),
            (bare.cause, bare.code, bare.exit_code),
            "{text}"
        );
    }
}
