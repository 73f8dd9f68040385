//! How long to wait between tries: twice as long each time, up to a limit.
//!
//! Neither clock nor chance is in here: who waits says how much of each wait is left to chance.

use std::time::Duration;

/// The waits between tries: the first one, doubled after each further failure up to the longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    first: Duration,
    longest: Duration,
}

impl Waits {
    /// From the first wait to the longest.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// The wait after so many failures in a row; none after none.
    pub fn after(self, failures: u32) -> Duration {
        let doublings = match failures {
            0 => return Duration::ZERO,
            failures => failures - 1,
        };
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest)
    }

    /// The wait after so many failures, times 0.5 (at a `jitter` of 0) to 1 (at a `jitter` of 1), so that many who lost the
    /// same thing don't come back all at once. `jitter` is drawn anew for each wait.
    pub fn jittered(self, failures: u32, jitter: f64) -> Duration {
        self.after(failures).mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
    }
}

/// A place in these waits, for who tries again until it works.
#[derive(Debug, Clone)]
pub struct Backoff {
    waits: Waits,
    failures: u32,
}

impl Backoff {
    /// Before the first failure.
    pub const fn new(waits: Waits) -> Self {
        Self { waits, failures: 0 }
    }

    /// Counts a failure; answers the wait before the next try.
    pub fn next_wait(&mut self) -> Duration {
        self.next_jittered(1.0)
    }

    /// As [`Self::next_wait`], shortened as [`Waits::jittered`] says.
    pub fn next_jittered(&mut self, jitter: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        self.waits.jittered(self.failures, jitter)
    }

    /// Starts over: something worked.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WAITS: Waits = Waits::new(Duration::from_millis(200), Duration::from_secs(5));

    #[test]
    fn waits_double_up_to_the_longest_and_start_over() {
        let mut backoff = Backoff::new(WAITS);
        let millis: Vec<u128> = (0..7).map(|_| backoff.next_wait().as_millis()).collect();
        assert_eq!(millis, [200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.next_jittered(0.0), Duration::from_millis(100));
        assert_eq!(WAITS.after(0), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn chance_takes_at_most_half_of_a_wait(failures: u32, jitter: f64) {
            let (whole, wait) = (WAITS.after(failures), WAITS.jittered(failures, jitter));
            prop_assert!(wait <= whole && wait >= whole / 2);
            prop_assert!(whole <= WAITS.longest);
        }
    }
}
