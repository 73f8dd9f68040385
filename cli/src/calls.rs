//! Calls that must get through: repeated while the connection breaks, and when the farm says that they come too soon; both
//! are harmless, as nothing was done.

use farm_client::{Returns, come_back};
use farm_proto::v1::{
    Build, CancelBuildRequest, ProvideSourceRequest, RetryBuildRequest, RetryBuildResponse,
    SubmitBuildRequest, SubmitBuildResponse,
};
use farm_types::Backoff;
use tokio::time::Instant;
use tonic::{Response, Status};

use crate::connect::{Client, PATIENCE, WAITS};
use crate::error::{Error, Result, is_connection};
use crate::output::Out;
use crate::output::text::harmless;
use crate::upload::Uploaded;

/// How often a call is made before a broken connection is given up.
const TRIES: u32 = 6;

/// Makes a call, and makes it again after a pause that doubles while the connection breaks; or when the farm, which has too
/// many of them, says that it should come back.
///
/// # Errors
/// The farm refuses, or can't be reached.
pub async fn through<T>(mut call: impl AsyncFnMut() -> Result<Response<T>, Status>) -> Result<T, Status> {
    let mut backoff = Backoff::new(WAITS);
    let begun = Instant::now();
    let (mut tries, mut returns) = (1, Returns::default());
    loop {
        let status = match call().await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => status,
        };
        if come_back(&status).is_some() {
            come_again(&mut returns, &status).await?;
        } else if is_connection(&status) && tries < TRIES && begun.elapsed() < PATIENCE {
            tries += 1;
            tokio::time::sleep(backoff.next_wait()).await;
        } else {
            return Err(status);
        }
    }
}

/// Waits for as long as a farm says that takes no more for the moment.
///
/// # Errors
/// It says something else, or it was waited for long enough.
pub async fn come_again(returns: &mut Returns, status: &Status) -> Result<(), Status> {
    let is_new = returns.is_new();
    let Some(wait) = returns.next_wait(status) else { return Err(status.clone()) };
    if is_new {
        Out::stderr().line(&format!("waiting: {}", harmless(status.message())));
    }
    tokio::time::sleep(wait).await;
    Ok(())
}

/// Submits; answers the build, and whether its idempotency key was known.
///
/// # Errors
/// The farm refuses, or can't be reached.
pub async fn submit(client: &Client, request: SubmitBuildRequest) -> Result<(Build, bool)> {
    let answer = through(async || client.builds().submit_build(request.clone()).await).await;
    let SubmitBuildResponse { build, replayed } = answer.map_err(|status| client.error(&status))?;
    let nothing = || Error::Farm(format!("the farm at {} took the build and gave none back", client.url()));
    Ok((build.ok_or_else(nothing)?, replayed))
}

/// Retries a build; answers the new one, and whether its idempotency key was known.
///
/// # Errors
/// The farm refuses, or can't be reached.
pub async fn retry(client: &Client, request: RetryBuildRequest) -> Result<(Build, bool)> {
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
pub async fn provide_source(client: &Client, id: &str, uploaded: &Uploaded) -> Result<()> {
    let request = ProvideSourceRequest { build_id: id.to_owned(), snapshot: Some(uploaded.reference()) };
    let answer = through(async || client.builds().provide_source(request.clone()).await).await;
    answer.map(drop).map_err(|status| client.error(&status))
}

/// Asks for a build's end.
///
/// # Errors
/// There is no such build, or the farm can't be reached.
pub async fn cancel(client: &Client, id: &str) -> Result<()> {
    let request = CancelBuildRequest { build_id: id.to_owned() };
    let answer = through(async || client.builds().cancel_build(request.clone()).await).await;
    answer.map(drop).map_err(|status| client.error(&status))
}

/// Somebody didn't want to wait until the farm says what it accepted.
pub fn left() -> Error {
    Error::Cancelled(
        "left; the farm may have accepted it: `farm builds` tells, `farm cancel` ends it".to_owned(),
    )
}
