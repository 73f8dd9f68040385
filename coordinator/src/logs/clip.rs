//! What is taken of an attempt that has written more than its worker should have let through, as an older one does that knows
//! no limit.

use farm_proto::v1::attempt_event::Event;
use farm_proto::v1::{AttemptEvent, AttemptEventList, StepLog};
use prost::Message as _;

/// Counts what is stored of one attempt's stream.
#[derive(Debug, Clone, Copy)]
pub struct Clip {
    most: u64,
    stored: u64,
    told: bool,
}

impl Clip {
    /// For steps that may write `log_bytes`, of which `stored` bytes of chunks are there already. What goes with the output
    /// (steps, names, encoding) is allowed a quarter of it and a megabyte.
    pub fn new(log_bytes: u64, stored: u64) -> Self {
        let most = log_bytes.saturating_add(log_bytes / 4).saturating_add(1024 * 1024);
        // Whoever was told is told again after a lost connection, which does no harm.
        Self { most, stored, told: false }
    }

    /// The chunk to store in the place of this one: the same while there is room, then one without output.
    pub fn take(&mut self, payload: bytes::Bytes) -> bytes::Bytes {
        let bytes = |payload: &bytes::Bytes| u64::try_from(payload.len()).unwrap_or(u64::MAX);
        let kept = match self.stored.saturating_add(bytes(&payload)) > self.most {
            true => self.without_output(&payload),
            false => payload,
        };
        self.stored = self.stored.saturating_add(bytes(&kept));
        kept
    }

    fn without_output(&mut self, payload: &bytes::Bytes) -> bytes::Bytes {
        // One that can't be read is kept from nobody by being empty.
        let mut list = AttemptEventList::decode(payload.clone()).unwrap_or_default();
        let first = list.events.iter().find_map(|event| match &event.event {
            Some(Event::Log(log)) => Some((event.at_ms, log.step_digest.clone(), log.stream)),
            _ => None,
        });
        list.events.retain(|event| matches!(event.event, Some(Event::Step(_) | Event::Notice(_))));
        if let Some((at_ms, step_digest, stream)) = first.filter(|_| !self.told) {
            self.told = true;
            let data = "\n[farm: cut off here. The steps have written more than is kept of one attempt \
                        (limits.log_bytes of the coordinator); the step goes on]\n";
            let marker = StepLog { step_digest, stream, data: data.into() };
            list.events.insert(0, AttemptEvent { at_ms, event: Some(Event::Log(marker)) });
        }
        list.encode_to_vec().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farm_proto::v1::StepUpdate;

    fn chunk(bytes: usize) -> bytes::Bytes {
        let log = StepLog { step_digest: "d".into(), stream: 1, data: vec![b'x'; bytes].into() };
        let events = [Event::Log(log), Event::Step(StepUpdate { digest: "d".into(), ..Default::default() })];
        let events = events.map(|event| AttemptEvent { at_ms: 1, event: Some(event) }).to_vec();
        AttemptEventList { events }.encode_to_vec().into()
    }

    #[test]
    fn beyond_the_limit_steps_are_kept_output_is_not_and_it_is_said_once() {
        let mut clip = Clip::new(1000, 1024 * 1024);
        let whole = chunk(500);
        assert_eq!(clip.take(whole.clone()), whole);
        let lists: Vec<AttemptEventList> =
            (0..2).map(|_| AttemptEventList::decode(clip.take(chunk(2000))).unwrap()).collect();
        let [first, second] = &lists[..] else { panic!() };
        let Some(Event::Log(marker)) = &first.events[0].event else { panic!("{first:?}") };
        assert!(marker.step_digest == "d" && marker.data.starts_with(b"\n[farm: cut off"), "{marker:?}");
        assert!(matches!(first.events[1].event, Some(Event::Step(_))), "{first:?}");
        assert_eq!(second.events.len(), 1, "{second:?}");
    }
}
