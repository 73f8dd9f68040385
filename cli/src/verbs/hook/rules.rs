//! `farm hook rules`: a project's own rules for a hook, in the place of its repository's file.

use std::path::{Path, PathBuf};

use farm_proto::v1::{GetHookRulesRequest, SetHookRulesRequest};

use crate::calls::through;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::Result;
use crate::output::Out;
use crate::output::text::{ago, count, harmless};
use crate::verbs::now_ms;
use crate::verbs::rules::read_with_text;

/// Arguments of `farm hook rules`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// As `farm hook ls` lists it
    #[arg(value_name = "HOOK")]
    name: String,

    /// Keep the rules of this file, in the form of .farm.yaml; -: standard input. For the project's admins
    #[arg(long, value_name = "FILE", conflicts_with_all = ["show", "rm"])]
    file: Option<PathBuf>,

    /// Print those that are kept, as without a flag
    #[arg(long, conflicts_with = "rm")]
    show: bool,

    /// Erase those that are kept: the repository's .farm.yaml counts again. For the project's admins
    #[arg(long)]
    rm: bool,
}

pub const AFTER_HELP: &str = "\
Examples:
  farm hook rules app --file app.farm.yaml
  farm hook rules app
  farm hook rules app >app.farm.yaml
  farm hook rules app --rm

As long as a hook has rules they count, as a whole, and .farm.yaml of the repository isn't read at
all, at whatever branch. What they may ask for is the same. They count for what is processed from
then on: farm hook redeliver processes a delivery by them. Their form is checked when they are
kept; destinations, protected tags and secrets are looked at for each delivery.";

/// Keeps, prints or erases a hook's rules.
///
/// # Errors
/// They are wrong or can't be read, the farm refuses, or it can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<()> {
    match (args.file, args.rm, args.show) {
        (Some(file), ..) => keep(args.name, &file, setup).await,
        (None, true, false) => erase(args.name, setup).await,
        (None, ..) => print(args.name, setup).await,
    }
}

async fn keep(name: String, file: &Path, setup: &Setup) -> Result<()> {
    let shown = harmless(&name);
    let (rules, text) = read_with_text(file)?;
    let client = Client::connect(&setup.address).await?;
    let request = SetHookRulesRequest { name, rules: text };
    let set = client.hooks().set_hook_rules(request).await.map_err(|status| client.error(&status))?;
    Out::stdout().line(&format!(
        "hook {shown} of project {} has rules of its own now, with {}; its repository's .farm.yaml isn't read",
        harmless(&set.into_inner().project),
        count(rules.images().len(), "image")
    ));
    Ok(())
}

async fn erase(name: String, setup: &Setup) -> Result<()> {
    let shown = harmless(&name);
    let client = Client::connect(&setup.address).await?;
    let request = SetHookRulesRequest { name, rules: String::new() };
    let set = client.hooks().set_hook_rules(request).await.map_err(|status| client.error(&status))?;
    let set = set.into_inner();
    let project = harmless(&set.project);
    Out::stdout().line(&match set.is_changed {
        true => format!(
            "hook {shown} of project {project} has no rules of its own any more; its repository's .farm.yaml counts"
        ),
        false => format!("hook {shown} of project {project} has no rules of its own"),
    });
    Ok(())
}

async fn print(name: String, setup: &Setup) -> Result<()> {
    let shown = harmless(&name);
    let client = Client::connect(&setup.address).await?;
    let request = GetHookRulesRequest { name };
    let kept = through(async || client.hooks().get_hook_rules(request.clone()).await).await;
    let kept = kept.map_err(|status| client.error(&status))?;
    let mut out = Out::stdout();
    if kept.rules.is_empty() {
        let project = harmless(&kept.project);
        out.line(&format!(
            "hook {shown} of project {project} has no rules of its own; its repository's .farm.yaml counts"
        ));
        return Ok(());
    }
    // Standard output is the file.
    Out::stderr().line(&format!("set by {} {}", harmless(&kept.set_by), ago(kept.set_ms, now_ms())));
    out.lines(kept.rules.lines().map(harmless));
    Ok(())
}
