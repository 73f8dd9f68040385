//! Why something failed, typed by what follows from it.

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

/// A failure, with all that helps a person to mend it. No secret, and no build argument's value, is ever in
/// one of its texts but those that the user's own commands printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What follows from it.
    pub cause: Cause,
    /// A stable word for machines, for example `run_failed` or `base_image_missing`; `docs/` lists them.
    pub code: String,
    /// One sentence for a person: the thing, the value, the cure.
    pub message: String,
    /// The step that failed, as BuildKit names it: `[stage 3/5] RUN …`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The exit code of the step's command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The lines of the Dockerfile that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceExcerpt>,
    /// The step's last output, at most 20 lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<String>,
}

impl Failure {
    /// A failure with neither step nor source.
    pub fn new(cause: Cause, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            cause,
            code: code.into(),
            message: message.into(),
            step: None,
            exit_code: None,
            source: None,
            log_tail: Vec::new(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Some lines of a Dockerfile, two around those that are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceExcerpt {
    /// The file's name as it was submitted.
    pub file: String,
    /// The number of the first line in `lines`, from 1.
    pub first_line: u32,
    /// The lines.
    pub lines: Vec<String>,
    /// The lines that are meant: from and to, both included, numbered as `first_line` is.
    pub marked: (u32, u32),
}
