//! How clients get what builds have made for them.

use std::sync::Arc;
use std::time::Duration;

use farm_proto::v1;
use farm_proto::v1::output_service_server::OutputService;
use farm_store::StoreError;
use farm_store::builds::record::BuildRecord;
use farm_store::logs::seal::BlobKind;
use farm_types::{Platform, ShortId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::grpc::spans::{Answers, answer_by};
use crate::grpc::status;
use crate::people;
use crate::shared::Shared;

/// How often it is noted that a client fetches. Less than the shortest time for which outputs are kept, a minute.
const NOTE: Duration = Duration::from_secs(20);

/// Serves [`OutputService`].
#[derive(Debug)]
pub struct Outputs {
    shared: Arc<Shared>,
    shutdown: CancellationToken,
}

impl Outputs {
    /// Its streams end with `shutdown`.
    pub fn new(shared: Arc<Shared>, shutdown: CancellationToken) -> Self {
        Self { shared, shutdown }
    }

    async fn build<T>(&self, request: &Request<T>, id: &str) -> Result<BuildRecord, Status> {
        let member = people::member(request)?;
        let id: ShortId = id.parse().map_err(status::invalid)?;
        self.shared.store.build(member.project, &id).await.map_err(|error| match error {
            StoreError::NotFound(_) => Status::not_found(format!("there is no build {id}")),
            other => status::store(other),
        })
    }
}

#[farm_calls::service]
impl OutputService for Outputs {
    type FetchOutputStream = Answers<v1::FetchOutputResponse>;

    async fn fetch_output(
        &self,
        request: Request<v1::FetchOutputRequest>,
    ) -> Result<Response<Self::FetchOutputStream>, Status> {
        let build = self.build(&request, &request.get_ref().build_id).await?;
        let request = request.into_inner();
        let platform: Platform = request.platform.parse().map_err(status::invalid)?;
        let shared = Arc::clone(&self.shared);
        // Noted first: what is found below is then not removed in the next moment.
        shared.store.note_fetch(build.project, build.id).await.map_err(status::store)?;
        let mut noted = Instant::now();
        let pieces = shared
            .store
            .output_pieces(build.project, build.id, &platform, request.export, request.offset)
            .await
            .map_err(status::store)?
            .ok_or_else(|| {
                Status::not_found(format!(
                    "the output of build {} for {platform} is not there (any more); submit it again",
                    build.short_id
                ))
            })?;
        let shutdown = self.shutdown.clone();
        let stream = async_stream::try_stream! {
            for piece in pieces {
                if shutdown.is_cancelled() {
                    Err(Status::unavailable("this coordinator stops; go on at another"))?;
                }
                let from = request.offset.saturating_sub(piece.start);
                let read = shared.blobs.read_range(build.project, BlobKind::Output, piece.blob, from..piece.size);
                let mut bytes = read.await.map_err(status::blobs)?;
                while !bytes.is_empty() {
                    let data = bytes.split_to(bytes.len().min(farm_proto::PIECE_BYTES));
                    yield v1::FetchOutputResponse { data };
                    if noted.elapsed() >= NOTE {
                        noted = Instant::now();
                        // What is read needs no database, so one that is away for a moment doesn't end it.
                        if let Err(error) = shared.store.note_fetch(build.project, build.id).await {
                            tracing::warn!(%error, build = %build.short_id, "can't note that outputs are being fetched");
                        }
                    }
                }
            }
        };
        Ok(answer_by(stream))
    }

    async fn release_outputs(
        &self,
        request: Request<v1::ReleaseOutputsRequest>,
    ) -> Result<Response<v1::ReleaseOutputsResponse>, Status> {
        let build = self.build(&request, &request.get_ref().build_id).await?;
        self.shared.store.release_outputs(build.project, build.id).await.map_err(status::store)?;
        Ok(Response::new(v1::ReleaseOutputsResponse {}))
    }
}
