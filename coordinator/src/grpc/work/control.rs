//! The control stream: a worker says who it is, gives signs of life, and how its attempts go.

use std::sync::Arc;

use chrono::DateTime;
use farm_proto::convert::without_nul;
use farm_proto::v1::control_request::Message as Said;
use farm_proto::v1::control_response::Message as Answer;
use farm_proto::{WORKER_PROTOCOL, v1};
use farm_store::StoreError;
use farm_store::builds::record::{self, JobResult};
use farm_store::machines::caches::Told;
use farm_store::machines::certificates::ShownWorker;
use farm_store::machines::workers::{Joined, OVERTAKEN, Registration};
use farm_store::sources::partial::Missing;
use farm_store::work::attempts::{Lease, LeasedSnapshot};
use farm_store::work::decide::PublishLimit;
use farm_store::work::finish::{Outcome, Step};
use farm_types::ids::check_worker_name;
use farm_types::{
    AttemptId, BootId, Cause, FEATURE_DRAINING, FEATURE_TOKENS, Failure, FailureCode, Fetched, JoinId, Offer,
    ProjectId, WorkerId,
};
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use super::{lease, status, verdicts};
use crate::link::{Beat, Dial};
use crate::people::{self, Caller};
use crate::shared::Shared;

/// As much of a worker's reason for taking no jobs as is kept, characters.
const LONGEST_REASON: usize = 300;
/// Messages on their way to a worker.
const OUTBOX: usize = 256;
/// How long a worker may take to say who it is.
const HELLO_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);
/// How often an end is written again when the database doesn't take it, before the worker has to dial anew.
const TRIES: usize = 3;
/// The wait between two of these tries.
const BETWEEN_TRIES: std::time::Duration = std::time::Duration::from_millis(50);

/// Registers the worker that the first message names, and serves its stream.
///
/// # Errors
/// The first message is no Hello, or the worker can't be taken.
pub(crate) async fn open(
    shared: Arc<Shared>,
    caller: Caller,
    mut said: Streaming<v1::ControlRequest>,
    shutdown: CancellationToken,
) -> Result<impl Stream<Item = Result<v1::ControlResponse, Status>>, Status> {
    let first = tokio::time::timeout(HELLO_WITHIN, said.message())
        .await
        .map_err(|_| Status::deadline_exceeded("the worker did not say Hello"))??;
    let Some(v1::ControlRequest { message: Some(Said::Hello(hello)) }) = first else {
        return Err(Status::failed_precondition("the first message of a control stream is Hello"));
    };
    let invited = caller.principal.worker.as_ref().map(|worker| &worker.shown);
    let registration = registration(&shared, hello, invited)?;
    let registered = shared.store.register_worker(&registration, shared.config.limits.suspect()).await;
    let worker = registered.map_err(|error| match error {
        StoreError::Stale(OVERTAKEN) => Status::unavailable(OVERTAKEN),
        StoreError::Stale(why) => people::counts_no_more(&registration.name, why),
        other => status::store(other),
    })?;
    let boot = registration.boot_id;
    let holder = registration.joined.map(|joined| joined.join);
    tracing::Span::current().record("worker", tracing::field::display(&registration.name));
    tracing::info!("worker connected");
    if invited.is_none() {
        tracing::warn!(
            "this worker shows the farm's own token, which makes its machine an admin of the farm; give it a certificate of its \
             own: farm workers invite --name {}",
            registration.name
        );
    }
    let (outbox, answers) = mpsc::channel(OUTBOX);
    let limits = &shared.config.limits;
    let welcome = Answer::Welcome(v1::Welcome {
        version: WORKER_PROTOCOL,
        features: Vec::new(),
        heartbeat_ms: u32::try_from(limits.heartbeat_milliseconds).unwrap_or(u32::MAX),
        lease_ms: u32::try_from(limits.lease_seconds * 1000).unwrap_or(u32::MAX),
        coordinator_version: env!("CARGO_PKG_VERSION").to_owned(),
    });
    outbox
        .send(Ok(v1::ControlResponse { message: Some(welcome) }))
        .await
        .map_err(|_| Status::unavailable("the worker left"))?;
    let serial = registration.connection;
    let asks = registration.features.iter().any(|feature| feature == FEATURE_TOKENS);
    let dial = Dial { boot, number: registration.dial };
    shared.link.connect(worker, (registration.name, asks), (serial, dial), outbox.clone());
    shared.hints.changed();
    let serving = async move {
        let connection =
            Connection { shared: Arc::clone(&shared), worker, boot, holder, connection: serial, outbox };
        let end = tokio::select! {
            end = connection.listen(&mut said) => end,
            () = connection.outbox.closed() => Ok(Left::Gone),
            () = shutdown.cancelled() => Err(Status::unavailable("this coordinator stops; dial again")),
        };
        // Not in there: whoever says goodbye may close its stream at once, or have it closed, and its jobs are given back all the same.
        let end = match end {
            Ok(Left::Goodbye) => connection.goodbye().await,
            end => end.map(drop),
        };
        let why = end.as_ref().err().map(|status| status.message().to_owned());
        if let Err(status) = end {
            // The worker may be gone already.
            let _ = connection.outbox.send(Err(status)).await;
        }
        shared.link.disconnect(worker, serial);
        if let Err(error) = shared.store.worker_disconnected(worker, serial).await {
            tracing::warn!(%error, "a worker's leave could not be written; its silence will tell");
        }
        // Once it counts as gone, so that whoever reads it can remove it.
        tracing::info!(why, "worker's control stream ended");
        shared.hints.changed();
    };
    tokio::spawn(serving.in_current_span());
    Ok(ReceiverStream::new(answers))
}

/// What a worker says of itself, within what it was invited as.
fn registration(
    shared: &Shared,
    hello: v1::Hello,
    invited: Option<&ShownWorker>,
) -> Result<Registration, Status> {
    if !(hello.min_version..=hello.max_version).contains(&WORKER_PROTOCOL) {
        return Err(Status::failed_precondition(format!(
            "the worker speaks protocol versions {} to {}, this coordinator speaks {WORKER_PROTOCOL}; update the {}",
            hello.min_version,
            hello.max_version,
            if hello.min_version > WORKER_PROTOCOL { "coordinator" } else { "worker" }
        )));
    }
    check_worker_name(&hello.name).map_err(status::invalid)?;
    if let Some(invited) = invited.filter(|invited| invited.name != hello.name) {
        return Err(Status::permission_denied(format!(
            "this certificate is worker {}'s, and it says that it is {}; leave --name out",
            invited.name, hello.name
        )));
    }
    let engine = hello.engine.ok_or_else(|| Status::invalid_argument("Hello names no engine"))?;
    let mut offers: Vec<Offer> = hello
        .platforms
        .into_iter()
        .map(Offer::try_from)
        .collect::<Result<_, _>>()
        .map_err(status::invalid)?;
    if hello.slots == 0 || hello.slots > 10_000 {
        return Err(Status::invalid_argument("a worker has 1 to 10000 slots"));
    }
    let mut withdrawn_why = without_nul(hello.withdrawn_reason);
    if let Some(invited) = invited.filter(|invited| !invited.platforms.is_empty() && !offers.is_empty()) {
        offers.retain(|offer| invited.platforms.contains(&offer.platform));
        if offers.is_empty() {
            let all: Vec<String> = invited.platforms.iter().map(ToString::to_string).collect();
            withdrawn_why =
                format!("it runs none of the platforms that it was invited for ({})", all.join(", "));
        }
    }
    let slots = invited.and_then(|invited| invited.slots).map_or(hello.slots, |most| hello.slots.min(most));
    Ok(Registration {
        name: hello.name,
        boot_id: hello.boot_id.parse().map_err(status::invalid)?,
        home: hello.home,
        coordinator: shared.id,
        connection: Uuid::new_v4(),
        // More than there are is a slip, and says nothing.
        dial: if i64::try_from(hello.dial).is_ok() { hello.dial } else { 0 },
        protocol: WORKER_PROTOCOL,
        draining: hello.features.iter().any(|feature| feature == FEATURE_DRAINING),
        stages: shared.registries.staging_host().is_some()
            && hello.features.iter().any(|feature| feature == FEATURE_TOKENS),
        features: hello.features,
        software_version: hello.software_version,
        engine_key: engine.key,
        engine_kind: engine.kind,
        engine_version: engine.version,
        engine_buildkit: engine.buildkit,
        engine_package: engine.package,
        offers,
        slots,
        withdrawn_why: withdrawn_why.chars().take(LONGEST_REASON).collect(),
        joined: invited.map(|invited| Joined {
            join: invited.join,
            machine: invited.machine,
            trust: invited.trust,
        }),
    })
}

/// A worker's control stream: hears what the worker says, and answers by the outbox.
struct Connection {
    shared: Arc<Shared>,
    worker: WorkerId,
    boot: BootId,
    /// As what it joined, if it did.
    holder: Option<JoinId>,
    connection: Uuid,
    outbox: mpsc::Sender<Result<v1::ControlResponse, Status>>,
}

/// How a worker left that left in peace.
enum Left {
    /// Its stream has ended.
    Gone,
    /// It said that it ends: what it runs is given back.
    Goodbye,
}

impl Connection {
    async fn listen(&self, said: &mut Streaming<v1::ControlRequest>) -> Result<Left, Status> {
        while let Some(message) = said.message().await? {
            match message.message {
                Some(Said::Heartbeat(beat)) => self.heartbeat(beat).await?,
                Some(Said::Started(started)) => self.started(lease(started.lease, self.holder)?).await?,
                Some(Said::Finished(finished)) => {
                    let lease = lease(finished.lease.clone(), self.holder)?;
                    self.finished(lease, finished).instrument(self.span(lease)).await?;
                }
                Some(Said::Declined(declined)) => {
                    let lease = lease(declined.lease, self.holder)?;
                    self.declined(lease, &declined.reason).instrument(self.span(lease)).await?;
                }
                Some(Said::Probed(probed)) => self.probed(probed).await?,
                Some(Said::CacheTold(told)) => self.cache_told(told).await?,
                Some(Said::Bye(_)) => return Ok(Left::Goodbye),
                Some(Said::Hello(_)) => return Err(Status::failed_precondition("Hello is said once")),
                // A message of a newer worker: not for us.
                None => {}
            }
        }
        Ok(Left::Gone)
    }

    /// Lets the worker go, and gives all of its leases back.
    async fn goodbye(&self) -> Result<(), Status> {
        tracing::info!("the worker says goodbye");
        // First, or what it gives back might be given to it again.
        let left = self.shared.store.worker_disconnected(self.worker, self.connection).await;
        left.map_err(status::store)?;
        for live in self.shared.store.live_attempts(self.worker, self.boot).await.map_err(status::store)? {
            let lease = Lease { attempt: live.attempt, token: live.token, holder: None };
            let released = self.finish(lease, Outcome::Released { declined: false }, None);
            released.instrument(self.span(lease)).await?;
        }
        Ok(())
    }

    async fn answer(&self, answer: Answer) -> Result<(), Status> {
        self.outbox
            .send(Ok(v1::ControlResponse { message: Some(answer) }))
            .await
            .map_err(|_| Status::unavailable("the worker left"))
    }

    /// Notes the sign, and tells which of the attempts that the worker names it must stop.
    async fn heartbeat(&self, beat: v1::Heartbeat) -> Result<(), Status> {
        let named = beat.running.into_iter().map(|l| lease(Some(l), self.holder));
        let named: Vec<Lease> = named.collect::<Result<_, _>>()?;
        let tokens = named.iter().map(|lease| lease.token.as_uuid()).collect();
        let attempts: Vec<AttemptId> = named.iter().map(|lease| lease.attempt).collect();
        self.shared.link.keep(self.worker, &attempts);
        self.shared.link.beat(self.worker, Beat { connection: self.connection, tokens });
        let live = self.shared.store.live_attempts(self.worker, self.boot).await.map_err(status::store)?;
        let stop = named
            .iter()
            .filter_map(|lease| {
                let reason = match live.iter().find(|l| l.attempt == lease.attempt && l.token == lease.token)
                {
                    Some(live) if live.stop_reason.is_empty() => return None,
                    Some(live) => live.stop_reason.clone(),
                    None => "superseded".to_owned(),
                };
                Some(v1::Stop { attempt_id: lease.attempt.to_string(), reason })
            })
            .collect();
        self.answer(Answer::HeartbeatReply(v1::HeartbeatReply { stop })).await
    }

    async fn started(&self, lease: Lease) -> Result<(), Status> {
        match self.shared.store.attempt_started(lease).await {
            Ok(()) => {
                self.shared.hints.changed();
                Ok(())
            }
            Err(StoreError::Stale(_)) => {
                let stop =
                    v1::Stop { attempt_id: lease.attempt.to_string(), reason: "superseded".to_owned() };
                self.answer(Answer::Stop(stop)).await
            }
            Err(error) => Err(status::store(error)),
        }
    }

    /// The span in which is logged what becomes of an attempt.
    fn span(&self, lease: Lease) -> Span {
        self.shared.link.span(self.worker, lease.attempt)
    }

    async fn declined(&self, lease: Lease, reason: &str) -> Result<(), Status> {
        tracing::info!(reason, "declined");
        self.finish(lease, Outcome::Released { declined: true }, None).await.map(drop)
    }

    async fn finished(&self, lease: Lease, finished: v1::Finished) -> Result<(), Status> {
        let is_unpublished = matches!(
            finished.outcome,
            Some(v1::finished::Outcome::Failure(_) | v1::finished::Outcome::Stopped(_))
        );
        if let (true, Some(pushed)) = (is_unpublished, finished.pushed)
            && let Ok(leased) = self.shared.store.ending_snapshot(lease).await
        {
            self.note_pushed(lease, &leased, pushed).await;
        }
        let outcome = match finished.outcome {
            Some(v1::finished::Outcome::Result(result)) => self.success(lease, result).await?,
            Some(v1::finished::Outcome::Failure(failure)) => {
                Outcome::Failed(Failure::try_from(failure).map_err(status::invalid)?)
            }
            Some(v1::finished::Outcome::Stopped(_)) => Outcome::Stopped,
            Some(v1::finished::Outcome::SourceIncomplete(missing)) => {
                Outcome::SourceIncomplete(Missing { root: missing.root, asked: missing.asked })
            }
            None => return Err(Status::invalid_argument("Finished has no outcome")),
        };
        let failed = match &outcome {
            Outcome::Failed(failure) => Some((failure.cause, failure.code.clone())),
            _ => None,
        };
        let self_check = finished.self_check.map(|check| without_nul(check.failure));
        let self_check = self_check.as_deref();
        let accepted = match self.finish(lease, outcome, self_check).await {
            // What can't be written ends this attempt, not the stream: the worker's others have done no wrong.
            Err(status) if status.code() == tonic::Code::Internal => {
                let why = "the worker told its end in a way that could not be written down";
                let failure = Failure::new(Cause::Bug, FailureCode::UnwritableEnd, why);
                self.finish(lease, Outcome::Failed(failure), self_check).await?
            }
            answer => answer?,
        };
        if let (true, Some((cause, code))) = (accepted, failed) {
            tracing::info!(%cause, %code, "failed");
        }
        let attempt_id = lease.attempt.to_string();
        self.answer(Answer::FinishedReply(v1::FinishedReply { attempt_id, accepted })).await
    }

    /// The end of a trial build; one that nobody waits for any more changes nothing.
    async fn probed(&self, probed: v1::Probed) -> Result<(), Status> {
        let probe: Uuid =
            probed.probe_id.parse().map_err(|_| Status::invalid_argument("Probed names no probe"))?;
        let failure = without_nul(probed.failure);
        let end = if failure.is_empty() { Ok(()) } else { Err(failure) };
        match self.shared.store.probe_ended(self.worker, probe, end.clone()).await {
            Ok(()) => {
                match &end {
                    Ok(()) => tracing::info!("a trial build succeeded"),
                    Err(why) => tracing::info!(why, "a trial build failed"),
                }
                self.shared.hints.changed();
                Ok(())
            }
            Err(StoreError::Stale(_)) => Ok(()),
            Err(error) => Err(status::store(error)),
        }
    }

    async fn cache_told(&self, told: v1::CacheTold) -> Result<(), Status> {
        let ask: Uuid = told
            .id
            .parse()
            .map_err(|_| Status::invalid_argument("CacheTold names nothing that was asked"))?;
        let v1::CacheTold { bytes, freed_bytes, .. } = told;
        let told = Told { bytes, freed_bytes, failure: without_nul(told.failure) };
        match self.shared.store.cache_told(self.worker, ask, &told).await {
            Ok(()) | Err(StoreError::Stale(_)) => Ok(()),
            Err(error) => Err(status::store(error)),
        }
    }

    /// Notes what was pushed and isn't published; what can't be noted stays where it is.
    async fn note_pushed(&self, lease: Lease, leased: &LeasedSnapshot, pushed: v1::Pushed) {
        if let Err(error) = verdicts::note_pushed(&self.shared, lease, leased, pushed).await {
            tracing::warn!(%error, "what was pushed can't be noted");
        }
    }

    async fn success(&self, lease: Lease, mut result: v1::JobResult) -> Result<Outcome, Status> {
        let leased = self.shared.store.leased_snapshot(lease).await;
        if let Ok(leased) = &leased
            && leased.spec.purpose.fetch().is_some()
        {
            return self.fetched(leased.project, result.fetched.take()).await;
        }
        let layers = std::mem::take(&mut result.layers);
        if let Ok(leased) = &leased {
            // What can't be judged here the worker has judged; its end is taken all the same.
            let judged = verdicts::judge(&self.shared, leased, layers).await;
            let judged = judged.inspect_err(|error| tracing::warn!(%error, "an image can't be verified"));
            if let Ok(Some(failure)) = judged {
                let pushed = v1::Pushed { digest: result.digest, media_type: result.media_type };
                self.note_pushed(lease, leased, pushed).await;
                return Ok(Outcome::Failed(*failure));
            }
        }
        if let Ok(leased) = &leased
            && leased.spec.gate.is_some()
            && !result.gated
        {
            let why = "the worker pushed it and did not run its gate; it is of another version than its coordinator: update it";
            let pushed = v1::Pushed { digest: result.digest, media_type: result.media_type };
            self.note_pushed(lease, leased, pushed).await;
            return Ok(Outcome::Failed(Failure::new(Cause::Infrastructure, FailureCode::GateMissing, why)));
        }
        let time = |ms: i64| DateTime::from_timestamp_millis(ms).filter(|_| ms != 0);
        let steps = result
            .step_timings
            .into_iter()
            .map(|step| Step {
                stage: without_nul(step.stage),
                instruction: without_nul(step.instruction),
                cached: step.cached,
                started: time(step.started_ms),
                finished: time(step.finished_ms),
            })
            .collect();
        let (repositories, exports) = match leased {
            Ok(leased) if leased.staged => {
                let Some(staged) = self.shared.registries.staged(leased.project, lease.attempt) else {
                    let why = "it was pushed to a staging registry, and this coordinator has none any more (--staging)";
                    let code = FailureCode::RegistryUnavailable;
                    return Ok(Outcome::Failed(Failure::new(Cause::Infrastructure, code, why)));
                };
                (vec![staged], leased.spec.exports.len())
            }
            Ok(leased) => (leased.spec.repositories(), leased.spec.exports.len()),
            // The end says so itself.
            Err(StoreError::Stale(_)) => (Vec::new(), 0),
            Err(error) => return Err(status::store(error)),
        };
        let store = &self.shared.store;
        if exports > 0 && store.complete_outputs(lease, exports).await.map_err(status::store)? < exports {
            let why =
                "the worker built it and sent no output of it; it is older than this coordinator: update it";
            return Ok(Outcome::Failed(Failure::new(Cause::Infrastructure, FailureCode::OutputMissing, why)));
        }
        let digest = match result.digest.as_str() {
            "" => None,
            text => Some(text.parse().map_err(status::invalid)?),
        };
        let result = JobResult {
            digest,
            media_type: without_nul(result.media_type),
            size: result.size,
            image_bytes: result.image_bytes,
            steps: result.steps,
            steps_cached: result.steps_cached,
            engine: without_nul(result.engine),
            syntax_replaced: (!result.syntax_replaced.is_empty())
                .then(|| without_nul(result.syntax_replaced)),
            answer: result.answer.map(|answer| record::Answer {
                text: without_nul(answer.text),
                json: without_nul(answer.json),
                violation: without_nul(answer.violation),
            }),
            fetched: None,
        };
        Ok(Outcome::Succeeded { result, repositories, steps })
    }

    /// The outcome of a fetch: what its worker says that it has brought has to be there.
    async fn fetched(&self, project: ProjectId, fetched: Option<v1::Fetched>) -> Result<Outcome, Status> {
        let missing = |why: &str| {
            let text = format!("the worker says that it has fetched the source, and {why}");
            Ok(Outcome::Failed(Failure::new(Cause::Infrastructure, FailureCode::SourceMissing, text)))
        };
        let Some(fetched) = fetched else { return missing("not what; it is of another version: update it") };
        let fetched = Fetched::try_from(fetched).map_err(status::invalid)?;
        let roots =
            self.shared.store.fetched_roots(project, &fetched.snapshot).await.map_err(status::store)?;
        if roots.is_empty() || roots != fetched.roots {
            return missing("it is not there as it says");
        }
        let (repositories, steps) = (Vec::new(), Vec::new());
        Ok(Outcome::Succeeded { result: JobResult::of_fetch(fetched), repositories, steps })
    }

    /// Ends an attempt; false when the lease was not live any more.
    async fn finish(&self, lease: Lease, outcome: Outcome, self_check: Option<&str>) -> Result<bool, Status> {
        let publish =
            PublishLimit(std::time::Duration::from_secs(self.shared.config.limits.publish_deadline_seconds));
        let store = &self.shared.store;
        let end = || store.finish_attempt(lease, outcome.clone(), self_check, publish, rand::random::<f64>());
        let mut ended = end().await;
        for _ in 0..TRIES {
            // A tie that the database broke against us, most likely: not worth a stream's end.
            if !ended.as_ref().is_err_and(StoreError::is_transient) {
                break;
            }
            tokio::time::sleep(BETWEEN_TRIES).await;
            ended = end().await;
        }
        match ended {
            Ok(()) => {
                self.shared.hints.changed();
                Ok(true)
            }
            Err(StoreError::Stale(why)) => {
                tracing::info!(why, "a late word from a worker changes nothing");
                Ok(false)
            }
            Err(error) => Err(status::store(error)),
        }
    }
}
