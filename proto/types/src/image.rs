//! Image names: where an index is published.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::Invalid;
use crate::host::RegistryHost;
use crate::reference::{self, Reference};

/// A repository in a registry, as `registry/repository`, with Docker's default registry filled in
/// (`app` is `docker.io/library/app`) and the host in small letters: one text for each.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Repository {
    registry: RegistryHost,
    name: String,
}

impl Repository {
    /// The registry's host and port, for example `localhost:5002`.
    pub fn registry(&self) -> &str {
        self.registry.as_str()
    }

    /// The same, as what it is.
    pub fn host(&self) -> &RegistryHost {
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
            Ok(Reference { registry, repository: name, tag: None }) => Ok(Self { registry, name }),
            Ok(_) => Err(Invalid::new("repository", text, "leave the tag out; write REGISTRY/REPO")),
            Err(cure) => Err(Invalid::new("repository", text, cure)),
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
        let invalid = |cure: String| Invalid::new("tag", text, cure);
        if text.contains('@') && !text.contains("://") {
            return Err(invalid("a tag can't hold a digest; write REGISTRY/REPO:TAG".to_owned()));
        }
        // Docker would take it for a repository, and push that to its own registry.
        if text == "latest" {
            return Err(invalid(
                "it has no repository; write REGISTRY/REPO:TAG, for example localhost:5002/app:latest"
                    .to_owned(),
            ));
        }
        let Reference { registry, repository: name, tag } = reference::parse(text).map_err(invalid)?;
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
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

impl TryFrom<String> for ImageRef {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<ImageRef> for String {
    fn from(image: ImageRef) -> Self {
        image.to_string()
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
            ("Registry.example/app:1", "registry.example/app:1"),
            ("LOCALHOST:5002/x:1", "localhost:5002/x:1"),
            ("LOCALHOST/x", "localhost/x:latest"),
            ("[::1]:5002/x", "[::1]:5002/x:latest"),
            ("[FD00::7]/a/b:1", "[fd00::7]/a/b:1"),
            ("10.0.0.7:5000/x", "10.0.0.7:5000/x:latest"),
            ("index.docker.io/app", "docker.io/library/app:latest"),
            ("Index.Docker.IO/a/b", "docker.io/a/b:latest"),
            ("docker.io/app:1", "docker.io/library/app:1"),
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
        assert!(error("localhost:x/app:1").contains("no port"));
        assert!(error("::1/app:1").contains("in brackets"), "{}", error("::1/app:1"));
        assert!(
            error("Team/app").contains("write \"team/app\"; if Team is a registry"),
            "{}",
            error("Team/app")
        );
        assert!(error("").contains("no repository"));
        assert!(error("localhost:5002/app:").contains("REGISTRY/REPO:TAG"));
    }
}
