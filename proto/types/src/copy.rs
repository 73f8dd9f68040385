//! Copies: an image that is there already gets other tags, in its registry or in others.
//!
//! A copy is a build of its own purpose: it has its place in the order of intentions, deadline, cancel, retry and history as all builds
//! have. No worker takes part: it is published at once, as what its source is when the farm first looks there.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Invalid;
use crate::image::ImageRef;
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

#[cfg(test)]
mod tests {
    use super::*;

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
