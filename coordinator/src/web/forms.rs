//! Forms: that one is the visitor's own, of a page that the farm gave them.
//!
//! Each form bears what only a page of this farm can know: a digest of what the visitor's cookie holds ([`Secret::guard`]). Another
//! site can have a browser send a form with the cookie, but can't write that; and a browser that says of which site a form is
//! (`Sec-Fetch-Site`, `Origin`) is believed.

use std::collections::HashMap;

use farm_types::Digest;
use http::{HeaderMap, StatusCode};
use hyper::body::Incoming;

use super::problem::Problem;
use crate::http::body::Memory;

/// The longest form, bytes.
const LONGEST: usize = 16 * 1024;
/// The field that shows that a form is one's own.
const GUARD: &str = "guard";

/// What a form says.
pub type Form = HashMap<String, String>;

/// What a cookie holds: random, and known to nobody but the browser.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// Another one each time.
    pub fn generate() -> Self {
        let random: [u8; 32] = rand::random();
        Self(Digest::from(random).hex())
    }

    /// As a cookie brings it back; `None`: it is none.
    pub fn read(text: String) -> Option<Self> {
        let is_one = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_one.then_some(Self(text))
    }

    /// As the cookie holds it.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// By what it is kept.
    pub fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }

    /// What stands in the visitor's forms. It shows nothing of the secret.
    pub fn guard(&self) -> String {
        Digest::of(format!("form of {}", self.0).as_bytes()).hex()
    }
}

/// Reads one.
///
/// # Errors
/// It is too long, comes too slowly, or there are too many at once.
pub(crate) async fn read(memory: &Memory, headers: &HeaderMap, body: Incoming) -> Result<Form, Problem> {
    let held = memory.read(headers, body, LONGEST).await.map_err(|status| {
        let cure = match status {
            StatusCode::PAYLOAD_TOO_LARGE => "Send less: a form has at most 16 KiB.",
            StatusCode::SERVICE_UNAVAILABLE => "Too much is under way; try again in a moment.",
            _ => "Try again.",
        };
        Problem::new(status, "The form didn't come whole", cure)
    })?;
    Ok(form_urlencoded::parse(&held.bytes).into_owned().collect())
}

/// Refuses a form that isn't of a page which the farm gave this visitor.
///
/// # Errors
/// It isn't, or that can't be told.
pub fn own(
    headers: &HeaderMap,
    public_url: Option<&str>,
    form: &Form,
    secret: Option<&Secret>,
) -> Result<(), Problem> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let is_site = text("sec-fetch-site").is_none_or(|site| site == "same-origin");
    // A page without a referrer sends "null".
    let is_origin = match (text("origin"), public_url) {
        (Some(origin), Some(own)) => origin == "null" || origin.eq_ignore_ascii_case(own),
        _ => true,
    };
    // Digests are compared, so the time tells nothing.
    let shown = Digest::of(form.get(GUARD).map(String::as_str).unwrap_or_default().as_bytes());
    let is_guarded = secret.is_some_and(|secret| Digest::of(secret.guard().as_bytes()) == shown);
    if is_site && is_origin && is_guarded {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "This form isn't of a page that the farm has given you",
        "Go back, load the page anew, and send it again; the browser has to keep cookies for it.",
    ))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_form_counts_with_its_guard_and_from_this_site() {
        let secret = Secret::generate();
        let form = |guard: &str| Form::from([(GUARD.to_owned(), guard.to_owned())]);
        let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            pairs
                .iter()
                .map(|(name, value)| ((*name).parse().unwrap(), HeaderValue::from_static(value)))
                .collect()
        };
        let is_own = |pairs: &[(&'static str, &'static str)], form: &Form, secret: Option<&Secret>| -> bool {
            own(&headers(pairs), Some("https://farm.example"), form, secret).is_ok()
        };
        let good = form(&secret.guard());
        assert!(is_own(&[], &good, Some(&secret)));
        assert!(is_own(&[("sec-fetch-site", "same-origin"), ("origin", "null")], &good, Some(&secret)));
        assert!(is_own(&[("origin", "https://FARM.example")], &good, Some(&secret)));
        for site in ["cross-site", "same-site", "none", ""] {
            assert!(!is_own(&[("sec-fetch-site", site)], &good, Some(&secret)), "{site}");
        }
        assert!(!is_own(&[("origin", "https://evil.example")], &good, Some(&secret)));
        assert!(!is_own(&[], &good, None));
        assert!(!is_own(&[], &good, Some(&Secret::generate())));
        assert!(!is_own(&[], &form(""), Some(&secret)));
        assert!(!is_own(&[], &form(secret.text()), Some(&secret)), "the secret itself is no guard");
        assert!(!is_own(&[], &Form::new(), Some(&secret)));
    }

    #[test]
    fn what_a_cookie_brings_back_is_as_it_was_given_or_nothing() {
        let secret = Secret::generate();
        assert_eq!(Secret::read(secret.text().to_owned()), Some(secret.clone()));
        assert!(!format!("{secret:?}").contains(secret.text()));
        for wrong in ["", "abc", &"z".repeat(64), &"a".repeat(65)] {
            assert_eq!(Secret::read(wrong.to_owned()), None, "{wrong}");
        }
    }
}
