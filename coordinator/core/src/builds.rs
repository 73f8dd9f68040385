//! What an execution has come to, from the states of its jobs.

use farm_types::Failure;
use farm_types::state::JobState;

/// One job, as far as the verdict asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobOutcome {
    pub state: JobState,
    /// Whether the execution fails without it.
    pub required: bool,
    /// Why it failed, if it did.
    pub failure: Option<Failure>,
}

/// What the execution has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It isn't decided yet: jobs wait or run.
    Open,
    /// Every required job has its result, and no other is under way.
    Built,
    /// A required job failed: what still runs is stopped.
    Failed(Failure),
    /// A required job was cancelled.
    Cancelled,
}

/// The verdict on these jobs, in the order of the request. The first required failure decides at once; a
/// success waits until every job, optional ones too, is decided.
pub fn verdict(jobs: &[JobOutcome]) -> Verdict {
    let required = || jobs.iter().filter(|job| job.required);
    if let Some(failure) = required().find_map(|job| job.failure.clone()) {
        return Verdict::Failed(failure);
    }
    if required().any(|job| job.state == JobState::Cancelled) {
        return Verdict::Cancelled;
    }
    if !jobs.iter().all(|job| job.state.is_final()) {
        return Verdict::Open;
    }
    if jobs.iter().any(|job| job.state == JobState::Succeeded) {
        return Verdict::Built;
    }
    // Nothing was required, and nothing came of it.
    jobs.iter().find_map(|job| job.failure.clone()).map_or(Verdict::Cancelled, Verdict::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use farm_types::{Cause, FailureCode};

    fn job(state: JobState) -> JobOutcome {
        let failure =
            (state == JobState::Failed).then(|| Failure::new(Cause::User, FailureCode::RunFailed, "x"));
        JobOutcome { state, required: true, failure }
    }

    #[test]
    fn all_required_must_succeed_and_one_failure_decides_at_once() {
        use JobState::{Cancelled, Failed, Ready, Running, Succeeded};
        assert_eq!(verdict(&[job(Succeeded), job(Running)]), Verdict::Open);
        assert_eq!(verdict(&[job(Succeeded), job(Succeeded)]), Verdict::Built);
        assert!(matches!(verdict(&[job(Ready), job(Failed)]), Verdict::Failed(_)));
        assert_eq!(verdict(&[job(Succeeded), job(Cancelled)]), Verdict::Cancelled);
        let optional = JobOutcome { required: false, ..job(Failed) };
        assert_eq!(verdict(&[job(Succeeded), optional.clone()]), Verdict::Built);
        assert_eq!(verdict(&[job(Running), optional.clone()]), Verdict::Open);
        assert!(matches!(verdict(&[optional]), Verdict::Failed(_)));
    }
}
