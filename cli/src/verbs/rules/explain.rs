//! `farm rules explain`: what an event that somebody thinks of would make of the file.

use std::path::PathBuf;

use chrono::Utc;
use farm_rules::{EVENTS, Event, EventKind, FILE_NAME, Facts};
use farm_types::{Commit, ImageTag, Invalid, RefName};

use crate::error::{Error, Result};
use crate::output::planned::{PlanJson, planned};
use crate::output::{Out, json};
use crate::verbs::of_flag;

/// Arguments of `farm rules explain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file; -: standard input
    #[arg(short, long, default_value = FILE_NAME, value_name = "FILE")]
    file: PathBuf,

    /// push, tag, pull_request, release, schedule or base_image [default: what the ref is of]
    #[arg(long, value_name = "EVENT")]
    event: Option<String>,

    /// The ref in full: refs/heads/BRANCH, refs/tags/TAG, refs/pull/7/head [default: the default branch]
    #[arg(long = "ref", value_name = "REF")]
    git_ref: Option<String>,

    /// The repository's default branch
    #[arg(long, value_name = "BRANCH")]
    default_branch: Option<String>,

    /// A file that was changed; may be given several times [default: not known, so all matter]
    #[arg(long, value_name = "FILE")]
    path: Vec<String>,

    /// The commit's message
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    message: String,

    /// The commit, for {sha} [default: zeros]
    #[arg(long, value_name = "COMMIT")]
    commit: Option<String>,

    /// Of a pull request: the branch that it is to go to [default: the default branch]
    #[arg(long, value_name = "BRANCH")]
    base: Option<String>,

    /// Of a schedule: its name
    #[arg(long, value_name = "NAME")]
    schedule: Option<String>,

    /// Of base_image: what has moved
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,

    /// Of a release: it is marked as one before the release
    #[arg(long)]
    prerelease: bool,

    /// A tag that the repository has, for what goes from version to version; may be given several times
    #[arg(long, value_name = "TAG")]
    known_tag: Vec<String>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub const AFTER_HELP: &str = "\
Examples:
  farm rules explain --ref refs/heads/main --default-branch main --path web/index.html
  farm rules explain --ref refs/tags/v1.2.3 --known-tag v1.3.0
  farm rules explain --ref refs/pull/7/head --base main
  farm rules explain --event schedule --schedule nightly --default-branch main --json

Nothing is asked and nothing is built; whether the project may have what the file asks for only
the farm knows.

Exit codes:
  0    it is said
  2    the file is wrong, or there is no such event";

/// Says it.
///
/// # Errors
/// The file is wrong or can't be read, or there can't be such an event.
pub fn run(args: &Args) -> Result<()> {
    let event = event(args)?;
    let rules = super::read(&args.file)?;
    let plan = rules.plan(&event, &Facts { now: Utc::now(), tags: args.known_tag.clone() });
    let mut out = Out::stdout();
    if args.json {
        out.line(&json::text(&PlanJson::new(&event, &plan)));
    } else {
        out.lines(planned(&event, &plan));
    }
    Ok(())
}

fn event(args: &Args) -> Result<Event> {
    let default = args.default_branch.as_deref();
    let git_ref: RefName = match (&args.git_ref, default) {
        (Some(full), _) => of_flag("--ref", full)?,
        (None, Some(branch)) => of_flag("--default-branch", &format!("refs/heads/{branch}"))?,
        (None, None) => {
            return Err(Error::Usage("no ref: say it with --ref, like --ref refs/heads/main".to_owned()));
        }
    };
    let commit: Commit = match &args.commit {
        Some(commit) => of_flag("--commit", commit)?,
        None => of_flag("--commit", &"0".repeat(40))?,
    };
    Ok(Event {
        kind: kind(args, &git_ref)?,
        git_ref,
        commit,
        default_branch: args.default_branch.clone(),
        changed: (!args.path.is_empty()).then(|| args.path.clone()),
        message: args.message.clone(),
    })
}

fn kind(args: &Args, git_ref: &RefName) -> Result<EventKind> {
    let missing = |event: &str, flag: &str| Error::Usage(format!("--event {event} needs {flag}"));
    let number = pull_request(git_ref);
    let of_ref = match (git_ref.tag(), number) {
        (Some(_), _) => "tag",
        (None, Some(_)) => "pull_request",
        (None, None) => "push",
    };
    let other = |kind: &str| {
        let cure =
            format!("--event {kind} is of another kind of ref; leave --event out, or name another ref");
        Err(Invalid::new("--ref", git_ref.as_str(), cure).into())
    };
    match args.event.as_deref().unwrap_or(of_ref) {
        // As forges have it, a tag is pushed as well.
        "push" | "tag" if let Some(tag) = git_ref.tag() => Ok(EventKind::Tag { tag: tag.to_owned() }),
        "push" => match git_ref.branch() {
            Some(branch) => Ok(EventKind::Push { branch: branch.to_owned() }),
            None => other("push"),
        },
        "tag" => other("tag"),
        "release" => match git_ref.tag() {
            Some(tag) => Ok(EventKind::Release { tag: tag.to_owned(), prerelease: args.prerelease }),
            None => other("release"),
        },
        "pull_request" => {
            let Some(number) = number else { return other("pull_request") };
            let base = args.base.as_ref().or(args.default_branch.as_ref());
            let base = base.ok_or_else(|| missing("pull_request", "--base BRANCH"))?.clone();
            Ok(EventKind::PullRequest { number, base, head: String::new(), fork: false })
        }
        "schedule" => {
            let name = args.schedule.clone().ok_or_else(|| missing("schedule", "--schedule NAME"))?;
            Ok(EventKind::Schedule { name })
        }
        "base_image" => {
            let image = args.image.as_ref().ok_or_else(|| missing("base_image", "--image IMAGE"))?;
            let image: ImageTag = of_flag("--image", image)?;
            Ok(EventKind::BaseImage { image: image.to_string() })
        }
        unknown => {
            let cure = match farm_types::suggest::nearest(unknown, EVENTS) {
                Some(guess) => format!("unknown event; did you mean {guess}?"),
                None => format!("unknown event; there are {}", EVENTS.join(", ")),
            };
            Err(Invalid::new("--event", unknown, cure).into())
        }
    }
}

/// The number in `refs/pull/7/head`, or in GitLab's `refs/merge-requests/7/head`.
fn pull_request(git_ref: &RefName) -> Option<u64> {
    let text = git_ref.as_str();
    let rest = text.strip_prefix("refs/pull/").or_else(|| text.strip_prefix("refs/merge-requests/"))?;
    rest.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args as _, FromArgMatches as _};

    fn of(flags: &str) -> Result<EventKind> {
        let command = Args::augment_args(clap::Command::new("explain"));
        let matches = command.try_get_matches_from(format!("explain {flags}").split_whitespace()).unwrap();
        event(&Args::from_arg_matches(&matches).unwrap()).map(|event| event.kind)
    }

    #[test]
    fn the_ref_says_what_has_happened_unless_the_event_does() {
        let tag = || EventKind::Tag { tag: "v1".to_owned() };
        let proposal = |base: &str| EventKind::PullRequest {
            number: 7,
            base: base.to_owned(),
            head: String::new(),
            fork: false,
        };
        for (flags, kind) in [
            ("--ref refs/heads/a/b", EventKind::Push { branch: "a/b".to_owned() }),
            ("--default-branch main", EventKind::Push { branch: "main".to_owned() }),
            ("--event push --ref refs/tags/v1", tag()),
            ("--ref refs/tags/v1", tag()),
            (
                "--event release --ref refs/tags/v1 --prerelease",
                EventKind::Release { tag: "v1".to_owned(), prerelease: true },
            ),
            ("--ref refs/pull/7/head --base dev --default-branch main", proposal("dev")),
            ("--ref refs/merge-requests/7/head --default-branch main", proposal("main")),
            (
                "--event schedule --schedule n --default-branch main",
                EventKind::Schedule { name: "n".to_owned() },
            ),
            (
                "--event base_image --image python:3 --default-branch main",
                EventKind::BaseImage { image: "docker.io/library/python:3".to_owned() },
            ),
        ] {
            assert_eq!(of(flags).unwrap(), kind, "{flags}");
        }
        for (flags, cure) in [
            ("", "no ref"),
            ("--ref main", "refs/heads/BRANCH"),
            ("--event tag --ref refs/heads/main", "another kind of ref"),
            ("--event pull_request --ref refs/heads/main", "another kind of ref"),
            ("--ref refs/pull/7/head", "needs --base"),
            ("--event schedule --default-branch main", "needs --schedule"),
            ("--event pusch --default-branch main", "did you mean push?"),
            ("--default-branch main --commit abc", "--commit \"abc\""),
        ] {
            let error = of(flags).unwrap_err().to_string();
            assert!(error.contains(cure), "{flags}: {error}");
        }
    }
}
