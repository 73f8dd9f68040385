//! A build's page.

use std::net::IpAddr;
use std::sync::Arc;

use http::{Response, StatusCode};

use super::asked::Asked;
use super::found::{Found, Search, choice, find, who};
use super::problem::Problem;
use super::route::{Next, Place};
use super::view::{self, BuildView};
use super::visitor::visitor;
use super::{approve, log, reply, sign_in, templates};
use crate::http::answer::Body;
use crate::people::rights::Action;
use crate::shared::Shared;

/// The page.
///
/// # Errors
/// There is no such build for whoever asks, or the farm can't tell.
pub(crate) async fn page(
    shared: &Arc<Shared>,
    mut asked: Asked,
    place: Place,
) -> Result<Response<Body>, Problem> {
    let Some(visitor) = visitor(shared, &mut asked, Action::ReadBuilds).await? else {
        return sign_in::ask(shared, &asked, &Next::build(place), "");
    };
    let who = who(&visitor);
    let found = match find(shared, &visitor, &place).await? {
        Search::One(found) => found,
        Search::Several(projects) => {
            let choice = choice(&place, projects, |place| place.path());
            return Ok(reply::page(StatusCode::MULTIPLE_CHOICES, templates::choose(&choice, &who)));
        }
    };
    let now = shared.store.now().await?.timestamp_millis();
    let mut view = view::build(&found.build, &place, now);
    with_logs(shared, asked.from, &found, &mut view).await?;
    let view = view.proposing(approve::proposal(shared, &visitor, &found, &place).await?);
    Ok(reply::page(StatusCode::OK, templates::build(&view, &who)))
}

/// Puts the last lines of what failed into the page.
async fn with_logs(
    shared: &Shared,
    from: Option<IpAddr>,
    found: &Found,
    view: &mut BuildView,
) -> Result<(), Problem> {
    let mut logs: Vec<_> = view.failures.iter_mut().flat_map(|failure| &mut failure.logs).collect();
    logs.truncate(log::TAILS);
    if logs.is_empty() {
        return Ok(());
    }
    // What is read at once is bounded; without a place for it the page has the links alone.
    let Ok(_visit) = shared.doors.read_log(from) else { return Ok(()) };
    let mut left = log::ALL_TAILS;
    let streams = shared.store.streams(found.record.project, found.record.id).await?;
    for log in logs {
        // Of several tries the last is what decided.
        let last = streams.iter().rev().find(|stream| stream.platform == log.platform);
        if let Some(stream) = last {
            log.lines = log::tail(shared, found.record.project, stream, &found.hidden, left).await?;
            left = left.saturating_sub(log.lines.iter().map(String::len).sum());
        }
    }
    Ok(())
}
