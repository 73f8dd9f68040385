//! `farm member`: who is in a project, persons, services and groups of the issuer, and with which role.

use farm_proto::v1::{ListMembersRequest, RemoveMemberRequest, SetMemberRequest};
use farm_types::{Invalid, PrincipalName, Role};
use serde_json::json;

use super::{now_ms, of_flag};
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
    /// Give a person or a group a role in the project, instead of the one that they had. For its admins
    #[command(
        after_help = "Examples:\n  farm member set bob --role builder --project web\n  farm member set bob --role viewer\n  \
                      farm member set --group web-team --role builder"
    )]
    Set {
        /// The person; one of this name is made if there is none
        #[arg(value_name = "PERSON", required_unless_present = "group")]
        person: Option<String>,

        /// Instead of a person whoever has signed in with this group, as the issuer names it
        #[arg(long, value_name = "NAME", conflicts_with = "person")]
        group: Option<String>,

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
    /// Take a person, a service or a group out of the project. For its admins
    #[command(
        alias = "remove",
        after_help = "Examples:\n  farm member rm bob --project web\n  farm member rm web/ci\n  farm member rm --group web-team"
    )]
    Rm {
        /// As `farm member ls` lists them
        #[arg(value_name = "NAME", required_unless_present = "group")]
        name: Option<String>,

        /// Instead a group, as `farm member ls` lists it
        #[arg(long, value_name = "NAME", conflicts_with = "name")]
        group: Option<String>,
    },
}

const AFTER_HELP: &str = "\
Examples:
  farm member set bob --role builder --project web
  farm member set --group web-team --role builder --project web
  farm member ls --project web
  farm member rm bob --project web

Each role may do what those before it may: viewer sees builds, logs and images; builder submits,
cancels and retries; publisher moves protected tags; admin gives roles and tokens. Of somebody's
own role and those of the groups that they have signed in with the highest counts. It counts
within some seconds, also for what goes on.";

/// Gives roles, lists members, or takes somebody out.
///
/// # Errors
/// A name or a role is none, the farm refuses, or it can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    let mut out = Out::stdout();
    match args.deed {
        Deed::Set { person, group, role } => {
            let person: Option<PrincipalName> =
                person.map(|person| of_flag("person", &person)).transpose()?;
            let role: Role = of_flag("--role", &role)?;
            let group = of_group(group)?;
            let client = Client::connect(&setup.address).await?;
            let request = SetMemberRequest {
                person: person.as_ref().map(ToString::to_string).unwrap_or_default(),
                role: role.to_string(),
                group: group.clone(),
            };
            let set = client.projects().set_member(request).await.map_err(|e| client.error(&e))?;
            let project = harmless(&set.into_inner().project);
            out.line(&match person {
                Some(person) => format!("{person} is {role} of project {project}"),
                None => format!(
                    "whoever has signed in with group {} is {role} of project {project}",
                    harmless(&group)
                ),
            });
        }
        Deed::Ls { json } => {
            let client = Client::connect(&setup.address).await?;
            let asked = through(async || client.projects().list_members(ListMembersRequest {}).await).await;
            let found = asked.map_err(|status| client.error(&status))?;
            let project = harmless(&found.project);
            if json {
                let member = |member| MemberJson::new(member, &found.issuer);
                let members: Vec<MemberJson> = found.members.iter().map(member).collect();
                out.line(&json::text(&json!({ "project": found.project, "members": members })));
            } else if found.members.is_empty() {
                out.line(&format!(
                    "nobody is in project {project} yet: farm member set PERSON --role admin --project {project}"
                ));
            } else {
                out.lines(members(&found.members, &found.issuer, now_ms()));
            }
        }
        Deed::Rm { name, group } => {
            let group = of_group(group)?;
            let name = name.unwrap_or_default();
            let client = Client::connect(&setup.address).await?;
            let request = RemoveMemberRequest { name: name.clone(), group: group.clone() };
            let removed = client.projects().remove_member(request).await.map_err(|e| client.error(&e))?;
            let project = removed.into_inner().project;
            let who = if group.is_empty() { harmless(&name) } else { format!("group {}", harmless(&group)) };
            out.line(&format!("{who} is in project {} no more", harmless(&project)));
        }
    }
    Ok(Exit::Done)
}

/// The group that is named; an empty name is none, and empty words to the farm are nobody's.
fn of_group(group: Option<String>) -> Result<String> {
    match group {
        Some(group) if group.trim().is_empty() => {
            Err(Invalid::new("--group", group, "write it as the issuer names it").into())
        }
        group => Ok(group.unwrap_or_default()),
    }
}
