//! What happened, as streams of events: reading them, and their way out of Postgres into the object store.

pub mod events;
pub mod seal;
