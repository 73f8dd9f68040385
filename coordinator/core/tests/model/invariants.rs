//! What holds after each operation.

use farm_core::life::{Transition, attempt, build, execution, next};
use farm_core::work::again::{MAX_ATTEMPTS, MAX_LOST};
use farm_types::state::{AttemptState, BuildState, ExecutionState, JobState, State, TagState};

use crate::world::*;

pub fn hold(before: &World, after: &World) {
    for (now, then) in after.builds.iter().zip(&before.builds) {
        followed(then.state, now.state, build::ALL);
    }
    for (now, then) in after.executions.iter().zip(&before.executions) {
        followed(then.state, now.state, execution::ALL);
    }
    for (now, then) in after.jobs.iter().zip(&before.jobs) {
        // More than one transition in one transaction: an attempt ends and its execution stops the job.
        assert!(!then.state.is_final() || now.state == then.state, "{:?} became {:?}", then.state, now.state);
        assert_eq!(now.result.is_some(), now.state == JobState::Succeeded);
        assert_eq!(now.failure.is_some(), now.state == JobState::Failed);
        assert!(now.attempts <= MAX_ATTEMPTS && now.lost <= MAX_LOST, "{now:?}");
    }
    for (now, then) in after.attempts.iter().zip(&before.attempts) {
        followed(then.state, now.state, attempt::ALL);
        assert!(now.ends <= 1, "an attempt ended twice");
    }
    leases(after);
    builds(after);
    tags(before, after);
}

/// Nothing final changes, and each change is a legal one.
fn followed<S: State>(then: S, now: S, transitions: &[Transition<S>]) {
    let legal = then == now
        || next(then, transitions).any(|state| state == now)
        // A cancel that nothing stands against is asked for and done in one transaction.
        || next(then, transitions).any(|between| next(between, transitions).any(|state| state == now));
    assert!(legal && (then == now || !then.is_final()), "{then:?} became {now:?}");
}

/// 2: a job has at most one live lease, and is leased or running exactly then. 8: no engine has more than its slots.
fn leases(world: &World) {
    let live = world.live();
    for (index, job) in world.jobs.iter().enumerate() {
        let leases = live.iter().filter(|attempt| world.attempts[**attempt].job == index).count();
        let expected = usize::from(matches!(job.state, JobState::Leased | JobState::Running));
        assert_eq!(leases, expected, "job {index}: {:?}", job.state);
    }
    for (index, worker) in world.workers.iter().enumerate() {
        let held = live.iter().filter(|attempt| world.attempts[**attempt].worker == index).count();
        assert_eq!(held, usize::try_from(worker.used).unwrap(), "slots of worker {index}");
        assert!(worker.used <= worker.slots);
    }
}

/// 1 and 3: a build and its execution agree, and one that publishes has all that it needs.
fn builds(world: &World) {
    for build in &world.builds {
        let execution = &world.executions[build.execution];
        let jobs = || execution.jobs.iter().map(|job| &world.jobs[*job]);
        match build.state {
            BuildState::Publishing | BuildState::Succeeded => {
                assert_eq!(execution.state, ExecutionState::Built);
                assert!(jobs().all(|job| job.state == JobState::Succeeded));
                let results = jobs().map(|job| &world.attempts[job.result.unwrap()]);
                assert!(results.into_iter().all(|attempt| attempt.state == AttemptState::Succeeded));
            }
            BuildState::Queued | BuildState::Running | BuildState::Cancelling => {
                assert_eq!(execution.state, ExecutionState::Open, "{build:?} waits for what has ended");
            }
            BuildState::Failed => {
                assert!(build.failure.is_some() || build.publication.is_some(), "{build:?}")
            }
            BuildState::Cancelled => {}
        }
    }
}

/// 3: who has a tag never becomes older, and a verified one is nobody's but his.
fn tags(before: &World, after: &World) {
    for (tag, head) in &after.heads {
        if let Some(then) = before.heads.get(tag) {
            assert!(head.order >= then.order, "tag {tag} went back");
        }
        let verified = |build: &&Build| {
            build.tag == Some(*tag)
                && build.publication.as_ref().is_some_and(|of| of.tag == TagState::Verified)
        };
        for build in after.builds.iter().filter(verified) {
            assert!(build.order <= head.order);
        }
    }
}
