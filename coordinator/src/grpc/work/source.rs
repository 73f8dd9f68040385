//! What a fetch brings, by the lease of its attempt: into its own project, and while the lease lives.

use farm_proto::v1;
use farm_store::work::attempts::Lease;
use farm_types::{JoinId, ProjectId};
use tonic::{Status, Streaming};

use super::{lease, not_staged};
use crate::grpc::status;
use crate::grpc::uploads::Uploads;
use crate::shared::Shared;

/// A fetch whose attempt holds its lease.
pub struct Fetch {
    project: ProjectId,
    by: String,
}

impl Fetch {
    /// The one that this lease is of.
    ///
    /// # Errors
    /// The lease has ended, or is of something else.
    pub async fn of(shared: &Shared, lease: Lease) -> Result<Self, Status> {
        let leased = shared.store.leased_snapshot(lease).await.map_err(status::store)?;
        not_staged(&leased)?;
        match leased.spec.purpose.fetch() {
            Some(fetch) => Ok(Self { project: leased.project, by: fetch.source.repository.to_string() }),
            None => Err(Status::failed_precondition("the attempt fetches no source, so it brings none")),
        }
    }

    pub fn uploads<'a>(&'a self, shared: &'a Shared) -> Uploads<'a> {
        Uploads { shared, project: self.project, by: &self.by, needs_dockerfile: false }
    }
}

/// Keeps the objects of a stream, as long as the lease lives.
pub async fn objects(
    shared: &Shared,
    holder: Option<JoinId>,
    mut messages: Streaming<v1::SendSourceRequest>,
) -> Result<v1::UploadObjectsResponse, Status> {
    let Some(first) = messages.message().await? else { return Ok(v1::UploadObjectsResponse::default()) };
    let of = lease(first.lease, holder)?;
    let fetch = Fetch::of(shared, of).await?;
    let objects = async_stream::try_stream! {
        yield first.objects.unwrap_or_default();
        while let Some(message) = messages.message().await? {
            let again = lease(message.lease, holder)?;
            if again != of {
                Err(Status::invalid_argument("a stream is of one lease"))?;
            }
            Fetch::of(shared, again).await?;
            yield message.objects.unwrap_or_default();
        }
    };
    fetch.uploads(shared).objects(Box::pin(objects)).await
}
