//! What a check run says: how far an image is, and of one that failed what its page says as well: the step, the Dockerfile's lines, the last
//! output; and at these lines, or at those of the rules, what is wrong.
//!
//! Invariant: it says no more than the build's page, and what looks like a secret isn't in it, as whoever may see the repository reads it.
//! What a repository or a program says stands in a fence of code that it can't leave.

use std::time::Duration;

use chrono::Utc;
use farm_proto::v1;
use farm_rules::FILE_NAME;
use farm_store::StoreError;
use farm_store::builds::record::BuildRecord;
use farm_store::hooks::sending::ToSend;
use farm_store::hooks::statuses::StatusState;
use farm_types::snapshot::ROOT_CONTEXT;
use farm_types::text::{first_line, harmless};

use crate::forge::Repository;
use crate::forge::checking::{Before, Checked, Tried};
use crate::forge::github::checks::{Annotation, Conclusion, MOST_ANNOTATIONS, Run, Stage};
use crate::forge::judge::Verdict;
use crate::shared::Shared;
use crate::shown::hidden::Hidden;
use crate::shown::present;

/// A run is asked about, made or changed within so long: less than a claim counts by as much as a request may be on its way.
const PATIENCE: Duration = Duration::from_secs(40);
/// The longest summary, bytes: GitHub takes 65,535 characters.
const LONGEST: usize = 60_000;
/// The longest line that is told on, and the longest title and message at a file's lines, characters.
const LONGEST_LINE: usize = 1000;
const LONGEST_TITLE: usize = 200;
const LONGEST_MESSAGE: usize = 4000;

/// Shows a status by a check run. `strikes`: so often in a row it was too much.
///
/// # Errors
/// The database can't be reached.
pub(super) async fn show(
    shared: &Shared,
    (at, one): (&Repository, &ToSend),
    strikes: u32,
) -> Result<Checked, StoreError> {
    let record = match (one.state, one.build_id) {
        (StatusState::Failure, Some(build)) => match shared.loops.build_by_id(one.project, build).await {
            Ok(record) => Some(record),
            Err(StoreError::NotFound(_)) => None,
            Err(error) => return Err(error),
        },
        _ => None,
    };
    let page = one.build.as_ref().or(one.held.as_ref()).filter(|build| !build.is_empty());
    let target = page.and_then(|build| shared.config.build_url(&one.project_name, build));
    let run = run(one, record.as_ref(), target);
    let before = Before {
        id: one.check.id,
        tried: match one.check.tried {
            None => Tried::No,
            Some(version) if version == one.version => Tried::This,
            Some(_) => Tried::Another,
        },
    };
    let show = shared.forges.show_check(at, &run, before, (Utc::now().timestamp(), strikes));
    Ok(tokio::time::timeout(PATIENCE, Box::pin(show)).await.unwrap_or_else(|_| {
        let why = format!("the forge doesn't answer within {} s", PATIENCE.as_secs());
        Checked::Not(Verdict::Lost(why))
    }))
}

/// By what a check run is known again: the hook and the version with which it began, which is no other row's.
fn external_id(one: &ToSend) -> String {
    format!("{}{}", begins(one.hook), one.check_of())
}

/// With what these of a hook begin.
pub(super) fn begins(hook: farm_types::HookId) -> String {
    format!("farm/{hook}/")
}

/// Whether nothing more is said by the run of this status.
pub(super) fn is_over(one: &ToSend) -> bool {
    matches!(stage(one), Stage::Over(_))
}

fn stage(one: &ToSend) -> Stage {
    // Older coordinators say that it has a build, and leave what is held as it was.
    match (one.state, one.held.as_deref().filter(|_| one.build.is_none())) {
        // Nobody can approve it any more. It isn't shown as gone wrong: anybody may propose what others have made.
        (StatusState::Pending, Some("")) => Stage::Over(Conclusion::Neutral),
        (StatusState::Pending, None) if one.build.is_some() => Stage::Goes,
        // Also what waits for its approval: what has to be done would be shown as what has failed, and the commit may be others', too.
        (StatusState::Pending, _) => Stage::Queued,
        (StatusState::Success, _) => Stage::Over(Conclusion::Success),
        (StatusState::Failure, _) => Stage::Over(Conclusion::Failure),
        // Also what was never begun: one that is skipped passes for good where a check has to pass.
        (StatusState::Cancelled, _) => Stage::Over(Conclusion::Cancelled),
    }
}

fn run(one: &ToSend, record: Option<&BuildRecord>, target: Option<String>) -> Run {
    let hidden = record.map(Hidden::from_others).unwrap_or_default();
    let mut title = harmless(&one.description);
    hidden.text(&mut title);
    let mut told = Told::default();
    let mut annotations = Vec::new();
    if let Some(build) = &one.build {
        told.words(&format!("Build `{build}` of project `{}`.", one.project_name));
    }
    match (&one.detail, record) {
        (_, Some(record)) => {
            let build = present::build(record, &hidden);
            for (failure, platforms) in failures(&build) {
                told.failure(failure, &platforms, &hidden);
                annotations.extend(at_source(record, failure, &hidden));
            }
        }
        (Some(detail), None) => {
            told.fence(detail.text.lines());
            annotations.extend(detail.places.iter().map(|(line, message)| Annotation {
                path: FILE_NAME.to_owned(),
                lines: (*line, *line),
                title: FILE_NAME.to_owned(),
                message: cut(&harmless(message), LONGEST_MESSAGE),
            }));
        }
        (None, None) => told.fence([title.as_str()]),
    }
    annotations.truncate(MOST_ANNOTATIONS);
    if title.is_empty() {
        title = one.state.to_string();
    }
    Run {
        commit: one.commit.clone(),
        name: one.context.clone(),
        external_id: external_id(one),
        stage: stage(one),
        target,
        title,
        summary: told.text,
        annotations,
    }
}

/// Why its jobs have failed, those that are alike once, with their platforms; or why it has, if none of them says it.
fn failures(build: &v1::Build) -> Vec<(&v1::Failure, Vec<&str>)> {
    let mut all: Vec<(&v1::Failure, Vec<&str>)> = Vec::new();
    for job in build.jobs.iter().filter(|job| job.state == "failed") {
        let Some(failure) = &job.failure else { continue };
        match all.iter_mut().find(|(known, _)| *known == failure) {
            Some((_, platforms)) => platforms.push(&job.platform),
            None => all.push((failure, vec![&job.platform])),
        }
    }
    if all.is_empty() {
        all.extend(build.failure.as_ref().map(|failure| (failure, Vec::new())));
    }
    all
}

/// What is shown at the lines of the Dockerfile that failed, if that is in the repository.
fn at_source(record: &BuildRecord, failure: &v1::Failure, hidden: &Hidden) -> Option<Annotation> {
    let source = failure.source.as_ref()?;
    let origin = record.spec.origins.get(ROOT_CONTEXT)?.git()?;
    let file = source.file.strip_prefix("./").unwrap_or(&source.file);
    let is_within = !file.is_empty() && !file.starts_with('/') && file.split('/').all(|part| part != "..");
    if !is_within || source.marked_from == 0 {
        return None;
    }
    let path = match origin.subdir.trim_matches('/') {
        "" => file.to_owned(),
        folder => format!("{folder}/{file}"),
    };
    let text = |text: &str, most: usize| {
        let mut text = text.to_owned();
        hidden.text(&mut text);
        cut(&lines(&text).collect::<Vec<_>>().join("\n"), most)
    };
    Some(Annotation {
        path,
        lines: (source.marked_from, source.marked_to.max(source.marked_from)),
        title: first_line(&text(&failure.step, LONGEST_TITLE), LONGEST_TITLE),
        message: text(&failure.message, LONGEST_MESSAGE),
    })
}

fn lines(text: &str) -> impl Iterator<Item = String> {
    text.lines().map(|line| cut(&harmless(line), LONGEST_LINE))
}

/// A text of at most so many characters.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(most.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// A summary, as long as it may be.
#[derive(Debug, Default)]
struct Told {
    text: String,
}

impl Told {
    /// A paragraph of the farm's own words.
    fn words(&mut self, words: &str) {
        self.add(&format!("{words}\n\n"));
    }

    /// Lines of somebody else's, as they are.
    fn fence<'a>(&mut self, said: impl IntoIterator<Item = &'a str>) {
        let said: Vec<String> = said.into_iter().flat_map(lines).collect();
        if said.iter().all(String::is_empty) {
            return;
        }
        // A fence is ended by one that is as long; so none of these is.
        let longest = said.iter().flat_map(|line| line.split(|c| c != '`')).map(str::len).max().unwrap_or(0);
        let fence = "`".repeat(longest.max(2) + 1);
        let room = LONGEST.saturating_sub(self.text.len() + 2 * fence.len() + 16);
        let (mut taken, mut kept) = (0, Vec::new());
        // The last lines say why.
        for line in said.iter().rev() {
            taken += line.len() + 1;
            if taken > room {
                break;
            }
            kept.push(line.as_str());
        }
        kept.reverse();
        if !kept.is_empty() {
            self.add(&format!("{fence}text\n{}\n{fence}\n\n", kept.join("\n")));
        }
    }

    fn failure(&mut self, failure: &v1::Failure, platforms: &[&str], hidden: &Hidden) {
        let platforms: Vec<&str> =
            platforms.iter().copied().filter(|platform| !platform.is_empty()).collect();
        if !platforms.is_empty() {
            self.words(&format!("Failed for {}:", platforms.join(", ")));
        }
        self.fence([failure.message.as_str()]);
        if let Some(source) = &failure.source {
            let numbered = (source.first_line..).zip(&source.lines).map(|(number, text)| {
                let is_meant = (source.marked_from..=source.marked_to).contains(&number);
                let mut text = format!("{number:>4} {} {text}", if is_meant { '>' } else { '|' });
                hidden.text(&mut text);
                text
            });
            let numbered: Vec<String> = numbered.collect();
            self.words("The step:");
            self.fence(numbered.iter().map(String::as_str));
        } else if !failure.step.is_empty() {
            self.words("The step:");
            self.fence([failure.step.as_str()]);
        }
        if !failure.log_tail.is_empty() {
            let tail = failure.log_tail.iter().map(|line| {
                let mut line = line.clone();
                hidden.text(&mut line);
                line
            });
            let tail: Vec<String> = tail.collect();
            self.words("Its last output:");
            self.fence(tail.iter().map(String::as_str));
        }
    }

    fn add(&mut self, text: &str) {
        if self.text.len() + text.len() <= LONGEST {
            self.text.push_str(text);
        }
    }
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;
