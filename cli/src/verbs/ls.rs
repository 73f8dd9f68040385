//! `farm ls`: the tags of a repository.

use farm_proto::v1::ListTagsRequest;
use farm_types::{Repository, TagPattern};

use super::{now_ms, of_flag};
use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Exit, Result};
use crate::output::tags::{TagsJson, lines};
use crate::output::{Out, json};

/// Arguments of `farm ls`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// [REGISTRY/]REPO
    #[arg(value_name = "REPO")]
    repository: String,

    /// Only tags of this pattern; * stands for any characters
    #[arg(long = "match", value_name = "PATTERN")]
    pattern: Option<String>,

    /// Show so many tags; at most 500
    #[arg(long, short = 'n', value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,

    /// Print one JSON object
    #[arg(long, conflicts_with = "quiet")]
    json: bool,

    /// Print only the tags, one a line
    #[arg(long, short)]
    quiet: bool,
}

const AFTER_HELP: &str = "\
Examples:
  farm ls registry.example/team/app
  farm ls registry.example/team/app --match 'v1.*' --json

Those that the farm has moved for the project come first, the newest on top, with the build; then
the others by their names. It is the farm that asks the registry, by the project's login.

Exit codes:
  0  shown
  2  there is no such repository, or it has no tags
  3  no farm answers, or it refuses the token";

/// Lists the tags.
///
/// # Errors
/// There is no such repository, or its registry doesn't answer.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    let repository: Repository = args.repository.parse()?;
    let pattern = args.pattern.as_deref().map(|text| of_flag::<TagPattern>("--match", text)).transpose()?;
    let client = Client::connect(&setup.address).await?;
    let request = ListTagsRequest {
        repository: repository.to_string(),
        pattern: pattern.map(|pattern| pattern.to_string()).unwrap_or_default(),
        most: args.limit,
    };
    let asked = through(async || client.images().list_tags(request.clone()).await);
    let listed = asked.await.map_err(|status| client.error(&status))?;
    let mut out = Out::stdout();
    if args.json {
        out.line(&json::text(&TagsJson::from(&listed)));
    } else if args.quiet {
        out.lines(listed.tags.iter().map(|one| crate::output::text::harmless(&one.tag)));
    } else if listed.tags.is_empty() {
        out.line("no tag fits that pattern");
    } else {
        out.lines(lines(&listed, now_ms()));
    }
    Ok(Exit::Done)
}
