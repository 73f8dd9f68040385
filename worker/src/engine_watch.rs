//! Keeps an engine at hand: finds it at start, notices when it is away, and takes it back when it returns.
//!
//! While it is away offers are declined, and what runs fails by itself and is tried
//! elsewhere; of an engine that hangs it is given up after a while, since there no connection breaks. When it is
//! back it may be another version with other emulators, so it is described and its platforms are proved again;
//! what changed reaches the coordinator in a new Hello.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use farm_proto::v1;
use farm_types::{Backoff, Cause, Entitlement, Entitlements, Failure, FailureCode, Offer, Support};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::attempts::{Attempts, Identity, StopReason};
use crate::buildkit::{Engine, EngineAddress, EngineError, EngineKind, SolveError};
use crate::link::WAITS;
use crate::platforms::{self, Choice, PROOF_WITHIN};

/// How long an engine may take to appear when the worker starts.
const START_WITHIN: Duration = Duration::from_secs(10);
/// How often a quiet engine is asked for a sign of life.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// When an engine that didn't answer is asked once more before it counts as away.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// When what runs on an engine that is away, and has not failed by itself, is given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(15);
/// The oldest Docker engine with a containerd image store that is no experiment.
const OLDEST_DOCKER: u32 = 24;

/// An engine that can be built with.
#[derive(Clone)]
pub struct Ready {
    pub engine: Engine,
    /// What it is, and what it runs.
    pub identity: Identity,
}

impl Ready {
    /// The engine's kind and version for people: `docker 28.5.2`.
    pub fn label(&self) -> String {
        format!("{} {}", self.identity.engine.kind, self.identity.engine.version)
    }
}

/// Why an engine can't be built with.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// It is away, or unusable; the text has the cure.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A Docker engine that can't push by digest.
    #[error(
        "engine {0} keeps its images in the old store, from which nothing can be pushed by digest; \
         put \"features\": {{\"containerd-snapshotter\": true}} into its daemon.json and restart it"
    )]
    OldStore(EngineAddress),
    /// A Docker engine of another time.
    #[error(
        "engine {0} is Docker {1}; farm needs {OLDEST_DOCKER} or newer: update it, or name another engine with --engine"
    )]
    TooOld(EngineAddress, String),
    /// Not even its own platform runs.
    #[error(
        "engine {0} runs no platform: every probe build failed (the log says how); \
         look at the engine's log, or name its platforms with --platforms"
    )]
    RunsNothing(EngineAddress),
}

impl NotReady {
    /// True when it may mend itself.
    fn is_passing(&self) -> bool {
        matches!(self, Self::Engine(EngineError::Unreachable { .. }))
    }
}

/// Connects to the engine, and finds out what it runs, and which entitlements of those that may be granted it grants.
///
/// # Errors
/// It can't be built with, as it is now.
pub(crate) async fn ready(
    address: &EngineAddress,
    choice: &Choice,
    allow: &Entitlements,
) -> Result<Ready, NotReady> {
    let engine = Engine::connect(address.clone()).await?;
    let description = engine.describe().await?;
    if description.kind == EngineKind::Docker && is_too_old(&description.version) {
        return Err(NotReady::TooOld(address.clone(), description.version));
    }
    if description.kind == EngineKind::Docker && !description.containerd_store {
        return Err(NotReady::OldStore(address.clone()));
    }
    let offers = platforms::find(&engine, &description, choice).await;
    if offers.is_empty() {
        return Err(NotReady::RunsNothing(address.clone()));
    }
    let engine_identity = v1::Engine {
        key: description.key,
        kind: description.kind.as_str().to_owned(),
        version: description.version,
        buildkit: description.buildkit,
        package: description.package,
    };
    let grants = granted(&engine, &offers, allow).await;
    Ok(Ready {
        engine,
        identity: Identity {
            engine: engine_identity,
            offers,
            grants,
            draining: false,
            withdrawn: String::new(),
        },
    })
}

/// Those that the engine gives to a build. What it refuses is logged with the cure, and not offered.
async fn granted(engine: &Engine, offers: &[Offer], allow: &Entitlements) -> Entitlements {
    let native = offers.iter().find(|offer| offer.support == Support::Native);
    let Some(offer) = native.or(offers.first()) else { return Entitlements::new() };
    let mut grants = Entitlements::new();
    for &entitlement in allow {
        match timeout(PROOF_WITHIN, engine.grants(&offer.platform, entitlement)).await {
            // farm has no program for that platform: what the engine refuses fails builds then.
            Ok(Err(SolveError::Failed(failure))) if failure.code == FailureCode::ProbeUnknown => {
                grants.insert(entitlement);
            }
            Ok(Ok(())) => drop(grants.insert(entitlement)),
            Ok(Err(error)) => {
                let cure = allowing(entitlement);
                tracing::warn!(%entitlement, %error, cure, "not granted: the engine refused a build with it");
            }
            Err(_) => tracing::warn!(%entitlement, "not granted: a build with it did not end in time"),
        }
    }
    grants
}

/// How an engine is made to give it.
fn allowing(entitlement: Entitlement) -> &'static str {
    match entitlement {
        Entitlement::NetworkHost => {
            "start buildkitd with --allow-insecure-entitlement network.host; in a Docker engine's daemon.json take \
             \"network-host\": false out of \"builder\": {\"entitlements\": …}"
        }
        Entitlement::SecurityInsecure => {
            "start buildkitd with --allow-insecure-entitlement security.insecure; in a Docker engine's daemon.json: \
             \"builder\": {\"entitlements\": {\"security-insecure\": true}}"
        }
    }
}

/// Whether this is a Docker version that farm can't build with; one that can't be read is tried.
fn is_too_old(version: &str) -> bool {
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    major.is_some_and(|major| major < OLDEST_DOCKER)
}

/// As [`ready`], trying for ten seconds while nothing answers.
///
/// # Errors
/// Why the last try failed.
pub(crate) async fn ready_at_start(
    address: &EngineAddress,
    choice: &Choice,
    allow: &Entitlements,
) -> Result<Ready, NotReady> {
    let until = Instant::now() + START_WITHIN;
    let mut backoff = Backoff::new(WAITS);
    loop {
        match ready(address, choice, allow).await {
            Err(error) if error.is_passing() && Instant::now() < until => {
                tracing::debug!(%error, "no engine yet");
                let left = until.saturating_duration_since(Instant::now());
                sleep(backoff.next_jittered(rand::random()).min(left)).await;
            }
            end => return end,
        }
    }
}

/// Builds something. An engine whose containerd died, say, still answers what is asked of it, and fails all that it is
/// given to build.
///
/// # Errors
/// Its build fails for reasons of its own.
async fn prove(ready: &Ready) -> Result<(), String> {
    let offers = &ready.identity.offers;
    let native = offers.iter().find(|offer| offer.support == Support::Native);
    let Some(offer) = native.or(offers.first()) else { return Ok(()) };
    match timeout(PROOF_WITHIN, ready.engine.probe(&offer.platform)).await {
        // Whether a platform that an admin has named is emulated well is not the question.
        Ok(Err(SolveError::Failed(failure)))
            if failure.cause == Cause::Infrastructure && failure.code != FailureCode::EmulatorMissing =>
        {
            Err(failure.message)
        }
        // A busy one takes its time.
        _ => Ok(()),
    }
}

/// Builds something, strictly: whatever keeps it from its end within a minute is a failure.
///
/// # Errors
/// It failed, or took too long.
pub(crate) async fn trial(ready: &Ready) -> Result<(), Failure> {
    let failed = |why: String| Failure::new(Cause::Infrastructure, FailureCode::EngineError, why);
    let offers = &ready.identity.offers;
    let native = offers.iter().find(|offer| offer.support == Support::Native);
    let Some(offer) = native.or(offers.first()) else {
        return Err(failed("it runs no platform".to_owned()));
    };
    match timeout(PROOF_WITHIN, ready.engine.probe(&offer.platform)).await {
        Ok(Ok(())) => Ok(()),
        // farm has no program for that platform: an answer must do.
        Ok(Err(SolveError::Failed(failure))) if failure.code == FailureCode::ProbeUnknown => {
            ready.engine.health().await.map_err(|error| failed(error.to_string()))
        }
        Ok(Err(SolveError::Failed(failure))) => Err(failure),
        Ok(Err(SolveError::Stopped)) => Err(failed("the trial build was stopped".to_owned())),
        // Can't be: a trial build has no source of which a part could be missing.
        Ok(Err(error @ SolveError::SourceIncomplete(_))) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("a trial build did not end within {} s", PROOF_WITHIN.as_secs()))),
    }
}

/// Watches the engine: declines offers while it is away, and proves it again when it is back.
pub struct EngineWatch {
    pub address: EngineAddress,
    /// Which platforms the flags allow to offer.
    pub choice: Choice,
    /// Which entitlements the flags allow to grant.
    pub allow: Entitlements,
    /// Closed while the engine is away.
    pub attempts: Arc<Attempts>,
    /// The engine as it was last seen.
    pub ready: watch::Sender<Ready>,
    /// Told when an attempt met trouble that the engine may be the reason of.
    pub suspect: Arc<Notify>,
}

impl EngineWatch {
    /// Watches until it is dropped.
    pub async fn run(self) {
        loop {
            // Early when somebody suspects something.
            let suspected = timeout(CHECK_EVERY, self.suspect.notified()).await.is_ok();
            let Err(error) = self.ask(suspected).await else { continue };
            tracing::warn!(error, "the engine is away; offers are declined until it is back");
            self.attempts.close(format!("the engine is away: {error}"));
            self.take_back().await;
        }
    }

    async fn ask(&self, suspected: bool) -> Result<(), String> {
        let ready = self.ready.borrow().clone();
        if ready.engine.health().await.is_err() {
            // A busy engine may be slow once.
            sleep(ASK_AGAIN).await;
            ready.engine.health().await.map_err(|e| e.to_string())?;
        }
        if suspected { prove(&ready).await } else { Ok(()) }
    }

    async fn take_back(&self) {
        let mut backoff = Backoff::new(WAITS);
        let mut last = String::new();
        let give_up_at = Instant::now() + GIVE_UP_AFTER;
        loop {
            let found = async {
                let ready = ready(&self.address, &self.choice, &self.allow).await;
                let ready = ready.map_err(|e| e.to_string())?;
                prove(&ready).await.map(|()| ready)
            };
            // An engine may hang at any question.
            let mut found = pin!(found);
            let found = match timeout_at(give_up_at.max(Instant::now()), &mut found).await {
                Ok(found) => found,
                Err(_) => {
                    self.attempts.stop_all(StopReason::EngineHangs);
                    found.await
                }
            };
            match found {
                Ok(ready) => {
                    let platforms = platforms::describe(&ready.identity.offers);
                    tracing::info!(engine = ready.label(), platforms, "the engine is back");
                    self.attempts.open(ready.identity.clone());
                    self.ready.send_replace(ready);
                    return;
                }
                Err(why) => {
                    if why != last {
                        tracing::warn!(error = why, "the engine can't be used yet");
                        last = why;
                    }
                    sleep(backoff.next_jittered(rand::random())).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_of_another_time_are_told_apart() {
        assert!(["20.10.24+dfsg1", "23.0.6", "1.13.1"].iter().all(|version| is_too_old(version)));
        assert!(!["24.0.0", "26.1.5+dfsg1", "28.5.2", "dev", ""].iter().any(|version| is_too_old(version)));
    }
}
