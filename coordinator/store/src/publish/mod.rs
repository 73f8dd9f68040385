//! From a build whose platforms are done to its tags: what is merged, put and claimed, looked at once more, cleaned up
//! after builds that came to nothing, and removed at somebody's wish; and what is copied again and again.

pub mod destinations;
pub mod garbage;
pub mod history;
pub mod listing;
pub mod mirror_runs;
pub mod mirrors;
pub mod publications;
pub mod rechecks;
pub mod removals;
pub mod staging;
