//! Asking a Dockerfile's frontend instead of building: BuildKit's subrequests (`frontend/subrequests/{lint,outline,targets}`).
//!
//! A frontend's answer does not come with a plain solve. So the solve is opened without a frontend, which makes the engine
//! wait for what a client does on its behalf over the gateway (`frontend/gateway/pb/gateway.proto`, as buildx does it for
//! every build): there the frontend is run, and what it answers is at hand.
//!
//! A check is two questions. The lint request looks at all stages, but takes the engine's own platform for the target. So
//! the frontend is also run as for a build of the job's platform, up to where steps would run: what it warns of then comes
//! with the status, as that of a build. Where the file's rules are errors (`failure/violation.rs`) this one is refused; what
//! was found is an answer all the same.

use std::collections::HashMap;

use base64::Engine as _;
use bollard_buildkit_proto::moby::buildkit::v1::SolveRequest;
use bollard_buildkit_proto::moby::buildkit::v1::control_client::ControlClient;
use bollard_buildkit_proto::moby::buildkit::v1::frontend;
use bollard_buildkit_proto::moby::buildkit::v1::frontend::llb_bridge_client::LlbBridgeClient;
use farm_proto::v1::attempt_event::Event;
use farm_proto::v1::{AttemptEvent, CallAnswer, Warning};
use farm_types::spec::Call;
use farm_types::{Cause, Failure, FailureCode, ImageRef, Platform};
use serde::Deserialize;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::buildkit::engine::connect::MAX_MESSAGE_BYTES;
use crate::buildkit::failure::{denied, violation};

/// The metadata that names the solve on whose behalf a gateway's call is made (BuildKit, `client/buildid`).
const BUILD_ID: &str = "buildkit-controlapi-buildid";

/// The longest answer that is passed on, bytes each of text and JSON: a build is told with those of all its platforms.
const LONGEST: usize = 256 << 10;
/// As many findings are passed on.
const MOST_FINDINGS: usize = 1000;

/// The frontend's name of a request.
fn request_id(call: Call) -> &'static str {
    match call {
        Call::Check => "frontend.lint",
        Call::Outline => "frontend.outline",
        Call::Targets => "frontend.targets",
    }
}

/// Asks; `solve` is the request as it would be made for a build.
///
/// # Errors
/// The frontend's own, as it would come of a build; `UNIMPLEMENTED` when it does not know the request.
pub(crate) async fn ask(channel: Channel, solve: SolveRequest, call: Call) -> Result<CallAnswer, Status> {
    let opened = SolveRequest {
        r#ref: solve.r#ref.clone(),
        session: solve.session.clone(),
        internal: true,
        // It counts for all that is done on its behalf.
        source_policy: solve.source_policy.clone(),
        ..SolveRequest::default()
    };
    let reference = solve.r#ref.clone();
    let mut control = ControlClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut bridge = LlbBridgeClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let asked = async {
        // The engine waits some seconds for the solve that this is part of.
        bridge.ping(within(&reference, frontend::PingRequest {})?).await?;
        let frontend_options: HashMap<String, String> = solve.frontend_attrs;
        let mut options = frontend_options.clone();
        options.insert("requestid".to_owned(), request_id(call).to_owned());
        options.insert("frontend.caps".to_owned(), "moby.buildkit.frontend.subrequests".to_owned());
        let request = frontend::SolveRequest {
            frontend: solve.frontend,
            frontend_opt: options,
            allow_result_return: true,
            allow_result_array_ref: true,
            ..Default::default()
        };
        let build = frontend::SolveRequest {
            frontend_opt: frontend_options,
            frontend: request.frontend.clone(),
            allow_result_return: true,
            allow_result_array_ref: true,
            ..Default::default()
        };
        let answer = bridge.solve(within(&reference, request)?).await?;
        let mut violation = None;
        if call == Call::Check {
            // Nothing asks for the result's files, so no step runs.
            let built = bridge.solve(within(&reference, build)?).await;
            if let Err(status) = built {
                violation = Some(violation::sentence(status.message()).ok_or(status)?);
            }
        }
        let end = frontend::ReturnRequest { result: Some(frontend::Result::default()), error: None };
        bridge.r#return(within(&reference, end)?).await?;
        Ok::<_, Status>((answer.into_inner(), violation.unwrap_or_default()))
    };
    let solving = control.solve(opened);
    tokio::pin!(asked, solving);
    // Dropping the solve ends it in the engine.
    let asked = tokio::select! {
        biased;
        asked = &mut asked => asked,
        solved = &mut solving => match solved {
            Ok(_) => asked.await,
            Err(status) => Err(status),
        },
    };
    let (answer, violation) = asked.map_err(|status| match status.message() {
        message if message.contains("unsupported request") => Status::unimplemented(message),
        _ => status,
    })?;
    let mut metadata = answer.result.map(|result| result.metadata).unwrap_or_default();
    let mut text = |key: &str| {
        let bytes = metadata.remove(key).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ok(CallAnswer { text: text("result.txt"), json: text("result.json"), violation })
}

fn within<T>(reference: &str, message: T) -> Result<Request<T>, Status> {
    let mut request = Request::new(message);
    let value = reference.parse().map_err(|_| Status::internal("the solve's name is no header"))?;
    request.metadata_mut().insert(BUILD_ID, value);
    Ok(request)
}

/// What a frontend that does not know the request makes of the job.
pub(super) fn unsupported(call: Call, engine: &str) -> Failure {
    let what = match call {
        Call::Check => "check Dockerfiles: that came with BuildKit 0.14 (Docker 27)".to_owned(),
        other => format!("answer --call {}", other.as_str()),
    };
    let message =
        format!("{engine} can't {what}; update it, or ask for a platform whose worker has a newer one");
    Failure::new(Cause::User, FailureCode::CallUnsupported, message)
}

/// The image that our policy keeps a check from. It looks at stages that no build needs, and tells of an error in those in its
/// answer.
pub(super) fn kept_from(answer: &CallAnswer) -> Option<ImageRef> {
    let results: LintResults = serde_json::from_str(&answer.json).ok()?;
    denied::image(&results.error?.message)
}

/// What the rules found (BuildKit, `frontend/subrequests/lint`).
#[derive(Debug, Default, Deserialize)]
struct LintResults {
    #[serde(default)]
    warnings: Option<Vec<LintWarning>>,
    #[serde(default)]
    sources: Option<Vec<Source>>,
    #[serde(default, rename = "buildError")]
    error: Option<BuildError>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LintWarning {
    rule_name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    url: String,
    #[serde(default)]
    detail: String,
    location: Option<Location>,
}

#[derive(Debug, Deserialize)]
struct BuildError {
    message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Location {
    source_index: usize,
    ranges: Vec<Range>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Range {
    start: Position,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Position {
    line: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Source {
    filename: String,
    /// The file's text, in base64.
    data: String,
}

/// Bounds an answer. Of a check, whose findings go their own way, a longer one is left out.
///
/// # Errors
/// The answer is longer than that.
pub(crate) fn bounded(call: Call, answer: CallAnswer) -> Result<CallAnswer, Failure> {
    if answer.text.len().max(answer.json.len()) <= LONGEST {
        return Ok(answer);
    }
    if call == Call::Check {
        return Ok(CallAnswer { violation: answer.violation, ..CallAnswer::default() });
    }
    let message = format!("the answer to --call {} is longer than {} KiB", call.as_str(), LONGEST >> 10);
    Err(Failure::new(Cause::User, FailureCode::CallUnsupported, message))
}

/// The findings of a check as the events that a build gives for them, and what keeps the file from being built.
///
/// # Errors
/// The answer is not what a check answers: [`Cause::Bug`].
pub(crate) fn findings(
    answer: &CallAnswer,
    at_ms: i64,
    platform: &Platform,
    is_unused: impl Fn(u32) -> bool,
) -> Result<(Vec<AttemptEvent>, Option<Failure>), Failure> {
    let results: LintResults = serde_json::from_str(&answer.json).map_err(|error| {
        Failure::new(
            Cause::Bug,
            FailureCode::EngineError,
            format!("the engine's check can't be read: {error}"),
        )
    })?;
    let sources: Vec<(String, String)> = results
        .sources
        .unwrap_or_default()
        .into_iter()
        .map(|source| (source.text(), source.filename))
        .collect();
    let texts: Vec<Vec<&str>> = sources.iter().map(|(text, _)| text.lines().collect()).collect();
    // Of another platform than the job's: the engine's own.
    let expected = format!("expected \"{platform}\"");
    let is_ours = |found: &LintWarning| {
        found.rule_name != "InvalidBaseImagePlatform" || found.detail.contains(&expected)
    };
    let found = results.warnings.unwrap_or_default().into_iter().filter(is_ours).take(MOST_FINDINGS);
    let events = found.map(|found| {
        let location = found.location.unwrap_or_default();
        let line = location.ranges.first().map_or(0, |range| range.start.line);
        let index = usize::try_from(line).ok().and_then(|line| line.checked_sub(1));
        let source_line = index.and_then(|index| texts.get(location.source_index)?.get(index).copied());
        let warning = Warning {
            rule: found.rule_name,
            message: found.detail,
            detail: vec![found.description],
            url: found.url,
            file: sources.get(location.source_index).map(|(_, name)| name.clone()).unwrap_or_default(),
            line,
            stage_unused: is_unused(line),
            source_line: source_line.unwrap_or_default().to_owned(),
        };
        AttemptEvent { at_ms, event: Some(Event::Warning(warning)) }
    });
    // The error that only says that rules found something is left out: the findings say so.
    let error = results.error.filter(|error| violation::sentence(&error.message).is_none());
    let error = error.map(|error| Failure::new(Cause::User, FailureCode::DockerfileSyntax, error.message));
    Ok((events.collect(), error))
}

impl Source {
    /// What can't be read is as if it weren't there.
    fn text(&self) -> String {
        let data = base64::engine::general_purpose::STANDARD.decode(&self.data).unwrap_or_default();
        String::from_utf8_lossy(&data).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arm() -> Platform {
        "linux/arm64".parse().unwrap()
    }

    #[test]
    fn what_is_found_for_another_platform_is_left_out() {
        let found = |expected: &str| {
            let detail = format!(
                "Base image x was pulled with platform \"linux/386\", expected \"{expected}\" for current build"
            );
            let warning = serde_json::json!({"ruleName": "InvalidBaseImagePlatform", "detail": detail, "location": null});
            let json = serde_json::json!({"warnings": [warning]}).to_string();
            findings(&CallAnswer { json, ..CallAnswer::default() }, 0, &arm(), |_| false).unwrap().0.len()
        };
        assert_eq!((found("linux/arm64"), found("linux/amd64")), (1, 0));
    }

    #[test]
    fn findings_are_warnings_with_their_line() {
        let data = base64::engine::general_purpose::STANDARD.encode("FROM x\nMAINTAINER me\n");
        let json = serde_json::json!({
            "warnings": [{
                "ruleName": "MaintainerDeprecated", "description": "use a label", "url": "https://u", "detail": "deprecated",
                "location": {"ranges": [{"start": {"line": 2}, "end": {"line": 2}}]},
            }],
            "sources": [{"filename": "Dockerfile", "data": data}],
            "buildError": {"message": "no such stage"},
        });
        let answer = CallAnswer { json: json.to_string(), ..CallAnswer::default() };
        let (events, error) = findings(&answer, 7, &arm(), |line| line == 2).unwrap();
        let Some(Event::Warning(warning)) = &events[0].event else { panic!("{events:?}") };
        assert_eq!((warning.rule.as_str(), warning.line), ("MaintainerDeprecated", 2));
        assert_eq!((warning.file.as_str(), warning.source_line.as_str()), ("Dockerfile", "MAINTAINER me"));
        assert!(warning.stage_unused);
        assert_eq!(error.unwrap().message, "no such stage");
        // An error that only says that there are findings is left out.
        let json = r#"{"buildError": {"message": "lint violation found for rules: MaintainerDeprecated"}}"#;
        let answer = CallAnswer { json: json.to_owned(), ..CallAnswer::default() };
        assert_eq!(findings(&answer, 7, &arm(), |_| false).unwrap().1, None);
    }

    #[test]
    fn an_image_that_a_check_is_kept_from_is_read_out_of_its_error() {
        let kept_from = |message: &str| {
            let json = serde_json::json!({"warnings": [], "buildError": {"message": message}}).to_string();
            super::kept_from(&CallAnswer { json, ..CallAnswer::default() })
        };
        let denied = "could not resolve image due to policy: source \"docker-image://r.example/os:1\" denied by policy: source \
                      denied by policy";
        let image = "r.example/os:1".parse().unwrap();
        assert_eq!(kept_from(&format!("r.example/os:1: {denied}")), Some(image));
        assert_eq!(kept_from("no such stage"), None);
        assert_eq!(super::kept_from(&CallAnswer::default()), None);
    }

    #[test]
    fn long_answers_and_endless_findings_are_cut() {
        let violation = "lint violation found for rules: R".to_owned();
        let long = CallAnswer { json: "x".repeat(LONGEST + 1), violation, ..CallAnswer::default() };
        let short = CallAnswer { json: String::new(), ..long.clone() };
        assert_eq!(bounded(Call::Check, long.clone()).unwrap(), short);
        assert_eq!(bounded(Call::Outline, long).unwrap_err().cause, Cause::User);
        let one = serde_json::json!({"ruleName": "R", "detail": "d", "location": {"ranges": [{"start": {"line": 1}}]}});
        let data = base64::engine::general_purpose::STANDARD.encode("FROM x\n".repeat(100_000));
        let json =
            serde_json::json!({"warnings": vec![one; 50_000], "sources": [{"filename": "D", "data": data}]});
        let answer = CallAnswer { json: json.to_string(), ..CallAnswer::default() };
        assert_eq!(findings(&answer, 0, &arm(), |_| false).unwrap().0.len(), MOST_FINDINGS);
    }

    #[test]
    fn nothing_found_is_no_finding_and_nonsense_is_a_bug() {
        let answer = |json: &str| CallAnswer { json: json.to_owned(), ..CallAnswer::default() };
        assert!(
            findings(&answer(r#"{"warnings":null,"sources":null}"#), 0, &arm(), |_| false)
                .unwrap()
                .0
                .is_empty()
        );
        assert_eq!(findings(&answer(""), 0, &arm(), |_| false).unwrap_err().cause, Cause::Bug);
    }
}
