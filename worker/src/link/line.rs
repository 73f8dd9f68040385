//! One stream of requests to the coordinator, with its answers: what streams of events and of outputs have in common.
//!
//! All of it is safe to cancel: each wait is an arm of a `select!`.

use std::time::Duration;

use farm_types::Waits;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tonic::{Response, Status, Streaming};

/// How long a piece that went out may stay unanswered before the stream counts as lost. Longer each time in a row, for a line
/// that takes minutes for a piece.
pub(super) const ANSWER_WITHIN: Waits = Waits::new(Duration::from_secs(60), Duration::from_secs(600));

/// How long nothing was answered while something should have been. Keep-alive notices a peer that is dead; this one a peer
/// that lives and has forgotten the stream.
#[derive(Debug)]
pub(super) struct Silence {
    waits: Waits,
    /// So often in a row nothing was answered in time.
    losses: u32,
    sent_at: Option<Instant>,
}

impl Silence {
    pub(super) fn new(waits: Waits) -> Self {
        Self { waits, losses: 0, sent_at: None }
    }

    /// When the stream counts as lost; never while no answer is due.
    pub(super) fn over_at(&self) -> Option<Instant> {
        self.sent_at.map(|at| at + self.waits.after(self.losses.saturating_add(1)))
    }

    /// Something went out.
    pub(super) fn sent(&mut self) {
        self.sent_at.get_or_insert_with(Instant::now);
    }

    /// Something was answered; more of what went out is to be answered. The patience that was needed stays: on a slow line it is
    /// needed for the next piece, too.
    pub(super) fn answered(&mut self, more: bool) {
        if self.sent_at.is_some_and(|at| at.elapsed() < self.waits.after(1)) {
            self.losses = 0;
        }
        self.sent_at = None;
        if more {
            self.sent();
        }
    }

    /// The stream is lost, for this or another reason.
    pub(super) fn lost(&mut self) {
        if self.over_at().is_some_and(|at| at <= Instant::now()) {
            self.losses = self.losses.saturating_add(1);
        }
        self.sent_at = None;
    }
}

/// One stream to the coordinator.
pub(super) struct Line<R, A> {
    pub(super) outgoing: mpsc::Sender<R>,
    pub(super) incoming: Incoming<A>,
}

/// The coordinator's side of it. Its head may come only after our first piece, so we don't wait for it.
pub(super) enum Incoming<A> {
    Opening(BoxFuture<'static, Result<Response<Streaming<A>>, Status>>),
    Open(Box<Streaming<A>>),
}

/// The next answer; without a line there is none.
pub(super) async fn next_answer<A>(incoming: Option<&mut Incoming<A>>) -> Result<Option<A>, Status> {
    let Some(incoming) = incoming else { return std::future::pending().await };
    if let Incoming::Opening(opening) = incoming {
        *incoming = Incoming::Open(Box::new(opening.await?.into_inner()));
    }
    match incoming {
        Incoming::Open(stream) => stream.message().await,
        Incoming::Opening(_) => std::future::pending().await,
    }
}

/// Until the line takes one more; without a line it never does.
pub(super) async fn room<R>(outgoing: Option<&mpsc::Sender<R>>) {
    match outgoing {
        Some(outgoing) => match outgoing.reserve().await {
            Ok(permit) => drop(permit),
            // The line is dead; its answer tells why.
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// Until then, if there is such a time.
pub(super) async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
