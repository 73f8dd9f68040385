//! What the other coordinators call.

use std::sync::Arc;

use farm_proto::v1;
use farm_proto::v1::peer_service_server::PeerService;
use tonic::{Request, Response, Status};

use crate::hints::Look;
use crate::shared::Shared;

/// Serves [`PeerService`].
#[derive(Debug)]
pub struct Peer {
    shared: Arc<Shared>,
}

impl Peer {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl PeerService for Peer {
    async fn hint(&self, request: Request<v1::HintRequest>) -> Result<Response<v1::HintResponse>, Status> {
        let v1::HintRequest { schedule, publish, dispatch, follow } = request.into_inner();
        self.shared.hints.hear(Look { schedule, publish, dispatch, follow });
        Ok(Response::new(v1::HintResponse {}))
    }
}
