//! The name of a `--build-context`, in the one form by which an engine looks for it.
//!
//! As buildx and BuildKit have it (`buildflags/context.go`, `dockerui/config.go`): a name is read as an image's, written as
//! short as people write it, and `:latest` at its end is left out. So `golden`, `golden:latest` and
//! `docker.io/library/golden` are one name.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::Invalid;
use crate::reference;

/// A name that `FROM` or `--from` has, or would have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextName(String);

impl ContextName {
    /// The name, as short as it gets.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContextName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        // A stage's name may have capitals, which don't count there; an image's tag may, and they do.
        let small = text.to_ascii_lowercase();
        let text = if text.contains(['/', ':', '@']) { text } else { small.as_str() };
        let (named, digest) =
            text.split_once('@').map_or((text, None), |(named, digest)| (named, Some(digest)));
        let is_digest = |digest: &str| digest.parse::<Digest>().is_ok();
        if reference::parse(named).is_err() || !digest.is_none_or(is_digest) {
            let cure = "write the name of a stage or of an image, like base or registry.example/team/base:1";
            return Err(Invalid::new("--build-context", text, cure));
        }
        let path =
            ["docker.io/", "index.docker.io/"].iter().find_map(|registry| named.strip_prefix(registry));
        let path = path.unwrap_or(named);
        let short = path.strip_prefix("library/").filter(|rest| !rest.contains('/')).unwrap_or(path);
        Ok(Self(match digest {
            Some(digest) => format!("{short}@{digest}"),
            None => short.strip_suffix(":latest").unwrap_or(short).to_owned(),
        }))
    }
}

impl fmt::Display for ContextName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_image_are_one_name() {
        let digest = Digest::of(b"");
        for (text, name) in [
            ("golden", "golden"),
            ("Golden", "golden"),
            ("golden:latest", "golden"),
            ("library/golden", "golden"),
            ("docker.io/library/golden", "golden"),
            ("index.docker.io/library/golden:latest", "golden"),
            ("docker.io/team/golden:latest", "team/golden"),
            ("docker.io/library/team/golden", "library/team/golden"),
            ("golden:v1", "golden:v1"),
            ("golden:V1", "golden:V1"),
            ("localhost:5002/app:latest", "localhost:5002/app"),
            ("localhost/library/app", "localhost/library/app"),
            ("latest", "latest"),
        ] {
            assert_eq!(text.parse::<ContextName>().unwrap().as_str(), name, "{text}");
        }
        let pinned = format!("golden:latest@{digest}");
        assert_eq!(format!("library/{pinned}").parse::<ContextName>().unwrap().as_str(), pinned);
    }

    #[test]
    fn what_names_no_image_is_no_name() {
        for text in ["", "a b", "a..b", "Team/Golden", "golden@sha256:1", "golden::linux/amd64", "é"] {
            assert!(text.parse::<ContextName>().is_err(), "{text}");
        }
    }
}
