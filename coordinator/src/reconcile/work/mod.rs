//! Jobs while they wait and run: giving them to workers, and ending what is overdue.

pub mod reap;
pub mod schedule;
