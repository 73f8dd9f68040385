//! Calls that must get through: repeated while the connection breaks, and when the farm says that they come too soon; both
//! are harmless, as nothing was done.

use farm_proto::v1::{
    Build, CancelBuildRequest, ProvideSourceRequest, RetryBuildRequest, RetryBuildResponse,
    SubmitBuildRequest, SubmitBuildResponse,
};

pub(crate) use crate::again::through;
use crate::connect::Client;
use crate::error::{Error, Result};
use crate::upload::Uploaded;

/// Submits; answers the build, and whether its idempotency key was known.
///
/// # Errors
/// The farm refuses, or can't be reached.
pub(crate) async fn submit(client: &Client, request: SubmitBuildRequest) -> Result<(Build, bool)> {
    let answer = through(async || client.builds().submit_build(request.clone()).await).await;
    let SubmitBuildResponse { build, replayed } = answer.map_err(|status| client.error(&status))?;
    let nothing = || Error::Farm(format!("the farm at {} took the build and gave none back", client.url()));
    Ok((build.ok_or_else(nothing)?, replayed))
}

/// Retries a build; answers the new one, and whether its idempotency key was known.
///
/// # Errors
/// The farm refuses, or can't be reached.
pub(crate) async fn retry(client: &Client, request: RetryBuildRequest) -> Result<(Build, bool)> {
    let answer = through(async || client.builds().retry_build(request.clone()).await).await;
    let RetryBuildResponse { build, replayed } = answer.map_err(|status| client.error(&status))?;
    let nothing =
        || Error::Farm(format!("the farm at {} took the retry and gave no build back", client.url()));
    Ok((build.ok_or_else(nothing)?, replayed))
}

/// Gives a build the whole of its source, which was uploaded.
///
/// # Errors
/// The farm refuses, or can't be reached.
pub(crate) async fn provide_source(client: &Client, id: &str, uploaded: &Uploaded) -> Result<()> {
    let request = ProvideSourceRequest { build_id: id.to_owned(), snapshot: Some(uploaded.reference()) };
    let answer = through(async || client.builds().provide_source(request.clone()).await).await;
    answer.map(drop).map_err(|status| client.error(&status))
}

/// Asks for a build's end.
///
/// # Errors
/// There is no such build, or the farm can't be reached.
pub(crate) async fn cancel(client: &Client, id: &str) -> Result<()> {
    let request = CancelBuildRequest { build_id: id.to_owned() };
    let answer = through(async || client.builds().cancel_build(request.clone()).await).await;
    answer.map(drop).map_err(|status| client.error(&status))
}

/// What is said of a farm that doesn't know of signatures, and would publish without.
pub const UNSIGNED: &str =
    "this farm is older and signs nothing, so the build was cancelled; have the farm updated";

/// Somebody didn't want to wait until the farm says what it accepted.
pub fn left() -> Error {
    Error::Cancelled(
        "left; the farm may have accepted it: `farm builds` tells, `farm cancel` ends it".to_owned(),
    )
}
