//! A listener of HTTP/1.1: TLS as where the farm is called, headers bounded in time and length, and an end in which what is under
//! way is finished.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected as _;
use tracing::Instrument as _;

use super::answer::Body;
use crate::limits::Doors;
use crate::tls::{Connection, Peer, Side, incoming};

/// The headers of a request have so long to come.
const HEAD: Duration = Duration::from_secs(10);
/// The most bytes of headers.
const HEAD_BYTES: usize = 64 * 1024;
/// How long what is under way may take when the coordinator stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Answers what comes, by `handler`, until `shutdown`.
pub(crate) async fn serve<H, F>(
    listener: TcpListener,
    side: Option<Arc<Side>>,
    doors: Arc<Doors>,
    handler: H,
    shutdown: CancellationToken,
) where
    H: Fn(Peer, Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let accepted = incoming(listener, side, doors);
    tokio::pin!(accepted);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            next = accepted.next() => {
                let Some(Ok(connection)) = next else { continue };
                connections.spawn(one(connection, handler.clone(), shutdown.clone()).in_current_span());
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
    let ended = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, ended).await;
}

async fn one<H, F>(connection: Connection, handler: H, shutdown: CancellationToken)
where
    H: Fn(Peer, Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let peer = connection.connect_info();
    let service = service_fn(move |request| {
        let answer = handler(peer.clone(), request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(connection), service);
    tokio::pin!(served);
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = shutdown.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}
