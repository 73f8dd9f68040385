//! Steps, words and diagrams say the same; every end of an attempt is one of the legal ones.

use std::collections::BTreeSet;

use farm_types::state::{
    AttemptState, BuildState, DestinationState, ExecutionState, JobState, PublicationState, TagState,
};
use farm_types::{Cause, Failure, FailureCode};

use super::attempt::{JobFate, Said, StopReason, end};
use super::build::{ExecutionEnd, after_execution};
use super::*;
use crate::work::again::Ending;

/// `from --> to: transition`, as the diagrams have it.
type Arrow = (String, String, String);

fn arrows<S: State>(transitions: &[Transition<S>]) -> BTreeSet<Arrow> {
    let one = |transition: &Transition<S>| {
        let name = transition.name().to_ascii_lowercase().replace('_', " ");
        transition
            .from()
            .iter()
            .map(move |from| (from.word().to_owned(), transition.word().to_owned(), name.clone()))
            .collect::<Vec<_>>()
    };
    transitions.iter().flat_map(one).collect()
}

/// The arrows of the diagram of `life` in the documentation.
fn drawn(life: &str) -> BTreeSet<Arrow> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/architecture.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, rest) = text
        .split_once(&format!("%% the life of {life}\n"))
        .unwrap_or_else(|| panic!("no diagram of {life}"));
    let (diagram, _) = rest.split_once("```").unwrap();
    let arrow = |line: &str| {
        let (from, rest) = line.trim().split_once(" --> ")?;
        let (to, name) = rest.split_once(": ").unwrap_or((rest, ""));
        (from != "[*]").then(|| (from.to_owned(), to.to_owned(), name.to_owned()))
    };
    diagram.lines().filter_map(arrow).collect()
}

/// Whether a life can come to its end from here.
fn reaches_an_end<S: State>(state: S, transitions: &[Transition<S>]) -> bool {
    let mut reached = vec![state];
    let mut at = 0;
    while let Some(&state) = reached.get(at) {
        let new: Vec<S> = next(state, transitions).filter(|to| !reached.contains(to)).collect();
        reached.extend(new);
        at += 1;
    }
    reached.iter().any(|state| state.is_final())
}

fn check<S: State>(life: &str, transitions: &[Transition<S>]) {
    for state in S::all() {
        assert_eq!(next(*state, transitions).next().is_none(), state.is_final(), "{life}: {}", state.word());
        assert!(reaches_an_end(*state, transitions), "{life}: {} never ends", state.word());
        for transition in transitions {
            match transition.take(*state) {
                Ok(next) => assert!(transition.from().contains(state) && next == transition.to()),
                Err(illegal) => assert!(illegal.to_string().ends_with(&format!("from {}", state.word()))),
            }
        }
    }
    assert_eq!(drawn(life), arrows(transitions), "docs/architecture.md, the life of {life}");
}

#[test]
fn steps_words_and_diagrams_say_the_same() {
    check::<BuildState>("a build", build::ALL);
    check::<ExecutionState>("an execution", execution::ALL);
    check::<JobState>("a job", job::ALL);
    check::<AttemptState>("an attempt", attempt::ALL);
    check::<PublicationState>("a publication", publication::ALL);
    check::<DestinationState>("a destination", publication::destination::ALL);
    check::<TagState>("a tag", publication::tag::ALL);
}

#[test]
fn whatever_is_heard_of_an_attempt_its_end_is_legal_and_says_what_it_means() {
    let failure = || Failure::new(Cause::User, FailureCode::RunFailed, "exit code 1");
    let said = [
        Said::Succeeded,
        Said::Failed(failure()),
        Said::Stopped,
        Said::Released { declined: true },
        Said::Released { declined: false },
        Said::Silence { unanswered: true },
        Said::Silence { unanswered: false },
    ];
    for stop in StopReason::ALL.into_iter().map(Some).chain([None]) {
        for said in &said {
            let ended = end(stop, said.clone());
            for state in [AttemptState::Offered, AttemptState::Running] {
                ended.transition.take(state).unwrap();
            }
            let unwanted = matches!(stop, Some(StopReason::Cancelled | StopReason::FailedElsewhere));
            match &ended.job {
                // What is there counts, whoever wanted it to stop.
                JobFate::Result => assert_eq!(*said, Said::Succeeded),
                JobFate::Cancelled => assert!(unwanted, "{stop:?} {said:?}"),
                JobFate::Ending(_) => assert!(!unwanted, "{stop:?} {said:?}"),
            }
            assert_eq!(*said == Said::Succeeded, ended.job == JobFate::Result);
            // A failure is kept with the attempt that has it.
            assert_eq!(ended.failure.is_some(), ended.transition == attempt::FAIL, "{stop:?} {said:?}");
            if stop == Some(StopReason::Deadline)
                && matches!(said, Said::Failed(_) | Said::Stopped | Said::Silence { .. })
            {
                assert!(
                    matches!(&ended.job, JobFate::Ending(Ending::Failed(f)) if f.cause == Cause::Deadline)
                );
            }
        }
    }
    let lost = end(None, Said::Silence { unanswered: false });
    assert_eq!((lost.transition, lost.job), (attempt::LOSE, JobFate::Ending(Ending::Lost)));
}

#[test]
fn a_build_whose_end_was_asked_for_is_cancelled_however_its_execution_ended() {
    for end in [ExecutionEnd::Built, ExecutionEnd::Failed, ExecutionEnd::Cancelled] {
        for &state in BuildState::ALL {
            match after_execution(state, end) {
                Some(transition) => {
                    let next = transition.take(state).unwrap();
                    assert_eq!(state == BuildState::Cancelling, transition == build::CANCELLED);
                    assert!(next == BuildState::Publishing || next.is_final());
                }
                None => assert!(state.is_final() || state == BuildState::Publishing, "{state}"),
            }
        }
    }
}

#[test]
fn a_publication_ends_when_all_of_it_has() {
    use DestinationState as D;
    use TagState as T;
    assert_eq!(publication::outcome(&[D::Pushed], &[T::Verified, T::Superseded]), Some(publication::PUBLISH));
    assert_eq!(
        publication::outcome(&[D::Pushed, D::Failed], &[T::Verified, T::Failed]),
        Some(publication::FAIL)
    );
    for (destination, tag) in [(D::Pending, T::Verified), (D::Pushed, T::Wanted), (D::Pushed, T::Put)] {
        assert_eq!(publication::outcome(&[destination, D::Failed], &[tag, T::Failed]), None);
    }
}
