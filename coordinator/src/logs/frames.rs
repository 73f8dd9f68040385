//! The form of a sealed piece: frames end to end, each a zlib stream (RFC 1950, which has a checksum) of chunks, each chunk
//! its length (4 bytes, big-endian) and its payload.
//!
//! A frame holds about a megabyte, so that a reader who goes on from a chunk reads and unpacks no more than that. Which chunk
//! each frame begins with, and where, is in the database.

use std::io::{Read, Write};

use farm_store::logs::events::{Chunk, Frame};
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;

/// As small as the default makes it within a few per cent, in less than half the time.
const LEVEL: u32 = 3;
/// A frame is closed when it holds so much, bytes.
const FRAME_BYTES: usize = 1024 * 1024;
/// No frame unpacks to more: one that is nearly full takes one more chunk.
const LONGEST: u64 = 2 * 1024 * 1024;

/// Why a frame can't be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// It can't be packed or unpacked.
    #[error("{0}")]
    Zlib(#[from] std::io::Error),
    /// What it unpacks to isn't a row of chunks.
    #[error("a frame does not hold what it should")]
    Other,
    /// A chunk of the stream is missing.
    #[error("chunk {0} is missing")]
    Gap(u64),
}

/// Packs chunks into frames.
#[derive(Debug)]
pub struct Packer {
    frames: Vec<Frame>,
    bytes: Vec<u8>,
    raw_bytes: u64,
    last_seq: u64,
    open: Vec<u8>,
}

/// A piece of a sealed stream, ready to be written as one blob.
#[derive(Debug)]
pub struct Packed {
    /// Where each frame lies in `bytes`, and which chunk it begins with.
    pub frames: Vec<Frame>,
    /// The number of the last chunk.
    pub last_seq: u64,
    /// All frames, end to end.
    pub bytes: Vec<u8>,
    /// How long the chunks were before they were packed, bytes.
    pub raw_bytes: u64,
}

impl Packer {
    /// Packs what comes after the chunk with this number; 0: from the stream's beginning.
    pub fn after(seq: u64) -> Self {
        Self { frames: Vec::new(), bytes: Vec::new(), raw_bytes: 0, last_seq: seq, open: Vec::new() }
    }

    /// Adds chunks, which follow each other and those before. Takes about 25 ms of a slow CPU for a megabyte.
    ///
    /// # Errors
    /// The compression fails, or a chunk is missing.
    pub fn add(&mut self, chunks: Vec<Chunk>) -> Result<(), FrameError> {
        for chunk in chunks {
            let length = u32::try_from(chunk.payload.len()).map_err(|_| FrameError::Other)?;
            if chunk.seq != self.last_seq + 1 {
                return Err(FrameError::Gap(self.last_seq + 1));
            }
            if self.open.is_empty() {
                self.frames.push(Frame { first_seq: chunk.seq, start: count(self.bytes.len()) });
            }
            self.open.extend_from_slice(&length.to_be_bytes());
            self.open.extend_from_slice(&chunk.payload);
            self.raw_bytes += u64::from(length);
            self.last_seq = chunk.seq;
            if self.open.len() >= FRAME_BYTES {
                self.close()?;
            }
        }
        Ok(())
    }

    /// Bytes of the chunks so far.
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// The number of the last chunk so far.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Ends the last frame, and gives all of them.
    ///
    /// # Errors
    /// The compression fails.
    pub fn finish(mut self) -> Result<Packed, FrameError> {
        self.close()?;
        Ok(Packed {
            frames: self.frames,
            last_seq: self.last_seq,
            bytes: self.bytes,
            raw_bytes: self.raw_bytes,
        })
    }

    fn close(&mut self) -> Result<(), FrameError> {
        if !self.open.is_empty() {
            let mut encoder = ZlibEncoder::new(&mut self.bytes, Compression::new(LEVEL));
            encoder.write_all(&self.open)?;
            encoder.finish()?;
            self.open.clear();
        }
        Ok(())
    }
}

/// The chunks of a frame, of which the first has the number `first_seq`.
///
/// # Errors
/// It is no frame.
pub fn open(first_seq: u64, bytes: &[u8]) -> Result<Vec<Chunk>, FrameError> {
    let mut raw = Vec::new();
    ZlibDecoder::new(bytes).take(LONGEST).read_to_end(&mut raw)?;
    let mut chunks = Vec::new();
    let mut rest = raw.as_slice();
    for seq in first_seq.. {
        if rest.is_empty() {
            break;
        }
        let (length, behind) = rest.split_first_chunk::<4>().ok_or(FrameError::Other)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| FrameError::Other)?;
        let (payload, behind) = behind.split_at_checked(length).ok_or(FrameError::Other)?;
        chunks.push(Chunk { seq, payload: payload.to_vec() });
        rest = behind;
    }
    Ok(chunks)
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that don't compress well.
    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        (0..length)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[0]
            })
            .collect()
    }

    #[test]
    fn chunks_come_back_as_they_were_from_each_frame_by_itself() {
        let lengths = [0, 1, 262_144, 262_144, 262_144, 262_144, 262_144, 5, 0, 262_144];
        let chunks: Vec<Chunk> =
            (7..).zip(lengths).map(|(seq, length)| Chunk { seq, payload: noise(length, seq) }).collect();
        let mut packer = Packer::after(6);
        packer.add(chunks[..3].to_vec()).unwrap();
        packer.add(chunks[3..].to_vec()).unwrap();
        let packed = packer.finish().unwrap();
        assert_eq!((packed.frames.len(), packed.frames[0].first_seq, packed.last_seq), (2, 7, 16));
        let second = usize::try_from(packed.frames[1].start).unwrap();
        let mut read = open(packed.frames[0].first_seq, &packed.bytes[..second]).unwrap();
        read.extend(open(packed.frames[1].first_seq, &packed.bytes[second..]).unwrap());
        assert!(read == chunks, "they differ");
    }

    #[test]
    fn what_is_broken_or_has_a_gap_is_refused() {
        // The first one counts, too: else a piece would be written that can never be noted.
        let late = vec![Chunk { seq: 5, payload: Vec::new() }];
        assert!(matches!(Packer::after(3).add(late), Err(FrameError::Gap(4))));
        let mut packer = Packer::after(0);
        packer.add(vec![Chunk { seq: 1, payload: noise(1000, 1) }]).unwrap();
        assert!(packer.add(vec![Chunk { seq: 3, payload: Vec::new() }]).is_err());
        let mut bytes = packer.finish().unwrap().bytes;
        assert!(open(1, &bytes[..500]).is_err());
        bytes[500] ^= 1;
        assert!(open(1, &bytes).is_err());
    }
}
