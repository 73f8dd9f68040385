//! What a job of a CI system was begun for, as rules name it: the ref that it builds, and the event.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::access::fits;
use crate::error::Invalid;

/// Refs of git, each in its full form; `*` stands for any characters, `/` as well.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RefPattern(String);

impl RefPattern {
    /// Whether a ref is meant.
    pub fn covers(&self, full: &str) -> bool {
        fits(&self.0, full)
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RefPattern {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let is_whole = text.starts_with("refs/") || text.starts_with('*');
        let is_fit = |c: char| !c.is_control() && !c.is_whitespace() && c != ',';
        if (1..=255).contains(&text.len()) && text.chars().all(is_fit) && !text.contains("**") {
            if is_whole {
                return Ok(Self(text.to_owned()));
            }
            let cure =
                format!("write it in full: refs/heads/{text} for a branch, refs/tags/{text} for a tag");
            return Err(Invalid::new("ref", text, cure));
        }
        let cure = "write refs/heads/BRANCH, or a pattern like refs/tags/v* (* stands for any characters)";
        Err(Invalid::new("ref", text, cure))
    }
}

impl fmt::Display for RefPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for RefPattern {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<RefPattern> for String {
    fn from(pattern: RefPattern) -> Self {
        pattern.0
    }
}

/// The event of those that no job began: whoever calls with a token of the farm's own.
pub const MANUAL: &str = "manual";

/// The event of jobs whose token says none, as of issuers of which farm doesn't know what their claims mean. GitLab's own word for the
/// same.
pub const UNKNOWN: &str = "unknown";

/// A job with its repository's rights on what strangers send.
const STRANGERS: &str = "pull_request_target";

/// What a job was begun by, in its CI system's own word (`push`, `schedule`, `merge_request_event`), or [`MANUAL`] or [`UNKNOWN`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventName(String);

impl EventName {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EventName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == STRANGERS {
            let cure = "its jobs have a repository's rights on what strangers send, so they get no secrets; let a push use it";
            return Err(Invalid::new("event", text, cure));
        }
        let is_fit = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if (1..=64).contains(&text.len()) && text.chars().all(is_fit) {
            return Ok(Self(text.to_owned()));
        }
        let cure = "write it as the CI system does, like push or schedule, or manual for people's and services' own tokens";
        Err(Invalid::new("event", text, cure))
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for EventName {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<EventName> for String {
    fn from(event: EventName) -> Self {
        event.0
    }
}

/// Events that run with the default branch's ref, or none that says it, and often for a pull or merge request: another workflow's end,
/// a comment, a pipeline above.
const INDIRECT: [&str; 3] = ["workflow_run", "issue_comment", "parent_pipeline"];

/// Whether a job builds, or may build, what somebody proposes: a pull request's or merge request's, by its event or its ref.
pub fn is_proposal(full: Option<&str>, event: Option<&str>) -> bool {
    let by_event = |event: &str| {
        event.contains("pull_request") || event.contains("merge_request") || INDIRECT.contains(&event)
    };
    let by_ref = |full: &str| full.starts_with("refs/pull/") || full.starts_with("refs/merge-requests/");
    event.is_some_and(by_event) || full.is_some_and(by_ref)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refs_are_written_in_full_and_events_as_ci_systems_write_them() {
        let main: RefPattern = "refs/heads/main".parse().unwrap();
        assert!(main.covers("refs/heads/main") && !main.covers("refs/heads/main2") && !main.covers("main"));
        let release: RefPattern = "refs/tags/v*".parse().unwrap();
        assert!(release.covers("refs/tags/v1/2") && !release.covers("refs/heads/v1"));
        assert!("*/main".parse::<RefPattern>().unwrap().covers("refs/heads/main"));
        let short = "main".parse::<RefPattern>().unwrap_err().to_string();
        assert!(short.contains("refs/heads/main for a branch"), "{short}");
        for text in ["", "refs/heads/a b", "refs/**", "refs/heads/a,b", &format!("refs/{}", "x".repeat(251))]
        {
            assert!(text.parse::<RefPattern>().is_err(), "{text:?}");
        }
        for text in ["push", "merge_request_event", "manual"] {
            assert_eq!(text.parse::<EventName>().unwrap().as_str(), text);
        }
        for text in ["", "Push", "a b", &"x".repeat(65)] {
            assert!(text.parse::<EventName>().is_err(), "{text:?}");
        }
        let strangers = "pull_request_target".parse::<EventName>().unwrap_err().to_string();
        assert!(strangers.contains("what strangers send"), "{strangers}");
    }

    #[test]
    fn what_is_proposed_is_known_by_its_event_and_by_its_ref() {
        for (full, event, is) in [
            (Some("refs/heads/main"), Some("push"), false),
            (None, None, false),
            (Some("refs/heads/main"), Some("pull_request"), true),
            (Some("refs/heads/main"), Some("pull_request_target"), true),
            (Some("refs/heads/topic"), Some("merge_request_event"), true),
            (Some("refs/heads/topic"), Some("external_pull_request_event"), true),
            (Some("refs/pull/7/merge"), Some("workflow_dispatch"), true),
            (Some("refs/heads/main"), Some("workflow_run"), true),
            (Some("refs/heads/main"), Some("issue_comment"), true),
            (Some("refs/heads/topic"), Some("parent_pipeline"), true),
            (Some("refs/heads/main"), Some("pipeline"), false),
            (Some("refs/merge-requests/7/head"), None, true),
            (Some("refs/heads/refs/pull/7"), Some("push"), false),
        ] {
            assert_eq!(is_proposal(full, event), is, "{full:?} {event:?}");
        }
    }
}
