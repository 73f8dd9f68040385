//! `farm prune`: makes room.

use std::time::Duration;

use farm_proto::v1::{PruneCachesRequest, WorkerCache};
use farm_types::run_options::parse_bytes;
use farm_types::spec::parse_duration;
use serde_json::json;

use super::confirm;
use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Error, Exit, Result};
use crate::output::usage::{CacheJson, pruned};
use crate::output::{Out, json};

/// Arguments of `farm prune`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What engines keep of former builds, of these workers, or of all that are connected
    #[arg(long, value_name = "NAME", num_args = 0.., required = true)]
    workers: Vec<String>,

    /// Drop only what nobody has used for so long: 90m, 72h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    older_than: Option<Duration>,

    /// Drop only down to this size: 20gb; 0 leaves nothing that isn't in use
    #[arg(long, value_name = "SIZE", value_parser = size)]
    keep_size: Option<u64>,

    /// Say what would go, and drop nothing
    #[arg(long)]
    dry_run: bool,

    /// Don't ask
    #[arg(long, short)]
    yes: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = "\
Examples:
  farm prune --workers --older-than 72h --dry-run
  farm prune --workers --keep-size 20gb --yes
  farm prune --workers w-arm1 w-arm2 --older-than 24h --keep-size 5gb

Engines drop the least lately used first, and never what a build that runs has in use. With both
bounds only what is older goes, and only down to that size. Workers of one engine have one cache.
For admins of the farm. The farm goes on with it when the command is ended.

Exit codes:
  0  done
  1  some worker could not, or isn't there
  2  a value can't be taken, or it isn't said what is to go
  3  no farm answers, or it refuses that";

fn duration(text: &str) -> std::result::Result<Duration, String> {
    let read = parse_duration(text).filter(|age| !age.is_zero());
    read.ok_or_else(|| "write a number and a unit, like 90m or 72h; at most 30 days".to_owned())
}

fn size(text: &str) -> std::result::Result<u64, String> {
    if text == "0" {
        return Ok(0);
    }
    parse_bytes(text).map_err(|_| "write a size like 500mb or 20gb".to_owned())
}

/// Has engines drop what they keep.
///
/// # Errors
/// It isn't said what, nobody can be asked whether, or the farm refuses.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    if args.older_than.is_none() && args.keep_size.is_none() {
        return Err(Error::Usage(
            "say what is to go: --older-than 72h, --keep-size 20gb, or --keep-size 0 for all that isn't in use".to_owned(),
        ));
    }
    let whose = match args.workers.as_slice() {
        [] => "all workers that are connected".to_owned(),
        names => names.join(", "),
    };
    if !args.dry_run && !args.yes {
        let what = format!("this drops what the engines of {whose} keep of former builds, and later builds take longer");
        if !confirm(&format!("Drop what the engines of {whose} keep of former builds?"), &what)? {
            return Err(Error::Cancelled("nothing was dropped".to_owned()));
        }
    }
    let millis = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    let request = PruneCachesRequest {
        idempotency_key: uuid::Uuid::new_v4().to_string(),
        names: args.workers,
        older_than_ms: args.older_than.map_or(0, millis),
        keep_bytes: args.keep_size.unwrap_or(0),
        dry_run: args.dry_run,
    };
    let client = Client::connect(&setup.address).await?;
    let mut out = Out::stdout();
    let caches = loop {
        let asked = through(async || client.farm().prune_caches(request.clone()).await).await;
        let caches = asked.map_err(|status| client.error(&status))?.caches;
        if caches.iter().all(|cache| cache.state != "asked") {
            break caches;
        }
    };
    if args.json {
        let workers: Vec<CacheJson<'_>> = caches.iter().map(CacheJson::from).collect();
        out.line(&json::text(&json!({ "dry_run": args.dry_run, "workers": workers })));
    } else if caches.is_empty() {
        out.line("no worker is connected that could be asked");
    } else {
        out.lines(pruned(&caches, args.dry_run));
    }
    let is_done = |cache: &WorkerCache| cache.state == "done";
    // As of a build that failed.
    Ok(if caches.iter().all(is_done) { Exit::Done } else { Exit::BuildFailed })
}
