//! Copies: an image that is there already gets other tags, in its registry or in others.
//!
//! A copy is a build of its own purpose: it has its place in the order of intentions, deadline, cancel, retry and history as all builds
//! have. No worker takes part: it is published at once, as what its source is when the farm first looks there.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Invalid;
use crate::image::{ImageRef, ImageTag};
use crate::platform::Platform;

/// What is copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopySpec {
    /// The image.
    pub from: ImageRef,
    /// What people call it.
    #[serde(default)]
    pub verb: CopyVerb,
    /// Of an index these platforms only, with their attestations; none: the image as it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<Platform>,
}

/// What people call a copy. All of them do the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyVerb {
    /// Somewhere else.
    #[default]
    Copy,
    /// To where it is used.
    Promote,
    /// From where it is made to where it is built upon.
    Mirror,
    /// Another tag of it.
    Tag,
    /// A tag goes back to what it was.
    Rollback,
}

impl CopyVerb {
    /// All.
    pub const ALL: [Self; 5] = [Self::Copy, Self::Promote, Self::Mirror, Self::Tag, Self::Rollback];

    /// The word for it, everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Promote => "promote",
            Self::Mirror => "mirror",
            Self::Tag => "tag",
            Self::Rollback => "rollback",
        }
    }

    /// What is said of one that has succeeded: "copied", "promoted", "mirrored", "tagged", "rolled back".
    pub fn done(self) -> &'static str {
        match self {
            Self::Copy => "copied",
            Self::Promote => "promoted",
            Self::Mirror => "mirrored",
            Self::Tag => "tagged",
            Self::Rollback => "rolled back",
        }
    }
}

impl fmt::Display for CopyVerb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for CopyVerb {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let found = Self::ALL.into_iter().find(|verb| verb.as_str() == text);
        found.ok_or_else(|| {
            Invalid::new("copy", text, format!("there are {}", Self::ALL.map(Self::as_str).join(", ")))
        })
    }
}

/// The tag of its own that one platform's image of a mirror gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PerArch {
    /// What stands behind the mirror's tag: `amd64`, `arm-v7`.
    pub suffix: String,
    /// The image, where the mirror is.
    pub from: ImageRef,
    /// Its tag.
    pub to: ImageTag,
}

/// Which tags the platforms of an image under this tag get, by each one's platform and digest. What has no platform of farm's gets none,
/// and of two of one platform the first has the tag, as whoever pulls takes that.
///
/// # Errors
/// A digest is none.
pub fn per_arch_tags<'a>(
    variants: impl Iterator<Item = (&'a str, &'a str)>,
    tag: &ImageTag,
) -> Result<Vec<PerArch>, Invalid> {
    let mut wanted: Vec<PerArch> = Vec::new();
    for (platform, digest) in variants {
        let Ok(platform) = platform.parse::<Platform>() else { continue };
        let suffix = platform.slug().trim_start_matches("linux-").to_owned();
        if wanted.iter().any(|other| other.suffix == suffix) {
            continue;
        }
        let from = ImageRef { repository: tag.repository.clone(), tag: None, digest: Some(digest.parse()?) };
        let to = format!("{tag}-{suffix}").parse()?;
        wanted.push(PerArch { suffix, from, to });
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_platform_has_one_tag_and_what_is_no_platform_none() {
        let digests: Vec<String> = (0..6_u8).map(|n| crate::Digest::of(&[n]).to_string()).collect();
        let platforms = ["linux/amd64", "linux/arm64", "linux/arm/v7", "windows/amd64", "", "linux/amd64"];
        let variants = platforms.into_iter().zip(digests.iter().map(String::as_str));
        let wanted = per_arch_tags(variants, &"r.example/python:3.11".parse().unwrap()).unwrap();
        let shown: Vec<String> = wanted.iter().map(|one| format!("{} {}", one.from, one.to)).collect();
        let expected = [(0, "amd64"), (1, "arm64"), (2, "arm-v7")]
            .map(|(n, suffix)| format!("r.example/python@{} r.example/python:3.11-{suffix}", digests[n]));
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_copy_is_read_back_as_it_was_written() {
        for verb in CopyVerb::ALL {
            for platforms in [vec![], vec!["linux/arm/v7".parse().unwrap()]] {
                let spec = CopySpec { from: "r.example/app:1".parse().unwrap(), verb, platforms };
                let text = serde_json::to_string(&spec).unwrap();
                assert_eq!(serde_json::from_str::<CopySpec>(&text).unwrap(), spec, "{text}");
            }
            assert_eq!(verb.as_str().parse::<CopyVerb>().unwrap(), verb);
        }
        assert!("move".parse::<CopyVerb>().is_err());
    }
}
