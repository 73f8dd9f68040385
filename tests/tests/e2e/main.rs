//! Tests with builds in a real engine, from `farm submit` to an image that runs.
//!
//! Each file is about one promise. What they share: [`support`] (names, contexts, looks into registry and engine) and
//! [`gate`] (a build step that waits for the test). All tests use one engine and one registry at the same time, so
//! every test pushes to repositories of its own, and a step that must run, not come from the cache, has a random value
//! in it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is the report, in helpers too"
)]

mod gate;
mod guide;
mod support;

mod addresses;
mod archives;
mod arguments;
mod artifacts;
mod attaching;
mod caches;
mod cancelling;
mod cleaning;
mod clients;
mod context;
mod copying;
mod crowd;
mod digests;
mod dockerfile;
mod down_destination;
mod draining;
mod dying_coordinator;
mod dying_database;
mod dying_engine;
mod dying_worker;
mod engines;
mod entitlements;
mod example;
mod fetching;
mod following;
mod forges;
mod full;
mod full_disk;
mod gated;
mod git;
mod git_ssh;
mod homeless;
mod hooks;
mod ignoring;
mod images;
mod joining;
mod keeping;
mod leaving;
mod logging;
mod logins;
mod mirroring;
mod naming;
mod networks;
mod optional;
mod options;
mod order;
mod output;
mod outputs;
mod packaging;
mod planted;
mod platforms;
mod pressed;
mod programs;
mod promoting;
mod publish_steps;
mod pushed;
mod pushed_ssh;
mod pushing;
mod reaching;
mod references;
mod registries;
mod registry_verbs;
mod requests;
mod results;
mod retrying;
mod room;
mod schemas;
mod secrets;
mod several_coordinators;
mod sick;
mod signals;
mod signing;
mod ssh;
mod ssh_server;
mod staging;
mod sweep;
mod team;
mod terminal;
mod tls;
mod tokens;
mod transcripts;
mod untouched;
mod usage;
mod verify;
mod webhooks_guide;
