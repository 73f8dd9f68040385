//! What users ask about the farm.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::TimeDelta;
use farm_proto::v1;
use farm_proto::v1::farm_service_server::FarmService;
use farm_types::{Offer, Support};
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

#[tonic::async_trait]
impl FarmService for Farm {
    async fn get_farm(
        &self,
        request: Request<v1::GetFarmRequest>,
    ) -> Result<Response<v1::GetFarmResponse>, Status> {
        let principal = self.context.tokens.require(&request, Action::ReadFarm)?;
        let workers = self.context.store.workers().await.map_err(status::store)?;
        let native: BTreeSet<String> = workers
            .iter()
            .filter(|worker| worker.connected && !worker.draining && worker.withdrawn_at.is_none())
            .flat_map(|worker| worker.offers.iter().filter(|offer| is_main(offer, &worker.offers)))
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
                    // It leaves, or its engine is away: it takes nothing new.
                    (true, false) if worker.draining => "draining",
                    (true, false) if worker.withdrawn_at.is_some() => "withdrawn",
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
