//! When a waiting job is likely to start.

use std::time::Duration;

/// The queue as one waiting job sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Queue {
    /// The job's place in the queue, from 1.
    pub place: u64,
    /// How many slots could run it, taken or free.
    pub slots: u64,
    /// For how long each of those that are taken has been.
    pub running: Vec<Duration>,
    /// How long such a job usually takes; `None`: too few have run.
    pub usual: Option<Duration>,
}

/// Places behind this one are not estimated: an estimate that adds up that many guesses says nothing.
const LAST_PLACE: u64 = 1000;

/// How long the job still waits if all of them take what they usually take. A job that takes longer already is taken to
/// last a quarter of the usual time more.
pub fn starts_in(queue: &Queue) -> Option<Duration> {
    let usual = queue.usual?;
    if queue.place == 0 || queue.place > LAST_PLACE || queue.slots == 0 {
        return None;
    }
    let left = |elapsed: &Duration| usual.saturating_sub(*elapsed).max(usual / 4);
    let mut free: Vec<Duration> = queue.running.iter().map(left).collect();
    let slots = usize::try_from(queue.slots).ok()?.max(free.len());
    free.resize(slots, Duration::ZERO);
    let mut starts = Duration::ZERO;
    for _ in 0..queue.place {
        let next = free.iter_mut().min()?;
        starts = *next;
        *next += usual;
    }
    Some(starts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue(place: u64, slots: u64, running: &[u64], usual: Option<u64>) -> Queue {
        let running = running.iter().copied().map(Duration::from_secs).collect();
        Queue { place, slots, running, usual: usual.map(Duration::from_secs) }
    }

    fn seconds(queue: &Queue) -> Option<u64> {
        starts_in(queue).map(|span| span.as_secs())
    }

    #[test]
    fn a_job_starts_when_those_in_front_of_it_are_done() {
        assert_eq!(seconds(&queue(1, 2, &[10, 50], Some(60))), Some(15));
        assert_eq!(seconds(&queue(2, 2, &[10, 50], Some(60))), Some(50));
        assert_eq!(seconds(&queue(3, 2, &[10, 50], Some(60))), Some(75));
        // One that takes longer than usual is not done at once.
        assert_eq!(seconds(&queue(1, 1, &[600], Some(60))), Some(15));
        assert_eq!(seconds(&queue(1, 2, &[10], Some(60))), Some(0));
        for nothing in [queue(1, 2, &[1], None), queue(1, 0, &[], Some(60)), queue(5000, 1, &[], Some(60))] {
            assert_eq!(starts_in(&nothing), None);
        }
    }

    proptest! {
        #[test]
        fn nobody_behind_starts_earlier_and_more_slots_are_no_harm(
            place in 1..50_u64, running in prop::collection::vec(0..200_u64, 1..6), usual in 1..100_u64
        ) {
            let slots = u64::try_from(running.len()).unwrap();
            let at = |place, slots| starts_in(&queue(place, slots, &running, Some(usual))).unwrap();
            prop_assert!(at(place, slots) <= at(place + 1, slots));
            prop_assert!(at(place, slots + 1) <= at(place, slots));
        }
    }
}
