//! What follows from an attempt that ended without a result: whether the job is tried again, when and where. A retry is something
//! else: a person's wish for a new build.

use std::time::Duration;

use farm_types::{Cause, Failure, FailureCode, Runs, Waits, WorkerId};

/// How often a job may be tried for reasons that are not its own.
pub const MAX_ATTEMPTS: u32 = 4;
/// A job that lost so many workers is poison.
pub const MAX_LOST: u32 = 3;
/// A job that found or made so many disks full is tried no more: it may be what fills them.
pub const MAX_FULL: u32 = 3;
/// So often a job may be given back without that counting as a try.
pub const MAX_REFUNDS: u32 = 3;
/// The codes of failures for want of disk space.
pub const FULL_CODES: [FailureCode; 2] = [FailureCode::NoSpace, FailureCode::WorkerDisk];
/// The code of a failure by which a machine shows that it doesn't run a program's platform.
const FOREIGN_PROGRAM: FailureCode = FailureCode::EmulatorMissing;
/// The first wait before another try that isn't at once.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The longest wait before another try.
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// The pauses between tries, from the first to the longest.
const WAITS: Waits = Waits::new(FIRST_BACKOFF, MAX_BACKOFF);

/// How an attempt ended without a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Its worker reported this failure.
    Failed(Failure),
    /// Its lease ended without a word, or its worker came back without it.
    Lost,
    /// It was given back unharmed, or never begun.
    Released {
        /// Its worker didn't want it, or didn't answer: another one is asked first.
        declined: bool,
    },
}

/// What the job was through, the ended attempt included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// Attempts that count: all but those that were refunded.
    pub attempts: u32,
    /// Of these, the attempts that ended with [`Ending::Lost`].
    pub lost: u32,
    /// Attempts that ended with [`Cause::Killed`].
    pub killed: u32,
    /// Attempts that ended for want of disk space ([`FULL_CODES`]).
    pub full: u32,
    /// Attempts that were begun and given back.
    pub given_back: u32,
}

/// What happens to the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// It is ready again, not before `after` has passed, and rather not on `avoid`.
    Again {
        /// How long it waits.
        after: Duration,
        /// The worker that failed it; another is taken while there is one.
        avoid: Option<WorkerId>,
        /// The attempt doesn't count against [`MAX_ATTEMPTS`].
        refund: bool,
    },
    /// It failed for good.
    GiveUp(Failure),
}

/// Whether the attempt failed at a program of the job's platform, of which its Dockerfile says nothing: its base image
/// brings it along (`ONBUILD RUN`). Then the job [runs](Runs) its target's programs, and this try counts for nothing.
pub fn runs_after_all(ending: &Ending, runs: &Runs) -> bool {
    let (Ending::Failed(failure), Runs::Others { engine, platforms }) = (ending, runs) else { return false };
    // Where others' programs run, one of them may have been the one.
    let is_sure = !engine && platforms.is_empty();
    failure.code == FOREIGN_PROGRAM && (is_sure || failure.step.as_deref().is_some_and(is_trigger))
}

/// Whether a step, as BuildKit names it (`[stage 2/4] ONBUILD RUN …`), comes from a base image.
fn is_trigger(step: &str) -> bool {
    step.split_once("] ").is_some_and(|(_, instruction)| instruction.starts_with("ONBUILD "))
}

/// Decides what happens to a job whose attempt on `worker` ended so.
///
/// `jitter` in 0..1 spreads retries; the caller draws it.
pub fn after(ending: Ending, history: History, worker: WorkerId, jitter: f64) -> Next {
    match ending {
        // A moment, so that a worker that declines everything is not asked in a tight loop.
        Ending::Released { declined: true } => {
            Next::Again { after: FIRST_BACKOFF, avoid: Some(worker), refund: true }
        }
        Ending::Released { declined: false } if history.given_back <= MAX_REFUNDS => {
            Next::Again { after: Duration::ZERO, avoid: None, refund: true }
        }
        Ending::Released { declined: false } if history.attempts >= MAX_ATTEMPTS => {
            Next::GiveUp(Failure::new(
                Cause::Infrastructure,
                FailureCode::GivenBack,
                format!(
                    "workers that had to leave gave it back {} times; run it where machines stay for longer",
                    history.given_back
                ),
            ))
        }
        Ending::Released { declined: false } => {
            Next::Again { after: Duration::ZERO, avoid: None, refund: false }
        }
        Ending::Lost if history.lost >= MAX_LOST => Next::GiveUp(Failure::new(
            Cause::Infrastructure,
            FailureCode::Poison,
            format!("{} workers were lost while they ran this; it isn't tried again", history.lost),
        )),
        Ending::Lost if history.attempts >= MAX_ATTEMPTS => Next::GiveUp(Failure::new(
            Cause::Infrastructure,
            FailureCode::WorkerLost,
            format!("its worker was lost, and it was tried {} times", history.attempts),
        )),
        Ending::Lost => {
            let after = if history.lost == 1 { Duration::ZERO } else { backoff(history.attempts, jitter) };
            Next::Again { after, avoid: Some(worker), refund: false }
        }
        Ending::Failed(failure) if FULL_CODES.contains(&failure.code) && history.full >= MAX_FULL => {
            let message = format!(
                "no disk space was left on {} tries, so it may be what fills the disks; let it write less, or give \
                 the workers' engines more room (the last one said: {})",
                history.full, failure.message
            );
            Next::GiveUp(Failure { message, ..failure })
        }
        Ending::Failed(failure) => {
            let again = match failure.cause {
                Cause::User | Cause::Deadline | Cause::Bug => false,
                Cause::Killed => history.killed < 2 && history.attempts < MAX_ATTEMPTS,
                Cause::Infrastructure => history.attempts < MAX_ATTEMPTS,
            };
            if again {
                Next::Again { after: backoff(history.attempts, jitter), avoid: Some(worker), refund: false }
            } else {
                Next::GiveUp(failure)
            }
        }
    }
}

/// The wait before try number `tries + 1`: doubling from 1 s to 60 s, times 0.5 to 1.
pub fn backoff(tries: u32, jitter: f64) -> Duration {
    WAITS.jittered(tries.max(1), jitter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn failed(cause: Cause) -> Ending {
        Ending::Failed(Failure::new(cause, FailureCode::RunFailed, "x"))
    }

    fn next(ending: Ending, attempts: u32, lost: u32, killed: u32) -> Next {
        let history = History { attempts, lost, killed, full: 0, given_back: 0 };
        after(ending, history, WorkerId::generate(), 1.0)
    }

    #[test]
    fn a_users_mistake_is_not_tried_again() {
        for cause in [Cause::User, Cause::Deadline, Cause::Bug] {
            assert!(matches!(next(failed(cause), 1, 0, 0), Next::GiveUp(_)), "{cause}");
        }
    }

    #[test]
    fn a_killed_run_gets_one_more_try_elsewhere() {
        assert!(matches!(next(failed(Cause::Killed), 1, 0, 1), Next::Again { avoid: Some(_), .. }));
        assert!(matches!(next(failed(Cause::Killed), 2, 0, 2), Next::GiveUp(_)));
    }

    #[test]
    fn the_first_lost_worker_is_replaced_at_once_the_third_is_the_last() {
        assert!(matches!(next(Ending::Lost, 1, 1, 0), Next::Again { after: Duration::ZERO, .. }));
        assert!(matches!(next(Ending::Lost, 2, 2, 0), Next::Again { after, .. } if !after.is_zero()));
        assert!(matches!(next(Ending::Lost, 3, 3, 0), Next::GiveUp(f) if f.code == FailureCode::Poison));
        assert!(matches!(next(Ending::Lost, 4, 2, 0), Next::GiveUp(f) if f.code == FailureCode::WorkerLost));
    }

    #[test]
    fn what_was_given_back_is_ready_at_once_and_counts_from_the_fourth_time_on() {
        let given_back = |attempts, given_back| {
            let history = History { attempts, lost: 0, killed: 0, full: 0, given_back };
            after(Ending::Released { declined: false }, history, WorkerId::generate(), 1.0)
        };
        let again = |refund| Next::Again { after: Duration::ZERO, avoid: None, refund };
        assert_eq!(given_back(9, 3), again(true));
        assert_eq!(given_back(3, 4), again(false));
        assert!(matches!(given_back(4, 7), Next::GiveUp(f) if f.code == FailureCode::GivenBack));
        let declined = next(Ending::Released { declined: true }, 9, 0, 0);
        assert!(matches!(declined, Next::Again { after: FIRST_BACKOFF, avoid: Some(_), refund: true }));
    }

    #[test]
    fn what_fills_every_disk_ends_with_a_word_about_it() {
        let full = |full| {
            let history = History { attempts: full, lost: 0, killed: 0, full, given_back: 0 };
            let failure =
                Failure::new(Cause::Infrastructure, FailureCode::NoSpace, "[2/2] RUN x: no space left");
            after(Ending::Failed(failure), history, WorkerId::generate(), 1.0)
        };
        assert!(matches!(full(2), Next::Again { avoid: Some(_), refund: false, .. }));
        let Next::GiveUp(failure) = full(3) else { panic!("it was tried three times") };
        assert_eq!(failure.code, FailureCode::NoSpace);
        assert!(failure.message.contains("3 tries") && failure.message.contains("RUN x"), "{failure}");
    }

    #[test]
    fn a_program_that_only_the_base_image_knew_of_corrects_what_is_known() {
        let ending = |code, step: &str| {
            let failure = Failure::new(Cause::Infrastructure, code, "exec format error");
            Ending::Failed(Failure { step: Some(step.to_owned()), ..failure })
        };
        let onbuild = ending(FailureCode::EmulatorMissing, "[stage-1 2/4] ONBUILD RUN [\"/x\"]");
        let own = ending(FailureCode::EmulatorMissing, "[b 2/2] RUN echo '] ONBUILD RUN x'");
        for (runs, by_onbuild, by_own) in [
            ("none", true, true),
            // A cross-compiling stage that runs what it has just made.
            ("engine", true, false),
            ("linux/amd64", true, false),
            ("target", false, false),
        ] {
            let runs: Runs = runs.parse().unwrap();
            assert_eq!(runs_after_all(&onbuild, &runs), by_onbuild, "{runs}");
            assert_eq!(runs_after_all(&own, &runs), by_own, "{runs}");
            assert!(!runs_after_all(&ending(FailureCode::RunFailed, "[2/4] ONBUILD RUN x"), &runs));
            assert!(!runs_after_all(&Ending::Lost, &runs));
        }
    }

    proptest! {
        #[test]
        fn no_job_is_tried_for_ever(attempts in MAX_ATTEMPTS..100, lost in 0_u32..4, jitter in 0.0..1.0) {
            for ending in [failed(Cause::Infrastructure), failed(Cause::Killed), Ending::Lost] {
                let history = History { attempts, lost, killed: 1, full: 0, given_back: 0 };
                let next = after(ending, history, WorkerId::generate(), jitter);
                prop_assert!(matches!(next, Next::GiveUp(_)));
            }
        }

        #[test]
        fn a_wait_is_never_longer_than_a_minute(tries in 0_u32..1000, jitter in 0.0..1.0) {
            prop_assert!(backoff(tries, jitter) <= MAX_BACKOFF);
            prop_assert!(backoff(tries, jitter) >= FIRST_BACKOFF / 2);
        }
    }
}
