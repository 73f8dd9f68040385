//! The settings of every connection to a coordinator.

use std::time::Duration;

use http::Uri;
use tonic::transport::{ClientTlsConfig, Endpoint, Error};

/// How long opening a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// A peer is asked for a sign this often, and has as long again to give it.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The endpoint of a coordinator: a peer that is dead is noticed within 20 s, and an `https` address has to show a
/// certificate that the system trusts.
///
/// # Errors
/// The system's certificates can't be read (`https` only), or `agent` is no header's value.
pub fn endpoint(uri: Uri, agent: &'static str) -> Result<Endpoint, Error> {
    let is_tls = uri.scheme_str() == Some("https");
    let endpoint = Endpoint::from(uri)
        .user_agent(agent)?
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    if is_tls { endpoint.tls_config(ClientTlsConfig::new().with_native_roots()) } else { Ok(endpoint) }
}

/// The same for a connection that carries bulk: so many bytes may be on their way unanswered.
pub fn wide(endpoint: Endpoint, window_bytes: u32) -> Endpoint {
    endpoint.initial_stream_window_size(window_bytes).initial_connection_window_size(window_bytes)
}
