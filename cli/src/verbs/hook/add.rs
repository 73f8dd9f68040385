//! `farm hook add` and `farm hook rotate`: what makes a secret, which is shown once, with what to do with it at the forge.

use std::io::Read as _;

use farm_proto::v1::{AddHookRequest, Hook, RotateHookRequest};
use farm_types::{Invalid, RefPattern};
use serde_json::json;
use zeroize::Zeroizing;

use super::token;
use crate::config::Setup;
use crate::connect::Client;
use crate::error::Result;
use crate::output::hooks::{HookJson, paste};
use crate::output::text::harmless;
use crate::output::{Out, json};
use crate::security::covered_for_secrets;

/// The longest secret, bytes.
const LONGEST: u64 = 255;

/// Arguments of `farm hook add`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Who sends: github, gitlab, gitea, forgejo, generic, dockerhub or distribution
    #[arg(value_name = "PROVIDER")]
    provider: String,

    /// The repository there: OWNER/REPO; of distribution REGISTRY/REPO
    #[arg(value_name = "REPOSITORY")]
    repository: String,

    /// Where that is, as HOST or HOST:PORT [default: github.com, gitlab.com, docker.io]
    #[arg(long, value_name = "HOST")]
    host: Option<String>,

    /// What the project calls the hook [default: the repository's name without its owner]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Where the farm fetches the repository [default: https://HOST/REPOSITORY.git]
    #[arg(long, value_name = "URL")]
    clone_url: Option<String>,

    /// Where the forge's API is [default: where the provider has it at HOST]
    #[arg(long, value_name = "URL")]
    api_url: Option<String>,

    /// For which refs its builds may move protected tags, like refs/tags/v* [default: none]
    #[arg(long, value_name = "REF", value_delimiter = ',')]
    publish: Vec<RefPattern>,

    /// Don't look each hour for pushes that the forge didn't deliver
    #[arg(long)]
    no_sweep: bool,

    /// Also make the webhook at the forge, by a token that this asks for; builds are shown at its commits
    #[arg(long, conflicts_with_all = ["secret_stdin", "json"])]
    create: bool,

    /// The file that has that token, or - for standard input
    #[arg(long, value_name = "FILE", requires = "create")]
    token_file: Option<String>,

    /// Read a secret that is there already from standard input [default: the farm makes one]
    #[arg(long)]
    secret_stdin: bool,

    /// Print one JSON object, with the secret
    #[arg(long)]
    json: bool,
}

/// Arguments of `farm hook rotate`.
#[derive(Debug, clap::Args)]
pub struct Rotate {
    /// As `farm hook ls` lists it
    #[arg(value_name = "HOOK")]
    name: String,

    /// The forge has the newer secret: the older one counts no more
    #[arg(long)]
    finish: bool,

    /// Read the new secret from standard input [default: the farm makes one]
    #[arg(long, conflicts_with = "finish")]
    secret_stdin: bool,

    /// Print one JSON object, with the secret
    #[arg(long, conflicts_with = "finish")]
    json: bool,
}

pub const ADD_HELP: &str = "\
Examples:
  farm hook add github acme/app --project web
  farm hook add github acme/app --publish refs/heads/main,refs/tags/v*
  farm hook add gitlab acme/group/app --host gitlab.example.com
  farm hook add gitea acme/app --host git.example.com --clone-url git@git.example.com:acme/app.git
  farm hook add github acme/app --create --token-file token
  farm hook add dockerhub alpine --name base
  farm hook add distribution registry.example:5000/base/app

The URL and the secret are for the forge's settings; what to choose there is printed with them.
The secret is shown this once. The repository's id is taken from the first delivery that it signs
and that is about the repository of that name; from then on both count.";

pub const ROTATE_HELP: &str = "\
Examples:
  farm hook rotate app
  farm hook rotate app --finish

Put the new secret in at the forge. The older one counts until a day after the first delivery that
the newer one has signed, or until --finish.";

/// Makes a hook.
///
/// # Errors
/// What it is for can't be taken, the farm refuses, or it can't be asked.
pub(crate) async fn run(args: Args, setup: &Setup) -> Result<()> {
    let token = match args.create {
        true => {
            // Before anybody types it.
            covered_for_secrets(&setup.address)?;
            Some(token::read(&args.repository, args.token_file.as_deref()).await?)
        }
        false => None,
    };
    let (client, secret) = match &token {
        Some(_) => (Client::connect(&covered_for_secrets(&setup.address)?).await?, Zeroizing::default()),
        None => with_secret(args.secret_stdin, setup).await?,
    };
    let request = AddHookRequest {
        provider: args.provider,
        repository: args.repository,
        host: args.host.unwrap_or_default(),
        name: args.name.unwrap_or_default(),
        clone_url: args.clone_url.unwrap_or_default(),
        api_url: args.api_url.unwrap_or_default(),
        secret: secret.to_string(),
        publishes: args.publish.iter().map(ToString::to_string).collect(),
        no_sweep: args.no_sweep,
    };
    let added = client.hooks().add_hook(request).await.map_err(|status| client.error(&status))?.into_inner();
    let (hook, secret) = (added.hook.unwrap_or_default(), Zeroizing::new(added.secret));
    let mut out = Out::stdout();
    if args.json {
        let hook = HookJson::from(&hook);
        out.line(&json::text(&json!({ "project": added.project, "hook": hook, "secret": *secret })));
    } else {
        out.line(&format!("project {} has hook {} now", harmless(&added.project), harmless(&hook.name)));
        if let Some(token) = &token {
            let given = token::give(&client, &hook.name, (token, None), true).await;
            if given.is_err() {
                let name = harmless(&hook.name);
                Out::stderr().line(&format!(
                    "hook {name} is there; the rest once that is mended: farm hook token {name} --create"
                ));
            }
            given?;
        } else {
            tell(&mut out, &hook, &secret);
        }
    }
    warn(&hook);
    Ok(())
}

/// Gives a hook another secret, or ends the one before.
///
/// # Errors
/// As of [`run`].
pub(crate) async fn rotate(args: Rotate, setup: &Setup) -> Result<()> {
    let (client, secret) = with_secret(args.secret_stdin, setup).await?;
    let request =
        RotateHookRequest { name: args.name.clone(), finish: args.finish, secret: secret.to_string() };
    let done =
        client.hooks().rotate_hook(request).await.map_err(|status| client.error(&status))?.into_inner();
    let (hook, secret) = (done.hook.unwrap_or_default(), Zeroizing::new(done.secret));
    let (name, mut out) = (harmless(&hook.name), Out::stdout());
    if args.finish {
        let ended =
            if done.is_ended { "the older secret counts no more" } else { "there is one secret only" };
        out.line(&format!("hook {name}: {ended}"));
    } else if args.json {
        let hook = HookJson::from(&hook);
        out.line(&json::text(&json!({ "project": done.project, "hook": hook, "secret": *secret })));
    } else {
        out.line(&format!(
            "hook {name} has another secret; the one before counts until a day after the new one was used"
        ));
        tell(&mut out, &hook, &secret);
    }
    Ok(())
}

/// The farm, and the secret that was brought; it goes over TLS only.
async fn with_secret(from_stdin: bool, setup: &Setup) -> Result<(Client, Zeroizing<String>)> {
    if !from_stdin {
        return Ok((Client::connect(&setup.address).await?, Zeroizing::default()));
    }
    let address = covered_for_secrets(&setup.address)?;
    let invalid = |cure: &str| Invalid::new("--secret-stdin", "", cure);
    let mut text = Zeroizing::new(String::new());
    let read = std::io::stdin().lock().take(LONGEST + 3).read_to_string(&mut text);
    read.map_err(|error| invalid(&format!("standard input can't be read as text: {error}")))?;
    let secret = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
    if secret.is_empty() {
        return Err(
            invalid("it is empty; give a secret, or leave the flag out and the farm makes one").into()
        );
    }
    Ok((Client::connect(&address).await?, secret))
}

fn tell(out: &mut Out, hook: &Hook, secret: &str) {
    out.line(&format!("  url     {}", harmless(&hook.url)));
    out.line(&format!("  secret  {}", harmless(secret)));
    for line in paste(hook, secret) {
        out.line(&format!("  {line}"));
    }
}

/// Says what a forge can't reach.
fn warn(hook: &Hook) {
    if hook.url.starts_with('/') {
        Out::stderr().line(
            "warning: the farm doesn't say where forges reach it: start a coordinator with --hooks-listen ADDRESS (and --hooks-url URL), and \
             put that before the path",
        );
    }
}
