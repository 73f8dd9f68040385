//! What follows from one delivery. All before it (whose it is, which repository it is about, in which order) is done.

use farm_hooks::Delivery;
use farm_store::hooks::deliveries::Waiting;

use crate::shared::Shared;

/// A delivery from which something may follow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delivered<'a> {
    /// Its row, and its hook: whose it is and where the repository is fetched. What is done is done as that hook
    /// (`farm_store::hooks::registered::by_hook`).
    pub of: &'a Waiting,
    /// What it says.
    pub delivery: &'a Delivery,
    /// No later delivery was about the same ref.
    pub is_newest: bool,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(dead_code, reason = "no delivery begins a build yet; the loop knows how each of these ends")]
pub(super) enum Begun {
    /// These builds go on, by their short ids; or what else there was to do is done.
    Done { builds: Vec<String>, reason: String },
    /// Nothing follows from it.
    Ignored(String),
    /// What follows can't be done, and nobody but people can change that.
    Failed(String),
    /// It can't be done now.
    Later(String),
}

/// Begins what follows from a delivery. It may be called again for the same one, when the process ended before the answer was kept:
/// builds have to bear an idempotency key that is made of the delivery.
pub(super) async fn begin(_shared: &Shared, delivered: Delivered<'_>) -> Begun {
    let Delivered { of, delivery, is_newest } = delivered;
    tracing::debug!(delivery = of.id, event = delivery.event, is_newest, "nothing follows yet");
    Begun::Ignored("this farm's hooks build nothing yet".to_owned())
}
