//! What went wrong the last time, and when it is tried again: so that one bad thing costs itself only.
//!
//! In memory of the leader, and bounded: whoever leads next begins anew. When there is no room, what is due first gives way.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use farm_core::work::again::backoff;

/// How many things are remembered at most.
const MOST: usize = 1024;

/// What went wrong lately, by its key, and when it is due again.
#[derive(Debug)]
pub(super) struct PutOff<K>(HashMap<K, Entry>);

#[derive(Debug, Clone, Copy)]
struct Entry {
    tries: u32,
    due: Instant,
}

impl<K> Default for PutOff<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Clone + Eq + Hash> PutOff<K> {
    /// It went wrong once more. Gives how often in a row, and how long it waits: from a second up to a minute.
    pub(super) fn failed(&mut self, key: K, now: Instant) -> (u32, Duration) {
        self.failed_by(key, now, |tries| backoff(tries, rand::random::<f64>()))
    }

    /// As [`Self::failed`], but it waits for as long as `wait` makes of how often it went wrong in a row.
    pub(super) fn failed_by(
        &mut self,
        key: K,
        now: Instant,
        wait: impl Fn(u32) -> Duration,
    ) -> (u32, Duration) {
        if self.0.len() >= MOST && !self.0.contains_key(&key) {
            let first = self.0.iter().min_by_key(|(_, entry)| entry.due).map(|(key, _)| key.clone());
            first.and_then(|first| self.0.remove(&first));
        }
        let tries = self.0.get(&key).map_or(0, |entry| entry.tries).saturating_add(1);
        let wait = wait(tries);
        self.0.insert(key, Entry { tries, due: now + wait });
        (tries, wait)
    }

    /// It went well, or is somebody else's now.
    pub(super) fn forget(&mut self, key: &K) {
        self.0.remove(key);
    }

    /// Whether it isn't due yet.
    pub(super) fn waits(&self, key: &K, now: Instant) -> bool {
        self.0.get(key).is_some_and(|entry| entry.due > now)
    }

    /// All that aren't due yet.
    pub(super) fn waiting(&self, now: Instant) -> impl Iterator<Item = &K> {
        self.0.iter().filter(move |(_, entry)| entry.due > now).map(|(key, _)| key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_waits_longer_each_time_and_is_forgotten_when_it_goes_well() {
        let (mut put_off, now) = (PutOff::default(), Instant::now());
        let (tries, first) = put_off.failed("a", now);
        assert_eq!(tries, 1);
        assert!(put_off.waits(&"a", now) && !put_off.waits(&"b", now));
        assert!(!put_off.waits(&"a", now + first));
        for _ in 0..8 {
            put_off.failed("a", now);
        }
        let (tries, last) = put_off.failed("a", now);
        assert!(tries == 10 && last > first * 4, "{first:?}, {last:?}");
        put_off.forget(&"a");
        assert_eq!((put_off.waiting(now).count(), put_off.failed("a", now).0), (0, 1));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut put_off, now) = (PutOff::default(), Instant::now());
        for key in 0..MOST + 10 {
            put_off.failed(key, now);
        }
        assert_eq!(put_off.0.len(), MOST);
        assert!(put_off.waits(&(MOST + 9), now));
    }
}
