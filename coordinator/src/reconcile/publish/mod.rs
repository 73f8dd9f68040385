//! From what workers pushed to tags that point to it, and out of registries what came to nothing.

pub mod clean;
mod merge;
pub mod publications;
mod put;

/// What was just pushed may not be seen at once by a registry of many machines: so often it is looked for
/// again before it is missed.
const LOOKS: u32 = 5;
