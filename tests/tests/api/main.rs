//! Tests of the coordinator, the worker and the command line over their interfaces, without builds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod audit;
mod burst;
mod checks;
mod deliveries;
mod fetches;
mod forges;
mod forks;
mod full;
mod gates;
mod hooks;
mod keeping;
mod logging;
mod mirrors;
mod notices;
mod outputs;
mod processes;
mod promoting;
mod published;
mod pushes;
mod read_limits;
mod scale;
mod service;
mod sick;
mod silence;
mod sources;
mod statuses;
mod team;
mod tls;
mod upgrades;
mod users;
mod verifying;
mod workers;

use farm_tests::client;
