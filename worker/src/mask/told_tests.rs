//! Events and ends, whose every text may hold a value.

use farm_proto::v1::{CallAnswer, SourceExcerpt, StepTiming, StepUpdate, Transfer, Warning};

use super::*;
use crate::notice;

const VALUE: &str = "hunter2-secret";

fn masking() -> Masking {
    let masking = Masking::default();
    assert_eq!(masking.begin([("token", VALUE.as_bytes())]), []);
    masking
}

fn log(step: &str, stream: u32, text: &str) -> AttemptEvent {
    let log = StepLog { step_digest: step.into(), stream, data: text.to_owned().into() };
    AttemptEvent { at_ms: 5, event: Some(Event::Log(log)) }
}

fn text(event: &AttemptEvent) -> Option<&str> {
    match &event.event {
        Some(Event::Log(log)) => Some(std::str::from_utf8(&log.data).unwrap()),
        None => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_value_that_is_split_over_events_is_masked_in_each_stream() {
    let mut telling = Telling::new(masking());
    let mut told = |step, stream, said| text(&telling.mask(log(step, stream, said))).map(str::to_owned);
    assert_eq!(told("a", 1, "it is hunter2").as_deref(), Some("it is "));
    // Others' output in between changes nothing.
    assert_eq!(told("a", 2, "-secret\n").as_deref(), Some("-secret\n"));
    assert_eq!(told("b", 1, "hunter").as_deref(), None);
    assert_eq!(told("a", 1, "-secret, so\n").as_deref(), Some("***, so\n"));
    assert_eq!(told("b", 2, "2-secret\n").as_deref(), Some("2-secret\n"));
    assert_eq!(told("b", 2, "hun").as_deref(), None);
    let rest = telling.rest();
    assert_eq!(rest.iter().map(text).collect::<Vec<_>>(), [Some("hunter"), Some("hun")]);
    assert_eq!(rest[0].at_ms, 5);
    assert!(telling.rest().is_empty());
}

#[test]
fn the_end_of_a_steps_output_is_told_a_moment_after_the_step_and_not_before_all_of_it_is_there() {
    let mut telling = Telling::new(masking());
    let step = |digest: &str, finished_ms| {
        let step = StepUpdate { digest: digest.into(), finished_ms, ..StepUpdate::default() };
        AttemptEvent { at_ms: 6, event: Some(Event::Step(step)) }
    };
    assert_eq!(text(&telling.mask(log("a", 1, "no line break: hunt"))), Some("no line break: "));
    assert_eq!(text(&telling.mask(log("b", 1, "it goes on: hunt"))), Some("it goes on: "));
    telling.mask(step("b", 0));
    assert_eq!(telling.ends_at(), None);
    telling.mask(step("a", 6));
    let soon = telling.ends_at().unwrap();
    // An engine's word of the end comes before the last output: a value that is split there is masked all the same.
    assert_eq!(text(&telling.mask(log("a", 1, "er2-sec"))), None);
    assert_eq!(text(&telling.mask(log("a", 1, "ret and hun"))), Some("*** and "));
    let end = telling.ends_at().unwrap();
    assert!(end >= soon && telling.ended(end - Duration::from_millis(1)).is_empty());
    telling.put_off(end);
    assert!(telling.ended(end).is_empty());
    let end = telling.ends_at().unwrap();
    let rest = telling.ended(end);
    assert_eq!(rest.iter().map(text).collect::<Vec<_>>(), [Some("hun")]);
    assert_eq!(telling.ends_at(), None);
    // All of a short step comes behind its end.
    telling.mask(step("short", 6));
    assert_eq!(text(&telling.mask(log("short", 1, "hun"))), None);
    let end = telling.ends_at().unwrap();
    assert_eq!(telling.ended(end).iter().map(text).collect::<Vec<_>>(), [Some("hun")]);
    // What is begun again goes on.
    telling.mask(step("b", 7));
    telling.mask(step("b", 0));
    assert_eq!(telling.ends_at(), None);
    assert_eq!(telling.rest().iter().map(text).collect::<Vec<_>>(), [Some("hunt")]);
}

#[test]
fn no_text_of_an_event_holds_a_value() {
    let said = || format!("a {VALUE} b");
    let events = [
        Event::Step(StepUpdate {
            digest: "sha256:1".into(),
            name: said(),
            stage: said(),
            instruction: said(),
            error: said(),
            ..StepUpdate::default()
        }),
        Event::Warning(Warning {
            rule: said(),
            message: said(),
            detail: vec![said(), said()],
            url: said(),
            file: said(),
            source_line: said(),
            ..Warning::default()
        }),
        Event::Transfer(Transfer { name: said(), ..Transfer::default() }),
    ];
    let mut telling = Telling::new(masking());
    for event in
        events.into_iter().map(|event| AttemptEvent { at_ms: 0, event: Some(event) }).chain([notice(said())])
    {
        let before = format!("{event:?}").matches(VALUE).count();
        let told = format!("{:?}", telling.mask(event));
        assert_eq!((told.matches(VALUE).count(), told.matches("a *** b").count()), (0, before), "{told}");
    }
    // Before the secrets are there, nothing is looked for.
    let masking = Masking::default();
    let mut telling = Telling::new(masking.clone());
    assert_eq!(text(&telling.mask(log("a", 1, VALUE))), Some(VALUE));
    assert_eq!(masking.begin([("token", VALUE.as_bytes())]), []);
    assert_eq!(text(&telling.mask(log("a", 1, VALUE))), Some("***"));
}

#[test]
fn no_text_of_an_end_holds_a_value() {
    let said = || format!("a {VALUE} b");
    let result = v1::JobResult {
        syntax_replaced: said(),
        answer: Some(CallAnswer { text: said(), json: said(), violation: said() }),
        step_timings: vec![StepTiming { stage: said(), instruction: said(), ..StepTiming::default() }],
        layers: vec![v1::CheckedLayer {
            verdict: Some(v1::LayerVerdict {
                found: vec![v1::ElfFiles { paths: vec![said()], ..v1::ElfFiles::default() }],
                ..v1::LayerVerdict::default()
            }),
            ..v1::CheckedLayer::default()
        }],
        ..v1::JobResult::default()
    };
    let failure = v1::Failure {
        message: said(),
        step: said(),
        source: Some(SourceExcerpt { file: said(), lines: vec![said()], ..SourceExcerpt::default() }),
        log_tail: vec![said()],
        exit_code: Some(3),
        ..v1::Failure::default()
    };
    let mask = masking().mask();
    for outcome in [finished::Outcome::Result(result), finished::Outcome::Failure(failure)] {
        let mut end = v1::Finished {
            lease: None,
            outcome: Some(outcome),
            self_check: Some(v1::SelfCheck { failure: said() }),
            pushed: None,
        };
        let before = format!("{end:?}").matches(VALUE).count();
        mask_end(&mask, &mut end);
        let told = format!("{end:?}");
        assert_eq!((told.matches(VALUE).count(), told.matches("a *** b").count()), (0, before), "{told}");
    }
}
