//! `farm registry`: the project's own logins at registries. Giving one is in [`login`].

mod login;

use farm_proto::v1::{ListRegistryLoginsRequest, RemoveRegistryLoginRequest};
use farm_types::RegistryHost;
use serde_json::json;

use super::now_ms;
use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Exit, Result};
use crate::output::Out;
use crate::output::format;
use crate::output::json;
use crate::output::logins::{FarmLimitJson, LoginJson, limits, logins};
use crate::output::text::harmless;

/// Arguments of `farm registry`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    deed: Deed,
}

/// What `farm registry` can do.
#[derive(Debug, clap::Subcommand)]
enum Deed {
    /// Give the project a login of its own at a registry. For its admins
    #[command(after_help = login::AFTER_HELP)]
    Login(login::Args),
    /// List where the project has logins, and what registries let be read. For its admins
    #[command(
        alias = "list",
        after_help = "Examples:\n  farm registry ls --project web\n  farm registry ls --format '{{ host }} {{ user }}'"
    )]
    Ls {
        /// Print one JSON object
        #[arg(long, conflicts_with = "format")]
        json: bool,

        /// Print each login by a template of the JSON's names, like '{{ host }}'
        #[arg(long, value_name = "TEMPLATE")]
        format: Option<String>,
    },
    /// Erase logins of the project. For its admins
    #[command(alias = "remove", after_help = REMOVE_HELP)]
    Rm {
        /// As `farm registry ls` lists them
        #[arg(value_name = "HOST", required = true)]
        hosts: Vec<String>,
    },
}

const AFTER_HELP: &str = "\
Examples:
  farm registry login registry.example:5000 -u ci --project web
  farm registry ls --project web
  farm registry rm registry.example:5000 --project web

A login counts for this project only, in place of the farm's own at that registry: its builds
pull and push there as far as it goes, and nobody has to allow it. The password is told to nobody
again.";

const REMOVE_HELP: &str = "\
Examples:
  farm registry rm registry.example:5000

Within 5 s nothing is asked with it any more. Builds that run and need it there fail, and what they
pushed stays; so cancel them before, or let them end.";

/// Gives, lists or erases logins of the project.
///
/// # Errors
/// The registry doesn't take the login, the farm refuses, or it can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    match args.deed {
        Deed::Login(args) => login::run(args, setup).await?,
        Deed::Ls { json, format } => list(json, format.as_deref(), setup).await?,
        Deed::Rm { hosts } => remove(&hosts, setup).await?,
    }
    Ok(Exit::Done)
}

async fn list(as_json: bool, template: Option<&str>, setup: &Setup) -> Result<()> {
    let client = Client::connect(&setup.address).await?;
    let asked =
        through(async || client.registries().list_registry_logins(ListRegistryLoginsRequest {}).await);
    let listed = asked.await.map_err(|status| client.error(&status))?;
    let mut out = Out::stdout();
    if let Some(template) = template {
        format::print(&mut out, template, listed.logins.iter().map(LoginJson::from))?;
    } else if as_json {
        let all: Vec<LoginJson<'_>> = listed.logins.iter().map(LoginJson::from).collect();
        let farm: Vec<FarmLimitJson<'_>> = listed.farm_limits.iter().map(FarmLimitJson::from).collect();
        out.line(&json::text(&json!({ "project": listed.project, "logins": all, "farm_limits": farm })));
        return Ok(());
    } else if listed.logins.is_empty() {
        let project = harmless(&listed.project);
        out.line(&format!(
            "project {project} has no login of its own at any registry: farm registry login HOST --project {project}"
        ));
    } else {
        out.lines(logins(&listed.logins, now_ms()));
    }
    if template.is_none() {
        out.lines(limits(&listed.logins, &listed.farm_limits, now_ms()));
    }
    Ok(())
}

async fn remove(hosts: &[String], setup: &Setup) -> Result<()> {
    for host in hosts {
        RegistryHost::of_login(host)?;
    }
    let client = Client::connect(&setup.address).await?;
    let mut out = Out::stdout();
    for host in hosts {
        let request = RemoveRegistryLoginRequest { host: host.clone() };
        let removed = client.registries().remove_registry_login(request).await;
        let removed = removed.map_err(|status| client.error(&status))?.into_inner();
        let (project, host) = (harmless(&removed.project), harmless(&removed.host));
        out.line(&format!("project {project} has no login at {host} any more"));
    }
    Ok(())
}
