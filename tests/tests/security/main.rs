//! Who is let in, and how far: the coordinator's doors, walked by all kinds of callers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is the report")]

mod agents;
mod arguments;
mod destinations;
mod entitlements;
mod full;
mod isolation;
mod joining;
mod lending;
mod limits;
mod logins;
mod outage;
mod outbound;
mod pages;
mod project_secrets;
mod quotas;
mod revoking;
mod secrets;
mod signing_keys;
mod staging;
mod team;
mod walk;
mod workers;
