//! `farm trust`: the list, and taking some away; adding one is in [`add`].

mod add;

use farm_proto::v1::{ListTrustsRequest, ListTrustsResponse, RemoveTrustRequest};
use serde_json::json;

use super::now_ms;
use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Error, Exit, Result};
use crate::output::Out;
use crate::output::json;
use crate::output::text::harmless;
use crate::output::trusts::{TrustJson, named, trusts};

/// Arguments of `farm trust`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    deed: Deed,
}

/// What `farm trust` can do.
#[derive(Debug, clap::Subcommand)]
enum Deed {
    /// Let jobs of a repository, or another system's tokens, into the project. For its admins
    #[command(after_help = ADD_HELP)]
    Add {
        /// Whose tokens
        #[command(subcommand)]
        of: add::Of,
    },
    /// List what the project trusts. For its admins
    #[command(
        alias = "list",
        after_help = "Examples:\n  farm trust ls --project web\n  farm trust ls --json"
    )]
    Ls {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Trust something no more. For the project's admins
    #[command(alias = "remove", after_help = REMOVE_HELP)]
    Rm {
        /// As `farm trust ls` lists them, or their ids
        #[arg(value_name = "TRUSTED", required = true)]
        names: Vec<String>,
    },
}

const AFTER_HELP: &str = "\
Examples:
  farm trust add github acme/app --repository-id 74 --owner-id 65 --role builder --project web
  farm trust ls --project web
  farm trust rm acme/app --project web

A job of what is trusted needs no stored secret: it shows the token that its own system gives it,
and gets one of the farm's for 15 minutes, which counts in this project only.";

const ADD_HELP: &str = "\
Examples:
  farm trust add github acme/app --repository-id 74 --owner-id 65 --role builder
  farm trust add gitlab acme/app --project-id 74 --namespace-id 65 --role builder --ref main
  farm trust add other --issuer https://issuer.example --claim sub=robot-7 --role viewer";

const REMOVE_HELP: &str = "\
Examples:
  farm trust rm acme/app
  farm trust rm 0199c2f7-7c1e-7d3a-8f0e-3b1d5a0c9e42

Within 5 s nobody takes its tokens, nor those of the farm's that were given for them; what is open
by one is cut off, builds go on.";

/// Adds, lists or removes what a project trusts.
///
/// # Errors
/// What is to be trusted isn't told by ids, the farm refuses, or it can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    match args.deed {
        Deed::Add { of } => add::run(of, setup).await?,
        Deed::Ls { json } => list(json, setup).await?,
        Deed::Rm { names } => remove(&names, setup).await?,
    }
    Ok(Exit::Done)
}

async fn listed(client: &Client) -> Result<ListTrustsResponse> {
    let asked = through(async || client.trusts().list_trusts(ListTrustsRequest {}).await).await;
    asked.map_err(|status| client.error(&status))
}

async fn list(as_json: bool, setup: &Setup) -> Result<()> {
    let client = Client::connect(&setup.address).await?;
    let listed = listed(&client).await?;
    let mut out = Out::stdout();
    if as_json {
        let all: Vec<TrustJson<'_>> = listed.trusts.iter().map(TrustJson::from).collect();
        out.line(&json::text(&json!({ "project": listed.project, "trusts": all })));
    } else if listed.trusts.is_empty() {
        let project = harmless(&listed.project);
        out.line(&format!(
            "project {project} trusts no other system yet: farm trust add github OWNER/REPO --role builder --project {project}"
        ));
    } else {
        out.lines(trusts(&listed.trusts, now_ms()));
    }
    Ok(())
}

async fn remove(names: &[String], setup: &Setup) -> Result<()> {
    let client = Client::connect(&setup.address).await?;
    let there = listed(&client).await?.trusts;
    let mut out = Out::stdout();
    for name in names {
        let of_name: Vec<_> = there.iter().filter(|trust| trust.id == *name || trust.name == *name).collect();
        if let [first, _, ..] = of_name.as_slice() {
            let ids: Vec<&str> = of_name.iter().map(|trust| trust.id.as_str()).collect();
            return Err(Error::Usage(format!(
                "{} trusts are about {}; name one by its id: {}",
                of_name.len(),
                harmless(&first.name),
                ids.join(", ")
            )));
        }
        // Of what isn't in the list the farm says so.
        let (id, is) = of_name.first().map_or((name.clone(), harmless(name)), |t| (t.id.clone(), named(t)));
        let removed = client.trusts().remove_trust(RemoveTrustRequest { id }).await;
        let project = removed.map_err(|status| client.error(&status))?.into_inner().project;
        out.line(&format!("project {} trusts {is} no more", harmless(&project)));
    }
    Ok(())
}
