//! Jobs on their way through the queue, and the attempts that run them: who may start what, what it leads to, and what only
//! time brings about. Why a job waits is answered by `schedule` and `queue`.

pub mod attempts;
pub mod concerns;
pub mod decide;
pub mod finish;
pub mod lease;
mod names;
pub(crate) mod queue;
pub mod reap;
pub mod schedule;
