//! `[audit]`: where the heads of the audit's chain go besides the log.

use std::path::PathBuf;

use farm_types::Invalid;
use serde::Deserialize;

/// Where heads go.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// Each head is appended to this file; `None`: they stand in the log only.
    pub head_file: Option<PathBuf>,
}

impl Audit {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        match &self.head_file {
            Some(path) if !path.is_absolute() || path.file_name().is_none() => Err(Invalid::new(
                "audit.head_file",
                path.display().to_string(),
                "write the whole path of a file, best on another machine's disk; it is made when it isn't there",
            )),
            _ => Ok(()),
        }
    }
}
