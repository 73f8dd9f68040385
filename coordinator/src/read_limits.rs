//! Notes what registries say of how much may be read there, so that any coordinator can tell it: whatever this one was told since it last
//! did so. What can't be noted is told again by the registry's next answer.

use std::sync::Arc;
use std::time::Duration;

use farm_store::people::read_limits::ReadLimit;
use tokio_util::sync::CancellationToken;

use crate::shared::Shared;

/// How often.
const EVERY: Duration = Duration::from_secs(2);

/// Notes until `shutdown`.
pub(crate) async fn run(shared: Arc<Shared>, shutdown: CancellationToken) {
    while tokio::time::timeout(EVERY, shutdown.cancelled()).await.is_err() {
        for (login, host, limit) in shared.registries.new_limits() {
            let limit = ReadLimit { remaining: limit.remaining, of: limit.of, window_seconds: limit.window };
            if let Err(error) = shared.store.note_read_limit(login, &host, limit).await {
                tracing::debug!(host, %error, "a registry's limit could not be noted");
            }
        }
    }
}
