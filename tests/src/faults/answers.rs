//! What becomes of a registry's answers at its door: halved, or never ending.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Response, header};
use rand::Rng;
use rand::RngExt;
use rand::distr::{Distribution, StandardUniform};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::fault::Trouble;

pub type Error = Box<dyn std::error::Error + Send + Sync>;
pub type Body = BoxBody<Bytes, Error>;

pub fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never: Infallible| match never {}).boxed()
}

/// The head as it is, and a half of the body; the rest never comes.
pub async fn truncated(answer: Response<Incoming>) -> Result<Response<Body>, Error> {
    let (head, body) = answer.into_parts();
    let bytes = body.collect().await?.to_bytes();
    if bytes.is_empty() {
        return Err("there is nothing to be halved".into());
    }
    let half = bytes.slice(..bytes.len() / 2);
    let parts = [Ok(Frame::data(half)), Err(Error::from("the rest never comes"))];
    Ok(Response::from_parts(head, BodyExt::boxed(StreamBody::new(tokio_stream::iter(parts)))))
}

/// What comes after the half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    Nothing,
    /// A space every half a second, which keeps alive whoever waits for the next byte only.
    Drops,
    /// Spaces, some megabytes a second, for whoever takes all that comes.
    Flood,
}

impl Distribution<Rest> for StandardUniform {
    fn sample<R: Rng + ?Sized>(&self, rng: &mut R) -> Rest {
        [Rest::Nothing, Rest::Drops, Rest::Flood][rng.random_range(0..3)]
    }
}

impl Rest {
    /// The next piece, and how long it takes; nothing when there is none.
    fn next(self) -> Option<(Bytes, Duration)> {
        match self {
            Rest::Nothing => None,
            Rest::Drops => Some((Bytes::from_static(b" "), Duration::from_millis(500))),
            Rest::Flood => Some((Bytes::from_static(&[b' '; 16 << 10]), Duration::from_millis(5))),
        }
    }
}

/// The head as it is, half of the body, and then nothing, a byte now and then, or more and more. An answer without a body goes through as it is. It is broken off when the trouble is `over`, or
/// never.
pub async fn endless(
    answer: Response<Incoming>,
    rest: Rest,
    over: Option<watch::Receiver<Option<Trouble>>>,
) -> Result<Response<Body>, Error> {
    let (mut head, body) = answer.into_parts();
    let bytes = body.collect().await?.to_bytes();
    if bytes.is_empty() {
        return Ok(Response::from_parts(head, full(bytes)));
    }
    if rest != Rest::Nothing {
        // There may be more than was announced.
        head.headers.remove(header::CONTENT_LENGTH);
    }
    let (pieces, stream) = mpsc::channel(1);
    tokio::spawn(async move {
        let end = async {
            match over {
                None => std::future::pending().await,
                Some(mut trouble) => {
                    drop(trouble.wait_for(|trouble| *trouble != Some(Trouble::Endless)).await)
                }
            }
        };
        let half = bytes.slice(..bytes.len() / 2);
        tokio::select! {
            () = write(half, rest, &pieces) => {}
            () = pieces.closed() => {}
            () = end => drop(pieces.send(Err(Error::from("it is broken off"))).await),
        }
    });
    Ok(Response::from_parts(head, BodyExt::boxed(StreamBody::new(ReceiverStream::new(stream)))))
}

/// Ends only when nobody takes it any more.
async fn write(half: Bytes, rest: Rest, pieces: &mpsc::Sender<Result<Frame<Bytes>, Error>>) {
    if pieces.send(Ok(Frame::data(half))).await.is_err() {
        return;
    }
    while let Some((piece, after)) = rest.next() {
        tokio::time::sleep(after).await;
        if pieces.send(Ok(Frame::data(piece))).await.is_err() {
            return;
        }
    }
    std::future::pending().await
}
