//! What the desk takes, declines and remembers.

use super::*;
use crate::testing::{identity, offered};
use v1::control_request::Message;

fn desk(slots: usize) -> (Desk, mpsc::UnboundedReceiver<Chore>) {
    let (desk, chores) = Desk::new(slots);
    desk.open(identity());
    (desk, chores)
}

fn reason(answer: &[Message]) -> &str {
    match answer {
        [Message::Declined(declined)] => &declined.reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_offer_that_comes_again_is_answered_again_and_started_once() {
    let (desk, mut chores) = desk(1);
    let offer = offered();
    assert!(matches!(desk.offer(offer.clone())[..], [Message::Started(_)]));
    assert!(matches!(desk.offer(offer.clone())[..], [Message::Started(_)]));
    assert!(matches!(chores.try_recv(), Ok(Chore::Run(_))));
    assert!(chores.try_recv().is_err());
    // Under another token it is another's attempt.
    let mut forged = offer.clone();
    forged.lease =
        offered().lease.map(|l| v1::Lease { attempt_id: offer.lease.clone().unwrap().attempt_id, ..l });
    assert!(reason(&desk.offer(forged)).contains("another lease"));
}

#[test]
fn an_offer_without_room_is_declined_and_says_why() {
    let (desk, _chores) = desk(1);
    assert!(matches!(desk.offer(offered())[..], [Message::Started(_)]));
    assert!(reason(&desk.offer(offered())).contains("1 slots"));
    desk.close("the engine is away");
    assert!(reason(&desk.offer(offered())).contains("engine"));
    assert!(desk.identity().borrow().offers.is_empty(), "and the coordinator need not ask");
    desk.open(Identity::default());
    desk.stop_all(StopReason::WorkerStopped);
    let attempt = desk.leases()[0].attempt_id.parse().unwrap();
    desk.release(attempt);
    assert!(reason(&desk.offer(offered())).contains("not offered here"));
    desk.drain();
    assert!(reason(&desk.offer(offered())).contains("drains"));
}

#[test]
fn an_attempt_that_ended_is_told_until_answered_and_never_started_again() {
    let (desk, mut chores) = desk(1);
    let offer = offered();
    desk.offer(offer.clone());
    let lease = Lease::try_from(offer.lease.as_ref().unwrap()).unwrap();
    desk.finish(lease.attempt, v1::Finished { lease: offer.lease.clone(), outcome: None, self_check: None });
    assert_eq!(*desk.watch().borrow(), Counts { running: 0, unanswered: 1 });
    assert_eq!(desk.leases().len(), 1);
    assert!(matches!(desk.offer(offer.clone())[..], [Message::Started(_), Message::Finished(_)]));
    desk.answered(lease.attempt);
    assert!(desk.leases().is_empty());
    assert!(desk.offer(offer).is_empty());
    assert!(matches!(chores.try_recv(), Ok(Chore::Run(_))));
    assert!(matches!(chores.try_recv(), Ok(Chore::Forget(_))));
}

#[test]
fn a_lost_lease_outweighs_a_cancel() {
    let (desk, _chores) = desk(1);
    desk.offer(offered());
    let attempt = desk.leases()[0].attempt_id.parse().unwrap();
    assert!(desk.stop(attempt, StopReason::Cancelled));
    assert!(!desk.stop(attempt, StopReason::WorkerStopped));
    assert_eq!(desk.stop_reason(attempt), Some(StopReason::Cancelled));
    desk.stop(attempt, StopReason::Superseded);
    assert_eq!(desk.stop_reason(attempt), Some(StopReason::Superseded));
}
