//! Which builds can be retried, and which of their results are still there to be taken over.

use farm_store::builds::record::{BuildRecord, JobRecord};
use farm_types::Platform;
use farm_types::spec::Purpose;
use farm_types::state::{BuildState, JobState};
use tonic::Status;

use crate::registry::Registries;

/// Refuses what there is no sense in retrying.
///
/// # Errors
/// `FAILED_PRECONDITION` with the cure.
pub(super) fn check(record: &BuildRecord, failed_only: bool) -> Result<(), Status> {
    let (id, state) = (&record.short_id, record.state);
    let cure = match &record.spec.purpose {
        Purpose::Run(image) => format!("build {id} ran an image; run it again: `farm run {image}`"),
        Purpose::Call(call) => {
            format!("build {id} only asked for {}; ask again with `farm submit --call`", call.as_str())
        }
        Purpose::Image if !state.is_final() => format!(
            "build {id} is {state}, and only one that has ended can be retried; `farm attach {id}` watches it, \
             `farm cancel {id}` ends it"
        ),
        Purpose::Image if !record.spec.exports.is_empty() => format!(
            "build {id} gives its result to the command that asked for it (--output, --load); give that command again, \
             what the farm has built of it comes from the cache"
        ),
        Purpose::Image if failed_only && state == BuildState::Succeeded => format!(
            "build {id} succeeded, so no platform of it has failed; without --failed-only all are built again"
        ),
        Purpose::Image => return Ok(()),
    };
    Err(Status::failed_precondition(cure))
}

/// The platforms whose results are not where they were pushed any more. What a registry doesn't say now is left
/// to the publish pass, which looks at everything once more before any tag moves.
pub(super) async fn gone(registries: &Registries, record: &BuildRecord) -> Vec<Platform> {
    let mut gone = Vec::new();
    for job in record.jobs.iter().filter(|job| job.state == JobState::Succeeded) {
        if is_gone(registries, record, job).await {
            tracing::info!(build = %record.short_id, platform = %job.platform, "its result is gone; built again");
            gone.push(job.platform.clone());
        }
    }
    gone
}

async fn is_gone(registries: &Registries, record: &BuildRecord, job: &JobRecord) -> bool {
    let Some(digest) = job.result.as_ref().and_then(|result| result.digest) else { return false };
    for repository in record.spec.repositories() {
        if matches!(registries.head(&repository, &digest.to_string()).await, Ok(None)) {
            return true;
        }
    }
    false
}
