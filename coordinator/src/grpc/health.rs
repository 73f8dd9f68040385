//! What `grpc.health.v1.Health` says: that this coordinator serves, as long as the database answers and it isn't ending; and of
//! the services that carry bytes, that the blob store answers, too.

use farm_proto::v1::build_service_server::SERVICE_NAME as BUILDS;
use farm_proto::v1::farm_service_server::SERVICE_NAME as FARM;
use farm_proto::v1::image_service_server::SERVICE_NAME as IMAGES;
use farm_proto::v1::output_service_server::SERVICE_NAME as OUTPUTS;
use farm_proto::v1::snapshot_service_server::SERVICE_NAME as SNAPSHOTS;
use farm_proto::v1::worker_service_server::SERVICE_NAME as WORK;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus::{NotServing, Serving};
use tonic_health::server::HealthReporter;

/// The empty name is the coordinator as a whole. What needs the blob store for each call is marked.
const SERVICES: [(&str, bool); 7] = [
    ("", false),
    (BUILDS, false),
    (FARM, false),
    (IMAGES, false),
    (OUTPUTS, true),
    (SNAPSHOTS, true),
    (WORK, false),
];

/// Tells each change, the last one at the beginning of the end.
pub(super) async fn tell(
    health: HealthReporter,
    mut is_answered: watch::Receiver<bool>,
    mut blobs: watch::Receiver<bool>,
    shutdown: CancellationToken,
) {
    loop {
        let is_ending = shutdown.is_cancelled();
        let serves = *is_answered.borrow_and_update() && !is_ending;
        let has_blobs = *blobs.borrow_and_update();
        for (service, needs_blobs) in SERVICES {
            let status = if serves && (has_blobs || !needs_blobs) { Serving } else { NotServing };
            health.set_service_status(service, status).await;
        }
        if is_ending {
            return;
        }
        tokio::select! {
            changed = is_answered.changed() => if changed.is_err() { return },
            changed = blobs.changed() => if changed.is_err() { return },
            () = shutdown.cancelled() => {}
        }
    }
}
