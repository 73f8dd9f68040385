//! The worker's process: what it is asked for, log, signals, exit code. It is here and not in the binary, so that what is compiled of it is
//! compiled beside the other programs, not after them.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Config, Flags, LogFormat};
use crate::joined::join::{self, JoinError};
use crate::mask::logs::Masked;
use crate::{Shutdown, run};

#[derive(Debug, Parser)]
#[command(name = "farm-worker", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
struct Line {
    #[command(subcommand)]
    verb: Option<Verb>,

    #[command(flatten)]
    flags: Flags,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Join a farm, with what `farm workers invite` has printed
    Join(Box<join::Args>),
    /// Show which farm the worker has joined, and as what
    Whoami(join::WhoAmI),
}

/// Does what its arguments say: without a verb, runs a worker until it is told to stop.
pub fn main() -> ExitCode {
    // Fails only when one was chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Line { verb, flags } = Line::parse();
    match verb {
        None => run_worker(flags),
        Some(Verb::Join(args)) => match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => told(runtime.block_on(join::join(*args))),
            Err(error) => fail(&error, 1),
        },
        Some(Verb::Whoami(args)) => told(join::whoami(&args)),
    }
}

fn told(lines: Result<Vec<String>, JoinError>) -> ExitCode {
    match lines {
        Ok(lines) => {
            // Nobody may be reading.
            let _ = writeln!(io::stdout(), "{}", lines.join("\n"));
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error, error.exit_code()),
    }
}

fn run_worker(flags: Flags) -> ExitCode {
    start_log(flags.log());
    let config = match flags.into_config() {
        Ok(config) => config,
        Err(error) => return fail(&error, 2),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, 1),
    };
    let code = runtime.block_on(work(config));
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

async fn work(config: Config) -> ExitCode {
    let shutdown = match Shutdown::on_signals() {
        Ok(shutdown) => shutdown,
        Err(error) => return fail(&error, 1),
    };
    match run(config, shutdown).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, error.exit_code()),
    }
}

fn start_log(format: LogFormat) {
    let filter: Targets = std::env::var("RUST_LOG")
        .ok()
        .and_then(|said| said.parse().ok())
        .unwrap_or_else(|| Targets::new().with_default(tracing::Level::INFO));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(Masked(std::io::stderr))
        .with_ansi(std::io::stderr().is_terminal());
    let log = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Plain => log.with(lines).init(),
        LogFormat::Json => log.with(lines.json()).init(),
    }
}

#[expect(clippy::print_stderr, reason = "the last words of a process are for people, whatever the log is")]
fn fail(error: &dyn std::fmt::Display, code: u8) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_flags_are_sound() {
        super::Line::command().debug_assert();
    }
}
