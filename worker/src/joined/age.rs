//! How old a certificate is, reckoned by clocks that may be wrong.
//!
//! The farm says how long a certificate lives, not until when. While the worker runs, that is measured by a clock which nobody
//! sets; over its starts by the machine's own, which somebody may. Whichever says first that another one is due is believed:
//! to ask too early costs one call.

use std::time::Duration;

use tokio::time::Instant;

/// How long after its end a certificate may still be renewed.
pub const GRACE: Duration = Duration::from_secs(24 * 3600);
/// A clock that is set back by less is one that was put right.
const SLACK: Duration = Duration::from_secs(60);

/// When a certificate was issued, by this machine's clock, and how long it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// When it came, as Unix time.
    pub issued_ms: i64,
    pub lives: Duration,
    /// After so long another one is to be asked for.
    pub renew: Duration,
}

impl Times {
    /// How old it is; `None`: by this clock it wasn't issued yet.
    fn age(&self, now_ms: i64) -> Option<Duration> {
        match u64::try_from(now_ms.saturating_sub(self.issued_ms)) {
            Ok(ms) => Some(Duration::from_millis(ms)),
            Err(_) => {
                let behind = Duration::from_millis(self.issued_ms.saturating_sub(now_ms).unsigned_abs());
                (behind <= SLACK).then_some(Duration::ZERO)
            }
        }
    }

    /// Whether its end is over, by this clock.
    pub fn has_ended(&self, now_ms: i64) -> bool {
        self.age(now_ms).is_some_and(|age| age >= self.lives)
    }

    /// Whether it is too old to be renewed, by this clock.
    pub fn is_lost(&self, now_ms: i64) -> bool {
        self.age(now_ms).is_some_and(|age| age >= self.lives + GRACE)
    }

    /// Its end, as Unix time.
    pub fn ends_ms(&self) -> i64 {
        self.issued_ms.saturating_add(i64::try_from(self.lives.as_millis()).unwrap_or(i64::MAX))
    }
}

/// A certificate's times, seen from a moment of this process.
#[derive(Debug, Clone, Copy)]
pub struct Age {
    times: Times,
    /// When this was looked at first.
    seen: Instant,
    /// How old it was then. Of a certificate that isn't issued yet nothing is known: it counts as due.
    then: Duration,
}

impl Age {
    /// As it is now.
    pub fn new(times: Times, now: Instant, now_ms: i64) -> Self {
        Self { times, seen: now, then: times.age(now_ms).unwrap_or(times.renew) }
    }

    /// The times that it was made of.
    pub fn times(&self) -> Times {
        self.times
    }

    fn known(&self, now: Instant, now_ms: i64) -> Duration {
        let measured = self.then.saturating_add(now.saturating_duration_since(self.seen));
        measured.max(self.times.age(now_ms).unwrap_or_default())
    }

    /// How long until another one is to be asked for; zero: it is due.
    pub fn due_in(&self, now: Instant, now_ms: i64) -> Duration {
        self.times.renew.saturating_sub(self.known(now, now_ms))
    }

    /// Whether its end is over.
    pub fn has_ended(&self, now: Instant, now_ms: i64) -> bool {
        self.known(now, now_ms) >= self.times.lives
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const HOUR_MS: i64 = 3_600_000;

    fn times() -> Times {
        Times { issued_ms: 1_000 * HOUR_MS, lives: 24 * HOUR, renew: 16 * HOUR }
    }

    fn at(hours: i64) -> i64 {
        (1_000 + hours) * HOUR_MS
    }

    #[test]
    fn it_is_due_when_either_clock_says_so() {
        let now = Instant::now();
        let age = Age::new(times(), now, at(0));
        assert_eq!(age.due_in(now, at(0)), 16 * HOUR);
        // Nobody set the clock.
        assert_eq!(age.due_in(now + 6 * HOUR, at(6)), 10 * HOUR);
        // The machine slept: what measures stood still.
        assert_eq!(age.due_in(now + HOUR, at(17)), Duration::ZERO);
        // Somebody has set the clock back by a day.
        assert_eq!(age.due_in(now + 16 * HOUR, at(-8)), Duration::ZERO);
        assert!(!age.has_ended(now + 16 * HOUR, at(-8)) && age.has_ended(now + 24 * HOUR, at(0)));
        assert!(age.has_ended(now, at(24)));
    }

    #[test]
    fn over_a_start_the_machines_clock_counts_and_one_that_is_behind_makes_it_due() {
        let now = Instant::now();
        assert_eq!(Age::new(times(), now, at(15)).due_in(now, at(15)), HOUR);
        assert_eq!(Age::new(times(), now, at(40)).due_in(now, at(40)), Duration::ZERO);
        let behind = Age::new(times(), now, at(-1));
        assert_eq!(behind.due_in(now, at(-1)), Duration::ZERO);
        assert!(!behind.has_ended(now, at(-1)));
        // A second back is a clock that was put right.
        let put_right = Age::new(times(), now, at(0) - 1_000);
        assert_eq!(put_right.due_in(now, at(0) - 1_000), 16 * HOUR);
    }

    #[test]
    fn what_ended_may_be_renewed_for_a_day() {
        let times = times();
        assert!(!times.has_ended(at(23)) && times.has_ended(at(24)));
        assert!(!times.is_lost(at(47)) && times.is_lost(at(48)));
        assert!(!times.has_ended(at(-5)) && !times.is_lost(at(-5)));
        assert_eq!(times.ends_ms(), at(24));
    }
}
