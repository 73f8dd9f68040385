//! What a message says, before it has a form.

use chrono::{DateTime, Utc};
use farm_store::notices::ended::Summary;
use farm_types::NoticeOn;
use serde_json::Value;

use super::facts::{Facts, name};

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
                    "There was too much to tell one by one. Besides, in this hour: {}.",
                    counts.join(", ")
                );
                let names = summary.names.iter().map(|name| Line::Foreign("", name.clone()));
                let all: u64 = summary.counts.values().sum();
                let more = all.saturating_sub(u64::try_from(summary.names.len()).unwrap_or(u64::MAX));
                let more = (more > 0).then(|| Line::Own(format!("and {more} more")));
                [Line::Own(own)].into_iter().chain(names).chain(more).collect()
            }
            What::End(_, facts) => of_end(facts),
        }
    }
}

fn of_end(facts: &Facts) -> Vec<Line> {
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
    let by = hook.and_then(|hook| Some(hook.actor.as_ref()?.login.clone()));
    let by = by.or_else(|| facts.build.as_ref().map(|build| build.by.clone()));
    lines.extend(by.map(|by| Line::Foreign("by", by)));
    if let Some(until) = facts.held_until {
        lines.push(Line::Own(format!(
            "There is much to tell in this hour: what else ends comes as one summary, at {}.",
            until.format("%H:%M UTC")
        )));
    }
    lines
}
