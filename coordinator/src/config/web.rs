//! `[web]`: where people find the farm's pages.

use farm_types::Invalid;
use serde::Deserialize;

/// Where people find the farm's pages.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Web {
    /// How browsers reach them; `None`: nothing links to a page.
    pub public_url: Option<String>,
}

impl Web {
    pub(super) fn check(&self) -> Result<(), Invalid> {
        let Some(url) = &self.public_url else { return Ok(()) };
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
        let cure = "write https://HOST[:PORT][/PATH], as browsers reach the farm; /b/… is put behind it";
        Err(Invalid::new("web.public_url", url, cure))
    }

    /// A build's page, by its short id; `None`: nobody has said where it is.
    pub(super) fn build(&self, short_id: &str) -> Option<String> {
        let url = self.public_url.as_ref()?;
        Some(format!("{}/b/{short_id}", url.trim_end_matches('/')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_builds_page_is_below_the_public_url() {
        let web = |url: &str| Web { public_url: Some(url.to_owned()) };
        for url in ["https://farm.example", "https://farm.example/", "http://10.0.0.1:7072/farm/"] {
            let web = web(url);
            web.check().unwrap();
            assert_eq!(web.build("7f3k2m").unwrap(), format!("{}/b/7f3k2m", url.trim_end_matches('/')));
        }
        for url in
            ["farm.example", "ftp://farm.example", "https://a@farm.example", "https://farm.example/?a=b", ""]
        {
            assert!(web(url).check().is_err(), "{url}");
        }
        assert_eq!(Web::default().build("7f3k2m"), None);
    }
}
