//! Connections to other servers than farms: with TLS, or without on this machine.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::Uri;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::channel::is_loopback;
use crate::failure::TlsFailure;
use crate::trust::Trust;

/// Bytes in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Whoever is between would see what is sent.
    #[error("it is another machine, and has no https:// in front")]
    Plaintext,
    /// Nobody answers there.
    #[error(transparent)]
    Away(#[from] io::Error),
    /// It answers, and isn't believed.
    #[error(transparent)]
    Tls(TlsFailure),
}

/// A connection for HTTP/1.1 to a server that those who are trusted vouch for. Whoever calls bounds the time.
///
/// # Errors
/// Nobody answers, or isn't believed; or it would go to another machine without TLS.
pub async fn dial(uri: &Uri, trust: &Trust) -> Result<Box<dyn Stream>, DialError> {
    let host = name_of(uri);
    if uri.scheme_str() != Some("https") {
        if !is_loopback(uri) {
            return Err(DialError::Plaintext);
        }
        return Ok(Box::new(TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await?));
    }
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
    covered(uri, trust, stream).await
}

/// The same with TLS to a host whose addresses are known, so that nobody is asked for them again: the first that answers.
///
/// # Errors
/// As [`dial`].
pub async fn dial_at(uri: &Uri, addresses: &[IpAddr], trust: &Trust) -> Result<Box<dyn Stream>, DialError> {
    if uri.scheme_str() != Some("https") {
        return Err(DialError::Plaintext);
    }
    let port = uri.port_u16().unwrap_or(443);
    let all: Vec<SocketAddr> = addresses.iter().map(|address| (*address, port).into()).collect();
    covered(uri, trust, TcpStream::connect(&all[..]).await?).await
}

fn name_of(uri: &Uri) -> &str {
    uri.host().unwrap_or_default().trim_matches(['[', ']'])
}

/// TLS over a connection to whom the address names.
async fn covered(uri: &Uri, trust: &Trust, stream: TcpStream) -> Result<Box<dyn Stream>, DialError> {
    let host = name_of(uri);
    let other = |why: String| DialError::Tls(TlsFailure::Other(why));
    let name = ServerName::try_from(host.to_owned()).map_err(|e| other(e.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| other(e.to_string()))?
        .with_root_certificates(trust.roots())
        .with_no_client_auth();
    config.alpn_protocols.push(b"http/1.1".to_vec());
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let stream = connected.map_err(|e| TlsFailure::of(&e).map_or(DialError::Away(e), DialError::Tls))?;
    Ok(Box::new(stream))
}
