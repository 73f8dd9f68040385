//! From what workers pushed to tags that point to it, by way of the staging registry where their machines aren't trusted; out of
//! registries what came to nothing; and what is copied again and again.

pub mod clean;
mod copy;
mod locks;
mod merge;
pub mod mirrors;
pub mod publications;
mod put;
mod sign;
mod transfer;
pub mod unstage;

/// What was just pushed may not be seen at once by a registry of many machines: so often it is looked for
/// again before it is missed.
const LOOKS: u32 = 5;
