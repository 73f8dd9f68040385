//! What the other coordinators call.

use std::sync::Arc;

use farm_proto::v1;
use farm_proto::v1::peer_service_server::PeerService;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::agents::Question;
use crate::grpc::builds::mounts::covered;
use crate::grpc::spans::{Answers, answer_by};
use crate::grpc::status;
use crate::hints::Look;
use crate::people;
use crate::shared::Shared;

/// Serves [`PeerService`].
#[derive(Debug)]
pub struct Peer {
    shared: Arc<Shared>,
    shutdown: CancellationToken,
}

impl Peer {
    /// Its streams end with `shutdown`.
    pub fn new(shared: Arc<Shared>, shutdown: CancellationToken) -> Self {
        Self { shared, shutdown }
    }
}

#[farm_calls::service]
impl PeerService for Peer {
    type RelayAgentStream = Answers<v1::RelayAgentResponse>;

    async fn hint(&self, request: Request<v1::HintRequest>) -> Result<Response<v1::HintResponse>, Status> {
        let v1::HintRequest { schedule, publish, dispatch, follow } = request.into_inner();
        self.shared.hints.hear(Look { schedule, publish, dispatch, follow });
        Ok(Response::new(v1::HintResponse {}))
    }

    async fn relay_agent(
        &self,
        request: Request<v1::RelayAgentRequest>,
    ) -> Result<Response<Self::RelayAgentStream>, Status> {
        if !covered(&self.shared, people::caller(&request)?.is_encrypted) {
            return Err(Status::permission_denied(
                "it was called without TLS, on which others could read what an agent signs; its --advertise has to be https://",
            ));
        }
        let v1::RelayAgentRequest { build, id, messages } = request.into_inner();
        let build = build.parse().map_err(status::invalid)?;
        let question = Question::new(build, id.parse().map_err(status::invalid)?, messages)?;
        let answered = self.shared.agents.take_of_other(&question).await?;
        let shutdown = self.shutdown.clone();
        Ok(answer_by(async_stream::try_stream! {
            yield v1::RelayAgentResponse::default();
            let answer = tokio::select! {
                answer = answered => answer.map_err(|_| Status::unavailable("who offered the agent is gone")),
                () = shutdown.cancelled() => Err(Status::unavailable("this coordinator stops")),
            };
            yield v1::RelayAgentResponse { answer: answer? };
        }))
    }
}
