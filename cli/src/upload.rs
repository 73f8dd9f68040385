//! Bringing a source to the farm by the command's own calls.

use std::sync::Arc;
use std::time::Duration;

use farm_proto::v1;
use farm_proto::v1::{
    FindMissingRequest, FindMissingResponse, FinishUploadRequest, FinishUploadResponse, OpenUploadRequest,
    OpenUploadResponse, UploadObjectsRequest, UploadObjectsResponse,
};
use farm_source::Source;
use farm_source::upload::{self, Farm, UploadError};
use farm_types::BuildSpec;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

pub use farm_source::upload::{Sending, Uploaded};

use crate::connect::Client;
use crate::error::{Error, Result};

/// What asks for this build, of which `uploaded` is the source, with the secrets that it may mount.
pub fn request(
    uploaded: &Uploaded,
    idempotency_key: &str,
    spec: &BuildSpec,
    values: Vec<v1::MountValue>,
) -> v1::SubmitBuildRequest {
    let mut spec = v1::BuildSpec::from(spec);
    if let Some(snapshot) = &mut spec.snapshot {
        snapshot.upload_id.clone_from(&uploaded.upload_id);
    }
    v1::SubmitBuildRequest { idempotency_key: idempotency_key.to_owned(), spec: Some(spec), values }
}

/// Uploads what the farm lacks of `source`. `pause` waits before a further try after a broken connection; `sending` is
/// told how far it is.
///
/// # Errors
/// A file has changed since it was hashed ([`Error::Changed`]), the farm refuses, or the connection broke
/// too often.
pub(crate) async fn upload<Pause: Future<Output = ()>>(
    client: &Client,
    source: &Arc<Source>,
    pause: impl Fn(Duration) -> Pause,
    sending: &Arc<Sending>,
) -> Result<Uploaded> {
    let uploaded = upload::upload(client, source, pause, sending).await;
    uploaded.map_err(|error| match error {
        UploadError::Source(error) => error.into(),
        UploadError::Refused(text) => Error::Usage(text),
        UploadError::Failed(text) => Error::Farm(text),
        UploadError::Status(status) => client.error(&status),
    })
}

impl Farm for Client {
    async fn open_upload(&self, request: OpenUploadRequest) -> Result<OpenUploadResponse, Status> {
        self.snapshots().open_upload(request).await.map(Response::into_inner)
    }

    async fn find_missing(&self, request: FindMissingRequest) -> Result<FindMissingResponse, Status> {
        self.snapshots().find_missing(request).await.map(Response::into_inner)
    }

    async fn upload_objects(
        &self,
        messages: ReceiverStream<UploadObjectsRequest>,
    ) -> Result<UploadObjectsResponse, Status> {
        self.snapshots().upload_objects(messages).await.map(Response::into_inner)
    }

    async fn finish_upload(&self, request: FinishUploadRequest) -> Result<FinishUploadResponse, Status> {
        self.snapshots().finish_upload(request).await.map(Response::into_inner)
    }
}

#[cfg(test)]
mod tests;
