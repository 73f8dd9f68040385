//! Who answers a client where a host is: the system, and whoever judges what the system says.

use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::rules::{Refused, Rules};

/// The system's resolver.
pub struct System;

impl Resolve for System {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let found: Addrs = Box::new(found.into_iter());
            Ok(found)
        })
    }
}

/// Answers what may be dialled, or not at all: one address that may not spoils the others, as a name that has both is no
/// registry's.
pub struct Judge {
    pub rules: Arc<Rules>,
    pub inner: Arc<dyn Resolve>,
}

impl Resolve for Judge {
    fn resolve(&self, name: Name) -> Resolving {
        let rules = Arc::clone(&self.rules);
        let place = name.as_str().to_owned();
        let resolving = self.inner.resolve(name);
        Box::pin(async move {
            let found: Vec<_> = resolving.await?.collect();
            // The proxy is dialled for those who go through it; whoever asks for it as a registry was refused before.
            if !rules.proxies.contains(&place) {
                for address in &found {
                    let judged = rules.of_address(address.ip());
                    judged.map_err(|why| Refused { place: place.clone(), why })?;
                }
            }
            let found: Addrs = Box::new(found.into_iter());
            Ok(found)
        })
    }
}
