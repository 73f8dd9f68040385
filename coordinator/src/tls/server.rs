//! This coordinator's side of TLS, and whom it believes when it calls others.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use farm_client::{Fingerprint, Plaintext, Security, Trust, to_pem};
use rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

use super::authority::{Authority, Purpose};
use super::clients::HasKey;
use super::held::Held;
use crate::config::Config;

/// How often it is looked whether another certificate has to be shown.
const LOOK: Duration = Duration::from_secs(5);

/// How one listener speaks TLS.
#[derive(Debug)]
pub struct Side {
    pub(super) held: Arc<Held>,
    pub(super) config: Arc<ServerConfig>,
    /// Who speaks no TLS is served, too: nobody but this machine reaches the address.
    pub(super) is_optional: bool,
}

/// This coordinator's side of TLS.
#[derive(Debug)]
pub struct Tls {
    held: Arc<Held>,
    calls: Arc<Side>,
    /// What makes workers' certificates.
    pub workers: Authority,
}

impl Tls {
    /// As the configuration says; `None`: without.
    ///
    /// # Errors
    /// A certificate or key can't be read, made or used.
    pub fn open(config: &Config) -> anyhow::Result<Option<Arc<Self>>> {
        if !config.offers_tls() {
            return Ok(None);
        }
        let held = Arc::new(Held::open(config)?);
        let folder = config.state_dir.join("tls").join("workers");
        let workers = Authority::open(&folder, Purpose::Workers)
            .with_context(|| format!("the CA for workers in {} can't be used", folder.display()))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(HasKey(provider)))
            .with_cert_resolver(held.clone());
        tls.alpn_protocols.push(b"h2".to_vec());
        let is_optional = !config.speaks_tls();
        let calls = Arc::new(Side { held: Arc::clone(&held), config: Arc::new(tls), is_optional });
        Ok(Some(Arc::new(Self { held, calls, workers })))
    }

    /// Where the farm is called.
    pub fn calls(&self) -> Arc<Side> {
        Arc::clone(&self.calls)
    }

    /// Where forges deliver and pages are shown: by HTTP/1.1, which all of them and all proxies speak; nobody is asked for a
    /// certificate.
    ///
    /// # Errors
    /// The TLS library takes none of the usual versions: a bug.
    pub fn http1(&self, is_optional: bool) -> anyhow::Result<Arc<Side>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.held.clone());
        tls.alpn_protocols.push(b"http/1.1".to_vec());
        Ok(Arc::new(Side { held: Arc::clone(&self.held), config: Arc::new(tls), is_optional }))
    }

    /// The CA that clients have to trust, and the file it is in.
    pub fn authority(&self) -> Option<(Fingerprint, PathBuf)> {
        self.held.authority()
    }

    /// What the farm's own CA is known by; `None`: its certificate is of another PKI.
    pub fn own_authority(&self) -> Option<Fingerprint> {
        self.held.own().map(|der| Fingerprint::of(der))
    }

    /// Shows another certificate when its time has come or its files have changed, until `shutdown`.
    pub async fn keep(self: Arc<Self>, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = shutdown.cancelled() => return,
            }
            let held = Arc::clone(&self.held);
            // A folder may hang.
            let _ = tokio::task::spawn_blocking(move || held.look()).await;
        }
    }
}

/// What connections to the farm's other coordinators have to be.
///
/// # Errors
/// The CA's file can't be taken.
pub fn of_peers(config: &Config, tls: Option<&Tls>) -> anyhow::Result<Security> {
    let trust = match (&config.tls.ca, tls.and_then(|tls| tls.held.own())) {
        (Some(file), _) => Trust::from_file(file).context("tls.ca")?,
        (None, Some(own)) => Trust::from_pem(&to_pem(own), "the farm's own CA")?,
        (None, None) => Trust::System,
    };
    // Where it serves other machines without TLS it calls them so, too.
    let plaintext = if config.tls.insecure_plaintext { Plaintext::Anywhere } else { Plaintext::Loopback };
    Ok(Security { trust, plaintext, ..Security::default() })
}
