//! The Dockerfile's frontend is asked, and nothing is built.

use farm_types::spec::Call;

use super::*;

fn asking(call: Call, dockerfile: &str) -> Solve {
    Solve { call: Some(call), ..solve(dockerfile, memory([])) }
}

/// Whether the engine knows how to check; where it doesn't (before BuildKit 0.14 and Docker 27), that it is said so.
async fn can_check(engine: &Engine) -> bool {
    let description = engine.describe().await.unwrap();
    let number = |text: &str| text.trim_start_matches('v').parse().unwrap_or(0);
    let parts: Vec<u32> = description.version.split(['.', '-', '+']).take(2).map(number).collect();
    let since = if description.kind == EngineKind::Docker { [27, 0] } else { [0, 14] };
    if parts.as_slice() >= since.as_slice() {
        return true;
    }
    let refused = failure(engine, asking(Call::Check, &format!("{}\n", from()))).await;
    assert_eq!(refused.code.as_str(), "call_unsupported");
    assert!(
        refused.message.contains(&description.version) && refused.message.contains("update it"),
        "{refused:?}"
    );
    false
}

#[tokio::test]
async fn a_check_gives_what_the_rules_find_and_runs_nothing() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    if !can_check(&engine).await {
        return;
    }
    let text = format!("{} AS base\nmaintainer me\nRUN false {}\n", from(), fresh());
    let (outcome, events) = run(&engine, asking(Call::Check, &text)).await;
    let answer = outcome.unwrap().answer.unwrap();
    assert!(answer.json.contains("MaintainerDeprecated"), "{answer:?}");
    let found: Vec<_> = events
        .iter()
        .filter_map(|event| match &event.event {
            Some(Event::Warning(warning)) => Some(warning),
            _ => None,
        })
        .collect();
    let old = found.iter().find(|warning| warning.rule == "MaintainerDeprecated").unwrap();
    assert_eq!((old.line, old.source_line.as_str(), old.file.as_str()), (2, "maintainer me", "Dockerfile"));
}

#[tokio::test]
async fn rules_that_are_errors_are_an_answer_of_a_check_and_the_failure_of_a_build() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    if !can_check(&engine).await {
        return;
    }
    let text = format!("# check=error=true\n{} as base\nmaintainer me\nRUN false {}\n", from(), fresh());
    let (outcome, events) = run(&engine, asking(Call::Check, &text)).await;
    let answer = outcome.unwrap().answer.unwrap();
    let found = |rule: &str| {
        let warnings = events.iter().filter_map(|event| event.event.as_ref());
        warnings.filter(|event| matches!(event, Event::Warning(warning) if warning.rule == rule)).count()
    };
    for rule in ["FromAsCasing", "MaintainerDeprecated"] {
        assert!(found(rule) > 0 && answer.violation.contains(rule), "{answer:?}");
    }
    let failure = failure(&engine, solve(&text, memory([]))).await;
    assert_eq!((failure.cause, failure.code.as_str()), (Cause::User, "dockerfile_check"), "{failure:?}");
    assert!(failure.message.starts_with(&answer.violation), "{failure:?}");
}

#[tokio::test]
async fn outline_and_targets_answer_for_people_and_for_machines() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    let text =
        format!("ARG VERSION=1\n{} AS base\nARG VERSION\nRUN echo $VERSION\nFROM base AS final\n", from());
    let outline = run(&engine, asking(Call::Outline, &text)).await.0.unwrap().answer.unwrap();
    assert!(outline.text.contains("VERSION") && outline.json.contains("\"args\""), "{outline:?}");
    let targets = run(&engine, asking(Call::Targets, &text)).await.0.unwrap().answer.unwrap();
    assert!(targets.text.contains("base") && targets.json.contains("final"), "{targets:?}");
}

#[tokio::test]
async fn a_dockerfile_that_cannot_be_read_fails_as_a_build_does() {
    let Some(address) = address() else { return };
    let engine = connect(&address).await;
    if !can_check(&engine).await {
        return;
    }
    let failure = failure(&engine, asking(Call::Check, "FORM scratch\n")).await;
    assert_eq!((failure.cause, failure.code.as_str()), (Cause::User, "dockerfile_syntax"));
}
