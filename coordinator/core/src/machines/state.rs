//! What hangs on time in a worker's state: whether it is silent, and what people see.
//!
//! The rest of it says the database, in one place (`farm_worker_state`); who may take jobs says [`WorkerState`].

use chrono::{DateTime, TimeDelta, Utc};
use farm_types::state::WorkerState;

/// Whether a worker that gave its last sign then was silent for too long by now: it gets nothing new.
pub fn is_silent(last_seen: DateTime<Utc>, suspect_after: TimeDelta, now: DateTime<Utc>) -> bool {
    now.signed_duration_since(last_seen) >= suspect_after
}

/// A worker's state as people see it: one that is connected but silent is suspect, whatever else it is; and a drained one is
/// draining as long as it still runs something.
pub fn shown(state: WorkerState, is_silent: bool, is_busy: bool) -> WorkerState {
    match state {
        WorkerState::Removed | WorkerState::Offline | WorkerState::Joined | WorkerState::Expired => state,
        _ if is_silent => WorkerState::Suspect,
        WorkerState::Drained if is_busy => WorkerState::Draining,
        _ => state,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_begins_at_its_limit() {
        let at = |seconds: i64| DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap();
        let silent = |seconds| is_silent(at(0), TimeDelta::seconds(12), at(seconds));
        assert_eq!([-1, 0, 11, 12, 13].map(silent), [false, false, false, true, true]);
        assert!(!is_silent(at(0), TimeDelta::MAX, at(13)));
    }

    #[test]
    fn a_silent_worker_is_suspect_and_a_drained_one_drains_while_it_runs_something() {
        for &state in WorkerState::ALL {
            use WorkerState::{Expired, Joined, Offline, Removed};
            let is_gone = matches!(state, Removed | Offline | Joined | Expired);
            let silent = if is_gone { state } else { WorkerState::Suspect };
            assert_eq!([shown(state, true, false), shown(state, true, true)], [silent; 2]);
            let busy = if state == WorkerState::Drained { WorkerState::Draining } else { state };
            assert_eq!([shown(state, false, false), shown(state, false, true)], [state, busy]);
        }
    }
}
