//! `farm builds`.

use farm_proto::v1::{Build, ListBuildsRequest};
use serde_json::json;

use super::now_ms;
use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Exit, Result};
use crate::output::Out;
use crate::output::format;
use crate::output::json::{self, BuildJson};
use crate::output::summary::{copy_verb, platform_jobs};
use crate::output::text::{ago, columns, harmless, span};

/// As many as the farm gives at once.
const PAGE: u32 = 500;

/// Arguments of `farm builds`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farm builds\n  farm builds -n 5 --json\n  farm builds --all --format '{{ id }} {{ state }}'"
)]
pub struct Args {
    /// How many to list
    #[arg(short = 'n', long, default_value_t = 20, value_parser = at_least_one, value_name = "N")]
    limit: u32,

    /// List all of them
    #[arg(long, conflicts_with = "limit")]
    all: bool,

    /// List fetches of sources, too
    #[arg(long)]
    fetches: bool,

    /// Print one JSON object
    #[arg(long, conflicts_with = "format")]
    json: bool,

    /// Print each build by a template of the JSON's names, like '{{ id }}'
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
}

fn at_least_one(text: &str) -> std::result::Result<u32, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "write a number from 1 on; --all lists all".to_owned())
}

/// Lists builds, newest first.
///
/// # Errors
/// The farm can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    let client = Client::connect(&setup.address).await?;
    let builds = list(&client, if args.all { u32::MAX } else { args.limit }, args.fetches).await?;
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

/// So many builds, newest first, or as many as there are; page by page.
async fn list(client: &Client, limit: u32, fetches: bool) -> Result<Vec<Build>> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut builds: Vec<Build> = Vec::new();
    let mut page_token = String::new();
    loop {
        let page_size = u32::try_from(limit - builds.len()).map_or(PAGE, |wanted| wanted.min(PAGE));
        let request = ListBuildsRequest { page_size, page_token, states: Vec::new(), fetches };
        let asked = through(async || client.builds().list_builds(request.clone()).await).await;
        let page = asked.map_err(|status| client.error(&status))?;
        builds.extend(page.builds);
        builds.truncate(limit);
        // A farm from before there were pages gives no token.
        if page.next_page_token.is_empty() || builds.len() == limit {
            return Ok(builds);
        }
        page_token = page.next_page_token;
    }
}

fn table(builds: &[Build], now: i64) -> Vec<String> {
    let mut head =
        ["BUILD", "STATE", "SUBMITTED", "TIME", "PLATFORMS", "TAGS"].map(ToOwned::to_owned).to_vec();
    let has_origins = builds.iter().any(|build| origin(build).is_some());
    head.extend(has_origins.then(|| "SOURCE".to_owned()));
    let rows = builds.iter().map(|build| {
        let spec = build.spec.clone().unwrap_or_default();
        let end = if build.finished_ms > 0 { build.finished_ms } else { now };
        let platforms: Vec<String> = match platform_jobs(build).as_slice() {
            [] if spec.copy.is_some() => vec![format!("({})", copy_verb(&spec))],
            [] => spec.platforms,
            jobs => jobs.iter().map(|job| job.platform.clone()).collect(),
        };
        let tags = match spec.tags.as_slice() {
            [] if !spec.run_image.is_empty() => format!("(run {})", spec.run_image),
            [] if !spec.call.is_empty() => format!("({})", spec.call),
            [] if spec.fetch.is_some() => "(fetch)".to_owned(),
            [] => String::new(),
            [one] => one.clone(),
            [first, more @ ..] => format!("{first} (+{})", more.len()),
        };
        let mut row = vec![
            harmless(&build.id),
            harmless(&build.state),
            ago(build.created_ms, now),
            span(end - build.created_ms),
            platforms.join(","),
            harmless(&tags),
        ];
        row.extend(has_origins.then(|| origin(build).unwrap_or_default()));
        row
    });
    columns(&[head].into_iter().chain(rows).collect::<Vec<_>>())
}

/// Where the build's context was fetched from, in short: `app.git main 1f2e3d4`, `app.tar.gz 9c1e77aa0b1c`; of a fetch from where it is.
fn origin(build: &Build) -> Option<String> {
    let spec = build.spec.as_ref()?;
    let name = |address: &str| address.rsplit('/').next().unwrap_or(address).to_owned();
    let git = spec.origins.get("context").map(|origin| {
        let at = origin.r#ref.trim_start_matches("refs/heads/").trim_start_matches("refs/tags/");
        let commit: String = origin.commit.chars().take(7).collect();
        [name(&origin.repository), at.to_owned(), commit].join(" ").replace("  ", " ")
    });
    let archive = spec.archive_origins.get("context").map(|origin| {
        let digest: String = origin.digest.trim_start_matches("sha256:").chars().take(12).collect();
        format!("{} {digest}", name(&origin.url))
    });
    let of_fetch = || {
        let fetch = spec.fetch.as_ref()?;
        let git = fetch.git.as_ref();
        let git = git.map(|git| format!("{} {}", name(&git.repository), git.r#ref).trim_end().to_owned());
        git.or_else(|| Some(name(&fetch.archive.as_ref()?.url)))
    };
    let text = git.or(archive).or_else(of_fetch)?;
    Some(harmless(&text))
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
