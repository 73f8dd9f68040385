//! What is told of a build, or of a delivery, that has ended. It is kept so, and sent so to webhooks: `docs/reference/notice.schema.json`
//! says what it is. Fields are added, and none is taken away.

use chrono::{DateTime, Utc};
use farm_hooks::{Actor, Delivery, Headers, Outcome, Provider, parse};
use farm_store::builds::record::BuildRecord;
use farm_store::notices::ended::{BegunBy, Came, How, Told};
use farm_types::state::{BuildState, PublicationState};
use farm_types::text::{first_line, harmless};
use farm_types::{Commit, Digest, Failure, Origin};
use serde::{Deserialize, Serialize};

/// The longest text of one field, characters.
const LONGEST: usize = 1000;

/// What is told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// The build; null: it never came so far.
    pub build: Option<Build>,
    /// Why it has failed.
    pub failure: Option<Failed>,
    /// Where the source is from.
    pub git: Option<Git>,
    /// The webhook by which it was begun.
    pub hook: Option<Hook>,
    /// Of what was delivered there and has failed.
    pub delivery: Option<Delivered>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// There was too much to tell: what ends before then comes as one summary.
    pub held_until: Option<DateTime<Utc>>,
}

/// A build.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Build {
    pub id: String,
    pub state: String,
    pub by: String,
    pub platforms: Vec<String>,
    pub tags: Vec<String>,
    pub digest: Option<String>,
    pub created_at: Option<DateTime<Utc>>,
    pub retry_of: Option<String>,
}

/// Why something has failed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failed {
    pub code: String,
    pub message: String,
    pub step: Option<String>,
    pub exit_code: Option<i32>,
    pub cure: Option<String>,
}

/// Where a source is from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Git {
    pub repository: Option<String>,
    #[serde(rename = "ref")]
    pub full_ref: Option<String>,
    pub commit: Option<String>,
}

/// A webhook.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hook {
    pub name: String,
    pub image: Option<String>,
    pub actor: Option<Account>,
}

/// An account of the forge's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Account {
    pub id: String,
    pub login: String,
}

/// What was delivered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Delivered {
    pub id: String,
    pub event: String,
    pub reason: String,
}

/// Who has pushed what, as a delivery says it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pushed {
    actor: Option<Account>,
    commit: Option<Commit>,
    git_ref: Option<String>,
}

impl Pushed {
    /// Reads it. A delivery that can't be read says nothing.
    pub fn read(came: &Came) -> Self {
        let Ok(provider) = came.provider.parse::<Provider>() else { return Self::default() };
        let headers = came.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let Ok(delivery) = parse(provider, &Headers::of(headers), &came.body) else { return Self::default() };
        let Delivery { actor, outcome, .. } = delivery;
        let account = |Actor { id, login }: Actor| Account { id: line(&id), login: line(&login) };
        let (commit, git_ref) = match outcome {
            Outcome::Event(happened) => {
                let commit = Some(happened.event.commit).filter(|commit| !commit.is_none());
                (commit, Some(happened.event.git_ref.to_string()))
            }
            _ => (None, None),
        };
        Self { actor: actor.map(account), commit, git_ref }
    }
}

/// A foreign text in one line.
fn line(text: &str) -> String {
    harmless(&first_line(text.trim(), LONGEST))
}

fn failed(failure: &Failure, hide: &dyn Fn(&mut String)) -> Failed {
    let text = |text: &str| {
        let mut text = text.to_owned();
        hide(&mut text);
        line(&text)
    };
    let meanings = failure.code.documented().map(|(_, meanings)| meanings).unwrap_or_default();
    let meaning = meanings.iter().find(|meaning| meaning.cause == failure.cause);
    Failed {
        code: failure.code.as_str().to_owned(),
        message: text(&failure.message),
        step: failure.step.as_deref().map(text),
        exit_code: failure.exit_code,
        cure: meaning.map(|meaning| meaning.cure.to_owned()),
    }
}

/// What is told of a build that has ended; `None`: it isn't over, or is none that anybody is told of. `hide` takes out of a text what not all may
/// see.
pub fn of_build(
    record: &BuildRecord,
    begun: Option<(&BegunBy, Option<&Came>)>,
    hide: &dyn Fn(&mut String),
) -> Option<Told> {
    let how = match record.state {
        BuildState::Succeeded => How::Succeeded,
        BuildState::Failed => How::Failed,
        BuildState::Cancelled => How::Cancelled,
        BuildState::Queued | BuildState::Running | BuildState::Publishing | BuildState::Cancelling => {
            return None;
        }
    };
    // What fetches a source says by its delivery how that went.
    if record.spec.purpose.fetch().is_some() {
        return None;
    }
    let (spec, pushed) =
        (&record.spec, begun.and_then(|(_, came)| came).map(Pushed::read).unwrap_or_default());
    let mut origins = spec.origins.get("context").into_iter().chain(spec.origins.values());
    let origin = origins.find_map(Origin::git);
    let full_ref = begun.map(|(begun, _)| begun.git_ref.clone());
    let full_ref = full_ref.or_else(|| Some(origin?.full_ref.as_ref()?.to_string()));
    let git = origin.map(|origin| Git {
        repository: Some(origin.repository.to_string()),
        full_ref: full_ref.clone(),
        commit: Some(origin.commit.to_string()),
    });
    let published = record.publication.as_ref().filter(|one| one.state == PublicationState::Published);
    let facts = Facts {
        build: Some(Build {
            id: record.short_id.to_string(),
            state: record.state.to_string(),
            by: record.created_by.clone(),
            // A copy has none of its own.
            platforms: spec
                .purpose
                .is_build()
                .then_some(&spec.platforms)
                .into_iter()
                .flatten()
                .map(ToString::to_string)
                .collect(),
            tags: spec.tags.iter().map(ToString::to_string).collect(),
            digest: published.map(|one| one.index_digest.to_string()),
            created_at: Some(record.created_at),
            retry_of: record.retry_of.as_ref().map(ToString::to_string),
        }),
        failure: record.failure.as_ref().map(|failure| failed(failure, hide)),
        git,
        hook: begun.and_then(|(begun, _)| {
            let name = begun.hook_name.clone()?;
            Some(Hook { name, image: Some(begun.image.clone()), actor: pushed.actor })
        }),
        delivery: None,
        ended_at: record.finished_at,
        held_until: None,
    };
    let line = match (begun, spec.tags.first()) {
        (Some((begun, _)), _) => Some(format!("{}\n{}\n{}", begun.hook, begun.git_ref, begun.image)),
        (None, Some(tag)) => Some(tag.to_string()),
        (None, None) => None,
    };
    Some(Told {
        how,
        hook: begun.and_then(|(begun, _)| begun.hook_name.clone()),
        git_ref: full_ref,
        line: line.map(|line| Digest::of(line.as_bytes())),
        name: format!("{} ({})", name(&facts), record.short_id),
        facts: serde_json::to_value(&facts).unwrap_or_default(),
    })
}

/// What is told of a delivery that has failed.
pub fn of_delivery(came: &Came, id: &str, reason: &str, ended_at: DateTime<Utc>) -> Told {
    let pushed = Pushed::read(came);
    let full_ref = came.git_ref.clone().or(pushed.git_ref);
    let facts = Facts {
        git: Some(Git {
            repository: Some(format!("{}/{}", came.host, came.full_name)),
            full_ref: full_ref.clone(),
            commit: pushed.commit.map(|commit| commit.to_string()),
        }),
        hook: Some(Hook { name: came.hook.clone(), image: None, actor: pushed.actor }),
        delivery: Some(Delivered { id: line(id), event: line(&came.event), reason: line(reason) }),
        ended_at: Some(ended_at),
        ..Facts::default()
    };
    Told {
        how: How::Failed,
        hook: Some(came.hook.clone()),
        git_ref: full_ref,
        line: None,
        name: name(&facts),
        facts: serde_json::to_value(&facts).unwrap_or_default(),
    }
}

/// What it is about, in a few words.
pub fn name(facts: &Facts) -> String {
    let hook = facts.hook.as_ref();
    if let Some(image) = hook.and_then(|hook| hook.image.as_ref()) {
        return image.clone();
    }
    match (&facts.build, hook) {
        (Some(build), _) => build.tags.first().cloned().unwrap_or_else(|| format!("build {}", build.id)),
        (None, Some(hook)) => format!("webhook {}", hook.name),
        (None, None) => "the farm".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_delivery_is_told_who_pushed_what_and_why_nothing_comes_of_it() {
        let commit = "a".repeat(40);
        let body = json!({
            "type": "push", "repository": {"id": "app", "name": "acme/app", "host": "git.example"},
            "actor": {"id": "7", "login": "ada"}, "ref": "refs/heads/main", "commit": commit
        });
        let mut came = Came {
            hook: "app".to_owned(),
            provider: "generic".to_owned(),
            host: "git.example".to_owned(),
            full_name: "acme/app".to_owned(),
            event: "push".to_owned(),
            git_ref: None,
            headers: BTreeMap::from([("webhook-id".to_owned(), "1".to_owned())]),
            body: body.to_string().into_bytes(),
        };
        let told = of_delivery(&came, "1", ".farm.yaml: 6:5: no\nmore", DateTime::UNIX_EPOCH);
        assert_eq!(
            (told.how, told.git_ref.as_deref(), told.name.as_str()),
            (How::Failed, Some("refs/heads/main"), "webhook app")
        );
        let facts: Facts = serde_json::from_value(told.facts).unwrap();
        let git = facts.git.unwrap();
        assert_eq!((git.repository.as_deref(), git.commit), (Some("git.example/acme/app"), Some(commit)));
        let actor = facts.hook.unwrap().actor.unwrap();
        assert_eq!(actor.login, "ada");
        assert!(facts.delivery.unwrap().reason.starts_with(".farm.yaml: 6:5: no"));
        // What can't be read is told of all the same.
        came.body = b"{".to_vec();
        assert_eq!(of_delivery(&came, "1", "no", DateTime::UNIX_EPOCH).git_ref, None);
    }
}
