//! What a forge's API is asked, and what it answers. Pure.

use serde_json::Value;

use crate::outbound::{Method, Url};

/// A repository, as its forge's API knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At {
    /// Where the API is, without a `/` at its end.
    pub api: String,
    /// `OWNER/REPO`.
    pub full_name: String,
    /// By which the forge knows it for good, as far as that is known.
    pub id: Option<String>,
}

/// A request.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    pub method: Method,
    pub url: String,
    /// In JSON.
    pub body: Option<Value>,
}

impl Ask {
    /// To read something.
    pub fn get(url: String) -> Self {
        Self { method: Method::GET, url, body: None }
    }

    /// To put something in the place of what is there.
    pub fn change(method: Method, url: String, body: Value) -> Self {
        Self { method, url, body: Some(body) }
    }

    /// To make something.
    pub fn post(url: String, body: Value) -> Self {
        Self { method: Method::POST, url, body: Some(body) }
    }
}

/// An answer, as far as it is looked at.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    pub status: u16,
    /// `Retry-After`, in seconds. As a date it isn't read.
    pub retry_after: Option<u64>,
    /// `X-RateLimit-Remaining`, or `RateLimit-Remaining`.
    pub remaining: Option<u64>,
    /// `X-RateLimit-Reset`, or `RateLimit-Reset`: seconds since 1970.
    pub reset: Option<i64>,
    /// `X-OAuth-Scopes`: what a classic token of GitHub's may.
    pub scopes: Option<String>,
    /// Null where it isn't JSON.
    pub body: Value,
}

/// The longest word of a forge that is told on.
const LONGEST_SAID: usize = 200;

impl Answer {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// What the forge says of it, in one line.
    pub fn said(&self) -> String {
        let message = ["message", "error_description", "error"].into_iter().find_map(|name| {
            self.body.get(name).filter(|value| !value.is_null()).map(|value| match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            })
        });
        let message = message.unwrap_or_default();
        let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
        let line: String = line.chars().filter(|c| !c.is_control()).take(LONGEST_SAID).collect();
        if line.is_empty() {
            format!("it answers {}", self.status)
        } else {
            format!("it answers {}: {line}", self.status)
        }
    }

    /// By which the forge knows that entry of a list of which this text stands at this place.
    pub fn listed(&self, pointer: &str, text: &str) -> Option<String> {
        let found = self
            .body
            .as_array()?
            .iter()
            .find(|one| one.pointer(pointer).and_then(Value::as_str) == Some(text));
        found?.get("id").map(ToString::to_string)
    }

    /// A number or text by which the forge knows something.
    pub fn id(&self, pointer: &str) -> Option<String> {
        match self.body.pointer(pointer)? {
            Value::Number(number) => Some(number.to_string()),
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            _ => None,
        }
    }
}

/// How a commit is to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub commit: String,
    /// What is shown there: each replaces the one before of the same context.
    pub context: String,
    pub state: Look,
    pub description: String,
    /// There is a build of it, which goes on or has ended.
    pub is_built: bool,
    /// The branch or tag whose commit it is.
    pub branch: Option<String>,
    /// What the forge has put others of this commit and branch in.
    pub pipeline: Option<String>,
    /// Where a person finds more.
    pub target: Option<String>,
}

/// The states that all forges can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    Pending,
    Success,
    Failure,
    Cancelled,
}

/// A webhook that a repository is to have. Not to be printed: it has the secret.
#[derive(Clone, Copy)]
pub struct Webhook<'a> {
    /// Where it is delivered to; by that it is known again.
    pub url: &'a str,
    pub secret: &'a str,
}

/// Why a token won't do, and what would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// What is wrong.
    pub why: String,
    /// What to do about it.
    pub cure: String,
}

/// An account at the forge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// By which it is known there for good.
    pub id: String,
    /// What it is called.
    pub login: String,
}

/// An address of an API that somebody has said, without a `/` at its end.
///
/// # Errors
/// It can't be one, and what could.
pub fn api(said: &str) -> Result<String, &'static str> {
    let form = "write https://HOST[:PORT][/PATH], or http:// where that is this machine itself";
    let url: Url = said.parse().map_err(|_| form)?;
    let host = url.host_str().unwrap_or_default();
    let is_fit = match url.scheme() {
        "https" => !host.is_empty(),
        "http" => is_here(host),
        _ => false,
    };
    let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    if is_fit && is_plain && url.fragment().is_none() {
        return Ok(url.as_str().trim_end_matches('/').to_owned());
    }
    Err(form)
}

/// Whether an API is that of a host, `HOST[:PORT]`: it is there, or at `api.HOST`; or on this machine itself, where the farm asks nobody whom its
/// configuration doesn't name.
pub fn is_of(api: &str, host: &str) -> bool {
    let Ok(url) = api.parse::<Url>() else { return false };
    let name = url.host_str().unwrap_or_default();
    let place = url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
    let host = host.strip_suffix(":443").unwrap_or(host);
    let is_it = |place: &str| place.eq_ignore_ascii_case(host);
    is_here(name) || is_it(&place) || place.strip_prefix("api.").is_some_and(is_it)
}

fn is_here(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "[::1]")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_forge_says_is_told_in_one_short_line() {
        let answer = |body: Value| Answer { status: 422, body, ..Default::default() };
        assert_eq!(
            answer(json!({"message": "No commit\n\u{1b}[2J found"})).said(),
            "it answers 422: No commit [2J found"
        );
        assert_eq!(
            answer(json!({"message": {"name": ["is bad"]}})).said(),
            "it answers 422: {\"name\":[\"is bad\"]}"
        );
        assert_eq!(answer(Value::Null).said(), "it answers 422");
        assert!(answer(json!({"message": "x".repeat(5000)})).said().len() < 300);
    }

    #[test]
    fn an_entry_of_a_list_is_known_by_what_stands_in_it() {
        let body = json!([{"id": 1, "config": {"url": "https://a"}}, {"id": 2, "config": {"url": "https://b"}}, {"id": 3}]);
        let answer = Answer { status: 200, body, ..Default::default() };
        assert_eq!(answer.listed("/config/url", "https://b").as_deref(), Some("2"));
        assert_eq!(answer.listed("/config/url", "https://c"), None);
        assert_eq!(Answer::default().listed("/url", "x"), None);
    }

    #[test]
    fn an_api_is_that_of_its_own_host_only() {
        for (api, host, expected) in [
            ("https://api.github.com", "github.com", true),
            ("https://git.example:8443/api/v3", "Git.example:8443", true),
            ("https://git.example/api/v3", "git.example:443", true),
            ("https://api.acme.ghe.com", "acme.ghe.com", true),
            ("http://127.0.0.1:3000", "git.example", true),
            ("https://api.github.com", "evil.example", false),
            ("https://evil.example", "github.com", false),
            ("https://api.github.com.evil.example", "github.com", false),
            ("https://git.example:8443/api/v3", "git.example", false),
        ] {
            assert_eq!(is_of(api, host), expected, "{api} {host}");
        }
    }

    #[test]
    fn an_api_is_asked_with_tls_unless_it_is_on_this_machine() {
        assert_eq!(api("https://git.example/sub/").unwrap(), "https://git.example/sub");
        assert_eq!(api("http://127.0.0.1:3000").unwrap(), "http://127.0.0.1:3000");
        for said in [
            "http://git.example",
            "ftp://git.example",
            "git.example",
            "https://a:b@git.example",
            "https://g.example?a=b",
        ] {
            assert!(api(said).is_err(), "{said}");
        }
    }
}
