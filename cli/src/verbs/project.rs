//! `farm project`; what a project is allowed is in [`access`], what it may take in [`settings`].

mod access;
mod settings;

use farm_proto::v1::{
    CreateProjectRequest, ListMembersRequest, ListProjectsRequest, Project, RemoveProjectRequest,
};
use farm_types::{PrincipalName, ProjectName};
use serde_json::json;

use super::{confirm, now_ms, of_flag};
use crate::calls::through;
use crate::config::{Address, Setup};
use crate::connect::Client;
use crate::error::{Exit, Result};
use crate::output::Out;
use crate::output::json;
use crate::output::people::{MemberJson, ProjectJson, members};
use crate::output::text::{ago, columns, harmless};

/// Arguments of `farm project`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    deed: Deed,
}

/// What `farm project` can do.
#[derive(Debug, clap::Subcommand)]
enum Deed {
    /// Make a project. For admins of the farm
    #[command(after_help = "Examples:\n  farm project create web --admin ada")]
    Create {
        /// 1 to 40 small letters, digits and single dashes
        #[arg(value_name = "NAME")]
        name: String,

        /// Its first admin; a person of this name is made if there is none
        #[arg(long, value_name = "PERSON")]
        admin: Option<String>,
    },
    /// List the projects that you are in; for an admin of the farm all
    #[command(alias = "list", after_help = "Examples:\n  farm project ls\n  farm project ls --json")]
    Ls {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show a project and who is in it
    #[command(after_help = "Examples:\n  farm project show web\n  farm project show --json")]
    Show {
        /// The project [default: that of the command]
        #[arg(value_name = "NAME")]
        name: Option<String>,

        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Say where a project may push to, pull from with the farm's credentials, and fetch from. For admins of the farm
    #[command(after_help = access::ALLOW_HELP)]
    Allow(access::Repositories),
    /// Take that back. For admins of the farm
    #[command(after_help = access::DENY_HELP)]
    Deny(access::Repositories),
    /// Say what a project may take of the farm, and what its builds are by default
    #[command(after_help = settings::SET_HELP)]
    Set(settings::Settings),
    /// Say who moves tags of a pattern in the project of the command. For its admins
    #[command(after_help = access::PROTECT_HELP)]
    Protect {
        /// A tag; * stands for any characters
        #[arg(value_name = "PATTERN")]
        pattern: String,

        /// The least role that moves them: builder, publisher or admin
        #[arg(long, value_name = "ROLE")]
        role: String,
    },
    /// Let whoever may build move them again. For its admins
    #[command(after_help = "Examples:\n  farm project unprotect 'v*' --project web")]
    Unprotect {
        /// As `farm project show` lists it
        #[arg(value_name = "PATTERN")]
        pattern: String,
    },
    /// Remove a project; asks first. For admins of the farm
    #[command(alias = "remove", after_help = REMOVE_HELP)]
    Rm {
        /// The project
        #[arg(value_name = "NAME")]
        name: String,

        /// Don't ask
        #[arg(long)]
        yes: bool,
    },
}

const AFTER_HELP: &str = "\
Examples:
  farm project create web --admin ada
  farm project ls
  farm project show web
  farm project allow web --push registry.example/web
  farm project set web --max-running-slots 8
  farm project protect 'v*' --role publisher --project web
  farm submit . -t registry.example/web:dev --project web

Builds, with their logs and outputs, are a project's: nobody who isn't in it can see them, or tell
that it is there. Project default is there from the start.";

const REMOVE_HELP: &str = "\
Examples:
  farm project rm web
  farm project rm web --yes

Nobody is in it any more, and its services' tokens end; its builds are kept as long as any, seen
by nobody. While builds of it go on, it can't be removed. Its name is free for another one.";

/// Makes, lists, shows or removes projects.
///
/// # Errors
/// A name is none, the farm refuses, or it can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    let mut out = Out::stdout();
    match args.deed {
        Deed::Create { name, admin } => {
            let name: ProjectName = name.parse()?;
            let admin: Option<PrincipalName> = admin.map(|admin| of_flag("--admin", &admin)).transpose()?;
            let client = Client::connect(&setup.address).await?;
            let admin = admin.map(|admin| admin.to_string()).unwrap_or_default();
            let request = CreateProjectRequest { name: name.to_string(), admin: admin.clone() };
            client.projects().create_project(request).await.map_err(|e| client.error(&e))?;
            out.line(&match admin.as_str() {
                "" => format!(
                    "project {name} is made; nobody is in it yet: farm member set PERSON --role admin --project {name}"
                ),
                admin => format!("project {name} is made, and {admin} is its admin"),
            });
        }
        Deed::Ls { json } => list(json, setup, &mut out).await?,
        Deed::Show { name, json } => {
            let name: Option<ProjectName> = name.map(|name| name.parse()).transpose()?;
            let named = name.map(|name| (name, "NAME"));
            let project = named.or_else(|| setup.address.project.clone());
            show(json, &Address { project, ..setup.address.clone() }, &mut out).await?;
        }
        Deed::Allow(args) => access::allow(args, true, setup, &mut out).await?,
        Deed::Deny(args) => access::allow(args, false, setup, &mut out).await?,
        Deed::Set(args) => settings::set(args, setup, &mut out).await?,
        Deed::Protect { pattern, role } => access::protect(&pattern, Some(&role), setup, &mut out).await?,
        Deed::Unprotect { pattern } => access::protect(&pattern, None, setup, &mut out).await?,
        Deed::Rm { name, yes } => {
            let name: ProjectName = name.parse()?;
            let question = format!("Remove project {name}, with all roles in it and its services' tokens?");
            let what = format!("project {name} goes with all roles in it and its services' tokens");
            if !yes && !confirm(&question, &what)? {
                out.line("nothing was removed");
                return Ok(Exit::Usage);
            }
            let client = Client::connect(&setup.address).await?;
            let request = RemoveProjectRequest { name: name.to_string() };
            client.projects().remove_project(request).await.map_err(|e| client.error(&e))?;
            out.line(&format!("project {name} is removed; nobody is in it any more"));
        }
    }
    Ok(Exit::Done)
}

async fn listed(client: &Client) -> Result<Vec<Project>> {
    let asked = through(async || client.projects().list_projects(ListProjectsRequest {}).await).await;
    Ok(asked.map_err(|status| client.error(&status))?.projects)
}

async fn list(as_json: bool, setup: &Setup, out: &mut Out) -> Result<()> {
    let client = Client::connect(&setup.address).await?;
    let projects = listed(&client).await?;
    if as_json {
        let projects: Vec<ProjectJson> = projects.iter().map(ProjectJson::from).collect();
        out.line(&json::text(&json!({ "projects": projects })));
    } else if projects.is_empty() {
        out.line("you are in no project; an admin of one can give you a role there (`farm whoami` says who you are)");
    } else {
        let said = setup.address.project.as_ref().map(|(name, _)| name.as_str());
        out.lines(table(&projects, said, now_ms()));
    }
    Ok(())
}

/// The projects; the one that commands are given in is marked.
fn table(projects: &[Project], said: Option<&str>, now: i64) -> Vec<String> {
    let head = ["", "PROJECT", "YOUR ROLE", "MEMBERS", "MADE"].map(ToOwned::to_owned).to_vec();
    let rows = projects.iter().map(|project| {
        vec![
            if said == Some(project.name.as_str()) { "*" } else { "" }.to_owned(),
            harmless(&project.name),
            harmless(&project.role),
            project.members.to_string(),
            ago(project.created_ms, now),
        ]
    });
    columns(&[head].into_iter().chain(rows).collect::<Vec<_>>())
}

async fn show(as_json: bool, address: &Address, out: &mut Out) -> Result<()> {
    let client = Client::connect(address).await?;
    let asked = through(async || client.projects().list_members(ListMembersRequest {}).await).await;
    let found = asked.map_err(|status| client.error(&status))?;
    let access = access::of(&client).await?;
    let settings = settings::of(&client).await?;
    let project = listed(&client).await?.into_iter().find(|project| project.name == found.project);
    // Taken away between the two questions.
    let project = project.unwrap_or_else(|| Project { name: found.project.clone(), ..Default::default() });
    if as_json {
        let member = |member| MemberJson::new(member, &found.issuer);
        let members: Vec<MemberJson> = found.members.iter().map(member).collect();
        let mut object = json!(ProjectJson::from(&project));
        object["members"] = json!(members);
        object["access"] = json!(access);
        object["settings"] = json!(settings);
        out.line(&json::text(&object));
        return Ok(());
    }
    let name = harmless(&project.name);
    let now = now_ms();
    let made = ago(project.created_ms, now);
    out.line(&format!("project {name}, made {made}; you are its {}", harmless(&project.role)));
    out.lines(access.lines());
    out.lines(settings.iter().flat_map(settings::SettingsJson::lines));
    if found.members.is_empty() {
        out.line(&format!("nobody is in it yet: farm member set PERSON --role admin --project {name}"));
    } else {
        out.lines(members(&found.members, &found.issuer, now));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_project_of_commands_is_marked() {
        let project =
            |name: &str| Project { name: name.into(), created_ms: 1_000, members: 3, role: "viewer".into() };
        let projects = ["api", "web"].map(project);
        assert_eq!(
            table(&projects, Some("web"), 61_000),
            [
                "   PROJECT  YOUR ROLE  MEMBERS  MADE",
                "   api      viewer     3        1 min ago",
                "*  web      viewer     3        1 min ago",
            ]
        );
        assert_eq!(table(&projects[..1], None, 61_000)[1], "api      viewer     3        1 min ago");
    }
}
