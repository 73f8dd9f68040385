//! `farm workers`: the list; what can be wished of workers is in [`wish`].

mod wish;

use farm_proto::v1::{ListWorkersRequest, Worker};
use serde_json::json;

use super::now_ms;
use crate::config::Setup;
use crate::connect::Farm;
use crate::error::{Exit, Result};
use crate::output::Out;
use crate::output::format;
use crate::output::json::{self, WorkerJson};
use crate::output::text::{ago, columns, harmless};

/// Arguments of `farm workers`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// What to do with workers; without it they are listed
    #[command(subcommand)]
    wish: Option<wish::Wish>,

    /// Print one JSON object
    #[arg(long, conflicts_with = "format")]
    json: bool,

    /// Print each worker by a template of the JSON's names, like '{{ name }}'
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
}

const AFTER_HELP: &str = "\
Examples:
  farm workers
  farm workers --json
  farm workers --format '{{ name }} {{ state }}'
  farm workers drain w-arm1 --wait";

/// Lists the farm's workers, those that need somebody first; or does what is wished of some.
///
/// # Errors
/// The farm can't be asked, or refuses.
pub async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    if let Some(wish) = args.wish {
        return wish::run(wish, setup).await;
    }
    let farm = Farm::connect(&setup.address).await?;
    let answer = farm.farm().list_workers(ListWorkersRequest {}).await.map_err(|e| farm.error(&e))?;
    let mut workers = answer.into_inner().workers;
    let need = |state: &str| {
        ["suspect", "offline", "draining", "drained"].iter().position(|s| *s == state).unwrap_or(4)
    };
    workers.sort_by(|a, b| (need(&a.state), &a.name).cmp(&(need(&b.state), &b.name)));
    let mut out = Out::stdout();
    if let Some(template) = &args.format {
        format::print(&mut out, template, workers.iter().map(WorkerJson::from))?;
    } else if args.json {
        let workers: Vec<WorkerJson> = workers.iter().map(WorkerJson::from).collect();
        out.line(&json::text(&json!({ "workers": workers })));
    } else if workers.is_empty() {
        out.line("no worker has ever come to this farm; start one with farm-worker");
    } else {
        out.lines(table(&workers, now_ms()));
    }
    Ok(Exit::Done)
}

fn table(workers: &[Worker], now: i64) -> Vec<String> {
    let head = ["WORKER", "STATE", "FREE", "HEARD", "PLATFORMS", "ENGINE", "RUNNING"]
        .map(ToOwned::to_owned)
        .to_vec();
    let rows = workers.iter().map(|worker| {
        let platforms: Vec<String> = worker
            .platforms
            .iter()
            .map(|offer| match offer.support.as_str() {
                "native" => harmless(&offer.platform),
                support => format!("{} ({})", harmless(&offer.platform), harmless(support)),
            })
            .collect();
        let heard = if worker.last_seen_ms > 0 { ago(worker.last_seen_ms, now) } else { "never".to_owned() };
        vec![
            harmless(&worker.name),
            harmless(&worker.state),
            format!("{} of {}", worker.slots_free, worker.slots),
            heard,
            platforms.join(", "),
            harmless(&worker.engine),
            harmless(&worker.running.join(", ")),
        ]
    });
    columns(&[head].into_iter().chain(rows).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emulated_platform_is_marked() {
        let offer = |platform: &str, support: &str| farm_proto::v1::PlatformOffer {
            platform: platform.into(),
            support: support.into(),
            told: true,
        };
        let worker = Worker {
            name: "w-amd64".into(),
            state: "online".into(),
            platforms: vec![offer("linux/amd64", "native"), offer("linux/arm64", "emulated")],
            slots: 2,
            slots_free: 1,
            engine: "0.13.2".into(),
            last_seen_ms: 1_000,
            ..Default::default()
        };
        assert_eq!(
            table(&[worker], 2_000),
            [
                "WORKER   STATE   FREE    HEARD     PLATFORMS                            ENGINE  RUNNING",
                "w-amd64  online  1 of 2  just now  linux/amd64, linux/arm64 (emulated)  0.13.2",
            ]
        );
    }
}
