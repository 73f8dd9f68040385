//! The span of a call: what is logged while it is served says which method it was and who called.
//!
//! Spans are of level ERROR, here and everywhere: then whatever line `RUST_LOG` lets through bears them.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use tonic::{Response, Status};
use tracing::Span;
use tracing::field::Empty;

/// What a call answers with, piece by piece.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The span of a call of this path (`/farm.v1.BuildService/SubmitBuild`). Who calls, and in which project, is entered
/// by the gate ([`crate::people::gate`]); which worker, when it has said Hello.
pub(super) fn rpc(path: &str) -> Span {
    let method = path.rsplit('/').next().unwrap_or(path);
    tracing::error_span!("rpc", %method, who = Empty, project = Empty, worker = Empty)
}

/// Answers with a stream. The call's span lasts until its end: by itself it would be over with the first answer.
pub(super) fn answer_by<T: 'static>(
    stream: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> Response<Answers<T>> {
    Response::new(Box::pin(InSpan { stream: Box::pin(stream), span: Span::current() }))
}

struct InSpan<T> {
    stream: Answers<T>,
    span: Span,
}

impl<T> Stream for InSpan<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let _inside = this.span.enter();
        this.stream.as_mut().poll_next(task)
    }
}
