//! The workers whose control streams this coordinator holds, and what they are told.
//!
//! Telling is level-triggered: [`dispatch`] looks at the database for all of them at once, on a hint and
//! each second, and says again what was not answered. So nothing is lost with a stream.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use farm_proto::v1;
use farm_store::lease::OfferedAttempt;
use farm_types::{AttemptId, BootId, WorkerId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::context::Context;
use crate::hints::BACKSTOP;

/// An offer or a stop that was not answered is said again after this.
const SAY_AGAIN: Duration = Duration::from_secs(2);

/// Where a worker's messages go.
pub type Outbox = mpsc::Sender<Result<v1::ControlResponse, tonic::Status>>;

/// One connection of a worker.
#[derive(Debug)]
struct Connection {
    /// Another one for each connection, also of the same worker.
    serial: Uuid,
    outbox: Outbox,
    said: HashMap<(AttemptId, bool), Instant>,
}

/// What a worker gave a sign with.
#[derive(Debug)]
pub struct Beat {
    /// This life of it.
    pub boot: BootId,
    /// The lease tokens of what it runs.
    pub tokens: Vec<Uuid>,
}

/// The connected workers and the signs that they gave since the last flush.
#[derive(Debug, Default)]
pub struct Link {
    connections: Mutex<HashMap<WorkerId, Connection>>,
    beats: Mutex<HashMap<WorkerId, Beat>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// Takes a worker's connection in the place of its earlier one.
    pub fn connect(&self, worker: WorkerId, serial: Uuid, outbox: Outbox) {
        lock(&self.connections).insert(worker, Connection { serial, outbox, said: HashMap::new() });
    }

    /// Forgets a connection, unless the worker has a newer one.
    pub fn disconnect(&self, worker: WorkerId, serial: Uuid) {
        let mut connections = lock(&self.connections);
        if connections.get(&worker).is_some_and(|connection| connection.serial == serial) {
            connections.remove(&worker);
        }
    }

    /// Notes a sign of a worker; it is written with the next flush.
    pub fn beat(&self, worker: WorkerId, beat: Beat) {
        lock(&self.beats).insert(worker, beat);
    }

    /// Takes the signs since the last call.
    fn take_beats(&self) -> Vec<(WorkerId, BootId, Vec<Uuid>)> {
        lock(&self.beats).drain().map(|(worker, beat)| (worker, beat.boot, beat.tokens)).collect()
    }

    /// Says something to a worker, unless it was said a moment ago, or the worker isn't here.
    ///
    /// A full outbox is passed over: the next round says it again.
    fn say(
        &self,
        worker: WorkerId,
        key: (AttemptId, bool),
        message: impl FnOnce() -> v1::control_response::Message,
    ) {
        let mut connections = lock(&self.connections);
        let Some(connection) = connections.get_mut(&worker) else { return };
        let now = Instant::now();
        if connection.said.get(&key).is_some_and(|at| now.duration_since(*at) < SAY_AGAIN) {
            return;
        }
        if connection.outbox.try_send(Ok(v1::ControlResponse { message: Some(message()) })).is_ok() {
            connection.said.retain(|_, at| now.duration_since(*at) < SAY_AGAIN);
            connection.said.insert(key, now);
        }
    }
}

/// Tells the connected workers what they have to know, until `shutdown`.
pub async fn dispatch(context: Arc<Context>, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        if let Err(error) = dispatch_one(&context).await {
            tracing::warn!(%error, "workers could not be told; trying again");
        }
        tokio::select! {
            () = context.hints.dispatch.notified() => {}
            () = tokio::time::sleep(BACKSTOP) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

async fn dispatch_one(context: &Context) -> farm_store::Result<()> {
    for (worker, attempt, reason) in context.store.stops_via(context.id).await? {
        context.link.say(worker, (attempt, false), || {
            v1::control_response::Message::Stop(v1::Stop { attempt_id: attempt.to_string(), reason })
        });
    }
    for offered in context.store.offered_via(context.id).await? {
        let worker = offered.worker;
        context.link.say(worker, (offered.attempt, true), || {
            v1::control_response::Message::Offered(offer(context, offered))
        });
    }
    Ok(())
}

/// Writes the workers' signs to the database in one statement a second, until `shutdown`.
pub async fn flush_beats(context: Arc<Context>, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(BACKSTOP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !shutdown.is_cancelled() {
        tokio::select! {
            _ = tick.tick() => {}
            () = shutdown.cancelled() => break,
        }
        let beats = context.link.take_beats();
        if beats.is_empty() {
            continue;
        }
        if let Err(error) = context.store.heartbeats(&beats, context.config.limits.lease()).await {
            tracing::warn!(%error, "heartbeats could not be written; trying again");
            // A newer sign, if one came, says all that this one did.
            let mut kept = lock(&context.link.beats);
            for (worker, boot, tokens) in beats {
                kept.entry(worker).or_insert(Beat { boot, tokens });
            }
        }
    }
}

fn offer(context: &Context, offered: OfferedAttempt) -> v1::Offered {
    let repositories = offered.spec.repositories();
    v1::Offered {
        lease: Some(v1::Lease {
            attempt_id: offered.attempt.to_string(),
            lease_token: offered.token.as_uuid().to_string(),
        }),
        build_id: offered.build.to_string(),
        project: offered.project_name,
        platform: offered.platform.to_string(),
        support: offered.support.to_string(),
        attempt_number: offered.number,
        repositories: repositories.iter().map(ToString::to_string).collect(),
        registries: context.registries.lend(&repositories),
        roots: offered.roots,
        spec: Some((&offered.spec).into()),
    }
}
