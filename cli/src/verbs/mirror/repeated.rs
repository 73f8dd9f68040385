//! Mirrors that the farm repeats by itself: asking for one, listing them, ending some.

use farm_proto::v1::{AddMirrorRequest, ListMirrorsRequest, RemoveMirrorRequest};
use farm_types::spec::parse_duration_within;
use farm_types::{CopySpec, ImageTag};
use serde_json::json;

use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Exit, Result};
use crate::output::mirrors::{MirrorJson, mirrors};
use crate::output::text::{harmless, span};
use crate::output::{Out, format, json};
use crate::verbs::now_ms;

/// A year: what the farm takes at most.
const LONGEST: std::time::Duration = std::time::Duration::from_secs(366 * 24 * 3600);

/// What `farm mirror` can do with those that the farm repeats.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Deed {
    /// List what the farm mirrors again and again: how it went last, and when it comes next
    #[command(
        alias = "list",
        after_help = "Examples:\n  farm mirror ls\n  farm mirror ls --json\n  farm mirror ls --format '{{ destination }} {{ trouble }}'"
    )]
    Ls {
        /// Print one JSON object
        #[arg(long, conflicts_with = "format")]
        json: bool,

        /// Print each by a template of the JSON's names, like '{{ destination }}'
        #[arg(long, value_name = "TEMPLATE")]
        format: Option<String>,
    },
    /// Have the farm mirror some no more. What is there stays
    #[command(alias = "remove", after_help = REMOVE_HELP)]
    Rm {
        /// As `farm mirror ls` lists them: [REGISTRY/]REPO:TAG
        #[arg(value_name = "DST", required = true)]
        destinations: Vec<String>,
    },
}

const REMOVE_HELP: &str = "\
Examples:
  farm mirror rm localhost:5002/python:3.11-slim

What was copied stays where it is. A copy that goes on goes on: farm cancel BUILD ends it.";

/// Seconds.
pub(super) fn every(text: &str) -> std::result::Result<i64, String> {
    let cure = "write a time like 30m, 24h or 7d, of 10m at least";
    let duration = parse_duration_within(text, LONGEST).filter(|every| !every.is_zero()).ok_or(cure)?;
    i64::try_from(duration.as_secs()).map_err(|_| cure.to_owned())
}

/// Has the farm copy an image to a tag again and again; gives the key of the copy that it makes first.
pub(super) async fn add(
    client: &Client,
    (copy, to): (&CopySpec, &ImageTag),
    per_arch_tags: bool,
    every_seconds: i64,
    as_json: bool,
) -> Result<String> {
    let request = AddMirrorRequest {
        source: copy.from.to_string(),
        destination: to.to_string(),
        platforms: copy.platforms.iter().map(ToString::to_string).collect(),
        per_arch_tags,
        every_seconds,
    };
    let added = client.mirrors().add_mirror(request).await.map_err(|status| client.error(&status))?;
    let added = added.into_inner();
    if as_json {
        let mirror = added.mirror.as_ref().map(MirrorJson::from);
        Out::stdout().line(&json::text(&json!({ "project": added.project, "mirror": mirror })));
    } else {
        Out::stderr().line(&format!(
            "the farm copies {} to {to} every {} from now on: farm mirror ls, farm mirror rm {to}",
            copy.from,
            span(every_seconds.saturating_mul(1000))
        ));
    }
    Ok(added.run_key)
}

/// Lists or ends what the farm repeats.
///
/// # Errors
/// A name can't be taken, the farm refuses, or it can't be asked.
pub(super) async fn run(deed: Deed, setup: &Setup) -> Result<Exit> {
    match deed {
        Deed::Ls { json, format } => list(json, format.as_deref(), setup).await?,
        Deed::Rm { destinations } => {
            for destination in &destinations {
                destination.parse::<ImageTag>()?;
            }
            let client = Client::connect(&setup.address).await?;
            let mut out = Out::stdout();
            for destination in destinations {
                let removed = client.mirrors().remove_mirror(RemoveMirrorRequest { destination }).await;
                let removed = removed.map_err(|status| client.error(&status))?.into_inner();
                let mirror = removed.mirror.unwrap_or_default();
                let (to, from) = (harmless(&mirror.destination), harmless(&mirror.source));
                out.line(&format!("{to} is mirrored from {from} no more"));
            }
        }
    }
    Ok(Exit::Done)
}

async fn list(as_json: bool, template: Option<&str>, setup: &Setup) -> Result<()> {
    let client = Client::connect(&setup.address).await?;
    let asked = through(async || client.mirrors().list_mirrors(ListMirrorsRequest {}).await);
    let listed = asked.await.map_err(|status| client.error(&status))?;
    let mut out = Out::stdout();
    if let Some(template) = template {
        format::print(&mut out, template, listed.mirrors.iter().map(MirrorJson::from))?;
    } else if as_json {
        let all: Vec<MirrorJson<'_>> = listed.mirrors.iter().map(MirrorJson::from).collect();
        out.line(&json::text(&json!({ "project": listed.project, "mirrors": all })));
    } else if listed.mirrors.is_empty() {
        let project = harmless(&listed.project);
        out.line(&format!(
            "project {project} has nothing mirrored again and again: farm mirror SRC --every 24h --project {project}"
        ));
    } else {
        out.lines(mirrors(&listed.mirrors, now_ms()));
    }
    Ok(())
}
