//! What a message says, before it has a form.

use chrono::{DateTime, TimeDelta, Utc};
use farm_store::notices::hour::Summary;
use farm_types::NoticeOn;
use serde_json::Value;

use super::facts::{Facts, name};

/// What is told so much later says when it was: what came after it may be known already.
const LATE: TimeDelta = TimeDelta::minutes(3);

/// What is said.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// That something has ended.
    End(NoticeOn, Box<Facts>),
    /// What else there was in an hour.
    Summary(Summary),
    /// That somebody tries it.
    Test,
}

/// A message.
#[derive(Debug, Clone)]
pub struct Said<'a> {
    /// What it says.
    pub what: What,
    /// Of which project.
    pub project: &'a str,
    /// Where its build is seen, if somebody has said where pages are.
    pub page: Option<String>,
    /// When it is made.
    pub at: DateTime<Utc>,
}

impl What {
    /// What is in the outbox; `None`: it isn't understood.
    pub fn read(event: &str, facts: Value) -> Option<Self> {
        if event == "summary" {
            return Some(Self::Summary(serde_json::from_value(facts).ok()?));
        }
        Some(Self::End(event.parse().ok()?, Box::new(serde_json::from_value(facts).ok()?)))
    }

    /// The short id of the build that it is about.
    pub fn build(&self) -> Option<&str> {
        match self {
            Self::End(_, facts) => facts.build.as_ref().map(|build| build.id.as_str()),
            Self::Summary(_) | Self::Test => None,
        }
    }
}

/// The head of a message, in parts: those that come from elsewhere have to be marked as what they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// What it is about.
    pub name: String,
    /// What has happened to it.
    pub verb: &'static str,
    /// The branch or tag.
    pub git_ref: Option<String>,
    /// The commit, in short.
    pub commit: Option<String>,
}

/// A line of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// The farm's own words.
    Own(String),
    /// What comes from elsewhere, behind a word of the farm's.
    Foreign(&'static str, String),
}

impl Said<'_> {
    /// Its head; `None` of what is about no build.
    pub fn head(&self) -> Option<Head> {
        let What::End(on, facts) = &self.what else { return None };
        let verb = match (on, &facts.delivery) {
            (NoticeOn::Failure, Some(_)) => "could do nothing with what was delivered",
            (NoticeOn::Failure, None) => "failed",
            (NoticeOn::Recovered, _) => "works again",
            (NoticeOn::Success, _) => "was built",
            (NoticeOn::Cancelled, _) => "was cancelled",
        };
        let git = facts.git.as_ref();
        let git_ref = git.and_then(|git| git.full_ref.as_deref());
        let commit = git.and_then(|git| git.commit.as_deref());
        Some(Head {
            name: name(facts),
            verb,
            git_ref: git_ref.map(|full| {
                let short = full.strip_prefix("refs/heads/").or_else(|| full.strip_prefix("refs/tags/"));
                short.unwrap_or(full).to_owned()
            }),
            commit: commit.map(|commit| commit.chars().take(7).collect()),
        })
    }

    /// Its lines.
    pub fn lines(&self) -> Vec<Line> {
        match &self.what {
            What::Test => vec![Line::Own(format!(
                "This is a sample of the farm's: somebody tries whether project {} can tell something here.",
                self.project
            ))],
            What::Summary(summary) => {
                let counts: Vec<String> =
                    summary.counts.iter().map(|(event, count)| format!("{count} {event}")).collect();
                let own = format!(
                    "There was too much to tell one by one. Besides, in this hour: {}. Of each the last:",
                    counts.join(", ")
                );
                let names = summary.named.iter().map(|one| Line::Foreign("", one.text.clone()));
                let more = (summary.unnamed > 0).then(|| Line::Own(format!("and {} more", summary.unnamed)));
                [Line::Own(own)].into_iter().chain(names).chain(more).collect()
            }
            What::End(_, facts) => of_end(facts, self.at),
        }
    }
}

fn of_end(facts: &Facts, now: DateTime<Utc>) -> Vec<Line> {
    let mut lines = Vec::new();
    if let Some(failure) = &facts.failure {
        lines.push(Line::Foreign("", failure.message.clone()));
        lines.extend(failure.step.iter().map(|step| Line::Foreign("step", step.clone())));
        lines.extend(failure.cure.iter().map(|cure| Line::Foreign("what to do", cure.clone())));
    }
    if let Some(delivery) = &facts.delivery {
        lines.push(Line::Foreign("", delivery.reason.clone()));
    }
    if let Some(build) = &facts.build {
        lines.extend(build.digest.iter().map(|digest| Line::Foreign("image", digest.clone())));
        lines.push(Line::Foreign("build", build.id.clone()));
    }
    let hook = facts.hook.as_ref();
    let pushed = hook.and_then(|hook| Some(hook.actor.as_ref()?.login.clone()));
    // What a hook has begun is begun by who has pushed; a retry by somebody else. Who has ended it is in the audit only.
    let begun = facts.build.as_ref().map(|build| build.by.clone());
    let begun = begun.filter(|by| pushed.is_none() || !by.starts_with("hook:"));
    lines.extend(pushed.map(|by| Line::Foreign("pushed by", by)));
    lines.extend(begun.map(|by| Line::Foreign("begun by", by)));
    lines.extend(
        facts
            .ended_at
            .filter(|at| now - *at > LATE)
            .map(|at| Line::Own(format!("It ended at {}.", at.format("%Y-%m-%d %H:%M UTC")))),
    );
    if let Some(until) = facts.held_until {
        lines.push(Line::Own(format!(
            "There is much to tell in this hour: but for the first of each branch and tag, what else ends comes as one summary, at {}.",
            until.format("%H:%M UTC")
        )));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::facts::{Account, Build, Hook};
    use super::*;

    fn texts(facts: Facts, at: DateTime<Utc>) -> Vec<String> {
        let what = What::End(NoticeOn::Cancelled, Box::new(facts));
        let lines = Said { what, project: "web", page: None, at }.lines();
        let lines = lines.into_iter().map(|line| match line {
            Line::Own(text) => text,
            Line::Foreign(word, text) => format!("{word}: {text}"),
        });
        lines.collect()
    }

    #[test]
    fn who_has_pushed_is_not_who_has_begun_it_and_what_comes_late_says_when_it_was() {
        let actor = Some(Account { id: "7".to_owned(), login: "ada".to_owned() });
        let hook = Some(Hook { name: "app".to_owned(), image: Some("app".to_owned()), actor });
        let by = |by: &str| Some(Build { id: "1".to_owned(), by: by.to_owned(), ..Build::default() });
        let ended: DateTime<Utc> = "2026-11-30T17:02:11Z".parse().unwrap();
        let of = |build, hook| Facts { build, hook, ended_at: Some(ended), ..Facts::default() };
        let pushed = of(by("hook:web/app"), hook.clone());
        assert_eq!(texts(pushed.clone(), ended), ["build: 1", "pushed by: ada"]);
        assert_eq!(texts(of(by("bob"), hook), ended), ["build: 1", "pushed by: ada", "begun by: bob"]);
        assert_eq!(texts(of(by("bob"), None), ended), ["build: 1", "begun by: bob"]);
        let late = texts(pushed, ended + TimeDelta::hours(2));
        assert_eq!(late.last().unwrap(), "It ended at 2026-11-30 17:02 UTC.");
    }
}
