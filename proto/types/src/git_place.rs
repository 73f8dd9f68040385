//! Where a login for git counts: a host, or what lies below a path there.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Invalid;
use crate::git::GitUrl;
use crate::host::RegistryHost;

/// The longest, bytes.
const LONGEST: usize = 512;

/// `HOST[:PORT][/PATH]`, the host in small letters, the path without `.git`: all repositories at the path and below it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GitPlace(String);

impl GitPlace {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `HOST[:PORT]`.
    pub fn host(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    /// All of one repository, and nothing else.
    pub fn of(url: &GitUrl) -> Self {
        Self(normal(url.host(), url.path()))
    }

    /// Whether the repository lies there.
    pub fn covers(&self, url: &GitUrl) -> bool {
        let whole = Self::of(url).0;
        whole.strip_prefix(&self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Of several places the one that says most of the repository.
    pub fn closest<'a>(places: impl IntoIterator<Item = &'a Self>, url: &GitUrl) -> Option<&'a Self> {
        places.into_iter().filter(|place| place.covers(url)).max_by_key(|place| place.0.len())
    }
}

fn normal(host: &str, path: &str) -> String {
    let path = path.trim_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    let host = host.to_ascii_lowercase();
    if path.is_empty() { host } else { format!("{host}/{path}") }
}

impl FromStr for GitPlace {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || {
            Invalid::new(
                "place of repositories",
                text,
                "write HOST, HOST/OWNER or HOST/OWNER/REPO, for example github.com/acme",
            )
        };
        let bare = text.strip_prefix("https://").unwrap_or(text);
        let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
        let known: RegistryHost = host.to_ascii_lowercase().parse().map_err(|_| invalid())?;
        let is_part = |part: &str| {
            !part.is_empty()
                && !matches!(part, "." | "..")
                && part.chars().all(|c| c.is_alphanumeric() || "-_.~+".contains(c))
        };
        let trimmed = path.trim_matches('/');
        if known.check().is_err()
            || text.len() > LONGEST
            || !(trimmed.is_empty() || trimmed.split('/').all(is_part))
        {
            return Err(invalid());
        }
        Ok(Self(normal(host, path)))
    }
}

impl fmt::Display for GitPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for GitPlace {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<GitPlace> for String {
    fn from(place: GitPlace) -> Self {
        place.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_covers_what_lies_below_it_and_no_neighbour() {
        let place: GitPlace = "GitHub.com/acme/".parse().unwrap();
        assert_eq!(place.as_str(), "github.com/acme");
        for (url, covered) in [
            ("https://github.com/acme/app.git", true),
            ("git@github.com:acme/app", true),
            ("https://github.com/acme-evil/app.git", false),
            ("https://github.com/other/acme/app.git", false),
            ("https://github.com.evil.example/acme/app.git", false),
            ("https://evil.example/github.com/acme/app", false),
        ] {
            assert_eq!(place.covers(&url.parse().unwrap()), covered, "{url}");
        }
        let one: GitPlace = "https://github.com/acme/app.git".parse().unwrap();
        assert!(one.covers(&"git@github.com:acme/app.git".parse().unwrap()));
        assert!(!one.covers(&"git@github.com:acme/app2.git".parse().unwrap()));
        let all = ["github.com".parse().unwrap(), place.clone(), one.clone()];
        let closest = |url: &str| GitPlace::closest(&all, &url.parse().unwrap()).map(GitPlace::as_str);
        assert_eq!(closest("https://github.com/acme/app"), Some("github.com/acme/app"));
        assert_eq!(closest("https://github.com/acme/x"), Some("github.com/acme"));
        assert_eq!(closest("https://github.com/x/y"), Some("github.com"));
        assert_eq!(closest("https://gitlab.com/x/y"), None);
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in
            ["", "/acme", "ssh://github.com", "git@github.com:acme", "github.com/a/../b", "h/a b", "-x"]
        {
            let read = text.parse::<GitPlace>();
            assert!(read.is_err(), "{read:?}");
        }
    }
}
