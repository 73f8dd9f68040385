//! `farm notice`: whom a project tells how its builds end. Making one, and giving it another secret, is in [`add`].

mod add;

use farm_proto::v1::{
    ListNoticesRequest, ListNoticesResponse, ProjectNotice, RemoveNoticeRequest, TestNoticeRequest,
};
use farm_types::Invalid;
use serde_json::json;

use super::now_ms;
use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Exit, Result};
use crate::output::notices::{NoticeJson, notice, notices};
use crate::output::text::harmless;
use crate::output::{Out, format, json};

/// Arguments of `farm notice`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    deed: Deed,
}

/// What `farm notice` can do.
#[derive(Debug, clap::Subcommand)]
enum Deed {
    /// Tell somebody from now on how builds end. For the project's admins
    #[command(after_help = add::ADD_HELP)]
    Add(add::Args),
    /// List whom the project tells how builds end
    #[command(
        alias = "list",
        after_help = "Examples:\n  farm notice ls --project web\n  farm notice ls --json\n  farm notice ls --format '{{ name }} {{ waiting }}'"
    )]
    Ls {
        /// Print one JSON object
        #[arg(long, conflicts_with = "format")]
        json: bool,

        /// Print each by a template of the JSON's names, like '{{ name }}'
        #[arg(long, value_name = "TEMPLATE")]
        format: Option<String>,
    },
    /// Show a notice: what it tells, and whether that is taken
    #[command(after_help = "Examples:\n  farm notice show chat\n  farm notice show chat --json")]
    Show {
        /// As `farm notice ls` lists it
        #[arg(value_name = "NOTICE")]
        name: String,

        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Send a sample now, and say what is answered. For the project's admins
    #[command(after_help = TEST_HELP)]
    Test {
        /// As `farm notice ls` lists it
        #[arg(value_name = "NOTICE")]
        name: String,
    },
    /// Give a signed webhook another secret. For the project's admins
    #[command(after_help = add::ROTATE_HELP)]
    Rotate(add::Rotate),
    /// Remove notices, with what they have still to tell. For the project's admins
    #[command(alias = "remove", after_help = REMOVE_HELP)]
    Rm {
        /// As `farm notice ls` lists them
        #[arg(value_name = "NOTICE", required = true)]
        names: Vec<String>,
    },
}

const AFTER_HELP: &str = "\
Examples:
  farm notice add chat --slack - --project web
  farm notice add ops --webhook https://ops.example.com/farm --on failure,recovered,cancelled
  farm notice add team --mail ada@example.com,bob@example.com --hook app --ref refs/heads/main
  farm notice test chat
  farm notice show chat
  farm notice rm chat

Builds end all the same, and at the same time, whatever becomes of what is told of them.";

const TEST_HELP: &str = "\
Examples:
  farm notice test chat

Exits with 1 if it isn't taken. A sample is sent once, and isn't tried again.";

const REMOVE_HELP: &str = "\
Examples:
  farm notice rm chat
  farm notice rm chat ops --project web

Where it goes and what it was signed by is erased.";

/// Makes, lists, tries or removes a project's notices.
///
/// # Errors
/// A name or value can't be taken, the farm refuses, or it can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    match args.deed {
        Deed::Add(args) => add::run(args, setup).await?,
        Deed::Ls { json, format } => list(json, format.as_deref(), setup).await?,
        Deed::Show { name, json } => show(&name, json, setup).await?,
        Deed::Test { name } => return test(name, setup).await,
        Deed::Rotate(args) => add::rotate(args, setup).await?,
        Deed::Rm { names } => {
            let client = Client::connect(&setup.address).await?;
            let mut out = Out::stdout();
            for name in names {
                let removed =
                    client.notices().remove_notice(RemoveNoticeRequest { name: name.clone() }).await;
                let project = removed.map_err(|status| client.error(&status))?.into_inner().project;
                out.line(&format!("notice {} of project {} is removed", harmless(&name), harmless(&project)));
            }
        }
    }
    Ok(Exit::Done)
}

async fn listed(client: &Client) -> Result<ListNoticesResponse> {
    let asked = through(async || client.notices().list_notices(ListNoticesRequest {}).await).await;
    asked.map_err(|status| client.error(&status))
}

async fn list(as_json: bool, template: Option<&str>, setup: &Setup) -> Result<()> {
    let client = Client::connect(&setup.address).await?;
    let listed = listed(&client).await?;
    let mut out = Out::stdout();
    if let Some(template) = template {
        format::print(&mut out, template, listed.notices.iter().map(NoticeJson::from))?;
    } else if as_json {
        let all: Vec<NoticeJson<'_>> = listed.notices.iter().map(NoticeJson::from).collect();
        out.line(&json::text(&json!({ "project": listed.project, "notices": all })));
    } else if listed.notices.is_empty() {
        let project = harmless(&listed.project);
        out.line(&format!(
            "project {project} tells nobody how builds end: farm notice add NAME --slack - --project {project}"
        ));
    } else {
        out.lines(notices(&listed.notices, now_ms()));
    }
    Ok(())
}

async fn show(name: &str, as_json: bool, setup: &Setup) -> Result<()> {
    let client = Client::connect(&setup.address).await?;
    let listed = listed(&client).await?;
    let found: Option<&ProjectNotice> = listed.notices.iter().find(|notice| notice.name == name);
    let found = found.ok_or_else(|| {
        let cure = format!(
            "project {} has no such notice; `farm notice ls` lists those that it has",
            listed.project
        );
        Invalid::new("notice", name, cure)
    })?;
    let mut out = Out::stdout();
    if as_json {
        out.line(&json::text(&json!({ "project": listed.project, "notice": NoticeJson::from(found) })));
    } else {
        out.lines(notice(found, now_ms()));
    }
    Ok(())
}

async fn test(name: String, setup: &Setup) -> Result<Exit> {
    let client = Client::connect(&setup.address).await?;
    let tried = client.notices().test_notice(TestNoticeRequest { name: name.clone() }).await;
    let tried = tried.map_err(|status| client.error(&status))?.into_inner();
    let (name, said) = (harmless(&name), harmless(&tried.said));
    let mut out = Out::stdout();
    if tried.is_taken {
        out.line(&format!("notice {name}: the sample was taken ({said})"));
        return Ok(Exit::Done);
    }
    out.line(&format!("notice {name}: the sample was not taken: {said}"));
    Ok(Exit::Of(1))
}
