//! Which workers were revoked lately: asked once a second for all of them, so that a thousand workers' open streams, each of which
//! is looked at again and again, cost one statement a second and not a thousand.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// It is asked so often.
pub const EVERY: Duration = Duration::from_secs(1);
/// Each time for what was revoked in so long, so that nothing is missed that took a while to be written.
pub const BACK: Duration = Duration::from_secs(60);
/// Asked with a longer gap, something may have been missed: then all count as asked anew.
const GAP: Duration = Duration::from_secs(30);

/// When it was asked.
#[derive(Debug, Default)]
pub struct Revocations(Mutex<Option<Asked>>);

#[derive(Debug, Clone, Copy)]
struct Asked {
    /// The first of those without a gap between them.
    first: Instant,
    last: Instant,
}

impl Revocations {
    /// It was asked, at this moment, and what was answered is heeded.
    pub fn asked(&self, now: Instant) {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *asked = Some(match *asked {
            Some(before) if now.saturating_duration_since(before.last) < GAP => Asked { last: now, ..before },
            _ => Asked { first: now, last: now },
        });
    }

    /// When somebody of whom was asked at that moment was last known to be none of the revoked.
    pub fn confirmed(&self, then: Instant) -> Instant {
        let asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *asked {
            Some(Asked { first, last }) if first <= then => last.max(then),
            _ => then,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_known_before_a_gap_is_confirmed_by_nothing_after_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let revocations = Revocations::default();
        assert_eq!(revocations.confirmed(at(0)), at(0));
        for second in [10, 11, 12] {
            revocations.asked(at(second));
        }
        // Of whom was asked before it began, something may have been missed.
        assert_eq!(revocations.confirmed(at(9)), at(9));
        assert_eq!(revocations.confirmed(at(10)), at(12));
        assert_eq!(revocations.confirmed(at(15)), at(15));
        revocations.asked(at(100));
        assert_eq!(revocations.confirmed(at(11)), at(11));
        assert_eq!(revocations.confirmed(at(100)), at(100));
    }
}
