//! Bodies of requests: bounded in length, in time and in what all that are under way take of memory.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A body has so long to come.
const BODY: Duration = Duration::from_secs(20);
/// What all bodies that are under way may take of memory. Who finds none comes back.
#[derive(Debug, Clone)]
pub struct Memory {
    free: Arc<Semaphore>,
    piece_kib: usize,
}

/// A body, and what it holds of memory until it is dropped.
#[derive(Debug)]
pub struct Held {
    pub bytes: Bytes,
    _permits: Vec<OwnedSemaphorePermit>,
}

impl Memory {
    /// So many KiB, which are taken by pieces of so many, so that a long body holds few permits.
    pub fn new(kib: usize, piece_kib: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(kib)), piece_kib }
    }

    /// Reads a body of at most so many bytes.
    ///
    /// # Errors
    /// What is answered: it is too long (413), comes too slowly (408) or breaks off (400), or there is no memory for it now (503).
    pub async fn read(&self, headers: &HeaderMap, body: Incoming, most: usize) -> Result<Held, StatusCode> {
        let length = headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > most) {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        let read = tokio::time::timeout(BODY, self.take(body, most)).await;
        read.unwrap_or(Err(StatusCode::REQUEST_TIMEOUT))
    }

    async fn take(&self, mut body: Incoming, most: usize) -> Result<Held, StatusCode> {
        let (mut whole, mut permits, mut paid) = (BytesMut::new(), Vec::new(), 0_usize);
        while let Some(frame) = poll_fn(|task| Pin::new(&mut body).poll_frame(task)).await {
            let frame = frame.map_err(|_| StatusCode::BAD_REQUEST)?;
            let Ok(data) = frame.into_data() else { continue };
            if whole.len() + data.len() > most {
                return Err(StatusCode::PAYLOAD_TOO_LARGE);
            }
            whole.extend_from_slice(&data);
            let more = whole.len().saturating_sub(paid);
            if more > 0 {
                let kib = more.div_ceil(self.piece_kib * 1024) * self.piece_kib;
                let count = u32::try_from(kib).unwrap_or(u32::MAX);
                let permit = Arc::clone(&self.free).try_acquire_many_owned(count);
                permits.push(permit.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?);
                paid += kib * 1024;
            }
        }
        Ok(Held { bytes: whole.freeze(), _permits: permits })
    }
}
