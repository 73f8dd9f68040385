//! `farm prune --workers`: engines drop what they keep of former builds.

use std::time::Duration;

use farm_proto::v1::{PruneCachesRequest, WorkerCache};
use serde_json::json;

use super::{Args, agree};
use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Error, Exit, Result};
use crate::output::usage::{CacheJson, pruned};
use crate::output::{Out, json};

/// Has engines drop what they keep.
///
/// # Errors
/// It isn't said what, nobody can be asked whether, or the farm refuses.
pub(super) async fn prune(args: &Args, setup: &Setup) -> Result<Exit> {
    if args.older_than.is_none() && args.keep_size.is_none() {
        return Err(Error::Usage(
            "say what is to go: --older-than 72h, --keep-size 20gb, or --keep-size 0 for all that isn't in use".to_owned(),
        ));
    }
    let names = args.workers.clone().unwrap_or_default();
    let whose = match names.as_slice() {
        [] => "all workers that are connected".to_owned(),
        names => names.join(", "),
    };
    let what =
        format!("this drops what the engines of {whose} keep of former builds, and later builds take longer");
    agree(args, &format!("Drop what the engines of {whose} keep of former builds?"), &what)?;
    let millis = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    let request = PruneCachesRequest {
        idempotency_key: uuid::Uuid::new_v4().to_string(),
        names,
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
