//! What projects tell of how their builds end, and by what.

use std::fmt;
use std::str::FromStr;

use crate::error::Invalid;

/// By what a notice is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NoticeKind {
    /// A signed request of JSON.
    Webhook,
    /// A message to a channel of Slack or Mattermost.
    Slack,
    /// Mail.
    Mail,
}

impl NoticeKind {
    /// All.
    pub const ALL: [Self; 3] = [Self::Webhook, Self::Slack, Self::Mail];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Slack => "slack",
            Self::Mail => "mail",
        }
    }
}

impl fmt::Display for NoticeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for NoticeKind {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| Invalid::new("kind of notice", text, "write webhook, slack or mail"))
    }
}

/// Which ends of builds are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NoticeOn {
    /// A build, or what was delivered to a webhook, has failed.
    Failure,
    /// It has succeeded, where the last one of the same kind had failed.
    Recovered,
    /// It has succeeded.
    Success,
    /// Somebody has ended it, or a newer one has taken its place.
    Cancelled,
}

impl NoticeOn {
    /// All.
    pub const ALL: [Self; 4] = [Self::Failure, Self::Recovered, Self::Success, Self::Cancelled];
    /// What is told unless something else is said.
    pub const USUAL: [Self; 2] = [Self::Failure, Self::Recovered];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Recovered => "recovered",
            Self::Success => "success",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for NoticeOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for NoticeOn {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let found = Self::ALL.into_iter().find(|on| on.as_str() == text);
        found.ok_or_else(|| Invalid::new("end", text, "write failure, recovered, success or cancelled"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        for kind in NoticeKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        for on in NoticeOn::ALL {
            assert_eq!(on.to_string().parse(), Ok(on));
        }
        let wrong = "failed".parse::<NoticeOn>().unwrap_err().to_string();
        assert!(wrong.contains("failure, recovered"), "{wrong}");
    }
}
