//! `farm workers`: the list; what can be wished of workers is in [`wish`].

mod invite;
mod wish;

use farm_proto::v1::{ListWorkersRequest, Worker};
use farm_types::{Offer, Support};
use serde_json::json;

use super::now_ms;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Exit, Result};
use crate::output::Out;
use crate::output::format;
use crate::output::json::{self, WorkerJson};
use crate::output::people::until;
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
  farm workers drain w-arm1 --wait
  farm workers invite --pool arm";

/// Lists the farm's workers, those that need somebody first; or does what is wished of some.
///
/// # Errors
/// The farm can't be asked, or refuses.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    if let Some(wish) = args.wish {
        return wish::run(wish, setup).await;
    }
    let client = Client::connect(&setup.address).await?;
    let answer = client.farm().list_workers(ListWorkersRequest {}).await.map_err(|e| client.error(&e))?;
    let mut workers = answer.into_inner().workers;
    let need = |state: &str| {
        let order = [
            "quarantined",
            "probation",
            "withdrawn",
            "suspect",
            "offline",
            "expired",
            "joined",
            "draining",
            "drained",
        ];
        order.iter().position(|s| *s == state).unwrap_or(order.len())
    };
    workers.sort_by(|a, b| (need(&a.state), &a.name).cmp(&(need(&b.state), &b.name)));
    let mut out = Out::stdout();
    if let Some(template) = &args.format {
        format::print(&mut out, template, workers.iter().map(WorkerJson::from))?;
    } else if args.json {
        let workers: Vec<WorkerJson> = workers.iter().map(WorkerJson::from).collect();
        out.line(&json::text(&json!({ "workers": workers })));
    } else if workers.is_empty() {
        out.line("no worker has ever come to this farm; bring one with: farm workers invite");
    } else {
        let now = now_ms();
        out.lines(table(&workers, now));
        out.lines(reasons(&workers, now));
    }
    Ok(Exit::Done)
}

fn table(workers: &[Worker], now: i64) -> Vec<String> {
    let head = ["WORKER", "STATE", "FREE", "HEARD", "PLATFORMS", "ENGINE", "RUNNING"]
        .map(ToOwned::to_owned)
        .to_vec();
    let rows = workers.iter().map(|worker| {
        let platforms = platforms(worker);
        let heard = if worker.last_seen_ms > 0 { ago(worker.last_seen_ms, now) } else { "never".to_owned() };
        vec![
            harmless(&worker.name),
            state(worker),
            format!("{} of {}", worker.slots_free, worker.slots),
            heard,
            platforms.join(", "),
            harmless(&worker.engine),
            harmless(&worker.running.join(", ")),
        ]
    });
    columns(&[head].into_iter().chain(rows).collect::<Vec<_>>())
}

/// Its state; and its trust and what it may grant, if that isn't what is usual.
fn state(worker: &Worker) -> String {
    let mut state = harmless(&worker.state);
    if !matches!(worker.trust.as_str(), "" | "trusted") {
        state.push_str(&format!(", {}", harmless(&worker.trust)));
    }
    if !worker.entitlements.is_empty() {
        state.push_str(&format!(", grants {}", harmless(&worker.entitlements.join(" and "))));
    }
    state
}

/// What a worker offers: variants with their platform, and whether they are emulated.
fn platforms(worker: &Worker) -> Vec<String> {
    let known: Vec<Offer> = worker.platforms.iter().filter_map(|offer| offer.try_into().ok()).collect();
    if known.len() < worker.platforms.len() {
        // A newer farm's words.
        return worker.platforms.iter().map(|offer| harmless(&offer.platform)).collect();
    }
    let grouped = Offer::grouped(&known).into_iter();
    grouped
        .map(|(offer, mut more)| {
            if offer.support == Support::Emulated {
                more.push(offer.support.as_str());
            }
            if more.is_empty() {
                return offer.platform.to_string();
            }
            format!("{} ({})", offer.platform, more.join(", "))
        })
        .collect()
}

/// A line for each worker that gets no ordinary jobs and has a reason that its state doesn't say.
fn reasons(workers: &[Worker], now: i64) -> Vec<String> {
    let wait = |until: i64| match (until - now).max(0) / 1000 {
        0 => "now".to_owned(),
        s @ 1..120 => format!("in {s} s"),
        s => format!("in {} min", s / 60),
    };
    workers
        .iter()
        .filter_map(|worker| {
            let name = harmless(&worker.name);
            let since = if worker.since_ms > 0 {
                format!(" (since {})", ago(worker.since_ms, now))
            } else {
                String::new()
            };
            let reason = harmless(&worker.reason);
            match worker.state.as_str() {
                "quarantined" => Some(format!(
                    "{name} is quarantined{since}: {reason}; it comes back when it runs that no more, when it is started \
                     anew, or by `farm workers resume {name}`"
                )),
                "probation" => Some(format!(
                    "{name} is on probation{since}: {reason}; next trial build {}, or `farm workers resume {name}`",
                    wait(worker.next_probe_ms)
                )),
                "online" if !reason.is_empty() => {
                    Some(format!("{name} takes no jobs: its machine isn't trusted, and {reason}"))
                }
                "withdrawn" if !reason.is_empty() => {
                    Some(format!("{name} takes no jobs{since}: {reason}"))
                }
                "joined" => Some(format!(
                    "{name} has joined and not connected yet{since}: start farm-worker on its machine; its certificate counts {}; or take that \
                     back: farm workers revoke {name}",
                    until(worker.certificate_ends_ms, now)
                )),
                "expired" => Some(format!(
                    "{name} is out{since}: {reason}; to have it back: farm workers invite --name {name}"
                )),
                "draining" if worker.release_ms > 0 && !worker.running.is_empty() => {
                    Some(format!("{name} gives back what it still runs {}", wait(worker.release_ms)))
                }
                _ => None,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_worker_gets_no_jobs_stands_below_the_list() {
        let worker = |state: &str, reason: &str| Worker {
            name: "w1".into(),
            state: state.into(),
            reason: reason.into(),
            since_ms: 1_000,
            next_probe_ms: 131_000,
            ..Default::default()
        };
        let line = |worker: Worker| reasons(&[worker], 91_000).join("\n");
        assert_eq!(
            line(worker("probation", "3 jobs in a row failed there")),
            "w1 is on probation (since 1 min ago): 3 jobs in a row failed there; next trial build in 40 s, or \
             `farm workers resume w1`"
        );
        assert!(
            line(worker("quarantined", "it did not stop"))
                .contains("1 min ago): it did not stop; it comes back")
        );
        assert_eq!(
            line(worker("withdrawn", "its disk is full")),
            "w1 takes no jobs (since 1 min ago): its disk is full"
        );
        assert_eq!(
            line(worker("expired", "its certificate has ended")),
            "w1 is out (since 1 min ago): its certificate has ended; to have it back: farm workers invite --name w1"
        );
        let joined = Worker { certificate_ends_ms: 86_401_000, ..worker("joined", "it has never connected") };
        let text = line(joined);
        for part in [
            "w1 has joined and not connected yet (since 1 min ago)",
            "counts until 1970-01-02 00:00 UTC",
            "farm workers revoke w1",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(line(worker("online", "")), "");
        let leaving = Worker { release_ms: 400_000, running: vec!["x".into()], ..worker("draining", "") };
        assert_eq!(line(leaving), "w1 gives back what it still runs in 5 min");
    }

    #[test]
    fn variants_of_a_cpu_stand_with_their_platform() {
        let offer = |platform: &str, support: &str| farm_proto::v1::PlatformOffer {
            platform: platform.into(),
            support: support.into(),
            told: false,
        };
        let offers = [
            offer("linux/386", "native"),
            offer("linux/amd64", "native"),
            offer("linux/amd64/v2", "native"),
            offer("linux/amd64/v3", "native"),
            offer("linux/arm/v7", "emulated"),
        ];
        let mut worker = Worker { platforms: offers.to_vec(), ..Default::default() };
        let shown = platforms(&worker).join(", ");
        assert_eq!(shown, "linux/386, linux/amd64 (v2, v3), linux/arm/v7 (emulated)");
        worker.platforms.push(offer("linux/mips128", "native"));
        assert_eq!(platforms(&worker).len(), 6);
    }

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
