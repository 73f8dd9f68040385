//! Starts a coordinator.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use farm_coordinator::config::{Config, Flags, Verb};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // One provider is compiled in; a second install is no error.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let flags = Flags::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    if flags.log == "json" {
        log.json().init()
    } else {
        log.init()
    }
    let config = match Config::load(&flags) {
        Ok(config) => config,
        Err(error) => return fail(2, &error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &error),
    };
    let ended = match flags.verb {
        Some(Verb::Migrate(migrate)) => {
            runtime.block_on(farm_coordinator::migrate::command(&config, &migrate))
        }
        None => runtime.block_on(start(config)).map(|()| ExitCode::SUCCESS),
    };
    match ended {
        Ok(code) => code,
        Err(error) => fail(1, &format!("{error:#}")),
    }
}

async fn start(config: Config) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.listen).await.map_err(|error| {
        anyhow::anyhow!("{} can't be listened on: {error}; choose another with --listen", config.listen)
    })?;
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = shutdown.clone();
    tokio::spawn(async move {
        let mut signal = async || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        signal().await;
        tracing::info!("stopping: nothing new is taken, streams end; a second signal ends it at once");
        stop.cancel();
        signal().await;
        // All state is in the database, and whoever comes next finds what is left, as after a crash.
        tracing::warn!("ended by a second signal");
        std::process::exit(1);
    });
    farm_coordinator::run(config, listener, shutdown, |address| {
        // Whoever started us waits for this line; a closed stdout is no reason to end.
        let _ = writeln!(std::io::stdout(), "farm-coordinator ready on http://{address}");
    })
    .await
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {error}");
    ExitCode::from(code)
}
