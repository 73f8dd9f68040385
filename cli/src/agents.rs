//! The ssh agents that run here, for the steps of a build that is followed: each question comes over a call that lasts, and is put
//! to the agent by its socket.
//!
//! Invariant: of what the farm sends only what [`Request::of`] knows reaches an agent (which keys there are, sign, and what binds a
//! connection to a host), whatever workers and coordinators have let pass: nobody's agent is changed by a build. No key ever leaves
//! it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farm_client::come_back;
use farm_proto::v1::{OfferAgentsRequest, OfferAgentsResponse};
use farm_ssh::{FAILURE, MOST_MESSAGE_BYTES, Request, framed};
use farm_types::{Backoff, MountId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::again::WAITS;
use crate::connect::Client;
use crate::error::is_connection;
use crate::output::Out;
use crate::output::text::harmless;

/// How many questions are put to agents at once.
const AT_ONCE: usize = 8;
/// How long an agent may take: some ask whoever sits there. The farm waits no longer.
const ANSWERED: Duration = Duration::from_secs(300);
/// A call that has stood for so long has shown that the farm is there.
const STEADY: Duration = Duration::from_secs(3);

/// Agents on offer. Dropping it ends that.
#[derive(Debug)]
pub struct Offering(#[allow(dead_code, reason = "held to be dropped")] Option<JoinSet<()>>);

impl Offering {
    /// Offers these agents for a build, until it is dropped; without one nothing is done.
    pub fn start(client: &Client, build: &str, agents: &BTreeMap<MountId, PathBuf>) -> Self {
        if agents.is_empty() {
            return Self(None);
        }
        let sockets = agents.iter().map(|(id, socket)| (id.to_string(), socket.clone())).collect();
        let mut task = JoinSet::new();
        task.spawn(offer(client.clone(), build.to_owned(), Arc::new(sockets)));
        Self(Some(task))
    }
}

type Sockets = BTreeMap<String, PathBuf>;

/// Offers, and again when the call breaks, until the farm refuses.
async fn offer(client: Client, build: String, sockets: Arc<Sockets>) {
    let mut backoff = Backoff::new(WAITS);
    loop {
        let begun = Instant::now();
        let ended = offer_once(&client, &build, &sockets).await;
        if begun.elapsed() >= STEADY {
            backoff.reset();
        }
        let wait = match ended {
            Ok(()) => Duration::ZERO,
            Err(status) if is_connection(&status) => Duration::ZERO,
            Err(status) => match come_back(&status) {
                Some(wait) => wait,
                None => {
                    let why = harmless(status.message());
                    Out::stderr().line(&format!("warning  the ssh agent isn't offered any more: {why}"));
                    return;
                }
            },
        };
        sleep(backoff.next_wait().max(wait)).await;
    }
}

async fn offer_once(client: &Client, build: &str, sockets: &Arc<Sockets>) -> Result<(), Status> {
    let (answers, outgoing) = mpsc::channel(AT_ONCE);
    let first = OfferAgentsRequest { build_id: build.to_owned(), ..Default::default() };
    answers.send(first).await.map_err(|_| Status::unavailable("the call ended"))?;
    let mut questions = client.builds().offer_agents(ReceiverStream::new(outgoing)).await?.into_inner();
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut asked = JoinSet::new();
    while let Some(question) = questions.message().await? {
        while asked.try_join_next().is_some() {}
        let OfferAgentsResponse { number, id, messages } = question;
        // The first one says that the offer stands.
        if messages.is_empty() {
            continue;
        }
        let (answers, room, sockets) = (answers.clone(), Arc::clone(&room), Arc::clone(sockets));
        asked.spawn(async move {
            let Ok(_place) = room.acquire().await else { return };
            let answer = match sockets.get(&id) {
                Some(socket) => timeout(ANSWERED, ask(socket, &messages)).await.ok().and_then(Result::ok),
                None => None,
            };
            let answer = answer.unwrap_or_else(|| FAILURE.to_vec()).into();
            // An error: the call is over, and the question comes again.
            let _ = answers.send(OfferAgentsRequest { number, answer, ..Default::default() }).await;
        });
    }
    Ok(())
}

/// Puts messages to an agent, on one connection; answers what it said to the last.
async fn ask(socket: &Path, messages: &[Bytes]) -> std::io::Result<Vec<u8>> {
    if messages.iter().any(|message| Request::of(message).is_none()) {
        return Ok(FAILURE.to_vec());
    }
    let mut agent = UnixStream::connect(socket).await?;
    let mut answer = FAILURE.to_vec();
    for message in messages {
        agent.write_all(&framed(message)).await?;
        let length = usize::try_from(agent.read_u32().await?).unwrap_or(usize::MAX);
        if length > MOST_MESSAGE_BYTES {
            return Ok(FAILURE.to_vec());
        }
        answer = vec![0; length];
        agent.read_exact(&mut answer).await?;
    }
    Ok(answer)
}

#[cfg(test)]
#[path = "agents_tests.rs"]
mod tests;
