//! What a registry's answer says of the tokens that it wants to see (RFC 6750, section 3).

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// Where to get a token. Registries without one let in anybody, or whoever shows the login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) realm: String,
    pub(super) service: Option<String>,
}

/// Where the token is to be had that an answer wants, if it wants one.
pub(super) fn wanted(headers: &HeaderMap) -> Option<Challenge> {
    headers.get_all(WWW_AUTHENTICATE).iter().find_map(|one| challenge(one.to_str().ok()?))
}

fn challenge(header: &str) -> Option<Challenge> {
    let challenges = http_auth::parse_challenges(header).ok()?;
    let bearer = challenges.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case("bearer"))?;
    let value = |name: &str| {
        let (_, value) = bearer.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(value.to_unescaped())
    };
    Some(Challenge { realm: value("realm")?, service: value("service") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_says_where_the_token_is() {
        let found = challenge("Bearer realm=\"https://a/token\",service=\"r.example\",scope=\"x\"").unwrap();
        let service = found.service.as_deref();
        assert_eq!((found.realm.as_str(), service), ("https://a/token", Some("r.example")));
        // A registry may offer more than one way, and need not quote.
        let second = challenge("Basic realm=\"x\", bearer Realm=\"https://b/t\", service=r").unwrap();
        assert_eq!((second.realm.as_str(), second.service.as_deref()), ("https://b/t", Some("r")));
        assert!(challenge("Basic realm=\"x\"").is_none() && challenge("Bearer").is_none());
    }
}
