//! What the database layer promises, on a real Postgres: one database per test.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is the report")]
#![allow(clippy::large_futures, reason = "a test's futures are polled on a stack of their own")]

mod accepting;
mod audit;
mod browsing;
mod checks;
mod costs;
mod draining;
mod ending;
mod entitled;
mod fetches;
mod fixture;
mod forks;
mod garbage;
mod hooks;
mod hosts;
mod interleavings;
mod joining;
mod leading;
mod locking;
mod logins;
mod looks;
mod mounts;
mod notices;
mod one_bad;
mod programs;
mod publishing;
mod queueing;
mod quotas;
mod races;
mod rechecking;
mod retaining;
mod retries_interleaved;
mod retrying;
mod sealing;
mod secrets;
mod sick;
mod signing_in;
mod silence;
mod staging;
mod statuses;
mod streams;
mod sweeping;
mod trusting;
mod upgrading;
mod worker_states;
