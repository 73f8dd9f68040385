//! Following a build through lost connections and restarts of the farm.
//!
//! Invariant: nothing is shown twice and nothing is left out, since each message bears the cursor from
//! which the next watch goes on; and the end is reached only at the build's final state.

use std::time::Duration;

use farm_client::come_back;
use farm_proto::v1::watch_build_response::Event;
use farm_proto::v1::{AttemptEvents, Build, WatchBuildRequest};
use farm_types::Backoff;
use farm_types::state::BuildState;
use tokio::time::{Instant, timeout};
use tonic::Status;

use crate::again::WAITS;
use crate::connect::Client;
use crate::error::{Error, Result, is_connection, status_in_short};

/// A farm that is away for that long is given up; the build may well go on.
const GIVE_UP: Duration = Duration::from_secs(600);
/// A connection that has stood for so long shows that the farm is there.
const STEADY: Duration = Duration::from_secs(3);

/// What a follower of a build is told.
#[derive(Debug)]
pub enum Seen<'a> {
    /// The build as it is now.
    Build(&'a Build),
    /// A piece of an attempt's stream.
    Attempt(&'a AttemptEvents),
    /// The farm doesn't answer, also not when it is asked again; told once for each time away.
    Away(&'a str),
    /// The farm answers again, after [`Seen::Away`].
    Back,
}

/// True when nothing more will change.
pub fn is_final(build: &Build) -> bool {
    build.state.parse::<BuildState>().is_ok_and(BuildState::is_final)
}

/// Follows a build to its final state, or (`to_the_end` false) to what is there now; answers the build as
/// it was last. `pause` waits before the farm is asked again. Dropping the future ends the watch and changes
/// nothing.
///
/// # Errors
/// There is no such build, the farm refuses, or it was away for ten minutes.
pub(crate) async fn follow(
    client: &Client,
    id: &str,
    to_the_end: bool,
    pause: impl AsyncFn(Duration),
    tell: impl FnMut(Seen<'_>),
) -> Result<Option<Build>> {
    follow_within(Limits { give_up: GIVE_UP, steady: STEADY }, client, id, to_the_end, pause, tell).await
}

/// When a farm is taken for away, or for there.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Given up when it was away for so long.
    give_up: Duration,
    /// There when a connection has stood for so long.
    steady: Duration,
}

/// As [`follow`], within other limits.
async fn follow_within(
    Limits { give_up, steady }: Limits,
    client: &Client,
    id: &str,
    to_the_end: bool,
    pause: impl AsyncFn(Duration),
    mut tell: impl FnMut(Seen<'_>),
) -> Result<Option<Build>> {
    let mut cursor = bytes::Bytes::new();
    let mut last: Option<Build> = None;
    // Since the first connection that broke after the last message: calls that fail take their time, too.
    let mut away_since: Option<Instant> = None;
    let mut told_away = false;
    let mut backoff = Backoff::new(WAITS);
    loop {
        let request =
            WatchBuildRequest { build_id: id.to_owned(), cursor: cursor.clone(), follow: to_the_end };
        // Nothing, when a connection stands on which there is nothing to say.
        let mut heard = |response: Option<farm_proto::v1::WatchBuildResponse>| {
            away_since = None;
            if std::mem::take(&mut told_away) {
                tell(Seen::Back);
            }
            backoff.reset();
            let Some(response) = response else { return };
            cursor = response.cursor;
            match response.event {
                Some(Event::Build(build)) => {
                    tell(Seen::Build(&build));
                    last = Some(build);
                }
                Some(Event::Attempt(events)) => tell(Seen::Attempt(&events)),
                None => {}
            }
        };
        let mut wait = Duration::ZERO;
        let ended = Box::pin(watch(steady, client, request, &mut heard)).await;
        let why = match ended {
            Ok(()) if !to_the_end || last.as_ref().is_some_and(is_final) => return Ok(last),
            // A coordinator that drains ends its streams.
            Ok(()) => "the farm ended the connection".to_owned(),
            Err(status) if is_connection(&status) => status_in_short(&status),
            Err(status) if come_back(&status).is_some() => {
                wait = come_back(&status).unwrap_or_default();
                status_in_short(&status)
            }
            Err(status) => return Err(client.error(&status)),
        };
        // One connection that ends isn't news: another coordinator, or the same, may be there at once.
        let is_news = away_since.is_some();
        if away_since.get_or_insert_with(Instant::now).elapsed() >= give_up {
            return Err(Error::Farm(format!(
                "the farm at {} has sent nothing for 10 minutes ({why}). The build goes on when the farm is there; then: \
                 farm logs {id} -f",
                client.url()
            )));
        }
        if is_news && !std::mem::replace(&mut told_away, true) {
            tell(Seen::Away(&why));
        }
        pause(backoff.next_wait().max(wait)).await;
    }
}

async fn watch(
    steady: Duration,
    client: &Client,
    request: WatchBuildRequest,
    heard: &mut impl FnMut(Option<farm_proto::v1::WatchBuildResponse>),
) -> Result<(), Status> {
    let mut stream = client.builds().watch_build(request).await?.into_inner();
    // A build may have nothing to say for hours; then it is the connection that says that the farm is there.
    let mut next = match timeout(steady, stream.message()).await {
        Ok(first) => first?,
        Err(_) => {
            heard(None);
            stream.message().await?
        }
    };
    while let Some(response) = next {
        heard(Some(response));
        next = stream.message().await?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
