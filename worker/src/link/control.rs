//! The control link: one stream after another, for as long as the worker lives, each to the coordinator that works.
//!
//! It runs on an operating system thread of its own with a runtime of its own ([`spawn`]), so that a busy
//! build can't starve a heartbeat. A coordinator that is away stops nothing: the link tries again, forever,
//! and what ended meanwhile is told then.
//!
//! Invariant: only a goodbye of ours, or a coordinator that will never take us, ends it.

use std::time::Duration;
use std::{io, thread};

use farm_client::TlsFailure;
use farm_types::Backoff;
use farm_types::chain::with_causes;
use rand::RngExt as _;
use tokio::sync::oneshot;

use super::renewed::{Certified, Renewed};
use super::session::{End, Session};
use super::{Control, ControlError, WAITS, client, endpoint};

/// Failures in a row between two log lines about the same outage.
const QUIET: u32 = 30;

/// How long a worker that leaves waits for a stream that is just being opened.
const HELLO_BEFORE_BYE: Duration = Duration::from_secs(1);

/// Runs the link on its own thread. The receiver gets its end; it is dropped if the thread panicked.
///
/// # Errors
/// The system gives no thread or no runtime.
pub fn spawn(control: Control) -> io::Result<oneshot::Receiver<Result<(), ControlError>>> {
    let (tell, end) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("farm-control".to_owned()).spawn(move || {
        let result = runtime.block_on(control.run());
        // An error: the process ends already, and nobody waits for the result.
        let _ = tell.send(result);
    })?;
    Ok(end)
}

impl Control {
    /// Keeps a stream up until the worker leaves. It begins with any of the coordinators, so that a farm's workers
    /// are spread over them, and goes on to the next when one fails.
    ///
    /// # Errors
    /// No coordinator will ever take us.
    pub async fn run(self) -> Result<(), ControlError> {
        let count = self.coordinators.count();
        let mut place = rand::rng().random_range(0..count);
        let mut backoff = Backoff::new(WAITS);
        let mut failures = 0_u32;
        // In a row: one that is being updated may refuse what another takes.
        let mut refusals = 0;
        let mut former = None;
        let mut dial = 0_u64;
        // Whether a certificate that is refused was renewed already.
        let mut renewed = false;
        loop {
            let url = self.coordinators.at(place);
            let before = self.certificates();
            dial += 1;
            let end = tokio::select! {
                end = self.stream(place, dial, former.take()) => end,
                () = self.left_while_away() => End::Left,
            };
            match end {
                End::Left => return Ok(()),
                // Another one is shown from now on.
                End::Refused(ControlError::Certificate { .. }) if self.certificates() != before => continue,
                End::Refused(ControlError::Certificate { why, .. }) if !renewed => {
                    // It may have ended while nobody could be asked for another.
                    tracing::warn!(coordinator = %url, why, "the certificate is refused; asking for another");
                    match self.renew().await {
                        None => return Ok(()),
                        Some(Renewed::Yes | Renewed::Refused(_)) => {
                            renewed = true;
                            continue;
                        }
                        Some(Renewed::Away(_)) => {}
                    }
                }
                End::Refused(error) => {
                    refusals += 1;
                    if refusals >= count {
                        return Err(error);
                    }
                    tracing::warn!(%error, "going on to the next coordinator");
                }
                End::Changed(session) => {
                    former = Some(session);
                    renewed = false;
                    continue;
                }
                End::Lost { why, welcomed } => {
                    refusals = 0;
                    if welcomed {
                        backoff.reset();
                        failures = 0;
                        renewed = false;
                    }
                    if failures.is_multiple_of(QUIET) {
                        let then = if count > 1 { "trying the next" } else { "trying again" };
                        tracing::warn!(coordinator = %url, why, "no link to the coordinator; {then}");
                    }
                    failures = failures.saturating_add(1);
                    // The next may be well: it is tried at once, unless all have failed in turn.
                    if usize::try_from(failures).is_ok_and(|failures| failures % count != 0) {
                        place += 1;
                        continue;
                    }
                }
            }
            place += 1;
            tokio::select! {
                () = tokio::time::sleep(backoff.next_jittered(rand::random())) => {}
                () = self.leave.cancelled() => return Ok(()),
            }
        }
    }

    /// Opens a stream, this process' number `dial`, to the coordinator at this place and attends to it; `former` is let go when the new one is
    /// welcomed, or fails.
    async fn stream<'a>(&'a self, place: usize, dial: u64, former: Option<Box<Session<'a>>>) -> End<'a> {
        let url = self.coordinators.at(place);
        // Before the connection is made: what is exchanged meanwhile isn't shown on it.
        let certificate = self.certified.as_ref().map(Certified::changes);
        let endpoint = match endpoint(url, &self.security) {
            Ok(endpoint) => endpoint,
            Err(error) => {
                let why = with_causes("", Some(&error));
                return End::Refused(ControlError::Local { url: url.clone(), why });
            }
        };
        let channel = match endpoint.connect().await {
            Ok(channel) => channel,
            Err(error) => {
                // What is wrong with its certificate says more than what it made of the connection.
                let why = TlsFailure::of(&error)
                    .map_or_else(|| with_causes("", Some(&error)), |failure| failure.to_string());
                return End::Lost { why, welcomed: false };
            }
        };
        match Session::open(self, (url, dial), client(channel, &self.credential), certificate).await {
            Ok(session) => {
                drop(former);
                self.bulk.prefer(place);
                self.welcomed.send_replace(true);
                let end = session.attend().await;
                self.welcomed.send_replace(false);
                end
            }
            Err(end) => end,
        }
    }

    /// How many certificates were shown so far.
    fn certificates(&self) -> u64 {
        self.certified.as_ref().map_or(0, |certified| *certified.changes().borrow())
    }

    /// Has the certificate renewed; `None`: the worker left meanwhile, or has none.
    async fn renew(&self) -> Option<Renewed> {
        let certified = self.certified.as_ref()?;
        tokio::select! {
            renewed = certified.renew() => Some(renewed),
            () = self.leave.cancelled() => None,
        }
    }

    /// Ready when the worker leaves and there is no stream to say goodbye on, nor soon will be; a live stream
    /// does it itself.
    async fn left_while_away(&self) {
        self.leave.cancelled().await;
        tokio::time::sleep(HELLO_BEFORE_BYE).await;
        if *self.welcomed.borrow() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
