//! Which repositories and tags a rule is about.

use std::fmt;
use std::str::FromStr;

use crate::error::Invalid;
use crate::host::RegistryHost;
use crate::image::Repository;

/// Repositories: all (`*`), those of a registry (`registry.example:5000`), or one and those below it
/// (`registry.example/team`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RepositoryPrefix {
    /// Those of every registry.
    All,
    /// Those of one registry.
    Below {
        /// The registry, in the form in which references name it.
        host: String,
        /// The names' beginning, up to the end or a `/`; empty: all.
        path: String,
    },
}

impl RepositoryPrefix {
    /// Whether a repository is among them.
    pub fn covers(&self, repository: &Repository) -> bool {
        match self {
            Self::All => true,
            Self::Below { host, path } => {
                let below = repository.name().strip_prefix(path.as_str());
                host == repository.registry()
                    && (path.is_empty() || below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
            }
        }
    }

    /// Whether any of this registry's are among them.
    pub fn is_of(&self, registry: &str) -> bool {
        match self {
            Self::All => true,
            Self::Below { host, .. } => host == registry,
        }
    }
}

impl FromStr for RepositoryPrefix {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == "*" {
            return Ok(Self::All);
        }
        let invalid = |cure: &str| Invalid::new("repositories", text, cure);
        let shape = "write REGISTRY, REGISTRY/REPO or *, for example registry.example/team";
        let text = text.strip_suffix('/').unwrap_or(text);
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        // Without a dot, a port or localhost Docker takes the first part for a name at its own registry.
        if !(host.contains(['.', ':']) || host == "localhost") {
            return Err(invalid(&format!("{host:?} is no registry; {shape}")));
        }
        let host = RegistryHost::of_login(host).map_err(|error| invalid(&error.cure))?;
        let below = format!("{host}/{path}{}x", if path.is_empty() { "" } else { "/" });
        if path.contains([':', '@']) || below.parse::<Repository>().is_err() {
            return Err(invalid(shape));
        }
        Ok(Self::Below { host: host.as_str().to_owned(), path: path.to_owned() })
    }
}

impl fmt::Display for RepositoryPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Below { host, path } if path.is_empty() => f.write_str(host),
            Self::Below { host, path } => write!(f, "{host}/{path}"),
        }
    }
}

/// Tags: a tag, with `*` for any characters (`v*`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TagPattern(String);

impl TagPattern {
    /// Whether a tag is meant.
    pub fn covers(&self, tag: &str) -> bool {
        fits(&self.0, tag)
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a text is what a pattern stands for, in which `*` is any characters.
pub(crate) fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

impl FromStr for TagPattern {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let is_fit = |c: char| c.is_ascii_alphanumeric() || "._-*".contains(c);
        if (1..=128).contains(&text.len()) && text.chars().all(is_fit) && !text.contains("**") {
            return Ok(Self(text.to_owned()));
        }
        Err(Invalid::new("tags", text, "write a tag, or a pattern like v* (* stands for any characters)"))
    }
}

impl fmt::Display for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_where_a_name_does() {
        let covers = |prefix: &str, repository: &str| {
            prefix.parse::<RepositoryPrefix>().unwrap().covers(&repository.parse().unwrap())
        };
        for (prefix, repository, covered) in [
            ("*", "anything.example/a", true),
            ("registry.example", "registry.example/a/b", true),
            ("registry.example/", "registry.example/a", true),
            ("registry.example", "registry.example:5000/a", false),
            ("registry.example/team", "registry.example/team", true),
            ("registry.example/team", "registry.example/team/app", true),
            ("registry.example/team", "registry.example/teams", false),
            ("registry.example/team", "registry.example/other/team", false),
            ("docker.io/team", "team/app", true),
            ("docker.io/library", "alpine", true),
            ("Registry.Example/team", "registry.example/team/app", true),
        ] {
            assert_eq!(covers(prefix, repository), covered, "{prefix} {repository}");
        }
    }

    #[test]
    fn what_is_no_prefix_is_told_so_and_what_is_one_is_written_as_it_was_read() {
        for text in [
            "",
            "team",
            "team/app",
            "registry.example/Team",
            "registry.example/a:b",
            "registry.example//a",
            "**",
        ] {
            assert!(text.parse::<RepositoryPrefix>().is_err(), "{text}");
        }
        for text in ["*", "registry.example", "localhost:5002/team", "docker.io/team/a"] {
            assert_eq!(text.parse::<RepositoryPrefix>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, tag, covered) in [
            ("latest", "latest", true),
            ("latest", "latest-1", false),
            ("v*", "v1.2", true),
            ("v*", "v", true),
            ("v*", "dev", false),
            ("*-rc*", "v1-rc1", true),
            ("*-rc*", "v1", false),
            ("*.0", "1.0", true),
            ("*.0", "1.0.1", false),
            ("a*a", "a", false),
            ("*", "anything", true),
        ] {
            assert_eq!(pattern.parse::<TagPattern>().unwrap().covers(tag), covered, "{pattern} {tag}");
        }
        for text in ["", "v**", "a b", "a:b"] {
            assert!(text.parse::<TagPattern>().is_err(), "{text}");
        }
    }
}
