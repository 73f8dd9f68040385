//! The attempts of this worker: what runs here, what ended and is not acknowledged yet, and whether there is room for more.
//!
//! It is the one thing that the control thread and the attempts' tasks share. The control thread asks it
//! for an answer to every offer and tells it what the coordinator said; an attempt's task tells it how it
//! ended. Nothing in it waits: the lock is held for a look-up only.
//!
//! Invariants: an attempt is in one of *running*, *unanswered* and *ended*, never in two; `running` never
//! holds more than there are slots, and a few fetches beside; an attempt that ended is never started again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use farm_proto::v1;
use farm_types::entitlement::words;
use farm_types::run_options::Network;
use farm_types::{AttemptId, Entitlement, Entitlements, FETCHES_AT_ONCE, Invalid, LeaseToken, Offer, Runs};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::Span;

/// How many ended attempts are remembered, so that an offer that comes late is known as an old one.
const REMEMBERED: usize = 4096;

/// The right to run an attempt, as the coordinator gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub attempt: AttemptId,
    /// Proves the right to it; of each new lease another one.
    pub token: LeaseToken,
}

impl TryFrom<&v1::Lease> for Lease {
    type Error = Invalid;

    fn try_from(lease: &v1::Lease) -> Result<Self, Invalid> {
        Ok(Self { attempt: lease.attempt_id.parse()?, token: lease.lease_token.parse()? })
    }
}

impl From<Lease> for v1::Lease {
    fn from(lease: Lease) -> Self {
        Self { attempt_id: lease.attempt.to_string(), lease_token: lease.token.as_uuid().to_string() }
    }
}

/// Why an attempt is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// A person cancelled the build, or a required platform of it failed.
    Cancelled,
    /// The lease is another's now: nobody wants the result.
    Superseded,
    /// This worker was told to end at once.
    WorkerStopped,
    /// The engine hangs; the job is to be tried elsewhere.
    EngineHangs,
    /// This worker has to leave before it is done: another one is to run it.
    GivenBack,
}

/// An attempt that was accepted: work for the runner. It holds lent passwords, so it can't be printed.
pub struct Accepted {
    /// The lease under which it runs.
    pub lease: Lease,
    /// What is to be built.
    pub offered: v1::Offered,
    /// The span of all that is logged of it.
    pub span: Span,
    /// Cancelled when it must stop; [`Attempts::stop_reason`] says why.
    pub stop: CancellationToken,
}

/// What the control thread leaves for the others to do.
pub enum Chore {
    /// Run this attempt.
    Run(Box<Accepted>),
    /// The coordinator took this attempt's end: it need not be kept on disk.
    Forget(AttemptId),
    /// Show by a trial build that the engine builds; its end goes to [`Attempts::probe_ended`].
    Probe(String),
    /// Have the engine drop some of its cache, or say what it would; its end goes to [`Attempts::cache_told`].
    Cache(v1::CacheAsked),
}

/// So many ends of what was asked of the engine's cache are remembered.
const MOST_TOLD: usize = 16;

/// How much there is, for whoever waits for a change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Attempts that run.
    pub running: usize,
    /// Attempts that ended and whose end nobody acknowledged.
    pub unanswered: usize,
}

/// What a worker is to its coordinator: its engine, and what that may be offered now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Identity {
    /// The engine.
    pub engine: v1::Engine,
    /// The platforms; none while nothing new is taken.
    pub offers: Vec<Offer>,
    /// What it may grant, and the engine gives.
    pub grants: Entitlements,
    /// It ends when what it runs is done.
    pub draining: bool,
    /// Why it offers no platform, in words; empty when it does, or drains.
    pub withdrawn: String,
}

/// The span of what is logged about an offered job: people know it by its build and platform, not by the attempt's id.
pub fn job_span(offered: &v1::Offered) -> Span {
    let v1::Offered { build_id, platform, attempt_number, .. } = offered;
    tracing::error_span!("job", build = %build_id, %platform, "try" = attempt_number)
}

/// A worker's attempts, and whether it takes more of them.
#[derive(Debug)]
pub struct Attempts {
    slots: usize,
    state: Mutex<State>,
    counts: watch::Sender<Counts>,
    identity: watch::Sender<Identity>,
    // Its length is bounded by the slots and by the results that wait for an answer.
    chores: mpsc::UnboundedSender<Chore>,
}

#[derive(Debug, Default)]
struct State {
    running: BTreeMap<AttemptId, Running>,
    unanswered: BTreeMap<AttemptId, (v1::Finished, Span)>,
    ended: VecDeque<AttemptId>,
    /// The engine as it was last seen.
    identity: Identity,
    /// Why nothing new is taken, if so: the engine is away.
    closed: Option<String>,
    /// Why nothing new is taken, if so: there is no room on the disk.
    full: Option<String>,
    draining: bool,
    /// The last trial build that was asked for; with its end, when it has one.
    probe: Option<(String, Option<Result<(), String>>)>,
    /// What was asked of the engine's cache, by its id; with its end, when it has one.
    caches: VecDeque<(String, Option<v1::CacheTold>)>,
}

#[derive(Debug)]
struct Running {
    lease: Lease,
    span: Span,
    stop: CancellationToken,
    reason: Option<StopReason>,
    /// It fetches a source: it has no slot.
    fetches: bool,
}

impl Attempts {
    /// Takes at most `slots` at once, and none until [`Attempts::open`]. Beside it where its chores come out.
    pub fn new(slots: usize) -> (Self, mpsc::UnboundedReceiver<Chore>) {
        let (chores, todo) = mpsc::unbounded_channel();
        let state = State { closed: Some("the engine is not ready".to_owned()), ..State::default() };
        let attempts = Self {
            slots,
            state: Mutex::new(state),
            counts: watch::Sender::default(),
            identity: watch::Sender::default(),
            chores,
        };
        (attempts, todo)
    }

    /// Takes offers for this engine's platforms from now on.
    pub fn open(&self, identity: Identity) {
        let mut state = self.lock();
        state.identity = identity;
        state.closed = None;
        self.show(&state);
    }

    /// Declines all offers until [`Attempts::open`]; `why` is told to the coordinator. What runs goes on.
    pub fn close(&self, why: impl Into<String>) {
        let mut state = self.lock();
        state.closed = Some(why.into());
        self.show(&state);
    }

    /// Declines all offers while there is a reason: the disk is full. What runs goes on.
    pub fn set_full(&self, why: Option<String>) {
        let mut state = self.lock();
        state.full = why;
        self.show(&state);
    }

    /// Answers a call for a trial build with its end, if it has one; it is begun when it is a new one.
    pub fn probe(&self, id: String) -> Option<v1::Probed> {
        let mut state = self.lock();
        match &state.probe {
            Some((known, end)) if *known == id => {
                let failure = end.clone()?.err().unwrap_or_default();
                return Some(v1::Probed { probe_id: id, failure });
            }
            _ => state.probe = Some((id.clone(), None)),
        }
        // When nobody listens any more the process is on its way out.
        let _ = self.chores.send(Chore::Probe(id));
        None
    }

    /// The trial build has ended; the next call for it is answered so.
    pub fn probe_ended(&self, id: &str, end: Result<(), String>) {
        if let Some((known, answer)) = &mut self.lock().probe
            && known == id
        {
            *answer = Some(end);
        }
    }

    /// Answers what is asked of the engine's cache with its end, if it has one; it is begun when it is new.
    pub fn cache(&self, asked: v1::CacheAsked) -> Option<v1::CacheTold> {
        let mut state = self.lock();
        if let Some((_, told)) = state.caches.iter().find(|(known, _)| *known == asked.id) {
            return told.clone();
        }
        state.caches.push_back((asked.id.clone(), None));
        if state.caches.len() > MOST_TOLD {
            state.caches.pop_front();
        }
        // When nobody listens any more the process is on its way out.
        let _ = self.chores.send(Chore::Cache(asked));
        None
    }

    /// What was asked of the engine's cache has ended; the next call for it is answered so.
    pub fn cache_told(&self, told: v1::CacheTold) {
        let mut state = self.lock();
        if let Some((_, end)) = state.caches.iter_mut().find(|(known, _)| *known == told.id) {
            *end = Some(told);
        }
    }

    /// Declines all offers from now on, for good.
    pub fn drain(&self) {
        let mut state = self.lock();
        state.draining = true;
        self.show(&state);
    }

    /// What the coordinator is to be told of this worker, and every change of it.
    pub fn identity(&self) -> watch::Receiver<Identity> {
        self.identity.subscribe()
    }

    /// Answers an offer, and starts it if there is room. The same offer gets the same answer again.
    pub fn offer(&self, offered: v1::Offered) -> Vec<v1::control_request::Message> {
        use v1::control_request::Message;
        let wire = offered.lease.clone().unwrap_or_default();
        let declined =
            |reason: String| vec![Message::Declined(v1::Declined { lease: Some(wire.clone()), reason })];
        let started = || Message::Started(v1::Started { lease: Some(wire.clone()) });
        let lease = match Lease::try_from(&wire) {
            Ok(lease) => lease,
            Err(error) => return declined(error.to_string()),
        };
        let mut state = self.lock();
        if let Some(running) = state.running.get(&lease.attempt) {
            return match running.lease == lease {
                true => vec![started()],
                false => declined("this attempt runs here under another lease".to_owned()),
            };
        }
        if let Some((finished, _)) = state.unanswered.get(&lease.attempt) {
            return vec![started(), Message::Finished(finished.clone())];
        }
        if state.ended.contains(&lease.attempt) {
            return Vec::new();
        }
        if let Some(reason) = state.no_room(self.slots, &offered) {
            return declined(reason);
        }
        let stop = CancellationToken::new();
        let span = job_span(&offered);
        let fetches = fetches(&offered);
        let running = Running { lease, span: span.clone(), stop: stop.clone(), reason: None, fetches };
        state.running.insert(lease.attempt, running);
        self.publish(&state);
        drop(state);
        if self.chores.send(Chore::Run(Box::new(Accepted { lease, offered, span, stop }))).is_err() {
            // The process is on its way out: nobody would run it.
            self.release(lease.attempt);
            return declined("the worker ends".to_owned());
        }
        vec![started()]
    }

    /// Asks a running attempt to stop. The first reason stays, but that a lease was lost outweighs a cancel.
    /// True when this is news.
    pub fn stop(&self, attempt: AttemptId, reason: StopReason) -> bool {
        let mut state = self.lock();
        let Some(running) = state.running.get_mut(&attempt) else { return false };
        let is_news = running.reason.is_none()
            || (reason == StopReason::Superseded && running.reason != Some(StopReason::Superseded));
        if is_news {
            running.reason = Some(reason);
        }
        running.stop.cancel();
        if is_news {
            running.span.in_scope(|| tracing::info!(?reason, "asked to stop"));
        }
        is_news
    }

    /// Asks all that runs to stop.
    pub fn stop_all(&self, reason: StopReason) {
        let attempts: Vec<_> = self.lock().running.keys().copied().collect();
        for attempt in attempts {
            self.stop(attempt, reason);
        }
    }

    /// Why an attempt was asked to stop, if it was.
    pub fn stop_reason(&self, attempt: AttemptId) -> Option<StopReason> {
        self.lock().running.get(&attempt).and_then(|running| running.reason)
    }

    /// Frees the slot, and keeps the end to be told until the coordinator acknowledges it.
    pub fn finish(&self, attempt: AttemptId, finished: v1::Finished) {
        let mut state = self.lock();
        let running = state.running.remove(&attempt);
        // Of a result of a former life no more is known.
        let span = running.map_or_else(|| tracing::error_span!("job", %attempt), |running| running.span);
        state.unanswered.insert(attempt, (finished, span));
        self.publish(&state);
    }

    /// Frees the slot of an attempt whose end nobody wants to know.
    pub fn release(&self, attempt: AttemptId) {
        let mut state = self.lock();
        state.running.remove(&attempt);
        state.remember(attempt);
        self.publish(&state);
    }

    /// The coordinator knows of this attempt's end; it counts if it was `accepted`.
    pub fn answered(&self, attempt: AttemptId, accepted: bool) {
        let mut state = self.lock();
        if let Some((_, span)) = state.unanswered.remove(&attempt) {
            if !accepted {
                span.in_scope(|| tracing::warn!("the result came too late: the lease was another's"));
            }
            state.remember(attempt);
            self.publish(&state);
            // When nobody listens any more the file stays, and is told about again after the next start.
            let _ = self.chores.send(Chore::Forget(attempt));
        }
    }

    /// The leases of all that runs and of all that ended without an acknowledgement.
    pub fn leases(&self) -> Vec<v1::Lease> {
        let state = self.lock();
        let running = state.running.values().map(|running| running.lease.into());
        let unanswered = state.unanswered.values().filter_map(|(finished, _)| finished.lease.clone());
        running.chain(unanswered).collect()
    }

    /// The ends that nobody acknowledged.
    pub fn unanswered(&self) -> Vec<(AttemptId, v1::Finished)> {
        self.lock().unanswered.iter().map(|(attempt, (finished, _))| (*attempt, finished.clone())).collect()
    }

    /// The counts, and every change of them.
    pub fn watch(&self) -> watch::Receiver<Counts> {
        self.counts.subscribe()
    }

    /// An engine that is away, or a worker that drains, runs no platform: the coordinator need not ask.
    fn show(&self, state: &State) {
        let why = state.closed.as_ref().or(state.full.as_ref());
        let shown = match why {
            None if !state.draining => state.identity.clone(),
            _ => Identity {
                offers: Vec::new(),
                draining: state.draining,
                withdrawn: why.filter(|_| !state.draining).cloned().unwrap_or_default(),
                ..state.identity.clone()
            },
        };
        self.identity.send_if_modified(|known| {
            let is_news = *known != shown;
            *known = shown;
            is_news
        });
    }

    fn publish(&self, state: &State) {
        self.counts.send_replace(Counts { running: state.running.len(), unanswered: state.unanswered.len() });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change under the lock is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn no_room(&self, slots: usize, offered: &v1::Offered) -> Option<String> {
        if self.draining {
            return Some("the worker drains: it ends when what runs is done".to_owned());
        }
        if let Some(why) = self.closed.as_ref().or(self.full.as_ref()) {
            return Some(why.clone());
        }
        let is_fetch = fetches(offered);
        let running = self.running.values().filter(|running| running.fetches == is_fetch).count();
        if is_fetch {
            let is_full = running >= usize::try_from(FETCHES_AT_ONCE).unwrap_or(usize::MAX);
            return is_full.then(|| format!("it fetches {running} sources, and no more at once"));
        }
        if running >= slots {
            return Some(format!("all {slots} slots are taken"));
        }
        let is_offered = |offer: &Offer| {
            offer.platform.to_string() == offered.platform && offer.support.as_str() == offered.support
        };
        // Without programs of the platform it doesn't matter.
        let runs_target = offered.runs.parse::<Runs>().unwrap_or_default() == Runs::Target;
        if runs_target && !self.identity.offers.iter().any(is_offered) {
            return Some(format!("{} is not offered here as {}", offered.platform, offered.support));
        }
        // The coordinator offers none of these; it isn't believed in this.
        match asked(offered) {
            Ok(asked) if asked.is_subset(&self.identity.grants) => None,
            Ok(asked) => {
                let missing = &asked - &self.identity.grants;
                Some(format!("this worker may not grant {} (farm-worker --allow)", words(&missing)))
            }
            Err(error) => Some(error.to_string()),
        }
    }

    fn remember(&mut self, attempt: AttemptId) {
        if self.ended.len() >= REMEMBERED {
            self.ended.pop_front();
        }
        self.ended.push_back(attempt);
    }
}

/// Whether a source is to be fetched.
fn fetches(offered: &v1::Offered) -> bool {
    offered.spec.as_ref().is_some_and(|spec| spec.fetch.is_some())
}

/// The entitlements that an offer asks for.
fn asked(offered: &v1::Offered) -> Result<Entitlements, Invalid> {
    let Some(spec) = &offered.spec else { return Ok(Entitlements::new()) };
    let named = spec.entitlements.iter().map(|one| one.parse());
    let of_network = (spec.network == Network::Host.as_str()).then_some(Ok(Entitlement::NetworkHost));
    named.chain(of_network).collect()
}

#[cfg(test)]
#[path = "attempts_tests.rs"]
mod tests;
