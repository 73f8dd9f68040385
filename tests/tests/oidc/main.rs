//! Tokens of other systems' issuers: over HTTP, from an issuer that signs and misbehaves, into a real Postgres.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is the report")]
#![allow(clippy::large_futures, reason = "a test's futures are polled on a stack of their own")]

mod commands;
mod exchanging;
mod issuers;
mod serving;
mod sign_in;
mod world;
