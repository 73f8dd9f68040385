//! A worker that builds nothing: each job that it is offered has started and ended at once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use farm_proto::v1;
use farm_proto::v1::control_request::Message as Say;
use farm_proto::v1::control_response::Message as Hear;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::MissedTickBehavior;

use crate::client::{Client, Sim, success};

pub enum Event {
    /// So long after it was done with the job before.
    Offered(Duration),
    /// An end was accepted.
    Done,
}

pub struct Worker {
    sim: Sim,
}

pub async fn connect(client: &Client, hello: v1::Hello) -> Worker {
    Worker { sim: Sim::connect(client, hello).await.unwrap() }
}

impl Worker {
    /// Until its stream ends, or nobody hears of it any more.
    pub async fn work(mut self, events: UnboundedSender<Event>) {
        let mut beat = tokio::time::interval(self.sim.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut taken = BTreeSet::new();
        let mut unanswered: Vec<v1::Lease> = Vec::new();
        let mut free_since = None;
        loop {
            let message = tokio::select! {
                message = self.sim.hear.message() => message,
                _ = beat.tick() => {
                    let sign = Say::Heartbeat(v1::Heartbeat { running: unanswered.clone() });
                    if self.sim.say.send(crate::client::request(sign)).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            let Ok(Some(message)) = message else { return };
            let heard = match message.message {
                Some(Hear::Offered(offered)) => {
                    let lease = offered.lease.unwrap();
                    let waited = free_since.map(|since: Instant| since.elapsed());
                    // An offer is said again until it is answered.
                    if !taken.insert(lease.attempt_id.clone()) {
                        continue;
                    }
                    self.sim.start(&lease).await;
                    let outcome = Some(success());
                    let finished =
                        v1::Finished { lease: Some(lease.clone()), outcome, self_check: None, pushed: None };
                    self.sim.tell(Say::Finished(finished)).await;
                    unanswered.push(lease);
                    free_since = Some(Instant::now());
                    let Some(waited) = waited else { continue };
                    Event::Offered(waited)
                }
                Some(Hear::FinishedReply(reply)) => {
                    assert!(reply.accepted, "the end of attempt {} was refused", reply.attempt_id);
                    unanswered.retain(|lease| lease.attempt_id != reply.attempt_id);
                    Event::Done
                }
                _ => continue,
            };
            if events.send(heard).is_err() {
                return;
            }
        }
    }
}
