//! `[web]`: where pages are shown.

use std::net::SocketAddr;
use std::time::Duration;

use farm_types::Invalid;
use serde::Deserialize;

/// The longest that a browser may be signed in, hours: a week.
const LONGEST: u64 = 168;

/// Where pages are shown.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Web {
    /// Where this coordinator listens for browsers; `None`: it doesn't. It may be where hooks are delivered.
    pub listen: Option<SocketAddr>,
    /// How browsers reach the farm, without a `/` at its end; `None`: as it listens.
    pub public_url: Option<String>,
    /// How long a browser is signed in by a token.
    pub session_hours: u64,
}

impl Default for Web {
    fn default() -> Self {
        Self { listen: None, public_url: None, session_hours: 12 }
    }
}

impl Web {
    pub(super) fn check(&mut self, calls: SocketAddr) -> Result<(), Invalid> {
        if let Some(listen) = self.listen.filter(|listen| *listen == calls && listen.port() != 0) {
            let cure = "users and workers are served there; give pages another port";
            return Err(Invalid::new("web.listen", listen.to_string(), cure));
        }
        if !(1..=LONGEST).contains(&self.session_hours) {
            let cure = format!("write a number from 1 to {LONGEST}");
            return Err(Invalid::new("web.session_hours", self.session_hours.to_string(), cure));
        }
        self.public_url = self.public_url.take().map(public_url).transpose()?;
        Ok(())
    }

    /// A build's page, by its project and short id, which another project's may have, too; `None`: nobody has said where browsers
    /// reach the farm.
    pub(super) fn build(&self, project: &str, short_id: &str) -> Option<String> {
        self.public_url.as_ref().map(|url| format!("{url}/b/{short_id}?project={project}"))
    }

    /// How long a browser is signed in by a token.
    pub fn session(&self) -> Duration {
        Duration::from_secs(self.session_hours * 3600)
    }
}

/// The beginning of what links to the farm's pages say.
fn public_url(written: String) -> Result<String, Invalid> {
    let uri: Option<http::Uri> = written.parse().ok();
    let is_fit = uri.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && matches!(uri.path(), "" | "/")
            && uri.query().is_none()
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
    });
    // An address drops what stands behind a '#' without a word.
    if is_fit && !written.contains('#') {
        return Ok(written.trim_end_matches('/').to_owned());
    }
    let cure = "write https://HOST[:PORT], as browsers reach the farm's pages; /b/BUILD is put behind it";
    Err(Invalid::new("web.public_url", written, cure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_builds_page_is_below_the_public_url() {
        let calls = "127.0.0.1:7070".parse().unwrap();
        let web = |url: &str| Web { public_url: Some(url.to_owned()), ..Web::default() };
        for url in ["https://farm.example", "https://farm.example/", "http://10.0.0.1:7072"] {
            let mut web = web(url);
            web.check(calls).unwrap();
            let page = format!("{}/b/7f3k2m?project=web", url.trim_end_matches('/'));
            assert_eq!(web.build("web", "7f3k2m").unwrap(), page);
        }
        for url in [
            "farm.example",
            "ftp://farm.example",
            "https://a@farm.example",
            "https://farm.example/?a=b",
            "https://farm.example/farm",
            "https://farm.example#x",
            "",
        ] {
            assert!(web(url).check(calls).is_err(), "{url}");
        }
        assert_eq!(Web::default().build("web", "7f3k2m"), None);
    }
}
