//! Why a solve failed, and what follows from it.
//!
//! Structure decides first: the details that an engine attaches (see [`details`]), the step that failed, the code
//! of the answer. A command that ended badly is its user's, whatever it is made of and whatever it printed, unless the
//! engine was killed or told it to end. Of what is no command the engine's own words decide ([`said`] says which
//! they are), by the rules in [`cases`]. What no rule knows is the user's: most of it is (a wrong option, a mount
//! that isn't there), it is shown as it is, and trying a broken build four times over would help nobody. What shows
//! trouble of the engine itself (connections, storage, runc) is infrastructure and tried elsewhere.
//!
//! Invariant: nothing that a user writes (commands, names, paths, targets, arguments) or prints chooses a failure's
//! cause, code or exit code. Nothing is looked for in a text that was cut, or in which secrets were masked; and nothing is cut that
//! wasn't masked.
//!
//! To add a kind: a rule there, a line in `tests.rs`, and its code in `docs/`.

mod cases;
pub(super) mod denied;
pub(super) mod details;
pub(super) mod said;
pub(super) mod violation;

use std::error::Error;

use farm_types::failure::SourceExcerpt;
use farm_types::{Cause, Failure, FailureCode, Platform};
use tonic::{Code, Status};

use self::cases::{About, CASES, PUSHING, RESOLVING};
use self::details::{Details, Source};
use self::said::Words::{Begin, Last};
use self::said::{Named, Said};
use super::dockerfile::Dockerfile;
use super::engine::error::reason;
use super::follow::collected::{Collected, Step};
use super::session::filesync::SOURCE_FAULT;
use crate::mask::Mask;

/// What was going on when it failed.
pub(super) struct Circumstances<'a> {
    pub(super) collected: &'a Collected,
    pub(super) dockerfile: &'a Dockerfile,
    pub(super) platform: &'a Platform,
    pub(super) target: Option<&'a str>,
    pub(super) engine: String,
    pub(super) named: Named,
    pub(super) mask: &'a Mask,
}

/// Where a step's name is cut in a message; the failure has more of it.
const STEP_CHARS: usize = 160;
/// Where it is cut in the failure, and an engine's text in a message: a command may be as long as a Dockerfile.
const LONGEST: usize = 2000;
/// Where lines of the Dockerfile are cut, characters.
const LINE_CHARS: usize = 1000;

/// Whether a status was made on this side: the way to the engine broke, or what came was no answer.
pub(super) fn is_broken(status: &Status) -> bool {
    status.source().is_some() || status.code() == Code::Unavailable
}

/// The failure that a status means.
pub(super) fn classify(status: &Status, circumstances: &Circumstances<'_>) -> Failure {
    let details = Details::of(status);
    let text = tidy(status.message());
    let broken = is_broken(status);
    if let Some(failure) = violation::failure(text).filter(|_| details.vertex.is_none() && !broken) {
        return failure;
    }
    let step = match &details.vertex {
        Some(digest) => circumstances.collected.step(digest),
        // Others were only ended along with it.
        None => circumstances.collected.failed().filter(|step| broken || text.contains(&step.error)),
    };
    // Without details, the engine's status has told it as well.
    let own = said::of_command(text).or_else(|| step.and_then(|step| said::of_command(tidy(&step.error))));
    let exit_code = details.exit_code.or_else(|| own.and_then(said::exit_code));
    let in_text = || {
        Some(Source {
            file: circumstances.dockerfile.path.clone(),
            text: circumstances.dockerfile.text.clone(),
            lines: line_in(text).map(|line| (line, line))?,
        })
    };
    let of_file = details.source.is_some() && details.vertex.is_none() && step.is_none();
    let source = details.source.or_else(in_text);
    // A step that the status could not tell of still has its place.
    let written = || source.as_ref().filter(|_| exit_code.is_some())?.first_line();
    let name = step.map(|step| step.name.as_str()).or_else(written).unwrap_or_default();
    let name = &*circumstances.mask.text(name);
    let failed =
        Failed { own: own.unwrap_or_default(), name, is_cancelled: status.code() == Code::Cancelled };
    let mut failure = match exit_code {
        Some(code) if !(broken && failed.was_ended()) => command(code, &failed),
        None if own.is_some() && !broken => unfinished(status.code(), &failed, circumstances),
        _ if broken => {
            let why = reason(status);
            let message = format!("the engine at {} went away during the build: {why}", circumstances.engine);
            Failure::new(Cause::Infrastructure, FailureCode::EngineLost, message)
        }
        _ => from_text(status.code(), text, of_file, circumstances),
    };
    failure.exit_code = exit_code.filter(|_| failure.code != FailureCode::EngineLost);
    failure.step = Some(shortened(name)).filter(|name| !name.is_empty());
    failure.log_tail = step.map(Step::tail).unwrap_or_default();
    failure.source = source.and_then(|source| excerpt(source, circumstances));
    failure
}

/// Whether a command said nothing but that its program can't be run here: what the starter in a container says. A
/// user's program may say it as well, so it is a reason to try, no proof.
pub fn is_unstartable(failure: &Failure) -> bool {
    let unstartable = |line: &String| line.starts_with("exec /") && line.ends_with(": exec format error");
    failure.code == FailureCode::RunFailed
        && failure.log_tail.len() == 1
        && failure.log_tail.iter().all(unstartable)
}

/// What [`is_unstartable`] means where it is known to be so.
pub(super) fn emulator_missing(failure: Failure, platform: &Platform) -> Failure {
    let what: String = failure.step.as_deref().unwrap_or_default().chars().take(STEP_CHARS).collect();
    let message = format!("{what}: its program cannot be run here: no emulator for {platform}");
    Failure { cause: Cause::Infrastructure, code: FailureCode::EmulatorMissing, message, ..failure }
}

/// A session that ended while the solve went on. If a command had failed before, it is that.
pub(super) fn session_lost(circumstances: &Circumstances<'_>) -> Failure {
    let failure = classify(&Status::unavailable("its session is lost"), circumstances);
    if failure.code != FailureCode::EngineLost {
        return failure;
    }
    let engine = &circumstances.engine;
    let message =
        format!("the engine at {engine} dropped the session that gives it the source; its solve was ended");
    Failure { code: FailureCode::SessionLost, message, ..failure }
}

/// A command of the Dockerfile that ended badly.
struct Failed<'a> {
    /// What the engine says of it, without the command.
    own: &'a str,
    /// The name of its step (`[2/5] RUN make`).
    name: &'a str,
    /// The answer's code says that the engine ended the build.
    is_cancelled: bool,
}

impl Failed<'_> {
    fn said(&self) -> Said {
        Said::read(self.own, &Named::default())
    }

    /// Whether the engine broke the command off, since the build was cancelled.
    fn was_ended(&self) -> bool {
        self.is_cancelled || self.said().holds(Last("context canceled"))
    }

    fn what(&self) -> String {
        if self.name.is_empty() {
            "a command".to_owned()
        } else {
            self.name.chars().take(STEP_CHARS).collect()
        }
    }
}

/// A command that ended with a code of its own.
fn command(code: i32, failed: &Failed<'_>) -> Failure {
    let what = failed.what();
    if failed.said().holds(Last("no space left on device")) {
        let message = format!("{what}: no space left on the worker's disk (exit code {code})");
        return Failure::new(Cause::Infrastructure, FailureCode::NoSpace, message);
    }
    if failed.was_ended() {
        // Not from here: a stop is not classified.
        let message = format!("{what}: the engine broke it off (exit code {code})");
        return Failure::new(Cause::Infrastructure, FailureCode::SessionLost, message);
    }
    if code == 137 {
        let message = format!("{what}: killed (exit code 137), most likely because memory ran out");
        return Failure::new(Cause::Killed, FailureCode::RunKilled, message);
    }
    Failure::new(Cause::User, FailureCode::RunFailed, format!("{what}: exit code {code}"))
}

/// A command that has no code: it could not be begun, or not be waited for.
fn unfinished(code: Code, failed: &Failed<'_>, circumstances: &Circumstances<'_>) -> Failure {
    let failure = from_text(code, failed.own, false, circumstances);
    if failure.cause == Cause::User {
        let message = format!("{}: {}", failed.what(), shortened(&circumstances.mask.text(failed.own)));
        return Failure::new(Cause::User, FailureCode::RunFailed, message);
    }
    failure
}

/// What is no command's. `of_file`: it has a place in the Dockerfile, and no step was begun for it.
fn from_text(code: Code, text: &str, of_file: bool, circumstances: &Circumstances<'_>) -> Failure {
    let said = Said::read(text, &circumstances.named);
    // For people.
    let told = &*circumstances.mask.text(text);
    let any = |words: &[said::Words]| words.iter().any(|words| said.holds(*words));
    let is_interrupted = matches!(
        code,
        Code::Cancelled | Code::DeadlineExceeded | Code::Aborted | Code::ResourceExhausted | Code::Internal
    );
    if of_file && !said.is_of_something(RESOLVING) && !is_interrupted {
        // A frontend's answer, in which anything may stand that is in the file.
        return Failure::new(Cause::User, FailureCode::DockerfileSyntax, shortened(told));
    }
    if said.holds(Begin(SOURCE_FAULT)) {
        let what =
            told.split_once(SOURCE_FAULT).map_or(told, |(_, what)| what.trim_start_matches([':', ' ']));
        let message = format!("the source could not be served to the engine: {}", shortened(what));
        return Failure::new(Cause::Infrastructure, FailureCode::SourceUnreadable, message);
    }
    let frontend = said.image().map(|image| image.strip_prefix("docker.io/").unwrap_or(image));
    let frontend = frontend.and_then(|image| image.strip_prefix("docker/dockerfile"));
    if !of_file && frontend.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '@'])) {
        let message = format!("{}; remove the syntax line of the Dockerfile", shorter(told));
        return Failure::new(Cause::User, FailureCode::SyntaxImage, message);
    }
    let is_about = |about: &About| match about {
        About::Anything => true,
        About::Also(words) => any(words),
        About::Push => said.is_about(PUSHING),
    };
    if let Some(case) = CASES.iter().find(|case| any(case.any) && is_about(&case.about)) {
        let mut message = match case.code {
            FailureCode::TargetMissing => format!(
                "target {:?}: the Dockerfile has no such stage",
                circumstances.target.unwrap_or_default()
            ),
            FailureCode::BaseImagePlatform => {
                let image = after(told, "failed to resolve source metadata for ").unwrap_or(told);
                let platform = circumstances.platform;
                format!(
                    "image {image} is not there for the platform that is asked of it ({platform}, unless its FROM line names one)"
                )
            }
            FailureCode::CopySourceMissing => missing_source(told),
            _ => shorter(told),
        };
        if !case.cure.is_empty() {
            message = format!("{message}; {}", case.cure);
        }
        return Failure::new(case.cause, case.code.clone(), message);
    }
    if is_interrupted
        || any(&[Begin("context canceled"), Last("context canceled"), Begin("walker is closed")])
    {
        // Nobody on this side ended it: the engine is shutting down, or the session's connection stalled.
        return Failure::new(
            Cause::Infrastructure,
            FailureCode::SessionLost,
            format!("the engine broke the build off: {}", shortened(told)),
        );
    }
    Failure::new(Cause::User, FailureCode::EngineError, shortened(told))
}

/// Without what only says who passed the error on.
fn tidy(message: &str) -> &str {
    let mut text = message.trim();
    while let Some(rest) = text
        .strip_prefix("failed to solve: ")
        .or_else(|| text.strip_prefix("rpc error: code = Unknown desc = "))
    {
        text = rest;
    }
    if text.is_empty() { "the engine gave no reason" } else { text }
}

/// A text for people, with a limit: its begin, and its end, where the reason stands.
fn shortened(text: &str) -> String {
    let count = text.chars().count();
    if count <= LONGEST {
        return text.to_owned();
    }
    let (begin, end) = (LONGEST * 3 / 4, LONGEST / 4);
    let begin: String = text.chars().take(begin).collect();
    let end: String = text.chars().skip(count - end).collect();
    format!("{begin} […] {end}")
}

/// A registry's answer without the ways that it came: which image, and the last word about it.
fn shorter(text: &str) -> String {
    let last = text.rsplit(": ").next().unwrap_or(text);
    match (after(text, "failed to push "), after(text, "failed to resolve source metadata for ")) {
        (Some(pushed), _) => format!("pushing to {pushed}: {last}"),
        (None, Some(pulled)) => format!("image {pulled}: {last}"),
        (None, None) => shortened(text),
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
        _ => shortened(text),
    }
}

/// The line in `dockerfile parse error on line 2: …`.
fn line_in(text: &str) -> Option<u32> {
    let rest = text.strip_prefix("dockerfile parse error on line ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The marked lines with two around, at most 30, each cut where it is endless.
fn excerpt(source: Source, circumstances: &Circumstances<'_>) -> Option<SourceExcerpt> {
    const AROUND: u32 = 2;
    const MOST: usize = 30;
    let first_line = source.lines.0.saturating_sub(AROUND).max(1);
    let skip = usize::try_from(first_line - 1).ok()?;
    let take = usize::try_from(source.lines.1.saturating_add(AROUND + 1).saturating_sub(first_line)).ok()?;
    let lines = source.text.lines().skip(skip).take(take.min(MOST));
    let lines = lines.map(|line| circumstances.mask.text(line).chars().take(LINE_CHARS).collect());
    let lines: Vec<String> = lines.collect();
    let dockerfile = circumstances.dockerfile;
    // The engine knows it by its name within the folder only.
    let own = source.file.is_empty() || dockerfile.path.ends_with(&source.file);
    let file = if own { dockerfile.path.clone() } else { source.file };
    (!lines.is_empty()).then_some(SourceExcerpt { file, first_line, lines, marked: source.lines })
}

#[cfg(test)]
mod tests;
