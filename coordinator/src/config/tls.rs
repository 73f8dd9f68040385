//! `[tls]`: whether connections are encrypted, and by which certificates.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use farm_types::Invalid;
use rustls::pki_types::ServerName;
use serde::Deserialize;

/// When there is TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// Where other machines reach the address, or a certificate was named.
    #[default]
    Auto,
    On,
    Off,
    /// For this machine only: by the farm's own CA, and without TLS beside it, whatever certificates were named.
    Local,
}

/// Certificates, and whether there is TLS at all.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    pub mode: TlsMode,
    /// Somebody has said that an address which other machines reach may do without.
    pub insecure_plaintext: bool,
    /// Further names for the certificate that the farm's own CA makes.
    pub names: Vec<String>,
    /// A certificate of one's own CA and what leads to that, PEM; then the farm makes none.
    pub certificate: Option<PathBuf>,
    /// Its key, PEM.
    pub key: Option<PathBuf>,
    /// The CA by which other coordinators are believed.
    pub ca: Option<PathBuf>,
}

impl Tls {
    /// Whether there is TLS where this is listened on.
    pub(super) fn is_on(&self, listen: IpAddr) -> bool {
        match self.mode {
            TlsMode::On => true,
            TlsMode::Off | TlsMode::Local => false,
            TlsMode::Auto => !listen.is_loopback() || self.certificate.is_some(),
        }
    }

    pub(super) fn check(&self, listen: SocketAddr) -> Result<(), Invalid> {
        if self.mode == TlsMode::Off && !listen.ip().is_loopback() && !self.insecure_plaintext {
            let cure = format!(
                "on {listen} other machines are served, and whoever is between would see tokens, sources and registry \
                 passwords: leave it out, and the farm makes its own CA; or listen on 127.0.0.1 behind a proxy; or give \
                 --insecure-plaintext as well, if that network is nobody else's"
            );
            return Err(Invalid::new("--tls", "off", cure));
        }
        if self.mode == TlsMode::Local && !listen.ip().is_loopback() {
            let cure =
                format!("{listen} is reached by other machines, too: listen on 127.0.0.1, or leave it out");
            return Err(Invalid::new("--tls", "local", cure));
        }
        if self.insecure_plaintext && self.mode != TlsMode::Off {
            let cure = "it goes with --tls off; without that there is TLS, and nothing is insecure";
            return Err(Invalid::new("--insecure-plaintext", "true", cure));
        }
        match (&self.certificate, &self.key) {
            (Some(file), None) => {
                let cure = "name its key as well, as `key` in [tls]";
                return Err(Invalid::new("tls.certificate", file.display().to_string(), cure));
            }
            (None, Some(file)) => {
                let cure = "name its certificate as well, as `certificate` in [tls]";
                return Err(Invalid::new("tls.key", file.display().to_string(), cure));
            }
            _ => {}
        }
        if let (Some(first), Some(_)) = (self.names.first(), &self.certificate) {
            let cure = "names are for the farm's own CA; those of your certificate stand in it already";
            return Err(Invalid::new("tls.names", first.clone(), cure));
        }
        match self.names.iter().find(|name| !is_name(name)) {
            Some(name) => {
                Err(Invalid::new("tls.names", name.clone(), "write a host name or an IP address each"))
            }
            None => Ok(()),
        }
    }
}

/// Whether a certificate can bear it: a host name, `*.` in front allowed, or an IP address.
pub(super) fn is_name(name: &str) -> bool {
    ServerName::try_from(name.strip_prefix("*.").unwrap_or(name)).is_ok()
}
