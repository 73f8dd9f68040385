//! Outputs of an attempt on their way to the coordinator: bytes from the engine, cut into numbered pieces.
//!
//! A piece is dropped when it was acknowledged; after an outage all that was not is sent again under the same numbers, to
//! whichever coordinator there is; a stream on which a piece stays unanswered ([`ANSWER_WITHIN`]) is lost, too.
//! Nothing is kept on disk: while [`MOST_UNACKED`] bytes wait, no more are taken, and the engine waits.
//!
//! Invariant: piece N+1 is never sent before piece N on the same stream, and the last one bears the digest of all.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use farm_proto::OUTPUT_PIECE_BYTES;
use farm_proto::v1::{SendOutputRequest, SendOutputResponse};
use farm_types::digest::Hasher;
use farm_types::{Backoff, Cause, Export, Failure, FailureCode};
use futures::future::try_join_all;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::line::{ANSWER_WITHIN, Incoming, Line, Silence, at, next_answer, room};
use super::{Client, Refusal, WAITS};
use crate::attempts::Lease;
use crate::buildkit::{Output, OutputPart};

/// How much of one output may wait for an acknowledgement, bytes.
const MOST_UNACKED: usize = 4 * OUTPUT_PIECE_BYTES;
/// How long a coordinator may refuse all that it is sent before the output is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may answer that it can't take anything at present, like one whose database is away.
const LONG_PATIENCE: Duration = Duration::from_secs(600);
/// Parts between the engine and us.
const QUEUE: usize = 16;
/// Pieces between us and the connection.
const IN_FLIGHT: usize = 2;

/// Why an output did not come to its end.
#[derive(Debug, Clone, PartialEq)]
pub enum OutputError {
    /// The lease is another's: nobody wants it.
    Superseded,
    /// The engine broke off, and says itself why.
    BrokenOff,
    /// It can't be given to the client.
    Failed(Box<Failure>),
}

/// What the engine makes into, and the task's part of it: sends all of them, at once.
///
/// `limit` is the longest output in bytes; 0: none. The future is ready when all are stored, or with the first error; dropping
/// it gives them up.
pub fn send(
    client: &Client,
    lease: Lease,
    exports: &[Export],
    limit: u64,
) -> (Vec<Output>, impl Future<Output = Result<(), OutputError>> + Send + use<>) {
    let mut outputs = Vec::new();
    let mut senders = Vec::new();
    for (place, export) in (0..).zip(exports) {
        let (sink, parts) = mpsc::channel(QUEUE);
        outputs.push(Output { export: export.clone(), sink });
        let limit = if limit == 0 { u64::MAX } else { limit };
        senders.push(Sender::new(client.clone(), lease, place, limit, parts).run());
    }
    (outputs, async move { try_join_all(senders).await.map(drop) })
}

struct Piece {
    seq: u64,
    data: Bytes,
    digest: Bytes,
}

struct Sender {
    client: Client,
    lease: Lease,
    export: u32,
    limit: u64,
    parts: mpsc::Receiver<OutputPart>,
    /// Whether the last part has come.
    ended: bool,
    bytes: u64,
    hasher: Hasher,
    /// What is not a piece yet.
    rest: BytesMut,
    /// Pieces by rising number, without gaps.
    unacked: VecDeque<Piece>,
    unacked_bytes: usize,
    next_seq: u64,
    /// The highest number that was sent on this line.
    sent_seq: u64,
    line: Option<Line<SendOutputRequest, SendOutputResponse>>,
    silence: Silence,
    backoff: Backoff,
    dial_at: Option<Instant>,
    /// Since when the coordinator has answered with nothing but refusals.
    refused_since: Option<Instant>,
    /// Since when it has answered, without a break, that it can't at present.
    unavailable_since: Option<Instant>,
}

/// What woke the sender.
enum Woken {
    Part(Option<OutputPart>),
    Room,
    Answer(Result<Option<SendOutputResponse>, Status>),
    Dial,
    /// No answer came for too long.
    Silence,
}

impl Sender {
    fn new(client: Client, lease: Lease, export: u32, limit: u64, parts: mpsc::Receiver<OutputPart>) -> Self {
        Self {
            client,
            lease,
            export,
            limit,
            parts,
            ended: false,
            bytes: 0,
            hasher: Hasher::new(),
            rest: BytesMut::new(),
            unacked: VecDeque::new(),
            unacked_bytes: 0,
            next_seq: 1,
            sent_seq: 0,
            line: None,
            silence: Silence::new(ANSWER_WITHIN),
            backoff: Backoff::new(WAITS),
            dial_at: None,
            refused_since: None,
            unavailable_since: None,
        }
    }

    async fn run(mut self) -> Result<(), OutputError> {
        loop {
            if self.ended && self.unacked.is_empty() {
                return Ok(());
            }
            if self.line.is_none() && self.dial_at.is_none() && !self.unacked.is_empty() {
                self.dial();
            }
            match self.wait().await {
                Woken::Part(Some(OutputPart::Data(data))) => self.take(&data)?,
                Woken::Part(Some(OutputPart::End)) => {
                    self.ended = true;
                    let digest = std::mem::take(&mut self.hasher).finish();
                    let rest = self.rest.split().freeze();
                    self.keep(rest, digest.as_bytes().to_vec().into());
                }
                Woken::Part(None) => return Err(OutputError::BrokenOff),
                Woken::Room => self.send(),
                Woken::Dial => self.dial_at = None,
                Woken::Silence => {
                    tracing::warn!("the coordinator does not answer an output; sending it anew");
                    self.lost();
                }
                Woken::Answer(Ok(Some(answer))) => self.acknowledge(answer.acked_seq),
                Woken::Answer(Ok(None)) => self.lost(),
                Woken::Answer(Err(status)) => self.refused(&status)?,
            }
        }
    }

    fn refused(&mut self, status: &Status) -> Result<(), OutputError> {
        if status.code() == Code::OutOfRange {
            return Err(self.too_long());
        }
        let is_over = match Refusal::of(status) {
            Refusal::Superseded => return Err(OutputError::Superseded),
            Refusal::Away if !is_answer(status) => {
                self.unavailable_since = None;
                false
            }
            Refusal::Away => is_longer(&mut self.unavailable_since, LONG_PATIENCE),
            Refusal::Missing | Refusal::Refused => is_longer(&mut self.refused_since, PATIENCE),
        };
        if is_over {
            let why = format!("the coordinator does not take what was made: {}", status.message());
            let failure = Failure::new(Cause::Infrastructure, FailureCode::OutputRefused, why);
            return Err(OutputError::Failed(Box::new(failure)));
        }
        self.lost();
        Ok(())
    }

    fn too_long(&self) -> OutputError {
        let why = format!(
            "what was to be given out (--output, --load) is longer than the {} bytes that this farm takes; publish it (-t), \
             or have limits.output_bytes of the coordinator raised",
            self.limit
        );
        OutputError::Failed(Box::new(Failure::new(Cause::User, FailureCode::OutputTooLarge, why)))
    }

    /// Waits for whatever comes first. Nothing is lost when another branch wins: each is safe to cancel.
    async fn wait(&mut self) -> Woken {
        let wants_part = !self.ended && self.unacked_bytes < MOST_UNACKED;
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
            part = self.parts.recv(), if wants_part => Woken::Part(part),
        }
    }

    fn take(&mut self, mut data: &[u8]) -> Result<(), OutputError> {
        self.bytes = self.bytes.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        if self.bytes > self.limit {
            return Err(self.too_long());
        }
        self.hasher.update(data);
        while !data.is_empty() {
            if self.rest.capacity() == 0 {
                self.rest.reserve(OUTPUT_PIECE_BYTES);
            }
            let fits = data.len().min(OUTPUT_PIECE_BYTES - self.rest.len());
            self.rest.extend_from_slice(&data[..fits]);
            data = &data[fits..];
            if self.rest.len() == OUTPUT_PIECE_BYTES {
                let piece = self.rest.split().freeze();
                self.keep(piece, Bytes::new());
            }
        }
        Ok(())
    }

    fn keep(&mut self, data: Bytes, digest: Bytes) {
        self.unacked_bytes += data.len();
        self.unacked.push_back(Piece { seq: self.next_seq, data, digest });
        self.next_seq += 1;
    }

    fn dial(&mut self) {
        let (outgoing, requests) = mpsc::channel(IN_FLIGHT);
        let mut client = self.client.clone();
        let opening = async move { client.send_output(ReceiverStream::new(requests)).await };
        self.line = Some(Line { outgoing, incoming: Incoming::Opening(Box::pin(opening)) });
        // All that was not acknowledged goes out again.
        self.sent_seq = self.unacked.front().map_or(self.next_seq, |piece| piece.seq) - 1;
    }

    fn lost(&mut self) {
        self.line = None;
        self.silence.lost();
        self.dial_at = Some(Instant::now() + self.backoff.next_jittered(rand::random()));
    }

    /// The next piece that was not sent on this line.
    fn unsent(&self) -> Option<&Piece> {
        let first = self.unacked.front()?.seq;
        let skipped = usize::try_from((self.sent_seq + 1).saturating_sub(first)).ok()?;
        self.unacked.get(skipped)
    }

    fn send(&mut self) {
        let Some(piece) = self.unsent() else { return };
        let Some(line) = &self.line else { return };
        let seq = piece.seq;
        let request = SendOutputRequest {
            lease: Some(self.lease.into()),
            export: self.export,
            seq,
            data: piece.data.clone(),
            digest: piece.digest.clone(),
        };
        // When it is full after all, there is another chance; when it is closed, the answer says why.
        if line.outgoing.try_send(request).is_ok() {
            self.sent_seq = seq;
            self.silence.sent();
        }
    }

    fn acknowledge(&mut self, acked: u64) {
        self.backoff.reset();
        self.refused_since = None;
        self.unavailable_since = None;
        while self.unacked.front().is_some_and(|piece| piece.seq <= acked) {
            if let Some(piece) = self.unacked.pop_front() {
                self.unacked_bytes -= piece.data.len();
            }
        }
        // It may know more than this line was sent: an earlier acknowledgement got lost.
        self.sent_seq = self.sent_seq.max(acked.min(self.next_seq - 1));
        self.silence.answered(self.unacked.front().is_some_and(|piece| piece.seq <= self.sent_seq));
    }
}

/// Whether somebody said this; else it was made here, of an error of the connection.
fn is_answer(status: &Status) -> bool {
    std::error::Error::source(status).is_none()
}

/// Whether this has lasted for so long; it lasts from now on if it did not yet.
fn is_longer(since: &mut Option<Instant>, patience: Duration) -> bool {
    since.get_or_insert_with(Instant::now).elapsed() >= patience
}

#[cfg(test)]
#[path = "outputs_tests.rs"]
mod tests;
