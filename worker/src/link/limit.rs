//! How much of what the steps write is kept: the coordinator says so with the offer. Counted as it is stored: each piece of
//! output with its step's name and some bytes around it, or a step that writes dot by dot would take a hundred times as much.
//!
//! Beyond it output is dropped; a line of its own says so in each step that it hits. All else goes on as before: how the steps
//! fare, warnings, the end.

use std::collections::HashSet;

use farm_proto::v1::attempt_event::Event;
use farm_proto::v1::{AttemptEvent, StepLog};

/// What is stored around a piece of output besides its step's name: its time, its stream, lengths.
const AROUND: usize = 32;

/// Cuts off what an attempt's steps write beyond the limit, and says so once for each step.
#[derive(Debug, Default)]
pub struct LogLimit {
    /// Bytes; `None`: no limit.
    most: Option<u64>,
    taken: u64,
    /// The steps whose output was cut off, and which were told so.
    cut: HashSet<String>,
}

impl LogLimit {
    /// So many bytes; 0: no limit.
    pub fn of(bytes: u64) -> Self {
        Self { most: (bytes > 0).then_some(bytes), ..Self::default() }
    }

    /// What is kept of an event.
    pub fn take(&mut self, event: AttemptEvent) -> Vec<AttemptEvent> {
        let Some(most) = self.most else { return vec![event] };
        let AttemptEvent { at_ms, event: Some(Event::Log(mut log)) } = event else { return vec![event] };
        let around = log.step_digest.len() + AROUND;
        let left = usize::try_from(most - self.taken).unwrap_or(usize::MAX).saturating_sub(around);
        let is_cut = log.data.len() > left;
        log.data.truncate(left);
        if !log.data.is_empty() {
            self.taken += u64::try_from(log.data.len() + around).unwrap_or(u64::MAX);
        }
        let mut kept = Vec::new();
        if is_cut && self.cut.insert(log.step_digest.clone()) {
            let text = format!(
                "\n[farm: cut off here. The steps have written as much as is kept of one attempt: {} \
                 (limits.log_bytes of the coordinator); the step goes on]\n",
                amount(most)
            );
            let marker = StepLog { data: text.into(), ..log.clone() };
            kept.push(AttemptEvent { at_ms, event: Some(Event::Log(marker)) });
        }
        if !log.data.is_empty() {
            kept.insert(0, AttemptEvent { at_ms, event: Some(Event::Log(log)) });
        }
        kept
    }
}

/// Bytes for people.
fn amount(bytes: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    match bytes {
        0..10_240 => format!("{bytes} bytes"),
        10_240..MIB => format!("{} KiB", bytes / 1024),
        _ => format!("{} MiB", bytes / MIB),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notice;

    fn log(step: &str, text: &str) -> AttemptEvent {
        let log = StepLog { step_digest: step.into(), stream: 1, data: text.to_owned().into() };
        AttemptEvent { at_ms: 7, event: Some(Event::Log(log)) }
    }

    fn texts(events: Vec<AttemptEvent>) -> Vec<String> {
        let text = |event: AttemptEvent| match event.event {
            Some(Event::Log(log)) => String::from_utf8(log.data.to_vec()).unwrap(),
            other => format!("{other:?}"),
        };
        events.into_iter().map(text).collect()
    }

    #[test]
    fn output_beyond_it_is_dropped_and_each_step_says_so_once() {
        let mut limit = LogLimit::of(8 + 2 * 33);
        assert_eq!(texts(limit.take(log("a", "12345"))), ["12345"]);
        let cut = texts(limit.take(log("a", "67890")));
        assert_eq!((cut.len(), cut[0].as_str()), (2, "678"));
        assert!(cut[1].starts_with("\n[farm: cut off here.") && cut[1].contains("74 bytes"), "{cut:?}");
        assert!(limit.take(log("a", "more")).is_empty());
        assert_eq!(texts(limit.take(log("b", "other"))).len(), 1);
        assert!(limit.take(log("b", "more")).is_empty());
        assert_eq!(limit.take(notice("goes on")).len(), 1);
    }

    #[test]
    fn what_fits_exactly_is_not_cut_and_without_a_limit_nothing_is() {
        let mut limit = LogLimit::of(4 + 33);
        assert_eq!(texts(limit.take(log("a", "1234"))), ["1234"]);
        let mut limit = LogLimit::of(0);
        assert_eq!(texts(limit.take(log("a", "1234"))), ["1234"]);
        assert_eq!([amount(512), amount(65_536), amount(64 << 20)], ["512 bytes", "64 KiB", "64 MiB"]);
    }
}
