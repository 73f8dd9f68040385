//! `[keys]`: where the farm's keys are, by which secrets are sealed.

use std::path::PathBuf;

use serde::Deserialize;

/// Where the farm's keys are.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keys {
    /// A file; `None`: `keys` in the state folder.
    pub file: Option<PathBuf>,
}
