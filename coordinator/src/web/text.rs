//! The events of attempts as lines of text: what steps print behind two blanks, what is farm's own without.
//!
//! Invariants: a line holds nothing that moves a cursor or turns the direction of writing; what is kept between two pieces is bounded,
//! however many steps and lines without an end there are.

use std::collections::HashMap;

use farm_proto::v1::attempt_event::Event;
use farm_proto::v1::{AttemptEvent, StepLog, StepUpdate};
use farm_types::lines::Lines;
use farm_types::text::{first_line, harmless, span};

/// A step's name is shown up to so many characters.
const NAME: usize = 200;
/// So many steps' names are remembered; of later ones only the output is shown.
const STEPS: usize = 10_000;
/// So many lines that have no end yet are waited for at once.
const OPEN: usize = 64;
/// The engine's own housekeeping is told only when it takes that long, milliseconds.
const HOUSEKEEPING_MS: i64 = 1000;

/// One attempt's text, as it comes.
#[derive(Debug, Default)]
pub struct Text {
    names: HashMap<String, String>,
    /// Ends that were told.
    ended: HashMap<String, i64>,
    open: HashMap<(String, u32), Lines>,
    /// The step whose output came last.
    talking: String,
}

impl Text {
    /// The lines of these events.
    pub fn events(&mut self, events: &[AttemptEvent]) -> Vec<String> {
        let mut out = Vec::new();
        for event in events.iter().filter_map(|event| event.event.as_ref()) {
            match event {
                Event::Step(step) => self.step(step, &mut out),
                Event::Log(log) => self.log(log, &mut out),
                Event::Notice(notice) => out.push(harmless(&notice.text)),
                Event::Warning(warning) => {
                    out.push(format!("warning: {}", first_line(&warning.message, NAME)));
                }
                Event::Transfer(_) => {}
            }
        }
        out
    }

    /// What stood without a line break at the end.
    pub fn finish(&mut self) -> Vec<String> {
        let mut rests: Vec<((String, u32), Lines)> = self.open.drain().collect();
        rests.sort_by(|(one, _), (other, _)| one.cmp(other));
        rests.into_iter().filter_map(|(_, mut lines)| lines.finish()).map(indented).collect()
    }

    fn step(&mut self, step: &StepUpdate, out: &mut Vec<String>) {
        if self.names.len() < STEPS || self.names.contains_key(&step.digest) {
            self.names.insert(step.digest.clone(), first_line(&step.name, NAME));
        }
        let is_over = step.finished_ms > 0 || step.cached || !step.error.is_empty();
        if !is_over {
            return;
        }
        for stream in 0..=2 {
            let rest = self.open.remove(&(step.digest.clone(), stream));
            out.extend(rest.and_then(|mut lines| lines.finish()).map(indented));
        }
        // A step that the engine pauses ends more than once.
        let known = self.ended.get(&step.digest);
        if known.is_some() && step.error.is_empty() || (known.is_none() && self.ended.len() >= STEPS) {
            return;
        }
        self.ended.insert(step.digest.clone(), step.finished_ms);
        let (name, took) = (first_line(&step.name, NAME), step.finished_ms - step.started_ms);
        if !step.error.is_empty() {
            out.push(format!("{name}  failed after {}: {}", span(took), first_line(&step.error, 400)));
        } else if step.cached {
            out.push(format!("{name}  CACHED"));
        } else if !name.starts_with("[internal]") || took >= HOUSEKEEPING_MS {
            out.push(format!("{name}  {}", span(took)));
        }
    }

    fn log(&mut self, log: &StepLog, out: &mut Vec<String>) {
        let key = (log.step_digest.clone(), log.stream);
        if self.open.len() >= OPEN && !self.open.contains_key(&key) {
            out.extend(self.finish());
        }
        let lines = self.open.entry(key).or_default().push(&log.data);
        if lines.is_empty() {
            return;
        }
        // Whose output it is, when it isn't that of the step that spoke last.
        if self.talking != log.step_digest {
            self.talking.clone_from(&log.step_digest);
            out.extend(self.names.get(&log.step_digest).filter(|name| !name.is_empty()).cloned());
        }
        out.extend(lines.into_iter().map(indented));
    }
}

fn indented(line: String) -> String {
    format!("  {line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(digest: &str, name: &str, finished_ms: i64, error: &str) -> AttemptEvent {
        let step = StepUpdate {
            digest: digest.into(),
            name: name.into(),
            started_ms: 1000,
            finished_ms,
            error: error.into(),
            ..Default::default()
        };
        AttemptEvent { at_ms: 1, event: Some(Event::Step(step)) }
    }

    fn log(digest: &str, stream: u32, data: &str) -> AttemptEvent {
        let log = StepLog { step_digest: digest.into(), stream, data: data.to_owned().into() };
        AttemptEvent { at_ms: 1, event: Some(Event::Log(log)) }
    }

    #[test]
    fn what_steps_print_stands_below_their_names_and_moves_nothing() {
        let mut text = Text::default();
        let lines = text.events(&[
            step("a", "[1/2] RUN one", 0, ""),
            step("b", "[2/2] RUN \u{1b}[31mtwo", 0, ""),
            log("a", 1, "first \u{1b}[2J\u{202e}li"),
            log("b", 2, "<script>alert(1)</script>\n"),
            log("a", 1, "ne\n 10%\r100%\nrest"),
            step("a", "[1/2] RUN one", 3500, ""),
            step("a", "[1/2] RUN one", 3600, ""),
            step("b", "[2/2] RUN two", 9000, "exit code: 1\nmore"),
        ]);
        assert_eq!(
            lines,
            [
                "[2/2] RUN two",
                "  <script>alert(1)</script>",
                "[1/2] RUN one",
                "  first line",
                "  100%",
                "  rest",
                "[1/2] RUN one  2.5 s",
                "[2/2] RUN two  failed after 8.0 s: exit code: 1 …",
            ]
        );
        assert!(text.finish().is_empty());
    }

    #[test]
    fn lines_without_an_end_are_kept_of_few_steps_at_once() {
        let mut text = Text::default();
        let mut shown = 0;
        for number in 0..1000 {
            shown += text.events(&[log(&format!("{number}"), 1, "no end")]).len();
            assert!(text.open.len() <= OPEN);
        }
        shown += text.finish().len();
        assert_eq!(shown, 1000);
    }
}
