//! What follows from a failure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Invalid;

/// What a failure leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// The request can't succeed as it is (a broken Dockerfile, a failing RUN, a refused credential): not
    /// tried again.
    User,
    /// The request may succeed elsewhere or later (engine died, registry 5xx, network): tried again.
    Infrastructure,
    /// A RUN was killed (exit code 137) without anybody cancelling: tried once more, on another worker.
    Killed,
    /// It took longer than it was allowed to.
    Deadline,
    /// farm itself did something wrong: not tried again, and worth a report.
    Bug,
}

impl Cause {
    /// The cause's one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Infrastructure => "infrastructure",
            Self::Killed => "killed",
            Self::Deadline => "deadline",
            Self::Bug => "bug",
        }
    }
}

impl FromStr for Cause {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        [Self::User, Self::Infrastructure, Self::Killed, Self::Deadline, Self::Bug]
            .into_iter()
            .find(|cause| cause.as_str() == text)
            .ok_or_else(|| Invalid::new("cause", text, "no such cause"))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
