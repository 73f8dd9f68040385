//! Calls that are made again: while the connection breaks, and when the farm says that they come too soon; both are harmless,
//! as nothing was done, or may be done twice ([`through`]). What may not is made again more seldom ([`once`]).

use std::time::Duration;

use farm_client::{Returns, come_back};
use farm_types::chain::chain;
use farm_types::{Backoff, Waits};
use tokio::time::Instant;
use tonic::{Code, ConnectError, Response, Status};

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
pub(crate) async fn through<T>(call: impl AsyncFnMut() -> Result<Response<T>, Status>) -> Result<T, Status> {
    repeat(call, is_connection).await
}

/// Waits for as long as a farm says that takes no more for the moment.
///
/// # Errors
/// It says something else, or it was waited for long enough.
pub(crate) async fn come_again(returns: &mut Returns, status: &Status) -> Result<(), Status> {
    let is_new = returns.is_new();
    come_again_saying(returns, status, || is_new).await
}

/// The same, by whom it is for to say whether people are told.
///
/// # Errors
/// It says something else, or it was waited for long enough.
pub(crate) async fn come_again_saying(
    returns: &mut Returns,
    status: &Status,
    is_news: impl FnOnce() -> bool,
) -> Result<(), Status> {
    let Some(wait) = returns.next_wait(status) else { return Err(status.clone()) };
    if is_news() {
        Out::stderr().line(&format!("waiting: {}", harmless(status.message())));
    }
    tokio::time::sleep(wait).await;
    Ok(())
}

/// Makes a call that must not be made twice, as what it brings counts once. It is made again only where nothing was done of it: no
/// connection came about, or the farm says that it should come back.
///
/// # Errors
/// The farm refuses or can't be reached, or whether it has done it isn't known ([`is_lost`]).
pub(crate) async fn once<T>(call: impl AsyncFnMut() -> Result<Response<T>, Status>) -> Result<T, Status> {
    repeat(call, was_never_sent).await
}

/// Makes a call, and again after what is `worth_it`, so often and so long as a broken connection isn't given up; or when the farm says
/// so.
async fn repeat<T>(
    mut call: impl AsyncFnMut() -> Result<Response<T>, Status>,
    worth_it: fn(&Status) -> bool,
) -> Result<T, Status> {
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
        } else if worth_it(&status) && tries < TRIES && begun.elapsed() < PATIENCE {
            tries += 1;
            tokio::time::sleep(backoff.next_wait()).await;
        } else {
            return Err(status);
        }
    }
}

/// Whether a call may have been done, and the answer has come to nobody.
pub fn is_lost(status: &Status) -> bool {
    let is_broken = is_connection(status) && std::error::Error::source(status).is_some();
    (is_broken || status.code() == Code::DeadlineExceeded) && !was_never_sent(status)
}

/// Whether no connection came about over which a call could have gone.
fn was_never_sent(status: &Status) -> bool {
    chain(status).any(|error| error.is::<ConnectError>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(below: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Status {
        Status::from_error(below.into())
    }

    #[test]
    fn what_may_have_been_done_is_told_from_what_was_not() {
        let reset = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let refused = broken(ConnectError(reset().into()));
        assert!(is_connection(&refused) && was_never_sent(&refused) && !is_lost(&refused), "{refused:?}");
        let lost = broken(reset());
        assert!(!was_never_sent(&lost) && is_lost(&lost), "{lost:?}");
        assert!(is_lost(&Status::deadline_exceeded("no answer")));
        // The farm has answered.
        for told in [Status::unavailable("restarting"), Status::unauthenticated("x"), Status::internal("bug")]
        {
            assert!(!is_lost(&told), "{told:?}");
        }
    }

    #[tokio::test]
    async fn what_counts_once_is_made_again_only_where_nothing_was_done() {
        let made = async |answers: Vec<Status>| {
            let (mut answers, mut count) = (answers.into_iter(), 0);
            let came = once(async || {
                count += 1;
                answers.next().map_or(Ok(Response::new(())), Err)
            });
            let came = came.await;
            (count, came.map_err(|status| status.code()))
        };
        let reset = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let unsent = || broken(ConnectError(reset().into()));
        let busy = || farm_client::busy("too much", Duration::ZERO);
        assert_eq!(made(vec![unsent(), busy(), unsent()]).await, (4, Ok(())));
        assert_eq!(made(vec![Status::unavailable("restarting")]).await, (1, Err(Code::Unavailable)));
        let (count, lost) = made(vec![broken(reset())]).await;
        assert!(count == 1 && lost.is_err(), "{lost:?}");
    }
}
