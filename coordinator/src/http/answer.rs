//! Answers, and the parts that all of them share.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;

/// What breaks an answer off that has begun.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub String);

/// What is answered with: a text, or what comes bit by bit.
pub type Body = UnsyncBoxBody<Bytes, Broken>;

/// A text, whole.
pub fn whole(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// What comes bit by bit; it breaks off with the first error.
pub fn bits(stream: impl futures::Stream<Item = Result<Bytes, Broken>> + Send + 'static) -> Body {
    StreamBody::new(futures::StreamExt::map(stream, |bit| bit.map(Frame::data))).boxed_unsync()
}

/// An answer without words.
pub fn bare(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(whole(""));
    *response.status_mut() = status;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The same to whoever has to come back.
pub fn later(status: StatusCode, wait: Duration) -> Response<Body> {
    let mut response = bare(status);
    response.headers_mut().insert(RETRY_AFTER, seconds(wait));
    response
}

/// As `Retry-After` has it.
pub fn seconds(wait: Duration) -> HeaderValue {
    let seconds = wait.as_secs_f64().ceil().clamp(1.0, 3600.0);
    HeaderValue::from_str(&format!("{seconds}")).unwrap_or(HeaderValue::from_static("1"))
}
