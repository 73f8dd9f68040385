//! `farm workers invite`, `invitations`, `withdraw`, `revoke`: who may work for the farm.

use std::time::Duration;

use farm_proto::v1::{
    Invitation, InviteWorkerRequest, InviteWorkerResponse, ListInvitationsRequest, RevokeWorkersRequest,
    WithdrawInvitationRequest,
};
use farm_types::spec::parse_duration;
use farm_types::{Platform, TrustClass};
use serde::Serialize;
use serde_json::json;
use tonic::Code;

use super::super::now_ms;
use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Error, Exit, Result};
use crate::output::Out;
use crate::output::json;
use crate::output::people::until;
use crate::output::text::{columns, count, harmless, time};

/// Arguments of `farm workers invite`.
#[derive(Debug, clap::Args)]
#[command(after_help = INVITE_HELP)]
pub struct Invite {
    /// The name that the worker has to have [default: it says it when it joins, else its host's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Another worker of a machine that joined before: it shares the slots of the engine there. Pool and trust are the machine's
    #[arg(long, value_name = "NAME", conflicts_with_all = ["pool", "trust"])]
    machine: Option<String>,

    /// If no worker ever joined from the machine of --machine, it is another one, named like the worker
    #[arg(long, requires = "machine")]
    if_known: bool,

    /// A word for machines that are alike [default: default]
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,

    /// `untrusted`: it pushes to the farm's staging registry only, which has to be there, and is
    /// lent nothing else
    #[arg(long, value_name = "trusted|untrusted")]
    trust: Option<TrustClass>,

    /// All that it may offer, with commas between [default: whatever its engine runs]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    platforms: Vec<Platform>,

    /// The most slots that it may have [default: what it says]. Workers on one engine share those of the largest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    slots: Option<u32>,

    /// How long the invitation can be used: 30m, 1h, 7d, at most 30d
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = span)]
    expires: Duration,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn span(text: &str) -> std::result::Result<Duration, String> {
    parse_duration(text)
        .filter(|span| !span.is_zero())
        .ok_or_else(|| "write a number and a unit, like 30m, 1h or 7d; at most 30d".to_owned())
}

const INVITE_HELP: &str = "\
Examples:
  farm workers invite
  farm workers invite --name w-arm1 --pool arm --platforms linux/arm64,linux/arm/v7 --slots 4
  farm workers invite --machine w-arm1 --name w-arm1-qemu

Prints one line to run on the machine, which makes a certificate for its worker: from then on the
worker's name, machine, pool and trust are what the certificate stands for. It can be used once.";

pub const REVOKE_HELP: &str = "\
Examples:
  farm workers revoke w-arm1

Within 5 s the worker is out, and what it ran is run elsewhere. To have it back, invite it again.";

pub const WITHDRAW_HELP: &str = "\
Examples:
  farm workers withdraw farm_j_1a2b3";

/// An invitation, as `farm workers invitations --json` prints it.
#[derive(Debug, Serialize)]
struct InvitationJson {
    id: String,
    hint: String,
    name: Option<String>,
    machine: Option<String>,
    pool: String,
    trust: String,
    platforms: Vec<String>,
    slots: Option<u32>,
    created_by: String,
    created: Option<String>,
    expires: Option<String>,
}

impl From<&Invitation> for InvitationJson {
    fn from(it: &Invitation) -> Self {
        let said = |text: &String| (!text.is_empty()).then(|| text.clone());
        Self {
            id: it.id.clone(),
            hint: it.hint.clone(),
            name: said(&it.name),
            machine: said(&it.machine),
            pool: it.pool.clone(),
            trust: it.trust.clone(),
            platforms: it.platforms.clone(),
            slots: (it.slots > 0).then_some(it.slots),
            created_by: it.created_by.clone(),
            created: time(it.created_ms),
            expires: time(it.expires_ms),
        }
    }
}

/// Makes an invitation; prints the line to run, alone on standard output.
///
/// # Errors
/// The farm refuses, or can't be asked.
pub(crate) async fn invite(args: Invite, setup: &Setup) -> Result<Exit> {
    let client = Client::connect(&setup.address).await?;
    let request = InviteWorkerRequest {
        name: args.name.unwrap_or_default(),
        machine: args.machine.unwrap_or_default(),
        pool: args.pool.unwrap_or_default(),
        trust: args.trust.map(|trust| trust.to_string()).unwrap_or_default(),
        platforms: args.platforms.iter().map(ToString::to_string).collect(),
        slots: args.slots.unwrap_or_default(),
        expires_ms: u64::try_from(args.expires.as_millis()).unwrap_or(u64::MAX),
    };
    // Not repeated when the connection breaks: nobody would see what the first call has made.
    let made = match client.machines().invite_worker(request.clone()).await {
        // Of what an invitation names only the machine can be missing; nothing was made.
        Err(status) if args.if_known && status.code() == Code::NotFound => {
            let request = InviteWorkerRequest { machine: String::new(), ..request };
            client.machines().invite_worker(request).await
        }
        made => made,
    };
    let made = made.map_err(|e| client.error(&e))?.into_inner();
    let nothing =
        || Error::Farm(format!("the farm at {} made an invitation and gave none back", client.url()));
    let invitation = made.invitation.as_ref().filter(|_| !made.token.is_empty()).ok_or_else(nothing)?;
    let mut out = Out::stdout();
    if args.json {
        out.line(&json::text(&json!({
            "command": command(&made),
            "token": made.token,
            "coordinators": made.coordinators,
            "fingerprint": (!made.fingerprint.is_empty()).then_some(&made.fingerprint),
            "invitation": InvitationJson::from(invitation),
        })));
        return Ok(Exit::Done);
    }
    let mut told = Out::stderr();
    told.line(&format!(
        "Run this on the worker's machine, once, {}:",
        until(invitation.expires_ms, now_ms())
    ));
    out.line(&command(&made));
    if is_here_only(&made.coordinators) {
        told.line(
            "Only this machine reaches that address: for another one start the coordinator with --listen 0.0.0.0:7070, or say with \
             --advertise how it is reached.",
        );
    }
    Ok(Exit::Done)
}

/// The line to run on the machine.
fn command(made: &InviteWorkerResponse) -> String {
    let coordinators = harmless(&made.coordinators.join(","));
    let fingerprint = match made.fingerprint.as_str() {
        "" => String::new(),
        it => format!(" --fingerprint {}", harmless(it)),
    };
    format!("farm-worker join {coordinators}{fingerprint} {}", harmless(&made.token))
}

fn is_here_only(coordinators: &[String]) -> bool {
    let is_here =
        |url: &String| url.parse().is_ok_and(|uri: tonic::transport::Uri| farm_client::is_loopback(&uri));
    coordinators.iter().all(is_here)
}

/// Lists what can still be used.
///
/// # Errors
/// The farm refuses, or can't be asked.
pub(crate) async fn invitations(as_json: bool, setup: &Setup) -> Result<Exit> {
    let client = Client::connect(&setup.address).await?;
    let asked = through(async || client.machines().list_invitations(ListInvitationsRequest {}).await).await;
    let all = asked.map_err(|status| client.error(&status))?.invitations;
    let mut out = Out::stdout();
    if as_json {
        let all: Vec<InvitationJson> = all.iter().map(InvitationJson::from).collect();
        out.line(&json::text(&json!({ "invitations": all })));
    } else if all.is_empty() {
        out.line("no invitation is open; make one with: farm workers invite");
    } else {
        out.lines(table(&all, now_ms()));
    }
    Ok(Exit::Done)
}

fn table(all: &[Invitation], now: i64) -> Vec<String> {
    let head = ["INVITATION", "FOR", "POOL", "TRUST", "PLATFORMS", "SLOTS", "BY", "COUNTS"];
    let rows = all.iter().map(|it| {
        let who = match (it.name.as_str(), it.machine.as_str()) {
            ("", "") => "a new machine".to_owned(),
            ("", machine) => format!("machine {machine}"),
            (name, "") => name.to_owned(),
            (name, machine) => format!("{name} on {machine}"),
        };
        vec![
            format!("{}…", harmless(&it.hint)),
            harmless(&who),
            harmless(&it.pool),
            harmless(&it.trust),
            if it.platforms.is_empty() { "all".to_owned() } else { harmless(&it.platforms.join(", ")) },
            if it.slots == 0 { "all".to_owned() } else { it.slots.to_string() },
            harmless(&it.created_by),
            until(it.expires_ms, now),
        ]
    });
    let head = head.map(ToOwned::to_owned).to_vec();
    columns(&[head].into_iter().chain(rows).collect::<Vec<_>>())
}

/// Takes an invitation back.
///
/// # Errors
/// There is none, the farm refuses, or it can't be asked.
pub(crate) async fn withdraw(invitation: &str, setup: &Setup) -> Result<Exit> {
    let client = Client::connect(&setup.address).await?;
    // What the list shows ends with a sign that says that there is more.
    let invitation = invitation.trim_end_matches('…').to_owned();
    let request = WithdrawInvitationRequest { invitation };
    client.machines().withdraw_invitation(request).await.map_err(|e| client.error(&e))?;
    Out::stdout().line("the invitation is taken back; nobody can join by it any more");
    Ok(Exit::Done)
}

/// Throws workers out.
///
/// # Errors
/// There is no such worker, the farm refuses, or it can't be asked.
pub(crate) async fn revoke(mut names: Vec<String>, setup: &Setup) -> Result<Exit> {
    names.sort();
    names.dedup();
    let client = Client::connect(&setup.address).await?;
    let request = RevokeWorkersRequest { names: names.clone() };
    client.machines().revoke_workers(request).await.map_err(|e| client.error(&e))?;
    let (what, are) = match names.as_slice() {
        [one] => (harmless(one), "is"),
        several => (count(several.len(), "worker"), "are"),
    };
    Out::stdout()
        .line(&format!("{what} {are} revoked: out within 5 s, and what was run there is run elsewhere"));
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_to_run_names_all_that_joining_needs() {
        let mut made = InviteWorkerResponse {
            token: "farm_j_12".into(),
            coordinators: vec!["https://a:7070".into(), "https://b:7070".into()],
            fingerprint: "SHA256:ab".into(),
            ..Default::default()
        };
        assert_eq!(
            command(&made),
            "farm-worker join https://a:7070,https://b:7070 --fingerprint SHA256:ab farm_j_12"
        );
        made.fingerprint.clear();
        assert_eq!(command(&made), "farm-worker join https://a:7070,https://b:7070 farm_j_12");
        assert!(!is_here_only(&made.coordinators));
        assert!(is_here_only(&["https://127.0.0.1:7070".to_owned(), "https://localhost:1".to_owned()]));
    }

    #[test]
    fn an_invitation_says_whom_it_is_for() {
        let it = Invitation { hint: "farm_j_12345".into(), pool: "arm".into(), ..Default::default() };
        let named = Invitation { name: "w2".into(), machine: "m1".into(), slots: 3, ..it.clone() };
        let lines = table(&[it, named], 0).join("\n");
        assert!(lines.contains("a new machine") && lines.contains("w2 on m1"), "{lines}");
    }
}
