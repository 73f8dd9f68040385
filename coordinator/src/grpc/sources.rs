//! How source trees come in from commands.

use std::sync::Arc;

use farm_proto::v1;
use farm_proto::v1::snapshot_service_server::SnapshotService;
use tonic::{Request, Response, Status, Streaming};

use super::uploads::Uploads;
use crate::people::{self, Member};
use crate::shared::Shared;

/// Serves [`SnapshotService`].
#[derive(Debug)]
pub struct Snapshots {
    shared: Arc<Shared>,
}

impl Snapshots {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn uploads<'a>(&'a self, member: &'a Member) -> Uploads<'a> {
        let (shared, project, by) = (&*self.shared, member.project, member.name.as_str());
        Uploads { shared, project, by, needs_dockerfile: true }
    }
}

#[farm_calls::service]
impl SnapshotService for Snapshots {
    async fn open_upload(
        &self,
        request: Request<v1::OpenUploadRequest>,
    ) -> Result<Response<v1::OpenUploadResponse>, Status> {
        let member = people::member(&request)?;
        self.uploads(&member).open(request.into_inner()).await.map(Response::new)
    }

    async fn find_missing(
        &self,
        request: Request<v1::FindMissingRequest>,
    ) -> Result<Response<v1::FindMissingResponse>, Status> {
        let member = people::member(&request)?;
        self.uploads(&member).find_missing(request.into_inner()).await.map(Response::new)
    }

    async fn upload_objects(
        &self,
        request: Request<Streaming<v1::UploadObjectsRequest>>,
    ) -> Result<Response<v1::UploadObjectsResponse>, Status> {
        let member = people::member(&request)?;
        self.uploads(&member).objects(request.into_inner()).await.map(Response::new)
    }

    async fn finish_upload(
        &self,
        request: Request<v1::FinishUploadRequest>,
    ) -> Result<Response<v1::FinishUploadResponse>, Status> {
        let member = people::member(&request)?;
        self.uploads(&member).finish(request.into_inner()).await.map(Response::new)
    }
}
