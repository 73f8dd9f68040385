//! Machines that work for a farm.

use std::fmt;
use std::str::FromStr;

use crate::error::Invalid;
use crate::suggest::nearest;

/// How far a machine is trusted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrustClass {
    /// It is lent what a job needs, and pushes where the job says.
    #[default]
    Trusted,
    /// It gets nothing that could be used elsewhere: only jobs that push nowhere, and no registry's login.
    Untrusted,
}

impl TrustClass {
    /// All.
    pub const ALL: [Self; 2] = [Self::Trusted, Self::Untrusted];

    /// The word for it, everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::Untrusted => "untrusted",
        }
    }
}

impl fmt::Display for TrustClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TrustClass {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|class| class.as_str() == text).ok_or_else(|| {
            let words = Self::ALL.map(Self::as_str);
            let meant = nearest(text, words).map(|near| format!("did you mean {near}? ")).unwrap_or_default();
            Invalid::new("trust", text, format!("{meant}there are {}", words.join(" and ")))
        })
    }
}
