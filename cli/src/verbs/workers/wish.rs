//! `farm workers drain`, `resume`, `remove`: what an administrator says of workers; who may be one is in [`invite`].
//!
//! The wish stands at the farm as soon as the command has said so; `--wait` only looks on.

use std::time::Duration;

use farm_proto::v1::{
    DrainWorkersRequest, ListWorkersRequest, RemoveWorkersRequest, ResumeWorkersRequest, Worker,
};
use farm_types::spec::parse_duration;

use super::invite;
use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Error, Exit, Result};
use crate::output::Out;
use crate::output::text::harmless;

/// How often `--wait` looks.
const LOOK: Duration = Duration::from_secs(1);

/// What `farm workers` can be told to do.
#[derive(Debug, clap::Subcommand)]
pub enum Wish {
    /// Bring a machine into the farm: one line to run there
    Invite(invite::Invite),
    /// List the invitations that nobody has used yet
    #[command(after_help = "Examples:\n  farm workers invitations\n  farm workers invitations --json")]
    Invitations {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Take an invitation back
    #[command(after_help = invite::WITHDRAW_HELP)]
    Withdraw {
        /// As `farm workers invitations` lists it, its id, or the join token itself
        #[arg(value_name = "INVITATION")]
        invitation: String,
    },
    /// Throw workers out: no certificate of theirs counts any more
    #[command(after_help = invite::REVOKE_HELP)]
    Revoke {
        /// The workers, as `farm workers` lists them
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
    /// Give workers nothing new; what they run goes on
    Drain(Drain),
    /// Give workers jobs again that are drained, quarantined or on probation
    #[command(after_help = "Examples:\n  farm workers resume w-arm1\n  farm workers resume w-arm1 w-arm2")]
    Resume {
        /// The workers, as `farm workers` lists them
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
    /// Take workers that are gone from the list
    #[command(after_help = REMOVE_HELP)]
    Remove {
        /// The workers, as `farm workers` lists them
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
}

/// Arguments of `farm workers drain`.
#[derive(Debug, clap::Args)]
#[command(after_help = DRAIN_HELP)]
pub struct Drain {
    /// The workers, as `farm workers` lists them
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,

    /// Wait until they run nothing any more; Ctrl-C ends the waiting only
    #[arg(long)]
    wait: bool,

    /// Give back what they still run after DURATION (90s, 10m, 2h): it is run elsewhere at once, and that is no
    /// failed try of it
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    within: Option<Duration>,
}

fn duration(text: &str) -> std::result::Result<Duration, String> {
    parse_duration(text)
        .filter(|within| !within.is_zero())
        .ok_or_else(|| "write a number and a unit, like 90s, 10m or 2h; at most 30 days".to_owned())
}

const DRAIN_HELP: &str = "\
Examples:
  farm workers drain w-arm1
  farm workers drain w-arm1 w-arm2 --wait && ssh arm1 reboot
  farm workers drain w-spot7 --within 90s

A drained worker stays so through restarts of it and of the farm, until `farm workers resume`. To
jobs it is as if it were not there: with `--emulation fallback` they are emulated elsewhere from
30 s later on, if no other native worker is there.";

const REMOVE_HELP: &str = "\
Examples:
  farm workers remove w-old
  farm workers drain w-old --wait      (then stop its farm-worker, then remove it)

Only a worker that is offline can be removed. Builds that it ran go on naming it; should it come
back, it is a new worker, and no longer drained.";

/// Does what an administrator wishes.
///
/// # Errors
/// There is no such worker, the farm refuses, or it can't be asked.
pub(crate) async fn run(wish: Wish, setup: &Setup) -> Result<Exit> {
    let wish = match wish {
        Wish::Invite(args) => return invite::invite(args, setup).await,
        Wish::Invitations { json } => return invite::invitations(json, setup).await,
        Wish::Withdraw { invitation } => return invite::withdraw(&invitation, setup).await,
        Wish::Revoke { names } => return invite::revoke(names, setup).await,
        other => other,
    };
    let client = Client::connect(&setup.address).await?;
    let mut out = Out::stdout();
    match wish {
        Wish::Drain(Drain { names, wait, within }) => {
            let within_ms = within.map_or(0, |within| u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
            let request = DrainWorkersRequest { names: names.clone(), within_ms };
            let answer =
                client.farm().drain_workers(request).await.map_err(|e| client.error(&e))?.into_inner();
            out.lines(answer.workers.iter().map(drained));
            if let Some(within) = within.filter(|_| answer.workers.iter().any(is_busy)) {
                let seconds = within.as_secs();
                out.line(&format!("what does not end within {seconds} s is given back, and run elsewhere"));
            }
            if wait && answer.workers.iter().any(is_busy) {
                wait_idle(&client, &names, &mut out).await?;
            }
        }
        Wish::Resume { names } => {
            let request = ResumeWorkersRequest { names };
            let answer =
                client.farm().resume_workers(request).await.map_err(|e| client.error(&e))?.into_inner();
            out.lines(answer.workers.iter().map(resumed));
        }
        Wish::Remove { mut names } => {
            names.sort();
            names.dedup();
            let request = RemoveWorkersRequest { names: names.clone() };
            client.farm().remove_workers(request).await.map_err(|e| client.error(&e))?;
            out.lines(names.iter().map(|name| format!("{} is removed", harmless(name))));
        }
        Wish::Invite(_) | Wish::Invitations { .. } | Wish::Withdraw { .. } | Wish::Revoke { .. } => {}
    }
    Ok(Exit::Done)
}

/// Looks until none of these workers runs anything; says so of each.
async fn wait_idle(client: &Client, names: &[String], out: &mut Out) -> Result<()> {
    let mut busy: Vec<&String> = names.iter().collect();
    loop {
        let asked = through(async || client.farm().list_workers(ListWorkersRequest {}).await).await;
        let workers = asked.map_err(|status| client.error(&status))?.workers;
        let mut still = Vec::new();
        for name in busy {
            match workers.iter().find(|worker| worker.name == *name) {
                Some(worker) if worker.state == "online" => {
                    return Err(Error::Usage(format!(
                        "worker {} takes jobs again: somebody has resumed it, so it may never be idle",
                        harmless(name)
                    )));
                }
                Some(worker) if is_busy(worker) => still.push(name),
                _ => out.line(&format!("{} runs nothing any more", harmless(name))),
            }
        }
        if still.is_empty() {
            return Ok(());
        }
        busy = still;
        tokio::time::sleep(LOOK).await;
    }
}

fn is_busy(worker: &Worker) -> bool {
    !worker.running.is_empty()
}

fn drained(worker: &Worker) -> String {
    let name = harmless(&worker.name);
    match worker.state.as_str() {
        _ if is_busy(worker) => {
            let running = harmless(&worker.running.join(", "));
            format!("{name} is draining: it gets nothing new and still runs {running}")
        }
        "offline" => format!("{name} is drained: it is offline, and gets nothing when it comes back"),
        _ => format!("{name} is drained: it runs nothing and gets nothing new"),
    }
}

fn resumed(worker: &Worker) -> String {
    let name = harmless(&worker.name);
    match worker.state.as_str() {
        "online" => format!("{name} takes jobs"),
        "offline" => format!("{name} takes jobs when it comes back; it is offline"),
        "draining" => format!("{name} is not kept from jobs any more, but it is about to end by itself"),
        state => format!("{name} is not kept from jobs any more; it is {}", harmless(state)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_a_worker_is_told() {
        let worker = |state: &str, running: &[&str]| Worker {
            name: "w1".into(),
            state: state.into(),
            running: running.iter().map(|text| (*text).to_owned()).collect(),
            ..Default::default()
        };
        assert!(drained(&worker("drained", &[])).contains("runs nothing and gets nothing new"));
        assert!(drained(&worker("draining", &["7f3k2m linux/arm64"])).ends_with("runs 7f3k2m linux/arm64"));
        assert!(drained(&worker("offline", &[])).contains("when it comes back"));
        assert_eq!(resumed(&worker("online", &[])), "w1 takes jobs");
        assert!(resumed(&worker("suspect", &[])).ends_with("it is suspect"));
    }
}
