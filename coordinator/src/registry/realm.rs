//! Who may get a registry's login: a registry says itself where its token service is, and may be somebody else's.
//!
//! The login goes to the registry's own host (at any port: GitLab's is beside its registry), to a host above it, who could take
//! its name away anyhow (`gitlab.com` for `registry.gitlab.com`), to Docker Hub's known one, and to those that `realms` of the
//! registry's table names. Never without TLS, unless the registry has none itself.

use reqwest::Url;

use crate::config::Registry;
use crate::outbound::Place;

/// Registries whose token service has a name that doesn't follow from theirs.
const KNOWN: &[(&str, &str)] = &[("docker.io", "https://auth.docker.io/")];

/// What may be sent to a token service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The login; it is asked at whatever address this place has.
    Own(Place),
    /// A question without a login, if it is at a public address.
    Foreign,
    /// The same, since it has no TLS.
    Plain,
}

/// What may be sent to the token service that a registry names.
pub fn trust(registry: &str, is_plain: bool, known: Option<&Registry>, realm: &Url) -> Trust {
    let Ok(place) = crate::outbound::place(realm).parse::<Place>() else { return Trust::Foreign };
    let Ok(own) = registry.parse::<Place>() else { return Trust::Foreign };
    let is_named = known.is_some_and(|known| known.realms.iter().any(|named| named.is_of(realm)));
    let is_above = place.host().contains('.')
        && !place.is_address()
        && own.host().strip_suffix(place.host()).is_some_and(|rest| rest.ends_with('.'));
    // Beside it on this machine there is more than a registry.
    let is_beside = own.host() == place.host() && (!own.is_loopback() || own.is_of(realm));
    let is_hub = KNOWN.iter().any(|(hub, realm_of)| {
        *hub == registry && Url::parse(realm_of).is_ok_and(|known| known.origin() == realm.origin())
    });
    if !(is_named || is_above || is_beside || is_hub || own.is_of(realm)) {
        return Trust::Foreign;
    }
    if realm.scheme() == "https" || is_plain || place.is_loopback() {
        Trust::Own(place)
    } else {
        Trust::Plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(registry: &str, realm: &str, realms: &[&str]) -> bool {
        let realms = realms.iter().map(|text| text.parse().unwrap()).collect();
        let known = Registry { realms, ..Registry::default() };
        matches!(trust(registry, false, Some(&known), &realm.parse().unwrap()), Trust::Own(_))
    }

    #[test]
    fn a_login_goes_to_the_registrys_own_host_to_one_above_it_and_to_those_that_are_named() {
        for (registry, realm) in [
            ("docker.io", "https://auth.docker.io/token"),
            ("ghcr.io", "https://ghcr.io/token"),
            ("quay.io", "https://quay.io/v2/auth"),
            ("registry.gitlab.com", "https://gitlab.com/jwt/auth"),
            ("gitlab.example:5050", "https://gitlab.example/jwt/auth"),
            ("gitlab.internal:5050", "https://gitlab.internal:8443/jwt/auth"),
            ("harbor.example", "https://harbor.example/service/token"),
            ("team.azurecr.io", "https://team.azurecr.io/oauth2/token"),
            ("10.0.0.7:5000", "https://10.0.0.7/token"),
            ("localhost:5000", "http://127.0.0.1:5000/token"),
        ] {
            assert!(of(registry, realm, &[]), "{registry} {realm}");
        }
        assert!(of("registry.example", "https://auth.example:8443/token", &["auth.example:8443"]));
        assert!(of("localhost:5000", "http://localhost:5001/token", &["localhost:5001"]));
    }

    #[test]
    fn a_login_goes_to_nobody_else() {
        for (registry, realm) in [
            ("docker.io", "https://auth.docker.io.evil.example/token"),
            ("docker.io", "https://evil.docker.io/token"),
            ("docker.io", "http://auth.docker.io/token"),
            ("docker.io", "https://auth.docker.io:8443/token"),
            ("registry.example", "https://auth.example/token"),
            ("registry.example", "https://evilregistry.example/token"),
            ("registry.example", "https://evil.registry.example/token"),
            ("registry.example", "http://registry.example/token"),
            ("a.github.io", "https://b.github.io/token"),
            ("registry.example", "https://example/token"),
            ("team.azurecr.io", "https://evil.azurecr.io/token"),
            ("10.0.0.7:5000", "https://0.0.7/token"),
            ("localhost:5000", "http://localhost:7070/token"),
            ("localhost:5000", "http://127.0.0.1:7070/token"),
            ("[::1]:5000", "http://[::1]:7070/token"),
        ] {
            assert!(!of(registry, realm, &[]), "{registry} {realm}");
        }
        assert!(!of("registry.example", "https://auth.example:8443/token", &["auth.example"]));
        // Without TLS not even there.
        assert!(!of("registry.example", "http://auth.example/token", &["auth.example:80"]));
    }

    #[test]
    fn a_registry_without_tls_may_have_its_tokens_without() {
        let realm = "http://registry.internal:5001/token".parse().unwrap();
        assert!(matches!(trust("registry.internal:5000", true, None, &realm), Trust::Own(_)));
        assert_eq!(trust("registry.internal:5000", false, None, &realm), Trust::Plain);
    }
}
