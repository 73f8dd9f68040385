//! Sources from archives at web addresses: an archive becomes a folder of files.
//!
//! [`Archives::open`] once in a worker's life, then for each source [`Archives::fetch`]: [`get`] asks the host and whom it leads to for
//! the bytes, which go into a file, and `farm_source::brought` unpacks that. What it gives is a folder for as long as it lives.
//!
//! Invariants: only https, and only to addresses that were judged ([`crate::git::guard`]), each one that it is led to as the first;
//! nothing is shown to a host but the address; what comes is bounded in bytes, packed and unpacked, in entries and in time.

mod get;
mod order;
#[cfg(test)]
mod server;
#[cfg(test)]
mod tests;

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farm_client::Trust;
use farm_source::brought::{NotUnpacked, unpack_file};
use farm_source::{Limits, Unpacked};
use farm_types::{Digest, FailureCode};
use tokio_util::sync::CancellationToken;

use self::get::Got;
use self::order::Bounds;
pub use self::order::{ArchiveLimits, ArchiveOrder};
use crate::git::{FetchError, disk, trouble, user};

/// Fetches sources from archives.
#[derive(Debug)]
pub struct Archives {
    scratch: PathBuf,
    trust: Trust,
}

/// An archive that was fetched: its folder is there for as long as this lives.
#[derive(Debug)]
pub struct Opened {
    /// What was in it.
    pub unpacked: Unpacked,
    /// Where that lies: it goes when what was unpacked has gone.
    pub place: Place,
    /// The digest of its bytes, as they came.
    pub digest: Digest,
}

/// A folder of one fetch. Removed with the value, which blocks; what stays is told.
#[derive(Debug)]
pub struct Place(PathBuf);

impl Place {
    fn new(scratch: &Path) -> io::Result<Self> {
        tempfile::Builder::new().prefix("fetch-").tempdir_in(scratch).map(|folder| Self(folder.keep()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "what an archive left can't be removed; remove it");
        }
    }
}

impl Archives {
    /// Makes ready in this folder. What a former life was at is cleared away, as far as that can be. Blocks.
    ///
    /// # Errors
    /// The folder can't be used.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(folder = %folder.display(), %error, "what archives left can't be removed; remove it");
            }
            _ => {}
        }
        fs::create_dir_all(&folder)?;
        fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
        Ok(Self { scratch: folder, trust: Trust::System })
    }

    /// Believes these and no others.
    #[cfg(test)]
    fn trusting(self, trust: Trust) -> Self {
        Self { trust, ..self }
    }

    /// Fetches an archive and unpacks it, telling `say` what is done.
    ///
    /// # Errors
    /// It is refused, isn't there, is none, or is too much, each with its own code; or it was told to stop.
    pub async fn fetch(
        &self,
        order: &ArchiveOrder,
        stop: &CancellationToken,
        mut say: impl FnMut(&str) + Send,
    ) -> Result<Opened, FetchError> {
        let bounds = Arc::new(Bounds::begin(&order.source.archive, order.limits, stop));
        say(&format!("fetching {}", order.source.archive));
        let place = self.scratch.clone();
        let file = tokio::task::spawn_blocking(move || tempfile::tempfile_in(&place)).await;
        let file = file
            .map_err(|error| bug(&error.to_string()))?
            .map_err(|error| disk("no file for an archive can be made", &error))?;
        let got = get::get(order, &self.trust, file, &bounds, &mut say).await?;
        let Got { file, digest, bytes } = got;
        if let Some(wanted) = order.source.checksum.filter(|wanted| *wanted != digest) {
            let text = format!(
                "{} is {digest}, and it is to be {wanted}; see which of the two is right",
                order.source.archive
            );
            return Err(user(FailureCode::ArchiveChecksum, text));
        }
        say(&format!("{bytes} bytes, {digest}"));
        let (scratch, bounded) = (self.scratch.clone(), Arc::clone(&bounds));
        let unpacking = tokio::task::spawn_blocking(move || {
            let place =
                Place::new(&scratch).map_err(|error| disk("no folder for an archive can be made", &error))?;
            unpack(file, &place.0, &bounded).map(|unpacked| (unpacked, place))
        });
        let (unpacked, place) = unpacking.await.map_err(|error| bug(&error.to_string()))??;
        Ok(Opened { unpacked, place, digest })
    }
}

/// Blocks.
fn unpack(file: fs::File, place: &Path, bounds: &Bounds) -> Result<Unpacked, FetchError> {
    let limits = Limits { bytes: bounds.limits.bytes, entries: bounds.limits.files, goes_on: bounds };
    unpack_file(file, place, limits).map_err(|error| match error {
        NotUnpacked::TooLarge => bounds.too_large(),
        NotUnpacked::TooMany => bounds.too_many(),
        NotUnpacked::BrokenOff => bounds.over(),
        NotUnpacked::Text => {
            let text = format!(
                "{0} is a text and no archive; a Dockerfile alone isn't fetched, so bring it by standard input: curl -fsSL URL | farm \
                 submit - …",
                bounds.url
            );
            user(FailureCode::ArchiveUnusable, text)
        }
        NotUnpacked::Unusable(why) => user(FailureCode::ArchiveUnusable, format!("{} {why}", bounds.url)),
        NotUnpacked::Disk(error) => disk("an archive can't be unpacked", &error),
    })
}

fn bug(why: &str) -> FetchError {
    trouble(FailureCode::WorkerBug, format!("an archive's task ended: {why}"))
}
