//! Contents of files, kept between builds: `content/ab/abcdef…`, named by their sha256.
//!
//! A file is there whole or not at all: it is written beside, checked, and renamed. What an attempt uses is
//! pinned ([`Pins`]) and stays, also beyond the bound; of the rest, what was not used for longest goes first.
//!
//! Invariants: the bytes of all kept files are at most the bound, or nothing is kept that isn't pinned; a
//! file under a digest's name has that digest. No call here is quick enough for a thread that must not
//! block, but [`Pins::open`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use farm_types::Digest;
use farm_types::digest::Hasher;

/// A use is written to disk (as the file's modification time) when the last one that was is this old.
const USE_IS_OLD: Duration = Duration::from_secs(600);

/// The cache. See the module's text.
#[derive(Debug)]
pub struct ContentCache {
    folder: PathBuf,
    parts: PathBuf,
    bound: u64,
    next_part: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<Digest, Kept>,
    bytes: u64,
    /// How many hold each digest, whether its file is there or still to come.
    pins: HashMap<Digest, usize>,
    /// Kept files that nobody holds, by the time of their last use.
    idle: BTreeMap<u64, Digest>,
    clock: u64,
}

#[derive(Debug)]
struct Kept {
    size: u64,
    stamped: SystemTime,
    /// Its place in `idle`, when nobody holds it.
    idle_at: Option<u64>,
}

impl ContentCache {
    /// Opens the cache below this folder, with what a former life left there, bounded by so many bytes.
    ///
    /// # Errors
    /// The folder can't be made or read.
    pub fn open(state_dir: &Path, bound: u64) -> io::Result<Self> {
        let folder = state_dir.join("content");
        let parts = folder.join("part");
        match fs::remove_dir_all(&parts) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(&parts)?,
        }
        let mut found = Vec::new();
        for shelf in fs::read_dir(&folder)? {
            let shelf = shelf?;
            if shelf.path() == parts || !shelf.file_type()?.is_dir() {
                continue;
            }
            for entry in fs::read_dir(shelf.path())? {
                let entry = entry?;
                let metadata = entry.metadata()?;
                let digest = format!("sha256:{}", entry.file_name().to_string_lossy()).parse::<Digest>();
                match digest {
                    Ok(digest) if metadata.is_file() => {
                        found.push((metadata.modified()?, digest, metadata.len()));
                    }
                    _ => tracing::warn!(file = %entry.path().display(), "not the cache's; left alone"),
                }
            }
        }
        found.sort_unstable();
        let mut state = State::default();
        for (stamped, digest, size) in found {
            state.bytes += size;
            state.files.insert(digest, Kept { size, stamped, idle_at: None });
            state.rest(digest);
        }
        let cache = Self { folder, parts, bound, next_part: AtomicU64::new(0), state: Mutex::new(state) };
        cache.evict(&mut cache.lock());
        Ok(cache)
    }

    /// Holds these contents (digest and bytes), and tells which of them are not there. They stay, or stay
    /// when they come, until the pins are dropped. A kept file of another length is damaged, and dropped.
    pub fn pin(
        self: &Arc<Self>,
        wanted: impl IntoIterator<Item = (Digest, u64)>,
    ) -> (Pins, BTreeSet<Digest>) {
        let now = SystemTime::now();
        let mut missing = BTreeSet::new();
        let mut held = BTreeSet::new();
        let mut state = self.lock();
        for (digest, size) in wanted {
            if !held.insert(digest) {
                continue;
            }
            *state.pins.entry(digest).or_default() += 1;
            match state.files.get_mut(&digest) {
                Some(kept) if kept.size == size => {
                    let idle_at = kept.idle_at.take();
                    let is_old = now.duration_since(kept.stamped).is_ok_and(|age| age >= USE_IS_OLD);
                    if is_old {
                        kept.stamped = now;
                    }
                    if let Some(place) = idle_at {
                        state.idle.remove(&place);
                    }
                    // If the file was removed meanwhile, that is found out when it is opened.
                    if is_old && let Ok(file) = File::open(self.path(&digest)) {
                        let _ = file.set_modified(now);
                    }
                }
                Some(_) => {
                    tracing::warn!(%digest, "a cached file has another length; dropped");
                    state.forget(&digest);
                    let _ = fs::remove_file(self.path(&digest));
                    missing.insert(digest);
                }
                None => {
                    missing.insert(digest);
                }
            }
        }
        drop(state);
        (Pins { cache: Arc::clone(self), held }, missing)
    }

    /// Drops all that nobody holds. Gives how many bytes that were.
    pub fn drop_idle(&self) -> u64 {
        let mut state = self.lock();
        let before = state.bytes;
        self.evict_to(&mut state, 0);
        before - state.bytes
    }

    /// How much the kept files take, bytes.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.folder.join(&hex[..2]).join(hex)
    }

    fn evict(&self, state: &mut State) {
        self.evict_to(state, self.bound);
    }

    fn evict_to(&self, state: &mut State, bound: u64) {
        while state.bytes > bound {
            let Some((_, digest)) = state.idle.pop_first() else { return };
            state.forget(&digest);
            if let Err(error) = fs::remove_file(self.path(&digest)) {
                tracing::warn!(%digest, %error, "a cached file can't be removed");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change under the lock is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes a file out of the books.
    fn forget(&mut self, digest: &Digest) {
        if let Some(kept) = self.files.remove(digest) {
            self.bytes -= kept.size;
            if let Some(place) = kept.idle_at {
                self.idle.remove(&place);
            }
        }
    }

    /// Nobody holds this file any more: it was used just now.
    fn rest(&mut self, digest: Digest) {
        if let Some(kept) = self.files.get_mut(&digest) {
            self.clock += 1;
            kept.idle_at = Some(self.clock);
            self.idle.insert(self.clock, digest);
        }
    }
}

/// Holds contents in the cache until it is dropped.
#[derive(Debug)]
pub struct Pins {
    cache: Arc<ContentCache>,
    held: BTreeSet<Digest>,
}

impl Pins {
    /// Opens a held file for reading.
    ///
    /// # Errors
    /// It is not there; then it is fetched again the next time.
    pub fn open(&self, digest: &Digest) -> io::Result<File> {
        File::open(self.cache.path(digest)).inspect_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                self.cache.lock().forget(digest);
            }
        })
    }

    /// Begins to write a held content.
    ///
    /// # Errors
    /// The disk doesn't take it.
    pub fn write(&self, digest: Digest) -> io::Result<Writer<'_>> {
        let number = self.cache.next_part.fetch_add(1, Ordering::Relaxed);
        let path = self.cache.parts.join(number.to_string());
        let file = File::create_new(&path)?;
        Ok(Writer { pins: self, digest, path, file, hasher: Hasher::new(), size: 0 })
    }

    /// Writes a whole held content.
    ///
    /// # Errors
    /// As [`Writer::commit`].
    pub fn put(&self, digest: Digest, content: &[u8]) -> io::Result<()> {
        let mut writer = self.write(digest)?;
        writer.append(content)?;
        writer.commit()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut state = self.cache.lock();
        for digest in &self.held {
            let Some(count) = state.pins.get_mut(digest) else { continue };
            *count -= 1;
            if *count == 0 {
                state.pins.remove(digest);
                state.rest(*digest);
            }
        }
        self.cache.evict(&mut state);
    }
}

/// A content on its way into the cache. Dropped without a commit, it leaves nothing.
#[derive(Debug)]
pub struct Writer<'a> {
    pins: &'a Pins,
    digest: Digest,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    size: u64,
}

impl Writer<'_> {
    /// Adds bytes.
    ///
    /// # Errors
    /// The disk doesn't take them.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.size += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.file.write_all(bytes)
    }

    /// Bytes so far.
    pub fn written(&self) -> u64 {
        self.size
    }

    /// Puts the content in its place, if it is what its digest says.
    ///
    /// # Errors
    /// It is not ([`io::ErrorKind::InvalidData`]), or the disk doesn't take it.
    pub fn commit(self) -> io::Result<()> {
        let digest = self.digest;
        if self.hasher.clone().finish() != digest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is not {}", digest.short())));
        }
        let cache = &self.pins.cache;
        let place = cache.path(&digest);
        if let Some(shelf) = place.parent() {
            fs::create_dir_all(shelf)?;
        }
        fs::rename(&self.path, &place)?;
        let mut state = cache.lock();
        state.forget(&digest);
        state.bytes += self.size;
        let kept = Kept { size: self.size, stamped: SystemTime::now(), idle_at: None };
        state.files.insert(digest, kept);
        if !state.pins.contains_key(&digest) {
            state.rest(digest);
        }
        cache.evict(&mut state);
        Ok(())
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        // After a commit there is nothing under this name.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
