//! Gets another certificate before the one that is shown has ended, for as long as the worker lives.
//!
//! At two thirds of its life, or when a coordinator calls it ended, a new key is made and certified over a connection that shows
//! the old certificate. The new pair is kept in the folder, then shown: the bulk connections are exchanged, and the control
//! link dials anew. A renewal that fails is tried again with growing pauses, also after the certificate's end: the farm takes it
//! for a day. It never ends the worker; a coordinator that refuses the worker's stream does.
//!
//! Invariant: what is shown from now on is on the disk before it is shown, unless the disk refuses.

use std::path::PathBuf;
use std::time::Duration;

use farm_client::{Endpoints, Security};
use farm_proto::v1;
use farm_proto::v1::machine_service_client::MachineServiceClient;
use farm_types::chain::with_causes;
use farm_types::{Backoff, Waits};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use super::age::Age;
use super::files::{Pair, keep_pair};
use super::key::Key;
use crate::link::renewed::{Asked, Certified, Renewed};
use crate::link::{Coordinators, channels};

/// The waits between tries. Each is shortened by chance, so that a farm's workers don't come back all at once.
const WAITS: Waits = Waits::new(Duration::from_secs(1), Duration::from_secs(60));
/// How long a coordinator may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// How often the machine's clock is looked at: it goes on while the machine sleeps.
const LOOK: Duration = Duration::from_secs(60);
/// Failures in a row between two log lines about the same outage.
const QUIET: u32 = 10;

/// What keeps a worker's certificate young.
pub struct Renewal {
    folder: PathBuf,
    coordinators: Coordinators,
    /// Its identity is shared with all who make connections.
    security: Security,
    bulk: Endpoints,
    age: Age,
    asked: mpsc::Receiver<Asked>,
    shown: watch::Sender<u64>,
    /// This machine's clock, as Unix time.
    now_ms: fn() -> i64,
}

impl Renewal {
    /// Of the certificate that `security` shows, and the link's end of it.
    pub fn new(
        folder: PathBuf,
        (coordinators, security, bulk): (Coordinators, Security, Endpoints),
        pair: &Pair,
        now_ms: fn() -> i64,
    ) -> (Self, Certified) {
        let (ask, asked) = mpsc::channel(1);
        let shown = watch::Sender::new(0);
        let certified = Certified::new(ask, shown.subscribe());
        let age = Age::new(pair.times, Instant::now(), now_ms());
        (Self { folder, coordinators, security, bulk, age, asked, shown, now_ms }, certified)
    }

    /// Renews whenever it is due or asked for; never ends.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(WAITS);
        let mut failures = 0_u32;
        // Whether it was said that the certificate has ended.
        let mut told = false;
        let mut again_at = None;
        loop {
            let now = Instant::now();
            let due_in = match again_at {
                Some(at) => Instant::saturating_duration_since(&at, now),
                None => self.age.due_in(now, (self.now_ms)()),
            };
            let asked = tokio::select! {
                Some(asked) = self.asked.recv() => Some(asked),
                () = sleep(due_in.min(LOOK)) => None,
            };
            if asked.is_none() && !due_in.is_zero() {
                continue;
            }
            let renewed = self.renew().await;
            match &renewed {
                Renewed::Yes => {
                    (failures, told, again_at) = (0, false, None);
                    backoff.reset();
                    tracing::info!(renewed_in = ?self.age.times().renew, "the certificate was renewed");
                }
                Renewed::Refused(why) | Renewed::Away(why) => {
                    again_at = Some(Instant::now() + backoff.next_jittered(rand::random()));
                    let ended = self.age.has_ended(Instant::now(), (self.now_ms)());
                    if failures.is_multiple_of(QUIET) || ended != told {
                        tracing::warn!(why, ended, "the certificate could not be renewed; trying again");
                        told = ended;
                    }
                    failures = failures.saturating_add(1);
                }
            }
            if let Some(asked) = asked {
                // The link has ended, and the worker with it.
                let _ = asked.send(renewed);
            }
        }
    }

    /// Asks each coordinator at most once.
    async fn renew(&mut self) -> Renewed {
        let key = match Key::generate() {
            Ok(key) => key,
            Err(error) => return Renewed::Away(error.to_string()),
        };
        let mut why = String::new();
        for _ in 0..self.coordinators.count() {
            let place = self.bulk.current();
            match self.ask(&key).await {
                Ok(certificate) => return self.take(certificate, &key).await,
                Err(status) => match status.code() {
                    Code::Unauthenticated | Code::PermissionDenied | Code::FailedPrecondition => {
                        return Renewed::Refused(status.message().to_owned());
                    }
                    _ => why = with_causes(status.message(), std::error::Error::source(&status)),
                },
            }
            // One that answers, and can't do it, or says nothing at all is left by nobody else.
            if self.bulk.current() == place {
                self.bulk.prefer(place + 1);
            }
        }
        Renewed::Away(why)
    }

    async fn ask(&self, key: &Key) -> Result<Option<v1::Certificate>, Status> {
        let mut client = MachineServiceClient::new(self.bulk.clone());
        let request = v1::RenewCertificateRequest { public_key: key.public().into() };
        let answer = timeout(ANSWER_WITHIN, client.renew_certificate(request)).await;
        Ok(answer.map_err(|_| Status::unavailable("it doesn't answer"))??.into_inner().certificate)
    }

    /// Keeps it, and shows it from now on.
    async fn take(&mut self, certificate: Option<v1::Certificate>, key: &Key) -> Renewed {
        let now_ms = (self.now_ms)();
        let pair = match Pair::of(certificate, key, now_ms) {
            Ok(pair) => pair,
            Err(error) => return Renewed::Away(error.to_string()),
        };
        let (folder, kept) = (self.folder.clone(), pair.clone());
        let kept = tokio::task::spawn_blocking(move || keep_pair(&folder, &kept)).await;
        if let Err(error) = kept.unwrap_or_else(|e| Err(std::io::Error::other(e))) {
            // It counts while the worker runs; whoever starts it again has the old one, which may be renewed as well.
            tracing::warn!(%error, folder = %self.folder.display(), "the new certificate can't be kept in the state folder");
        }
        if let Err(error) = self.security.identity.exchange(&pair.pem) {
            return Renewed::Away(error.to_string());
        }
        match channels(&self.coordinators, &self.security) {
            Ok((first, others)) => self.bulk.exchange(first, others),
            Err(error) => return Renewed::Away(error.to_string()),
        }
        self.age = Age::new(pair.times, Instant::now(), now_ms);
        self.shown.send_modify(|count| *count += 1);
        Renewed::Yes
    }
}

#[cfg(test)]
#[path = "renewal_tests.rs"]
mod tests;
