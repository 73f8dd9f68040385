//! What is taken, declined and remembered.

use super::*;
use crate::testing::{identity, offered};
use v1::control_request::Message;

fn attempts(slots: usize) -> (Attempts, mpsc::UnboundedReceiver<Chore>) {
    let (attempts, chores) = Attempts::new(slots);
    attempts.open(identity());
    (attempts, chores)
}

fn reason(answer: &[Message]) -> &str {
    match answer {
        [Message::Declined(declined)] => &declined.reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_offer_that_comes_again_is_answered_again_and_started_once() {
    let (attempts, mut chores) = attempts(1);
    let offer = offered();
    assert!(matches!(attempts.offer(offer.clone())[..], [Message::Started(_)]));
    assert!(matches!(attempts.offer(offer.clone())[..], [Message::Started(_)]));
    assert!(matches!(chores.try_recv(), Ok(Chore::Run(_))));
    assert!(chores.try_recv().is_err());
    // Under another token it is another's attempt.
    let mut forged = offer.clone();
    forged.lease =
        offered().lease.map(|l| v1::Lease { attempt_id: offer.lease.clone().unwrap().attempt_id, ..l });
    assert!(reason(&attempts.offer(forged)).contains("another lease"));
}

#[test]
fn an_offer_without_room_is_declined_and_says_why() {
    let (attempts, _chores) = attempts(1);
    assert!(matches!(attempts.offer(offered())[..], [Message::Started(_)]));
    assert!(reason(&attempts.offer(offered())).contains("1 slots"));
    attempts.close("the engine is away");
    assert!(reason(&attempts.offer(offered())).contains("engine"));
    assert!(attempts.identity().borrow().offers.is_empty(), "and the coordinator need not ask");
    attempts.open(Identity::default());
    attempts.stop_all(StopReason::WorkerStopped);
    let attempt = attempts.leases()[0].attempt_id.parse().unwrap();
    attempts.release(attempt);
    assert!(reason(&attempts.offer(offered())).contains("not offered here"));
    attempts.drain();
    assert!(reason(&attempts.offer(offered())).contains("drains"));
}

#[test]
fn an_offer_of_what_may_not_be_granted_is_declined_whoever_made_it() {
    let (attempts, mut chores) = Attempts::new(1);
    let identity = Identity { grants: [Entitlement::NetworkHost].into(), ..identity() };
    attempts.open(identity);
    let offer = |entitlements: &[&str], network: &str| {
        let entitlements = entitlements.iter().map(|one| (*one).to_owned()).collect();
        let spec = v1::BuildSpec { entitlements, network: network.to_owned(), ..Default::default() };
        v1::Offered { spec: Some(spec), ..offered() }
    };
    let both = offer(&["network.host", "security.insecure"], "");
    assert!(reason(&attempts.offer(both)).contains("may not grant security.insecure"));
    assert!(reason(&attempts.offer(offer(&["of.tomorrow"], ""))).contains("of.tomorrow"));
    assert!(matches!(attempts.offer(offer(&[], "host"))[..], [Message::Started(_)]));
    assert!(matches!(chores.try_recv(), Ok(Chore::Run(_))));
    attempts.stop_all(StopReason::WorkerStopped);
    attempts.release(attempts.leases()[0].attempt_id.parse().unwrap());
    attempts.open(crate::testing::identity());
    assert!(reason(&attempts.offer(offer(&[], "host"))).contains("may not grant network.host"));
}

#[test]
fn an_attempt_that_ended_is_told_until_answered_and_never_started_again() {
    let (attempts, mut chores) = attempts(1);
    let offer = offered();
    attempts.offer(offer.clone());
    let lease = Lease::try_from(offer.lease.as_ref().unwrap()).unwrap();
    attempts.finish(
        lease.attempt,
        v1::Finished { lease: offer.lease.clone(), outcome: None, self_check: None, pushed: None },
    );
    assert_eq!(*attempts.watch().borrow(), Counts { running: 0, unanswered: 1 });
    assert_eq!(attempts.leases().len(), 1);
    assert!(matches!(attempts.offer(offer.clone())[..], [Message::Started(_), Message::Finished(_)]));
    attempts.answered(lease.attempt, true);
    assert!(attempts.leases().is_empty());
    assert!(attempts.offer(offer).is_empty());
    assert!(matches!(chores.try_recv(), Ok(Chore::Run(_))));
    assert!(matches!(chores.try_recv(), Ok(Chore::Forget(_))));
}

#[test]
fn a_lost_lease_outweighs_a_cancel() {
    let (attempts, _chores) = attempts(1);
    attempts.offer(offered());
    let attempt = attempts.leases()[0].attempt_id.parse().unwrap();
    assert!(attempts.stop(attempt, StopReason::Cancelled));
    assert!(!attempts.stop(attempt, StopReason::WorkerStopped));
    assert_eq!(attempts.stop_reason(attempt), Some(StopReason::Cancelled));
    attempts.stop(attempt, StopReason::Superseded);
    assert_eq!(attempts.stop_reason(attempt), Some(StopReason::Superseded));
}
