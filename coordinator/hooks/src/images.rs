//! What registries send when an image has moved: Docker Hub (docs.docker.com, "Webhooks") and CNCF Distribution
//! (distribution.github.io, "Notifications").

use farm_types::Invalid;
use serde::Deserialize;

use crate::delivery::{Actor, Delivery, MovedImage, Outcome};
use crate::parts::json;

#[derive(Deserialize)]
struct HubBody {
    push_data: Option<PushData>,
    repository: Option<HubRepository>,
}

#[derive(Deserialize)]
struct PushData {
    tag: String,
    #[serde(default)]
    pusher: String,
}

#[derive(Deserialize)]
struct HubRepository {
    repo_name: String,
}

#[derive(Deserialize)]
struct Envelope {
    events: Vec<Notice>,
}

#[derive(Deserialize)]
struct Notice {
    action: String,
    target: Target,
    actor: Option<Name>,
}

#[derive(Deserialize)]
struct Target {
    #[serde(default)]
    repository: String,
    // Of manifests that were pushed by a tag; layers and the parts of an index have none.
    tag: Option<String>,
    #[serde(default)]
    digest: String,
}

#[derive(Deserialize)]
struct Name {
    #[serde(default)]
    name: String,
}

fn actor(name: &str) -> Option<Actor> {
    (!name.is_empty()).then(|| Actor { id: name.to_owned(), login: name.to_owned() })
}

/// A registry's repositories are no git repositories: which it is stands with each image.
fn delivery(event: &str, actor: Option<Actor>, outcome: Outcome) -> Delivery {
    Delivery { id: String::new(), event: event.to_owned(), repository: None, actor, outcome }
}

/// The address in it that wants to be called back isn't looked at.
pub(crate) fn of_docker_hub(body: &[u8]) -> Result<Delivery, Invalid> {
    let HubBody { push_data, repository } = json(body)?;
    let (Some(push_data), Some(HubRepository { repo_name })) = (push_data, repository) else {
        return Ok(delivery("push", None, Outcome::Ignored("no tag was pushed".to_owned())));
    };
    let image = MovedImage { repository: repo_name, tag: push_data.tag, digest: None };
    Ok(delivery("push", actor(&push_data.pusher), Outcome::Images(vec![image])))
}

pub(crate) fn of_distribution(body: &[u8]) -> Result<Delivery, Invalid> {
    let Envelope { events } = json(body)?;
    let mut moved = Vec::new();
    let mut who = None;
    for Notice { action, target, actor: by } in events {
        let (Some(tag), "push") = (target.tag, action.as_str()) else { continue };
        who = by.and_then(|by| actor(&by.name)).or(who);
        let digest = target.digest.parse().ok();
        let image = MovedImage { repository: target.repository, tag, digest };
        if !moved.contains(&image) {
            moved.push(image);
        }
    }
    let outcome = if moved.is_empty() {
        Outcome::Ignored("no tag was pushed".to_owned())
    } else {
        Outcome::Images(moved)
    };
    Ok(delivery("notification", who, outcome))
}
