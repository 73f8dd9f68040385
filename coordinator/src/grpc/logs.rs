//! Following a build: what is stored, then what is added, the same for every follower.
//!
//! A copy has no attempts: what is noted of it comes as an attempt's notices would, of the platform `copy`.
//!
//! The cursor names how far the follower has come: the build's and its execution's event numbers, and per
//! attempt the number of the last chunk. All of an attempt's chunks that were stored before a state was
//! reached are sent before the build in that state, so a follower may stop at the final state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use farm_proto::v1;
use farm_store::logs::events::{Note, StreamEnd, Version};
use farm_types::{AttemptId, BuildId, ProjectId};
use futures::Stream;
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::status;
use crate::hints::BACKSTOP;
use crate::logs::{self, Next};
use crate::shared::Shared;
use crate::shown::hidden::Hidden;
use crate::shown::present;

/// The least time between two looks: hints that come closer together are taken as one.
const BREATH: Duration = Duration::from_millis(50);
/// A hint is for all followers. One for whom there was nothing looks less often, up to this.
const LONG_BREATH: Duration = Duration::from_millis(250);

/// How far a follower has come. Opaque on the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    build: i64,
    execution: i64,
    streams: BTreeMap<AttemptId, u64>,
}

impl Cursor {
    /// Reads a cursor as it was given out; empty is the beginning.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when it is none of ours.
    pub fn decode(bytes: &[u8]) -> Result<Self, Status> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_slice(bytes)
            .map_err(|_| Status::invalid_argument("the cursor is none that the farm gave out"))
    }

    fn encode(&self) -> bytes::Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    fn version(&self) -> Version {
        Version { build: self.build, execution: self.execution }
    }
}

/// What comes after the cursor, and with `follow` what is added until the build is final; without what is hidden from
/// whoever watches.
pub fn watch(
    shared: Arc<Shared>,
    project: ProjectId,
    build: BuildId,
    hidden: Hidden,
    mut cursor: Cursor,
    follow: bool,
    shutdown: CancellationToken,
) -> impl Stream<Item = Result<v1::WatchBuildResponse, Status>> {
    async_stream::try_stream! {
        let mut changes = shared.hints.follow();
        let mut breath = BREATH;
        let mut places = Vec::new();
        loop {
            changes.mark_unchanged();
            let looked = tokio::time::Instant::now();
            let before = cursor.clone();
            let (version, state) = shared.store.version(project, build).await.map_err(status::store)?;
            if cursor == Cursor::default() && !state.is_final() {
                yield snapshot(&shared, project, build, &hidden, &mut cursor).await?;
            }
            let streams = shared.store.streams(project, build).await.map_err(status::store)?;
            // What has no attempts may be a copy, of which is noted what it does.
            if streams.is_empty() && version.build != cursor.build {
                let range = (cursor.build, version.build);
                for note in shared.store.notes(project, build, range).await.map_err(status::store)? {
                    cursor.build = note.seq;
                    yield noted(note, &cursor);
                }
            }
            for stream in streams {
                let mut sent = cursor.streams.get(&stream.attempt).copied().unwrap_or_default();
                while sent < stream.acked_seq {
                    let chunks = match logs::read(&shared, project, stream.attempt, sent).await.map_err(status::log)? {
                        Next::Chunks(chunks) => chunks,
                        Next::Removed(at) => {
                            cursor.streams.insert(stream.attempt, stream.acked_seq);
                            yield removed(&stream, at, &cursor);
                            break;
                        }
                    };
                    if chunks.is_empty() {
                        break;
                    }
                    for chunk in chunks {
                        let mut list = v1::AttemptEventList::decode(chunk.payload.as_slice())
                            .map_err(|_| Status::internal("a stored chunk can't be read"))?;
                        list.events.iter_mut().for_each(|event| hidden.event(event));
                        sent = chunk.seq;
                        cursor.streams.insert(stream.attempt, sent);
                        yield attempt_events(&stream, list.events, &cursor);
                    }
                }
            }
            // Others in front of it that are gone are no event of this build.
            let now = shared.store.places(project, build).await.map_err(status::store)?;
            let moved = std::mem::replace(&mut places, now) != places;
            if version != cursor.version() || (moved && !places.is_empty()) {
                cursor.build = version.build;
                cursor.execution = version.execution;
                yield snapshot(&shared, project, build, &hidden, &mut cursor.clone()).await?;
            }
            if state.is_final() || !follow {
                break;
            }
            breath = if cursor == before { (breath * 2).min(LONG_BREATH) } else { BREATH };
            tokio::select! {
                // At once, if the last look is that long ago.
                _ = changes.changed() => tokio::time::sleep_until(looked + breath).await,
                () = tokio::time::sleep(BACKSTOP) => {}
                () = shutdown.cancelled() => {}
            }
            if shutdown.is_cancelled() {
                Err(Status::unavailable("this coordinator stops; watch again"))?;
            }
        }
    }
}

/// The answer that gives a follower the next events of one attempt.
fn attempt_events(
    stream: &StreamEnd,
    events: Vec<v1::AttemptEvent>,
    cursor: &Cursor,
) -> v1::WatchBuildResponse {
    v1::WatchBuildResponse {
        cursor: cursor.encode(),
        event: Some(v1::watch_build_response::Event::Attempt(v1::AttemptEvents {
            attempt_id: stream.attempt.to_string(),
            platform: stream.platform.clone(),
            attempt_number: stream.number,
            events,
            removed_ms: 0,
        })),
    }
}

/// The answer that gives a follower what a copy has done.
fn noted(note: Note, cursor: &Cursor) -> v1::WatchBuildResponse {
    let event = v1::attempt_event::Event::Notice(v1::Notice { text: note.text });
    v1::WatchBuildResponse {
        cursor: cursor.encode(),
        event: Some(v1::watch_build_response::Event::Attempt(v1::AttemptEvents {
            platform: "copy".to_owned(),
            events: vec![v1::AttemptEvent { at_ms: note.at.timestamp_millis(), event: Some(event) }],
            ..Default::default()
        })),
    }
}

/// That the rest of a stream is not there any more, also in words.
fn removed(stream: &StreamEnd, at: DateTime<Utc>, cursor: &Cursor) -> v1::WatchBuildResponse {
    let text =
        format!("the log of attempt {} was removed on {}, for its age", stream.number, at.format("%Y-%m-%d"));
    let notice = v1::attempt_event::Event::Notice(v1::Notice { text });
    let event = v1::AttemptEvent { at_ms: at.timestamp_millis(), event: Some(notice) };
    let mut response = attempt_events(stream, vec![event], cursor);
    if let Some(v1::watch_build_response::Event::Attempt(events)) = &mut response.event {
        events.removed_ms = at.timestamp_millis();
    }
    response
}

/// The build as it is now. The record may be newer than the cursor; then it is sent once more, never less.
async fn snapshot(
    shared: &Shared,
    project: ProjectId,
    build: BuildId,
    hidden: &Hidden,
    cursor: &mut Cursor,
) -> Result<v1::WatchBuildResponse, Status> {
    let record = shared.store.build_by_id(project, build).await.map_err(status::store)?;
    Ok(v1::WatchBuildResponse {
        cursor: cursor.encode(),
        event: Some(v1::watch_build_response::Event::Build(present::build(&record, hidden))),
    })
}
