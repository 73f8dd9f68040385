//! Tests of the coordinator, the worker and the command line over their interfaces, without builds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod client;
mod keeping;
mod outputs;
mod processes;
mod sick;
mod silence;
mod sources;
mod users;
mod workers;
