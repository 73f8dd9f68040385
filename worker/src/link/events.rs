//! The event stream of one attempt: what the solve tells, kept until the coordinator has stored it.
//!
//! Events become numbered chunks. A chunk is dropped when it was acknowledged; after an outage all that was
//! not is sent again, under the same numbers, so that nothing is lost and nothing stands twice. What waits
//! is bounded: beyond [`MOST_UNACKED`] no further event is taken, and the solve waits. A stream on which a chunk
//! stays unanswered ([`ANSWER_WITHIN`]) is lost, too.
//!
//! Invariants: chunk N+1 is never sent before chunk N on the same stream; nothing gets into a chunk that wasn't masked.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use farm_proto::v1::{AttemptEvent, SendEventsRequest, SendEventsResponse};
use farm_types::{Backoff, Waits};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::Instrument as _;

use super::chunks::Chunker;
use super::limit::LogLimit;
use super::line::{ANSWER_WITHIN, Incoming, Line, Silence, at, next_answer, room};
use super::{Client, Refusal, WAITS};
use crate::attempts::Lease;
use crate::mask::Masking;
use crate::mask::told::Telling;

/// How much may wait for an acknowledgement, bytes.
pub const MOST_UNACKED: usize = 32 * 1024 * 1024;
/// How long events are collected before a chunk that isn't full goes out.
const LINGER: Duration = Duration::from_millis(100);
/// How long a coordinator may refuse all that it is sent before the stream is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Events between the solve and the chunks.
const QUEUE: usize = 64;
/// Chunks between us and the connection.
const IN_FLIGHT: usize = 8;

/// How an event stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All of it is stored at the coordinator.
    Stored,
    /// The lease is another's: nobody wants the rest.
    Superseded,
    /// The coordinator refused the rest, or there was no time left for it.
    GaveUp,
}

/// The worker's end of an attempt's event stream.
#[derive(Debug)]
pub struct Events {
    sender: mpsc::Sender<AttemptEvent>,
    task: JoinHandle<Ending>,
}

impl Events {
    /// Opens the stream; it connects when there is something to send. `superseded` is called at most once:
    /// when the coordinator says that the lease is another's. Secrets are masked; what goes beyond `limit` then is cut off.
    pub fn open(
        client: Client,
        lease: Lease,
        limit: LogLimit,
        masking: Masking,
        superseded: impl FnOnce() + Send + 'static,
    ) -> Self {
        Self::open_within(client, lease, (limit, masking), (MOST_UNACKED, ANSWER_WITHIN), superseded)
    }

    fn open_within(
        client: Client,
        lease: Lease,
        (limit, masking): (LogLimit, Masking),
        (most_unacked, answer_within): (usize, Waits),
        superseded: impl FnOnce() + Send + 'static,
    ) -> Self {
        let (sender, events) = mpsc::channel(QUEUE);
        let pump = Pump {
            client,
            lease,
            telling: Telling::new(masking),
            limit,
            most_unacked,
            events,
            open: true,
            chunker: Chunker::default(),
            flush_at: None,
            unacked: VecDeque::new(),
            unacked_bytes: 0,
            next_seq: 1,
            sent_seq: 0,
            line: None,
            silence: Silence::new(answer_within),
            backoff: Backoff::new(WAITS),
            dial_at: None,
            refused_since: None,
        };
        let pumping = async move {
            let (ending, mut events) = pump.run().await;
            if ending == Ending::Superseded {
                superseded();
            }
            // Whoever still sends must not wait for somebody who doesn't listen.
            while events.recv().await.is_some() {}
            ending
        };
        let task = tokio::spawn(pumping.in_current_span());
        Self { sender, task }
    }

    /// Where events go in. Sending waits while too much is unacknowledged.
    pub fn sender(&self) -> mpsc::Sender<AttemptEvent> {
        self.sender.clone()
    }

    /// Waits until all is stored, or the stream is given up, or `enough` is ready. All other senders must be
    /// dropped by then or soon. Dropping the future leaves the stream to itself.
    pub async fn finish(self, enough: impl Future<Output = ()>) -> Ending {
        drop(self.sender);
        let abort = self.task.abort_handle();
        tokio::select! {
            ending = self.task => ending.unwrap_or(Ending::GaveUp),
            () = enough => {
                abort.abort();
                Ending::GaveUp
            }
        }
    }
}

struct Pump {
    client: Client,
    lease: Lease,
    telling: Telling,
    limit: LogLimit,
    most_unacked: usize,
    events: mpsc::Receiver<AttemptEvent>,
    open: bool,
    chunker: Chunker,
    flush_at: Option<Instant>,
    /// Chunks by rising number, without gaps.
    unacked: VecDeque<(u64, Bytes)>,
    unacked_bytes: usize,
    next_seq: u64,
    /// The highest number that was sent on this line.
    sent_seq: u64,
    line: Option<Line<SendEventsRequest, SendEventsResponse>>,
    silence: Silence,
    backoff: Backoff,
    dial_at: Option<Instant>,
    /// Since when the coordinator has answered with nothing but refusals.
    refused_since: Option<Instant>,
}

/// What woke the pump.
enum Woken {
    Event(Option<AttemptEvent>),
    /// Of a step that has ended nothing comes any more.
    Ended,
    Flush,
    Room,
    Answer(Result<Option<SendEventsResponse>, Status>),
    Dial,
    /// No answer came for too long.
    Silence,
}

impl Pump {
    async fn run(mut self) -> (Ending, mpsc::Receiver<AttemptEvent>) {
        let ending = loop {
            if !self.open && self.chunker.is_empty() && self.unacked.is_empty() {
                break Ending::Stored;
            }
            if self.line.is_none() && self.dial_at.is_none() && !self.unacked.is_empty() {
                self.dial();
            }
            match self.wait().await {
                Woken::Event(Some(event)) => {
                    let event = self.telling.mask(event);
                    self.add(event);
                    self.linger();
                }
                Woken::Ended => {
                    let now = Instant::now();
                    match self.events.is_empty() {
                        true => self.telling.ended(now).into_iter().for_each(|event| self.add(event)),
                        false => self.telling.put_off(now),
                    }
                    self.linger();
                }
                Woken::Event(None) => {
                    self.open = false;
                    let rest = self.telling.rest();
                    rest.into_iter().for_each(|event| self.add(event));
                    self.flush();
                }
                Woken::Flush => self.flush(),
                Woken::Room => self.send(),
                Woken::Dial => self.dial_at = None,
                Woken::Silence => {
                    tracing::warn!("the coordinator does not answer events; sending them anew");
                    self.lost();
                }
                Woken::Answer(Ok(Some(answer))) => self.acknowledge(answer.acked_seq),
                Woken::Answer(Ok(None)) => self.lost(),
                Woken::Answer(Err(status)) => match Refusal::of(&status) {
                    Refusal::Superseded => {
                        tracing::info!("events are not wanted any more: the lease is another's");
                        break Ending::Superseded;
                    }
                    Refusal::Away => self.lost(),
                    Refusal::Missing | Refusal::Refused => {
                        let since = *self.refused_since.get_or_insert_with(Instant::now);
                        if since.elapsed() >= PATIENCE {
                            tracing::warn!(%status, "gave up sending events: they are refused");
                            break Ending::GaveUp;
                        }
                        self.lost();
                    }
                },
            }
        };
        (ending, self.events)
    }

    /// Waits for whatever comes first. Nothing is lost when another branch wins: each is safe to cancel.
    async fn wait(&mut self) -> Woken {
        let wants_event = self.open && self.unacked_bytes < self.most_unacked;
        let unsent = self.unsent().is_some();
        let (outgoing, incoming) = match &mut self.line {
            Some(line) => (Some(&line.outgoing), Some(&mut line.incoming)),
            None => (None, None),
        };
        tokio::select! {
            answer = next_answer(incoming) => Woken::Answer(answer),
            () = at(self.dial_at) => Woken::Dial,
            () = at(self.silence.over_at()) => Woken::Silence,
            () = room(outgoing), if unsent => Woken::Room,
            event = self.events.recv(), if wants_event => Woken::Event(event),
            () = at(self.telling.ends_at()), if wants_event => Woken::Ended,
            () = at(self.flush_at) => Woken::Flush,
        }
    }

    fn dial(&mut self) {
        let (outgoing, requests) = mpsc::channel(IN_FLIGHT);
        let mut client = self.client.clone();
        let opening = async move { client.send_events(ReceiverStream::new(requests)).await };
        self.line = Some(Line { outgoing, incoming: Incoming::Opening(Box::pin(opening)) });
        // All that was not acknowledged goes out again.
        self.sent_seq = self.unacked.front().map_or(self.next_seq, |(seq, _)| *seq) - 1;
    }

    fn lost(&mut self) {
        self.line = None;
        self.silence.lost();
        self.dial_at = Some(Instant::now() + self.backoff.next_jittered(rand::random()));
    }

    /// Has what isn't a whole chunk go out soon.
    fn linger(&mut self) {
        self.flush_at = match self.chunker.is_empty() {
            true => None,
            false => self.flush_at.or_else(|| Some(Instant::now() + LINGER)),
        };
    }

    /// An event as it is told.
    fn add(&mut self, event: AttemptEvent) {
        let kept = self.limit.take(event);
        let full: Vec<Bytes> = kept.into_iter().flat_map(|event| self.chunker.push(event)).collect();
        full.into_iter().for_each(|chunk| self.keep(chunk));
    }

    fn flush(&mut self) {
        self.flush_at = None;
        if let Some(chunk) = self.chunker.flush() {
            self.keep(chunk);
        }
    }

    fn keep(&mut self, chunk: Bytes) {
        self.unacked_bytes += chunk.len();
        self.unacked.push_back((self.next_seq, chunk));
        self.next_seq += 1;
    }

    /// The next chunk that was not sent on this line.
    fn unsent(&self) -> Option<&(u64, Bytes)> {
        let first = self.unacked.front()?.0;
        let skipped = usize::try_from((self.sent_seq + 1).saturating_sub(first)).ok()?;
        self.unacked.get(skipped)
    }

    fn send(&mut self) {
        let Some((seq, payload)) = self.unsent().cloned() else { return };
        let Some(line) = &self.line else { return };
        let request = SendEventsRequest { lease: Some(self.lease.into()), seq, payload };
        // When it is full after all, there is another chance; when it is closed, the answer says why.
        if line.outgoing.try_send(request).is_ok() {
            self.sent_seq = seq;
            self.silence.sent();
        }
    }

    fn acknowledge(&mut self, acked: u64) {
        self.backoff.reset();
        self.refused_since = None;
        while self.unacked.front().is_some_and(|(seq, _)| *seq <= acked) {
            if let Some((_, chunk)) = self.unacked.pop_front() {
                self.unacked_bytes -= chunk.len();
            }
        }
        // It may know more than this line was sent: an earlier acknowledgement got lost.
        self.sent_seq = self.sent_seq.max(acked.min(self.next_seq - 1));
        self.silence.answered(self.unacked.front().is_some_and(|(seq, _)| *seq <= self.sent_seq));
    }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
