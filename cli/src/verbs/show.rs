//! `farm show`.

use farm_proto::v1::{Build, CopySpec, GetBuildRequest, Job};

use super::{build_id, now_ms};
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Error, Exit, Result};
use crate::output::Out;
use crate::output::format;
use crate::output::json::{self, BuildJson};
use crate::output::progress::UNNEEDED;
use crate::output::secrets::lines_of_build;
use crate::output::summary::{
    FAILED, PASSED, Whence, copy_verb, gate_end, origins_of, platform_jobs, summary,
};
use crate::output::text::{ago, first_line, harmless, short_digest};

/// Arguments of `farm show`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farm show 7f3k2m\n  farm show 7f3k2m --json\n  farm show 7f3k2m --format '{{ index_digest }}'"
)]
pub struct Args {
    /// The build, as `farm builds` lists it
    #[arg(value_name = "BUILD")]
    id: String,

    /// Print one JSON object
    #[arg(long, conflicts_with = "format")]
    json: bool,

    /// Print it by a template of the JSON's names, like '{{ state }}'
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
}

/// Shows a build as it is now. That the build failed is no failure of this command.
///
/// # Errors
/// There is no such build, or the farm can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    let id = build_id(&args.id)?;
    let client = Client::connect(&setup.address).await?;
    let request = GetBuildRequest { build_id: id.clone() };
    let answer = client.builds().get_build(request).await.map_err(|e| client.error(&e))?.into_inner();
    let build = answer.build.ok_or_else(|| Error::Farm(format!("the farm gave no build for {id}")))?;
    let mut out = Out::stdout();
    if let Some(template) = &args.format {
        format::print(&mut out, template, [BuildJson::new(&build, None, &[])])?;
    } else if args.json {
        out.line(&json::text(&BuildJson::new(&build, None, &[])));
    } else {
        let now = now_ms();
        out.line(&head(&build, now));
        out.lines(links(&build));
        out.lines(origins(&build));
        out.lines(lines_of_build(&build));
        out.lines(gate_line(&build, platform_jobs(&build)));
        out.lines(sign_line(&build));
        out.lines(history(&build));
        out.lines(summary(&build, &[], now));
    }
    Ok(Exit::Done)
}

/// Where its source was fetched from.
fn origins(build: &Build) -> Vec<String> {
    let line = |(root, origin): (&str, Whence<'_>)| {
        let name = root.strip_prefix("context:").map(|name| format!("{name} ")).unwrap_or_default();
        let from = match origin {
            Whence::Git(origin) => {
                let at = if origin.r#ref.is_empty() { String::new() } else { format!("  {}", origin.r#ref) };
                let folder =
                    if origin.subdir.is_empty() { String::new() } else { format!("  {}", origin.subdir) };
                format!("{}{folder}{at}  commit {}", origin.repository, origin.commit)
            }
            Whence::Archive(origin) => format!("{}  {}", origin.url, origin.digest),
        };
        harmless(&format!("{name}from {from}"))
    };
    origins_of(build).into_iter().map(line).collect()
}

/// Why the farm has begun it of its own accord, the builds that it retries and that retry it.
fn links(build: &Build) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(spec) = build.spec.as_ref().filter(|spec| spec.copy.is_some()) {
        let of = |copy: &CopySpec| {
            let parts = if copy.platforms.is_empty() {
                String::new()
            } else {
                format!("  {}", copy.platforms.join(","))
            };
            format!("{}{parts}", copy.from)
        };
        let from = spec.copy.iter().map(of);
        let was =
            if build.copied_digest.is_empty() { String::new() } else { format!("  {}", build.copied_digest) };
        lines.extend(from.map(|from| harmless(&format!("{} of {from}{was}", copy_verb(spec)))));
    }
    if !build.because.is_empty() {
        lines.push(format!("because of {}", harmless(&build.because)));
    }
    if !build.retry_of.is_empty() {
        lines.push(format!("retry of {}", harmless(&build.retry_of)));
    }
    if !build.retried_by.is_empty() {
        lines.push(format!("retried as {}", harmless(&build.retried_by.join(", "))));
    }
    lines
}

/// What its images have to pass, and which have passed.
fn gate_line(build: &Build, jobs: Vec<&Job>) -> Option<String> {
    let gate = build.spec.as_ref().map(|spec| &spec.gate).filter(|gate| !gate.is_empty())?;
    let with = |wanted: &str| {
        let jobs = jobs.iter().filter(|job| gate_end(job) == Some(wanted));
        let platforms: Vec<&str> = jobs.map(|job| job.platform.as_str()).collect();
        (!platforms.is_empty()).then(|| format!("  {wanted} on {}", platforms.join(", ")))
    };
    let ends = [PASSED, FAILED].into_iter().filter_map(with).collect::<String>();
    Some(harmless(&format!("gate {}{ends}", first_line(gate, 200))))
}

/// By which key what it publishes is signed.
fn sign_line(build: &Build) -> Option<String> {
    let key = build.spec.as_ref().map(|spec| &spec.sign).filter(|key| !key.is_empty())?;
    let signed = if build.state == "succeeded" { "signed" } else { "to be signed" };
    Some(harmless(&format!("{signed} by {key}")))
}

/// What can't be seen in the end alone: attempts that came to nothing, and why a platform was emulated.
fn history(build: &Build) -> Vec<String> {
    let mut lines = Vec::new();
    // Those of a result that was taken over are shown where it was made.
    for job in build.jobs.iter().filter(|job| job.taken_from.is_empty()) {
        for attempt in &job.attempts {
            // A fetch is for none.
            let what = if job.platform.is_empty() { &job.kind } else { &job.platform };
            let who =
                format!("{}  attempt {} on {}", harmless(what), attempt.number, harmless(&attempt.worker));
            if let Some(failure) = &attempt.failure {
                lines.push(format!("{who} {}: {}", harmless(&attempt.state), harmless(&failure.message)));
            }
            if !attempt.support_reason.is_empty() {
                let how = if attempt.support == UNNEEDED { "" } else { " emulated" };
                lines.push(format!("{who}{how}: {}", harmless(&attempt.support_reason)));
            }
        }
    }
    lines
}

/// `build 7f3k2m  running  submitted 3 min ago by admin  snapshot sha256:9c1e…`.
pub(super) fn head(build: &Build, now: i64) -> String {
    let by = if build.created_by.is_empty() {
        String::new()
    } else {
        format!(" by {}", harmless(&build.created_by))
    };
    let source = build
        .spec
        .as_ref()
        .and_then(|spec| spec.snapshot.as_ref())
        .map(|snapshot| format!("  snapshot {}", short_digest(&snapshot.tree_id)))
        .unwrap_or_default();
    format!(
        "build {}  {}  submitted {}{by}{source}",
        harmless(&build.id),
        harmless(&build.state),
        ago(build.created_ms, now)
    )
}
