//! From what workers pushed to tags that point to it, and out of registries what came to nothing.

pub mod clean;
pub mod publications;
