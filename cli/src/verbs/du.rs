//! `farm du`: what takes room.

use farm_proto::v1::{GetRepositoryUsageRequest, GetUsageRequest, MeasureCachesRequest};
use farm_types::Repository;

use super::now_ms;
use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Exit, Result};
use crate::output::usage::{Usage, UsageJson, lines};
use crate::output::{Out, json};

/// So many repositories are asked about unless they are named.
const REPOSITORIES: usize = 20;

/// Arguments of `farm du`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Ask about these repositories [default: the first 20 in which the farm has moved tags for the
    /// project]
    #[arg(value_name = "REPO")]
    repositories: Vec<String>,

    /// Ask no registry
    #[arg(long, conflicts_with = "repositories")]
    no_registries: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = "\
Examples:
  farm du
  farm du registry.example/team/app --json
  farm du --no-registries

Build caches are the farm's, the rest is the project's. What a repository takes is the sum of what
its tags reach, each blob once, as their manifests say; the registry may share it with others, and
keeps what no tag reaches until it collects its garbage. What isn't known is shown as ?.";

/// Shows what takes room.
///
/// # Errors
/// The farm refuses, or can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    let named = args.repositories.iter().map(|text| text.parse::<Repository>());
    let named = named.collect::<std::result::Result<Vec<_>, _>>()?;
    let client = Client::connect(&setup.address).await?;
    let caches = through(async || client.farm().measure_caches(MeasureCachesRequest {}).await);
    let caches = caches.await.map_err(|status| client.error(&status))?.caches;
    let stored = through(async || client.projects().get_usage(GetUsageRequest {}).await);
    let stored = stored.await.map_err(|status| client.error(&status))?;
    let mut all: Vec<String> = match named.as_slice() {
        _ if args.no_registries => Vec::new(),
        [] => stored.repositories.clone(),
        named => named.iter().map(ToString::to_string).collect(),
    };
    let unasked = if named.is_empty() { all.len().saturating_sub(REPOSITORIES) } else { 0 };
    all.truncate(all.len() - unasked);
    let mut repositories = Vec::new();
    for repository in all {
        let request = GetRepositoryUsageRequest { repository: repository.clone(), ..Default::default() };
        let asked = through(async || client.images().get_repository_usage(request.clone()).await).await;
        repositories.push((repository, asked.map_err(|status| status.message().to_owned())));
    }
    let usage = Usage { caches, stored, repositories, unasked };
    let mut out = Out::stdout();
    if args.json {
        out.line(&json::text(&UsageJson::from(&usage)));
    } else {
        out.lines(lines(&usage, now_ms()));
    }
    Ok(Exit::Done)
}
