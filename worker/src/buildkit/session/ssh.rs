//! Agents of ssh that steps mount (`RUN --mount=type=ssh`): BuildKit's `moby.sshforward.v1`.
//!
//! Each connection to the socket that a step sees is a stream of bytes here, with the id in its metadata (BuildKit,
//! `session/sshforward`). Its messages are answered one after the other. What a build may not ask of an agent is answered here, and
//! reaches none.
//!
//! Invariant: of what is asked nothing is kept but what the connection was bound to, so that the agent need not be the same process
//! each time; and nothing of it is logged.

use std::sync::{Arc, OnceLock};

use bollard_buildkit_proto::moby::sshforward::v1::{
    BytesMessage, CheckAgentRequest, CheckAgentResponse, ssh_server,
};
use farm_ssh::{FAILURE, Frames, MOST_BINDS, Request as Asked, framed};
use farm_types::mounts::DEFAULT_SSH;
use farm_types::{Failure, MountType};
use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::missed::Missed;
use crate::buildkit::types::{Agent, AgentAsked, Mounted};

/// What is served here.
pub(super) const METHODS: &[&str] =
    &["/moby.sshforward.v1.SSH/CheckAgent", "/moby.sshforward.v1.SSH/ForwardAgent"];
/// Names the agent, in a call's metadata.
const ID: &str = "buildkit.ssh.id";
/// How many connections a solve may have at once. A step that wants more waits for none, as it may hold the others itself.
const CONNECTIONS: usize = 64;

/// Gives the engine the agents that it asks for.
pub(in crate::buildkit) struct Ssh {
    mounted: Arc<Mounted>,
    missed: Missed,
    lost: Lost,
    connections: Arc<Semaphore>,
}

/// Whether an agent has failed, and how: the first one.
#[derive(Clone, Default)]
pub(in crate::buildkit) struct Lost(Arc<(OnceLock<Failure>, CancellationToken)>);

impl Lost {
    fn note(&self, failure: Failure) {
        let _ = self.0.0.set(failure);
        self.0.1.cancel();
    }

    /// Waits for it. Cancel safe.
    pub(in crate::buildkit) async fn failure(&self) -> Failure {
        loop {
            self.0.1.cancelled().await;
            match self.0.0.get() {
                Some(failure) => return failure.clone(),
                None => std::future::pending().await,
            }
        }
    }
}

impl Ssh {
    pub(in crate::buildkit) fn new(mounted: Arc<Mounted>, missed: Missed, lost: Lost) -> Self {
        Self { mounted, missed, lost, connections: Arc::new(Semaphore::new(CONNECTIONS)) }
    }

    fn agent(&self, id: &str) -> Result<&Arc<dyn Agent>, Status> {
        let id = if id.is_empty() { DEFAULT_SSH } else { id };
        let agent = id.parse().ok().and_then(|id| self.mounted.agents.get(&id));
        agent.ok_or_else(|| self.missed.note(MountType::Ssh, id))
    }
}

#[tonic::async_trait]
impl ssh_server::Ssh for Ssh {
    type ForwardAgentStream = BoxStream<'static, Result<BytesMessage, Status>>;

    async fn check_agent(
        &self,
        request: Request<CheckAgentRequest>,
    ) -> Result<Response<CheckAgentResponse>, Status> {
        self.agent(&request.into_inner().id)?;
        Ok(Response::new(CheckAgentResponse {}))
    }

    async fn forward_agent(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::ForwardAgentStream>, Status> {
        let id = request.metadata().get(ID).map(|id| id.to_str().unwrap_or("?")).unwrap_or_default();
        let agent = Arc::clone(self.agent(id)?);
        let permit = Arc::clone(&self.connections).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("a build has at most {CONNECTIONS} connections to ssh agents"))
        })?;
        let incoming = request.into_inner().map_ok(|message| message.data).boxed();
        let connection = Connection {
            incoming,
            frames: Frames::default(),
            binds: Vec::new(),
            agent,
            lost: self.lost.clone(),
            _permit: permit,
        };
        let answers = stream::try_unfold(connection, async |mut connection| {
            let answer = connection.next().await?;
            Ok(answer.map(|answer| (BytesMessage { data: framed(&answer) }, connection)))
        });
        Ok(Response::new(answers.boxed()))
    }
}

/// One connection of a step to an agent.
struct Connection {
    incoming: BoxStream<'static, Result<Vec<u8>, Status>>,
    frames: Frames,
    binds: Vec<Vec<u8>>,
    agent: Arc<dyn Agent>,
    lost: Lost,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    /// The next answer; `None`: the step has closed the connection.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Status> {
        loop {
            let message = self.frames.take().map_err(|error| Status::invalid_argument(error.to_string()))?;
            if let Some(message) = message {
                return self.answer(message).await.map(Some);
            }
            match self.incoming.next().await {
                Some(bytes) => self.frames.push(&bytes?),
                None => return Ok(None),
            }
        }
    }

    async fn answer(&mut self, message: Vec<u8>) -> Result<Vec<u8>, Status> {
        let is_bind = match Asked::of(&message) {
            None => return Ok(FAILURE.to_vec()),
            Some(Asked::Bind) if self.binds.len() >= MOST_BINDS => return Ok(FAILURE.to_vec()),
            Some(asked) => asked == Asked::Bind,
        };
        let asked = AgentAsked { binds: self.binds.clone(), message: message.clone() };
        let answer = self.agent.ask(asked).await.map_err(|failure| {
            let status = Status::unavailable(failure.message.clone());
            self.lost.note(failure);
            status
        })?;
        if is_bind && answer != FAILURE {
            self.binds.push(message);
        }
        Ok(answer)
    }
}

#[cfg(test)]
#[path = "ssh_tests.rs"]
mod tests;
