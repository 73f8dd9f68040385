//! What farm decides, without doing it: pure and synchronous.
//!
//! Everything here is a function of its arguments, time included. No async, no IO, no database, so that
//! each decision can be tested by properties and replayed. The coordinator gathers the state, asks here,
//! and writes the answer with its premise in `WHERE`.

pub mod aside;
pub mod estimate;
pub mod health;
pub mod index;
pub mod life;
pub mod plan;
pub mod retry;
pub mod verdict;
