//! `[hooks]`: where forges deliver.

use std::net::SocketAddr;

use farm_types::Invalid;
use serde::Deserialize;

/// Where forges deliver.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hooks {
    /// Where this coordinator listens for them; `None`: it doesn't.
    pub listen: Option<SocketAddr>,
    /// How they reach the farm, if a proxy or another name is between.
    pub url: Option<String>,
}

impl Hooks {
    pub(super) fn check(&self, calls: SocketAddr) -> Result<(), Invalid> {
        if let Some(listen) = self.listen.filter(|listen| *listen == calls && listen.port() != 0) {
            let cure = "users and workers are served there; give hooks another port";
            return Err(Invalid::new("hooks.listen", listen.to_string(), cure));
        }
        let Some(url) = &self.url else { return Ok(()) };
        let uri: Option<http::Uri> = url.parse().ok();
        let is_fit = uri.is_some_and(|uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.query().is_none()
                && uri.host().is_some_and(|host| !host.is_empty())
                && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        });
        if is_fit {
            return Ok(());
        }
        let cure = "write https://HOST[:PORT][/PATH], as forges reach the farm; /hooks/… is put behind it";
        Err(Invalid::new("hooks.url", url, cure))
    }
}
