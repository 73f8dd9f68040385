//! Image names: where an index is published.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Invalid;
use crate::reference::{self, Reference};

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
        match reference::parse(text) {
            Some(Reference { registry, repository: name, .. }) => Ok(Self { registry, name }),
            None => {
                Err(Invalid::new("repository", text, "write REGISTRY/REPO, for example localhost:5002/app"))
            }
        }
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
        let Some(Reference { registry, repository: name, tag }) = reference::parse(text) else {
            return invalid("write REGISTRY/REPO:TAG, for example localhost:5002/app:latest");
        };
        let tag = tag.unwrap_or_else(|| "latest".to_owned());
        Ok(Self { repository: Repository { registry, name }, tag })
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

/// An image as it is asked for: a tag or a digest in a repository. Without either it is the tag `latest`; with both the
/// digest counts, as with Docker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImageRef {
    /// Where it is.
    pub repository: Repository,
    /// The tag, if one was written or nothing was.
    pub tag: Option<String>,
    /// The digest, if one was written.
    pub digest: Option<Digest>,
}

impl ImageRef {
    /// What the registry is asked for: the digest, or else the tag.
    pub fn at(&self) -> String {
        let tag = || self.tag.clone().unwrap_or_default();
        self.digest.map_or_else(tag, |digest| digest.to_string())
    }
}

impl FromStr for ImageRef {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let digest = digest.parse().map_err(|_| {
                    let cure = "what follows the @ is no digest; write sha256: and 64 hexadecimal digits";
                    Invalid::new("image", text, cure)
                })?;
                (name, Some(digest))
            }
            None => (text, None),
        };
        let tag: ImageTag = name.parse().map_err(|e: Invalid| Invalid::new("image", text, e.cure))?;
        let last = name.rsplit_once('/').map_or(name, |(_, last)| last);
        let is_written = last.contains(':') || digest.is_none();
        Ok(Self { repository: tag.repository, tag: is_written.then_some(tag.tag), digest })
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.iter().try_for_each(|digest| write!(f, "@{digest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_a_tag_or_a_digest_in_a_repository() {
        let digest = Digest::of(b"x");
        for (written, full, at) in [
            ("localhost:5002/app".to_owned(), "localhost:5002/app:latest".to_owned(), "latest".to_owned()),
            ("r.example/a/b:1".to_owned(), "r.example/a/b:1".to_owned(), "1".to_owned()),
            (format!("python@{digest}"), format!("docker.io/library/python@{digest}"), digest.to_string()),
            (format!("r.example/b:1@{digest}"), format!("r.example/b:1@{digest}"), digest.to_string()),
        ] {
            let image: ImageRef = written.parse().unwrap();
            assert_eq!((image.to_string(), image.at()), (full, at), "{written}");
        }
        let error = |text: &str| text.parse::<ImageRef>().unwrap_err().to_string();
        assert!(
            error("r.example/a@sha256:12").contains("64 hexadecimal"),
            "{}",
            error("r.example/a@sha256:12")
        );
        assert!(
            error("https://r.example/a").starts_with("image \"https"),
            "{}",
            error("https://r.example/a")
        );
    }

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
