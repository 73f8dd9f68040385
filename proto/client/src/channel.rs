//! The settings of every connection to a coordinator.
//!
//! Invariant: no connection over which tokens would be seen on their way is made, unless somebody has said that it may.

use std::time::Duration;

use http::Uri;
use tonic::transport::Endpoint;

use crate::identity::Identity;
use crate::trust::Trust;

/// How long opening a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// A peer is asked for a sign this often, and has as long again to give it.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What a connection has to be before anything is sent over it.
#[derive(Debug, Clone, Default)]
pub struct Security {
    /// Whose certificates are believed.
    pub trust: Trust,
    /// Where `http` addresses may lead to.
    pub plaintext: Plaintext,
    /// What `https` connections show of this end.
    pub identity: Identity,
}

/// Where `http` addresses may lead to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Plaintext {
    /// To this machine only.
    #[default]
    Loopback,
    /// Anywhere: somebody knows the network and said so.
    Anywhere,
}

/// Why there can be no connection to an address.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Whoever is between would see the token.
    #[error(
        "it is another machine, and over http:// whoever is between sees the token and can use it: write https://, or \
         set FARM_INSECURE_HTTP=1 if that network is nobody else's"
    )]
    Plaintext,
    /// The system's certificates can't be read, or the like.
    #[error(transparent)]
    Setup(#[from] tonic::transport::Error),
}

/// The endpoint of a coordinator: a peer that is dead is noticed within 20 s, and an `https` address has to show a
/// certificate that is trusted, and is shown the identity of this moment.
///
/// # Errors
/// It is an `http` address of another machine, and nobody said that it may be; the system's certificates can't be read, or
/// `agent` is no header's value.
pub fn endpoint(uri: Uri, agent: &'static str, security: &Security) -> Result<Endpoint, EndpointError> {
    let is_tls = uri.scheme_str() == Some("https");
    if !is_tls && security.plaintext == Plaintext::Loopback && !is_loopback(&uri) {
        return Err(EndpointError::Plaintext);
    }
    let endpoint = Endpoint::from(uri)
        .user_agent(agent)?
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    if !is_tls {
        return Ok(endpoint);
    }
    let tls = security.trust.tls();
    Ok(endpoint.tls_config(match security.identity.tls() {
        Some(identity) => tls.identity(identity),
        None => tls,
    })?)
}

/// The same for a connection that carries bulk: so many bytes may be on their way unanswered.
pub fn wide(endpoint: Endpoint, window_bytes: u32) -> Endpoint {
    endpoint.initial_stream_window_size(window_bytes).initial_connection_window_size(window_bytes)
}

/// Whether an address leads to nowhere but this machine.
pub fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost")
        || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_token_would_be_seen_on_is_refused_with_the_cure() {
        let refused = |url: &str, security: &Security| {
            let made = endpoint(url.parse().unwrap(), "test", security);
            matches!(made, Err(EndpointError::Plaintext))
        };
        let usual = Security::default();
        for here in ["http://127.0.0.1:7070", "http://127.9.9.9", "http://LocalHost:1", "http://[::1]:7070"] {
            assert!(!refused(here, &usual), "{here}");
        }
        for other in [
            "http://10.0.0.9:7070",
            "http://farm.example",
            "http://localhost.example",
            "http://127.0.0.1.example",
            "http://0.0.0.0:7070",
            "http://[fe80::1]:7070",
        ] {
            assert!(refused(other, &usual), "{other}");
            assert!(!refused(other, &Security { plaintext: Plaintext::Anywhere, ..Security::default() }));
        }
        let text = EndpointError::Plaintext.to_string();
        assert!(text.contains("https://") && text.contains("FARM_INSECURE_HTTP=1"), "{text}");
    }
}
