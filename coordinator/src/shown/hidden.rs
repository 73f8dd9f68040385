//! What of a build's arguments a caller isn't shown: values that look like secrets ([`looks_secret`]).
//!
//! They are shown to admins of the project (so also of the farm), and to whoever submitted the build by a token that may
//! submit. Everybody else gets [`HIDDEN`] in their place: in the record, and in what an engine says of steps, whose names
//! have values in them. Records keep the values, and workers get them: a retry goes on with what was given. What steps
//! print is nobody's to change.
//!
//! Invariant: no `v1::Build` and no event leaves but through here ([`super::present`], `grpc::logs` and `web::log` take a
//! [`Hidden`]); nor what notices tell of one (`notices::facts`), and check runs (`reconcile::hooks::checks`).

use farm_proto::v1;
use farm_proto::v1::attempt_event::Event;
use farm_store::builds::record::BuildRecord;
use farm_types::secret::HIDDEN;
use farm_types::{Role, looks_secret};
use tonic::Status;

use crate::people::Member;
use crate::shared::Shared;
use crate::unstored;

/// A shorter value isn't looked for in texts, bytes: it would be found everywhere.
const SHORTEST: usize = 4;
/// So many retries of retries are gone back.
const RETRIES: usize = 20;

/// What a caller isn't shown of one build.
#[derive(Clone, Default)]
pub struct Hidden {
    /// The values. A longer one may hold a shorter, and comes first.
    values: Vec<String>,
}

impl Hidden {
    /// What this caller isn't shown of a build.
    ///
    /// # Errors
    /// The database can't be reached.
    pub async fn of(shared: &Shared, member: &Member, record: &BuildRecord) -> Result<Self, Status> {
        let hidden = Self::in_list(member, record);
        if hidden.values.is_empty() || !submitted(member, record) {
            return Ok(hidden);
        }
        // A retry is of somebody's arguments: only what one has given oneself is one's own.
        let mut retried = record.retry_of.clone();
        for _ in 0..RETRIES {
            let Some(id) = retried else { return Ok(Self::default()) };
            let first = shared.store.build(member.project, &id).await.map_err(unstored::store)?;
            if !submitted(member, &first) {
                break;
            }
            retried = first.retry_of;
        }
        Ok(hidden)
    }

    /// The same of one in a list, where of retries it isn't asked who gave the arguments.
    pub fn in_list(member: &Member, record: &BuildRecord) -> Self {
        let is_admin = member.caller.principal.role_in(member.project) == Some(Role::Admin);
        if is_admin || (submitted(member, record) && record.retry_of.is_none()) {
            return Self::default();
        }
        Self::from_others(record)
    }

    /// What those aren't shown who aren't callers at all, so also what the submitter sees.
    pub fn from_others(record: &BuildRecord) -> Self {
        let args = record.spec.build_args.iter();
        Self::values(args.filter(|(name, value)| looks_secret(name, value).is_some()).map(|(_, value)| value))
    }

    fn values<'a>(values: impl Iterator<Item = &'a String>) -> Self {
        let mut values: Vec<String> = values.cloned().collect();
        values.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        values.dedup();
        Self { values }
    }

    /// Takes it out of a build.
    pub fn build(&self, build: &mut v1::Build) {
        if self.values.is_empty() {
            return;
        }
        for value in build.spec.iter_mut().flat_map(|spec| spec.build_args.values_mut()) {
            match self.values.contains(value) {
                true => HIDDEN.clone_into(value),
                false => self.text(value),
            }
        }
        self.text(&mut build.publish_trouble);
        build.failure.iter_mut().for_each(|failure| self.failure(failure));
        for job in &mut build.jobs {
            job.failure.iter_mut().for_each(|failure| self.failure(failure));
            let attempts = job.attempts.iter_mut().flat_map(|attempt| &mut attempt.failure);
            attempts.for_each(|failure| self.failure(failure));
            // `outline` lists arguments with their values.
            for answer in job.result.iter_mut().flat_map(|result| &mut result.answer) {
                [&mut answer.text, &mut answer.json, &mut answer.violation]
                    .into_iter()
                    .for_each(|t| self.text(t));
            }
        }
    }

    fn failure(&self, failure: &mut v1::Failure) {
        self.text(&mut failure.message);
        self.text(&mut failure.step);
    }

    /// Takes it out of an event, but for what a step printed.
    pub fn event(&self, event: &mut v1::AttemptEvent) {
        if self.values.is_empty() {
            return;
        }
        match &mut event.event {
            Some(Event::Step(step)) => {
                let texts = [&mut step.name, &mut step.stage, &mut step.instruction, &mut step.error];
                texts.into_iter().for_each(|text| self.text(text));
            }
            Some(Event::Warning(warning)) => {
                self.text(&mut warning.message);
                warning.detail.iter_mut().for_each(|text| self.text(text));
            }
            Some(Event::Transfer(transfer)) => self.text(&mut transfer.name),
            Some(Event::Notice(notice)) => self.text(&mut notice.text),
            Some(Event::Log(_)) | None => {}
        }
    }

    /// Takes it out of a text, also as JSON has it, and as BuildKit's has it (Go's `json.Marshal` escapes these three).
    /// Takes it out of a text.
    pub fn text(&self, text: &mut String) {
        for value in self.values.iter().filter(|value| value.len() >= SHORTEST) {
            let quoted = serde_json::to_string(value).unwrap_or_default();
            let json = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
            let of_go = json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
            [value, json, &of_go].into_iter().for_each(|written| mask(text, written));
        }
    }
}

fn submitted(member: &Member, record: &BuildRecord) -> bool {
    let role = member.caller.principal.role_in(member.project);
    member.caller.principal.has_submitted(record) && role >= Some(Role::Builder)
}

/// Puts [`HIDDEN`] in the place of a value. Long texts are cut, by workers in their middle or at their end; so a piece
/// from its beginning or to its end counts as well, if it is half of it or more.
fn mask(text: &mut String, value: &str) {
    let half = value.len().div_ceil(2).max(SHORTEST);
    let Some(begin) = (half..=value.len()).find_map(|at| value.get(..at)) else { return };
    let Some(end) = (0..=value.len() - half).rev().find_map(|at| value.get(at..)) else { return };
    if text.contains(begin) {
        let (mut out, mut rest) = (String::new(), text.as_str());
        while let Some((before, _)) = rest.split_once(begin) {
            let found = &rest[before.len()..];
            let same =
                found.chars().zip(value.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8());
            out.push_str(before);
            out.push_str(HIDDEN);
            rest = &found[same.sum()..];
        }
        out.push_str(rest);
        *text = out;
    }
    if text.contains(end) {
        *text = text.replace(end, HIDDEN);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hidden(values: &[&str]) -> Hidden {
        let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        Hidden::values(values.iter())
    }

    fn shown(values: &[&str], text: &str) -> String {
        let mut text = text.to_owned();
        hidden(values).text(&mut text);
        text
    }

    #[test]
    fn values_are_taken_out_of_texts_wherever_they_stand() {
        assert_eq!(shown(&["hunter2"], "RUN curl -u ada:hunter2 x hunter2"), "RUN curl -u ada:… x …");
        assert_eq!(shown(&["hunter", "hunter2"], "hunter2 hunter"), "… …");
        assert_eq!(shown(&["a\"b\nc"], r#"{"value":"a\"b\nc"}"#), r#"{"value":"…"}"#);
        assert_eq!(shown(&["a<b&\""], r#"{"value":"a\u003cb\u0026\""}"#), r#"{"value":"…"}"#);
        assert_eq!(shown(&["hunter2"], "RUN echo"), "RUN echo");
        // What is as short as that is in every word.
        assert_eq!(shown(&["abc"], "RUN abcd"), "RUN abcd");
    }

    #[test]
    fn what_was_cut_within_a_value_shows_less_than_half_of_it() {
        assert_eq!(shown(&["0123456789"], "RUN x 012345"), "RUN x …");
        assert_eq!(shown(&["0123456789"], "RUN x 0123456 […] 56789 y"), "RUN x … […] … y");
        assert_eq!(shown(&["0123456789"], "RUN x 0123"), "RUN x 0123");
        assert_eq!(shown(&["äöüäöüäöü"], "RUN äöüäöü y"), "RUN … y");
    }

    #[test]
    fn a_record_keeps_its_names_and_what_looks_like_nothing() {
        let args =
            [("TOKEN", "hunter2"), ("PIN", "abc"), ("VERSION", "1.4"), ("URL", "https://x/?t=hunter2")];
        let mut build = v1::Build {
            spec: Some(v1::BuildSpec {
                build_args: args.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
                ..Default::default()
            }),
            failure: Some(v1::Failure {
                step: "RUN hunter2".into(),
                message: "hunter2: no".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let whole = build.clone();
        Hidden::default().build(&mut build);
        assert_eq!(build, whole);
        hidden(&["hunter2", "abc"]).build(&mut build);
        let mut args: Vec<_> = build.spec.unwrap().build_args.into_iter().collect();
        args.sort();
        let expected = [("PIN", "…"), ("TOKEN", "…"), ("URL", "https://x/?t=…"), ("VERSION", "1.4")];
        assert_eq!(args, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let failure = build.failure.unwrap();
        assert_eq!((failure.step.as_str(), failure.message.as_str()), ("RUN …", "…: no"));
    }

    #[test]
    fn events_show_no_value_but_in_what_a_step_prints() {
        let hidden = hidden(&["hunter2"]);
        let said = || "x hunter2".to_owned();
        let log = Event::Log(v1::StepLog { data: said().into_bytes().into(), ..Default::default() });
        let events = [
            Event::Step(v1::StepUpdate {
                name: said(),
                instruction: said(),
                error: said(),
                stage: said(),
                ..Default::default()
            }),
            Event::Warning(v1::Warning { message: said(), detail: vec![said()], ..Default::default() }),
            Event::Transfer(v1::Transfer { name: said(), ..Default::default() }),
            Event::Notice(v1::Notice { text: said() }),
            log.clone(),
        ];
        let masked = events.map(|event| {
            let mut event = v1::AttemptEvent { at_ms: 1, event: Some(event) };
            hidden.event(&mut event);
            event.event.unwrap()
        });
        let (last, others) = masked.split_last().unwrap();
        assert_eq!(*last, log);
        for event in others {
            let text = format!("{event:?}");
            assert!(text.contains("x …") && !text.contains("hunter2"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_value_is_left(
            value in "[a-c\"é]{4,12}", before in "[a-c\"é ]{0,12}", behind in "[a-c\"é ]{0,12}"
        ) {
            let text = shown(&[&value], &format!("{before}{value}{behind}"));
            prop_assert!(!text.contains(&value), "{text}");
        }

        #[test]
        fn any_text_is_taken(value: String, text: String) {
            let masked = shown(&[&value], &text);
            if value.len() >= SHORTEST && !value.contains('…') {
                prop_assert!(!masked.contains(&value));
            }
        }
    }
}
