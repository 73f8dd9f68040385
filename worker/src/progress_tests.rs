use std::cell::RefCell;

use farm_types::FailureCode;
use tokio::time::timeout;

use super::*;

/// Short, as the clock is a real one: nothing here depends on how late a wait ends.
const LIMIT: Duration = Duration::from_millis(300);

fn step(digest: &str, name: &str, instruction: &str, finished_ms: i64) -> AttemptEvent {
    let step = StepUpdate {
        digest: digest.into(),
        name: name.into(),
        instruction: instruction.into(),
        started_ms: 1,
        finished_ms,
        ..StepUpdate::default()
    };
    AttemptEvent { at_ms: 1, event: Some(Event::Step(step)) }
}

/// Sends events, then is silent for `quiet`; gives the failure, how often the engine was asked (to build), and how often
/// it was vouched for.
async fn silence(
    events: &[AttemptEvent],
    quiet: Duration,
    answer: Result<(), String>,
) -> (Option<Failure>, Vec<bool>, usize) {
    let (onward, mut taken) = mpsc::channel(1000);
    let (sender, pulse, passing) = listen(onward.clone());
    let asked = RefCell::new(Vec::new());
    let asks = |build| {
        asked.borrow_mut().push(build);
        std::future::ready(answer.clone())
    };
    let talk = async {
        for event in events {
            sender.send(event.clone()).await.unwrap();
        }
        timeout(quiet, stalled(pulse, LIMIT, "localhost:5002", onward, asks)).await.ok()
    };
    tokio::pin!(passing);
    let failure = tokio::select! {
        failure = talk => failure,
        () = &mut passing => panic!("a sender is there"),
    };
    let mut vouched = 0;
    while let Ok(event) = taken.try_recv() {
        vouched += usize::from(event.event.is_none());
    }
    (failure, asked.into_inner(), vouched)
}

#[tokio::test]
async fn a_silent_command_goes_on_as_long_as_the_engine_builds_something_else() {
    let run = [step("a", "[1/2] RUN sleep 3600", "RUN sleep 3600", 0)];
    let (failure, asked, vouched) = silence(&run, LIMIT * 4, Ok(())).await;
    assert!(failure.is_none(), "{failure:?}");
    assert!(vouched > 1 && vouched == asked.len(), "{vouched} of {asked:?}");
    // At last a trial build.
    assert!(asked.last().unwrap(), "{asked:?}");
    let (failure, ..) = silence(&run, LIMIT * 4, Err("the trial build did not end".to_owned())).await;
    let failure = failure.unwrap();
    assert_eq!((failure.code.as_str(), failure.cause), ("no_progress", Cause::Infrastructure));
    assert!(failure.message.contains("for 0 s, and the trial build did not end"), "{failure}");
    let packing = [step("x", "exporting to image", "", 0)];
    assert!(silence(&packing, LIMIT * 2, Ok(())).await.0.is_none());
}

fn part(digest: &str, name: &str, done: bool) -> AttemptEvent {
    let part = Transfer { step_digest: digest.into(), name: name.into(), done, ..Transfer::default() };
    AttemptEvent { at_ms: 1, event: Some(Event::Transfer(part)) }
}

#[tokio::test]
async fn a_push_is_vouched_for_only_so_long_and_then_the_registry_is_named() {
    let pushing = [
        step("x", "exporting to image", "", 0),
        part("x", "exporting layers", true),
        part("x", "pushing layers", false),
    ];
    let begin = Instant::now();
    let (failure, asked, vouched) = silence(&pushing, LIMIT * 100, Ok(())).await;
    let failure = failure.unwrap();
    assert_eq!((failure.code.as_str(), failure.cause), ("registry_unavailable", Cause::Infrastructure));
    assert!(failure.message.contains("the push to localhost:5002"), "{failure}");
    assert!(failure.message.contains("limits.progress_deadline_seconds"), "{failure}");
    // A big layer is told of no more than that.
    assert!(begin.elapsed() >= LIMIT * PUSH_LIMITS && vouched > 1 && vouched == asked.len(), "{vouched}");
    // Another output that is still packed, or a command, may go on for longer.
    let mut packs = pushing.to_vec();
    packs.push(step("y", "exporting to client tarball", "", 0));
    assert!(silence(&packs, LIMIT * (PUSH_LIMITS + 2), Ok(())).await.0.is_none());
    // So may what follows a push.
    let mut unpacks = pushing.to_vec();
    unpacks.extend([part("x", "pushing layers", true), part("x", "unpacking to x", false)]);
    assert!(silence(&unpacks, LIMIT * (PUSH_LIMITS + 2), Ok(())).await.0.is_none());
}

#[tokio::test]
async fn silence_at_anything_else_means_that_it_hangs() {
    let ended = [
        step("a", "[1/2] RUN true", "RUN true", 0),
        step("a", "[1/2] RUN true", "RUN true", 2),
        step("b", "[internal] load metadata for x", "", 0),
    ];
    for events in [&ended[..], &[]] {
        let begin = Instant::now();
        let (failure, asked, vouched) = silence(events, LIMIT * 100, Ok(())).await;
        assert_eq!(failure.unwrap().code, FailureCode::NoProgress);
        assert!(asked.is_empty() && vouched == 0);
        assert!(begin.elapsed() >= LIMIT);
    }
}

#[tokio::test]
async fn what_waits_for_the_coordinator_is_not_silent() {
    let (onward, mut taken) = mpsc::channel(1);
    let (sender, pulse, passing) = listen(onward.clone());
    let passing = tokio::spawn(passing);
    for _ in 0..3 {
        sender.send(step("b", "x", "", 0)).await.unwrap();
    }
    let judged = timeout(LIMIT * 3, stalled(pulse, LIMIT, "", onward, |_| std::future::ready(Ok(())))).await;
    assert!(judged.is_err(), "{judged:?}");
    drop(sender);
    while taken.recv().await.is_some_and(|event| event.event.is_some()) {}
    passing.await.unwrap();
}

#[tokio::test]
async fn the_workers_own_work_is_vouched_for() {
    let (to, mut taken) = mpsc::channel::<AttemptEvent>(10);
    // It ends when it was vouched for three times.
    let work = async {
        for _ in 0..3 {
            assert!(taken.recv().await.unwrap().event.is_none());
        }
    };
    timeout(LIMIT * 100, vouching(LIMIT, &to, work)).await.unwrap();
}
