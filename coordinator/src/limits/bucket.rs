//! Buckets of calls: each key has one that holds what a minute allows, and fills up again as time goes by. Time comes in.
//!
//! A bucket that is full again is forgotten, so what is remembered are those who called within the last minute.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// So many keys are remembered; whoever comes beyond that isn't counted.
const MANY: usize = 100_000;

/// A bucket for each key.
#[derive(Debug)]
pub struct Buckets<K> {
    per_minute: u32,
    all: Mutex<HashMap<K, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl<K: Eq + Hash + Clone> Buckets<K> {
    /// Each holds `per_minute` calls; 0: nothing is counted.
    pub fn new(per_minute: u32) -> Self {
        Self { per_minute, all: Mutex::default() }
    }

    /// What a minute allows.
    pub fn per_minute(&self) -> u32 {
        self.per_minute
    }

    /// Takes a call out of the bucket.
    ///
    /// # Errors
    /// It is empty: how long until there is one again.
    pub fn take(&self, key: &K, now: Instant) -> Result<(), Duration> {
        self.weigh(key, now, 1.0)
    }

    /// The same without taking it.
    ///
    /// # Errors
    /// It is empty: how long until there is one again.
    pub fn look(&self, key: &K, now: Instant) -> Result<(), Duration> {
        self.weigh(key, now, 0.0)
    }

    /// Forgets the buckets that are full.
    pub fn forget(&self, now: Instant) {
        let most = f64::from(self.per_minute);
        self.all().retain(|_, bucket| self.left(*bucket, now) < most);
    }

    fn weigh(&self, key: &K, now: Instant, taken: f64) -> Result<(), Duration> {
        if self.per_minute == 0 {
            return Ok(());
        }
        let most = f64::from(self.per_minute);
        let mut all = self.all();
        let left = all.get(key).map_or(most, |bucket| self.left(*bucket, now));
        if left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - left) * 60.0 / most));
        }
        if taken > 0.0 && (all.len() < MANY || all.contains_key(key)) {
            all.insert(key.clone(), Bucket { left: left - taken, at: now });
        }
        Ok(())
    }

    fn left(&self, bucket: Bucket, now: Instant) -> f64 {
        let most = f64::from(self.per_minute);
        let came = now.saturating_duration_since(bucket.at).as_secs_f64() * most / 60.0;
        (bucket.left + came).min(most)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<K, Bucket>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_what_a_minute_allows_and_fills_up_again() {
        let buckets = Buckets::new(60);
        let begin = Instant::now();
        for _ in 0..60 {
            buckets.take(&"ada", begin).unwrap();
        }
        let wait = buckets.take(&"ada", begin).unwrap_err();
        assert_eq!(wait, Duration::from_secs(1));
        assert_eq!(buckets.look(&"ada", begin), Err(wait));
        // Others aren't concerned.
        buckets.take(&"bob", begin).unwrap();
        // Whoever comes back when they were told to gets through, once.
        buckets.take(&"ada", begin + wait).unwrap();
        assert!(buckets.take(&"ada", begin + wait).is_err());
        // To look takes nothing.
        for _ in 0..3 {
            buckets.look(&"ada", begin + wait * 2).unwrap();
        }
    }

    #[test]
    fn who_has_not_called_for_a_minute_is_forgotten_and_nobody_is_counted_without_a_limit() {
        let buckets = Buckets::new(60);
        let begin = Instant::now();
        buckets.take(&1, begin).unwrap();
        for _ in 0..60 {
            buckets.take(&2, begin).unwrap();
        }
        buckets.forget(begin + Duration::from_secs(30));
        assert_eq!(buckets.all().keys().collect::<Vec<_>>(), [&2]);
        buckets.forget(begin + Duration::from_secs(61));
        assert!(buckets.all().is_empty());
        let endless = Buckets::new(0);
        assert!((0..1000).all(|_| endless.take(&1, begin).is_ok()) && endless.all().is_empty());
    }
}
