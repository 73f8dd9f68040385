//! The worker: takes attempts from a coordinator, builds them on one engine, and tells how they ended.
//!
//! Follow one attempt: [`link::session`] hears an offer and asks [`attempts`] for a slot; [`runner`] fetches
//! the source ([`snapshot`]), has it built ([`buildkit`]) while [`link::events`] carries what happens, and
//! leaves the end there, from which the session tells it until it is acknowledged. What is told holds no secret ([`mask`]).
//!
//! Invariant: neither an outage of the coordinator nor the end of a stream stops what runs; only a stop that
//! the coordinator asks for, a second signal, or the engine does.

pub mod aftermath;
pub mod archives;
pub mod attempts;
pub mod buildkit;
pub mod config;
pub mod disk;
pub mod engine_watch;
pub mod fetching;
mod gate;
pub mod gauge;
pub mod git;
pub mod joined;
pub mod link;
pub mod mask;
mod order;
pub mod platforms;
mod pointers;
pub mod process;
pub mod progress;
pub mod pushed;
pub mod runner;
pub mod snapshot;
pub mod spool;
pub mod state_dir;
#[cfg(test)]
mod testing;
pub mod verify;
#[cfg(test)]
mod worker_tests;

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use farm_proto::{notify, v1};
use farm_types::BootId;
use farm_types::entitlement::listed;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use archives::Archives;
use attempts::{Attempts, Chore, Counts, StopReason};
use buildkit::{CacheBounds, Dropped};
use config::{Config, Shows};
use disk::{DiskWatch, MetFull};
use engine_watch::{EngineWatch, NotReady, Ready, ready_at_start, trial};
use gauge::Disks;
use git::Git;
use joined::renewal::Renewal;
use link::control::spawn;
use link::{Control, ControlError, Credential};
use runner::Runner;
use snapshot::cache::ContentCache;
use snapshot::fetch::Fetcher;
use spool::Spool;

/// How long a worker that drained waits for the answers to its last results. They are on disk.
const ANSWERS_WITHIN: Duration = Duration::from_secs(25);
/// How long a worker that ends waits until acknowledged results are off its disk.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(5);
/// How often is looked for mirrors that nobody has used for long (each fetch does so, too), and for those whose reason has gone.
const TIDIED_EVERY: Duration = Duration::from_secs(3600);
/// How long attempts that were told to stop may take.
const STOPPED_WITHIN: Duration = Duration::from_secs(25);
/// How long a worker that was told to stop at once waits for the answers.
const LAST_ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// A service manager that waits for the worker waits no longer than this for a coordinator: one that is away ends no
/// worker, so it must not make its start fail either.
const STARTED_WITHIN: Duration = Duration::from_secs(10);

/// Why a worker ended, or never began.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The engine can't be built with.
    #[error(transparent)]
    Engine(#[from] NotReady),
    /// The coordinator will not have this worker.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The folder for state can't be used.
    #[error("--state-dir {folder}: {why}")]
    State {
        folder: String,
        /// What is wrong with it, and the cure.
        why: String,
    },
    /// The connection can't be set up.
    #[error("the connection to the coordinator can't be set up: {0}")]
    Connection(#[from] farm_client::EndpointError),
    /// A part that must live as long as the worker died.
    #[error("the worker's {0} died; please report this with the log")]
    Died(&'static str),
    /// The system gives no thread for the control link.
    #[error("the system has no room for a thread: {0}")]
    Thread(#[source] io::Error),
}

impl RunError {
    /// The exit code that stands for it: 4 another protocol version, 5 a refused token or certificate, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Control(ControlError::Protocol { .. }) => 4,
            Self::Control(ControlError::Unauthenticated { .. } | ControlError::Certificate { .. }) => 5,
            _ => 1,
        }
    }
}

/// How a worker is asked to end.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Take nothing new, finish what runs, then end.
    pub drain: CancellationToken,
    /// Stop what runs, then end.
    pub abort: CancellationToken,
}

impl Shutdown {
    /// The first SIGTERM or SIGINT drains, the second aborts.
    ///
    /// # Errors
    /// The system doesn't let us listen.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::default();
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let Self { drain, abort } = shutdown.clone();
        tokio::spawn(async move {
            for step in [drain, abort] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                step.cancel();
            }
        });
        Ok(shutdown)
    }
}

/// Runs a worker until it was asked to end and has ended. Prints one line on stdout when the coordinator
/// first took it.
///
/// # Errors
/// It can't begin, the coordinator refuses it for good, or a part of it died.
pub(crate) async fn run(config: Config, shutdown: Shutdown) -> Result<(), RunError> {
    let state_error = |why: String| RunError::State { folder: config.state_dir.display().to_string(), why };
    let claim = state_dir::claim(&config.state_dir).map_err(|error| state_error(error.to_string()))?;
    let spool = Spool::open(&config.state_dir).map_err(|error| state_error(error.to_string()))?;
    let left_over = spool.load().map_err(|error| state_error(error.to_string()))?;
    let (folder, bound) = (config.state_dir.clone(), config.cache_bytes);
    let cache = tokio::task::spawn_blocking(move || ContentCache::open(&folder, bound))
        .await
        .map_err(|_| RunError::Died("content cache"))?
        .map_err(|error| state_error(error.to_string()))?;
    let cache = Arc::new(cache);

    let first = ready_at_start(&config.engine, &config.platforms, &config.allow).await?;
    let platforms = platforms::describe(&first.identity.offers);
    let grants = listed(&first.identity.grants);
    tracing::info!(engine = first.label(), platforms, grants, slots = config.slots, "engine found");

    let git = match Git::open(&config.state_dir.join("git"), config.cache_bytes).await {
        Ok(git) => Some(git),
        Err(error) => {
            tracing::warn!("it gets no fetches: {error}");
            None
        }
    };
    let folder = config.state_dir.join("archives");
    let archives = tokio::task::spawn_blocking(move || Archives::open(folder))
        .await
        .map_err(|_| RunError::Died("scratch folder"))?
        .map_err(|error| state_error(error.to_string()))?;
    let (attempts, mut chores) = Attempts::new(config.slots);
    let attempts = Arc::new(attempts);
    for (attempt, finished) in left_over {
        tracing::info!(%attempt, "a result of a former life is told again");
        attempts.finish(attempt, finished);
    }
    attempts.open(first.identity.clone());

    for url in config.coordinators.urls().filter(|url| url.is_open()) {
        tracing::warn!(coordinator = %url, "called without TLS (--insecure-http): whoever is between sees the token");
    }
    let bulk = link::bulk(&config.coordinators, &config.security)?;
    let mut keepers = JoinSet::new();
    let (credential, certified) = match config.shows {
        Shows::Token(token) => (Credential::from(token), None),
        Shows::Certificate(pair) => {
            let ways = (config.coordinators.clone(), config.security.clone(), bulk.clone());
            let now_ms = || chrono::Utc::now().timestamp_millis();
            let (renewal, certified) = Renewal::new(config.state_dir.clone(), ways, &pair, now_ms);
            keepers.spawn(async move {
                renewal.run().await;
                "renewal of its certificate"
            });
            (Credential::default(), Some(certified))
        }
    };
    let client = link::client(bulk.clone(), &credential);
    let leave = CancellationToken::new();
    let welcomed = watch::Sender::new(false);
    let mut welcome = welcomed.subscribe();
    let mut control = spawn(Control {
        coordinators: config.coordinators.clone(),
        security: config.security.clone(),
        bulk,
        credential,
        certified,
        name: config.name.clone(),
        boot: BootId::generate(),
        home: claim.home(),
        slots: config.slots,
        has_git: git.is_some(),
        fenced: config.fenced_engine,
        attempts: Arc::clone(&attempts),
        leave: leave.clone(),
        welcomed,
    })
    .map_err(RunError::Thread)?;

    let suspect = Arc::new(Notify::new());
    let met_full = Arc::new(MetFull::default());
    let places = Disks { engine_root: config.engine_root.clone(), state_dir: config.state_dir.clone() };
    let ready = watch::Sender::new(first);
    let runner = Arc::new(Runner {
        attempts: Arc::clone(&attempts),
        spool: spool.clone(),
        client: client.clone(),
        fetcher: Fetcher::new(client, Arc::clone(&cache)),
        engine: ready.subscribe(),
        suspect: Arc::clone(&suspect),
        met_full: Arc::clone(&met_full),
        disks: places,
        public: Arc::default(),
        pushed: Default::default(),
        fetch_from: config.fetch_from,
        coordinators: config.coordinators.hosts(),
        git,
        archives,
    });
    let tidy = Arc::clone(&runner);
    keepers.spawn(async move {
        loop {
            if let Some(git) = &tidy.git {
                git.tidy().await;
                link::kept::forget_gone(&tidy.client, git).await;
            }
            sleep(TIDIED_EVERY).await;
        }
    });
    let probed = ready.subscribe();
    let disks = DiskWatch {
        attempts: Arc::clone(&attempts),
        engine: ready.subscribe(),
        engine_root: config.engine_root,
        asked_root: None,
        state_dir: config.state_dir,
        cache,
        room: config.room,
        met_full,
    };
    let watch = EngineWatch {
        address: config.engine,
        choice: config.platforms,
        allow: config.allow,
        attempts: Arc::clone(&attempts),
        ready,
        suspect,
    };
    keepers.spawn(async move {
        watch.run().await;
        "engine watch"
    });
    keepers.spawn(async move {
        disks.run().await;
        "disk watch"
    });
    let (known, release_after) = (Arc::clone(&attempts), config.release_after);
    keepers.spawn(async move {
        end_when_asked(known, shutdown, leave, release_after).await;
        // From here on it is the control link that ends the worker.
        std::future::pending().await
    });

    let mut forgetting = JoinSet::new();
    let mut announced = false;
    let mut started = false;
    let begun = sleep(STARTED_WITHIN);
    tokio::pin!(begun);
    let end = loop {
        tokio::select! {
            end = &mut control => break end,
            Some(chore) = chores.recv() => match chore {
                // It ends by itself, and frees its slot whatever happens.
                Chore::Run(accepted) => drop(tokio::spawn(Arc::clone(&runner).run(*accepted))),
                Chore::Probe(id) => {
                    let (attempts, ready) = (Arc::clone(&attempts), probed.borrow().clone());
                    drop(tokio::spawn(async move {
                        let end = trial(&ready).await.map_err(|failed| failed.message);
                        tracing::info!(?end, "a trial build was asked for, and has ended");
                        attempts.probe_ended(&id, end);
                    }));
                }
                Chore::Cache(asked) => {
                    let (attempts, ready) = (Arc::clone(&attempts), probed.borrow().clone());
                    drop(tokio::spawn(async move { attempts.cache_told(cached(&ready, asked).await) }));
                }
                Chore::Forget(attempt) => {
                    let spool = spool.clone();
                    while forgetting.try_join_next().is_some() {}
                    forgetting.spawn_blocking(move || spool.forget(attempt));
                }
            },
            Ok(is_welcome) = welcome.wait_for(|is_welcome| *is_welcome), if !announced => {
                announced = true;
                drop(is_welcome);
                // Nobody may be reading; that is no reason not to build.
                let _ = writeln!(io::stdout(), "farm-worker {} ready: {platforms}", config.name);
                told(notify::ready(&format!("in the farm: {platforms}")));
                started = true;
            }
            () = &mut begun, if !started => {
                started = true;
                told(notify::ready("no coordinator has taken it yet; going on to ask"));
            }
            Some(dead) = keepers.join_next() => return Err(RunError::Died(dead.unwrap_or("inner task"))),
        }
    };
    // What was acknowledged at the last moment isn't told again at the next start.
    while let Ok(chore) = chores.try_recv() {
        if let Chore::Forget(attempt) = chore {
            let spool = spool.clone();
            forgetting.spawn_blocking(move || spool.forget(attempt));
        }
    }
    let _ = timeout(FORGOTTEN_WITHIN, forgetting.join_all()).await;
    match end {
        Ok(end) => Ok(end?),
        Err(_) => Err(RunError::Died("control link")),
    }
}

/// Has the engine drop some of its cache, or say what it would.
async fn cached(ready: &Ready, asked: v1::CacheAsked) -> v1::CacheTold {
    let older_than = Duration::from_millis(asked.older_than_ms);
    let bounds = CacheBounds { older_than, keep: asked.keep_bytes };
    let done = match asked.dry_run {
        true => ready.engine.would_drop(bounds).await,
        false => ready.engine.drop_cache(bounds).await,
    };
    let id = asked.id;
    match done {
        Ok(Dropped { kept, freed }) => {
            if !asked.dry_run {
                tracing::info!(freed, kept, "the engine's build cache was pruned, as an admin wished");
            }
            v1::CacheTold { id, bytes: kept, freed_bytes: freed, failure: String::new() }
        }
        Err(error) => v1::CacheTold { id, failure: error.to_string(), ..v1::CacheTold::default() },
    }
}

fn told(service_manager: io::Result<()>) {
    if let Err(error) = service_manager {
        tracing::warn!(%error, "the service manager in NOTIFY_SOCKET can't be told");
    }
}

/// Waits to be asked for the end, brings it about, and says when there is nothing left to tell.
///
/// What still runs after `release_after` is given back, to be run elsewhere.
async fn end_when_asked(
    attempts: Arc<Attempts>,
    shutdown: Shutdown,
    leave: CancellationToken,
    release_after: Option<Duration>,
) {
    tokio::select! {
        () = shutdown.drain.cancelled() => {}
        () = shutdown.abort.cancelled() => {}
    }
    attempts.drain();
    let counts = attempts.watch();
    let running = counts.borrow().running;
    tracing::info!(running, "draining: nothing new is taken; a second signal stops what runs");
    told(notify::stopping(&format!("draining: {running} jobs run")));
    let give_back = async {
        match release_after {
            Some(after) => sleep(after).await,
            None => std::future::pending().await,
        }
        tracing::warn!("time is up: what still runs is given back");
        attempts.stop_all(StopReason::GivenBack);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = idle(counts.clone(), ANSWERS_WITHIN) => {}
        () = give_back => {}
        () = async {
            shutdown.abort.cancelled().await;
            tracing::warn!("stopping what runs");
            attempts.stop_all(StopReason::WorkerStopped);
            let stopped = timeout(STOPPED_WITHIN, idle(counts.clone(), LAST_ANSWERS_WITHIN)).await;
            if stopped.is_err() {
                tracing::warn!("some jobs did not stop; they end with the process");
            }
        } => {}
    }
    leave.cancel();
}

/// Waits until nothing runs, and then for a while until all ends are acknowledged.
async fn idle(mut counts: watch::Receiver<Counts>, answers_within: Duration) {
    // They live as long as we do, so the counts don't end.
    let _ = counts.wait_for(|counts| counts.running == 0).await;
    let answered = timeout(answers_within, counts.wait_for(|counts| counts.unanswered == 0)).await;
    if answered.is_err() {
        tracing::warn!("the last results were not acknowledged; they are kept for the next start");
    }
}

/// A sentence for people, on its way to whoever watches the build.
pub(crate) fn notice(text: impl Into<String>) -> v1::AttemptEvent {
    v1::AttemptEvent {
        at_ms: chrono::Utc::now().timestamp_millis(),
        event: Some(v1::attempt_event::Event::Notice(v1::Notice { text: text.into() })),
    }
}
