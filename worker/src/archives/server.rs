//! An HTTPS server for tests: answers each path as the test says, byte by byte, and keeps what it was asked.

use std::sync::{Arc, Mutex};

use farm_client::Trust;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::testing::Authority;

/// It is there for as long as the test's runtime.
pub(super) struct Server {
    /// `127.0.0.1:PORT`.
    pub(super) place: String,
    /// Whom to believe.
    pub(super) trust: Trust,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// What `answer` gives for a path is sent, then the connection is closed; of nothing it stays open.
    pub(super) async fn start(answer: impl Fn(&str) -> Option<Vec<u8>> + Send + Sync + 'static) -> Self {
        let authority = Authority::new();
        let (chain, key) = authority.server();
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = listener.local_addr().unwrap().to_string();
        let (answer, heads) = (Arc::new(answer), Arc::<Mutex<Vec<String>>>::default());
        let asked = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answer, asked) = (acceptor.clone(), Arc::clone(&answer), Arc::clone(&asked));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = stream.read_u8().await else { return };
                        head.push(byte);
                    }
                    let head = String::from_utf8(head).unwrap();
                    let path = head.split(' ').nth(1).unwrap().to_owned();
                    asked.lock().unwrap().push(head);
                    let Some(bytes) = answer(&path) else { return std::future::pending().await };
                    let _ = stream.write_all(&bytes).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        let trust = Trust::from_pem(&authority.pem, "the test's CA").unwrap();
        Self { place, trust, heads }
    }

    /// What it was asked, since it was asked for this the last time.
    pub(super) fn heads(&self) -> Vec<String> {
        std::mem::take(&mut *self.heads.lock().unwrap())
    }
}

/// A whole answer.
pub(super) fn answer(status: &str, headers: &str, body: &[u8]) -> Option<Vec<u8>> {
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    Some([head.as_bytes(), body].concat())
}
