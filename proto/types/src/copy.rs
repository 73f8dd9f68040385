//! Copies: an image that is there already gets other tags, in its registry or in others.
//!
//! A copy is a build of its own purpose: it has its place in the order of intentions, deadline, cancel, retry and history as all builds
//! have. No worker takes part: it is published at once, as what its source is when the farm first looks there.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Invalid;
use crate::image::ImageRef;

/// What is copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopySpec {
    /// The image: with all its platforms and attestations.
    pub from: ImageRef,
    /// What people call it.
    #[serde(default)]
    pub verb: CopyVerb,
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
    /// Another tag of it.
    Tag,
    /// A tag goes back to what it was.
    Rollback,
}

impl CopyVerb {
    /// All.
    pub const ALL: [Self; 4] = [Self::Copy, Self::Promote, Self::Tag, Self::Rollback];

    /// The word for it, everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Promote => "promote",
            Self::Tag => "tag",
            Self::Rollback => "rollback",
        }
    }

    /// What is said of one that has succeeded: "copied", "promoted", "tagged", "rolled back".
    pub fn done(self) -> &'static str {
        match self {
            Self::Copy => "copied",
            Self::Promote => "promoted",
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
            let spec = CopySpec { from: "r.example/app:1".parse().unwrap(), verb };
            let text = serde_json::to_string(&spec).unwrap();
            assert_eq!(serde_json::from_str::<CopySpec>(&text).unwrap(), spec, "{text}");
            assert_eq!(verb.as_str().parse::<CopyVerb>().unwrap(), verb);
        }
        assert!("move".parse::<CopyVerb>().is_err());
    }
}
