//! Who sends.

use std::fmt;
use std::str::FromStr;

use farm_types::Invalid;

/// Who sends, and so how deliveries are signed and what they look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Provider {
    /// github.com, or GitHub Enterprise Server.
    Github,
    /// gitlab.com, or a GitLab of one's own.
    Gitlab,
    /// A Gitea.
    Gitea,
    /// A Forgejo, as codeberg.org is one.
    Forgejo,
    /// Whoever signs by Standard Webhooks, and writes farm's own JSON.
    Generic,
    /// Docker Hub: an image has moved.
    Dockerhub,
    /// A registry with notifications in the form of CNCF Distribution: an image has moved.
    Distribution,
}

impl Provider {
    /// All.
    pub const ALL: [Self; 7] = [
        Self::Github,
        Self::Gitlab,
        Self::Gitea,
        Self::Forgejo,
        Self::Generic,
        Self::Dockerhub,
        Self::Distribution,
    ];

    /// The word for it, everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Gitlab => "gitlab",
            Self::Gitea => "gitea",
            Self::Forgejo => "forgejo",
            Self::Generic => "generic",
            Self::Dockerhub => "dockerhub",
            Self::Distribution => "distribution",
        }
    }

    /// It has images and no git repositories.
    pub fn is_registry(self) -> bool {
        matches!(self, Self::Dockerhub | Self::Distribution)
    }

    /// Where it is, unless somebody runs it themselves.
    pub fn usual_host(self) -> Option<&'static str> {
        match self {
            Self::Github => Some("github.com"),
            Self::Gitlab => Some("gitlab.com"),
            Self::Dockerhub => Some("docker.io"),
            Self::Gitea | Self::Forgejo | Self::Generic | Self::Distribution => None,
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Provider {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let words = || Self::ALL.map(Self::as_str).join(", ");
        let found = Self::ALL.into_iter().find(|provider| provider.as_str() == text);
        found.ok_or_else(|| Invalid::new("provider", text, format!("there are {}", words())))
    }
}
