//! What a caller is told when the store has no answer.

use farm_client::busy;
use farm_store::StoreError;
use tonic::Status;

/// The status of a store's error; it is logged here if the client can't be told.
pub fn store(error: StoreError) -> Status {
    match error {
        StoreError::Unavailable(error) => {
            tracing::warn!(%error, "the database does not answer");
            Status::unavailable("the farm's database does not answer; try again in a moment")
        }
        StoreError::NotFound(thing) => Status::not_found(format!("there is no such {thing}")),
        StoreError::NotLeading => Status::unavailable("another coordinator leads now; try again in a moment"),
        StoreError::Stale(why) => Status::failed_precondition(format!("superseded: {why}")),
        StoreError::Exhausted { what, wait: Some(wait) } => busy(&what, wait),
        StoreError::Exhausted { what, wait: None } => Status::resource_exhausted(what),
        StoreError::Conflict(why) => Status::already_exists(why),
        StoreError::Older(why) => Status::failed_precondition(why),
        StoreError::Corrupt(why) => {
            tracing::error!(%why, "the database holds what it must not");
            Status::internal(
                "what the farm's database holds of this can't be read: a bug, or somebody changed it; the coordinator's log \
                 says what it is",
            )
        }
    }
}
