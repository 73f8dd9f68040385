//! Calls that must get through: repeated while the connection breaks, which is harmless for both.

use std::time::Duration;

use farm_proto::v1::{Build, CancelBuildRequest, SubmitBuildRequest, SubmitBuildResponse};

use crate::connect::Farm;
use crate::error::{Error, Result, is_connection};

/// How often a call is made before a broken connection is given up.
const TRIES: u32 = 6;

/// Submits; answers the build, and whether its idempotency key was known.
///
/// # Errors
/// The farm refuses, or can't be reached.
pub async fn submit(farm: &Farm, request: SubmitBuildRequest) -> Result<(Build, bool)> {
    let mut wait = Duration::from_millis(250);
    for left in (0..TRIES).rev() {
        match farm.builds().submit_build(request.clone()).await.map(tonic::Response::into_inner) {
            Ok(SubmitBuildResponse { build: Some(build), replayed }) => return Ok((build, replayed)),
            Ok(_) => break,
            Err(status) if left > 0 && is_connection(&status) => {
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
            Err(status) => return Err(farm.error(&status)),
        }
    }
    Err(Error::Farm(format!("the farm at {} took the build and gave none back", farm.url())))
}

/// Asks for a build's end.
///
/// # Errors
/// There is no such build, or the farm can't be reached.
pub async fn cancel(farm: &Farm, id: &str) -> Result<()> {
    let mut wait = Duration::from_millis(250);
    for left in (0..TRIES).rev() {
        match farm.builds().cancel_build(CancelBuildRequest { build_id: id.to_owned() }).await {
            Err(status) if left > 0 && is_connection(&status) => {
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
            Err(status) => return Err(farm.error(&status)),
            Ok(_) => break,
        }
    }
    Ok(())
}
