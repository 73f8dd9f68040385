//! What came of a case on one side, read from what people read: exit code, output, and the image in the registry.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::case::{Case, Form};
use super::image::Image;
use crate::environment;

/// A build of these cases takes a second or two.
const LIMIT_SECONDS: &str = "120";

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    pub ended: Ended,
    /// The lines of the Dockerfile that the failure is put down to: all that are marked, or the first.
    pub lines: Vec<u32>,
    /// The exit code of the step that failed.
    pub exit_code: Option<i64>,
    pub image: Option<Image>,
    /// How often it was tried, where that can be told.
    pub attempts: Option<u64>,
    /// The last of what it said, for a report.
    pub said: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ended {
    #[default]
    Built,
    /// The build failed, or was refused before it began.
    Failed,
    /// Neither: an exit code that is no verdict on the input, or no end in time.
    Otherwise(i32),
}

/// `farm submit --json`; `command` begins as a client of a farm.
pub fn farm(command: Command, case: &Case, folder: &Path, tag: &str, platform: &str) -> Outcome {
    let (status, stdout, stderr) = run(command, case, folder, &["-t", tag, "--platform", platform, "--json"]);
    let ended = match status {
        0 => Ended::Built,
        1 | 2 => Ended::Failed,
        other => Ended::Otherwise(other),
    };
    let build: Value = serde_json::from_str(&stdout).unwrap_or_default();
    // The platform's own failure says more than the build's.
    let failure =
        [&build["platforms"][0]["failure"], &build["failure"]].into_iter().find(|it| it.is_object());
    let failure = failure.cloned().unwrap_or_default();
    let line = failure["line"].as_u64().and_then(|line| u32::try_from(line).ok());
    let mut said = format!("{} {}", failure["code"].as_str().unwrap_or_default(), last(&stderr));
    if let Some(message) = failure["message"].as_str() {
        said = format!("{} {message}", failure["code"].as_str().unwrap_or_default());
    }
    Outcome {
        ended,
        lines: line.into_iter().collect(),
        exit_code: failure["exit_code"].as_i64().filter(|_| ended != Ended::Built),
        image: None,
        attempts: build["platforms"][0]["attempts"].as_u64(),
        said,
    }
}

/// `docker buildx build --push` on the same engine.
pub fn buildx(case: &Case, folder: &Path, tag: &str, platform: &str) -> Outcome {
    let mut command = environment::command("docker");
    command.args(["buildx", "build", "--push", "--progress=plain", "--provenance=false", "--sbom=false"]);
    let (status, _, stderr) = run(command, case, folder, &["-t", tag, "--platform", platform]);
    let ended = match status {
        0 => Ended::Built,
        1 => Ended::Failed,
        other => Ended::Otherwise(other),
    };
    let failed = ended == Ended::Failed;
    Outcome {
        ended,
        lines: if failed { marked_lines(&stderr) } else { Vec::new() },
        exit_code: if failed { exit_code(&stderr) } else { None },
        image: None,
        attempts: None,
        said: last(&stderr),
    }
}

/// Runs it within the context; a build that makes no end is ended.
pub(super) fn run(command: Command, case: &Case, folder: &Path, args: &[&str]) -> (i32, String, String) {
    let mut limited = environment::command("timeout");
    limited.args(["--kill-after=5", LIMIT_SECONDS]).arg(command.get_program()).args(command.get_args());
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited.args(args).arg("--no-cache").args(&case.args).current_dir(folder.join("context"));
    match case.form {
        Form::Folder => limited.arg(".").stdin(Stdio::null()),
        Form::Archive { .. } => limited.arg("-").stdin(File::open(folder.join("archive")).unwrap()),
    };
    let output = limited.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// `   3 | >>> RUN false`
fn marked_lines(text: &str) -> Vec<u32> {
    let marked = text.lines().filter_map(|line| line.split_once(" | >>>"));
    let mut lines: Vec<u32> = marked.filter_map(|(number, _)| number.trim().parse().ok()).collect();
    lines.dedup();
    lines
}

fn exit_code(text: &str) -> Option<i64> {
    let (_, rest) = text.rsplit_once("did not complete successfully: exit code: ")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

pub(super) fn last(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines.rev().find(|line| !line.starts_with("View build details")).unwrap_or_default();
    line.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_exit_codes_are_read_from_what_buildx_prints() {
        let text = "#5 0.1 no\n------\nDockerfile:2\n--------------------\n   1 |     FROM b\n   2 | >>> RUN a && \\\n\
             \x20  3 | >>>     exit 7\n   4 |     CMD x\n--------------------\nERROR: failed to build: failed to solve: \
             process \"/bin/sh -c a && exit 7\" did not complete successfully: exit code: 7\n";
        assert_eq!(marked_lines(text), [2, 3]);
        assert_eq!(exit_code(text), Some(7));
        assert!(last(text).starts_with("ERROR: failed to build"));
        assert_eq!((marked_lines("RUN echo >>> 1"), exit_code("exit code: 7")), (vec![], None));
    }
}
