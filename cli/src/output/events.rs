//! `--progress json`: what happens, a JSON object a line.
//!
//! `type` tells what the rest is; docs/reference/progress-json.md lists all. Names are stable: new types and fields
//! may come, none goes or changes its meaning. Unlike with `--json`, what isn't known is left out.

use std::collections::HashMap;

use farm_proto::v1::attempt_event::Event;
use farm_proto::v1::{AttemptEvents, Build};
use serde_json::{Map, Value, json};

use super::progress::{SeenWarning, note};
use super::text::harmless;
use farm_types::lines::Lines;

/// Turns what the farm tells into lines; what was said is not said again.
#[derive(Debug, Default)]
pub struct EventLines {
    build_state: String,
    /// The last line of each job and attempt.
    said: HashMap<String, Value>,
    /// By attempt, step and stream.
    streams: HashMap<(String, String, u32), Stream>,
    warnings: Vec<SeenWarning>,
}

/// What a step writes, and the line that its text goes into.
type Stream = (Lines, Map<String, Value>);

impl EventLines {
    /// The warnings so far, each once.
    pub fn warnings(&self) -> &[SeenWarning] {
        &self.warnings
    }

    /// The build as it is now.
    pub fn build(&mut self, build: &Build) -> Vec<String> {
        let mut out = Vec::new();
        if build.state != self.build_state {
            self.build_state.clone_from(&build.state);
            out.push(line(json!({"type": "build", "id": build.id, "state": build.state})));
        }
        for job in &build.jobs {
            let said = json!({
                "type": "job", "id": job.id, "platform": job.platform, "state": job.state,
                "waiting": job.waiting, "digest": job.result.as_ref().map_or("", |result| &result.digest),
                "failure": job.failure.as_ref().map_or("", |failure| &failure.message),
                "taken_from": job.taken_from,
                "failure_code": job.failure.as_ref().map_or("", |failure| &failure.code),
            });
            out.extend(self.news(&job.id, said));
            for attempt in &job.attempts {
                let said = json!({
                    "type": "attempt", "id": attempt.id, "platform": job.platform, "number": attempt.number,
                    "worker": attempt.worker, "support": attempt.support, "support_reason": attempt.support_reason,
                    "state": attempt.state, "failure": attempt.failure.as_ref().map_or("", |failure| &failure.message),
                });
                out.extend(self.news(&attempt.id, said));
            }
        }
        let destinations = build.publication.iter().flat_map(|publication| &publication.destinations);
        for (destination, tag) in destinations.flat_map(|d| d.tags.iter().map(move |tag| (d, tag))) {
            let reference = super::summary::tag_reference(&destination.repository, tag);
            let digest = build.publication.as_ref().map_or("", |publication| &publication.index_digest);
            let said = json!({
                "type": "tag", "reference": reference, "state": tag.state, "digest": digest,
                "previous_digest": tag.previous_digest,
                "failure": tag.failure.as_ref().map_or("", |failure| &failure.message),
            });
            out.extend(self.news(&format!("tag {reference}"), said));
        }
        out
    }

    fn news(&mut self, what: &str, said: Value) -> Option<String> {
        let before = self.said.insert(what.to_owned(), said.clone());
        (before.as_ref() != Some(&said)).then(|| line(said))
    }

    /// A piece of an attempt's stream.
    pub fn events(&mut self, events: &AttemptEvents) -> Vec<String> {
        let mut out = Vec::new();
        let of = |kind: &str, rest: Value| {
            let mut object = json!({
                "type": kind, "platform": events.platform, "attempt": events.attempt_number,
            });
            if let (Value::Object(object), Value::Object(rest)) = (&mut object, rest) {
                object.extend(rest);
            }
            object
        };
        for event in &events.events {
            let at_ms = event.at_ms;
            match event.event.as_ref() {
                Some(Event::Step(step)) => out.push(line(of(
                    "step",
                    json!({
                        "at_ms": at_ms, "step": step.digest, "name": harmless(&step.name), "stage": step.stage,
                        "instruction": step.instruction, "cached": step.cached, "started_ms": step.started_ms,
                        "finished_ms": step.finished_ms, "error": step.error,
                    }),
                ))),
                Some(Event::Log(log)) => {
                    let key = (events.attempt_id.clone(), log.step_digest.clone(), log.stream);
                    let (lines, object) = self.streams.entry(key).or_insert_with(|| {
                        let stream = if log.stream == 2 { "stderr" } else { "stdout" };
                        let object = of("log", json!({"step": log.step_digest, "stream": stream}));
                        (Lines::default(), object.as_object().cloned().unwrap_or_default())
                    });
                    for text in lines.push(&log.data) {
                        out.push(output(object, text));
                    }
                }
                Some(Event::Warning(warning)) => {
                    note(&mut self.warnings, &events.platform, warning);
                    out.push(line(of(
                        "warning",
                        json!({
                            "rule": warning.rule, "message": warning.message, "detail": warning.detail,
                            "url": warning.url, "file": warning.file, "line": warning.line, "stage_unused": warning.stage_unused,
                        }),
                    )));
                }
                Some(Event::Transfer(transfer)) => out.push(line(of(
                    "transfer",
                    json!({
                        "at_ms": at_ms, "step": transfer.step_digest, "name": transfer.name,
                        "current_bytes": transfer.current, "total_bytes": transfer.total, "done": transfer.done,
                    }),
                ))),
                Some(Event::Notice(notice)) => {
                    out.push(line(of("notice", json!({"at_ms": at_ms, "text": harmless(&notice.text)}))));
                }
                None => {}
            }
        }
        out
    }

    /// What stood without a line break when all was over.
    pub fn finish(&mut self) -> Vec<String> {
        let rests = self.streams.values_mut();
        rests.filter_map(|(lines, object)| lines.finish().map(|text| output(object, text))).collect()
    }
}

/// One sentence from the command itself.
pub fn message(text: &str) -> String {
    line(json!({"type": "message", "text": text}))
}

fn output(object: &mut Map<String, Value>, text: String) -> String {
    object.insert("text".to_owned(), Value::String(text));
    line(Value::Object(object.clone()))
}

/// Without what says nothing: empty texts, and zeros where they mean "not known".
fn line(mut value: Value) -> String {
    if let Value::Object(object) = &mut value {
        let says_nothing = |name: &str, value: &Value| match value {
            Value::String(text) => text.is_empty() && name != "text",
            Value::Number(number) => {
                number.as_i64() == Some(0)
                    && matches!(name, "started_ms" | "finished_ms" | "line" | "total_bytes")
            }
            Value::Array(list) => list.is_empty(),
            _ => false,
        };
        object.retain(|name, value| !says_nothing(name, value));
    }
    value.to_string()
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
