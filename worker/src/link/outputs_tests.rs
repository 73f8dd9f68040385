//! Outputs against a FAKE coordinator: nothing lost, nothing doubled, the whole digest at the end.

use farm_types::{Digest, FailureCode, Form, Waits};

use super::*;
use crate::testing::{Fake, lease, until};

fn export() -> Export {
    Export::new(Form::Tar, []).unwrap()
}

/// Bytes of which no two pieces are alike.
fn content(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from((i / 4096 + i % 251) % 256).unwrap()).collect()
}

async fn feed(output: Output, content: Vec<u8>, is_whole: bool) {
    for piece in content.chunks(100_000) {
        if output.sink.send(OutputPart::Data(Bytes::copy_from_slice(piece))).await.is_err() {
            return;
        }
    }
    if is_whole {
        output.sink.send(OutputPart::End).await.unwrap();
    }
}

fn stored(fake: &Fake, export: u32) -> (Vec<u8>, Bytes) {
    fake.with(|script| {
        let pieces: Vec<_> =
            script.pieces.range((export, 0)..(export, u64::MAX)).map(|(_, piece)| piece).collect();
        let (last, before) = pieces.split_last().unwrap();
        assert!(before.iter().all(|(_, digest)| digest.is_empty()));
        (pieces.iter().flat_map(|(data, _)| data.to_vec()).collect(), last.1.clone())
    })
}

#[tokio::test]
async fn several_outputs_arrive_whole_with_their_digests() {
    let fake = Fake::start().await;
    let (outputs, sending) = send(&fake.client(), lease(), &[export(), export(), export()], 0);
    let contents = [content(9 << 20), content(OUTPUT_PIECE_BYTES), Vec::new()];
    let feeding =
        outputs.into_iter().zip(contents.clone()).map(|(output, content)| feed(output, content, true));
    let (sent, _) = tokio::join!(sending, futures::future::join_all(feeding));
    sent.unwrap();
    for (export, content) in (0..).zip(contents) {
        let digest = Bytes::copy_from_slice(Digest::of(&content).as_bytes());
        assert!(stored(&fake, export) == (content, digest), "{export}");
    }
}

#[tokio::test]
async fn a_lost_link_loses_and_doubles_nothing() {
    let fake = Fake::start().await;
    fake.with(|script| script.break_before_ack = 2);
    let (mut outputs, sending) = send(&fake.client(), lease(), &[export()], 0);
    let whole = content(10 << 20);
    let (sent, ()) = tokio::join!(sending, feed(outputs.remove(0), whole.clone(), true));
    sent.unwrap();
    assert!(stored(&fake, 0).0 == whole);
    assert_eq!(fake.with(|script| script.pieces_came.iter().filter(|seq| **seq == 1).count()), 3);
}

#[tokio::test]
async fn what_is_taken_and_never_answered_goes_out_again_on_a_new_stream() {
    let fake = Fake::start().await;
    fake.with(|script| script.hold_acks = true);
    let (sink, parts) = mpsc::channel(QUEUE);
    let mut sender = Sender::new(fake.client(), lease(), 0, u64::MAX, parts);
    sender.silence = Silence::new(Waits::new(Duration::from_millis(200), Duration::from_secs(10)));
    let sending = tokio::spawn(sender.run());
    let whole = content(10 << 20);
    let feeding = tokio::spawn(feed(Output { export: export(), sink }, whole.clone(), true));
    let firsts = || fake.with(|script| script.pieces_came.iter().filter(|seq| **seq == 1).count());
    until("the first piece came three times", || firsts() >= 3).await;
    fake.with(|script| script.hold_acks = false);
    sending.await.unwrap().unwrap();
    feeding.await.unwrap();
    assert!(stored(&fake, 0).0 == whole);
}

#[tokio::test]
async fn a_coordinator_that_is_replaced_gets_the_rest_and_memory_is_bounded() {
    let fake = Fake::start().await;
    fake.with(|script| script.hold_acks = true);
    let (mut outputs, sending) = send(&fake.client(), lease(), &[export()], 0);
    let sending = tokio::spawn(sending);
    let whole = content(40 << 20);
    let sink = outputs.remove(0);
    let feeding = tokio::spawn(feed(sink.clone(), whole.clone(), true));
    until("a piece came", || fake.with(|script| !script.pieces.is_empty())).await;
    until("no more is taken", || sink.sink.capacity() == 0).await;
    let fake = fake.restart().await;
    fake.with(|script| script.hold_acks = false);
    drop(sink);
    sending.await.unwrap().unwrap();
    feeding.await.unwrap();
    assert!(stored(&fake, 0).0 == whole);
}

#[tokio::test]
async fn what_is_too_long_or_not_wanted_ends_at_once() {
    let fake = Fake::start().await;
    let code = |error| match error {
        OutputError::Failed(failure) => (failure.cause, failure.code),
        other => panic!("{other:?}"),
    };
    let failing = async |limit| {
        let (mut outputs, sending) = send(&fake.client(), lease(), &[export()], limit);
        let (sent, ()) = tokio::join!(sending, feed(outputs.remove(0), content(1 << 20), false));
        sent.unwrap_err()
    };
    assert_eq!(code(failing(1000).await), (Cause::User, FailureCode::OutputTooLarge));
    // Nothing said that this was all.
    assert_eq!(failing(1 << 30).await, OutputError::BrokenOff);
    let refused = async |status: Status| {
        fake.with(|script| script.refuse_pieces = Some(status));
        let (mut outputs, sending) = send(&fake.client(), lease(), &[export()], 0);
        let (sent, ()) = tokio::join!(sending, feed(outputs.remove(0), content(1 << 20), true));
        sent.unwrap_err()
    };
    assert_eq!(refused(Status::failed_precondition("superseded")).await, OutputError::Superseded);
    assert_eq!(code(refused(Status::out_of_range("too long")).await).1, FailureCode::OutputTooLarge);
}

#[tokio::test]
async fn a_coordinator_that_answers_is_given_up_in_time_and_one_that_is_away_is_not() {
    let fake = Fake::start().await;
    let away = || {
        let mut status = Status::unavailable("tcp connect error");
        status.set_source(std::sync::Arc::new(std::io::Error::other("connection refused")));
        status
    };
    let full = || Status::resource_exhausted("there is no space left");
    let database = || Status::unavailable("the database does not answer");
    let sender = || Sender::new(fake.client(), lease(), 0, u64::MAX, mpsc::channel(1).1);
    // As if so much time had passed.
    let after = |sender: &mut Sender, seconds, status: Status| {
        for since in [&mut sender.refused_since, &mut sender.unavailable_since].into_iter().flatten() {
            *since -= Duration::from_secs(seconds);
        }
        sender.refused(&status)
    };
    for (status, patience) in [(full(), 60), (database(), 600)] {
        let mut sender = sender();
        after(&mut sender, 0, status.clone()).unwrap();
        after(&mut sender, patience - 10, status.clone()).unwrap();
        let OutputError::Failed(failure) = after(&mut sender, 10, status.clone()).unwrap_err() else {
            panic!("{status}")
        };
        assert_eq!((failure.cause, failure.code.as_str()), (Cause::Infrastructure, "output_refused"));
        assert!(failure.message.contains(status.message()), "{failure:?}");
        // What is taken meanwhile begins it anew.
        sender.acknowledge(0);
        after(&mut sender, 1, status).unwrap();
    }
    // Nobody's silence is held against it, nor what it said before it.
    let mut sender = sender();
    for status in [database(), away(), away(), database(), away()] {
        after(&mut sender, 700, status).unwrap();
    }
}
