//! `.farm.yaml`: what a repository wants built when something happens in it. Pure: no IO, no clock.

mod event;

pub use event::{Event, EventKind};
