//! The one place where an error becomes a gRPC status. Internal text never reaches a client.

use farm_types::chain::chain;
use farm_types::{FailureCode, Invalid};
use tonic::Status;

use crate::blobs::FileError;
use crate::logs::LogError;
use crate::people::oidc::Refused;
use crate::registry::RegistryError;
use crate::registry::lending::LendError;
use crate::tree::Unread;
pub use crate::unstored::store;

/// The status of a value that can't be taken.
pub fn invalid(error: Invalid) -> Status {
    Status::invalid_argument(error.to_string())
}

/// The status of an issuer's token that wasn't taken.
pub fn refused(error: Refused) -> Status {
    match error {
        Refused::Invalid(error) => invalid(error),
        Refused::Token(why) => Status::unauthenticated(why),
        Refused::Untrusted(why) => Status::permission_denied(why),
        Refused::Unavailable(why) => Status::unavailable(why),
        Refused::Setup(why) => Status::failed_precondition(why),
        Refused::Store(error) => store(error),
    }
}

/// The status of a registry's token that isn't lent.
pub fn lending(error: LendError) -> Status {
    match error {
        LendError::Invalid(error) => invalid(error),
        LendError::Registry(error) if error.is_transient() => Status::unavailable(error.message),
        LendError::Registry(error) => Status::permission_denied(error.message),
    }
}

/// The status of an image that wasn't looked up. Only what somebody has to change is denied: whatever else a registry answers may be
/// said by something on the way to it, and is no reason to fail a build for good.
pub fn looking_up(error: LendError) -> Status {
    match error {
        LendError::Invalid(error) => invalid(error),
        LendError::Registry(error) => match error.code {
            FailureCode::RegistryAuth | FailureCode::RegistryNotAllowed => {
                Status::permission_denied(error.message)
            }
            _ => Status::unavailable(error.message),
        },
    }
}

/// The status of a registry's error: what may pass by itself is told apart from what won't.
pub fn registry(error: RegistryError) -> Status {
    if error.is_transient() {
        Status::unavailable(error.message)
    } else {
        Status::failed_precondition(error.message)
    }
}

/// The status of a blob store's error.
pub fn blobs(error: object_store::Error) -> Status {
    tracing::error!(%error, "the blob store fails");
    if is_full(&error) {
        return Status::unavailable(
            "there is no space left where it keeps sources; free some on the disk of the coordinator's state folder \
             and submit again",
        );
    }
    Status::unavailable("the farm's blob store does not answer; try again in a moment")
}

/// The status of a blob store's error where an output was to be kept. A worker waits for a coordinator that is unavailable;
/// for space on a disk it must not.
pub fn outputs(error: object_store::Error) -> Status {
    if !is_full(&error) {
        return blobs(error);
    }
    tracing::error!(%error, "the blob store is full");
    Status::resource_exhausted(
        "there is no space left for outputs (--output, --load) on the disk of the coordinator's state folder; free some, or \
         lower retention.outputs_minutes",
    )
}

/// The status of a snapshot's file that can't be read now.
pub fn unread(error: Unread) -> Status {
    match error {
        Unread::Store(error) => store(error),
        Unread::Blobs(error) => blobs(error),
    }
}

/// The status of a log that can't be read.
pub fn log(error: LogError) -> Status {
    match error {
        LogError::Store(error) => store(error),
        LogError::Blobs(error) => blobs(error),
        LogError::Frame(error) => {
            tracing::error!(%error, "a sealed log is not what it was");
            Status::data_loss(
                "a part of this log can't be read any more; the coordinator's log has the details",
            )
        }
    }
}

/// The status of a file that was not kept.
pub fn file(error: FileError) -> Status {
    match error {
        FileError::Wrong { .. } => Status::invalid_argument(error.to_string()),
        FileError::Store(error) => blobs(error),
    }
}

/// Whether a disk, or somebody's share of it, is full.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let io = chain(error).find_map(|error| error.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| {
        matches!(io.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
    })
}
