//! `farm hook`: webhooks of a project. Making one, and giving it another secret, is in [`add`]; its token at the forge in [`token`], and
//! rules of its own in [`rules`].

mod add;
mod rules;
mod token;

use farm_proto::v1::{
    Hook, ListDeliveriesRequest, ListHooksRequest, ListHooksResponse, RedeliverRequest, RemoveHookRequest,
    SetHookRequest, TestHookRequest,
};
use farm_types::Invalid;
use serde_json::json;

use super::now_ms;
use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::{Exit, Result};
use crate::output::hooks::{DeliveryJson, HookJson, deliveries, hook, hooks};
use crate::output::text::harmless;
use crate::output::{Out, format, json};

/// Arguments of `farm hook`.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    deed: Deed,
}

/// What `farm hook` can do.
#[derive(Debug, clap::Subcommand)]
enum Deed {
    /// Make a webhook for a repository. For the project's admins
    #[command(after_help = add::ADD_HELP)]
    Add(add::Args),
    /// List the project's webhooks
    #[command(
        alias = "list",
        after_help = "Examples:\n  farm hook ls --project web\n  farm hook ls --json\n  farm hook ls --format '{{ name }} {{ repository }}'"
    )]
    Ls {
        /// Print one JSON object
        #[arg(long, conflicts_with = "format")]
        json: bool,

        /// Print each by a template of the JSON's names, like '{{ name }}'
        #[arg(long, value_name = "TEMPLATE")]
        format: Option<String>,
    },
    /// Show a webhook; its URL to the project's admins
    #[command(after_help = "Examples:\n  farm hook show app\n  farm hook show app --json")]
    Show {
        /// As `farm hook ls` lists it
        #[arg(value_name = "HOOK")]
        name: String,

        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Try a webhook: a coordinator takes a ping that it signs itself. For the project's admins
    #[command(after_help = TEST_HELP)]
    Test {
        /// As `farm hook ls` lists it
        #[arg(value_name = "HOOK")]
        name: String,
    },
    /// List what was delivered to a webhook and what became of it, newest first
    #[command(
        after_help = "Examples:\n  farm hook deliveries app\n  farm hook deliveries app -n 200 --json\n  farm hook deliveries app --format '{{ id }} {{ state }}'"
    )]
    Deliveries {
        /// As `farm hook ls` lists it
        #[arg(value_name = "HOOK")]
        name: String,

        /// At most so many, up to 500
        #[arg(short = 'n', long = "limit", value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,

        /// Print one JSON object
        #[arg(long, conflicts_with = "format")]
        json: bool,

        /// Print each by a template of the JSON's names, like '{{ id }}'
        #[arg(long, value_name = "TEMPLATE")]
        format: Option<String>,
    },
    /// Process a delivery that is over once more, as it came. For the project's admins
    #[command(after_help = "Examples:\n  farm hook redeliver app 72d3162e-cc78-11e3-81ab-4c9367dc0958")]
    Redeliver {
        /// As `farm hook ls` lists it
        #[arg(value_name = "HOOK")]
        name: String,

        /// As `farm hook deliveries` lists it
        #[arg(value_name = "DELIVERY")]
        delivery: String,
    },
    /// Change what a webhook is set to. For the project's admins
    #[command(after_help = SET_HELP)]
    Set {
        /// As `farm hook ls` lists it
        #[arg(value_name = "HOOK")]
        name: String,

        /// Whether it is looked each hour for pushes that the forge didn't deliver
        #[arg(long, value_name = "on|off", value_parser = ["on", "off"], required = true)]
        sweep: String,
    },
    /// Give a webhook a token by which its forge shows how builds stand. For the project's admins
    #[command(after_help = token::AFTER_HELP)]
    Token(token::Args),
    /// Keep rules at a webhook, which count in the place of its repository's .farm.yaml
    #[command(after_help = rules::AFTER_HELP)]
    Rules(rules::Args),
    /// Give a webhook another secret; both count for a while. For the project's admins
    #[command(after_help = add::ROTATE_HELP)]
    Rotate(add::Rotate),
    /// Remove webhooks: they take nothing any more. For the project's admins
    #[command(alias = "remove", after_help = REMOVE_HELP)]
    Rm {
        /// As `farm hook ls` lists them
        #[arg(value_name = "HOOK", required = true)]
        names: Vec<String>,
    },
}

const AFTER_HELP: &str = "\
Examples:
  farm hook add github acme/app --project web
  farm hook add gitea acme/app --host git.example.com
  farm hook ls --project web
  farm hook deliveries app
  farm hook token app
  farm hook rotate app
  farm hook rm app

A forge tells the farm by a webhook what happened in a repository. What is delivered is kept, with
what became of it. What is built is said by the repository's .farm.yaml (farm rules), or by rules
that are kept at the webhook: farm hook rules.";

const TEST_HELP: &str = "\
Examples:
  farm hook test app

Tells whether the farm would take what the hook's secret has signed. Whether the forge reaches the
farm, and has the same secret, its own test delivery shows: farm hook deliveries lists it.";

const SET_HELP: &str = "\
Examples:
  farm hook set app --sweep off

What the forge was told not to send, like pushes of some branches, would be found by the sweep and
built. Switched on again, it begins with what is there then.";

const REMOVE_HELP: &str = "\
Examples:
  farm hook rm app
  farm hook rm app docs --project web

Its secrets and its token are erased, and nothing follows from what waits. Remove it at the forge, too.";

/// Makes, lists, tries or removes a project's webhooks.
///
/// # Errors
/// A name or value can't be taken, the farm refuses, or it can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<Exit> {
    match args.deed {
        Deed::Add(args) => add::run(args, setup).await?,
        Deed::Ls { json, format } => list(json, format.as_deref(), setup).await?,
        Deed::Show { name, json } => show(&name, json, setup).await?,
        Deed::Test { name } => return test(name, setup).await,
        Deed::Deliveries { name, limit, json, format } => {
            delivered(name, limit, json, format.as_deref(), setup).await?;
        }
        Deed::Redeliver { name, delivery } => {
            let client = Client::connect(&setup.address).await?;
            let request = RedeliverRequest { name: name.clone(), delivery: delivery.clone() };
            client.hooks().redeliver(request).await.map_err(|status| client.error(&status))?;
            let (name, delivery) = (harmless(&name), harmless(&delivery));
            Out::stdout().line(&format!(
                "delivery {delivery} is processed once more; what becomes of it: farm hook deliveries {name}"
            ));
        }
        Deed::Set { name, sweep } => {
            let client = Client::connect(&setup.address).await?;
            let request = SetHookRequest { name: name.clone(), sweep: Some(sweep == "on") };
            client.hooks().set_hook(request).await.map_err(|status| client.error(&status))?;
            let what = if sweep == "on" { "is looked at each hour" } else { "isn't looked at" };
            Out::stdout()
                .line(&format!("hook {}: it {what} for pushes that weren't delivered", harmless(&name)));
        }
        Deed::Token(args) => token::run(args, setup).await?,
        Deed::Rules(args) => rules::run(args, setup).await?,
        Deed::Rotate(args) => add::rotate(args, setup).await?,
        Deed::Rm { names } => {
            let client = Client::connect(&setup.address).await?;
            let mut out = Out::stdout();
            for name in names {
                let removed = client.hooks().remove_hook(RemoveHookRequest { name: name.clone() }).await;
                let project = removed.map_err(|status| client.error(&status))?.into_inner().project;
                let (name, project) = (harmless(&name), harmless(&project));
                out.line(&format!(
                    "hook {name} of project {project} is removed; remove it at its forge, too"
                ));
            }
        }
    }
    Ok(Exit::Done)
}

async fn listed(client: &Client) -> Result<ListHooksResponse> {
    let asked = through(async || client.hooks().list_hooks(ListHooksRequest {}).await).await;
    asked.map_err(|status| client.error(&status))
}

async fn list(as_json: bool, template: Option<&str>, setup: &Setup) -> Result<()> {
    let client = Client::connect(&setup.address).await?;
    let listed = listed(&client).await?;
    let mut out = Out::stdout();
    if let Some(template) = template {
        format::print(&mut out, template, listed.hooks.iter().map(HookJson::from))?;
    } else if as_json {
        let all: Vec<HookJson<'_>> = listed.hooks.iter().map(HookJson::from).collect();
        out.line(&json::text(&json!({ "project": listed.project, "hooks": all })));
    } else if listed.hooks.is_empty() {
        let project = harmless(&listed.project);
        out.line(&format!(
            "project {project} has no webhooks yet: farm hook add github OWNER/REPO --project {project}"
        ));
    } else {
        out.lines(hooks(&listed.hooks, now_ms()));
    }
    Ok(())
}

async fn show(name: &str, as_json: bool, setup: &Setup) -> Result<()> {
    let client = Client::connect(&setup.address).await?;
    let listed = listed(&client).await?;
    let found: Option<&Hook> = listed.hooks.iter().find(|hook| hook.name == name);
    let found = found.ok_or_else(|| {
        let cure =
            format!("project {} has no such hook; `farm hook ls` lists those that it has", listed.project);
        Invalid::new("hook", name, cure)
    })?;
    let mut out = Out::stdout();
    if as_json {
        out.line(&json::text(&json!({ "project": listed.project, "hook": HookJson::from(found) })));
    } else {
        out.lines(hook(found, now_ms()));
    }
    Ok(())
}

async fn test(name: String, setup: &Setup) -> Result<Exit> {
    let client = Client::connect(&setup.address).await?;
    let tried = client.hooks().test_hook(TestHookRequest { name: name.clone() }).await;
    let tried = tried.map_err(|status| client.error(&status))?.into_inner();
    let (name, state, reason) = (harmless(&name), harmless(&tried.state), harmless(&tried.reason));
    let is_taken = matches!(tried.state.as_str(), "ignored" | "done" | "received");
    let mut out = Out::stdout();
    if is_taken {
        out.line(&format!("hook {name} takes what its secret has signed ({state}: {reason})"));
        return Ok(Exit::Done);
    }
    out.line(&format!("hook {name} doesn't take what its secret has signed ({state}: {reason})"));
    Ok(Exit::Of(1))
}

async fn delivered(
    name: String,
    limit: u32,
    as_json: bool,
    template: Option<&str>,
    setup: &Setup,
) -> Result<()> {
    let client = Client::connect(&setup.address).await?;
    let request = ListDeliveriesRequest { name: name.clone(), before: 0, most: limit };
    let asked = through(async || client.hooks().list_deliveries(request.clone()).await).await;
    let listed = asked.map_err(|status| client.error(&status))?;
    let mut out = Out::stdout();
    if let Some(template) = template {
        format::print(&mut out, template, listed.deliveries.iter().map(DeliveryJson::from))?;
    } else if as_json {
        let all: Vec<DeliveryJson<'_>> = listed.deliveries.iter().map(DeliveryJson::from).collect();
        out.line(&json::text(&json!({ "project": listed.project, "hook": name, "deliveries": all })));
    } else if listed.deliveries.is_empty() {
        out.line(&format!("nothing was delivered to hook {} yet, or it was long ago", harmless(&name)));
    } else {
        out.lines(deliveries(&listed.deliveries, now_ms()));
    }
    Ok(())
}
