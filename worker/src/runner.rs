//! One attempt from its acceptance to its end: fetch the source, solve, tell.
//!
//! Invariants: every accepted attempt frees its slot exactly once, also when its task panics; its end is
//! told after all its events are stored (or can't be), and kept on disk before it is told; a lost lease is
//! told nothing.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use farm_proto::convert::fit;
use farm_proto::v1::{self, AttemptEvent, finished};
use farm_types::pattern::PatternSet;
use farm_types::spec::Purpose;
use farm_types::{BuildSpec, Cause, Digest, Failure, FailureCode, FetchSpec, Platform, Runs};
use futures::FutureExt as _;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::aftermath;
use crate::archives::Archives;
use crate::attempts::{Accepted, Attempts, Lease, StopReason};
use crate::buildkit::{Export, Missing, Mounted, Place, Public, Solve, SolveError, Solved};
use crate::disk::MetFull;
use crate::engine_watch::{Ready, trial};
use crate::fetching::{self, Means, NotFetched};
use crate::gate::Gating;
use crate::gauge::{Disks, Gauge};
use crate::git::Git;
use crate::link::Client;
use crate::link::events::{Ending, Events};
use crate::link::limit::LogLimit;
use crate::link::mounts;
use crate::link::outputs::{self, OutputError};
use crate::link::pushed::is_there;
use crate::link::sources::Bringing;
use crate::link::tokens::Lender;
use crate::mask::Masking;
use crate::mask::told::mask_end;
use crate::notice;
use crate::order::Order;
use crate::progress;
use crate::pushed::{Pushed, Same};
use crate::snapshot::fetch::Fetcher;
use crate::spool::Spool;
use crate::verify::{Verified, verify};

/// How long a solve may take to stop before its future is dropped, which closes its connections.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// How long the events of a stopped attempt may hold up the news of its end.
const LAST_EVENTS_WITHIN: Duration = Duration::from_secs(5);

/// Runs accepted attempts on the engine, each to its end.
pub struct Runner {
    /// Where ends are left, and stops are heard of.
    pub attempts: Arc<Attempts>,
    /// Where ends are kept until they are acknowledged.
    pub spool: Spool,
    /// The bulk connection: events, sources, outputs.
    pub client: Client,
    pub fetcher: Fetcher,
    /// The engine as it was last seen.
    pub engine: watch::Receiver<Ready>,
    /// Told when the engine may be in trouble.
    pub suspect: Arc<Notify>,
    /// Told when a disk was met full.
    pub met_full: Arc<MetFull>,
    /// The disks that are looked at when something failed.
    pub disks: Disks,
    /// What is known of images that everybody may read.
    pub public: Arc<Public>,
    /// What was pushed lately.
    pub pushed: Pushed,
    /// From where the engine may fetch in addition to what it always may.
    pub fetch_from: Vec<Place>,
    /// The hosts of the farm's coordinators, as the worker calls them.
    pub coordinators: Vec<String>,
    /// Brings sources from git; `None`: there is no git here.
    pub git: Option<Git>,
    /// Brings sources from archives.
    pub archives: Archives,
}

/// What the attempt's steps may mount, which is masked from then on. A frontend that is only asked runs none.
async fn mounted(
    client: &Client,
    lease: Lease,
    spec: &BuildSpec,
    events: &mpsc::Sender<AttemptEvent>,
    masking: &Masking,
    stop: &CancellationToken,
) -> Result<Arc<Mounted>, Outcome> {
    if spec.mounts.is_empty() || matches!(spec.purpose, Purpose::Call(_)) {
        return Ok(Arc::default());
    }
    let mounted = tokio::select! {
        borrowed = mounts::borrow(client, lease, &spec.mounts) => borrowed?,
        () = stop.cancelled() => return Err(Outcome::Stopped),
    };
    // Of long ones it takes up to half a second.
    let (mounted, to_mask) = (Arc::new(mounted), masking.clone());
    let values = Arc::clone(&mounted);
    let masked = tokio::task::spawn_blocking(move || {
        to_mask.begin(values.secrets.iter().map(|(id, value)| (id.as_str(), value.as_slice())))
    });
    let unmasked = masked.await.map_err(|error| {
        // Never unmasked.
        let text = format!("the build's secrets could not be made ready to be masked: {error}");
        Failure::new(Cause::Bug, FailureCode::WorkerBug, text)
    })?;
    for told in unmasked {
        // An error: nobody listens.
        let _ = events.send(told).await;
    }
    Ok(mounted)
}

/// How an attempt's work ended.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    Built(Box<v1::JobResult>),
    Failed(Box<Failure>),
    /// It was pushed, and isn't what it is to be.
    Refused(Box<Failure>, v1::Pushed),
    /// What is there of the source isn't enough.
    SourceIncomplete(Missing),
    Stopped,
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

impl Runner {
    /// Runs one accepted attempt to its end. Not to be dropped before that: the slot would stay taken.
    pub async fn run(self: Arc<Self>, accepted: Accepted) {
        let Accepted { lease, offered, span, stop } = accepted;
        async {
            tracing::info!(support = offered.support, "started");
            let attempts = Arc::clone(&self.attempts);
            let superseded = move || {
                attempts.stop(lease.attempt, StopReason::Superseded);
            };
            let masking = Masking::default();
            let limit = LogLimit::of(offered.log_bytes);
            let events = Events::open(self.client.clone(), lease, limit, masking.clone(), superseded);
            let work = self.work(lease, offered, events.sender(), &masking, stop.clone());
            let outcome = supervise(Box::pin(work), &stop, STOP_WITHIN).await;
            let enough = async {
                stop.cancelled().await;
                sleep(LAST_EVENTS_WITHIN).await;
            };
            let (ending, checked) = tokio::join!(events.finish(enough), self.self_check(&outcome, &stop));
            if ending == Ending::GaveUp {
                tracing::warn!("the last events could not be stored");
            }
            self.end(lease, outcome, checked, &masking).await;
        }
        .instrument(span)
        .await;
    }

    async fn work(
        &self,
        lease: Lease,
        offered: v1::Offered,
        events: mpsc::Sender<AttemptEvent>,
        masking: &Masking,
        stop: CancellationToken,
    ) -> Outcome {
        let runs: Runs = offered.runs.parse().unwrap_or_default();
        let order = match Order::try_from(offered) {
            Ok(order) => order,
            Err(error) => {
                let text = format!("the coordinator's offer can't be read: {error}");
                return Failure::new(Cause::Bug, FailureCode::OfferUnreadable, text).into();
            }
        };
        if let Some(fetch) = order.spec.purpose.fetch().cloned() {
            let limit = order.progress_within;
            let fetching = Box::pin(self.fetch(lease, fetch, order, &events, &stop));
            return progress::vouching(limit, &events, fetching).await;
        }
        let tree_id = order.spec.snapshot.tree_id;
        let limit = order.progress_within;
        let fetching = Box::pin(self.fetcher.fetch(lease, tree_id, &order.roots, &events, &stop));
        let roots = match progress::vouching(limit, &events, fetching).await {
            Ok(roots) => roots,
            Err(error) => return error.into_failure().map_or(Outcome::Stopped, Outcome::from),
        };
        let mounted = match mounted(&self.client, lease, &order.spec, &events, masking, &stop).await {
            Ok(mounted) => mounted,
            Err(outcome) => return outcome,
        };
        let ready = self.engine.borrow().clone();
        let platform = order.platform.clone();
        let excepted = order.excepted.clone();
        let is_program = matches!(order.spec.purpose, Purpose::Run(_));
        let gauge = Gauge::start(self.disks.clone(), ready.clone());
        tracing::debug!(engine = ready.label(), "solving");
        let (outputs, sending) = outputs::send(&self.client, lease, &order.spec.exports, order.output_bytes);
        let mut sending = Box::pin(sending);
        let (told, pulse, passing) = progress::listen(events.clone());
        let registries = order.registry_hosts();
        let farm = Arc::new(Lender::new(self.client.clone(), lease));
        let gate = order.spec.gate.clone();
        let same = Same::of(&order);
        let solve = order.into_solve(roots, &farm, Arc::clone(&self.public));
        let mut solve = Solve { outputs, mounted, mask: masking.mask(), ..solve };
        solve.fetches.close(&self.coordinators);
        solve.fetches.open(&self.fetch_from);
        let gating = Gating::of(gate, &solve);
        let solving = async {
            let solve = self.solved(lease, &ready, (solve, same), told, &stop);
            // Its last events are part of it.
            tokio::join!(solve, passing).0
        };
        let asks = async |build: bool| match build {
            true => trial(&ready).await.map_err(|failed| failed.message),
            false => ready.engine.health().await.map_err(|error| error.to_string()),
        };
        let stalled = progress::stalled(pulse, limit, &registries, events.clone(), asks);
        let (mut solving, mut stalled) = (Box::pin(solving), Box::pin(stalled));
        // The solve is dropped when another branch wins, and that ends it in the engine.
        let (solved, sent) = tokio::select! {
            solved = &mut solving => (solved, None),
            failure = &mut stalled => (Err(SolveError::Failed(failure)), None),
            sent = &mut sending => match sent {
                // All is stored before the engine has said its last word.
                Ok(()) => tokio::select! {
                    solved = &mut solving => (solved, Some(Ok(()))),
                    failure = &mut stalled => (Err(SolveError::Failed(failure)), None),
                },
                // The engine says why.
                Err(OutputError::BrokenOff) => tokio::select! {
                    solved = &mut solving => (solved, Some(Err(OutputError::BrokenOff))),
                    failure = &mut stalled => (Err(SolveError::Failed(failure)), None),
                },
                Err(OutputError::Superseded) => (Err(SolveError::Stopped), None),
                Err(OutputError::Failed(failure)) => (Err(SolveError::Failed(*failure)), None),
            },
        };
        let solved = match (solved, sent) {
            (Ok(solved), None) => {
                let stored = tokio::select! {
                    sent = progress::vouching(limit, &events, sending) => sent,
                    () = stop.cancelled() => Err(OutputError::Superseded),
                };
                stored.map(|()| solved).map_err(unsent)
            }
            (Ok(_), Some(Err(error))) => Err(unsent(error)),
            (solved, _) => solved,
        };
        let verified = match (&solved, &excepted) {
            (Ok(Solved { digest: Some(digest), .. }), Some(excepted)) => {
                let verifying =
                    Box::pin(self.verified(lease, digest, (&ready, &platform, excepted), &events));
                tokio::select! {
                    verified = progress::vouching(limit, &events, verifying) => verified,
                    () = stop.cancelled() => return Outcome::Stopped,
                }
            }
            _ => Ok(Vec::new()),
        };
        let passed = match (&solved, &verified, &gating) {
            (Ok(Solved { digest: Some(digest), .. }), Ok(_), Some(gating)) => {
                let way = (limit, registries.as_str(), &events, &stop);
                match Box::pin(gated(gating, digest, &ready, way)).await {
                    Err(SolveError::Failed(failure)) => {
                        let (runs, lately) = (Runs::Target, gauge.lately());
                        let of = (&platform, &runs);
                        let failure = aftermath::measured(failure, &ready, of, lately, is_program).await;
                        if failure.cause == Cause::Infrastructure {
                            self.suspect.notify_one();
                        }
                        Err(Box::new(gating.failed(failure, &platform)))
                    }
                    // What was pushed is told all the same. (Of the source there is nothing in it that could be missing.)
                    Err(SolveError::Stopped | SolveError::SourceIncomplete(_)) => Err(Box::new(unasked())),
                    Ok(()) => Ok(true),
                }
            }
            _ => Ok(false),
        };
        match solved {
            Ok(solved) => match (verified.and_then(|layers| Ok((layers, passed?))), solved.digest) {
                (Err(failure), Some(digest)) => {
                    let pushed = v1::Pushed { digest: digest.to_string(), media_type: solved.media_type };
                    Outcome::Refused(failure, pushed)
                }
                (Err(failure), None) => Outcome::Failed(failure),
                (Ok((layers, gated)), _) => {
                    Outcome::Built(Box::new(v1::JobResult { layers, gated, ..result(solved, ready.label()) }))
                }
            },
            Err(SolveError::Stopped) => Outcome::Stopped,
            Err(SolveError::SourceIncomplete(missing)) => Outcome::SourceIncomplete(missing),
            Err(SolveError::Failed(failure)) => {
                let lately = gauge.lately();
                let failure =
                    aftermath::measured(failure, &ready, (&platform, &runs), lately, is_program).await;
                if failure.cause == Cause::Infrastructure {
                    self.suspect.notify_one();
                }
                failure.into()
            }
        }
    }

    /// Builds an image and has it pushed, unless the same came to what was pushed before and is still there.
    async fn solved(
        &self,
        lease: Lease,
        ready: &Ready,
        (solve, same): (Solve, Option<Same>),
        told: mpsc::Sender<AttemptEvent>,
        stop: &CancellationToken,
    ) -> Result<Solved, SolveError> {
        let Some(same) = same else { return ready.engine.solve(solve, told, stop.clone()).await };
        let mut first = None;
        if let Some(before) = self.pushed.before(same) {
            let export = solve.export.clone().map(|export| Export { told_only: true, ..export });
            let look = Solve { export, ..solve.clone() };
            let found = Box::pin(ready.engine.solve(look, told.clone(), stop.clone())).await?;
            if found.digest == Some(before) && is_there(&self.client, lease, &before).await {
                tracing::info!(digest = %before, "it was pushed before, and is there");
                return Ok(found);
            }
            first = Some(found);
        }
        let solved = ready.engine.solve(solve, told, stop.clone()).await?;
        if let Some(digest) = solved.digest {
            self.pushed.note(same, digest);
        }
        // The second time all steps come from the cache.
        Ok(match first {
            Some(first) => {
                Solved { digest: solved.digest, media_type: solved.media_type, size: solved.size, ..first }
            }
            None => solved,
        })
    }

    /// Looks whether what was pushed has programs of its platform ([`verify`]).
    async fn verified(
        &self,
        lease: Lease,
        digest: &Digest,
        (ready, platform, excepted): (&Ready, &Platform, &PatternSet),
        events: &mpsc::Sender<AttemptEvent>,
    ) -> Result<Vec<v1::CheckedLayer>, Box<Failure>> {
        let verified = verify(&ready.engine, (&self.client, lease), digest, platform, excepted).await;
        let Verified { layers, unseen } = verified?;
        if let Some(why) = unseen {
            let text = format!(
                "not all of the image was looked at for programs of other machines than {platform}: {why}"
            );
            // An error: nobody listens.
            let _ = events.send(notice(text)).await;
        }
        Ok(layers)
    }

    /// Fetches a source and brings it to the farm.
    async fn fetch(
        &self,
        lease: Lease,
        fetch: FetchSpec,
        order: Order,
        events: &mpsc::Sender<AttemptEvent>,
        stop: &CancellationToken,
    ) -> Outcome {
        let project = order.project_id;
        let mut reach = order.into_reach();
        reach.close(&self.coordinators);
        reach.open(&self.fetch_from);
        let Some(project) = project else {
            let text = "the worker's coordinator is of before there were fetches; have it updated";
            return Failure::new(Cause::Infrastructure, FailureCode::GitUnavailable, text).into();
        };
        let farm = Bringing::new(self.client.clone(), lease);
        let means = Means { git: self.git.as_ref(), archives: &self.archives };
        match Box::pin(fetching::fetch(means, &farm, (project, fetch, reach), events, stop)).await {
            Ok(fetched) => Outcome::Built(Box::new(v1::JobResult {
                fetched: Some((&fetched).into()),
                ..Default::default()
            })),
            Err(NotFetched::Failed(failure)) => Outcome::Failed(failure),
            Err(NotFetched::Stopped) => Outcome::Stopped,
        }
    }

    /// After a failure that may be the machine's: what the worker finds when it looks at itself, in words; empty when it
    /// finds nothing. A failure's own words are none against the machine.
    async fn self_check(&self, outcome: &Outcome, stop: &CancellationToken) -> Option<String> {
        let (Outcome::Failed(failure) | Outcome::Refused(failure, _)) = outcome else { return None };
        if failure.cause != Cause::Infrastructure {
            return None;
        }
        if failure.code == FailureCode::NoProgress {
            // The failure itself was such a look; and an engine that hangs would hang again.
            return Some(failure.message.clone());
        }
        let ready = self.engine.borrow().clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => None,
            found = aftermath::check(&ready, &self.disks) => Some(found.err().unwrap_or_default()),
        }
    }

    async fn end(&self, lease: Lease, outcome: Outcome, checked: Option<String>, masking: &Masking) {
        let reason = self.attempts.stop_reason(lease.attempt);
        let checked = match reason {
            None => checked,
            Some(StopReason::EngineHangs) => Some("its engine stopped answering".to_owned()),
            Some(_) => None,
        };
        let pushed = match &outcome {
            Outcome::Refused(_, pushed) => Some(pushed.clone()),
            _ => None,
        };
        let Some(outcome) = verdict(outcome, reason) else {
            tracing::info!("ended without a result: the lease was lost");
            self.attempts.release(lease.attempt);
            return;
        };
        match &outcome {
            finished::Outcome::Result(result) => {
                tracing::info!(
                    digest = result.digest,
                    steps = result.steps,
                    cached = result.steps_cached,
                    "built"
                );
            }
            finished::Outcome::Failure(failure) => {
                match failure.code.parse() {
                    Ok(FailureCode::NoSpace) => self.met_full.engine.notify_one(),
                    Ok(FailureCode::WorkerDisk) => self.met_full.own.notify_one(),
                    _ => {}
                }
                tracing::info!(cause = failure.cause, code = failure.code, "failed");
            }
            finished::Outcome::Stopped(_) => tracing::info!("stopped"),
            finished::Outcome::SourceIncomplete(missing) => {
                tracing::info!(missing.root, missing.asked, "the source is incomplete");
            }
        }
        if let Some(found) = checked.as_ref().filter(|found| !found.is_empty()) {
            tracing::warn!(found, "the worker looked at itself after the failure");
        }
        let self_check = checked.map(|failure| v1::SelfCheck { failure });
        let mut finished =
            v1::Finished { lease: Some(lease.into()), outcome: Some(outcome), self_check, pushed };
        mask_end(&masking.mask(), &mut finished);
        if let Some(finished::Outcome::Failure(failure)) = &mut finished.outcome {
            fit(failure);
        }
        let (spool, kept) = (self.spool.clone(), finished.clone());
        let keep = tokio::task::spawn_blocking(move || spool.keep(lease.attempt, &kept)).await;
        if !matches!(keep, Ok(Ok(()))) {
            // It is told all the same; only a restart before the answer would lose it.
            tracing::warn!(?keep, "the result could not be kept on disk");
        }
        self.attempts.finish(lease.attempt, finished);
    }
}

/// Runs a gate in what was pushed, watched as a build is. Its last events are part of it.
async fn gated(
    gating: &Gating,
    pushed: &Digest,
    ready: &Ready,
    (limit, registries, events, stop): (Duration, &str, &mpsc::Sender<AttemptEvent>, &CancellationToken),
) -> Result<(), SolveError> {
    tracing::debug!(%pushed, "running the gate");
    let (onward, telling) = gating.tell(events.clone());
    let (told, pulse, passing) = progress::listen(onward);
    let solving = async {
        let solve = ready.engine.solve(gating.solve(pushed), told, stop.clone());
        tokio::join!(solve, passing, telling).0
    };
    let asks = async |build: bool| match build {
        true => trial(ready).await.map_err(|failed| failed.message),
        false => ready.engine.health().await.map_err(|error| error.to_string()),
    };
    let stalled = progress::stalled(pulse, limit, registries, events.clone(), asks);
    tokio::select! {
        solved = Box::pin(solving) => solved.map(drop),
        failure = Box::pin(stalled) => Err(SolveError::Failed(failure)),
    }
}

/// Runs the work to its end, whatever that is. A work that doesn't heed `stop` is dropped after a while.
async fn supervise(
    work: impl Future<Output = Outcome>,
    stop: &CancellationToken,
    within: Duration,
) -> Outcome {
    let overdue = async {
        stop.cancelled().await;
        sleep(within).await;
    };
    // What panics leaves nothing half done behind: all that is shared changes under locks, in one go.
    tokio::select! {
        outcome = AssertUnwindSafe(work).catch_unwind() => outcome.unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no text");
            tracing::error!(panic = text, "an attempt's task panicked");
            let message = "the worker met a defect of its own while it ran this job; its log has the details";
            Failure::new(Cause::Bug, FailureCode::WorkerBug, message).into()
        }),
        () = overdue => {
            tracing::warn!("the solve did not stop in time; its connections are closed");
            Outcome::Stopped
        }
    }
}

/// What the coordinator is told: nothing when the lease is another's.
fn verdict(outcome: Outcome, reason: Option<StopReason>) -> Option<finished::Outcome> {
    let failure = |failure: &Failure| finished::Outcome::Failure(failure.into());
    Some(match (outcome, reason) {
        (_, Some(StopReason::Superseded)) => return None,
        // What was done before the stop took effect is done.
        (Outcome::Built(result), _) => finished::Outcome::Result(*result),
        // A step that dies of the cancel looks like one that failed.
        (_, Some(StopReason::Cancelled | StopReason::GivenBack)) => {
            finished::Outcome::Stopped(v1::Stopped {})
        }
        (_, Some(StopReason::WorkerStopped)) => failure(&Failure::new(
            Cause::Infrastructure,
            FailureCode::WorkerStopped,
            "the worker was stopped while it ran this job",
        )),
        (_, Some(StopReason::EngineHangs)) => failure(&Failure::new(
            Cause::Infrastructure,
            FailureCode::EngineLost,
            "the engine stopped answering while it ran this job",
        )),
        (Outcome::Failed(why) | Outcome::Refused(why, _), None) => failure(&why),
        (Outcome::SourceIncomplete(Missing { root, asked }), None) => {
            finished::Outcome::SourceIncomplete(v1::SourceIncomplete { root, asked })
        }
        (Outcome::Stopped, None) => failure(&unasked()),
    })
}

/// What a stop is that has no reason.
fn unasked() -> Failure {
    let text = "the job ended without a result, and nobody had asked for that";
    Failure::new(Cause::Infrastructure, FailureCode::StoppedUnasked, text)
}

/// Why a solve that came to its end has no result after all.
fn unsent(error: OutputError) -> SolveError {
    match error {
        OutputError::Superseded => SolveError::Stopped,
        OutputError::Failed(failure) => SolveError::Failed(*failure),
        OutputError::BrokenOff => SolveError::Failed(Failure::new(
            Cause::User,
            FailureCode::OutputUnsupported,
            "the worker's engine built it but did not make all that --output asks for; engines before BuildKit 0.13 \
             (Docker 26) make one output of a build, so leave the others and -t out, or have the engine updated",
        )),
    }
}

fn result(solved: Solved, engine: String) -> v1::JobResult {
    v1::JobResult {
        digest: solved.digest.map(|digest| digest.to_string()).unwrap_or_default(),
        media_type: solved.media_type,
        size: solved.size,
        // The coordinator counts them, in the registry.
        image_bytes: 0,
        steps: solved.steps,
        steps_cached: solved.steps_cached,
        engine,
        syntax_replaced: solved.syntax_replaced.unwrap_or_default(),
        answer: solved.answer,
        fetched: None,
        step_timings: solved.step_timings,
        layers: Vec::new(),
        gated: false,
    }
}

#[cfg(test)]
#[path = "runner_tests.rs"]
mod tests;
