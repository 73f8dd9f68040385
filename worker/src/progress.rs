//! Whether an attempt gets on.
//!
//! Who hears nothing can't tell a command that takes its time from an engine that hangs. So what the engine tells is
//! listened to on its way: while a command runs, or layers are packed, it may be silent for as long as the engine still
//! builds something else; at anything else silence means that it hangs. For what may be silent the worker vouches, by an
//! event that says nothing, so that the coordinator can tell a worker that hangs as well.
//!
//! Of a push the engine tells only that it began and that it is over, however many bytes go out in between; and one that
//! waits for a registry's answer waits for ever. So it may be silent for [`PUSH_LIMITS`] times as long as anything else.
//!
//! Invariant: what waits for the coordinator to take events is never taken for a silent engine.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farm_proto::v1::attempt_event::Event;
use farm_proto::v1::{AttemptEvent, StepUpdate, Transfer};
use farm_types::{Cause, Failure, FailureCode};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Events between the engine and the one who listens.
const QUEUE: usize = 16;
/// How many limits a push may be silent for: a layer of many gigabytes takes its time on a slow line.
const PUSH_LIMITS: u32 = 4;

/// What was heard, shared between who listens and who judges.
#[derive(Debug, Clone)]
pub struct Pulse(Arc<Mutex<Heard>>);

#[derive(Debug)]
struct Heard {
    at: Instant,
    /// An event is on its way to the coordinator and can't go on.
    blocked: bool,
    /// Steps under way that may be silent, by their digest.
    silent: HashMap<String, Silence>,
}

/// What a step does that says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Silence {
    /// The engine works: as long as it does.
    Work,
    /// It waits for a registry.
    Push,
}

impl Pulse {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        // Each change under the lock is whole before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens to events on their way to `onward`. The second part has to run beside what sends them; it ends when all
/// senders are gone and all has gone on.
pub fn listen(
    onward: mpsc::Sender<AttemptEvent>,
) -> (mpsc::Sender<AttemptEvent>, Pulse, impl Future<Output = ()> + Send) {
    let (sender, mut events) = mpsc::channel::<AttemptEvent>(QUEUE);
    let heard = Heard { at: Instant::now(), blocked: false, silent: HashMap::new() };
    let pulse = Pulse(Arc::new(Mutex::new(heard)));
    let ours = pulse.clone();
    let passing = async move {
        while let Some(event) = events.recv().await {
            {
                let mut heard = ours.lock();
                match &event.event {
                    Some(Event::Step(step)) => heard.note(step),
                    Some(Event::Transfer(transfer)) => heard.note_part(transfer),
                    _ => {}
                }
                heard.blocked = true;
            }
            // An error: nobody listens.
            let _ = onward.send(event).await;
            let mut heard = ours.lock();
            heard.blocked = false;
            heard.at = Instant::now();
        }
    };
    (sender, pulse, passing)
}

impl Heard {
    fn note(&mut self, step: &StepUpdate) {
        let under_way = step.started_ms != 0 && step.finished_ms == 0;
        let command = step.instruction.get(..4).is_some_and(|word| word.eq_ignore_ascii_case("RUN "));
        // Packing layers tells of its begin and of its end only.
        if under_way && (command || step.name.starts_with("exporting ")) {
            self.silent.entry(step.digest.clone()).or_insert(Silence::Work);
        } else {
            self.silent.remove(&step.digest);
        }
    }

    /// A part of a step: what began last is what it does (`pushing layers`, `pushing manifest for …`).
    fn note_part(&mut self, part: &Transfer) {
        if let Some(silence) = self.silent.get_mut(&part.step_digest).filter(|_| !part.done) {
            *silence = if part.name.starts_with("pushing ") { Silence::Push } else { Silence::Work };
        }
    }

    /// Why nothing need be heard; of several reasons the one that lasts longest.
    fn may_be_silent(&self) -> Option<Silence> {
        if self.blocked || self.silent.values().any(|silence| *silence == Silence::Work) {
            return Some(Silence::Work);
        }
        self.silent.values().next().copied()
    }
}

/// Ready when nothing was heard for `limit` and the engine isn't merely busy with what may be silent; then with the
/// failure. `registries` are those that are pushed to, for people. `asks` finds out whether the engine builds at all; given
/// true it has to build something.
pub(crate) async fn stalled<A>(
    pulse: Pulse,
    limit: Duration,
    registries: &str,
    vouch: mpsc::Sender<AttemptEvent>,
    asks: impl Fn(bool) -> A,
) -> Failure
where
    A: Future<Output = Result<(), String>>,
{
    loop {
        let heard_at = pulse.lock().at;
        let (now, over) = (Instant::now(), heard_at + limit);
        sleep_until(if over > now { over.min(now + limit / 3) } else { now + limit / 3 }).await;
        let (quiet, may_be_silent) = {
            let heard = pulse.lock();
            (heard.at.elapsed(), heard.may_be_silent())
        };
        let is_over = quiet >= limit;
        if quiet < limit / 3 {
            continue;
        }
        match may_be_silent {
            Some(Silence::Work) => {}
            Some(Silence::Push) if quiet < limit.saturating_mul(PUSH_LIMITS) => {}
            Some(Silence::Push) => return unanswered(quiet, registries),
            None if is_over => return failure(limit, "no command runs that could be silent"),
            None => continue,
        }
        let answer = timeout(limit, asks(is_over)).await;
        match answer.unwrap_or_else(|_| Err("it did not build anything else meanwhile".to_owned())) {
            Ok(()) => vouched(&vouch),
            Err(why) if is_over => return failure(limit, &why),
            Err(why) => tracing::warn!(why, "a silent job's engine did not answer"),
        }
    }
}

/// Runs what is the worker's own to watch, and vouches for it.
pub(crate) async fn vouching<T>(
    limit: Duration,
    vouch: &mpsc::Sender<AttemptEvent>,
    work: impl Future<Output = T>,
) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = sleep(limit / 3) => vouched(vouch),
        }
    }
}

/// Says nothing, so that it was heard. A queue that is full will be heard anyway.
fn vouched(to: &mpsc::Sender<AttemptEvent>) {
    let _ = to.try_send(AttemptEvent { at_ms: chrono::Utc::now().timestamp_millis(), event: None });
}

fn failure(limit: Duration, why: &str) -> Failure {
    let text = format!("the engine told nothing of the build for {} s, and {why}", limit.as_secs());
    Failure::new(Cause::Infrastructure, FailureCode::NoProgress, text)
}

/// The registry's failure, not the engine's: it is tried again, and held against no worker.
fn unanswered(quiet: Duration, registries: &str) -> Failure {
    let text = format!(
        "nothing was heard for {} s of the push to {registries}: the registry took it and does not answer; look at the \
         registry, and at what is between it and the engine. A push that takes longer needs a higher \
         limits.progress_deadline_seconds of the coordinator (it may be silent for {PUSH_LIMITS} times that)",
        quiet.as_secs()
    );
    Failure::new(Cause::Infrastructure, FailureCode::RegistryUnavailable, text)
}

#[cfg(test)]
#[path = "progress_tests.rs"]
mod tests;
