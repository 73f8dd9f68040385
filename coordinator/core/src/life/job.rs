//! The life of a job.

use farm_types::state::JobState;

use super::{Transition, transitions};

transitions! { JobState:
    /// What it depends on is there.
    UNBLOCK = Blocked => Ready;
    /// A worker was chosen.
    LEASE = Ready => Leased;
    /// The worker has said that it runs.
    START = Leased => Running;
    /// It has its result. A worker's end may come without its start.
    SUCCEED = Leased | Running => Succeeded;
    /// Its attempt ended in a way after which it is tried again.
    AGAIN = Leased | Running => Ready;
    /// Its attempt ended in a way after which it isn't.
    FAIL = Leased | Running => Failed;
    /// It waited too long.
    EXPIRE = Ready => Failed;
    /// Its attempt was stopped, since nobody wants it any more.
    STOPPED = Leased | Running => Cancelled;
    /// Nobody wants it any more, and nothing of it runs.
    CANCEL = Blocked | Ready => Cancelled;
}
