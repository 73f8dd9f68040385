//! The times under which files are served, so that an engine sees every edit.
//!
//! An engine keeps the tree that it was sent last under a shared key, and tells changed files by path, mode,
//! size and modification time alone (fsutil). An edit that keeps all four would build the old content. So
//! this remembers which content was served under which of them; a file that has them in common with another
//! content is served a nanosecond later, or as many as it takes. All others keep their own times: whoever
//! compares times in a build (`make`) sees those of the source.
//!
//! Invariant: under one shared key, equal path, mode, size and time mean equal content. The memory is this
//! process's, so the shared keys are too: after a restart the engine is sent everything once more.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::{Mutex, PoisonError};

use farm_types::Digest;

/// Files that are remembered; beyond it all is forgotten, and the shared keys change. About 50 MB.
const MOST: usize = 2_000_000;

/// What was served by this process to one engine.
#[derive(Debug)]
pub(crate) struct Served {
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    generation: uuid::Uuid,
    contents: HashMap<u64, u64>,
}

impl Default for Served {
    fn default() -> Self {
        let known = Known { generation: uuid::Uuid::new_v4(), contents: HashMap::new() };
        Self { known: Mutex::new(known) }
    }
}

impl Served {
    /// The shared key for a solve, which is this memory's own.
    pub(crate) fn shared_key(&self, key: &str) -> String {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contents.len() > MOST {
            *known = Known { generation: uuid::Uuid::new_v4(), contents: HashMap::new() };
        }
        format!("{} {key}", known.generation)
    }

    /// The time for a file under a shared key: its own, or the first one after it that is free.
    pub(crate) fn time(
        &self,
        shared_key: &str,
        path: &str,
        mode: u32,
        size: u64,
        mtime: i64,
        digest: &Digest,
    ) -> i64 {
        let content = hash(digest.as_bytes());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut time = mtime;
        loop {
            let place = hash(&(shared_key, path, mode, size, time));
            if *known.contents.entry(place).or_insert(content) == content {
                return time;
            }
            time = time.wrapping_add(1);
        }
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_keep_their_times_unless_another_content_had_the_same() {
        let served = Served::default();
        let key = served.shared_key("k");
        let time = |path: &str, mtime, content: &[u8]| {
            served.time(&key, path, 0o644, 1, mtime, &Digest::of(content))
        };
        assert_eq!(time("a", 5, b"one"), 5);
        assert_eq!(time("b", 5, b"two"), 5);
        assert_eq!(time("a", 5, b"two"), 6, "an edit that keeps everything is seen");
        assert_eq!(time("a", 5, b"three"), 7);
        assert_eq!(time("a", 5, b"two"), 6, "and has one time for good");
        assert_eq!(time("a", 5, b"one"), 5, "so has what was there before");
        assert_eq!(time("a", 6, b"one"), 8, "whose time is not taken by another");
        assert_eq!(served.time(&served.shared_key("other"), "a", 0o644, 1, 5, &Digest::of(b"two")), 5);
        assert_ne!(key, Served::default().shared_key("k"), "another process, another key");
    }
}
