//! The listener for webhooks, `POST /hooks/ADDRESS`: HTTP/1.1, TLS as where the farm is called, bodies bounded in length, time, number
//! and memory. Where a delivery comes from says the connection, or a proxy that is trusted.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use farm_hooks::{Headers, MOST_BODY_BYTES};
use farm_store::hooks::deliveries::DeliveryState;
use futures::StreamExt as _;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected as _;
use tracing::Instrument as _;

use super::receive::{Answer, Sent, take};
use crate::limits::line::Turn;
use crate::shared::Shared;
use crate::tls::{Connection, Peer, incoming};

/// The headers of a request have so long to come, and its body.
const HEAD: Duration = Duration::from_secs(10);
const BODY: Duration = Duration::from_secs(20);
/// The most bytes of headers.
const HEAD_BYTES: usize = 64 * 1024;
/// What all bodies that are under way may take of memory, KiB. Who finds none comes back.
const MEMORY_KIB: usize = 128 * 1024;
/// By which it is taken.
const PIECE_KIB: usize = 256;
/// And after so long.
const FULL: Duration = Duration::from_secs(5);
/// How long what is under way may take when the coordinator stops.
const DRAIN: Duration = Duration::from_secs(5);

/// A listener, bound; `None`: this coordinator listens for none.
///
/// # Errors
/// Its address can't be listened on.
pub async fn bind(shared: &Shared) -> anyhow::Result<Option<TcpListener>> {
    let Some(listen) = shared.config.hooks.listen else { return Ok(None) };
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("{listen} can't be listened on for webhooks; choose another with --hooks-listen")
    })?;
    let scheme = if shared.config.hooks_speak_tls() { "https" } else { "http" };
    tracing::info!(listen = format!("{scheme}://{}", listener.local_addr()?), "webhooks are taken");
    if scheme == "http" && !listen.ip().is_loopback() {
        tracing::warn!(%listen, "webhooks come without TLS (--insecure-plaintext): whoever is between reads them");
    }
    Ok(Some(listener))
}

/// Takes deliveries until `shutdown`.
pub async fn serve(shared: Arc<Shared>, listener: TcpListener, shutdown: CancellationToken) {
    let side = match shared.tls.as_ref().map(|tls| tls.hooks(!shared.config.hooks_speak_tls())).transpose() {
        Ok(side) => side,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "webhooks can't be taken: a bug");
            return;
        }
    };
    let memory = Arc::new(Semaphore::new(MEMORY_KIB));
    let accepted = incoming(listener, side, Arc::clone(&shared.doors));
    tokio::pin!(accepted);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            next = accepted.next() => {
                let Some(Ok(connection)) = next else { continue };
                let one = serve_one(Arc::clone(&shared), connection, Arc::clone(&memory), shutdown.clone());
                connections.spawn(one.in_current_span());
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
    let ended = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, ended).await;
}

async fn serve_one(
    shared: Arc<Shared>,
    connection: Connection,
    memory: Arc<Semaphore>,
    shutdown: CancellationToken,
) {
    let peer = connection.connect_info();
    let service = service_fn(move |request| {
        let (shared, peer, memory) = (Arc::clone(&shared), peer.clone(), Arc::clone(&memory));
        async move { Ok::<_, Infallible>(answer(&shared, &peer, &memory, request).await) }
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
        tracing::debug!(%error, "a connection for webhooks broke off");
    }
}

/// An answer without words.
fn bare(status: StatusCode) -> Response<String> {
    let mut response = Response::new(String::new());
    *response.status_mut() = status;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn later(status: StatusCode, wait: Duration) -> Response<String> {
    let mut response = bare(status);
    let seconds = wait.as_secs_f64().ceil().clamp(1.0, 3600.0);
    if let Ok(value) = HeaderValue::from_str(&format!("{seconds}")) {
        response.headers_mut().insert(RETRY_AFTER, value);
    }
    response
}

fn told(status: StatusCode, body: &serde_json::Value) -> Response<String> {
    let mut response = bare(status).map(|_| format!("{body}\n"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn answer(
    shared: &Shared,
    peer: &Peer,
    memory: &Arc<Semaphore>,
    request: Request<Incoming>,
) -> Response<String> {
    let mut turn = Turn::begin(Arc::clone(&peer.line));
    let Some((_, address)) = request.uri().path().rsplit_once("/hooks/") else {
        return bare(StatusCode::NOT_FOUND);
    };
    if request.method() != Method::POST {
        let mut response = bare(StatusCode::METHOD_NOT_ALLOWED);
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let from: Option<IpAddr> =
        peer.address.map(|address| shared.doors.caller(address.ip(), request.headers()));
    let visit = from.map(|from| shared.doors.deliver(from)).transpose();
    let _visit = match visit {
        Ok(visit) => visit,
        Err(wait) => return later(StatusCode::TOO_MANY_REQUESTS, wait),
    };
    let address = address.to_owned();
    let token = request
        .uri()
        .query()
        .and_then(|query| query.split('&').find_map(|field| field.strip_prefix("token=")));
    let token = token.map(ToOwned::to_owned);
    let headers =
        Headers::of(request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
    let length =
        request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > MOST_BODY_BYTES) {
        return bare(StatusCode::PAYLOAD_TOO_LARGE);
    }
    let (body, _held) = match tokio::time::timeout(BODY, read(request.into_body(), memory)).await {
        Ok(Ok(read)) => read,
        Ok(Err(status @ StatusCode::SERVICE_UNAVAILABLE)) => return later(status, FULL),
        Ok(Err(status)) => return bare(status),
        Err(_) => {
            // Who holds memory for nothing is none that a hook waits for.
            if let Some(from) = from {
                shared.doors.forged(from);
            }
            return bare(StatusCode::REQUEST_TIMEOUT);
        }
    };
    let answer = take(shared, Sent { address, headers, token, body, from }).await;
    if answer == Answer::Refused {
        if let Some(from) = from {
            shared.doors.forged(from);
        }
    } else {
        turn.know();
    }
    match answer {
        Answer::Kept { delivery, state, reason, builds } => {
            let status = match state {
                DeliveryState::Received => StatusCode::ACCEPTED,
                DeliveryState::Done | DeliveryState::Ignored => StatusCode::OK,
                DeliveryState::Failed => StatusCode::UNPROCESSABLE_ENTITY,
            };
            let body =
                json!({ "delivery": delivery, "state": state.as_str(), "reason": reason, "builds": builds });
            told(status, &body)
        }
        Answer::Other { delivery } => {
            let reason = "a delivery of this id came before, with another body";
            told(StatusCode::CONFLICT, &json!({ "delivery": delivery, "reason": reason }))
        }
        Answer::Refused => bare(StatusCode::UNAUTHORIZED),
        Answer::TooMany(wait) => later(StatusCode::TOO_MANY_REQUESTS, wait),
        Answer::Away(wait) => later(StatusCode::SERVICE_UNAVAILABLE, wait),
    }
}

/// Reads a body; what it takes of memory is held until the permits are dropped.
///
/// # Errors
/// What is answered: it breaks off, is too long, or there is no memory for it now.
async fn read(
    mut body: Incoming,
    memory: &Arc<Semaphore>,
) -> Result<(Bytes, Vec<OwnedSemaphorePermit>), StatusCode> {
    let (mut whole, mut held, mut paid) = (BytesMut::new(), Vec::new(), 0_usize);
    while let Some(frame) = poll_fn(|task| Pin::new(&mut body).poll_frame(task)).await {
        let frame = frame.map_err(|_| StatusCode::BAD_REQUEST)?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > MOST_BODY_BYTES {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        whole.extend_from_slice(&data);
        let more = whole.len().saturating_sub(paid);
        if more > 0 {
            // By pieces, so that a long body holds few permits.
            let kib = more.div_ceil(PIECE_KIB * 1024) * PIECE_KIB;
            let permits = u32::try_from(kib).unwrap_or(u32::MAX);
            let permit = Arc::clone(memory).try_acquire_many_owned(permits);
            held.push(permit.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?);
            paid += kib * 1024;
        }
    }
    Ok((whole.freeze(), held))
}
