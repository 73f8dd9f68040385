//! Reading deliveries: which of the senders' forms it is, and what all have in common.

use farm_types::{Digest, Invalid};

use crate::delivery::Delivery;
use crate::headers::Headers;
use crate::provider::Provider;
use crate::{generic, gitlab, hub, images};

/// The longest id of a delivery, bytes.
const LONGEST_ID: usize = 128;
/// The longest name of a repository or an account, bytes.
const LONGEST_NAME: usize = 512;

/// What tells a delivery from others of its hook. Where the sender gives it no id it is the body's digest.
pub fn delivery_id(provider: Provider, headers: &Headers, body: &[u8]) -> String {
    let names: &[&str] = match provider {
        Provider::Github => &["x-github-delivery"],
        Provider::Gitlab => &["webhook-id", "idempotency-key", "x-gitlab-event-uuid"],
        Provider::Gitea => &["x-gitea-delivery"],
        Provider::Forgejo => &["x-forgejo-delivery", "x-gitea-delivery"],
        Provider::Generic => &["webhook-id"],
        Provider::Dockerhub | Provider::Distribution => &[],
    };
    let is_id =
        |id: &&str| !id.is_empty() && id.len() <= LONGEST_ID && id.bytes().all(|b| b.is_ascii_graphic());
    let given = names.iter().find_map(|name| headers.get(name).filter(is_id));
    given.map_or_else(|| Digest::of(body).to_string(), ToOwned::to_owned)
}

/// What a delivery says.
///
/// # Errors
/// The body can't be read as what the sender says it is.
pub fn parse(provider: Provider, headers: &Headers, body: &[u8]) -> Result<Delivery, Invalid> {
    let kind = headers.get("content-type").unwrap_or_default();
    if kind.starts_with("application/x-www-form-urlencoded") {
        let cure = "set the webhook's content type to application/json at the forge";
        return Err(Invalid::new("content type", kind, cure));
    }
    let mut delivery = match provider {
        Provider::Github => hub::parse(hub::Flavour::Github, headers, body)?,
        Provider::Gitea | Provider::Forgejo => hub::parse(hub::Flavour::Gitea, headers, body)?,
        Provider::Gitlab => gitlab::parse(headers, body)?,
        Provider::Generic => generic::parse(body)?,
        Provider::Dockerhub => images::of_docker_hub(body)?,
        Provider::Distribution => images::of_distribution(body)?,
    };
    delivery.id = delivery_id(provider, headers, body);
    let names = [
        ("event", delivery.event.as_str()),
        ("repository", delivery.repository.as_ref().map_or("", |repository| &repository.full_name)),
        ("repository id", delivery.repository.as_ref().map_or("", |repository| &repository.id)),
        ("actor", delivery.actor.as_ref().map_or("", |actor| &actor.login)),
        ("actor id", delivery.actor.as_ref().map_or("", |actor| &actor.id)),
    ];
    for (thing, name) in names {
        if name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
            let name: String = name.chars().take(64).collect();
            return Err(Invalid::new(thing, name, "a name has one line and at most 512 bytes"));
        }
    }
    Ok(delivery)
}
