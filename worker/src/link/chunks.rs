//! Events, cut into the chunks that travel and are stored: encoded `AttemptEventList`s.
//!
//! Invariant: no chunk is longer than [`PIECE_BYTES`], whatever the events hold, and the order of events
//! and of a log's bytes stays.

use bytes::Bytes;
use farm_proto::PIECE_BYTES;
use farm_proto::v1::attempt_event::Event;
use farm_proto::v1::{AttemptEvent, AttemptEventList, StepLog};
use prost::Message as _;

/// Room for what the encoding adds around an event.
const SLACK: usize = 1024;
const LIMIT: usize = PIECE_BYTES - SLACK;
/// The longest text that an overlong event keeps, bytes.
const LONGEST_TEXT: usize = 16 * 1024;
/// The lines that an overlong warning keeps.
const MOST_LINES: usize = 8;

/// Collects events until they fill a chunk.
#[derive(Debug, Default)]
pub struct Chunker {
    events: Vec<AttemptEvent>,
    bytes: usize,
}

impl Chunker {
    /// Adds an event. Gives the chunks that are full now, in order.
    pub fn push(&mut self, event: AttemptEvent) -> Vec<Bytes> {
        let mut full = Vec::new();
        for event in fit(event) {
            let bytes = encoded(&event);
            if self.bytes + bytes > LIMIT {
                full.extend(self.flush());
            }
            self.bytes += bytes;
            self.events.push(event);
        }
        full
    }

    /// The rest as a chunk, if there is one.
    pub fn flush(&mut self) -> Option<Bytes> {
        if self.events.is_empty() {
            return None;
        }
        self.bytes = 0;
        let events = std::mem::take(&mut self.events);
        Some(AttemptEventList { events }.encode_to_vec().into())
    }

    /// True when there is nothing to flush.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

/// The bytes that an event takes in a list.
fn encoded(event: &AttemptEvent) -> usize {
    const TAG_AND_LENGTH: usize = 8;
    event.encoded_len() + TAG_AND_LENGTH
}

/// Cuts a log event that is too long, and shortens the texts of any other one that is.
fn fit(mut event: AttemptEvent) -> Vec<AttemptEvent> {
    if encoded(&event) <= LIMIT {
        return vec![event];
    }
    match event.event {
        Some(Event::Log(log)) => cut(event.at_ms, log),
        Some(ref mut other) => {
            shorten(other);
            vec![event]
        }
        None => vec![event],
    }
}

fn cut(at_ms: i64, mut log: StepLog) -> Vec<AttemptEvent> {
    shorten_text(&mut log.step_digest);
    let room = LIMIT - LONGEST_TEXT - SLACK;
    let mut rest = log.data;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let data = rest.split_to(room.min(rest.len()));
        let piece = StepLog { step_digest: log.step_digest.clone(), stream: log.stream, data };
        pieces.push(AttemptEvent { at_ms, event: Some(Event::Log(piece)) });
    }
    pieces
}

fn shorten(event: &mut Event) {
    match event {
        Event::Step(step) => {
            for text in
                [&mut step.digest, &mut step.name, &mut step.stage, &mut step.instruction, &mut step.error]
            {
                shorten_text(text);
            }
        }
        Event::Warning(warning) => {
            warning.detail.truncate(MOST_LINES);
            warning.detail.iter_mut().for_each(shorten_text);
            for text in [
                &mut warning.rule,
                &mut warning.message,
                &mut warning.url,
                &mut warning.file,
                &mut warning.source_line,
            ] {
                shorten_text(text);
            }
        }
        Event::Transfer(transfer) => {
            shorten_text(&mut transfer.step_digest);
            shorten_text(&mut transfer.name);
        }
        Event::Notice(notice) => shorten_text(&mut notice.text),
        Event::Log(_) => {}
    }
}

fn shorten_text(text: &mut String) {
    if text.len() > LONGEST_TEXT {
        let end = (0..=LONGEST_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farm_proto::v1::{Notice, StepUpdate, Warning};

    fn event(event: Event) -> AttemptEvent {
        AttemptEvent { at_ms: 1, event: Some(event) }
    }

    fn read_back(chunks: &[Bytes]) -> Vec<AttemptEvent> {
        chunks.iter().flat_map(|chunk| AttemptEventList::decode(chunk.clone()).unwrap().events).collect()
    }

    #[test]
    fn chunks_stay_small_and_keep_the_order() {
        let mut chunker = Chunker::default();
        let mut chunks = Vec::new();
        for number in 0..5000 {
            chunks.extend(chunker.push(event(Event::Notice(Notice { text: format!("{number:0>200}") }))));
        }
        chunks.extend(chunker.flush());
        assert!(chunker.is_empty() && chunker.flush().is_none());
        assert!(chunks.len() > 3 && chunks.iter().all(|chunk| chunk.len() <= PIECE_BYTES));
        let numbers: Vec<usize> = read_back(&chunks)
            .into_iter()
            .map(|e| match e.event {
                Some(Event::Notice(notice)) => notice.text.parse().unwrap(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(numbers, (0..5000).collect::<Vec<_>>());
    }

    #[test]
    fn a_long_log_is_cut_and_loses_nothing() {
        let data: Bytes = (0..3 * PIECE_BYTES).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let log = StepLog { step_digest: "sha256:1".into(), stream: 2, data: data.clone() };
        let mut chunker = Chunker::default();
        let mut chunks = chunker.push(event(Event::Log(log)));
        chunks.extend(chunker.flush());
        assert!(chunks.iter().all(|chunk| chunk.len() <= PIECE_BYTES));
        let mut got = Vec::new();
        for piece in read_back(&chunks) {
            match piece.event {
                Some(Event::Log(log)) if log.stream == 2 => got.extend_from_slice(&log.data),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(got, data);
    }

    #[test]
    fn an_overlong_text_is_shortened_at_a_letter() {
        let long = "ä".repeat(PIECE_BYTES);
        let warning = Warning { detail: vec![long.clone(); 40], message: long.clone(), ..Default::default() };
        let step = StepUpdate { name: long.clone(), error: long, ..Default::default() };
        for big in [Event::Warning(warning), Event::Step(step)] {
            let mut chunker = Chunker::default();
            assert!(chunker.push(event(big)).is_empty());
            let chunk = chunker.flush().unwrap();
            assert!(chunk.len() <= PIECE_BYTES, "{}", chunk.len());
            assert_eq!(read_back(&[chunk]).len(), 1);
        }
    }
}
