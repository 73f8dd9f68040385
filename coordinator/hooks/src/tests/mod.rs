//! Deliveries as the senders' documentation has them, written here; and what must not pass for one.

mod forges;
mod others;
mod signatures;

use farm_rules::EventKind;
use farm_types::Invalid;
use serde_json::Value;

use crate::{Actor, Delivery, Happened, Headers, Outcome, Provider, parse};

pub(crate) const A: &str = "1111111111111111111111111111111111111111";
pub(crate) const B: &str = "2222222222222222222222222222222222222222";
pub(crate) const ZERO: &str = "0000000000000000000000000000000000000000";

pub(crate) fn headers(all: &[(&str, &str)]) -> Headers {
    Headers::of(all.iter().map(|(name, value)| (*name, value.as_bytes())))
}

pub(crate) fn read(provider: Provider, event: &str, body: &Value) -> Result<Delivery, Invalid> {
    let name = match provider {
        Provider::Github => "x-github-event",
        Provider::Gitlab => "x-gitlab-event",
        Provider::Gitea => "x-gitea-event",
        Provider::Forgejo => "x-forgejo-event",
        _ => "x-nothing",
    };
    parse(provider, &headers(&[(name, event)]), body.to_string().as_bytes())
}

#[track_caller]
pub(crate) fn happened(delivery: Delivery) -> Happened {
    match delivery.outcome {
        Outcome::Event(happened) => *happened,
        other => panic!("{other:?}"),
    }
}

/// What counts of a delivery, in a line: repository, ref, commit, fork, actor.
#[track_caller]
pub(crate) fn golden(delivery: &Delivery) -> String {
    let happened = happened(delivery.clone());
    let repository = delivery.repository.as_ref().unwrap();
    let Actor { id, login } = delivery.actor.clone().unwrap_or(Actor { id: "-".into(), login: "-".into() });
    let fork = matches!(happened.event.kind, EventKind::PullRequest { fork: true, .. });
    format!(
        "{}#{} {}:{} {} {}{}{} by {id}:{login}",
        repository.host,
        repository.id,
        happened.event.kind.as_str(),
        happened.event.git_ref,
        &happened.event.commit.as_str()[..4],
        if fork { "fork" } else { "own" },
        if happened.is_forced { " forced" } else { "" },
        happened.pull_request.map(|state| format!(" {state:?}")).unwrap_or_default()
    )
}
