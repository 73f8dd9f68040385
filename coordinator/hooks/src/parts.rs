//! What the senders' forms consist of alike: commits, refs, addresses, messages.

use chrono::{DateTime, NaiveDateTime, Utc};
use farm_types::{Commit, GitUrl, Invalid, RefName};
use serde::de::DeserializeOwned;

use crate::delivery::Comment;

/// The longest message that is taken along, bytes.
const LONGEST_MESSAGE: usize = 64 * 1024;
/// The most changed paths that are taken along; when there are more nobody knows.
pub(crate) const MOST_PATHS: usize = 50_000;

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

/// A moment as forges write it: RFC 3339, and older GitLabs `2026-01-31 12:05:24 UTC`.
pub(crate) fn moment(text: Option<&str>) -> Option<DateTime<Utc>> {
    let text = text?;
    let plain = || NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S UTC").map(|at| at.and_utc());
    DateTime::parse_from_rfc3339(text).map(|at| at.to_utc()).or_else(|_| plain()).ok()
}

/// What a comment under a pull request tells the farm, if it does: its first line says it, and nothing else stands there. `at`: when it
/// was written, as the forge writes that.
pub(crate) fn told(pull_request: u64, text: &str, at: Option<&str>) -> Option<Comment> {
    let mut words = text.lines().next()?.split_whitespace();
    if (words.next()?, words.next()?) != ("/farm", "approve") {
        return None;
    }
    let commit = words.next().map(str::to_ascii_lowercase);
    let is_commit =
        |text: &String| (7..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    let base = words.next().map(ToOwned::to_owned);
    let is_base = |text: &String| ref_of("heads", text).is_ok();
    let is_fit =
        commit.as_ref().is_none_or(is_commit) && base.as_ref().is_none_or(is_base) && words.next().is_none();
    is_fit.then(|| Comment::Approve { pull_request, commit, base, at: moment(at) })
}
