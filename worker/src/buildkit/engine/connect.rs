//! Dialling an engine: Docker's upgrade of an HTTP/1.1 connection, a buildkitd's socket, or mutual TLS.
//!
//! Invariants: windows are 8 MiB. With the default of 64 KiB the transfer of a large context reliably fails. Lists of
//! headers may be as long as messages: an engine tells why a build failed in a trailer, and with it, several times over,
//! the whole Dockerfile and the step's command.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use farm_types::chain::innermost;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};

use super::address::{EngineAddress, EngineKind, Place};
use super::error::EngineError;

/// HTTP/2 windows of streams and of connections, bytes.
pub(crate) const WINDOW_BYTES: u32 = 8 << 20;
/// The longest message that is taken from an engine: a status carries the whole Dockerfile with each warning.
pub(crate) const MAX_MESSAGE_BYTES: usize = 256 << 20;
/// The longest list of headers that is taken from an engine, bytes. Beyond hyper's 16 KiB the details of a failure would
/// be dropped without a word, and beyond some more the connection be broken off.
pub(crate) const MAX_HEADERS_BYTES: u32 = 256 << 20;
/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer behind a network may vanish without a word: it is asked this often while a solve runs. Not less:
/// a Go server takes frequent pings amiss unless it has data to send itself, as it has every 5 s then (the
/// checks of the session's health).
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Makes connections to one engine.
#[derive(Clone)]
pub(crate) struct Dialer {
    address: EngineAddress,
    way: Way,
}

#[derive(Clone)]
enum Way {
    Unix { path: PathBuf, upgrade: bool },
    Tls(Box<Endpoint>),
}

impl Dialer {
    /// Reads the keys that the address names.
    pub(crate) async fn new(address: EngineAddress, kind: EngineKind) -> Result<Self, EngineError> {
        let way = match &address.0 {
            Place::Unix(path) => Way::Unix { path: path.clone(), upgrade: kind == EngineKind::Docker },
            Place::Tcp { authority, ca, cert, key, name } => {
                let unusable = |reason: String, cure: &str| EngineError::Unusable {
                    address: address.to_string(),
                    reason,
                    cure: cure.to_owned(),
                };
                let mut pem = Vec::new();
                for path in [ca, cert, key] {
                    pem.push(tokio::fs::read(path).await.map_err(|error| {
                        unusable(format!("{}: {error}", path.display()), "name a PEM file that farm may read")
                    })?);
                }
                let mut tls = ClientTlsConfig::new()
                    .ca_certificate(Certificate::from_pem(&pem[0]))
                    .identity(Identity::from_pem(&pem[1], &pem[2]))
                    // A buildkitd that was built with a recent Go does not answer ALPN.
                    .assume_http2(true);
                if let Some(name) = name {
                    tls = tls.domain_name(name);
                }
                let endpoint = Endpoint::from_shared(format!("https://{authority}"))
                    .and_then(|endpoint| endpoint.tls_config(tls))
                    .map_err(|error| {
                        unusable(
                            innermost(&error).to_string(),
                            "see that ca, cert and key are PEM files that fit",
                        )
                    })?;
                Way::Tls(Box::new(tuned(endpoint)))
            }
        };
        Ok(Self { address, way })
    }

    pub(crate) fn address(&self) -> &EngineAddress {
        &self.address
    }

    /// A connection that is made when it's needed, and made again after it was lost.
    pub(super) fn lazy(&self) -> Channel {
        match &self.way {
            Way::Unix { path, upgrade } => local().connect_with_connector_lazy(connector(path, *upgrade)),
            Way::Tls(endpoint) => endpoint.connect_lazy(),
        }
    }

    /// A new connection.
    pub(crate) async fn dial(&self) -> Result<Channel, tonic::transport::Error> {
        match &self.way {
            Way::Unix { path, upgrade } => local().connect_with_connector(connector(path, *upgrade)).await,
            Way::Tls(endpoint) => {
                Endpoint::clone(endpoint)
                    .http2_keep_alive_interval(KEEP_ALIVE)
                    .keep_alive_timeout(KEEP_ALIVE)
                    .connect()
                    .await
            }
        }
    }
}

fn local() -> Endpoint {
    // The name goes nowhere: the connector knows the socket.
    tuned(Endpoint::from_static("http://localhost"))
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_max_header_list_size(MAX_HEADERS_BYTES)
}

fn connector(
    path: &Path,
    upgrade: bool,
) -> impl tower::Service<
    Uri,
    Response = TokioIo<UnixStream>,
    Error = io::Error,
    Future = impl Future<Output = io::Result<TokioIo<UnixStream>>> + Send + 'static,
> + Send
+ 'static {
    let path = path.to_owned();
    tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move {
            let mut stream = UnixStream::connect(&path).await?;
            if upgrade {
                upgrade_to_grpc(&mut stream).await?;
            }
            Ok(TokioIo::new(stream))
        }
    })
}

/// Docker's `POST /grpc`: after the answer 101 the connection is HTTP/2 without TLS, from the next byte on.
async fn upgrade_to_grpc(stream: &mut UnixStream) -> io::Result<()> {
    stream
        .write_all(b"POST /grpc HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        .await?;
    let mut head = Vec::new();
    // Byte by byte: what follows the blank line is not ours.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > 8192 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "endless answer to POST /grpc"));
        }
        head.push(stream.read_u8().await?);
    }
    if head.starts_with(b"HTTP/1.1 101 ") {
        return Ok(());
    }
    let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
    Err(io::Error::new(io::ErrorKind::ConnectionRefused, format!("no BuildKit behind POST /grpc: {line}")))
}
