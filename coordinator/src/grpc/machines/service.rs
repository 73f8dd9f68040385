//! What users ask about the farm, and what administrators say of its workers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use farm_proto::v1;
use farm_proto::v1::farm_service_server::FarmService;
use farm_types::{Offer, Support};
use tonic::{Request, Response, Status};

use super::workers;
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

/// Whether an offer is what its machine is: native, and not the 32-bit mode or a feature level of a CPU that
/// offers its plain 64-bit platform too. Nobody who names no platform means those.
fn is_main(offer: &Offer, all: &[Offer]) -> bool {
    let native = |architecture: &str| {
        all.iter().any(|o| {
            o.support == Support::Native
                && o.platform.architecture() == architecture
                && o.platform.variant().is_empty()
        })
    };
    offer.support == Support::Native
        && match offer.platform.architecture() {
            "386" => !native("amd64"),
            "arm" => !native("arm64"),
            same => offer.platform.variant().is_empty() || !native(same),
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
        let native: BTreeSet<String> = workers
            .iter()
            // What the farm offers doesn't change when one is silent for a moment.
            .filter(|worker| worker.state.is_leasable())
            .flat_map(|worker| worker.offers.iter().filter(|offer| is_main(offer, &worker.offers)))
            .map(|offer| offer.platform.to_string())
            .collect();
        Ok(Response::new(v1::GetFarmResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            principal: caller.principal.name.clone(),
            native_platforms: native.into_iter().collect(),
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_32_bit_mode_of_a_64_bit_machine_is_not_what_nobody_asked_for() {
        let offer =
            |platform: &str, support| Offer { platform: platform.parse().unwrap(), support, told: false };
        let all = [
            offer("linux/amd64", Support::Native),
            offer("linux/386", Support::Native),
            offer("linux/amd64/v3", Support::Native),
            offer("linux/arm64", Support::Emulated),
        ];
        let main: Vec<String> =
            all.iter().filter(|o| is_main(o, &all)).map(|o| o.platform.to_string()).collect();
        assert_eq!(main, ["linux/amd64"]);
        let small = [offer("linux/arm/v7", Support::Native)];
        assert!(is_main(&small[0], &small));
    }
}
