//! The coordinator's process: flags, log, signals, exit code. It is here and not in the binary, so that what is compiled of
//! it is compiled beside the other programs, not after them.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Config, Flags, Verb};
use crate::service_manager;

/// More files than that aren't asked for.
const FILES: u64 = 65_536;

/// Runs a coordinator as its flags say, until it is told to stop.
pub fn main() -> ExitCode {
    // One provider is compiled in; a second install is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    raise_files();
    let flags = Flags::parse();
    start_log(flags.log == "json");
    let config = match Config::load(&flags) {
        Ok(config) => config,
        Err(error) => return fail(2, &error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &error),
    };
    let ended = match flags.verb {
        Some(Verb::Migrate(migrate)) => runtime.block_on(crate::migrate::command(&config, &migrate)),
        Some(Verb::Keys(verb)) => runtime.block_on(crate::keys::command(&config, &verb)),
        None => runtime.block_on(start(config)).map(|()| ExitCode::SUCCESS),
    };
    // What stands in a blob folder that hangs can't be told to give up, and must not keep a process from its end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match ended {
        Ok(code) => code,
        Err(error) => fail(1, &format!("{error:#}")),
    }
}

/// Takes as many open files as the system allows: a shell's default is for programs that don't serve connections.
fn raise_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| maximum.is_none_or(|most| current < most)) {
        let most = maximum.map_or(FILES, |most| most.min(FILES));
        // Without it fewer connections are taken, and `limits` says so.
        let _ =
            setrlimit(Resource::Nofile, Rlimit { current: Some(most.max(current.unwrap_or(0))), maximum });
    }
}

fn start_log(json: bool) {
    let filter: Targets =
        std::env::var("RUST_LOG").ok().and_then(|said| said.parse().ok()).unwrap_or_else(|| {
            Targets::new().with_default(tracing::Level::INFO).with_target("sqlx", tracing::Level::WARN)
        });
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let log = tracing_subscriber::registry().with(filter);
    if json { log.with(lines.json()).init() } else { log.with(lines).init() }
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
        service_manager::told(farm_proto::notify::stopping("open calls end"));
        stop.cancel();
        signal().await;
        // All state is in the database, and whoever comes next finds what is left, as after a crash.
        tracing::warn!("ended by a second signal");
        std::process::exit(1);
    });
    Box::pin(crate::run(config, listener, shutdown, |serving| {
        let mut out = std::io::stdout();
        if let Some((fingerprint, file)) = &serving.authority {
            let _ = writeln!(out, "CA {fingerprint} in {}", file.display());
        }
        // Whoever started us waits for this line; a closed stdout is no reason to end.
        let _ = writeln!(out, "farm-coordinator ready on {}", serving.url);
        service_manager::told(farm_proto::notify::ready(&format!("serving on {}", serving.url)));
    }))
    .await
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {error}");
    ExitCode::from(code)
}
