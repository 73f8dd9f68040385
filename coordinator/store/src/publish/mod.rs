//! From a build whose platforms are done to its tags: what is merged, put and claimed, looked at once more, and cleaned up
//! after builds that came to nothing.

pub mod destinations;
pub mod garbage;
pub mod history;
pub mod publications;
pub mod rechecks;
pub mod staging;
