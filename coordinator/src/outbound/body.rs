//! Bodies of answers, read up to a number of bytes and a moment.

use reqwest::Response;
use tokio::time::{Instant, timeout_at};

/// What was read, and why no more.
#[derive(Debug)]
pub struct Body {
    /// At most as much as was asked for.
    pub bytes: Vec<u8>,
    pub end: End,
}

/// How a body ended.
#[derive(Debug)]
pub enum End {
    /// All of it is there.
    Whole,
    /// It goes on.
    TooLong,
    /// The connection broke, or it was shorter than announced.
    Broken(reqwest::Error),
    /// It wasn't there in time.
    Late,
}

/// Reads a body of at most `most` bytes until `deadline`. Cancelled, it has read some of it.
pub(crate) async fn read(response: &mut Response, most: usize, deadline: Instant) -> Body {
    let mut bytes = Vec::new();
    let end = loop {
        match timeout_at(deadline, response.chunk()).await {
            Ok(Ok(Some(piece))) if bytes.len() + piece.len() <= most => bytes.extend_from_slice(&piece),
            Ok(Ok(Some(piece))) => {
                let room = most - bytes.len();
                bytes.extend(piece.iter().take(room));
                break End::TooLong;
            }
            Ok(Ok(None)) => break End::Whole,
            Ok(Err(error)) => break End::Broken(error),
            Err(_) => break End::Late,
        }
    };
    Body { bytes, end }
}
