//! The `farm` command: submits builds, follows them, and tells what the farm has.
//!
//! The way of `farm submit`: [`verbs::submit`] checks what can be checked here, [`farm_source`] reads the source,
//! [`upload`] sends what the farm lacks, [`follow`] watches the build, [`outputs`] brings its result, [`output`] says what happens. Nothing
//! but [`output::Out`] and [`process`] prints.

pub mod address;
mod again;
pub mod agents;
mod authorized;
pub mod calls;
pub mod ci;
pub mod command;
pub mod config;
pub mod connect;
mod cosign;
mod ctrl_c;
pub mod error;
pub mod fetch;
mod folders;
pub mod follow;
mod http;
pub mod image;
pub mod input;
pub mod interrupt;
pub mod keys;
pub mod limits;
pub mod mounts;
pub mod output;
pub mod outputs;
mod patient;
pub mod place;
pub mod process;
mod prompt;
pub mod running;
mod security;
mod sign_in;
pub mod source;
pub mod switches;
pub mod upload;
pub mod verbs;

#[cfg(test)]
mod testing;
