//! What users ask about the farm, and what administrators say of its workers.

use std::sync::Arc;
use std::time::Duration;

use farm_proto::v1;
use farm_proto::v1::farm_service_server::FarmService;
use tonic::{Request, Response, Status};

use super::native::native;
use super::{caches, workers};
use crate::grpc::status;
use crate::people;
use crate::shared::Shared;

/// Serves [`FarmService`].
#[derive(Debug)]
pub struct Machines {
    shared: Arc<Shared>,
}

impl Machines {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[farm_calls::service]
impl FarmService for Machines {
    async fn get_farm(
        &self,
        request: Request<v1::GetFarmRequest>,
    ) -> Result<Response<v1::GetFarmResponse>, Status> {
        let caller = people::caller(&request)?;
        let workers = self.shared.store.workers().await.map_err(status::store)?;
        Ok(Response::new(v1::GetFarmResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            principal: caller.principal.name.clone(),
            native_platforms: native(&workers).into_iter().collect(),
        }))
    }

    async fn list_workers(
        &self,
        request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let caller = people::caller(&request)?;
        let workers = workers::list(&self.shared, &caller.principal).await?;
        Ok(Response::new(v1::ListWorkersResponse { workers }))
    }

    async fn drain_workers(
        &self,
        request: Request<v1::DrainWorkersRequest>,
    ) -> Result<Response<v1::DrainWorkersResponse>, Status> {
        let caller = people::caller(&request)?;
        let request = request.into_inner();
        let within = (request.within_ms > 0).then(|| Duration::from_millis(request.within_ms));
        let names = workers::checked(request.names)?;
        let done =
            self.shared.store.drain_workers(&caller.by(), &names, within).await.map_err(status::store)?;
        workers::refused(&self.shared, done).await?;
        tracing::info!(?names, by = caller.principal.name, "workers are drained");
        let workers = workers::changed(&self.shared, &caller.principal, &names).await?;
        Ok(Response::new(v1::DrainWorkersResponse { workers }))
    }

    async fn resume_workers(
        &self,
        request: Request<v1::ResumeWorkersRequest>,
    ) -> Result<Response<v1::ResumeWorkersResponse>, Status> {
        let caller = people::caller(&request)?;
        let names = workers::checked(request.into_inner().names)?;
        let done = self.shared.store.resume_workers(&caller.by(), &names).await.map_err(status::store)?;
        workers::refused(&self.shared, done).await?;
        tracing::info!(?names, by = caller.principal.name, "workers are resumed");
        let workers = workers::changed(&self.shared, &caller.principal, &names).await?;
        Ok(Response::new(v1::ResumeWorkersResponse { workers }))
    }

    async fn remove_workers(
        &self,
        request: Request<v1::RemoveWorkersRequest>,
    ) -> Result<Response<v1::RemoveWorkersResponse>, Status> {
        let caller = people::caller(&request)?;
        let names = workers::checked(request.into_inner().names)?;
        let done = self.shared.store.remove_workers(&caller.by(), &names).await.map_err(status::store)?;
        workers::refused(&self.shared, done).await?;
        tracing::info!(?names, by = caller.principal.name, "workers are removed");
        self.shared.hints.changed();
        Ok(Response::new(v1::RemoveWorkersResponse {}))
    }

    async fn measure_caches(
        &self,
        _: Request<v1::MeasureCachesRequest>,
    ) -> Result<Response<v1::MeasureCachesResponse>, Status> {
        let caches = caches::measure(&self.shared).await?;
        Ok(Response::new(v1::MeasureCachesResponse { caches }))
    }

    async fn prune_caches(
        &self,
        request: Request<v1::PruneCachesRequest>,
    ) -> Result<Response<v1::PruneCachesResponse>, Status> {
        let caller = people::caller(&request)?;
        let caches = caches::prune(&self.shared, &caller, request.into_inner()).await?;
        Ok(Response::new(v1::PruneCachesResponse { caches }))
    }
}
