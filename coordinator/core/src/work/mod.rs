//! What goes to which worker, and when: the scheduler, what a job waits for and how long, and what follows when an attempt
//! ends without a result.

pub mod again;
pub mod aside;
pub mod estimate;
pub mod plan;
pub mod waiting;
