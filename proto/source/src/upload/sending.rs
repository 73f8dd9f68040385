//! What the parts of an upload share: how far it is, why a session ended, and how digests travel.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use farm_types::Digest;
use tonic::Status;

use super::UploadError;

/// How far an upload is, for whoever looks on.
#[derive(Debug, Default)]
pub struct Sending {
    sent: AtomicU64,
    total: AtomicU64,
}

impl Sending {
    /// Bytes that were sent, of so many; `None` while it isn't known how many there are.
    pub fn bytes(&self) -> Option<(u64, u64)> {
        let total = self.total.load(Ordering::Relaxed);
        (total > 0).then(|| (self.sent.load(Ordering::Relaxed).min(total), total))
    }

    /// So many bytes were sent by now, also in sessions that broke.
    pub(super) fn so_far(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// So many bytes more were sent.
    pub(super) fn add(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many more are to be sent.
    pub(super) fn expect(&self, more: u64) {
        // What a broken session has sent was not for nothing, but is sent no more.
        self.total.store(self.sent.load(Ordering::Relaxed) + more, Ordering::Relaxed);
    }
}

/// Why a session ended.
pub(super) enum Broken {
    Status(Status),
    Local(UploadError),
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<UploadError> for Broken {
    fn from(error: UploadError) -> Self {
        Self::Local(error)
    }
}

/// A digest as messages have it.
pub(super) fn raw(digest: &Digest) -> Bytes {
    Bytes::copy_from_slice(digest.as_bytes())
}
