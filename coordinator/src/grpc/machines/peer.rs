//! What the other coordinators call.

use std::sync::Arc;

use farm_proto::v1;
use farm_proto::v1::peer_service_server::PeerService;
use tonic::{Request, Response, Status};

use crate::context::Context;
use crate::hints::Look;
use crate::principal::Action;

/// The service.
#[derive(Debug)]
pub struct Peer {
    context: Arc<Context>,
}

impl Peer {
    /// The service over these parts.
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl PeerService for Peer {
    async fn hint(&self, request: Request<v1::HintRequest>) -> Result<Response<v1::HintResponse>, Status> {
        self.context.tokens.require(&request, Action::Hint)?;
        let v1::HintRequest { schedule, publish, dispatch, follow } = request.into_inner();
        self.context.hints.hear(Look { schedule, publish, dispatch, follow });
        Ok(Response::new(v1::HintResponse {}))
    }
}
