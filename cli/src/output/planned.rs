//! What people and scripts see of what an event would make of a `.farm.yaml`.

use std::collections::BTreeMap;

use farm_rules::{Event, ImagePlan, Outcome, Plan, Wanted};
use farm_types::SigningKeyName;
use serde::Serialize;

use super::text::{count, harmless};

/// As `farm rules explain --json` prints it.
#[derive(Debug, Serialize)]
pub struct PlanJson<'a> {
    event: &'static str,
    #[serde(rename = "ref")]
    git_ref: &'a str,
    images: Vec<ImageJson<'a>>,
}

#[derive(Debug, Serialize)]
struct ImageJson<'a> {
    name: &'a str,
    line: usize,
    build: Option<WantedJson<'a>>,
    reason: Option<ReasonJson>,
}

#[derive(Debug, Serialize)]
struct ReasonJson {
    code: &'static str,
    message: String,
}

#[derive(Debug, Serialize)]
struct WantedJson<'a> {
    dockerfile: &'a str,
    context: &'a str,
    target: Option<&'a str>,
    platforms: Vec<String>,
    build_args: &'a BTreeMap<String, String>,
    labels: &'a BTreeMap<String, String>,
    tags: Vec<String>,
    left_out: Vec<LeftOutJson<'a>>,
    secrets: BTreeMap<&'a str, &'a str>,
    emulation: Option<String>,
    lfs: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    gate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sign: Option<&'a str>,
    supersedes: bool,
    needs: &'a [String],
    because_of: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct LeftOutJson<'a> {
    tag: &'a str,
    message: String,
}

impl<'a> PlanJson<'a> {
    /// Of an event and what it makes.
    pub fn new(event: &'a Event, plan: &'a Plan) -> Self {
        let image = |image: &'a ImagePlan| {
            let (build, reason) = match &image.outcome {
                Outcome::Build(wanted) => (Some(WantedJson::from(&**wanted)), None),
                Outcome::Skipped(reason) => {
                    (None, Some(ReasonJson { code: reason.code(), message: reason.to_string() }))
                }
            };
            ImageJson { name: &image.name, line: image.at.line, build, reason }
        };
        Self {
            event: event.kind.as_str(),
            git_ref: event.git_ref.as_str(),
            images: plan.images.iter().map(image).collect(),
        }
    }
}

impl<'a> From<&'a Wanted> for WantedJson<'a> {
    fn from(wanted: &'a Wanted) -> Self {
        let left_out = wanted.left_out.iter();
        Self {
            dockerfile: &wanted.dockerfile,
            context: &wanted.context,
            target: wanted.target.as_deref(),
            platforms: wanted.platforms.iter().map(ToString::to_string).collect(),
            build_args: &wanted.build_args,
            labels: &wanted.labels,
            tags: wanted.tags.iter().map(ToString::to_string).collect(),
            left_out: left_out
                .map(|out| LeftOutJson { tag: &out.tag, message: out.why.to_string() })
                .collect(),
            secrets: wanted.secrets.iter().map(|(id, name)| (id.as_str(), name.as_str())).collect(),
            emulation: wanted.emulation.map(|policy| policy.to_string()),
            lfs: wanted.lfs.as_str(),
            gate: wanted.gate.as_ref().filter(|_| !wanted.tags.is_empty()).map(ToString::to_string),
            sign: wanted.sign.as_ref().filter(|_| !wanted.tags.is_empty()).map(SigningKeyName::as_str),
            supersedes: wanted.supersedes,
            needs: &wanted.needs,
            because_of: wanted.because_of.as_deref(),
        }
    }
}

/// As lines: each image with what becomes of it, then how many are built.
pub fn planned(event: &Event, plan: &Plan) -> Vec<String> {
    let width = plan.images.iter().map(|image| image.name.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for image in &plan.images {
        let told = match &image.outcome {
            Outcome::Build(wanted) => built(wanted),
            Outcome::Skipped(reason) => vec![format!("not built: {reason}")],
        };
        for (i, line) in told.iter().enumerate() {
            let name = if i == 0 { image.name.as_str() } else { "" };
            lines.push(harmless(&format!("{name:width$}  {line}")));
        }
    }
    let (built, all) = (plan.builds().count(), count(plan.images.len(), "image"));
    lines.push(harmless(&format!(
        "{} of {}: {built} of {all} would be built",
        event.kind.as_str(),
        event.git_ref
    )));
    lines
}

fn built(wanted: &Wanted) -> Vec<String> {
    let mut first = format!("built from {}", wanted.dockerfile);
    if wanted.context != "." {
        first += &format!(" in {}", wanted.context);
    }
    if let Some(target) = &wanted.target {
        first += &format!(", stage {target}");
    }
    if !wanted.platforms.is_empty() {
        let platforms: Vec<String> = wanted.platforms.iter().map(ToString::to_string).collect();
        first += &format!(" for {}", platforms.join(", "));
    }
    if !wanted.needs.is_empty() {
        first += &format!(", behind {}", wanted.needs.join(", "));
    }
    if let Some(need) = &wanted.because_of {
        first += &format!("; none of its own files was changed, but {need} is built");
    }
    let mut lines = vec![first];
    if !wanted.secrets.is_empty() {
        let names: Vec<&str> = wanted.secrets.values().map(|name| name.as_str()).collect();
        lines.push(format!("with secrets {}", names.join(", ")));
    }
    if let Some(gate) = wanted.gate.as_ref().filter(|_| !wanted.tags.is_empty()) {
        lines.push(format!("has to pass {}", gate.shown()));
    }
    if let Some(key) = wanted.sign.as_ref().filter(|_| !wanted.tags.is_empty()) {
        lines.push(format!("is signed by {key}"));
    }
    lines.extend(wanted.tags.iter().map(|tag| format!("moves {tag}")));
    if wanted.tags.is_empty() {
        lines.push("is published nowhere".to_owned());
    }
    lines.extend(wanted.left_out.iter().map(|out| format!("doesn't move {}: {}", out.tag, out.why)));
    if wanted.supersedes {
        lines.push("ends older builds of this ref".to_owned());
    }
    lines
}
