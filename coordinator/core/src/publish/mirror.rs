//! When a mirror is copied again.
//!
//! Runs are whole intervals behind an anchor, which lies a little behind the first one by chance: so many mirrors that were asked for at one
//! moment don't come back at one, and none wanders through the day. However many intervals have passed, the next run is one.

use chrono::{DateTime, TimeDelta, Utc};

/// After failures in a row a run comes later: after 2, 4 and at most so many intervals…
const MOST_INTERVALS: i64 = 8;
/// … and no later than so many seconds, unless one interval is longer.
const LONGEST: i64 = 7 * 24 * 3600;

/// When a run was due, began and has ended.
#[derive(Debug, Clone, Copy)]
pub struct Ran {
    /// When it was to begin.
    pub due: DateTime<Utc>,
    /// When it did.
    pub began: DateTime<Utc>,
    /// When it has ended.
    pub ended: DateTime<Utc>,
}

/// When the run is to begin that comes after this one; `failures` in a row have failed, this one with them. After a failure it is at least
/// one interval after this one's begin; else the next whole interval behind the anchor that isn't so near to it that it would be for nothing.
pub fn next(anchor: DateTime<Utc>, ran: Ran, every_seconds: i64, failures: u32) -> DateTime<Utc> {
    let every = every_seconds.max(1);
    // Strictly after now: what ends just when another would begin isn't followed by that at once.
    let now = ran.ended + TimeDelta::seconds(1);
    if failures > 0 {
        let doubled = 1_i64.checked_shl(failures - 1).unwrap_or(MOST_INTERVALS).clamp(1, MOST_INTERVALS);
        let intervals = doubled.min((LONGEST / every).max(1));
        return now.max(ran.began + TimeDelta::seconds(intervals.saturating_mul(every)));
    }
    let earliest = ran.due.max(ran.began - TimeDelta::seconds(every / 2)) + TimeDelta::seconds(every);
    let micros = (earliest.max(now) - anchor).num_microseconds().unwrap_or(0);
    let step = every.saturating_mul(1_000_000);
    let steps = micros.div_euclid(step) + i64::from(micros.rem_euclid(step) > 0);
    anchor + TimeDelta::seconds(steps.saturating_mul(every))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn ran(due: i64, began: i64, ended: i64) -> Ran {
        Ran { due: at(due), began: at(began), ended: at(ended) }
    }

    #[test]
    fn runs_are_whole_intervals_behind_the_anchor_and_dont_wander() {
        let anchor = at(100);
        // The first one is at once, and the others begin a little late.
        assert_eq!(next(anchor, ran(0, 1, 30), HOUR, 0), at(100 + HOUR));
        assert_eq!(next(anchor, ran(100 + HOUR, 103 + HOUR, 200 + HOUR), HOUR, 0), at(100 + 2 * HOUR));
    }

    #[test]
    fn what_was_missed_is_made_up_for_once() {
        let anchor = at(0);
        assert_eq!(next(anchor, ran(HOUR, 50 * HOUR + 7, 50 * HOUR + 9), HOUR, 0), at(51 * HOUR));
        // One that was late by nearly an interval isn't followed at once.
        assert_eq!(next(anchor, ran(HOUR, 51 * HOUR - 60, 51 * HOUR - 30), HOUR, 0), at(52 * HOUR));
        // Nor is one that takes longer than the interval.
        assert_eq!(next(anchor, ran(HOUR, HOUR, 2 * HOUR), HOUR, 0), at(3 * HOUR));
    }

    #[test]
    fn after_failures_it_comes_later_and_never_sooner_than_the_interval() {
        let of = |every: i64, failures: u32| {
            // Due long ago, as all was away.
            (next(at(-50), ran(-9 * every, 0, 5), every, failures) - at(0)).num_seconds() / every
        };
        assert_eq!([1, 2, 3, 4, 5, 40, 100].map(|failures| of(HOUR, failures)), [1, 2, 4, 8, 8, 8, 8]);
        // A day's doubles up to a week, and one of a month stays what it is.
        assert_eq!([1, 2, 3, 4, 9].map(|failures| of(24 * HOUR, failures)), [1, 2, 4, 7, 7]);
        assert_eq!([1, 2, 9].map(|failures| of(30 * 24 * HOUR, failures)), [1, 1, 1]);
        assert_eq!(next(at(0), ran(0, 0, 3 * HOUR), HOUR, 1), at(3 * HOUR + 1));
    }
}
