//! A build's log as plain text: whole, bit by bit, and the last lines of one try.
//!
//! What is read at once is bounded (`logs::read`), and how many read at once is too; whoever may no more is cut off between two bits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use farm_proto::v1::AttemptEventList;
use farm_store::logs::events::{Chunk, StreamEnd};
use farm_types::text::harmless;
use farm_types::{Platform, ProjectId};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use prost::Message as _;

use super::asked::Asked;
use super::found::{Found, Search, choice, find, who};
use super::problem::Problem;
use super::route::{Next, Place};
use super::text::Text;
use super::visitor::{Visitor, may, visitor};
use super::{reply, sign_in, templates};
use crate::http::answer::{Body, Broken, bits};
use crate::logs::{self, LogError, Next as Piece};
use crate::people::rights::Action;
use crate::shared::Shared;
use crate::shown::hidden::Hidden;

/// A page has the last lines of so many failed platforms, and so many of each.
pub const TAILS: usize = 8;
const TAIL: usize = 200;
/// For them so many of the last chunks are read, then more if these hold too few lines.
const LAST: [u64; 2] = [4, 32];
/// Of a line there is so much, characters, and of all lines of a page, bytes.
const WIDTH: usize = 500;
pub const ALL_TAILS: usize = 256 * 1024;
/// How often it is asked whether a visitor may go on, however slowly they read.
const STILL: Duration = Duration::from_secs(2);
/// A chunk's text is handed out in bits of so many bytes.
const BIT: usize = 64 * 1024;

/// The log.
///
/// # Errors
/// There is no such build for whoever asks, it has no such platform, or too many read logs now.
pub(crate) async fn text(
    shared: &Arc<Shared>,
    mut asked: Asked,
    place: Place,
    platform: Option<Platform>,
) -> Result<Response<Body>, Problem> {
    let Some(visitor) = visitor(shared, &mut asked, Action::ReadBuilds).await? else {
        return sign_in::ask(shared, &asked, &Next::log(place, platform), "");
    };
    let platform = platform.map(|platform| platform.to_string());
    let found = match find(shared, &visitor, &place).await? {
        Search::One(found) => found,
        Search::Several(projects) => {
            let choice = choice(&place, projects, |place| place.log(platform.as_deref()));
            let page = templates::choose(&choice, &who(&visitor));
            return Ok(reply::page(StatusCode::MULTIPLE_CHOICES, page));
        }
    };
    if let Some(wanted) = platform.as_deref()
        && found.build.jobs.iter().all(|job| job.platform != wanted)
    {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            format!("Build {} is not for {wanted}", place.id),
            "Its page lists its platforms.",
        ));
    }
    let visit = shared.doors.read_log(asked.from).map_err(Problem::too_many)?;
    let mut streams = shared.store.streams(found.record.project, found.record.id).await?;
    streams.retain(|stream| platform.as_ref().is_none_or(|platform| stream.platform == *platform));
    let stream = lines(Arc::clone(shared), visitor, *found, streams);
    // The turn and the visit last as long as what is handed out.
    let held = (asked.turn, visit);
    let stream = futures::StreamExt::map(stream, move |bit| {
        let _held = &held;
        bit
    });
    let mut response = Response::new(bits(stream));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("inline"));
    Ok(response)
}

/// The text of these streams, one after the other.
fn lines(
    shared: Arc<Shared>,
    visitor: Visitor,
    found: Found,
    streams: Vec<StreamEnd>,
) -> impl futures::Stream<Item = Result<Bytes, Broken>> + Send {
    async_stream::try_stream! {
        let project = found.record.project;
        if streams.is_empty() {
            yield Bytes::from_static("nothing has run so far\n".as_bytes());
        }
        for stream in streams {
            yield Bytes::from(format!("{}\n", head(&stream, &found)));
            let mut text = Text::default();
            let mut after = 0;
            let mut asked = Instant::now();
            while after < stream.acked_seq {
                still(&shared, &visitor, project).await?;
                let piece = logs::read(&shared, project, stream.attempt, after).await.map_err(broken)?;
                let chunks = match piece {
                    Piece::Chunks(chunks) => chunks,
                    Piece::Removed(at) => {
                        let at = at.format("%Y-%m-%d");
                        yield Bytes::from(format!("this log was removed on {at}, for its age\n"));
                        break;
                    }
                };
                if chunks.is_empty() {
                    break;
                }
                for chunk in chunks {
                    // What was read at once may be handed out for minutes.
                    if asked.elapsed() > STILL {
                        still(&shared, &visitor, project).await?;
                        asked = Instant::now();
                    }
                    after = chunk.seq;
                    let mut bit = String::new();
                    for line in read(&chunk, &mut text, &found.hidden).map_err(broken)? {
                        bit.push_str(&line);
                        bit.push('\n');
                        if bit.len() >= BIT {
                            yield Bytes::from(std::mem::take(&mut bit));
                        }
                    }
                    if !bit.is_empty() {
                        yield Bytes::from(bit);
                    }
                }
            }
            for line in text.finish() {
                yield Bytes::from(format!("{line}\n"));
            }
        }
    }
}

/// What stands above a try's text.
fn head(stream: &StreamEnd, found: &Found) -> String {
    let id = stream.attempt.to_string();
    let mut attempts = found.build.jobs.iter().flat_map(|job| &job.attempts);
    let attempt = attempts.find(|attempt| attempt.id == id);
    let what = if stream.platform.is_empty() { "fetch" } else { &stream.platform };
    let on = attempt.map(|attempt| {
        let how = if stream.platform.is_empty() { String::new() } else { format!(", {}", attempt.support) };
        harmless(&format!(" on {}{how}: {}", attempt.worker, attempt.state))
    });
    format!("{}, try {}{}", harmless(what), stream.number, on.unwrap_or_default())
}

/// The lines of a chunk.
fn read(chunk: &Chunk, text: &mut Text, hidden: &Hidden) -> Result<Vec<String>, LogError> {
    let mut list = AttemptEventList::decode(chunk.payload.as_slice())
        .map_err(|_| LogError::Frame(logs::frames::FrameError::Other))?;
    list.events.iter_mut().for_each(|event| hidden.event(event));
    Ok(text.events(&list.events))
}

/// Whether a visitor may go on.
async fn still(shared: &Shared, visitor: &Visitor, project: ProjectId) -> Result<(), Broken> {
    let known = shared.identities.identify(visitor.proof).await;
    match known {
        Ok(principal) if !may(&principal, Action::ReadBuilds, project) => {
            Err(Broken("whoever reads this may no more".to_owned()))
        }
        Err(status) if status.code() == tonic::Code::Unauthenticated => {
            Err(Broken("whoever reads this has signed out, or counts no more".to_owned()))
        }
        // A database that doesn't answer ends none.
        _ => Ok(()),
    }
}

fn broken(error: LogError) -> Broken {
    tracing::warn!(%error, "a log breaks off");
    Broken("the log can't be read on".to_owned())
}

/// The last lines of a try, at most so many bytes of them.
///
/// # Errors
/// They can't be read now.
pub(crate) async fn tail(
    shared: &Shared,
    project: ProjectId,
    stream: &StreamEnd,
    hidden: &Hidden,
    most: usize,
) -> Result<Vec<String>, Problem> {
    let mut lines = VecDeque::new();
    for last in LAST {
        let from = stream.acked_seq.saturating_sub(last);
        lines = last_lines(shared, project, stream, from, hidden).await?;
        if lines.len() >= TAIL || from == 0 {
            break;
        }
    }
    let mut left = most;
    let fits = |line: &String| {
        left = left.saturating_sub(line.len() + 1);
        left > 0
    };
    let mut last: Vec<String> = lines.into_iter().rev().map(|line| cut(&line)).take_while(fits).collect();
    last.reverse();
    Ok(last)
}

/// A line as a page has room for it.
fn cut(line: &str) -> String {
    match line.char_indices().nth(WIDTH) {
        Some((at, _)) => format!("{}…", line.get(..at).unwrap_or_default()),
        None => line.to_owned(),
    }
}

/// The last lines of what comes after this chunk.
async fn last_lines(
    shared: &Shared,
    project: ProjectId,
    stream: &StreamEnd,
    from: u64,
    hidden: &Hidden,
) -> Result<VecDeque<String>, Problem> {
    let (mut after, mut text, mut lines) = (from, Text::default(), VecDeque::new());
    let mut keep = |more: Vec<String>| {
        for line in more {
            if lines.len() == TAIL {
                lines.pop_front();
            }
            lines.push_back(line);
        }
    };
    while after < stream.acked_seq {
        let Piece::Chunks(chunks) = logs::read(shared, project, stream.attempt, after).await? else { break };
        let Some(last) = chunks.last().map(|chunk| chunk.seq) else { break };
        for chunk in &chunks {
            keep(read(chunk, &mut text, hidden)?);
        }
        after = last;
    }
    keep(text.finish());
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = "ä".repeat(WIDTH + 1);
        assert_eq!(cut(&long), format!("{}…", "ä".repeat(WIDTH)));
        assert_eq!(cut(&"ä".repeat(WIDTH)), "ä".repeat(WIDTH));
    }
}
