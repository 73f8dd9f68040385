//! Why something failed: what follows from it, its code, and what helps a person to mend it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::cause::Cause;
use crate::failure_code::FailureCode;

/// A failure, with all that helps a person to mend it. No secret, and no build argument's value, is ever in
/// one of its texts but those that the user's own commands printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What follows from it.
    pub cause: Cause,
    /// A stable word for machines.
    pub code: FailureCode,
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
    pub fn new(cause: Cause, code: FailureCode, message: impl Into<String>) -> Self {
        Self {
            cause,
            code,
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
