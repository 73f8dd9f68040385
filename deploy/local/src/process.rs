//! `farm-local`'s process: the supervisor that `farm up` starts, and the first process in its engine's namespaces.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::layout::Layout;
use crate::settings::Settings;
use crate::{engine_init, supervisor};

/// Runs a whole farm on this machine. People call `farm up`, which starts it.
#[derive(Debug, Parser)]
#[command(name = "farm-local", version)]
struct Flags {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Keep a farm running, in the foreground, until SIGTERM
    Supervise {
        /// The folder where everything is kept
        #[arg(long, value_name = "DIR")]
        state_dir: PathBuf,
        /// What `farm up` was told
        #[arg(long, value_name = "JSON")]
        settings: String,
    },
    /// The first process in the engine's namespaces
    #[command(hide = true)]
    EngineInit(engine_init::Args),
}

/// Does what its arguments say.
pub fn main() -> ExitCode {
    match Flags::parse().what {
        What::EngineInit(args) => engine_init::main(&args),
        What::Supervise { state_dir, settings } => supervise(&state_dir, &settings),
    }
}

fn supervise(state_dir: &std::path::Path, settings: &str) -> ExitCode {
    let settings: Settings = match serde_json::from_str(settings) {
        Ok(settings) => settings,
        Err(error) => return fail(&format!("--settings: {error}"), 2),
    };
    let layout = match Layout::find(Some(state_dir)) {
        Ok(layout) => layout,
        Err(error) => return fail(&error, 2),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, 1),
    };
    match runtime.block_on(supervisor::run(layout, settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, 1),
    }
}

fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(code)
}
