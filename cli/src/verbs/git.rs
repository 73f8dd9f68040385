//! `farm git`: the project's logins for repositories. Giving one is in [`login`].

mod login;

use farm_proto::v1::{ListGitLoginsRequest, RemoveGitLoginRequest};
use farm_types::GitPlace;
use serde_json::json;

use super::now_ms;
use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Exit, Result};
use crate::output::Out;
use crate::output::format;
use crate::output::git_logins::{GitLoginJson, git_logins};
use crate::output::json;
use crate::output::text::harmless;

/// Arguments of `farm git`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    deed: Deed,
}

/// What `farm git` can do.
#[derive(Debug, clap::Subcommand)]
enum Deed {
    /// Give the project a login for repositories: a token, or a key for ssh. For its admins
    #[command(after_help = login::AFTER_HELP)]
    Login(login::Args),
    /// List where the project has logins. For its admins
    #[command(
        alias = "list",
        after_help = "Examples:\n  farm git ls --project web\n  farm git ls --format '{{ place }} {{ kind }}'"
    )]
    Ls {
        /// Print one JSON object
        #[arg(long, conflicts_with = "format")]
        json: bool,

        /// Print each login by a template of the JSON's names, like '{{ place }}'
        #[arg(long, value_name = "TEMPLATE")]
        format: Option<String>,
    },
    /// Erase logins of the project. For its admins
    #[command(alias = "remove", after_help = "Examples:\n  farm git rm github.com/acme")]
    Rm {
        /// As `farm git ls` lists them
        #[arg(value_name = "PLACE", required = true)]
        places: Vec<GitPlace>,
    },
}

const AFTER_HELP: &str = "\
Examples:
  farm git login github.com/acme --token-stdin --project web <token
  farm git login git.example/team --ssh-key deploy_key --project web
  farm git ls --project web
  farm git rm github.com/acme --project web

A login counts for this project only. It is lent to the worker that fetches a source of these
repositories, while it does, and told to nobody again.";

/// Gives, lists or erases logins of the project.
///
/// # Errors
/// The farm refuses, or it can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    match args.deed {
        Deed::Login(args) => login::run(args, setup).await?,
        Deed::Ls { json, format } => list(json, format.as_deref(), setup).await?,
        Deed::Rm { places } => remove(&places, setup).await?,
    }
    Ok(Exit::Done)
}

async fn list(as_json: bool, template: Option<&str>, setup: &Setup) -> Result<()> {
    let client = Client::connect(&setup.address).await?;
    let asked = through(async || client.git_logins().list_git_logins(ListGitLoginsRequest {}).await);
    let listed = asked.await.map_err(|status| client.error(&status))?;
    let mut out = Out::stdout();
    if let Some(template) = template {
        format::print(&mut out, template, listed.logins.iter().map(GitLoginJson::from))?;
    } else if as_json {
        let all: Vec<GitLoginJson<'_>> = listed.logins.iter().map(GitLoginJson::from).collect();
        out.line(&json::text(&json!({ "project": listed.project, "logins": all })));
    } else if listed.logins.is_empty() {
        let project = harmless(&listed.project);
        out.line(&format!(
            "project {project} has no login for repositories: farm git login HOST/OWNER --project {project}"
        ));
    } else {
        out.lines(git_logins(&listed.logins, now_ms()));
    }
    Ok(())
}

async fn remove(places: &[GitPlace], setup: &Setup) -> Result<()> {
    let client = Client::connect(&setup.address).await?;
    let mut out = Out::stdout();
    for place in places {
        let request = RemoveGitLoginRequest { place: place.to_string() };
        let removed = client.git_logins().remove_git_login(request).await;
        let removed = removed.map_err(|status| client.error(&status))?.into_inner();
        let (project, place) = (harmless(&removed.project), harmless(&removed.place));
        out.line(&format!("project {project} has no login for {place} any more"));
    }
    Ok(())
}
