//! Does what follows from what was delivered, in the order in which it came. The row is the queue: a pass that is cut off anywhere finds
//! it again, so what is begun has to stand being begun twice ([`begin`]). What the forge is told of it: [`told`], [`statuses`]. What the farm
//! delivers to itself: [`own`], [`looks`].

mod again;
mod asking;
mod begin;
mod checks;
mod forks;
pub mod looks;
mod names;
mod own;
pub mod statuses;
mod step;
mod told;
mod under_way;

use std::sync::Arc;
use std::time::Duration;

use farm_core::work::again::backoff;
use farm_hooks::{About, Delivery, Expected, Headers, Outcome, Provider, about, parse};
use farm_rules::EventKind;
use farm_store::StoreError;
use farm_store::hooks::deliveries::{DeliveryState, End, Waiting};
use farm_store::machines::leader::Epoch;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::asking::Asking;
use self::begin::begin;
use self::own::Own;
use self::step::{Begun, Delivered};
use self::told::{Told, tell};
use super::{Lead, leading};
use crate::shared::Shared;

/// What another coordinator has taken is found after so long, while there is something to do, and while there is nothing.
const TICK: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));
/// So many are read at once.
const BATCH: i64 = 50;
/// What a delivery has begun is looked at so often, at first and at last.
const LOOK: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// One that failed so often for now has failed.
const MOST_ATTEMPTS: i32 = 12;

/// Processes while leading, until `shutdown`.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut lead: watch::Receiver<Option<Lead>>,
    shutdown: CancellationToken,
) {
    let mut is_busy = false;
    let asking = Arc::new(Asking::default());
    loop {
        let next = async {
            tokio::select! {
                () = tokio::time::sleep(if is_busy { TICK.0 } else { TICK.1 }) => {}
                () = shared.hints.delivered.notified() => {}
            }
            leading(&mut lead).await
        };
        let epoch = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            lead = next => match lead {
                Some(lead) => lead.epoch,
                None => return,
            },
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            done = pass(&shared, epoch, &asking) => match done {
                Ok(was_any) => is_busy = was_any,
                Err(error) => tracing::warn!(%error, "what was delivered could not be processed; trying again"),
            },
        }
    }
}

/// All that is due. True: there was something.
async fn pass(shared: &Shared, epoch: Epoch, asking: &Arc<Asking>) -> Result<bool, StoreError> {
    let mut is_any = false;
    loop {
        let waiting = shared.loops.waiting_deliveries(BATCH).await?;
        is_any |= !waiting.is_empty();
        let is_all = i64::try_from(waiting.len()).is_ok_and(|count| count < BATCH);
        for one in waiting {
            match process(shared, epoch, asking, &one).await {
                Ok(()) => {}
                // Somebody has removed the hook, or wants it once more.
                Err(StoreError::Stale(why)) => tracing::debug!(delivery = one.id, why, "not processed"),
                Err(error @ (StoreError::NotLeading | StoreError::Unavailable(_))) => return Err(error),
                Err(error) => {
                    tracing::error!(hook = one.hook_name, delivery = one.id, %error, "a delivery can't be processed");
                    let why = "the farm couldn't process it; its log says why";
                    put_off(shared, epoch, &one, &Told::default(), why, false).await?;
                }
            }
        }
        if is_all {
            return Ok(is_any);
        }
    }
}

async fn process(
    shared: &Shared,
    epoch: Epoch,
    asking: &Arc<Asking>,
    one: &Waiting,
) -> Result<(), StoreError> {
    let mut told = Told::default();
    let begun = match read(shared, one).await? {
        None => return Ok(()),
        Some(Err(why)) => Begun::Failed(why),
        Some(Ok(Said { delivery, line })) => {
            see(shared, epoch, one, &delivery).await?;
            let delivered = Delivered { of: one, delivery: &delivery, line: line.as_deref() };
            Box::pin(begin(shared, epoch, asking, delivered, &mut told)).await?
        }
    };
    let end = match begun {
        Begun::Later(why) => return put_off(shared, epoch, one, &told, &why, false).await,
        Begun::Anew(why) => return put_off(shared, epoch, one, &told, &why, true).await,
        Begun::Goes(what) => {
            tell(shared, epoch, one, &told, None).await?;
            return shared.loops.go_on_with_delivery(epoch, one, look_after(one), &what).await;
        }
        Begun::Held(held) => {
            tell(shared, epoch, one, &told, None).await?;
            let told = (held.images.as_slice(), held.what.as_str());
            return shared.loops.hold(epoch, one, &held.proposal, told).await;
        }
        Begun::Done { builds, reason } => End { state: DeliveryState::Done, reason, builds },
        Begun::Ignored(reason) => End { state: DeliveryState::Ignored, reason, builds: Vec::new() },
        Begun::Failed(reason) => End { state: DeliveryState::Failed, reason, builds: Vec::new() },
    };
    tell(shared, epoch, one, &told, Some(&end)).await?;
    shared.loops.end_delivery(epoch, one, &end).await?;
    let hook = format!("{}/{}", one.project_name, one.hook_name);
    tracing::info!(hook, delivery = one.id, state = %end.state, reason = end.reason, builds = end.builds.join(", "), "processed");
    Ok(())
}

/// What a delivery says.
struct Said {
    delivery: Delivery,
    /// Of a schedule of the farm's own: when it comes.
    line: Option<String>,
}

/// What it says; `None`: it doesn't wait any more. It was read when it came; by whatever farm that was.
async fn read(shared: &Shared, one: &Waiting) -> Result<Option<Result<Said, String>>, StoreError> {
    let Some((headers, body)) = shared.loops.delivered(one).await? else { return Ok(None) };
    if one.own.is_some() {
        let own: Own = serde_json::from_slice(&body).map_err(StoreError::corrupt)?;
        let line = own.line.clone();
        return Ok(Some(Ok(Said { delivery: own.delivery(&one.id), line })));
    }
    let provider: Provider = one.provider.parse().map_err(StoreError::corrupt)?;
    let headers = Headers::of(headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
    let read = tokio::task::spawn_blocking(move || parse(provider, &headers, &body)).await;
    let mut delivery = match read.map_err(StoreError::corrupt)? {
        Ok(delivery) => delivery,
        Err(why) => return Ok(Some(Err(why.to_string()))),
    };
    let expected =
        Expected { provider, id: one.repository_id.as_deref(), full_name: &one.full_name, host: &one.host };
    Ok(Some(match about(expected, &mut delivery) {
        About::Own | About::First(_) => Ok(Said { delivery, line: None }),
        About::Other(why) | About::Strayed(why) => Err(why),
    }))
}

/// Notes where the delivery has seen its ref, which branch is the default one, and how its pull request is.
async fn see(shared: &Shared, epoch: Epoch, one: &Waiting, delivery: &Delivery) -> Result<(), StoreError> {
    if let Outcome::Event(happened) = &delivery.outcome
        && one.own.is_none()
        && let Some(branch) = &happened.event.default_branch
    {
        shared.loops.note_default_branch(epoch, one, branch).await?;
    }
    if let Outcome::Event(happened) = &delivery.outcome
        && let Some(proposal) = forks::proposal(delivery, happened)
    {
        shared.loops.see_proposal(epoch, one, &proposal).await?;
    }
    let (git_ref, commit, before) = match &delivery.outcome {
        // What else speaks of a ref says nothing of where it was moved.
        Outcome::Event(happened)
            if matches!(happened.event.kind, EventKind::Push { .. } | EventKind::Tag { .. })
                && !happened.event.commit.is_none() =>
        {
            (&happened.event.git_ref, Some(&happened.event.commit), happened.before.as_ref())
        }
        Outcome::Deleted { git_ref, .. } => (git_ref, None, None),
        _ => return shared.loops.see_no_ref(epoch, one).await,
    };
    // Which of them is the newest is told by where the ref is, and not by the order in which they came ([`begin`]).
    shared.loops.see_ref(epoch, one, git_ref, (commit, before)).await.map(drop)
}

/// When what a delivery has begun is looked at again: the longer it goes on, the later.
fn look_after(one: &Waiting) -> Duration {
    let age = (chrono::Utc::now() - one.received_at).to_std().unwrap_or_default();
    (age / 20).clamp(LOOK.0, LOOK.1)
}

/// Has it tried again later, or not any more.
async fn put_off(
    shared: &Shared,
    epoch: Epoch,
    one: &Waiting,
    told: &Told,
    why: &str,
    is_anew: bool,
) -> Result<(), StoreError> {
    if one.attempts + 1 >= MOST_ATTEMPTS {
        let reason = format!("tried {MOST_ATTEMPTS} times: {why}");
        let end = End { state: DeliveryState::Failed, reason, builds: Vec::new() };
        tell(shared, epoch, one, told, Some(&end)).await?;
        return shared.loops.end_delivery(epoch, one, &end).await;
    }
    tell(shared, epoch, one, told, None).await?;
    let tries = u32::try_from(one.attempts + 1).unwrap_or(1);
    let wait = backoff(tries, rand::random::<f64>());
    shared.loops.put_off_delivery(epoch, one, wait, why, is_anew).await
}
