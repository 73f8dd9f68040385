//! `[hooks]`: where forges deliver.

use std::net::SocketAddr;
use std::time::Duration;

use farm_types::Invalid;
use serde::Deserialize;

/// It is looked for lost deliveries once a week at least, or never.
const MOST_MINUTES: u64 = 7 * 24 * 60;
/// So often it is looked for the sake of schedules and base images, if nothing else is said.
const CHECKS: Duration = Duration::from_secs(3600);
/// An image that has moved waits no longer than a day.
const MOST_SECONDS: u64 = 24 * 3600;

/// Where forges deliver.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hooks {
    /// Where this coordinator listens for them; `None`: it doesn't.
    pub listen: Option<SocketAddr>,
    /// How they reach the farm, if a proxy or another name is between.
    pub url: Option<String>,
    /// So often it is looked where each hook's branches and tags are, minutes; 0: never.
    pub sweep_minutes: u64,
    /// So long after an image has moved, what is built upon it is built: moves until then are one.
    pub base_image_seconds: u64,
}

impl Default for Hooks {
    fn default() -> Self {
        Self { listen: None, url: None, sweep_minutes: 60, base_image_seconds: 60 }
    }
}

impl Hooks {
    /// How often it is looked where each hook's branches and tags are; `None`: never.
    pub fn sweep(&self) -> Option<Duration> {
        (self.sweep_minutes > 0).then(|| Duration::from_secs(self.sweep_minutes.saturating_mul(60)))
    }

    /// How often it is looked whether the repository of a hook with schedules or base images is still its own, also where lost deliveries
    /// aren't looked for.
    pub fn looks(&self) -> Duration {
        self.sweep().unwrap_or(CHECKS)
    }
}

impl Hooks {
    pub(super) fn check(&self, calls: SocketAddr) -> Result<(), Invalid> {
        if let Some(listen) = self.listen.filter(|listen| *listen == calls && listen.port() != 0) {
            let cure = "users and workers are served there; give hooks another port";
            return Err(Invalid::new("hooks.listen", listen.to_string(), cure));
        }
        for (name, value, most) in [
            ("hooks.sweep_minutes", self.sweep_minutes, MOST_MINUTES),
            ("hooks.base_image_seconds", self.base_image_seconds, MOST_SECONDS),
        ] {
            if value > most {
                return Err(Invalid::new(name, value.to_string(), format!("write a number up to {most}")));
            }
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
