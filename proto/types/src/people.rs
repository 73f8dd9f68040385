//! Who uses a farm: principals and their roles in projects.

use std::fmt;
use std::str::FromStr;

use crate::error::Invalid;
use crate::suggest::nearest;

/// What a member of a project may do there; each role may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Sees builds, their logs and images.
    Viewer,
    /// Submits, cancels and retries builds.
    Builder,
    /// Moves protected tags.
    Publisher,
    /// Gives roles and tokens, and changes the project's settings.
    Admin,
}

impl Role {
    /// All, the least first.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Builder, Self::Publisher, Self::Admin];

    /// The word for it, everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Builder => "builder",
            Self::Publisher => "publisher",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| {
            let words = Self::ALL.map(Self::as_str);
            let meant = nearest(text, words).map(|near| format!("did you mean {near}? ")).unwrap_or_default();
            Invalid::new("role", text, format!("{meant}there are {}", words.join(", ")))
        })
    }
}
