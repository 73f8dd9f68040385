//! `farm builds`.

use farm_proto::v1::{Build, ListBuildsRequest};
use serde_json::json;

use super::now_ms;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Exit, Result};
use crate::output::Out;
use crate::output::format;
use crate::output::json::{self, BuildJson};
use crate::output::summary::platform_jobs;
use crate::output::text::{ago, columns, harmless, span};

/// Arguments of `farm builds`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farm builds\n  farm builds -n 5 --json\n  farm builds --format '{{ id }} {{ state }}'"
)]
pub struct Args {
    /// How many to list, at most 500
    #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500), value_name = "N")]
    limit: u32,

    /// Print one JSON object
    #[arg(long, conflicts_with = "format")]
    json: bool,

    /// Print each build by a template of the JSON's names, like '{{ id }}'
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
}

/// Lists builds, newest first.
///
/// # Errors
/// The farm can't be asked.
pub async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    let client = Client::connect(&setup.address).await?;
    let request = ListBuildsRequest { limit: args.limit, states: Vec::new() };
    let builds =
        client.builds().list_builds(request).await.map_err(|e| client.error(&e))?.into_inner().builds;
    let mut out = Out::stdout();
    let as_json = || builds.iter().map(|build| BuildJson::new(build, None, &[]));
    if let Some(template) = &args.format {
        format::print(&mut out, template, as_json())?;
    } else if args.json {
        let builds: Vec<BuildJson> = as_json().collect();
        out.line(&json::text(&json!({ "builds": builds })));
    } else if builds.is_empty() {
        out.line("no builds yet; begin with: farm submit . -t REGISTRY/REPO:TAG");
    } else {
        out.lines(table(&builds, now_ms()));
    }
    Ok(Exit::Done)
}

fn table(builds: &[Build], now: i64) -> Vec<String> {
    let head = ["BUILD", "STATE", "SUBMITTED", "TIME", "PLATFORMS", "TAGS"].map(ToOwned::to_owned).to_vec();
    let rows = builds.iter().map(|build| {
        let spec = build.spec.clone().unwrap_or_default();
        let end = if build.finished_ms > 0 { build.finished_ms } else { now };
        let platforms: Vec<String> = match platform_jobs(build).as_slice() {
            [] => spec.platforms,
            jobs => jobs.iter().map(|job| job.platform.clone()).collect(),
        };
        let tags = match spec.tags.as_slice() {
            [] if !spec.run_image.is_empty() => format!("(run {})", spec.run_image),
            [] if !spec.call.is_empty() => format!("({})", spec.call),
            [] => String::new(),
            [one] => one.clone(),
            [first, more @ ..] => format!("{first} (+{})", more.len()),
        };
        vec![
            harmless(&build.id),
            harmless(&build.state),
            ago(build.created_ms, now),
            span(end - build.created_ms),
            platforms.join(","),
            harmless(&tags),
        ]
    });
    columns(&[head].into_iter().chain(rows).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_stand_in_aligned_columns() {
        let spec = farm_proto::v1::BuildSpec {
            platforms: vec!["linux/amd64".into()],
            tags: vec!["r/a:1".into(), "r/a:2".into()],
            ..Default::default()
        };
        let build = Build {
            id: "7f3k2m".into(),
            state: "succeeded".into(),
            spec: Some(spec),
            created_ms: 1_000,
            finished_ms: 7_400,
            ..Default::default()
        };
        assert_eq!(
            table(&[build], 61_000),
            [
                "BUILD   STATE      SUBMITTED  TIME   PLATFORMS    TAGS",
                "7f3k2m  succeeded  1 min ago  6.4 s  linux/amd64  r/a:1 (+1)",
            ]
        );
    }
}
