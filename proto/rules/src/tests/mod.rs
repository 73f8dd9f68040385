//! What files are taken, what is told of others, and what events make of them.

mod documents;
mod mistakes;
mod model;
mod plans;

use chrono::{DateTime, Utc};

use crate::{Event, EventKind, Facts, Plan, Rules};

fn rules(text: &str) -> Rules {
    Rules::parse(text).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

fn event(kind: EventKind) -> Event {
    let git_ref = match &kind {
        EventKind::Push { branch } => format!("refs/heads/{branch}"),
        EventKind::Tag { tag } | EventKind::Release { tag, .. } => format!("refs/tags/{tag}"),
        EventKind::PullRequest { number, .. } => format!("refs/pull/{number}/head"),
        EventKind::Schedule { .. } | EventKind::BaseImage { .. } => "refs/heads/main".to_owned(),
    };
    Event {
        kind,
        git_ref: git_ref.parse().unwrap(),
        commit: "3f2c1d0456789abcdef0123456789abcdef01234".parse().unwrap(),
        default_branch: Some("main".to_owned()),
        changed: None,
        message: "A change".to_owned(),
    }
}

fn push(branch: &str) -> Event {
    event(EventKind::Push { branch: branch.to_owned() })
}

fn tag(tag: &str) -> Event {
    event(EventKind::Tag { tag: tag.to_owned() })
}

fn pull_request(base: &str) -> Event {
    event(EventKind::PullRequest { number: 7, base: base.to_owned(), head: "topic".to_owned(), fork: false })
}

fn facts(tags: &[&str]) -> Facts {
    let now: DateTime<Utc> = "2026-11-30T04:00:00Z".parse().unwrap();
    Facts { now, tags: tags.iter().map(|tag| (*tag).to_owned()).collect() }
}

/// `NAME: TAG TAG` for what is built, `NAME: reason` for what isn't, a line each.
fn told(plan: &Plan) -> Vec<String> {
    let line = |image: &crate::ImagePlan| match &image.outcome {
        crate::Outcome::Build(wanted) => {
            let tags: Vec<String> = wanted.tags.iter().map(ToString::to_string).collect();
            format!("{}: {}", image.name, tags.join(" "))
        }
        crate::Outcome::Skipped(reason) => format!("{}: no, {reason}", image.name),
    };
    plan.images.iter().map(line).collect()
}
