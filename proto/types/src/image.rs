//! Image names: where an index is published.

use std::fmt;
use std::str::FromStr;

use oci_spec::distribution::Reference;
use serde::{Deserialize, Serialize};

use crate::error::Invalid;

/// A repository in a registry, as `registry/repository`, with Docker's default registry filled in
/// (`app` is `docker.io/library/app`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Repository {
    registry: String,
    name: String,
}

impl Repository {
    /// The registry's host and port, for example `localhost:5002`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository's name within the registry.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for Repository {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let reference: Reference = text.parse().map_err(|_| {
            Invalid::new("repository", text, "write REGISTRY/REPO, for example localhost:5002/app")
        })?;
        Ok(Self { registry: reference.registry().to_owned(), name: reference.repository().to_owned() })
    }
}

impl TryFrom<String> for Repository {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<Repository> for String {
    fn from(repository: Repository) -> Self {
        repository.to_string()
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.name)
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A tag in a repository: what `-t` takes. Without `:TAG` it is `latest`, as with Docker.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageTag {
    /// Where the tag stands.
    pub repository: Repository,
    /// The tag alone.
    pub tag: String,
}

impl FromStr for ImageTag {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |cure: &str| Err(Invalid::new("tag", text, cure));
        if text.contains("://") {
            return invalid(
                "leave the scheme out; write REGISTRY/REPO:TAG, for example localhost:5002/app:latest",
            );
        }
        if text.contains('@') {
            return invalid("a tag can't hold a digest; write REGISTRY/REPO:TAG");
        }
        let name = text.rsplit_once('/').map_or(text, |(_, name)| name);
        let path = text.split_once('/').map_or(text, |(_, path)| path);
        if name.is_empty() || name.starts_with(':') || (text == name && name == "latest") {
            return invalid(
                "it has no repository; write REGISTRY/REPO:TAG, for example localhost:5002/app:latest",
            );
        }
        // The host and the tag may have capitals, the repository may not.
        let repository_part = path.rsplit_once(':').map_or(path, |(repository, _)| repository);
        if repository_part.bytes().any(|b| b.is_ascii_uppercase()) {
            return invalid(&format!(
                "a repository has no capital letters; write {:?}",
                text.replacen(repository_part, &repository_part.to_ascii_lowercase(), 1)
            ));
        }
        let host = text.split('/').next().unwrap_or_default();
        if let (true, Some((_, port))) = (text.contains('/'), host.rsplit_once(':'))
            && port.parse::<u16>().is_err()
        {
            return invalid(&format!("{port:?} is no port; write a number from 1 to 65535"));
        }
        let Ok(reference) = text.parse::<Reference>() else {
            return invalid("write REGISTRY/REPO:TAG, for example localhost:5002/app:latest");
        };
        Ok(Self {
            repository: Repository {
                registry: reference.registry().to_owned(),
                name: reference.repository().to_owned(),
            },
            tag: reference.tag().unwrap_or("latest").to_owned(),
        })
    }
}

impl TryFrom<String> for ImageTag {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<ImageTag> for String {
    fn from(tag: ImageTag) -> Self {
        tag.to_string()
    }
}

impl fmt::Display for ImageTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

impl fmt::Debug for ImageTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        text.parse::<ImageTag>().unwrap_err().to_string()
    }

    #[test]
    fn tags_are_read_as_docker_reads_them() {
        for (written, full) in [
            ("localhost:5002/app", "localhost:5002/app:latest"),
            ("localhost:5002/team/app:v1", "localhost:5002/team/app:v1"),
            ("app:V1", "docker.io/library/app:V1"),
            ("team/app", "docker.io/team/app:latest"),
            ("Registry.example/app:1", "Registry.example/app:1"),
        ] {
            assert_eq!(written.parse::<ImageTag>().unwrap().to_string(), full, "{written}");
        }
    }

    #[test]
    fn a_wrong_tag_is_answered_with_the_cure() {
        assert!(error("latest").contains("no repository"), "{}", error("latest"));
        assert!(error(":v1").contains("no repository"));
        assert!(error("localhost:5002/").contains("no repository"));
        assert!(
            error("localhost:5002/App:v1").contains("localhost:5002/app:v1"),
            "{}",
            error("localhost:5002/App:v1")
        );
        assert!(error("App").contains("\"app\""), "{}", error("App"));
        assert!(error("https://localhost:5002/app").contains("scheme"));
        assert!(error("localhost:5002/app@sha256:00").contains("digest"));
        assert!(error("localhost:5002/a b").contains("REGISTRY/REPO:TAG"));
        assert!(error("localhost:99999/app:1").contains("no port"));
        assert!(error("localhost:5002/app:").contains("REGISTRY/REPO:TAG"));
    }
}
