//! The workers whose control streams this coordinator holds, and what they are told.
//!
//! Telling is level-triggered: [`dispatch::dispatch`] looks at the database for all of them at once, on a
//! hint and each second, and says again what was not answered. So nothing is lost with a stream.

pub mod dispatch;
mod fetches;
mod job;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use farm_proto::v1;
use farm_store::machines::workers::Sign;
use farm_types::{AttemptId, BootId, WorkerId};
use tokio::sync::mpsc;
use tracing::Span;
use uuid::Uuid;

use job::{Job, Jobs};

/// An offer or a stop that was not answered is said again after this.
const SAY_AGAIN: Duration = Duration::from_secs(2);

/// Where a worker's messages go.
pub type Outbox = mpsc::Sender<Result<v1::ControlResponse, tonic::Status>>;

/// Which of its streams a worker has opened.
#[derive(Debug, Clone, Copy)]
pub struct Dial {
    /// The life of its process.
    pub boot: BootId,
    /// From 1 in each life; 0: it doesn't say.
    pub number: u64,
}

impl Dial {
    /// Whether the worker opened this one after that one, as far as it says.
    fn is_after(self, other: Dial) -> bool {
        self.boot == other.boot && other.number > 0 && self.number > other.number
    }
}

/// One connection of a worker.
#[derive(Debug)]
struct Connection {
    name: String,
    /// It asks for registries' tokens when its engine does.
    asks: bool,
    /// Another one for each connection, also of the same worker.
    serial: Uuid,
    dial: Dial,
    outbox: Outbox,
    said: HashMap<(AttemptId, bool), Instant>,
    jobs: Jobs,
}

impl Connection {
    /// Ends the stream; false with a full outbox, whose worker isn't listening just now.
    fn end(&self) -> bool {
        let why = "nothing counts any more of what comes by this stream: the worker has another one, or was cut off; dial again";
        self.outbox.try_send(Err(tonic::Status::unavailable(why))).is_ok()
    }
}

/// What a worker gave a sign with.
#[derive(Debug)]
pub struct Beat {
    /// The control stream that it came by.
    pub connection: Uuid,
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
    /// Takes a worker's connection in the place of its earlier one: with its name, and whether it asks for registries' tokens
    /// when its engine does. If that isn't earlier but later, as two that were registered at once may come here in the other
    /// order, this one ends.
    pub fn connect(
        &self,
        worker: WorkerId,
        (name, asks): (String, bool),
        (serial, dial): (Uuid, Dial),
        outbox: Outbox,
    ) {
        let connection =
            Connection { name, asks, serial, dial, outbox, said: HashMap::new(), jobs: Jobs::default() };
        let mut connections = lock(&self.connections);
        if connections.get(&worker).is_some_and(|there| there.dial.is_after(dial)) {
            connection.end();
        } else if let Some(earlier) = connections.insert(worker, connection) {
            earlier.end();
        }
    }

    /// Ends these connections, of which nothing counts any more; their workers dial again.
    pub fn end(&self, serials: &[Uuid]) {
        lock(&self.connections)
            .retain(|_, connection| !serials.contains(&connection.serial) || !connection.end());
    }

    /// Whether no worker is connected here.
    pub fn is_empty(&self) -> bool {
        lock(&self.connections).is_empty()
    }

    /// Whether a worker asks for registries' tokens when its engine does.
    pub fn asks(&self, worker: WorkerId) -> bool {
        lock(&self.connections).get(&worker).is_some_and(|connection| connection.asks)
    }

    /// Forgets a connection, unless the worker has a newer one.
    pub fn disconnect(&self, worker: WorkerId, serial: Uuid) {
        let mut connections = lock(&self.connections);
        if connections.get(&worker).is_some_and(|connection| connection.serial == serial) {
            connections.remove(&worker);
        }
    }

    /// Remembers what an offered attempt is of. When that is news, the name of the worker that it is offered to.
    pub fn learn(&self, worker: WorkerId, attempt: AttemptId, job: Job) -> Option<String> {
        let mut connections = lock(&self.connections);
        let connection = connections.get_mut(&worker)?;
        connection.jobs.learn(attempt, job).then(|| connection.name.clone())
    }

    /// The span in which is logged what happens to a worker's attempt.
    pub fn span(&self, worker: WorkerId, attempt: AttemptId) -> Span {
        let connections = lock(&self.connections);
        connections.get(&worker).map_or_else(|| Jobs::default().span(attempt), |c| c.jobs.span(attempt))
    }

    /// Forgets the attempts that a worker doesn't name, unless they were offered to it a moment ago.
    pub fn keep(&self, worker: WorkerId, named: &[AttemptId]) {
        if let Some(Connection { jobs, said, .. }) = lock(&self.connections).get_mut(&worker) {
            jobs.keep(|attempt| named.contains(&attempt) || said.contains_key(&(attempt, true)));
        }
    }

    /// Notes a sign of a worker; it is written with the next flush.
    pub fn beat(&self, worker: WorkerId, beat: Beat) {
        lock(&self.beats).insert(worker, beat);
    }

    /// Takes the signs since the last call.
    pub fn take_beats(&self) -> Vec<Sign> {
        let sign = |(worker, beat): (WorkerId, Beat)| Sign {
            worker,
            connection: beat.connection,
            tokens: beat.tokens,
        };
        lock(&self.beats).drain().map(sign).collect()
    }

    /// Puts signs back that could not be written; a newer sign of the same worker says all that they did.
    pub fn keep_beats(&self, signs: Vec<Sign>) {
        let mut kept = lock(&self.beats);
        for sign in signs {
            kept.entry(sign.worker).or_insert(Beat { connection: sign.connection, tokens: sign.tokens });
        }
    }

    /// Says something to a worker, unless it was said a moment ago, or the worker isn't here.
    ///
    /// A full outbox is passed over: the next round says it again. True when it was said.
    pub fn say(
        &self,
        worker: WorkerId,
        key: (AttemptId, bool),
        message: impl FnOnce() -> v1::control_response::Message,
    ) -> bool {
        let mut connections = lock(&self.connections);
        let Some(connection) = connections.get_mut(&worker) else { return false };
        let now = Instant::now();
        if connection.said.get(&key).is_some_and(|at| now.duration_since(*at) < SAY_AGAIN) {
            return false;
        }
        let said = connection.outbox.try_send(Ok(v1::ControlResponse { message: Some(message()) })).is_ok();
        if said {
            connection.said.retain(|_, at| now.duration_since(*at) < SAY_AGAIN);
            connection.said.insert(key, now);
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_streams_the_one_that_the_worker_opened_later_stays() {
        let (link, worker) = (Link::default(), WorkerId::generate());
        let (boot, other) = (BootId::generate(), BootId::generate());
        // Which of the two is ended, when they come here in this order.
        let ended = |streams: [(BootId, u64); 2]| {
            let opened = streams.map(|(boot, number)| {
                let (outbox, inbox) = mpsc::channel(1);
                let serial = Uuid::new_v4();
                link.connect(worker, ("w".to_owned(), false), (serial, Dial { boot, number }), outbox);
                (serial, inbox)
            });
            let ended = opened.map(|(serial, mut inbox)| {
                link.disconnect(worker, serial);
                matches!(inbox.try_recv(), Ok(Err(_)))
            });
            assert!(lock(&link.connections).is_empty());
            ended
        };
        assert_eq!(ended([(boot, 1), (boot, 2)]), [true, false]);
        assert_eq!(ended([(boot, 2), (boot, 1)]), [false, true]);
        // Another life begins to count anew, and who doesn't count is as late as it comes.
        assert_eq!(ended([(boot, 2), (other, 1)]), [true, false]);
        assert_eq!(ended([(boot, 0), (boot, 0)]), [true, false]);
        assert_eq!(ended([(boot, 2), (boot, 0)]), [true, false]);
    }
}
