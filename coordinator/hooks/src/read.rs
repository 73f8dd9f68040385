//! Reading deliveries: what all senders' have in common.

use farm_types::{Commit, Digest, GitUrl, Invalid, RefName};
use serde::de::DeserializeOwned;

use crate::delivery::{Comment, Delivery};
use crate::headers::Headers;
use crate::provider::Provider;
use crate::{generic, gitlab, hub, images};

/// The longest id of a delivery, bytes.
const LONGEST_ID: usize = 128;
/// The longest name of a repository or an account, bytes.
const LONGEST_NAME: usize = 512;
/// The longest message that is taken along, bytes.
const LONGEST_MESSAGE: usize = 64 * 1024;
/// The most changed paths that are taken along; when there are more nobody knows.
pub(crate) const MOST_PATHS: usize = 50_000;

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

/// A body as JSON.
pub(crate) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Invalid> {
    serde_json::from_slice(body).map_err(|error| {
        // serde_json names fields and places, and quotes values that are of a wrong type: what is quoted is cut.
        let why: String = error.to_string().chars().take(300).collect();
        Invalid::new("body", format!("of {} bytes", body.len()), why)
    })
}

/// A commit; `None`: the zeros with which forges say that a ref isn't there.
pub(crate) fn commit(text: &str) -> Result<Option<Commit>, Invalid> {
    let commit: Commit = text.parse()?;
    Ok(Some(commit).filter(|commit| !commit.is_none()))
}

/// The same, where something may be missing.
pub(crate) fn commit_opt(text: Option<&str>) -> Result<Option<Commit>, Invalid> {
    text.filter(|text| !text.is_empty()).map_or(Ok(None), commit)
}

/// Zeros: it isn't known.
pub(crate) fn no_commit() -> Result<Commit, Invalid> {
    "0".repeat(40).parse()
}

/// A ref below `refs/heads/` or the like.
pub(crate) fn ref_of(folder: &str, name: &str) -> Result<RefName, Invalid> {
    format!("refs/{folder}/{name}").parse()
}

/// The host of an address for clones.
pub(crate) fn host(clone_url: &str) -> String {
    clone_url.parse::<GitUrl>().map(|url| url.host().to_ascii_lowercase()).unwrap_or_default()
}

/// A message, cut where it is too long.
pub(crate) fn message(mut text: String) -> String {
    if text.len() > LONGEST_MESSAGE {
        let end = (0..=LONGEST_MESSAGE).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
    }
    text
}

/// What a comment under a pull request tells the farm, if it does: its first line says it, and nothing else stands there.
pub(crate) fn told(pull_request: u64, text: &str) -> Option<Comment> {
    let mut words = text.lines().next()?.split_whitespace();
    if (words.next()?, words.next()?) != ("/farm", "approve") {
        return None;
    }
    let commit = words.next().map(str::to_ascii_lowercase);
    let is_commit =
        |text: &String| (7..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    let is_fit = commit.as_ref().is_none_or(is_commit) && words.next().is_none();
    is_fit.then_some(Comment::Approve { pull_request, commit })
}
