//! The life of a build.

use farm_types::state::BuildState;

use super::{Transition, transitions};

transitions! { BuildState:
    /// The first of its jobs was started.
    START = Queued => Running;
    /// Its execution is built.
    PUBLISH = Queued | Running => Publishing;
    /// Its execution failed.
    FAIL = Queued | Running => Failed;
    /// Somebody asked for its end.
    ASK_CANCEL = Queued | Running => Cancelling;
    /// Its execution ended, or goes on for others, after its end was asked for.
    CANCELLED = Cancelling => Cancelled;
    /// Its execution was cancelled, though nobody asked for the end of this build.
    CANCELLED_WITH = Queued | Running => Cancelled;
    /// Its end was asked for before anything was merged: no tag can have been touched.
    CALL_OFF = Publishing => Cancelled;
    /// Its index is where it should be.
    PUBLISHED = Publishing => Succeeded;
    /// Its index could not be made, put or tagged (in time).
    UNPUBLISHED = Publishing => Failed;
}

/// How an execution ended, as far as its builds ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutionEnd {
    /// Every required job has its result.
    Built,
    /// A required job failed.
    Failed,
    /// Nobody wants it.
    Cancelled,
}

/// The transition of a build whose execution has ended: one whose end was asked for is cancelled, however the execution ended.
/// `None`: it has gone on, or ended, already.
pub fn after_execution(build: BuildState, end: ExecutionEnd) -> Option<Transition<BuildState>> {
    match (build, end) {
        (BuildState::Cancelling, _) => Some(CANCELLED),
        (BuildState::Queued | BuildState::Running, ExecutionEnd::Built) => Some(PUBLISH),
        (BuildState::Queued | BuildState::Running, ExecutionEnd::Failed) => Some(FAIL),
        (BuildState::Queued | BuildState::Running, ExecutionEnd::Cancelled) => Some(CANCELLED_WITH),
        (BuildState::Publishing | BuildState::Succeeded | BuildState::Failed | BuildState::Cancelled, _) => {
            None
        }
    }
}
