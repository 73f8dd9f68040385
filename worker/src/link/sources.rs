//! What a fetch brings, on its way to the coordinator by the lease of its attempt.

use farm_proto::v1::{
    FindMissingRequest, FindMissingResponse, FindMissingSourceRequest, FinishSourceRequest,
    FinishUploadRequest, FinishUploadResponse, OpenSourceRequest, OpenUploadRequest, OpenUploadResponse,
    SendSourceRequest, UploadObjectsRequest, UploadObjectsResponse,
};
use farm_source::upload::Farm;
use futures::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::Client;
use crate::attempts::Lease;

/// The coordinator, as a source is brought to it for one attempt.
pub struct Bringing {
    client: Client,
    lease: Lease,
}

impl Bringing {
    /// For the attempt of this lease.
    pub fn new(client: Client, lease: Lease) -> Self {
        Self { client, lease }
    }
}

impl Farm for Bringing {
    async fn open_upload(&self, request: OpenUploadRequest) -> Result<OpenUploadResponse, Status> {
        let request = OpenSourceRequest { lease: Some(self.lease.into()), open: Some(request) };
        self.client.clone().open_source(request).await.map(Response::into_inner)
    }

    async fn find_missing(&self, request: FindMissingRequest) -> Result<FindMissingResponse, Status> {
        let request = FindMissingSourceRequest { lease: Some(self.lease.into()), find: Some(request) };
        self.client.clone().find_missing_source(request).await.map(Response::into_inner)
    }

    async fn upload_objects(
        &self,
        messages: ReceiverStream<UploadObjectsRequest>,
    ) -> Result<UploadObjectsResponse, Status> {
        let lease = self.lease;
        let messages = messages
            .map(move |objects| SendSourceRequest { lease: Some(lease.into()), objects: Some(objects) });
        self.client.clone().send_source(messages).await.map(Response::into_inner)
    }

    async fn finish_upload(&self, request: FinishUploadRequest) -> Result<FinishUploadResponse, Status> {
        let request = FinishSourceRequest { lease: Some(self.lease.into()), finish: Some(request) };
        self.client.clone().finish_source(request).await.map(Response::into_inner)
    }
}
