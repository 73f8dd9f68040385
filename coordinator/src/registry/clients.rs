//! The clients of registries: one for each that is configured, which trusts that one's CA, and one for all others.

use std::collections::BTreeMap;

use farm_types::{Invalid, RegistryHost, Repository};
use reqwest::{Certificate, Url};

use super::Registries;
use super::error::{Role, refused};
use crate::config::Registry;
use crate::outbound::{Client, Outbound};

/// A client for a registry, with its own CA if it has one.
///
/// # Errors
/// The CA's file can't be read.
pub(super) fn client(outbound: &Outbound, host: &str, known: &Registry) -> Result<Client, Invalid> {
    let roots = match &known.ca_file {
        None => Vec::new(),
        Some(file) => {
            let invalid = |why: String| Invalid::new("CA file", file.display().to_string(), why);
            let data = std::fs::read(file).map_err(|e| invalid(e.to_string()))?;
            Certificate::from_pem_bundle(&data).map_err(|e| invalid(e.to_string()))?
        }
    };
    outbound
        .client(roots)
        .map_err(|e| Invalid::new("registry", host, format!("its client can't be made: {e}")))
}

/// Where Docker Hub answers, and where its answers lead: engines ask it there, too.
pub(super) const HUB_AT: &str = "registry-1.docker.io";

impl Registries {
    pub(super) fn client(&self, repository: &Repository) -> &Client {
        self.clients.get(repository.registry()).unwrap_or(&self.others)
    }

    /// Registries on this machine's loopback are taken for plain HTTP, as Docker does, unless configured.
    pub(super) fn plain_http(&self, host: &str) -> bool {
        let local = host.parse().is_ok_and(|host: RegistryHost| host.is_loopback());
        self.known.get(host).and_then(|registry| registry.plain_http).unwrap_or(local)
    }

    /// Where a registry answers: `path` is what stands behind `/v2/`.
    pub(super) fn url(&self, host: &str, path: &str) -> String {
        let scheme = if self.plain_http(host) { "http" } else { "https" };
        // What people write for Docker Hub is not where it answers; and where it has uploads go on is this host of its two, with which a
        // login goes to no other.
        let answers_at = if host == "docker.io" { HUB_AT } else { host };
        format!("{scheme}://{answers_at}/v2/{path}")
    }

    /// Refuses repositories whose registry farm would not ask: before anything is built for them, and not only when it is to
    /// be published. Names are looked up here, and their addresses judged again when they are dialled.
    ///
    /// # Errors
    /// One of the registries is at an address that isn't public, and the configuration doesn't name it.
    pub async fn allow(&self, repositories: &[Repository]) -> Result<(), Invalid> {
        let unknown =
            repositories.iter().filter(|repository| !self.known.contains_key(repository.registry()));
        let by_host: BTreeMap<&str, &Repository> = unknown.map(|r| (r.registry(), r)).collect();
        let looks = by_host.into_iter().map(async |(host, repository)| {
            let Ok(url) = Url::parse(&self.url(host, "")) else { return Ok(()) };
            self.others.look(&url).await.map_err(|place| {
                let why = refused(repository, &place, Role::Itself);
                Invalid::new("tag", repository.to_string(), why)
            })
        });
        futures::future::try_join_all(looks).await.map(drop)
    }
}
