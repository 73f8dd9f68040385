//! Follows a solve's status and sends it on as events.
//!
//! Invariants: a receiver that is gone holds nothing up, its events are dropped; a slow one holds up only this
//! task. A broken status stream is opened again, and nothing is told twice (see [`collected`]; `stepname`
//! reads the names of steps).

pub(super) mod collected;
mod stepname;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bollard_buildkit_proto::moby::buildkit::v1::StatusRequest;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use farm_dockerfile::Stages;
use farm_proto::v1::AttemptEvent;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

use self::collected::Collected;
use super::engine::connect::MAX_MESSAGE_BYTES;
use crate::mask::Mask;

/// How long after the solve's end its last news may be on their way. An engine keeps them for 10 s.
const LAST_NEWS: Duration = Duration::from_secs(3);
/// Before a broken stream is opened again.
const PAUSE: Duration = Duration::from_millis(200);

/// What was collected, shared between the follower and whoever reports the outcome.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Collected>>);

impl Shared {
    /// With what is known of the Dockerfile's stages, and what is masked in a step's last lines.
    pub(super) fn new(stages: Option<Stages>, mask: Mask) -> Self {
        Self(Arc::new(Mutex::new(Collected::new(stages, mask))))
    }

    /// Not to be held across an await.
    pub(super) fn lock(&self) -> MutexGuard<'_, Collected> {
        // Nothing in there is left half done by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows the status of a solve until it ends by itself, which is when the solve does; or until, after `ended`
/// was cancelled, nothing comes any more.
pub(super) async fn follow(
    channel: Channel,
    reference: String,
    collected: Shared,
    events: mpsc::Sender<AttemptEvent>,
    ended: CancellationToken,
) {
    let mut client = ControlClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    loop {
        collected.lock().start_over();
        let request = StatusRequest { r#ref: reference.clone() };
        let opened = until_quiet(&ended, client.status(request)).await;
        let error = match opened {
            None => return,
            Some(Err(status)) => status,
            Some(Ok(stream)) => {
                let mut stream = stream.into_inner();
                loop {
                    match until_quiet(&ended, stream.message()).await {
                        None | Some(Ok(None)) => return,
                        Some(Err(status)) => break status,
                        Some(Ok(Some(response))) => {
                            let at_ms = chrono::Utc::now().timestamp_millis();
                            let news = collected.lock().absorb(response, at_ms);
                            for event in news {
                                // An error: nobody listens.
                                let _ = events.send(AttemptEvent { at_ms, event: Some(event) }).await;
                            }
                        }
                    }
                }
            }
        };
        if error.code() == Code::OutOfRange {
            // Longer than is taken, as it would be each time. The answer tells how the build ended all the same.
            tracing::warn!(error = error.message(), "the engine's status is too long to be followed");
            return;
        }
        if ended.is_cancelled() {
            return;
        }
        tracing::debug!(error = error.message(), "the status stream broke; opening it again");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits for this, but after the solve's end only as long as news may still come.
async fn until_quiet<T>(ended: &CancellationToken, what: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        what = what => Some(what),
        () = async {
            ended.cancelled().await;
            tokio::time::sleep(LAST_NEWS).await;
        } => None,
    }
}
