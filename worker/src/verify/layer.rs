//! One layer, read once from its first byte to its last.
//!
//! Invariant: there is a verdict only of bytes whose digest is the one that the image names, so whoever it is kept for may believe it.
//! Memory is bounded by what is noted, not by the layer.

use std::io::{self, BufReader, Read};

use bytes::Bytes;
use farm_types::Digest;
use farm_types::digest::Hasher;
use farm_types::elf::{HEAD_BYTES, LayerVerdict, architecture, is_excepted};
use flate2::bufread::MultiGzDecoder;
use tokio::sync::mpsc;

use super::tarball::heads;

/// The longest layer that is looked at, unpacked.
pub(crate) const MOST_BYTES: u64 = 64 << 30;
/// The most entries of one.
pub(crate) const MOST_ENTRIES: u64 = 5_000_000;
/// What paths may take in memory.
const PATHS_BYTES: usize = 32 << 20;
/// Read at once.
const BUFFER_BYTES: usize = 256 << 10;

/// Looks through a layer, as it is stored, that comes in pieces; to be called where it may block. Dropping the sender ends it.
///
/// # Errors
/// In words: it is packed in a way that isn't known here, is too long, or isn't what was asked for.
pub(crate) fn look(pieces: mpsc::Receiver<Bytes>, diff_id: &Digest) -> Result<LayerVerdict, String> {
    let packed = BufReader::with_capacity(BUFFER_BYTES, Pieces { pieces, rest: Bytes::new() });
    look_into(packed, diff_id).map_err(|error| error.to_string())
}

fn look_into(mut packed: BufReader<impl Read>, diff_id: &Digest) -> io::Result<LayerVerdict> {
    use std::io::BufRead as _;
    let unpacked: Box<dyn Read> = match packed.fill_buf()? {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(packed)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => return Err(io::Error::other("it is packed with zstd")),
        _ => Box::new(packed),
    };
    let mut reading = Hashed { unpacked, hasher: Hasher::new(), read: 0 };
    let (mut verdict, mut noted) = (LayerVerdict::default(), 0);
    {
        let archive = BufReader::with_capacity(BUFFER_BYTES, &mut reading);
        let mut archive = archive;
        heads::<HEAD_BYTES>(&mut archive, MOST_ENTRIES, |path, head| {
            let Some(architecture) = architecture(head) else { return };
            if !is_excepted(path, architecture) && noted <= PATHS_BYTES {
                noted += path.len() + size_of::<String>();
                verdict.note(architecture, path);
            }
        })?;
        // What follows the archive's end belongs to the layer's digest.
        io::copy(&mut archive, &mut io::sink())?;
    }
    if noted > PATHS_BYTES {
        return Err(io::Error::other("it has too many programs"));
    }
    if reading.hasher.finish() != *diff_id {
        return Err(io::Error::other("it isn't the one that the image names, or was cut off"));
    }
    Ok(verdict)
}

/// The pieces as one stream.
struct Pieces {
    pieces: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.rest = piece,
                None => return Ok(0),
            }
        }
        let length = self.rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.rest.split_to(length));
        Ok(length)
    }
}

/// A stream whose digest is taken as it is read.
struct Hashed<R> {
    unpacked: R,
    hasher: Hasher,
    read: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.unpacked.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        self.read = self.read.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        if self.read > MOST_BYTES {
            return Err(io::Error::other("it is too long"));
        }
        Ok(length)
    }
}

#[cfg(test)]
#[path = "layer_tests.rs"]
mod tests;
