//! `[registries."HOST"]`: how a registry is reached.

use std::path::PathBuf;

use farm_types::{Invalid, RegistryHost};
use secrecy::SecretString;
use serde::Deserialize;

use crate::outbound::Place;

/// How a registry is reached.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Registry {
    /// User name; empty: anonymous.
    pub username: String,
    /// Password; or leave it out and name a file.
    pub password: SecretString,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// No TLS. Registries on this machine's loopback have none unless this says `false`.
    pub plain_http: Option<bool>,
    /// File with the certificates (PEM) of the registry's own CA.
    pub ca_file: Option<PathBuf>,
    /// Hosts, with their port, whose token service may get the login, besides the registry's own host and those above it.
    pub realms: Vec<Place>,
}

impl Registry {
    /// With the password that its file holds, if it names one.
    pub(super) fn with_password_read(mut self, host: &str) -> Result<Self, Invalid> {
        if let Some(file) = &self.password_file {
            let read = std::fs::read_to_string(file).map_err(|e| {
                Invalid::new("password file", file.display().to_string(), format!("{e} (registry {host})"))
            })?;
            self.password = read.trim_end().into();
        }
        Ok(self)
    }
}

/// The registry's host and port, as references name it.
pub(super) fn host(written: &str) -> Result<String, Invalid> {
    let host = RegistryHost::of_login(written).and_then(|host| host.check().map(|()| host.to_string()));
    host.map_err(|_| {
        let cure = "name the host and port only, for example localhost:5002";
        Invalid::new("registry", written, cure)
    })
}
