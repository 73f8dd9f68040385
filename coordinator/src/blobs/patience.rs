//! What a blob store may cost that doesn't answer: a bounded wait for each step, and a bounded number of threads.
//!
//! A folder on a disk that hangs can't be told to give up: whoever reads or writes there stands in the system until it comes
//! back. So each step runs in a task of its own that has one of a few places, and keeps it for as long as it stands there; who
//! asked waits for so long, and goes on with an error. When all places are taken nobody new stands there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tokio::sync::{Semaphore, watch};

/// Steps at once: fewer than the threads that the runtime has for what blocks, so that other files can be read meanwhile.
const PLACES: usize = 64;

/// The store did not answer in time.
#[derive(Debug, thiserror::Error)]
#[error("the blob store did not answer within {} s", .0.as_secs())]
pub struct Unanswered(Duration);

/// How long a step may take, and the places for steps. Cheap to clone; all clones share the places.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    limit: Duration,
    places: Arc<Semaphore>,
    /// Whether the store answered when it was last asked, or has since.
    answers: Arc<watch::Sender<bool>>,
}

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        let (places, answers) = (Arc::new(Semaphore::new(PLACES)), Arc::new(watch::Sender::new(true)));
        Self { limit, places, answers }
    }

    /// Whether the store answers, and each change of that.
    pub(super) fn answers(&self) -> watch::Receiver<bool> {
        self.answers.subscribe()
    }

    /// Makes one step. It goes on to its end when nobody waits for it any more.
    ///
    /// # Errors
    /// Its own, or [`Unanswered`].
    pub(super) async fn step<T: Send + 'static>(
        &self,
        made: impl Future<Output = Result<T, object_store::Error>> + Send + 'static,
    ) -> Result<T, object_store::Error> {
        let (places, answers) = (Arc::clone(&self.places), Arc::clone(&self.answers));
        let answered = async {
            let place = places.acquire_owned().await.map_err(other)?;
            let made = tokio::spawn(async move {
                let _place = place;
                let answer = made.await;
                note(&answers, true);
                answer
            });
            made.await.map_err(other)?
        };
        match tokio::time::timeout(self.limit, answered).await {
            Ok(answer) => answer,
            Err(_) => {
                note(&self.answers, false);
                Err(other(Unanswered(self.limit)))
            }
        }
    }

    /// The same stream, each piece of which is a step.
    pub(super) fn pieces(
        self,
        stream: BoxStream<'static, Result<Bytes, object_store::Error>>,
    ) -> BoxStream<'static, Result<Bytes, object_store::Error>> {
        let next = async |(patience, stream): (Self, Option<BoxStream<'static, _>>)| {
            let mut stream = stream?;
            let step = async move {
                let piece = stream.next().await;
                Ok((piece, stream))
            };
            match patience.step(step).await {
                Ok((piece, stream)) => Some((piece?, (patience, Some(stream)))),
                Err(error) => Some((Err(error), (patience, None))),
            }
        };
        futures::stream::unfold((self, Some(stream)), next).boxed()
    }
}

fn note(answers: &watch::Sender<bool>, answered: bool) {
    answers.send_if_modified(|before| std::mem::replace(before, answered) != answered);
}

/// Whether the store gave no answer at all, so that asking for the next thing is no use.
pub fn is_unanswered(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::Generic { source, .. } if source.is::<Unanswered>())
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> object_store::Error {
    object_store::Error::Generic { store: "blobs", source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn steps_that_hang_end_for_who_asked_and_take_no_more_than_their_places() {
        let patience = Patience::new(Duration::from_millis(50));
        let (hang, hung) = tokio::sync::watch::channel(false);
        let hanging = || {
            let mut hung = hung.clone();
            patience.step(async move { hung.wait_for(|over| *over).await.map(drop).map_err(other) })
        };
        let all = futures::future::join_all((0..PLACES + 20).map(|_| hanging())).await;
        assert!(all.iter().all(|one| one.as_ref().is_err_and(is_unanswered)), "{:?}", all[0]);
        assert_eq!(hang.receiver_count(), PLACES + 1, "more stand there than there are places");
        let refused = patience.step(async { Ok(()) }).await.unwrap_err();
        assert!(is_unanswered(&refused) && refused.to_string().contains("did not answer within 0 s"));
        // The store answers again: what had waited for it gives its places back.
        let mut answers = patience.answers();
        assert!(!*answers.borrow_and_update());
        hang.send_replace(true);
        answers.wait_for(|answers| *answers).await.unwrap();
        let patience = Patience { limit: Duration::from_secs(60), ..patience };
        patience.step(async { Ok(()) }).await.unwrap();
    }
}
