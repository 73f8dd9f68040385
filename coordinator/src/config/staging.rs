//! `[staging]`: the registry to which what untrusted machines build is pushed first.

use std::path::PathBuf;

use farm_types::Invalid;
use serde::Deserialize;

use super::registry;

/// The staging registry. How it is reached (`plain_http`, `ca_file`) says `[registries."HOST"]`, as of any registry.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Staging {
    /// Its host and port; `None`: there is none, and untrusted machines get only what pushes nowhere.
    pub registry: Option<String>,
    /// The folder with the key by which its tokens are signed; `None`: `staging` in the state folder.
    pub folder: Option<PathBuf>,
}

impl Staging {
    /// Brings its host into the form in which references name it.
    pub(super) fn complete(&mut self) -> Result<(), Invalid> {
        self.registry = self.registry.take().filter(|written| !written.is_empty());
        self.registry = self.registry.as_deref().map(registry::host).transpose()?;
        Ok(())
    }
}
