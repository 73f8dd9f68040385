//! What the coordinator asks of the outside: the one HTTP client.
//!
//! Users name registries, registries name token services and places where blobs lie: so anybody could have the coordinator ask
//! whatever it can reach. Therefore: only public addresses, and what the configuration names ([`rules`]). A host's addresses
//! are judged where they are dialled, by the resolver of the client itself, so nobody can answer differently in between. Every
//! redirect is judged anew, and a login goes to the place only that it was made for. Bodies are bounded ([`body`]).
//!
//! Invariant: no other client is made in the coordinator (`clippy.toml` refuses it). What comes next (issuers, forges) takes a
//! [`Client`] from [`Outbound::client`].

pub mod address;
pub mod body;
mod client;
mod dial;
mod rules;

use std::fmt;
use std::sync::Arc;

use reqwest::Certificate;
use reqwest::dns::Resolve;

pub use self::client::{Client, Failed};
use self::dial::System;
pub use self::rules::{Allowed, Place, Refused, Rules, Why, place};
pub use reqwest::{Method, RequestBuilder, Response, Url};

/// What judges, and what clients are made with.
#[derive(Clone)]
pub struct Outbound {
    rules: Arc<Rules>,
    resolver: Arc<dyn Resolve>,
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Outbound {
    /// Asks the system for addresses.
    pub fn new(rules: Rules) -> Self {
        Self { rules: Arc::new(rules), resolver: Arc::new(System) }
    }

    /// Asks somebody else.
    #[cfg(test)]
    pub(crate) fn with_resolver(rules: Rules, resolver: Arc<dyn Resolve>) -> Self {
        Self { rules: Arc::new(rules), resolver }
    }

    /// A client that trusts these certificates besides the public ones.
    ///
    /// # Errors
    /// One of them can't be taken.
    pub fn client(&self, roots: Vec<Certificate>) -> Result<Client, reqwest::Error> {
        Client::new(Arc::clone(&self.rules), Arc::clone(&self.resolver), roots)
    }
}

/// The hosts of the proxies that the environment names; the client goes through them.
pub fn proxies() -> Vec<String> {
    let host = |name: &str| {
        let written = std::env::var(name).or_else(|_| std::env::var(name.to_ascii_lowercase())).ok()?;
        let url = if written.contains("://") { written } else { format!("http://{written}") };
        Some(reqwest::Url::parse(&url).ok()?.host_str()?.to_owned())
    };
    ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"].into_iter().filter_map(host).collect()
}

#[cfg(test)]
pub(crate) mod tests;
