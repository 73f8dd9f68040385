//! One stream of requests to the coordinator, with its answers: what streams of events and of outputs have in common.
//!
//! All of it is safe to cancel: each wait is an arm of a `select!`.

use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tonic::{Response, Status, Streaming};

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
