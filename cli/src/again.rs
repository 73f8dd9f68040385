//! Calls that are made again: while the connection breaks, and when the farm says that they come too soon; both are harmless,
//! as nothing was done.

use std::time::Duration;

use farm_client::{Returns, come_back};
use farm_types::{Backoff, Waits};
use tokio::time::Instant;
use tonic::{Response, Status};

use crate::error::is_connection;
use crate::output::Out;
use crate::output::text::harmless;

/// When calls have failed for so long, they aren't made again: a farm that takes its time to say that it can't answer is asked
/// once or twice, and not until nobody waits any more.
pub const PATIENCE: Duration = Duration::from_secs(8);
/// The pauses before a call or a stream that broke is begun again.
pub const WAITS: Waits = Waits::new(Duration::from_millis(250), Duration::from_secs(5));
/// How often a call is made before a broken connection is given up.
const TRIES: u32 = 6;

/// Makes a call, and makes it again after a pause that doubles while the connection breaks; or when the farm, which has too
/// many of them, says that it should come back. (A [`Client`](crate::connect::Client)'s calls wait for that by themselves; others
/// do here.)
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
