//! How attempts end.

use super::*;

#[tokio::test]
async fn a_panic_is_a_defect_of_ours_and_ends_nothing_else() {
    let stop = CancellationToken::new();
    let outcome = supervise(async { panic!("oh no") }, &stop, STOP_WITHIN).await;
    match outcome {
        Outcome::Failed(failure) => {
            assert_eq!((failure.cause, failure.code.as_str()), (Cause::Bug, "worker_bug"))
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_solve_that_does_not_stop_is_dropped() {
    let stop = CancellationToken::new();
    stop.cancel();
    assert_eq!(supervise(std::future::pending(), &stop, Duration::ZERO).await, Outcome::Stopped);
}

#[test]
fn the_coordinator_is_told_what_it_can_use() {
    let built = || Outcome::Built(Box::default());
    let failed = || Outcome::from(Failure::new(Cause::User, FailureCode::RunFailed, "exit code 137"));
    let code = |outcome, reason| match verdict(outcome, reason) {
        None => "nothing".to_owned(),
        Some(finished::Outcome::Result(_)) => "result".to_owned(),
        Some(finished::Outcome::Stopped(_)) => "stopped".to_owned(),
        Some(finished::Outcome::Failure(failure)) => format!("{} {}", failure.cause, failure.code),
        Some(finished::Outcome::SourceIncomplete(missing)) => format!("incomplete {}", missing.asked),
    };
    use StopReason::{Cancelled, Superseded, WorkerStopped};
    assert_eq!(code(built(), None), "result");
    assert_eq!(code(built(), Some(Cancelled)), "result");
    assert_eq!(code(built(), Some(Superseded)), "nothing");
    assert_eq!(code(failed(), None), "user run_failed");
    assert_eq!(code(failed(), Some(Cancelled)), "stopped");
    assert_eq!(code(failed(), Some(WorkerStopped)), "infrastructure worker_stopped");
    assert_eq!(code(Outcome::Stopped, Some(Cancelled)), "stopped");
    assert_eq!(code(Outcome::Stopped, Some(WorkerStopped)), "infrastructure worker_stopped");
    assert_eq!(code(Outcome::Stopped, Some(Superseded)), "nothing");
    assert_eq!(code(Outcome::Stopped, None), "infrastructure stopped_unasked");
}
