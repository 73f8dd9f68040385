//! What is to be fetched, and how much of it at most.

use std::time::Duration;

use farm_source::GoesOn;
use farm_types::{ArchiveSource, ArchiveUrl, Cause, Failure, FailureCode};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::buildkit::Fetches;
use crate::git::{FetchError, user};

/// A source to fetch.
#[derive(Debug)]
pub struct ArchiveOrder {
    /// What.
    pub source: ArchiveSource,
    /// Where farm may go for it: as engines may, by the same lists.
    pub reach: Fetches,
    /// How much at most.
    pub limits: ArchiveLimits,
}

/// How much of an archive is taken at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveLimits {
    /// Bytes: of what comes over the network, and again of the files.
    pub bytes: u64,
    /// Entries.
    pub files: u64,
    /// To fetch and to unpack it.
    pub time: Duration,
}

impl Default for ArchiveLimits {
    /// 2 GiB, 200,000 entries, 5 minutes.
    fn default() -> Self {
        Self { bytes: 2 << 30, files: 200_000, time: Duration::from_secs(300) }
    }
}

/// How far one may go.
#[derive(Debug)]
pub(super) struct Bounds {
    /// What is fetched, for what is said.
    pub(super) url: ArchiveUrl,
    pub(super) limits: ArchiveLimits,
    until: Instant,
    stop: CancellationToken,
}

impl Bounds {
    pub(super) fn begin(url: &ArchiveUrl, limits: ArchiveLimits, stop: &CancellationToken) -> Self {
        Self { url: url.clone(), limits, until: Instant::now() + limits.time, stop: stop.clone() }
    }

    /// What it waits for, unless it is told to stop or time is over.
    pub(super) async fn within<T>(&self, waited: impl Future<Output = T>) -> Result<T, FetchError> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(FetchError::Stopped),
            () = sleep_until(self.until) => Err(self.too_slow()),
            value = waited => Ok(value),
        }
    }

    /// Why it doesn't go on.
    pub(super) fn over(&self) -> FetchError {
        if self.stop.is_cancelled() { FetchError::Stopped } else { self.too_slow() }
    }

    fn too_slow(&self) -> FetchError {
        let text = format!(
            "{} took more than {} s to fetch and to unpack; make it smaller, or look at the network between worker and host",
            self.url,
            self.limits.time.as_secs()
        );
        FetchError::Failed(Box::new(Failure::new(Cause::Deadline, FailureCode::ArchiveTooSlow, text)))
    }

    pub(super) fn too_large(&self) -> FetchError {
        let text = format!(
            "{}, or what is in it, has more than {} bytes, which is the limit; take large files out of it",
            self.url, self.limits.bytes
        );
        user(FailureCode::ArchiveTooLarge, text)
    }

    pub(super) fn too_many(&self) -> FetchError {
        let text = format!(
            "{} has more than {} entries, which is the limit; take some out of it",
            self.url, self.limits.files
        );
        user(FailureCode::ArchiveTooManyFiles, text)
    }
}

impl GoesOn for Bounds {
    fn goes_on(&self) -> bool {
        !self.stop.is_cancelled() && Instant::now() < self.until
    }
}
