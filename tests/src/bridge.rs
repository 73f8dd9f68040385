//! A Docker engine's BuildKit behind the doors that a standalone buildkitd has: a socket that speaks gRPC at once, and a
//! port with mutual TLS.
//!
//! A stand-in for what can't be had here: Debian has no buildkitd. The BuildKit behind the door is a real one; what the
//! door does, `POST /grpc` before all else, is what buildx does for a Docker engine.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use rcgen::ExtendedKeyUsagePurpose;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::bed::Bed;
use crate::pki::Authority;

/// Listens until it is dropped; what goes through it then breaks off.
#[derive(Debug)]
pub struct Bridge {
    address: String,
    folder: TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

enum Door {
    Socket(std::os::unix::net::UnixListener),
    Tls(std::net::TcpListener, TlsAcceptor),
}

impl Bridge {
    /// A socket; its address is `unix:///…/buildkitd.sock`.
    pub fn socket(engine: &Path) -> Bridge {
        let folder = Bed::from_env().short_folder("bridge");
        let path = folder.path().join("buildkitd.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        Bridge::open(engine, format!("unix://{}", path.display()), folder, Door::Socket(listener))
    }

    /// A port of 127.0.0.1 with mutual TLS; its address names a client certificate that is let in. Some versions of
    /// buildkitd answer ALPN, others don't.
    pub fn tls(engine: &Path, answers_alpn: bool) -> Bridge {
        let folder = Bed::from_env().short_folder("bridge");
        let ca = Authority::new("farm test CA");
        let server = ca.issue("127.0.0.1", ExtendedKeyUsagePurpose::ServerAuth);
        write(folder.path(), "ca", &ca.certificate);
        write_pair(folder.path(), "client", &ca.issue("client", ExtendedKeyUsagePurpose::ClientAuth));
        let other = Authority::new("somebody else's CA");
        write_pair(folder.path(), "stranger", &other.issue("client", ExtendedKeyUsagePurpose::ClientAuth));

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.certificate.as_bytes()).unwrap()).unwrap();
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
        let chain = vec![CertificateDer::from_pem_slice(server.0.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(server.1.as_bytes()).unwrap();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .unwrap();
        if answers_alpn {
            config.alpn_protocols.push(b"h2".to_vec());
        }
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let at = folder.path().display();
        let address =
            format!("tcp://127.0.0.1:{port}?ca={at}/ca.pem&cert={at}/client.pem&key={at}/client.key");
        Bridge::open(engine, address, folder, Door::Tls(listener, TlsAcceptor::from(Arc::new(config))))
    }

    fn open(engine: &Path, address: String, folder: TempDir, door: Door) -> Bridge {
        let (stop, stopped) = oneshot::channel();
        let engine = engine.to_owned();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            // Dropping the runtime breaks off what still goes through.
            runtime.block_on(async {
                tokio::select! {
                    () = serve(door, engine) => {}
                    _ = stopped => {}
                }
            });
        });
        Bridge { address, folder, stop: Some(stop), thread: Some(thread) }
    }

    /// As `farm-worker --engine` takes it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The same with a client certificate of an authority that is not trusted here.
    pub fn stranger(&self) -> String {
        self.address.replace("/client.", "/stranger.")
    }

    /// The files of its certificates.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(door: Door, engine: PathBuf) {
    match door {
        Door::Socket(listener) => {
            let listener = UnixListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(through(stream, engine.clone()));
            }
        }
        Door::Tls(listener, acceptor) => {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, engine) = (acceptor.clone(), engine.clone());
                let _ = stream.set_nodelay(true);
                tokio::spawn(async move { through(acceptor.accept(stream).await?, engine).await });
            }
        }
    }
}

/// Until one side has had enough.
async fn through(mut stream: impl AsyncRead + AsyncWrite + Unpin, engine: PathBuf) -> io::Result<()> {
    let mut engine = UnixStream::connect(engine).await?;
    engine
        .write_all(b"POST /grpc HTTP/1.1\r\nHost: bridge\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        .await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(engine.read_u8().await?);
    }
    if !head.starts_with(b"HTTP/1.1 101") {
        return Err(io::Error::other("the engine has no BuildKit"));
    }
    copy_bidirectional(&mut stream, &mut engine).await.map(drop)
}

fn write(folder: &Path, name: &str, pem: &str) {
    std::fs::write(folder.join(format!("{name}.pem")), pem).unwrap();
}

fn write_pair(folder: &Path, name: &str, (certificate, key): &(String, String)) {
    write(folder, name, certificate);
    std::fs::write(folder.join(format!("{name}.key")), key).unwrap();
}
