//! One control stream's life: Hello, Welcome, then heartbeats and what each side has to tell.
//!
//! Level-triggered: the heartbeat names all that runs and all that ended unacknowledged, an end is told
//! again until it is answered, and whatever the coordinator says may be said twice. So a stream may break
//! anywhere; the next one goes on. Nothing here waits for a disk or for an attempt.

use std::collections::HashMap;
use std::time::Duration;

use farm_proto::v1::control_request::Message as Request;
use farm_proto::v1::control_response::Message as Response;
use farm_proto::{WORKER_PROTOCOL, v1};
use farm_types::chain::with_causes;
use farm_types::{
    AttemptId, FEATURE_ARCHIVES, FEATURE_CACHES, FEATURE_DRAINING, FEATURE_FENCED, FEATURE_GATES,
    FEATURE_GIT, FEATURE_MOUNTS, FEATURE_PROBES, FEATURE_PROGRESS, FEATURE_TOKENS, FEATURE_UNNEEDED,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::renewed::another;
use super::{Client, Control, ControlError, CoordinatorUrl};
use crate::attempts::{Identity, StopReason, job_span};

/// Messages between us and the connection; a stream that doesn't take as many is stuck.
const QUEUE: usize = 256;
/// How long the coordinator may take for its Welcome.
const WELCOME_WITHIN: Duration = Duration::from_secs(10);
/// When an end that nobody answered is told again on the same stream.
const TOLD_AGAIN: Duration = Duration::from_secs(5);
/// How long a Bye may take to get out.
const BYE_WITHIN: Duration = Duration::from_secs(2);

/// How a stream ended.
pub enum End<'a> {
    /// We said goodbye.
    Left,
    /// What the Hello said, or the connection showed, is not true any more: dial again, and let this one go only then,
    /// so that the coordinator never takes us for gone.
    Changed(Box<Session<'a>>),
    /// It broke, or the coordinator ended it; `welcomed` when it had worked.
    Lost { why: String, welcomed: bool },
    /// The coordinator will never take us as we are.
    Refused(ControlError),
}

/// A stream that was welcomed.
pub struct Session<'a> {
    control: &'a Control,
    outgoing: mpsc::Sender<v1::ControlRequest>,
    incoming: Streaming<v1::ControlResponse>,
    /// Marked as seen when the Hello was made of it.
    identity: watch::Receiver<Identity>,
    /// Marked as seen when the connection was made, which shows a certificate.
    certificate: Option<watch::Receiver<u64>>,
    heartbeat: Duration,
    /// After so long without a word the stream counts as lost.
    silence: Duration,
    told: HashMap<AttemptId, Instant>,
}

impl<'a> Session<'a> {
    /// Says Hello and waits for the Welcome, on this process' stream number `dial`.
    ///
    /// # Errors
    /// How the stream ended instead.
    pub async fn open(
        control: &'a Control,
        (url, dial): (&CoordinatorUrl, u64),
        mut client: Client,
        certificate: Option<watch::Receiver<u64>>,
    ) -> Result<Self, End<'a>> {
        let (outgoing, requests) = mpsc::channel(QUEUE);
        let mut identity = control.attempts.identity();
        let hello = Request::Hello(hello(control, &identity.borrow_and_update(), dial));
        let _ = outgoing.try_send(v1::ControlRequest { message: Some(hello) });
        let lost = |why: &str| End::Lost { why: why.to_owned(), welcomed: false };
        let opening = async {
            let mut incoming = client.control(ReceiverStream::new(requests)).await?.into_inner();
            let first = incoming.message().await?;
            Ok((first, incoming))
        };
        let (first, incoming) = match timeout(WELCOME_WITHIN, opening).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(status)) => return Err(refused(control, url, &status)),
            Err(_) => return Err(lost("it does not answer")),
        };
        let welcome = match first.and_then(|first| first.message) {
            Some(Response::Welcome(welcome)) => welcome,
            Some(_) => return Err(lost("its first message was no Welcome")),
            None => return Err(lost("it ended the stream without a Welcome")),
        };
        if welcome.version != WORKER_PROTOCOL {
            let why = format!("it chose protocol {}, this worker speaks {WORKER_PROTOCOL}", welcome.version);
            return Err(End::Refused(ControlError::Protocol { url: url.clone(), why }));
        }
        let millis =
            |told: u32, default| Duration::from_millis(if told == 0 { default } else { told.into() });
        let heartbeat = millis(welcome.heartbeat_ms, 5_000);
        // Each heartbeat is answered. Whoever doesn't is left while the lease still holds, for another may be well.
        let lease = millis(welcome.lease_ms, 25_000);
        let silence = lease.saturating_sub(heartbeat * 2).max(heartbeat * 2);
        tracing::info!(
            coordinator = %url, version = welcome.coordinator_version, ?heartbeat, "registered"
        );
        Ok(Self {
            control,
            outgoing,
            incoming,
            identity,
            certificate,
            heartbeat,
            silence,
            told: HashMap::new(),
        })
    }

    /// Attends to the stream until it ends.
    pub async fn attend(mut self) -> End<'a> {
        let control = self.control;
        let mut counts = control.attempts.watch();
        let mut beat = interval(self.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            // Before the wait, so that what changed while nobody looked is told as well.
            self.tell_ends();
            let lost = |why: &str| End::Lost { why: why.to_owned(), welcomed: true };
            tokio::select! {
                message = self.incoming.message() => match message {
                    Ok(Some(message)) => {
                        heard = Instant::now();
                        self.hear(message);
                    }
                    Ok(None) => return lost("it ended the stream"),
                    Err(status) => return lost(&describe(&status)),
                },
                _ = beat.tick() => {
                    if heard.elapsed() > self.silence {
                        return lost("it was silent for too long");
                    }
                    let running = control.attempts.leases();
                    if self.tell(Request::Heartbeat(v1::Heartbeat { running })).is_err() {
                        return lost("the connection is stuck");
                    }
                }
                // Who tells of changes lives as long as we do; else there is no change to wait for.
                Ok(()) = counts.changed() => {}
                Ok(()) = self.identity.changed() => return End::Changed(Box::new(self)),
                () = another(self.certificate.as_mut()) => return End::Changed(Box::new(self)),
                () = control.leave.cancelled() => return self.leave().await,
            }
        }
    }

    fn hear(&mut self, message: v1::ControlResponse) {
        let attempts = &self.control.attempts;
        match message.message {
            Some(Response::Offered(offered)) => {
                let span = job_span(&offered);
                for answer in attempts.offer(offered) {
                    if let Request::Declined(declined) = &answer {
                        span.in_scope(|| tracing::info!(reason = declined.reason, "declined an offer"));
                    }
                    // One that gets lost is asked for again.
                    let _ = self.tell(answer);
                }
            }
            Some(Response::HeartbeatReply(reply)) => reply.stop.iter().for_each(|stop| self.stop(stop)),
            Some(Response::Stop(stop)) => self.stop(&stop),
            Some(Response::FinishedReply(reply)) => match reply.attempt_id.parse::<AttemptId>() {
                Ok(attempt) => {
                    self.told.remove(&attempt);
                    attempts.answered(attempt, reply.accepted);
                }
                Err(error) => tracing::warn!(%error, "an answer names no attempt"),
            },
            Some(Response::Probe(probe)) => {
                if let Some(probed) = attempts.probe(probe.probe_id) {
                    // One that gets lost is asked for again.
                    let _ = self.tell(Request::Probed(probed));
                }
            }
            Some(Response::CacheAsked(asked)) => {
                if let Some(told) = attempts.cache(asked) {
                    // One that gets lost is asked for again.
                    let _ = self.tell(Request::CacheTold(told));
                }
            }
            Some(Response::Welcome(_)) => tracing::warn!("a second Welcome; ignored"),
            // A newer coordinator may say more than we know.
            None => {}
        }
    }

    fn stop(&self, stop: &v1::Stop) {
        let reason = match stop.reason.as_str() {
            "superseded" => StopReason::Superseded,
            _ => StopReason::Cancelled,
        };
        match stop.attempt_id.parse() {
            Ok(attempt) => {
                self.control.attempts.stop(attempt, reason);
            }
            Err(error) => tracing::warn!(%error, "a stop names no attempt"),
        }
    }

    /// Tells the ends that were not told on this stream, or not answered for a while.
    fn tell_ends(&mut self) {
        for (attempt, finished) in self.control.attempts.unanswered() {
            if self.outgoing.capacity() < QUEUE / 4 {
                // The rest is for the next round; heartbeats go first.
                return;
            }
            if self.told.get(&attempt).is_none_or(|told| told.elapsed() >= TOLD_AGAIN)
                && self.tell(Request::Finished(finished)).is_ok()
            {
                self.told.insert(attempt, Instant::now());
            }
        }
    }

    async fn leave(mut self) -> End<'a> {
        let _ = self.tell(Request::Bye(v1::Bye {}));
        drop(self.outgoing);
        // The coordinator ends its side when it heard us.
        let _ = timeout(BYE_WITHIN, async { while let Ok(Some(_)) = self.incoming.message().await {} }).await;
        End::Left
    }

    fn tell(&self, message: Request) -> Result<(), ()> {
        self.outgoing.try_send(v1::ControlRequest { message: Some(message) }).map_err(drop)
    }
}

/// What a refused Hello leads to.
fn refused<'a>(control: &Control, url: &CoordinatorUrl, status: &Status) -> End<'a> {
    let url = url.clone();
    let why = status.message().to_owned();
    match status.code() {
        Code::FailedPrecondition => End::Refused(ControlError::Protocol { url, why }),
        Code::Unauthenticated | Code::PermissionDenied if control.certified.is_some() => {
            End::Refused(ControlError::Certificate { url, why })
        }
        Code::Unauthenticated | Code::PermissionDenied => {
            End::Refused(ControlError::Unauthenticated { url, why })
        }
        // The name, or the engine, is another worker's.
        Code::AlreadyExists => End::Lost { why, welcomed: false },
        _ => End::Lost { why: describe(status), welcomed: false },
    }
}

/// A status with what lies below it.
fn describe(status: &Status) -> String {
    let text = with_causes(status.message(), std::error::Error::source(status));
    if text.is_empty() { status.code().to_string() } else { text }
}

/// What every worker of this version does.
const FEATURES: [&str; 8] = [
    FEATURE_PROGRESS,
    FEATURE_PROBES,
    FEATURE_UNNEEDED,
    FEATURE_TOKENS,
    FEATURE_MOUNTS,
    FEATURE_ARCHIVES,
    FEATURE_GATES,
    FEATURE_CACHES,
];

/// Who we are, for a new stream.
fn hello(control: &Control, identity: &Identity, dial: u64) -> v1::Hello {
    v1::Hello {
        min_version: WORKER_PROTOCOL,
        max_version: WORKER_PROTOCOL,
        features: FEATURES
            .into_iter()
            .chain(control.has_git.then_some(FEATURE_GIT))
            .chain(identity.draining.then_some(FEATURE_DRAINING))
            .chain(control.fenced.then_some(FEATURE_FENCED))
            .chain(identity.grants.iter().map(|entitlement| entitlement.as_str()))
            .map(str::to_owned)
            .collect(),
        name: control.name.clone(),
        boot_id: control.boot.to_string(),
        home: control.home.clone(),
        software_version: env!("CARGO_PKG_VERSION").to_owned(),
        engine: Some(identity.engine.clone()),
        platforms: identity.offers.iter().map(Into::into).collect(),
        slots: u32::try_from(control.slots).unwrap_or(u32::MAX),
        withdrawn_reason: identity.withdrawn.clone(),
        dial,
    }
}
