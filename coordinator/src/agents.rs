//! Agents of ssh that are offered for builds, and how what steps ask reaches them.
//!
//! Whoever waits for a build and has an agent offers it by a call that lasts (`OfferAgents`), at whichever coordinator answers. A
//! worker asks for its attempt, at whichever it is connected to (`AskAgent`). If the offer isn't here, the other coordinators are
//! asked (`RelayAgent`), which is why nothing of this is in the database: an offer is a connection, and ends with it.
//!
//! Invariants: each question bears all that its answer depends on (what its connection was bound to before), so that it may be asked
//! again when an offer breaks, of the next one. Who asks was let in by its lease, which is asked once more before the answer goes out;
//! who offers by the build that it has made. What is asked and answered is held in memory, while it is passed on, and never logged.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use farm_proto::v1;
use farm_types::{BuildId, MountId};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Status, Streaming};

use crate::hints::BACKSTOP;
use crate::others::Others;

/// How long an agent may take. Some ask whoever sits there.
const ANSWERED: Duration = Duration::from_secs(300);
/// How long another coordinator may take to say whether the offer is there.
const TAKEN: Duration = Duration::from_secs(3);
/// How many questions may wait for an offer that is slow.
const WAITING: usize = 16;
/// The most messages of a question: what a connection is bound to at most, and one. OpenSSH's own limit.
const MOST_MESSAGES: usize = 17;
/// The longest message, bytes. OpenSSH's own limit.
const MOST_MESSAGE_BYTES: usize = 256 * 1024;
/// The most bytes of a question.
const MOST_BYTES: usize = 2 * MOST_MESSAGE_BYTES;

/// What an agent is asked.
#[derive(Clone)]
pub struct Question {
    /// Whose build it is for.
    pub build: BuildId,
    /// Which of its agents.
    pub id: MountId,
    /// On one connection, one after the other. The last one's answer counts.
    pub messages: Vec<Bytes>,
}

impl Question {
    /// One whose length is bounded.
    ///
    /// # Errors
    /// It is too long, or there is nothing in it.
    pub fn new(build: BuildId, id: MountId, messages: Vec<Bytes>) -> Result<Self, Status> {
        let bytes: usize = messages.iter().map(Bytes::len).sum();
        if !(1..=MOST_MESSAGES).contains(&messages.len()) || bytes > MOST_BYTES {
            let text =
                format!("an agent is asked by 1 to {MOST_MESSAGES} messages of {MOST_BYTES} bytes together");
            return Err(Status::invalid_argument(text));
        }
        Ok(Self { build, id, messages })
    }
}

/// A question on its way to whoever has the agent.
pub struct Asked {
    pub question: Question,
    /// Where the answer goes. Closed: nobody waits for it any more.
    pub answer: oneshot::Sender<Bytes>,
}

/// What is offered at this coordinator.
#[derive(Debug, Default)]
pub struct Agents {
    offers: Mutex<Offers>,
    /// Changes with each new offer.
    came: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Offers {
    of: HashMap<BuildId, (u64, mpsc::Sender<Asked>)>,
}

/// An offer, while it stands.
pub struct Offer<'a> {
    agents: &'a Agents,
    build: BuildId,
    number: u64,
    asked: mpsc::Receiver<Asked>,
}

impl Agents {
    fn offers(&self) -> MutexGuard<'_, Offers> {
        self.offers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers the agents of a build; the newest offer counts.
    pub fn offer(&self, build: BuildId) -> Offer<'_> {
        let (sender, asked) = mpsc::channel(WAITING);
        let mut offers = self.offers();
        let mut number = 0;
        self.came.send_modify(|came| {
            *came += 1;
            number = *came;
        });
        offers.of.insert(build, (number, sender));
        Offer { agents: self, build, number, asked }
    }

    /// Takes a question if there is an offer here. `None`: there is none.
    async fn take(&self, question: &Question) -> Option<oneshot::Receiver<Bytes>> {
        let offer = self.offers().of.get(&question.build).map(|(_, offer)| offer.clone())?;
        let (answer, answered) = oneshot::channel();
        offer.send(Asked { question: question.clone(), answer }).await.ok()?;
        Some(answered)
    }

    /// The same, as soon as there is an offer here.
    async fn take_later(&self, question: &Question) -> oneshot::Receiver<Bytes> {
        let mut came = self.came.subscribe();
        loop {
            came.borrow_and_update();
            if let Some(answered) = self.take(question).await {
                return answered;
            }
            // One that ends while it is asked is followed by another, or by none.
            if came.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Takes a question of another coordinator's, if there is an offer here.
    ///
    /// # Errors
    /// There is none: `NOT_FOUND`.
    pub async fn take_of_other(&self, question: &Question) -> Result<oneshot::Receiver<Bytes>, Status> {
        let taken = timeout(TAKEN, self.take(question)).await.ok().flatten();
        taken.ok_or_else(|| Status::not_found("no agent of this build is offered here"))
    }
}

impl Offer<'_> {
    /// The next question; `None`: a newer offer has taken this one's place. Cancel safe.
    pub async fn next(&mut self) -> Option<Asked> {
        self.asked.recv().await
    }
}

impl Drop for Offer<'_> {
    fn drop(&mut self) {
        if let Entry::Occupied(offer) = self.agents.offers().of.entry(self.build)
            && offer.get().0 == self.number
        {
            offer.remove();
        }
    }
}

/// A question that somebody has taken.
enum Taken {
    Here(oneshot::Receiver<Bytes>),
    There(Box<Streaming<v1::RelayAgentResponse>>),
}

impl Taken {
    /// `None`: who had taken it is gone.
    async fn answer(self) -> Option<Bytes> {
        match self {
            Self::Here(answered) => answered.await.ok(),
            Self::There(mut stream) => stream.message().await.ok().flatten().map(|answer| answer.answer),
        }
    }
}

/// Has a question answered, wherever the agent is offered. Cancel safe.
///
/// # Errors
/// `NOT_FOUND`: nobody offers it for as long as `away`. `DEADLINE_EXCEEDED`: it was asked, and took too long.
pub(crate) async fn ask(
    agents: &Agents,
    others: &Others,
    question: &Question,
    away: Duration,
) -> Result<Bytes, Status> {
    let asking = async {
        loop {
            let taken = tokio::select! {
                biased;
                here = agents.take_later(question) => Taken::Here(here),
                there = take_elsewhere(others, question) => Taken::There(Box::new(there)),
                () = sleep(away) => return Err(Status::not_found("nobody offers the build's agent")),
            };
            if let Some(answer) = taken.answer().await {
                return Ok(answer);
            }
        }
    };
    let late = |_| Status::deadline_exceeded("the agent takes too long");
    timeout_at(Instant::now() + ANSWERED, asking).await.map_err(late)?
}

/// Has a question taken at another coordinator, as soon as there is an offer.
async fn take_elsewhere(others: &Others, question: &Question) -> Streaming<v1::RelayAgentResponse> {
    let request = v1::RelayAgentRequest {
        build: question.build.to_string(),
        id: question.id.to_string(),
        messages: question.messages.clone(),
    };
    loop {
        let mut asked: FuturesUnordered<_> = others
            .clients()
            .into_iter()
            .map(|mut client| {
                let request = request.clone();
                let asking = async move {
                    let mut answers = client.relay_agent(request).await?.into_inner();
                    // The first says that it is taken.
                    answers.message().await.map(|first| first.map(|_| answers))
                };
                timeout(TAKEN, asking)
            })
            .collect();
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(Ok(Some(answers))) => return answers,
                Ok(Err(status)) if status.code() == tonic::Code::PermissionDenied => {
                    tracing::warn!(
                        why = status.message(),
                        "another coordinator passes nothing on to ssh agents"
                    );
                }
                _ => {}
            }
        }
        sleep(BACKSTOP).await;
    }
}

#[cfg(test)]
#[path = "agents_tests.rs"]
mod tests;
