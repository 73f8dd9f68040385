//! An HTTP server on 127.0.0.1 that answers as a test says, with TLS or without.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::ExtendedKeyUsagePurpose;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::faults::answers::{Body, Error};
use crate::pki::Authority;

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Web {
    port: u16,
    scheme: &'static str,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Web {
    /// Every request is answered so.
    pub fn start(answer: impl Fn(Request<Bytes>) -> Response<Body> + Send + Sync + 'static) -> Web {
        Web::open(None, answer)
    }

    /// The same by TLS: the authority vouches for it.
    pub fn start_tls(
        authority: &Authority,
        answer: impl Fn(Request<Bytes>) -> Response<Body> + Send + Sync + 'static,
    ) -> Web {
        let (chain, key) = authority.issue("127.0.0.1", ExtendedKeyUsagePurpose::ServerAuth);
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
        Web::open(Some(TlsAcceptor::from(Arc::new(config))), answer)
    }

    fn open(
        acceptor: Option<TlsAcceptor>,
        answer: impl Fn(Request<Bytes>) -> Response<Body> + Send + Sync + 'static,
    ) -> Web {
        let scheme = if acceptor.is_some() { "https" } else { "http" };
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stop, stopped) = oneshot::channel();
        let answer = Arc::new(answer);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = serve(listener, acceptor, answer) => {}
                    _ = stopped => {}
                }
            });
        });
        Web { port, scheme, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    answer: Arc<impl Fn(Request<Bytes>) -> Response<Body> + Send + Sync + 'static>,
) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let answer = Arc::clone(&answer);
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = Arc::clone(&answer);
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                Ok::<_, Error>(answer(Request::from_parts(head, body)))
            }
        });
        let http = hyper::server::conn::http1::Builder::new();
        match &acceptor {
            None => drop(tokio::spawn(http.serve_connection(TokioIo::new(stream), service))),
            Some(acceptor) => {
                // One after the other, which is enough for tests.
                let accepted = tokio::time::timeout(Duration::from_secs(10), acceptor.accept(stream)).await;
                let Ok(Ok(stream)) = accepted else { continue };
                drop(tokio::spawn(http.serve_connection(TokioIo::new(stream), service)));
            }
        }
    }
}
