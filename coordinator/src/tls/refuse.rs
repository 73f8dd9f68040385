//! What is said to who speaks HTTP where TLS is spoken, so that nobody has to guess from broken connections.

use std::convert::Infallible;

use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::Status;
use tonic::body::Body;

const TOLD: &str = "this farm speaks TLS here: write https:// in front of its address instead of http:// \
                    (farm login https://… gets to know it)";

/// Answers each call with what is wrong, until the client has enough; whoever calls this bounds the time.
pub(crate) async fn refuse(stream: impl AsyncRead + AsyncWrite + Unpin + 'static) {
    let service = service_fn(|request: Request<Incoming>| async move {
        let answer = if request.version() == Version::HTTP_2 {
            // Whoever tries again after this finds it mended when somebody has mended it.
            Status::unavailable(TOLD).into_http()
        } else {
            let mut answer = Response::new(Body::new(format!("{TOLD}\n")));
            *answer.status_mut() = StatusCode::BAD_REQUEST;
            answer
        };
        Ok::<_, Infallible>(answer)
    });
    let told = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = told {
        tracing::debug!(error, "a client that speaks no TLS couldn't be told so");
    }
}
