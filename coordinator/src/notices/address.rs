//! Where a notice goes: the URL and the secrets, as they are sealed.

use std::fmt;

use farm_hooks::{Provider, new_secret};
use farm_store::notices::rule::SealedAddress;
use farm_types::{Invalid, NoticeId, NoticeKind, ProjectId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::{Zeroize as _, Zeroizing};

use crate::outbound::{Rules, Url, place};
use crate::seal::{Keyring, Owner, Unopened};

/// The longest URL, bytes.
const LONGEST: usize = 2048;

/// Where a notice goes, and by what it is signed.
#[derive(Clone, Serialize, Deserialize)]
pub struct Address {
    /// What is called.
    pub url: String,
    /// Of a webhook: its secret, and the one that it replaces.
    #[serde(default)]
    pub secrets: Vec<String>,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address").finish_non_exhaustive()
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        self.url.zeroize();
        self.secrets.zeroize();
    }
}

impl Address {
    /// A new one, with a secret where the kind has one.
    pub fn new(kind: NoticeKind, url: String) -> Self {
        let secrets = match kind {
            NoticeKind::Webhook => vec![new_secret(Provider::Generic, rand::random())],
            NoticeKind::Slack | NoticeKind::Mail => Vec::new(),
        };
        Self { url, secrets }
    }

    /// The same with another secret; the one before stays beside it. While one from before that counts (`has_before`), the oldest of them
    /// stays as well: the receiver may have seen none since.
    #[must_use]
    pub fn rotated(&self, has_before: bool) -> Self {
        let new = new_secret(Provider::Generic, rand::random());
        let oldest = self.secrets.last().filter(|_| has_before && self.secrets.len() > 1);
        let secrets = [Some(&new), self.secrets.first(), oldest].into_iter().flatten().cloned().collect();
        Self { url: self.url.clone(), secrets }
    }

    /// The newest secret; empty where there is none.
    pub fn secret(&self) -> &str {
        self.secrets.first().map_or("", String::as_str)
    }

    /// Sealed for a notice.
    pub fn sealed(
        &self,
        keyring: &Keyring,
        (project, notice, version): (ProjectId, NoticeId, Uuid),
    ) -> SealedAddress {
        let text = Zeroizing::new(serde_json::to_vec(self).unwrap_or_default());
        let (key, sealed) = keyring.new_data_key(Owner::Notice(project, notice, version));
        SealedAddress { key: sealed, bytes: key.seal_one(&text) }
    }

    /// As it was sealed.
    ///
    /// # Errors
    /// The key isn't here, or it isn't what was sealed.
    pub fn opened(
        keyring: &Keyring,
        (project, notice, version): (ProjectId, NoticeId, Uuid),
        sealed: &SealedAddress,
    ) -> Result<Self, Unopened> {
        let key = keyring.open(Owner::Notice(project, notice, version), &sealed.key)?;
        let text = key.open_one(&sealed.bytes)?;
        serde_json::from_slice(&text).map_err(|_| Unopened::Forged)
    }
}

/// A URL that somebody has said, and the host and port that are shown of it.
///
/// # Errors
/// It can't be one, and what could. The error doesn't tell it.
pub fn check(url: &str, rules: &Rules) -> Result<(String, String), Invalid> {
    let invalid = |host: &str, cure: &str| Err(Invalid::new("URL", host, cure));
    let form = "write https://HOST[:PORT]/PATH, as the receiver shows it";
    let Ok(parsed) = url.parse::<Url>() else { return invalid("", form) };
    let host = place(&parsed);
    if url.len() > LONGEST {
        return invalid(&host, "it is longer than 2048 bytes; give a shorter one");
    }
    let is_plain = parsed.username().is_empty() && parsed.password().is_none() && parsed.fragment().is_none();
    if !is_plain || parsed.host_str().is_none_or(str::is_empty) {
        return invalid(&host, "write it without a login and without what stands behind a #");
    }
    match parsed.scheme() {
        "https" => {}
        "http"
            if matches!(parsed.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"))
                || rules.names(&parsed) => {}
        "http" => {
            let cure = "write https://: without TLS others could read and change what is sent; or whoever runs the farm names the host and \
                        port in outbound.allow";
            return invalid(&host, cure);
        }
        _ => return invalid(&host, form),
    }
    Ok((parsed.to_string(), host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_tls_unless_it_is_on_this_machine_or_the_farm_names_it_and_no_error_tells_it() {
        let rules = Rules::new(["chat.internal:8065".parse().unwrap()], Vec::new());
        for (url, host) in [
            ("https://hooks.slack.com/services/T0/B0/xyz", "hooks.slack.com"),
            ("https://ci.example:8443/in?token=s3cret", "ci.example:8443"),
            ("http://127.0.0.1:9000/x", "127.0.0.1:9000"),
            ("http://chat.internal:8065/hooks/s3cret", "chat.internal:8065"),
        ] {
            assert_eq!(check(url, &rules), Ok((url.to_owned(), host.to_owned())));
        }
        let long = format!("https://a.example/s3cret/{}", "x".repeat(2048));
        for url in [
            "",
            "s3cret",
            "http://ci.example/s3cret",
            "http://chat.internal/s3cret",
            "ftp://ci.example/s3cret",
            "https://a:s3cret@ci.example/",
            "https://ci.example/s3cret#x",
            "file:///s3cret",
            &long,
        ] {
            let error = check(url, &rules).unwrap_err().to_string();
            assert!(!error.contains("s3cret"), "{url}: {error}");
        }
    }

    #[test]
    fn a_webhook_has_two_secrets_while_it_gets_another_and_nothing_is_printed() {
        let made = Address::new(NoticeKind::Webhook, "https://a.example/s3cret".to_owned());
        assert!(made.secret().starts_with("whsec_") && made.secrets.len() == 1);
        let second = made.rotated(false);
        assert_eq!(second.secrets[1..], made.secrets[..]);
        assert_ne!(second.secret(), made.secret());
        // Whoever didn't hear of the second has the first still; who did has that.
        let third = second.rotated(true);
        assert_eq!(third.secrets[1..], second.secrets[..]);
        let fourth = third.rotated(true);
        assert_eq!(fourth.secrets[1..], [third.secrets[0].clone(), made.secrets[0].clone()]);
        // A day later the ones before count no more.
        assert_eq!(fourth.rotated(false).secrets[1..], fourth.secrets[..1]);
        assert_eq!(Address::new(NoticeKind::Slack, String::new()).secret(), "");
        assert!(!format!("{made:?}").contains("s3cret") && !format!("{made:?}").contains("whsec"));
    }
}
