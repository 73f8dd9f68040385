//! Which stages of a Dockerfile the image for one platform is made of.
//!
//! BuildKit builds only what the target needs, but some versions and `--check` also warn about stages that it doesn't:
//! `FROM final_$TARGETARCH` leaves one of two out for each platform. Whether a warning matters depends on that.

use crate::Dockerfile;
use crate::build::{self, Build};

/// The stages of a Dockerfile, by what they are used for.
#[derive(Debug, Default)]
pub struct Stages(Vec<(u32, u32, bool)>);

impl Stages {
    /// Finds out; `None` when it can't be told what is used.
    pub fn of(file: &Dockerfile, build: &Build<'_>) -> Option<Self> {
        let stages = build::stages(file, build)?;
        Some(Self(stages.into_iter().map(|stage| (stage.first, stage.last, stage.is_used)).collect()))
    }

    /// Whether a line (from 1) belongs to a stage that the image doesn't need.
    pub fn is_unused(&self, line: u32) -> bool {
        self.0.iter().any(|(first, last, is_used)| !is_used && (first..=last).contains(&&line))
    }
}

#[cfg(test)]
#[path = "stages_tests.rs"]
mod tests;
