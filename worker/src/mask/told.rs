//! What a worker tells of an attempt, masked: its events and its end.
//!
//! Each field of a message is named here, so that a new one doesn't compile before somebody has decided about it. Left as they are:
//! what isn't text, and what others look things up by (digests, codes, a path that the engine asked for).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use farm_proto::v1::attempt_event::Event;
use farm_proto::v1::{self, AttemptEvent, StepLog, finished};
use tokio::time::Instant;

use super::{Mask, Masker, Masking};

/// So long after a step's end its output may still come: an engine tells of the end first, and of much output in pieces behind it.
const BEHIND: Duration = Duration::from_secs(1);

/// The events of an attempt on their way. Each stream of a step's output is masked as one, however it is cut.
pub struct Telling {
    masking: Masking,
    /// By step and stream; with the time of its last bytes.
    streams: BTreeMap<(String, u32), (Masker, i64)>,
    /// Steps that have ended, and from when on nothing comes of them any more.
    ended: BTreeMap<String, Instant>,
}

impl Telling {
    /// Of the attempt whose mask is found there.
    pub fn new(masking: Masking) -> Self {
        Self { masking, streams: BTreeMap::new(), ended: BTreeMap::new() }
    }

    /// An event as it is told. Of output what may be the beginning of a value is kept until more comes; where nothing is left, it is an
    /// event that says nothing.
    pub fn mask(&mut self, mut event: AttemptEvent) -> AttemptEvent {
        let mask = self.masking.mask();
        if mask.is_empty() {
            return event;
        }
        match &mut event.event {
            Some(Event::Log(log)) => {
                let (masker, at_ms) = self
                    .streams
                    .entry((log.step_digest.clone(), log.stream))
                    .or_insert_with(|| (mask.masker(), event.at_ms));
                *at_ms = event.at_ms;
                if let Some(over) = self.ended.get_mut(&log.step_digest) {
                    *over = Instant::now() + BEHIND;
                }
                let masked = match masker.push(&log.data) {
                    Cow::Borrowed(data) if data.len() == log.data.len() => None,
                    masked => Some(Bytes::from(masked.into_owned())),
                };
                log.data = masked.unwrap_or_else(|| log.data.clone());
                if log.data.is_empty() {
                    event.event = None;
                }
            }
            Some(other) => {
                if let Event::Step(step) = &*other {
                    self.note_end(step);
                }
                of_event(&mask, other);
            }
            None => {}
        }
        event
    }

    fn note_end(&mut self, step: &v1::StepUpdate) {
        if step.finished_ms == 0 {
            // Begun, perhaps again.
            self.ended.remove(&step.digest);
        } else {
            // Also where nothing has come so far: all of it may come behind.
            self.ended.insert(step.digest.clone(), Instant::now() + BEHIND);
        }
    }

    /// When [`ended`](Self::ended) may have something to tell; `None`: no step has ended.
    pub fn ends_at(&self) -> Option<Instant> {
        self.ended.values().min().copied()
    }

    /// What was kept of steps that have ended and of which nothing comes any more by then.
    pub fn ended(&mut self, now: Instant) -> Vec<AttemptEvent> {
        let is_over = |digest: &String| self.ended.get(digest).is_some_and(|over| *over <= now);
        let streams = std::mem::take(&mut self.streams).into_iter();
        let (over, goes_on) = streams.partition(|((digest, _), _)| is_over(digest));
        self.streams = goes_on;
        self.ended.retain(|_, over| *over > now);
        kept(over)
    }

    /// Puts the end of all that has ended off, as more of it may wait to be told.
    pub fn put_off(&mut self, now: Instant) {
        self.ended.values_mut().filter(|over| **over <= now).for_each(|over| *over = now + BEHIND);
    }

    /// What was kept. To be told when nothing comes any more.
    pub fn rest(&mut self) -> Vec<AttemptEvent> {
        self.ended.clear();
        kept(std::mem::take(&mut self.streams))
    }
}

/// What streams have kept, as it is told at their end.
fn kept(streams: BTreeMap<(String, u32), (Masker, i64)>) -> Vec<AttemptEvent> {
    let rest = streams.into_iter().map(|((step_digest, stream), (mut masker, at_ms))| {
        let log = StepLog { step_digest, stream, data: masker.finish().into() };
        (at_ms, log)
    });
    rest.filter(|(_, log)| !log.data.is_empty())
        .map(|(at_ms, log)| AttemptEvent { at_ms, event: Some(Event::Log(log)) })
        .collect()
}

fn of_event(mask: &Mask, event: &mut Event) {
    match event {
        Event::Step(step) => {
            let v1::StepUpdate {
                name,
                stage,
                instruction,
                error,
                digest: _,
                number: _,
                total: _,
                cached: _,
                started_ms: _,
                finished_ms: _,
            } = step;
            mask.apply([name, stage, instruction, error]);
        }
        Event::Warning(warning) => {
            let v1::Warning { rule, message, detail, url, file, source_line, line: _, stage_unused: _ } =
                warning;
            mask.apply([rule, message, url, file, source_line]);
            mask.apply(detail);
        }
        Event::Transfer(v1::Transfer { name, step_digest: _, current: _, total: _, done: _ }) => {
            mask.apply([name]);
        }
        Event::Notice(v1::Notice { text }) => mask.apply([text]),
        // By their stream.
        Event::Log(_) => {}
    }
}

/// Masks how an attempt ended.
pub fn mask_end(mask: &Mask, end: &mut v1::Finished) {
    if mask.is_empty() {
        return;
    }
    let v1::Finished { outcome, self_check, lease: _, pushed: _ } = end;
    if let Some(v1::SelfCheck { failure }) = self_check {
        mask.apply([failure]);
    }
    match outcome {
        Some(finished::Outcome::Result(result)) => of_result(mask, result),
        Some(finished::Outcome::Failure(failure)) => of_failure(mask, failure),
        // The coordinator looks for this very path.
        Some(finished::Outcome::SourceIncomplete(v1::SourceIncomplete { root: _, asked: _ })) => {}
        Some(finished::Outcome::Stopped(v1::Stopped {})) | None => {}
    }
}

fn of_result(mask: &Mask, result: &mut v1::JobResult) {
    let v1::JobResult {
        syntax_replaced,
        answer,
        step_timings,
        layers,
        digest: _,
        media_type: _,
        size: _,
        image_bytes: _,
        steps: _,
        steps_cached: _,
        engine: _,
        // Digests, and what the build itself names.
        fetched: _,
        gated: _,
    } = result;
    mask.apply([syntax_replaced]);
    for v1::CheckedLayer { verdict, diff_id: _ } in layers {
        let found = verdict.iter_mut().flat_map(|v1::LayerVerdict { found, rules: _ }| found);
        for v1::ElfFiles { paths, architecture: _, count: _ } in found {
            mask.apply(paths);
        }
    }
    if let Some(v1::CallAnswer { text, json, violation }) = answer {
        mask.apply([text, json, violation]);
    }
    for timing in step_timings {
        let v1::StepTiming { stage, instruction, cached: _, started_ms: _, finished_ms: _ } = timing;
        mask.apply([stage, instruction]);
    }
}

fn of_failure(mask: &Mask, failure: &mut v1::Failure) {
    let v1::Failure { message, step, source, log_tail, cause: _, code: _, exit_code: _ } = failure;
    mask.apply([message, step]);
    mask.apply(log_tail);
    if let Some(v1::SourceExcerpt { file, lines, first_line: _, marked_from: _, marked_to: _ }) = source {
        mask.apply([file]);
        mask.apply(lines);
    }
}

#[cfg(test)]
#[path = "told_tests.rs"]
mod tests;
