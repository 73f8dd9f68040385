//! What users ask about the farm.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::TimeDelta;
use farm_proto::v1;
use farm_proto::v1::farm_service_server::FarmService;
use farm_types::Support;
use tonic::{Request, Response, Status};

use super::{present, status};
use crate::context::Context;
use crate::principal::Action;

/// The service.
#[derive(Debug)]
pub struct Farm {
    context: Arc<Context>,
}

impl Farm {
    /// The service over these parts.
    pub fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl FarmService for Farm {
    async fn get_farm(&self, request: Request<v1::GetFarmRequest>) -> Result<Response<v1::GetFarmResponse>, Status> {
        let principal = self.context.tokens.require(&request, Action::ReadFarm)?;
        let native: BTreeSet<String> = self
            .context
            .store
            .workers()
            .await
            .map_err(status::store)?
            .into_iter()
            .filter(|worker| worker.connected && !worker.draining)
            .flat_map(|worker| worker.offers)
            .filter(|offer| offer.support == Support::Native)
            .map(|offer| offer.platform.to_string())
            .collect();
        Ok(Response::new(v1::GetFarmResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            principal: principal.name,
            native_platforms: native.into_iter().collect(),
        }))
    }

    async fn list_workers(
        &self,
        request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        self.context.tokens.require(&request, Action::ReadFarm)?;
        let store = &self.context.store;
        let now = store.now().await.map_err(status::store)?;
        let suspect = TimeDelta::from_std(self.context.config.limits.suspect()).unwrap_or(TimeDelta::MAX);
        let running = store.running_now().await.map_err(status::store)?;
        let workers = store
            .workers()
            .await
            .map_err(status::store)?
            .into_iter()
            .map(|worker| {
                let silent = worker.last_seen + suspect < now;
                let state = match (worker.connected, silent) {
                    (false, _) => "offline",
                    (true, true) => "suspect",
                    (true, false) if worker.draining => "draining",
                    (true, false) => "online",
                };
                v1::Worker {
                    name: worker.name,
                    state: state.to_owned(),
                    platforms: worker
                        .offers
                        .iter()
                        .map(|offer| v1::PlatformOffer {
                            platform: offer.platform.to_string(),
                            support: offer.support.to_string(),
                            told: offer.told,
                        })
                        .collect(),
                    slots: worker.slots,
                    slots_free: worker.slots.saturating_sub(worker.slots_used),
                    engine: worker.engine,
                    last_seen_ms: present::ms(worker.last_seen),
                    version: worker.software_version,
                    running: running
                        .iter()
                        .filter(|(id, ..)| *id == worker.id)
                        .map(|(_, build, platform)| format!("{build} {platform}"))
                        .collect(),
                }
            })
            .collect();
        Ok(Response::new(v1::ListWorkersResponse { workers }))
    }
}
