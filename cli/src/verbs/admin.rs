//! `farm admin`: the admins of the whole farm.

use farm_proto::v1::{ListFarmAdminsRequest, SetFarmAdminRequest};
use farm_types::PrincipalName;
use serde_json::{Value, json};

use super::of_flag;
use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Exit, Result};
use crate::output::Out;
use crate::output::json;
use crate::output::text::harmless;

/// Arguments of `farm admin`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    deed: Deed,
}

/// What `farm admin` can do.
#[derive(Debug, clap::Subcommand)]
enum Deed {
    /// Make a person an admin of the farm
    #[command(after_help = "Examples:\n  farm admin add ada")]
    Add {
        /// The person; one of this name is made if there is none
        #[arg(value_name = "PERSON")]
        person: String,
    },
    /// Make a person an admin of the farm no more
    #[command(alias = "remove", after_help = "Examples:\n  farm admin rm ada")]
    Rm {
        /// As `farm admin ls` lists them
        #[arg(value_name = "PERSON")]
        person: String,
    },
    /// List the admins of the farm
    #[command(alias = "list", after_help = "Examples:\n  farm admin ls\n  farm admin ls --json")]
    Ls {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

const AFTER_HELP: &str = "\
Examples:
  farm admin add ada
  farm admin ls
  farm admin rm ada

An admin of the farm may do everything, in every project. Only they make projects and persons, and
drain workers. Whoever has the farm's own token file is one, and can't be taken out. A token with
--role or --only-project makes nobody one.";

/// Says who is an admin of the farm.
///
/// # Errors
/// The name is none, the farm refuses, or it can't be asked.
pub async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    match args.deed {
        Deed::Add { person } => set(&person, true, setup).await?,
        Deed::Rm { person } => set(&person, false, setup).await?,
        Deed::Ls { json } => list(json, setup).await?,
    }
    Ok(Exit::Done)
}

async fn set(person: &str, admin: bool, setup: &Setup) -> Result<()> {
    let person: PrincipalName = of_flag("person", person)?;
    let client = Client::connect(&setup.address).await?;
    let request = SetFarmAdminRequest { person: person.to_string(), admin };
    let set = client.people().set_farm_admin(request).await.map_err(|e| client.error(&e))?;
    Out::stdout().line(&match (admin, set.into_inner().changed) {
        (true, true) => format!("{person} is an admin of the farm"),
        (true, false) => format!("{person} was an admin of the farm already"),
        (false, true) => format!("{person} is an admin of the farm no more"),
        (false, false) => format!("{person} was no admin of the farm; `farm admin ls` lists those who are"),
    });
    Ok(())
}

async fn list(as_json: bool, setup: &Setup) -> Result<()> {
    let client = Client::connect(&setup.address).await?;
    let asked = through(async || client.people().list_farm_admins(ListFarmAdminsRequest {}).await).await;
    let admins = asked.map_err(|status| client.error(&status))?.admins;
    let mut out = Out::stdout();
    if as_json {
        let admins: Vec<Value> = admins.iter().map(|admin| json!({ "name": admin.name })).collect();
        out.line(&json::text(&json!({ "admins": admins })));
        return Ok(());
    }
    out.lines(admins.iter().map(|admin| harmless(&admin.name)));
    out.line(match admins.len() {
        0 => "nobody but whoever has the farm's own token file; farm admin add PERSON makes somebody one",
        _ => "(and whoever has the farm's own token file)",
    });
    Ok(())
}
