//! `farm member`: who is in a project, and with which role.

use farm_proto::v1::{ListMembersRequest, RemoveMemberRequest, SetMemberRequest};
use farm_types::{PrincipalName, Role};
use serde_json::json;

use super::of_flag;
use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Exit, Result};
use crate::output::Out;
use crate::output::json;
use crate::output::people::{MemberJson, members};
use crate::output::text::harmless;

/// Arguments of `farm member`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    deed: Deed,
}

/// What `farm member` can do.
#[derive(Debug, clap::Subcommand)]
enum Deed {
    /// Give a person a role in the project, instead of the one that they had. For its admins
    #[command(
        after_help = "Examples:\n  farm member set bob --role builder --project web\n  farm member set bob --role viewer"
    )]
    Set {
        /// The person; one of this name is made if there is none
        #[arg(value_name = "PERSON")]
        person: String,

        /// viewer, builder, publisher or admin
        #[arg(long, value_name = "ROLE")]
        role: String,
    },
    /// List who is in the project
    #[command(
        alias = "list",
        after_help = "Examples:\n  farm member ls --project web\n  farm member ls --json"
    )]
    Ls {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Take a person or a service out of the project. For its admins
    #[command(
        alias = "remove",
        after_help = "Examples:\n  farm member rm bob --project web\n  farm member rm web/ci"
    )]
    Rm {
        /// As `farm member ls` lists them
        #[arg(value_name = "NAME")]
        name: String,
    },
}

const AFTER_HELP: &str = "\
Examples:
  farm member set bob --role builder --project web
  farm member ls --project web
  farm member rm bob --project web

Each role may do what those before it may: viewer sees builds, logs and images; builder submits,
cancels and retries; publisher moves protected tags; admin gives roles and tokens. It counts
within some seconds, also for what goes on.";

/// Gives roles, lists members, or takes somebody out.
///
/// # Errors
/// A name or a role is none, the farm refuses, or it can't be asked.
pub async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    let mut out = Out::stdout();
    match args.deed {
        Deed::Set { person, role } => {
            let person: PrincipalName = of_flag("person", &person)?;
            let role: Role = of_flag("--role", &role)?;
            let client = Client::connect(&setup.address).await?;
            let request = SetMemberRequest { person: person.to_string(), role: role.to_string() };
            let set = client.projects().set_member(request).await.map_err(|e| client.error(&e))?;
            out.line(&format!("{person} is {role} of project {}", harmless(&set.into_inner().project)));
        }
        Deed::Ls { json } => {
            let client = Client::connect(&setup.address).await?;
            let asked = through(async || client.projects().list_members(ListMembersRequest {}).await).await;
            let found = asked.map_err(|status| client.error(&status))?;
            let project = harmless(&found.project);
            if json {
                let members: Vec<MemberJson> = found.members.iter().map(MemberJson::from).collect();
                out.line(&json::text(&json!({ "project": found.project, "members": members })));
            } else if found.members.is_empty() {
                out.line(&format!(
                    "nobody is in project {project} yet: farm member set PERSON --role admin --project {project}"
                ));
            } else {
                out.lines(members(&found.members));
            }
        }
        Deed::Rm { name } => {
            let client = Client::connect(&setup.address).await?;
            let request = RemoveMemberRequest { name: name.clone() };
            let removed = client.projects().remove_member(request).await.map_err(|e| client.error(&e))?;
            let project = removed.into_inner().project;
            out.line(&format!("{} is in project {} no more", harmless(&name), harmless(&project)));
        }
    }
    Ok(Exit::Done)
}
