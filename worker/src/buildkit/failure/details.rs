//! The details of a solve's failure, as the engine attaches them.
//!
//! They come in the trailer `grpc-status-details-bin`, a `google.rpc.Status`, whose entries are not protobuf but
//! JSON: `type_url` is `github.com/moby/buildkit/NAME+json` (BuildKit, `util/grpcerrors`). What cannot be read is
//! passed over: the classification then has the text only.

use base64::Engine as _;
use bollard_buildkit_proto::google::rpc;
use prost::Message as _;
use serde::Deserialize;

/// What an engine attached to a failure.
#[derive(Debug, Default)]
pub(super) struct Details {
    /// The digest of the step that failed (BuildKit: vertex).
    pub(crate) vertex: Option<String>,
    /// The exit code of the step's command.
    pub(super) exit_code: Option<i32>,
    /// The place in the Dockerfile.
    pub(crate) source: Option<Source>,
}

/// A place in a Dockerfile, with its text.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) file: String,
    pub(crate) text: String,
    /// First and last line, from 1.
    pub(crate) lines: (u32, u32),
}

impl Source {
    /// The text of its first line.
    pub(super) fn first_line(&self) -> Option<&str> {
        let skip = usize::try_from(self.lines.0).ok()?.checked_sub(1)?;
        self.text.lines().nth(skip)
    }
}

#[derive(Deserialize)]
struct Vertex {
    digest: String,
}

#[derive(Deserialize)]
struct ExitMessage {
    #[serde(rename = "Code")]
    code: u32,
}

#[derive(Deserialize)]
struct SourceDetail {
    info: Info,
    #[serde(default)]
    ranges: Vec<Range>,
}

#[derive(Deserialize)]
struct Info {
    #[serde(default)]
    filename: String,
    #[serde(default)]
    data: String,
}

#[derive(Deserialize)]
struct Range {
    #[serde(default)]
    start: Position,
    #[serde(default)]
    end: Position,
}

#[derive(Deserialize, Default)]
struct Position {
    #[serde(default)]
    line: u32,
}

impl Details {
    /// Reads the details of a status.
    pub(crate) fn of(status: &tonic::Status) -> Self {
        let mut details = Self::default();
        let Ok(decoded) = rpc::Status::decode(status.details()) else { return details };
        for any in decoded.details {
            let json = &any.value[..];
            match any.type_url.rsplit('/').next() {
                Some("errdefs.Vertex+json") => {
                    details.vertex =
                        details.vertex.or(serde_json::from_slice(json).ok().map(|v: Vertex| v.digest));
                }
                Some("gatewayapi.ExitMessage+json") => {
                    let code = serde_json::from_slice(json)
                        .ok()
                        .and_then(|exit: ExitMessage| exit.code.try_into().ok());
                    details.exit_code = details.exit_code.or(code);
                }
                Some("errdefs.Source+json") if details.source.is_none() => {
                    details.source = serde_json::from_slice(json).ok().and_then(SourceDetail::place);
                }
                _ => {}
            }
        }
        details
    }
}

impl SourceDetail {
    fn place(self) -> Option<Source> {
        let from = self.ranges.iter().map(|range| range.start.line).min().filter(|&line| line > 0)?;
        let to = self.ranges.iter().map(|range| range.end.line.max(range.start.line)).max()?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(self.info.data).ok()?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Some(Source { file: self.info.filename, text, lines: (from, to) })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use bollard_buildkit_proto::google::protobuf::Any;

    /// A status as an engine sends it: its text, and details as (type, JSON).
    pub(crate) fn status(message: &str, details: &[(&str, serde_json::Value)]) -> tonic::Status {
        let any = |(name, json): &(&str, serde_json::Value)| Any {
            type_url: format!("github.com/moby/buildkit/{name}+json"),
            value: json.to_string().into_bytes(),
        };
        let encoded =
            rpc::Status { code: 2, message: message.into(), details: details.iter().map(any).collect() };
        tonic::Status::with_details(tonic::Code::Unknown, message, encoded.encode_to_vec().into())
    }

    #[test]
    fn details_are_read_and_others_passed_over() {
        let data = base64::engine::general_purpose::STANDARD.encode("FROM x\nRUN a \\\n b\n");
        let details = Details::of(&status(
            "m",
            &[
                ("stack.Stack", serde_json::json!({"frames": []})),
                (
                    "errdefs.Source",
                    serde_json::json!({"info": {"filename": "D", "data": data}, "ranges": [{"start": {"line": 2}, "end": {"line": 3}}]}),
                ),
                ("errdefs.Vertex", serde_json::json!({"digest": "sha256:1"})),
                ("gatewayapi.ExitMessage", serde_json::json!({"Code": 7})),
            ],
        ));
        assert_eq!((details.vertex.as_deref(), details.exit_code), (Some("sha256:1"), Some(7)));
        let source = details.source.unwrap();
        assert_eq!((source.file.as_str(), source.lines), ("D", (2, 3)));
        assert!(Details::of(&tonic::Status::unknown("no details")).source.is_none());
    }
}
