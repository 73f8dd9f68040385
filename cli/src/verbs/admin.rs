//! `farm admin`: the admins of the whole farm, and who people are at the issuer at which they sign in.

use farm_proto::v1::{
    LinkPersonRequest, ListFarmAdminsRequest, ListFarmAdminsResponse, SetFarmAdminRequest,
    UnlinkPersonRequest,
};
use farm_types::PrincipalName;
use serde_json::json;

use super::{now_ms, of_flag};
use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Exit, Result};
use crate::output::Out;
use crate::output::json;
use crate::output::people::{AdminJson, signed_in_words};
use crate::output::text::{count, harmless};

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
    /// Say who at the issuer a person is; what somebody was told who could not sign in has the subject
    #[command(after_help = "Examples:\n  farm admin link ada --subject 248289761001")]
    Link {
        /// The person; one of this name is made if there is none
        #[arg(value_name = "PERSON")]
        person: String,

        /// What the issuer knows them by (sub)
        #[arg(long, value_name = "SUB")]
        subject: String,
    },
    /// Take that back, and end what the person has signed in with
    #[command(after_help = "Examples:\n  farm admin unlink ada")]
    Unlink {
        /// The person
        #[arg(value_name = "PERSON")]
        person: String,
    },
}

const AFTER_HELP: &str = "\
Examples:
  farm admin add ada
  farm admin ls
  farm admin rm ada
  farm admin link ada --subject 248289761001
  farm admin unlink ada

An admin of the farm may do everything, in every project. Only they make projects and persons, and
drain workers. Whoever has the farm's own token file is one, and can't be taken out. A token with
--role or --only-project makes nobody one. Where people sign in, whoever is in one of the groups
that the coordinator's configuration names (sign_in.admin_groups) is one while signed in.";

/// Says who is an admin of the farm.
///
/// # Errors
/// The name is none, the farm refuses, or it can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    match args.deed {
        Deed::Add { person } => set(&person, true, setup).await?,
        Deed::Rm { person } => set(&person, false, setup).await?,
        Deed::Ls { json } => list(json, setup).await?,
        Deed::Link { person, subject } => link(&person, subject, setup).await?,
        Deed::Unlink { person } => unlink(&person, setup).await?,
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

async fn link(person: &str, subject: String, setup: &Setup) -> Result<()> {
    let person: PrincipalName = of_flag("person", person)?;
    let client = Client::connect(&setup.address).await?;
    let request = LinkPersonRequest { person: person.to_string(), subject: subject.clone() };
    let linked = client.sign_ins().link_person(request).await.map_err(|e| client.error(&e))?.into_inner();
    let already = if linked.changed { "" } else { " already" };
    let (subject, issuer) = (harmless(&subject), harmless(&linked.issuer));
    Out::stdout().line(&format!("who signs in at {issuer} as {subject} is {person}{already}"));
    Ok(())
}

async fn unlink(person: &str, setup: &Setup) -> Result<()> {
    let person: PrincipalName = of_flag("person", person)?;
    let client = Client::connect(&setup.address).await?;
    let request = UnlinkPersonRequest { person: person.to_string() };
    let unlinked = client.sign_ins().unlink_person(request).await.map_err(|e| client.error(&e))?.into_inner();
    let ended = count(usize::try_from(unlinked.ended).unwrap_or(usize::MAX), "token");
    Out::stdout().line(&match unlinked.changed {
        true => format!("nobody signs in as {person} any more; {ended} of sign-ins ended, within 5 s"),
        false => format!("nobody signed in as {person}"),
    });
    Ok(())
}

async fn list(as_json: bool, setup: &Setup) -> Result<()> {
    let client = Client::connect(&setup.address).await?;
    let asked = through(async || client.people().list_farm_admins(ListFarmAdminsRequest {}).await).await;
    let ListFarmAdminsResponse { admins, issuer } = asked.map_err(|status| client.error(&status))?;
    let mut out = Out::stdout();
    if as_json {
        let admins: Vec<AdminJson> = admins.iter().map(|admin| AdminJson::new(admin, &issuer)).collect();
        out.line(&json::text(&json!({ "admins": admins })));
        return Ok(());
    }
    let now = now_ms();
    out.lines(admins.iter().map(|admin| match admin.group {
        true => format!("{}  (a group; who is in it, while signed in)", harmless(&admin.name)),
        false if issuer.is_empty() => harmless(&admin.name),
        false => {
            let signed_in = signed_in_words(admin.linked, admin.signed_in_ms, now);
            format!("{}  (signed in: {signed_in})", harmless(&admin.name))
        }
    }));
    out.line(match admins.len() {
        0 => "nobody but whoever has the farm's own token file; farm admin add PERSON makes somebody one",
        _ => "(and whoever has the farm's own token file)",
    });
    Ok(())
}
