//! Why a solve failed, and what follows from it.
//!
//! An engine answers nearly every failure with the code Unknown, so the text decides, helped by the details
//! (see [`super::details`]) and by what the status told of the failed step. The rules stand in
//! [`super::cases`]. What no rule knows is the user's: most of it is (a wrong option, a mount that isn't there),
//! it is shown as it is, and trying a broken build four times over would help nobody. What shows trouble of the
//! engine itself (connections, storage, runc) is infrastructure and tried elsewhere.
//!
//! To add a kind: a rule there, a line in the test here, and its code in `docs/`.

use std::error::Error;

use farm_types::cause::SourceExcerpt;
use farm_types::{Cause, Failure, Platform};
use tonic::{Code, Status};

use super::cases::CASES;
use super::collected::Collected;
use super::details::{Details, Source};
use super::engine::reason;
use super::filesync::SOURCE_FAULT;
use super::syntax::Dockerfile;
use super::violation;

/// What was going on when it failed.
pub(super) struct Circumstances<'a> {
    pub(super) collected: &'a Collected,
    pub(super) dockerfile: &'a Dockerfile,
    pub(super) platform: &'a Platform,
    pub(super) target: Option<&'a str>,
    pub(super) engine: String,
    /// The step is an image's own program, whose words are nothing to go by.
    pub(super) is_run: bool,
}

/// Where a step's name is cut in a message; the failure has the whole of it.
const STEP_CHARS: usize = 160;

/// The failure that a status means.
pub(super) fn classify(status: &Status, circumstances: &Circumstances<'_>) -> Failure {
    // A status that has a source was made on this side: the way to the engine broke.
    if status.source().is_some() || status.code() == Code::Unavailable {
        return Failure::new(
            Cause::Infrastructure,
            "engine_lost",
            format!("the engine at {} went away during the build: {}", circumstances.engine, reason(status)),
        );
    }
    let details = Details::of(status);
    let text = tidy(status.message());
    if let Some(failure) = violation::failure(&text) {
        return failure;
    }
    let step = match &details.vertex {
        Some(digest) => circumstances.collected.step(digest),
        // Others were only ended along with it.
        None => circumstances.collected.failed().filter(|step| text.contains(&step.error)),
    };
    let tail = step.map(|step| step.tail()).unwrap_or_default();
    let exit_code = details.exit_code.or_else(|| exit_code_in(&text));
    let mut failure = match exit_code {
        Some(code) => command(code, &text, &tail, step.map_or("", |step| &step.name), circumstances),
        None => from_text(status.code(), &text, circumstances),
    };
    if failure.code == "engine_error"
        && failure.cause == Cause::User
        && details.source.is_some()
        && step.is_none()
    {
        // It has a place in the file, and no step was begun for it.
        "dockerfile_syntax".clone_into(&mut failure.code);
    }
    failure.exit_code = exit_code;
    failure.step = step.map(|step| step.name.clone()).filter(|name| !name.is_empty());
    failure.log_tail = tail;
    let in_text = || {
        Some(Source {
            file: circumstances.dockerfile.path.clone(),
            text: circumstances.dockerfile.text.clone(),
            lines: line_in(&text).map(|line| (line, line))?,
        })
    };
    failure.source =
        details.source.or_else(in_text).and_then(|source| excerpt(source, circumstances.dockerfile));
    failure
}

/// A session that ended while the solve went on.
pub(super) fn session_lost(engine: &str) -> Failure {
    let message =
        format!("the engine at {engine} dropped the session that gives it the source; its solve was ended");
    Failure::new(Cause::Infrastructure, "session_lost", message)
}

/// The error at the bottom: what the operating system said.
pub(super) fn innermost(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(next) = innermost.source() {
        innermost = next;
    }
    innermost.to_string()
}

/// A command of the Dockerfile that ended badly.
fn command(code: i32, text: &str, tail: &[String], step: &str, circumstances: &Circumstances<'_>) -> Failure {
    // What the engine's own starter says when it can't run the program; a user's program may print much, but
    // not as the first and only thing that the step says.
    let unstartable = |line: &String| line.starts_with("exec /") && line.ends_with(": exec format error");
    let unstartable = code != 0 && tail.len() == 1 && tail.iter().all(unstartable);
    // As the C library words it, at the end of what a program says of a write (ENOSPC).
    let full = |line: &String| {
        line.ends_with("No space left on device") || line.contains("No space left on device)")
    };
    // Before these words the engine repeats the command, which may say anything.
    let own = text.rsplit_once("did not complete successfully").map_or("", |(_, own)| own).to_lowercase();
    let full = own.contains("no space left on device")
        || (!circumstances.is_run && tail.iter().rev().take(5).any(full));
    let what: String = if step.is_empty() { text } else { step }.chars().take(STEP_CHARS).collect();
    let platform = circumstances.platform;
    if unstartable {
        let message = format!(
            "{what}: its program cannot be run here: no emulator for {platform}, or a file of another architecture"
        );
        return Failure::new(Cause::Infrastructure, "emulator_missing", message);
    }
    if full {
        let message = format!("{what}: no space left on the worker's disk (exit code {code})");
        return Failure::new(Cause::Infrastructure, "no_space", message);
    }
    if text.contains("context canceled") {
        // Not from here: a stop is not classified.
        let message = format!("{what}: the engine broke it off (exit code {code})");
        return Failure::new(Cause::Infrastructure, "session_lost", message);
    }
    if code == 137 {
        let message = format!("{what}: killed (exit code 137), most likely because memory ran out");
        return Failure::new(Cause::Killed, "run_killed", message);
    }
    Failure::new(Cause::User, "run_failed", format!("{what}: exit code {code}"))
}

fn from_text(code: Code, text: &str, circumstances: &Circumstances<'_>) -> Failure {
    if let Some((_, what)) = text.split_once(SOURCE_FAULT) {
        let message = format!("the source could not be served to the engine: {}", what.trim());
        return Failure::new(Cause::Infrastructure, "source_unreadable", message);
    }
    let lower = text.to_lowercase();
    let holds = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if let Some(case) =
        CASES.iter().find(|case| holds(case.any) && (case.also.is_empty() || holds(case.also)))
    {
        let mut message = match case.code {
            "target_missing" => format!(
                "target {:?}: the Dockerfile has no such stage",
                circumstances.target.unwrap_or_default()
            ),
            "base_image_platform" => {
                let image = after(text, "failed to resolve source metadata for ").unwrap_or(text);
                let platform = circumstances.platform;
                format!(
                    "image {image} is not there for the platform that is asked of it ({platform}, unless its FROM line names one)"
                )
            }
            "copy_source_missing" => missing_source(text),
            _ => shorter(text),
        };
        if !case.cure.is_empty() {
            message = format!("{message}; {}", case.cure);
        }
        return Failure::new(case.cause, case.code, message);
    }
    let interrupted = matches!(
        code,
        Code::Cancelled | Code::DeadlineExceeded | Code::Aborted | Code::ResourceExhausted | Code::Internal
    );
    if interrupted || holds(&["context canceled", "walker is closed"]) {
        // Nobody on this side ended it: the engine is shutting down, or the session's connection stalled.
        return Failure::new(
            Cause::Infrastructure,
            "session_lost",
            format!("the engine broke the build off: {text}"),
        );
    }
    Failure::new(Cause::User, "engine_error", text)
}

/// Without what only says who passed the error on, and with a limit.
fn tidy(message: &str) -> String {
    const LONGEST: usize = 2000;
    let mut text = message.trim();
    while let Some(rest) = text
        .strip_prefix("failed to solve: ")
        .or_else(|| text.strip_prefix("rpc error: code = Unknown desc = "))
    {
        text = rest;
    }
    if text.is_empty() {
        "the engine gave no reason".to_owned()
    } else {
        text.chars().take(LONGEST).collect()
    }
}

/// A registry's answer without the ways that it came: which image, and the last word about it.
fn shorter(text: &str) -> String {
    let last = text.rsplit(": ").next().unwrap_or(text);
    match (after(text, "failed to push "), after(text, "failed to resolve source metadata for ")) {
        (Some(pushed), _) => format!("pushing to {pushed}: {last}"),
        (None, Some(pulled)) => format!("image {pulled}: {last}"),
        (None, None) => text.to_owned(),
    }
}

/// What stands between these words and the next colon.
fn after<'a>(text: &'a str, words: &str) -> Option<&'a str> {
    text.split_once(words)?.1.split(": ").next()
}

/// Names the file that a COPY or ADD did not find.
fn missing_source(text: &str) -> String {
    match text.split('"').nth_back(1) {
        Some(path) if text.ends_with("\": not found") => format!("{path:?} is not there to be copied"),
        _ => text.to_owned(),
    }
}

/// The exit code in `… did not complete successfully: exit code: 7`, also when no detail has it.
fn exit_code_in(text: &str) -> Option<i32> {
    let (_, rest) = text.split_once("did not complete successfully: exit code: ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The line in `parse error on line 2: …`.
fn line_in(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("parse error on line ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The marked lines with two around, at most 30.
fn excerpt(source: Source, dockerfile: &Dockerfile) -> Option<SourceExcerpt> {
    const AROUND: u32 = 2;
    const MOST: usize = 30;
    let first_line = source.lines.0.saturating_sub(AROUND).max(1);
    let skip = usize::try_from(first_line - 1).ok()?;
    let take = usize::try_from(source.lines.1.saturating_add(AROUND + 1).saturating_sub(first_line)).ok()?;
    let lines: Vec<String> = source.text.lines().skip(skip).take(take.min(MOST)).map(str::to_owned).collect();
    // The engine knows it by its name within the folder only.
    let own = source.file.is_empty() || dockerfile.path.ends_with(&source.file);
    let file = if own { dockerfile.path.clone() } else { source.file };
    (!lines.is_empty()).then_some(SourceExcerpt { file, first_line, lines, marked: source.lines })
}

#[cfg(test)]
mod tests {
    use super::super::details::tests::status;
    use super::*;
    use bollard_buildkit_proto::moby::buildkit::v1::{StatusResponse, Vertex, VertexLog};
    use serde_json::json;

    fn classified(status: &Status, log: &str) -> Failure {
        classified_of(status, log, false)
    }

    fn classified_of(status: &Status, log: &str, is_run: bool) -> Failure {
        let mut collected = Collected::default();
        let vertex = Vertex { digest: "sha256:1".into(), name: "[b 2/3] RUN x".into(), ..Vertex::default() };
        let log = VertexLog { vertex: "sha256:1".into(), stream: 1, msg: log.into(), ..VertexLog::default() };
        collected.absorb(StatusResponse { vertexes: vec![vertex], logs: vec![log], ..Default::default() }, 0);
        let dockerfile =
            Dockerfile { path: "sub/Dockerfile".into(), text: "1\n2\n3\n4\n5\n6\n7\n".into(), syntax: None };
        classify(
            status,
            &Circumstances {
                collected: &collected,
                dockerfile: &dockerfile,
                platform: &"linux/arm64".parse().unwrap(),
                target: Some("zzz"),
                engine: "unix:///x".into(),
                is_run,
            },
        )
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
            ("lint violation found for rules: FromAsCasing, StageNameCasing", User, "dockerfile_check"),
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
        assert_eq!(classified(&failed(1), "exec /bin/sh: exec format error\n").code, "emulator_missing");
        assert_eq!(
            classified(&failed(100), "E: write error - write (28: No space left on device)\n").code,
            "no_space"
        );
        // An image's own program may say anything.
        let log = "write: No space left on device\n";
        assert_eq!(classified_of(&failed(3), log, false).cause, Cause::Infrastructure);
        assert_eq!(classified_of(&failed(3), log, true).cause, Cause::User);
    }

    #[test]
    fn a_broken_way_is_a_lost_engine_and_a_text_alone_still_has_its_line() {
        let broken = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::BrokenPipe)));
        assert_eq!(classified(&broken, "").code, "engine_lost");
        assert_eq!(classified(&Status::cancelled("context canceled"), "").code, "session_lost");
        let failure = classified(&Status::unknown("dockerfile parse error on line 1: x"), "");
        let source = failure.source.unwrap();
        assert_eq!((source.first_line, source.marked, source.lines.len()), (1, (1, 1), 3));
    }
}
