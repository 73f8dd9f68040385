//! One writer of a tag at a time, within this process: also of tags under which lists are read, and written over with one entry more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// One lock per tag that somebody works on.
#[derive(Debug, Default)]
pub(super) struct TagLocks(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl TagLocks {
    /// That of `REPOSITORY:TAG`.
    pub(super) fn of(&self, tag: String) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(&tag).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        locks.insert(tag, Arc::downgrade(&lock));
        lock
    }
}
