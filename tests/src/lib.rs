//! The harness of farm's tests against real parts: Postgres, a registry, a Docker engine, and farm's own processes.
//!
//! `farm-testbed` (src/bin) starts what all tests share and passes its whereabouts by environment; [`bed::Bed`] reads
//! them. A test that takes a part down starts one of its own: [`database::PrivatePostgres`],
//! [`registry::PrivateRegistry`], [`engine::PrivateEngine`]. [`farm::Farm`] runs a coordinator and workers.
//!
//! No process of a test sees what is on the machine: the environment of all is [`environment`]'s, and the bed hides the
//! rest (tests/run.sh, `hide_machine`).
//!
//! Everything blocks and panics: a panic is the report. Every process ends with the *thread* that started it, so start
//! parts from the test's own thread, not from a pool's. To add a part: a module with a `start` that returns when the
//! part answers, holding a [`process::Child`], which cleans up when dropped.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test harness: a panic is the report"
)]

pub mod actions;
pub mod bed;
pub mod bridge;
pub mod browser;
pub mod capture;
pub mod client;
pub mod database;
pub mod differential;
pub mod disk;
pub mod engine;
pub mod environment;
pub mod farm;
pub mod faults;
pub mod forge;
pub mod git;
pub mod hang;
pub mod issuer;
pub mod line;
pub mod machine;
pub mod mail;
pub mod measuring;
pub mod misstep;
pub mod network;
pub mod pki;
pub mod planted;
pub mod ports;
pub mod process;
pub mod pushes;
pub mod receiver;
pub mod registry;
pub mod requests;
pub mod scale;
pub mod session;
mod sql;
pub mod tap;
pub mod token_service;
pub mod web;
