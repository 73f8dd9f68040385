//! Source trees: how they come in, what happens when one turns out to be too small, and what becomes of bytes that nobody
//! needs.

pub mod partial;
pub mod snapshots;
pub mod sweep;
