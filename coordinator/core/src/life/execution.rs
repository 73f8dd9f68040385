//! The life of an execution.

use farm_types::state::ExecutionState;

use super::{Transition, transitions};

transitions! { ExecutionState:
    /// Every required job has its result, and no other is under way.
    BUILT = Open => Built;
    /// A required job failed, or waited too long.
    FAIL = Open => Failed;
    /// Nobody wants it any more, and nothing of it runs.
    CANCEL = Open => Cancelled;
}
