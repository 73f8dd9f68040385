//! Event streams against a FAKE coordinator: nothing lost, nothing doubled, nothing in another order.

use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use farm_proto::v1::StepLog;
use farm_proto::v1::attempt_event::Event;
use tonic::Status;

use crate::notice;
use crate::testing::{Fake, lease, until};

fn numbered(number: usize) -> AttemptEvent {
    notice(number.to_string())
}

fn stored(fake: &Fake) -> Vec<usize> {
    fake.with(|script| {
        let events = script.chunks.values().flatten();
        events
            .map(|event| match &event.event {
                Some(Event::Notice(notice)) => notice.text.parse().unwrap(),
                other => panic!("{other:?}"),
            })
            .collect()
    })
}

fn log(bytes: usize) -> AttemptEvent {
    said(vec![b'x'; bytes])
}

fn said(data: impl Into<Bytes>) -> AttemptEvent {
    let log = StepLog { step_digest: "d".into(), stream: 1, data: data.into() };
    AttemptEvent { at_ms: 0, event: Some(Event::Log(log)) }
}

async fn patient(events: Events) -> Ending {
    events.finish(tokio::time::sleep(Duration::from_secs(20))).await
}

#[tokio::test]
async fn all_is_stored_in_order_when_the_stream_ends() {
    let fake = Fake::start().await;
    let events = Events::open(fake.client(), lease(), LogLimit::default(), Masking::default(), || {
        panic!("nobody said so")
    });
    for number in 0..2000 {
        events.sender().send(numbered(number)).await.unwrap();
    }
    assert_eq!(patient(events).await, Ending::Stored);
    assert_eq!(stored(&fake), (0..2000).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_event_goes_out_soon_although_its_chunk_is_not_full() {
    let fake = Fake::start().await;
    let events = Events::open(fake.client(), lease(), LogLimit::default(), Masking::default(), || {});
    events.sender().send(numbered(0)).await.unwrap();
    until("the first event is stored", || !stored(&fake).is_empty()).await;
    events.sender().send(numbered(1)).await.unwrap();
    until("the second one too", || stored(&fake) == [0, 1]).await;
    assert_eq!(patient(events).await, Ending::Stored);
}

#[tokio::test]
async fn what_was_stored_but_not_acknowledged_is_sent_again_under_its_number() {
    let fake = Fake::start().await;
    fake.with(|script| script.break_before_ack = 2);
    let events = Events::open(fake.client(), lease(), LogLimit::default(), Masking::default(), || {});
    events.sender().send(numbered(0)).await.unwrap();
    until("it came twice", || fake.with(|script| script.came.len() >= 2)).await;
    events.sender().send(numbered(1)).await.unwrap();
    assert_eq!(patient(events).await, Ending::Stored);
    assert_eq!(stored(&fake), [0, 1]);
    assert_eq!(fake.with(|script| script.came[..3].to_vec()), [1, 1, 1]);
}

#[tokio::test]
async fn a_coordinator_that_restarts_gets_the_rest() {
    let fake = Fake::start().await;
    let events = Events::open(fake.client(), lease(), LogLimit::default(), Masking::default(), || {});
    events.sender().send(numbered(0)).await.unwrap();
    until("the first is stored", || stored(&fake) == [0]).await;
    fake.with(|script| script.hold_acks = true);
    events.sender().send(numbered(1)).await.unwrap();
    until("the second came", || stored(&fake) == [0, 1]).await;
    let fake = fake.restart().await;
    fake.with(|script| script.hold_acks = false);
    events.sender().send(numbered(2)).await.unwrap();
    assert_eq!(patient(events).await, Ending::Stored);
    assert_eq!(stored(&fake), [0, 1, 2]);
}

#[tokio::test]
async fn what_is_taken_and_never_answered_goes_out_again_on_a_new_stream() {
    let fake = Fake::start().await;
    fake.with(|script| script.hold_acks = true);
    let bounds = (MOST_UNACKED, Waits::new(Duration::from_millis(100), Duration::from_secs(10)));
    let events =
        Events::open_within(fake.client(), lease(), (LogLimit::default(), Masking::default()), bounds, || {});
    events.sender().send(numbered(0)).await.unwrap();
    // Connection and coordinator live: nothing but the silence says that the stream is lost.
    until("it came three times", || fake.with(|script| script.came.len() >= 3)).await;
    fake.with(|script| script.hold_acks = false);
    assert_eq!(patient(events).await, Ending::Stored);
    assert_eq!(stored(&fake), [0]);
    assert!(fake.with(|script| script.came.iter().all(|seq| *seq == 1)));
}

#[tokio::test]
async fn too_much_unacknowledged_makes_the_sender_wait() {
    const BOUND: usize = 1 << 20;
    let fake = Fake::start().await;
    fake.with(|script| script.hold_acks = true);
    let bounds = (BOUND, ANSWER_WITHIN);
    let events =
        Events::open_within(fake.client(), lease(), (LogLimit::default(), Masking::default()), bounds, || {});
    let sender = events.sender();
    let mut sent = 0;
    // Without a bound this would go on for ever.
    while tokio::time::timeout(Duration::from_secs(1), sender.send(log(64 << 10))).await.is_ok() {
        sent += 64 << 10;
        assert!(sent < 100 * BOUND, "it takes more and more");
    }
    sender.try_send(log(1)).unwrap_err();
    drop(sender);
    fake.with(|script| script.hold_acks = false);
    let fake = fake.restart().await;
    assert_eq!(patient(events).await, Ending::Stored);
    let bytes: usize = fake.with(|script| {
        let events = script.chunks.values().flatten();
        events
            .map(|e| matches!(&e.event, Some(Event::Log(log)) if !log.data.is_empty()))
            .filter(|b| *b)
            .count()
    });
    assert!(bytes * (64 << 10) >= sent);
}

#[tokio::test]
async fn a_lost_lease_ends_the_stream_and_nobody_waits() {
    let fake = Fake::start().await;
    fake.with(|script| script.refuse_events = Some(Status::failed_precondition("superseded")));
    let told = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&told);
    let events = Events::open(fake.client(), lease(), LogLimit::default(), Masking::default(), move || {
        tell.store(true, Ordering::SeqCst)
    });
    let sender = events.sender();
    sender.send(numbered(0)).await.unwrap();
    until("it is told", || told.load(Ordering::SeqCst)).await;
    for number in 0..1000 {
        sender.send(numbered(number)).await.unwrap();
    }
    drop(sender);
    assert_eq!(patient(events).await, Ending::Superseded);
}

#[tokio::test]
async fn a_coordinator_that_is_away_is_waited_for_only_as_long_as_wished() {
    let fake = Fake::start().await;
    fake.with(|script| script.hold_acks = true);
    let events = Events::open(fake.client(), lease(), LogLimit::default(), Masking::default(), || {});
    events.sender().send(numbered(0)).await.unwrap();
    assert_eq!(events.finish(std::future::ready(())).await, Ending::GaveUp);
    let quiet = Events::open(fake.client(), lease(), LogLimit::default(), Masking::default(), || {});
    assert_eq!(patient(quiet).await, Ending::Stored, "nothing to send needs nobody");
}

#[tokio::test]
async fn nothing_that_is_stored_holds_a_secret_and_nothing_is_lost_with_it() {
    let fake = Fake::start().await;
    let masking = Masking::default();
    // What is written beyond the limit is dropped; a mask counts as what it is.
    let whole = "it is ***, it was ***, hun";
    let limit = LogLimit::of(u64::try_from(4 * (1 + 32) + whole.len()).unwrap());
    let events = Events::open(fake.client(), lease(), limit, masking.clone(), || {});
    let told = masking.begin([("token", b"hunter2-secret".as_slice()), ("pin", b"1234".as_slice())]);
    assert_eq!(told.len(), 1);
    for event in
        told.into_iter().chain(["it is hunter2", "-secret, it was hunt", "er2-secret, hun"].map(said))
    {
        events.sender().send(event).await.unwrap();
    }
    assert_eq!(patient(events).await, Ending::Stored);
    let (notices, log) = fake.with(|script| {
        let (mut notices, mut log) = (Vec::new(), Vec::new());
        for event in script.chunks.values().flatten() {
            match &event.event {
                Some(Event::Notice(notice)) => notices.push(notice.text.clone()),
                Some(Event::Log(piece)) => log.extend_from_slice(&piece.data),
                _ => {}
            }
        }
        (notices, String::from_utf8(log).unwrap())
    });
    assert!(notices.len() == 1 && notices[0].starts_with("secret pin is not masked"), "{notices:?}");
    assert_eq!(log, whole);
}
