//! Has forges show how commits stand ([`farm_store::hooks::statuses`]): says what has become of builds that have ended, and sends what is
//! wanted. Of each hook one request at a time, and of a few hooks of one place at once: what hangs at one hook holds up no other.
//!
//! Nothing waits for a forge. What can't be sent is sent later, and after a day not at all; `farm hook show` says so.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::Utc;
use farm_hooks::Provider;
use farm_store::StoreError;
use farm_store::hooks::sending::{Counts, ToSend, Untaken};
use farm_store::hooks::statuses::{Ended, StatusState};
use farm_store::machines::leader::Epoch;
use farm_types::state::BuildState;
use farm_types::{Digest, HookId, Waits};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::checks;
use super::told::line;
use crate::forge::ask::{Look, Shown};
use crate::forge::checking::Checked;
use crate::forge::judge::Verdict;
use crate::forge::{Named, Repository};
use crate::hooks::token::{Unusable, repository};
use crate::reconcile::busy::{Busy, Due};
use crate::reconcile::{Lead, leading};
use crate::seal::Unopened;
use crate::shared::Shared;

/// What another coordinator has noted is found after so long, while something is open, and while nothing is.
const TICK: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));
/// So many are read at once.
const BATCH: i64 = 100;
/// One that is wanted for so long and that the forge hasn't taken isn't sent any more.
const MOST_AGE: Duration = Duration::from_secs(24 * 3600);
/// So often is asked about what the forge doesn't know: some minutes.
const MOST_UNKNOWN: i32 = 8;
/// The waits between tries.
const WAITS: Waits = Waits::new(Duration::from_secs(1), Duration::from_secs(300));

/// Sends while leading, until `shutdown`.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut lead: watch::Receiver<Option<Lead>>,
    shutdown: CancellationToken,
) {
    let limits = Arc::new(Limits::default());
    let mut under_way: JoinSet<HookId> = JoinSet::new();
    let mut busy: Busy<ToSend> = Busy::default();
    let mut is_open = false;
    loop {
        let next = async {
            tokio::select! {
                () = tokio::time::sleep(if is_open { TICK.0 } else { TICK.1 }) => {}
                () = shared.hints.told.notified() => {}
            }
            leading(&mut lead).await
        };
        let epoch = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            Some(done) = under_way.join_next(), if !under_way.is_empty() => {
                match done {
                    Ok(hook) => busy.end(hook),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                }
                continue;
            }
            lead = next => match lead {
                Some(lead) => lead.epoch,
                None => return,
            },
        };
        let begun = async {
            settle(&shared, epoch).await?;
            let due = shared.loops.statuses_to_send(BATCH, &busy.senders(), &busy.full()).await?;
            Ok::<_, StoreError>((due, shared.loops.has_open_statuses().await?))
        };
        let begun = tokio::select! {
            () = shutdown.cancelled() => return,
            begun = begun => begun,
        };
        let due = match begun {
            Ok((due, open)) => {
                is_open = open;
                due
            }
            Err(error) => {
                tracing::warn!(%error, "how commits stand could not be looked at; trying again");
                continue;
            }
        };
        for (hook, due) in busy.begin(due) {
            let (shared, limits) = (Arc::clone(&shared), Arc::clone(&limits));
            let send = async move {
                send_all(&shared, epoch, &limits, due).await;
                hook
            };
            under_way.spawn(send.in_current_span());
        }
    }
}

impl Due for ToSend {
    type Sender = HookId;

    fn sender(&self) -> HookId {
        self.hook
    }

    fn place(&self) -> &str {
        ToSend::place(self)
    }
}

/// Says what has become of that whose build has ended.
async fn settle(shared: &Shared, epoch: Epoch) -> Result<(), StoreError> {
    for one in shared.loops.ended_statuses(BATCH).await? {
        let (state, description) = end(&one);
        shared.loops.settle_status(epoch, &one, state, &description).await?;
    }
    Ok(())
}

/// How the end of a build is shown.
fn end(of: &Ended) -> (StatusState, String) {
    match of.state {
        Some(BuildState::Succeeded) => {
            let took = of.took.and_then(|(begun, ended)| (ended - begun).to_std().ok()).unwrap_or_default();
            (StatusState::Success, format!("built in {}", span(took)))
        }
        Some(BuildState::Failed) => {
            let why = of.failure.as_ref().map_or("it failed", |failure| failure.message.as_str());
            (StatusState::Failure, line(why))
        }
        Some(_) => (StatusState::Cancelled, "the build was cancelled".to_owned()),
        None => (StatusState::Cancelled, "the build isn't kept any more".to_owned()),
    }
}

fn span(of: Duration) -> String {
    let seconds = of.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} m {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} m"),
    }
}

/// Sends what is due of one hook, until its forge can't be asked.
async fn send_all(shared: &Shared, epoch: Epoch, limits: &Limits, due: Vec<ToSend>) {
    for one in due {
        match send(shared, epoch, limits, &one).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(StoreError::Stale(why)) => tracing::debug!(commit = one.commit, why, "not noted"),
            Err(error) => {
                tracing::warn!(%error, "what was said to a forge could not be noted; it is said again");
                return;
            }
        }
    }
}

/// Sends one. False: the forge can't be asked now.
async fn send(shared: &Shared, epoch: Epoch, limits: &Limits, one: &ToSend) -> Result<bool, StoreError> {
    let provider: Provider = one.provider.parse().map_err(StoreError::corrupt)?;
    let named = Named {
        provider,
        host: &one.host,
        api: one.api_url.as_deref(),
        full_name: &one.full_name,
        id: one.repository_id.as_deref(),
    };
    let over = |why| Untaken { why, may_come: false };
    let at = match repository(shared, (one.project, one.hook), named, &one.token) {
        Ok(at) => at,
        // The key may come back, and another coordinator may have it.
        Err(why @ Unusable::Sealed(Unopened::KeyIsLost(_))) => {
            let why = why.to_string();
            later(shared, epoch, one, over(&why), pause(one.attempts), Counts::Away).await?;
            return Ok(false);
        }
        Err(why) => {
            give_up(shared, epoch, one, over(&why.to_string())).await?;
            return Ok(true);
        }
    };
    let token = at.counted_by();
    if let Some(wait) = limits.wait(token, Instant::now()) {
        later(shared, epoch, one, over(&too_much(wait)), wait, Counts::Nothing).await?;
        return Ok(true);
    }
    if !shared.loops.claim_status(epoch, one).await? {
        return Ok(true);
    }
    if one.token.app.is_some() {
        return Box::pin(send_check(shared, epoch, limits, (one, &at))).await;
    }
    let shown = Shown {
        commit: one.commit.clone(),
        context: one.context.clone(),
        state: look(one.state),
        description: one.description.clone(),
        is_built: one.build.is_some(),
        branch: one.branch.clone(),
        pipeline: one.pipeline.clone(),
        target: one.build.as_ref().and_then(|build| shared.config.build_url(&one.project_name, build)),
    };
    let show = shared.forges.show(&at, &shown, Utc::now().timestamp(), limits.strikes(token));
    let (verdict, pipeline) = Box::pin(show).await;
    if verdict == Verdict::Done {
        limits.clear(token);
        shared.loops.status_sent(epoch, one, pipeline.as_deref()).await?;
        told(one);
        return Ok(true);
    }
    untaken(shared, epoch, limits, (one, token), verdict).await
}

fn told(one: &ToSend) {
    let hook = format!("{}/{}", one.project_name, one.hook_name);
    tracing::info!(hook, commit = one.commit, context = one.context, state = %one.state, "told the forge");
}

/// Sends one by a check run. False: the forge can't be asked now.
async fn send_check(
    shared: &Shared,
    epoch: Epoch,
    limits: &Limits,
    (one, at): (&ToSend, &Repository),
) -> Result<bool, StoreError> {
    let (token, strikes) = (at.counted_by(), limits.strikes(at.counted_by()));
    match checks::show(shared, (at, one), strikes).await? {
        Checked::Shown(id) => {
            limits.clear(token);
            shared.loops.check_sent(epoch, one, id, checks::is_over(one)).await?;
            told(one);
            Ok(true)
        }
        // The next pass makes it: both would take longer than a claim counts.
        Checked::Over => shared.loops.begin_check_anew(epoch, one).await.map(|()| true),
        Checked::Not(verdict) => untaken(shared, epoch, limits, (one, token), verdict).await,
    }
}

/// What follows where the forge hasn't taken one. False: it can't be asked now.
async fn untaken(
    shared: &Shared,
    epoch: Epoch,
    limits: &Limits,
    (one, token): (&ToSend, Digest),
    verdict: Verdict,
) -> Result<bool, StoreError> {
    let over = |why| Untaken { why, may_come: false };
    match verdict {
        Verdict::Done => {}
        Verdict::Wait(wait) => {
            limits.strike(token, Instant::now() + wait);
            let hook = format!("{}/{}", one.project_name, one.hook_name);
            tracing::info!(hook, wait = wait.as_secs(), "the forge was asked too much");
            later(shared, epoch, one, over(&too_much(wait)), wait, Counts::Nothing).await?;
        }
        Verdict::Unknown(why) if one.unknowns + 1 >= MOST_UNKNOWN => {
            give_up(shared, epoch, one, over(&why)).await?;
        }
        Verdict::Unknown(why) => {
            later(shared, epoch, one, over(&why), pause(one.unknowns), Counts::Unknown).await?;
        }
        Verdict::Again(why) => {
            later(shared, epoch, one, over(&why), pause(one.attempts), Counts::Away).await?;
            return Ok(false);
        }
        Verdict::Lost(why) => {
            let lost = Untaken { why: &why, may_come: true };
            later(shared, epoch, one, lost, pause(one.attempts), Counts::Away).await?;
            return Ok(false);
        }
        Verdict::Never(why) => give_up(shared, epoch, one, over(&why)).await?,
    }
    Ok(true)
}

/// Has it sent later, or not any more if it is too old for that.
async fn later(
    shared: &Shared,
    epoch: Epoch,
    one: &ToSend,
    untaken: Untaken<'_>,
    wait: Duration,
    counts: Counts,
) -> Result<(), StoreError> {
    if one.age > MOST_AGE {
        return give_up(shared, epoch, one, untaken).await;
    }
    let hook = format!("{}/{}", one.project_name, one.hook_name);
    tracing::debug!(hook, commit = one.commit, why = untaken.why, "the forge isn't told yet");
    shared.loops.put_off_status(epoch, one, untaken, wait, counts).await
}

async fn give_up(
    shared: &Shared,
    epoch: Epoch,
    one: &ToSend,
    untaken: Untaken<'_>,
) -> Result<(), StoreError> {
    let (hook, why) = (format!("{}/{}", one.project_name, one.hook_name), untaken.why);
    tracing::warn!(hook, commit = one.commit, context = one.context, why, "the forge isn't told");
    shared.loops.give_up_status(epoch, one, untaken).await
}

fn too_much(wait: Duration) -> String {
    format!("the forge was asked too much by this token; it is asked again in {}", span(wait))
}

/// How long after so many tries in vain.
fn pause(attempts: i32) -> Duration {
    WAITS.jittered(u32::try_from(attempts).unwrap_or(0) + 1, rand::random::<f64>())
}

fn look(state: StatusState) -> Look {
    match state {
        StatusState::Pending => Look::Pending,
        StatusState::Success => Look::Success,
        StatusState::Failure => Look::Failure,
        StatusState::Cancelled => Look::Cancelled,
    }
}

/// Which tokens have to wait, as forges count by these, and one token may be of many hooks. Whoever leads next is told anew.
#[derive(Debug, Default)]
struct Limits(Mutex<HashMap<Digest, Limit>>);

#[derive(Debug, Clone, Copy)]
struct Limit {
    until: Instant,
    strikes: u32,
}

impl Limits {
    fn with<T>(&self, f: impl FnOnce(&mut HashMap<Digest, Limit>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How long a token has to wait.
    fn wait(&self, token: Digest, now: Instant) -> Option<Duration> {
        let until = self.with(|all| all.get(&token).map(|limit| limit.until))?;
        let wait = until.saturating_duration_since(now);
        (!wait.is_zero()).then_some(wait)
    }

    /// So often in a row it was too much.
    fn strikes(&self, token: Digest) -> u32 {
        self.with(|all| all.get(&token).map_or(0, |limit| limit.strikes))
    }

    /// Once more: not before then.
    fn strike(&self, token: Digest, until: Instant) {
        self.with(|all| {
            let limit = all.entry(token).or_insert(Limit { until, strikes: 0 });
            *limit = Limit { until, strikes: limit.strikes.saturating_add(1) };
        });
    }

    fn clear(&self, token: Digest) {
        self.with(|all| all.remove(&token));
    }
}

#[cfg(test)]
#[path = "statuses_tests.rs"]
mod tests;
